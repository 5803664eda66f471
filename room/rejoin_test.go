package room_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store/storetest"
)

// Whoever left a room before its state was whole, and missed something since, begins anew: nothing
// rests on what was judged by the state of the earlier time, and what was said then can be read.
func TestWhoMissedSomethingOfARoomWithAPartialStateBeginsAnew(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		first := g.join(guestBob)
		said := g.build(remoteCharlie, "m.room.message", nil, fmt.Sprintf(`{"body":"in the earlier time","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, first), first)
		g.receive(said)
		g.deliver(said)
		leave := g.leave(guestBob)
		g.deliver(leave)
		missed := g.say("missed", leave.ID)
		g.deliver(missed)
		again := g.join(guestBob)
		h, _, err := g.e.Head(t.Context(), g.room)
		g.must(err)
		if all := timeline(t, g.s, g.e, g.room); all[len(all)-1].NID != h.Partial.Join {
			t.Errorf("the state lacks members since %d, not since the second join", h.Partial.Join)
		}
		// Nobody can tell who may read what was said then. It leads others on to what was before it.
		raw, err := g.e.ServeEvent(t.Context(), elsewhere, said.ID)
		if err != nil || strings.Contains(string(raw), "earlier") || !strings.Contains(string(raw), string(first)) {
			t.Errorf("others are shown %s, %v", raw, err)
		}
		g.complete()
		g.wantState(again)
		body, err := g.e.ReadMessages(t.Context(), room.Reader{User: guestBob}, g.room, room.Page{Back: true, Limit: 50})
		g.must(err)
		for _, ev := range []*event.PDU{said, leave, missed} {
			if n := strings.Count(string(body), fmt.Sprintf(`"event_id":%q`, ev.ID)); n != 1 {
				t.Errorf("%s is there %d times", ev.Type, n)
			}
		}
		_, err = g.peer.e.Redact(t.Context(), g.room, room.Proposal{Sender: alice, Redacts: said.ID, Content: jsontext.Value(`{}`)})
		g.must(err)
		g.learn()
		g.receive(g.events[g.newest()])
		if shown, err := g.e.ReadEvent(t.Context(), room.Reader{User: guestBob}, g.room, said.ID); err != nil || strings.Contains(string(shown), "earlier") {
			t.Errorf("redacted, it is %s, %v", shown, err)
		}
	})
}

// What a user here did in a time that is given up may have been refused elsewhere, and with it
// whatever rests on it: so nothing does.
func TestNothingRestsOnAMembershipOfATimeThatIsGivenUp(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.join(guestBob)
		g.must(g.peer.e.Kick(t.Context(), room.Change{Room: g.room, Sender: alice, Target: guestBob})) // of which the guest does not hear
		g.learn()
		leave := g.leave(guestBob)
		g.join(guestAlice)
		g.join(guestBob)
		all := timeline(t, g.s, g.e, g.room)
		join := all[len(all)-1].PDU
		if join.Sender != guestBob || slices.Contains(join.AuthEvents, leave.ID) {
			t.Errorf("the join names %v, of which %s was given up", join.AuthEvents, leave.ID)
		}
		g.know(join)
		g.deliver(join)
		g.want(event.TypeMember, string(guestBob), `{"membership":"join"}`)
	})
}

// A server that tells a state which no other tells is not believed, if others could.
func TestOneServerAloneIsNotBelieved(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.local("m.room.name", `{"name":"n"}`)
	p.learn()
	hidden := p.member("@bob:elsewhere.example", "join", p.newest())
	p.deliver(hidden)
	p.deliver(p.member("@alice:third.example", "join", p.newest()))
	g := p.guest()
	g.conceals = map[id.Server]id.Event{elsewhere: hidden.ID}
	joined := g.join(guestBob)
	g.rests()
	close(g.told)
	for _, there := range []bool{false, true} {
		g.refuse[storetest.Server] = !there
		if whole, err := g.e.CompleteState(t.Context(), g.room); err != nil || whole != there {
			t.Errorf("the state is whole: %t, want %t, %v", whole, there, err)
		}
	}
	g.wantState(joined)
	if !slices.Contains(g.asked, "third.example") {
		t.Errorf("asked were %v", g.asked)
	}
}

// What nobody can tell for now about a gap since the join is waited for: an event is not rejected for good
// by half of the state before it.
func TestAStateAtAGapSinceThePartialJoinIsWaitedFor(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		joined := g.join(guestBob)
		g.rests()
		came := g.member("@alice:elsewhere.example", "join", joined)
		between := g.sayAs("@alice:elsewhere.example", "I have come", came.ID)
		said := g.sayAs("@alice:elsewhere.example", "Hello", between.ID, g.say("beside", joined).ID)
		g.hides[between.ID], g.unsure = true, map[id.Event]bool{between.ID: true, said.ID: true}
		last := g.say("last", said.ID)
		g.receive(came, last)
		close(g.told)
		for _, there := range []bool{false, true} {
			if there {
				g.unsure = nil
			}
			if whole, err := g.e.CompleteState(t.Context(), g.room); err != nil || whole != there {
				t.Fatalf("the state is whole: %t, want %t, %v", whole, there, err)
			}
		}
		if !g.shows(said.ID) {
			t.Error("what was said after the gap is not shown")
		}
		g.wantState(last.ID)
	})
}

// Where nobody can tell the state at a gap since the join, but somebody has the events, it is worked out
// from them.
func TestAStateAtAGapSinceThePartialJoinIsWorkedOut(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		joined := g.join(guestBob)
		g.rests()
		came := g.member("@alice:elsewhere.example", "join", joined)
		rename := g.build("@alice:elsewhere.example", event.TypeMember, ptr("@alice:elsewhere.example"), `{"membership":"join","displayname":"A."}`, came.ID)
		said := g.sayAs("@alice:elsewhere.example", "Hello", rename.ID, g.say("beside", joined).ID)
		last := g.say("last", said.ID)
		g.hides[rename.ID], g.unsure = true, map[id.Event]bool{rename.ID: true, said.ID: true}
		g.receive(came, last)
		close(g.told)
		if whole, err := g.e.CompleteState(t.Context(), g.room); err != nil || !whole {
			t.Fatalf("the state is whole: %t, %v", whole, err)
		}
		if !g.shows(said.ID) {
			t.Error("what was said after the gap is not shown")
		}
		g.wantState(last.ID)
	})
}

// Whoever left a room comes back by way of the servers that were in it then: clients know none to name,
// and the id of a room of version 12 names none either.
func TestWhoLeftComesBackThroughTheServersInTheRoom(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		for what, test := range map[string]struct {
			via  []id.Server
			want []id.Server // to be asked
			code string
		}{
			"without naming a server":                       {nil, []id.Server{elsewhere, storetest.Server}, ""},
			"naming one that cannot be reached":             {[]id.Server{"gone.example"}, []id.Server{"gone.example", elsewhere, storetest.Server}, ""},
			"but not if the server that they named refuses": {[]id.Server{"no.example"}, []id.Server{"no.example"}, "M_FORBIDDEN"},
		} {
			for _, rule := range []string{"public", "knock"} {
				t.Run(fmt.Sprintf("version %s, %s, by join rule %s", version, what, rule), func(t *testing.T) {
					p := newPeer(t, storetest.Open(t, nil), version)
					p.deliver(p.member(remoteBob, "join", p.newest()))
					g := p.guest()
					g.join(guestBob)
					g.deliver(g.leave(guestBob))
					p.local(event.TypeJoinRules, fmt.Sprintf(`{"join_rule":%q}`, rule))
					var asked []id.Server
					g.slowly(func(_ context.Context, what string, server id.Server) error {
						if what == "make" {
							asked = append(asked, server)
						}
						switch server {
						case "gone.example", elsewhere:
							return errors.New("there is nobody")
						case "no.example":
							return errcode.Forbidden("no")
						}
						return nil
					})
					enter, want := g.e.Join, `{"membership":"join"}`
					if rule == "knock" {
						enter, want = g.e.Knock, `{"membership":"knock"}`
					}
					err := enter(t.Context(), room.Change{Room: g.room, Sender: guestBob, Via: test.via})
					if codeOf(err) != test.code || err != nil && test.code == "" {
						t.Error(err)
					}
					if !slices.Equal(asked, test.want) {
						t.Errorf("asked were %v, want %v", asked, test.want)
					}
					if test.code != "" {
						want = `{"membership":"leave"}`
					}
					g.want(event.TypeMember, string(guestBob), want)
				})
			}
		}
	}
}
