package room_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

const untoldAlice = id.User("@alice:elsewhere.example")

// gap has the guest join, and come into events by charlie, one of which comes after nothing else, and by
// alice, who has joined since, behind a gap at which nobody tells the state.
func (g *guest) gap() (charlie, alone, alice, last *event.PDU) {
	g.t.Helper()
	joined := g.join(guestBob)
	g.rests()
	came := g.member(untoldAlice, "join", joined)
	between := g.sayAs(untoldAlice, "I have come", came.ID)
	beside := g.say("beside", joined)
	charlie = g.sayAs(remoteCharlie, "Hi", between.ID, beside.ID)
	alone = g.sayAs(remoteCharlie, "anybody there?", between.ID)
	alice = g.sayAs(untoldAlice, "Hello", between.ID, beside.ID)
	last = g.say("last", charlie.ID, alone.ID, alice.ID)
	for _, hidden := range []*event.PDU{came, between} {
		g.hides[hidden.ID] = true
	}
	g.unsure = map[id.Event]bool{}
	for name := range g.events {
		if name != joined && !g.isBefore(name, joined) {
			g.unsure[name] = true
		}
	}
	g.receive(last)
	close(g.told)
	for round := 0; ; round++ {
		whole, err := g.e.CompleteState(g.t.Context(), g.room)
		g.must(err)
		if whole {
			return charlie, alone, alice, last
		}
		if round == 10 {
			g.t.Fatal("the state does not become whole")
		}
	}
}

// isBefore says whether an event comes before another, by the prev_events.
func (g *guest) isBefore(name, after id.Event) bool {
	for _, prev := range g.events[after].PrevEvents {
		if prev == name || g.isBefore(name, prev) {
			return true
		}
	}
	return false
}

// What rests on a state that nobody tells is not refused for good: it counts as soon as others tell more.
func TestWhatRestsOnAnUntoldStateIsNotRefused(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		charlie, alone, alice, last := g.gap()
		if !g.shows(charlie.ID) || !g.shows(alone.ID) || !g.shows(last.ID) {
			t.Error("what the state before the gap allows is not shown")
		}
		g.must(g.s.View(t.Context(), func(tx *store.Tx) error {
			row, ok, err := tx.Events.Know(alice.ID)
			if !ok || row.Flags.Refused() {
				t.Errorf("what only the state at the gap could allow is refused: %t, flags %d", ok, row.Flags)
			}
			return err
		}))
		g.unsure = nil
		news := g.sayAs(untoldAlice, "news", last.ID, alice.ID)
		g.receive(news)
		if !g.shows(news.ID) {
			t.Error("what the state after the gap allows is not shown")
		}
		g.wantState(news.ID)
	})
}

// Users here invite others, and other servers join, while what came last rests on a state that nobody tells.
func TestARoomIsUsedThoughItsNewestStateIsUntold(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		levels := fmt.Sprintf(`{"users":{%q:100},"invite":0}`, alice)
		if g.v.PrivilegedCreators {
			levels = `{"invite":0}`
		}
		g.local("m.room.power_levels", levels)
		g.learn()
		_, _, _, last := g.gap()
		ev, err := g.e.Send(t.Context(), g.room, message(guestBob, "here"))
		g.must(err)
		g.must(g.s.View(t.Context(), func(tx *store.Tx) error {
			row, _, err := tx.Events.Know(ev)
			if row.Flags&store.Guessed == 0 {
				t.Error("what is sent here is taken to rest on a state that is known")
			}
			return err
		}))
		// By what it was sent only this server knows.
		_, err = g.e.ServeState(t.Context(), elsewhere, g.room, ev)
		g.must(err)
		_, err = g.e.ServeState(t.Context(), elsewhere, g.room, last.ID)
		wantCode(t, err, "M_NOT_FOUND")
		g.must(g.e.Invite(t.Context(), room.Change{Room: g.room, Sender: guestBob, Target: "@bob:third.example"}))
		join := g.member("@alice:third.example", "join", last.ID)
		_, err = g.e.SendJoin(t.Context(), room.HandIn{Origin: "third.example", Room: g.room, Event: join.ID, Raw: g.raw(join.ID)}, false)
		g.must(err)
		h, _, err := g.e.Head(t.Context(), g.room)
		g.must(err)
		for user, want := range map[id.User]string{"@bob:third.example": event.MembershipInvite, "@alice:third.example": event.MembershipJoin} {
			g.must(g.s.View(t.Context(), func(tx *store.Tx) error {
				ev, ok, err := g.e.StateEvent(tx, h, event.StateTuple{Type: event.TypeMember, Key: string(user)})
				if err == nil && (!ok || ev.PDU.Membership() != want) {
					t.Errorf("%s is not %s", user, want)
				}
				return err
			}))
		}
	})
}

// An auth event that is missing in the history is judged by the state that it met before anything rests
// on it: all who have its history refuse what they must refuse it for.
func TestAnAuthEventThatTheHistoryLacksIsJudgedByItsState(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		came := g.events[g.newest()]
		g.must(g.peer.e.Kick(t.Context(), room.Change{Room: g.room, Sender: alice, Target: remoteBob}))
		g.learn()
		joined := g.join(guestBob)
		g.rests()
		// Bob's server knows that he was kicked, but not what that means.
		proto := g.proto(remoteBob, event.TypeMember, ptr(string(remoteBob)), `{"membership":"leave"}`, came.ID)
		proto.PrevEvents, proto.Depth = []event.Ref{g.events[joined].Ref()}, g.events[joined].Depth+1
		leave := g.made(proto)
		behind := g.say("behind", leave.ID)
		last := g.say("last", behind.ID)
		aside := g.say("aside", joined) // meets the state that others say that behind meets
		g.states = func(_ id.Server, at id.Event) (id.Event, error) {
			switch at {
			case leave.ID:
				return at, errcode.NotFound("nobody has it, for now")
			case behind.ID:
				return aside.ID, nil
			}
			return at, nil
		}
		delete(g.events, leave.ID) // which nobody has, for now
		g.receive(last)
		close(g.told)
		if whole, err := g.e.CompleteState(t.Context(), g.room); err != nil || !whole {
			t.Fatalf("the state is whole: %t, %v", whole, err)
		}
		if !g.shows(behind.ID) || !g.shows(last.ID) {
			t.Fatal("what was said behind the gap is not shown")
		}
		g.events[leave.ID] = leave
		again := g.member(remoteBob, "join", last.ID)
		g.receive(again)
		for _, ev := range []*event.PDU{leave, again} {
			g.must(g.s.View(t.Context(), func(tx *store.Tx) error {
				row, ok, err := tx.Events.Know(ev.ID)
				if !ok || row.Flags&store.Rejected == 0 {
					t.Errorf("bob's %s is known: %t, and its flags are %d", ev.Membership(), ok, row.Flags)
				}
				return err
			}))
		}
	})
}

// SendInvite signs nothing: what the peers of a test sign is not looked at.
func (g *guest) SendInvite(_ context.Context, _ id.Server, invite *event.PDU, _ jsontext.Value) (jsontext.Value, error) {
	return invite.JSON, nil
}
