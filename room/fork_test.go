package room_test

import (
	"errors"
	"maps"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

const remoteDora = id.User("@dora:elsewhere.example")

// merge makes a message after several events that the peer sees a certain state after,
// which is for a test to know: the peer resolves nothing.
func (p *peer) merge(state entries, prev ...id.Event) *event.PDU {
	p.t.Helper()
	saved := map[id.Event]entries{}
	for _, name := range prev {
		saved[name], p.after[name] = p.after[name], state
	}
	pdu := p.say("merge", prev...)
	maps.Copy(p.after, saved)
	return pdu
}

// A membership that a merge took away is an event that others were authorised by. If these are
// in dispute again, so is it, though none of the states to resolve has it: it may come back.
// spec: rooms/v2#definitions (the auth difference)
func TestAMembershipThatNoBranchHasComesBack(t *testing.T) {
	for _, version := range []string{"2", "6", "11"} {
		t.Run("version "+version, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), version)
			users := `"users":{"@alice:localhost":100,"@charlie:elsewhere.example":100}`
			root := p.local("m.room.power_levels", `{"events":{"slot":0},`+users+`}`)

			closed := p.set(remoteCharlie, event.TypeJoinRules, `{"join_rule":"invite"}`, root)
			dora := p.member(remoteDora, "join", root)
			slot := p.set(remoteDora, "slot", `{"by":"dora"}`, dora.ID)
			state := maps.Clone(p.after[closed.ID])
			state[slot.Tuple()] = slot // authorised by dora's join, which does not stand
			first := p.merge(state, closed.ID, slot.ID)
			p.deliver(closed, dora, slot, first)
			p.want(event.TypeMember, string(remoteDora), "")
			p.want("slot", "", `{"by":"dora"}`)

			open := p.set(remoteCharlie, event.TypeJoinRules, `{"join_rule":"public"}`, first.ID)
			other := p.set(remoteCharlie, "slot", `{"by":"charlie"}`, first.ID)
			state = maps.Clone(p.after[open.ID])
			state[other.Tuple()], state[dora.Tuple()] = other, dora
			second := p.merge(state, open.ID, other.ID)
			said := p.build(remoteDora, "m.room.message", nil, `{"msgtype":"m.text","body":"still here"}`, second.ID)
			p.deliver(open, other, second, said)
			p.want(event.TypeMember, string(remoteDora), `{"membership":"join"}`)
			p.wantShown("merge", "merge", "still here")
		})
	}
}

// A branch from before a join can take it away as if it had never been. Whoever is out of the
// room that way may join again.
func TestWhoseJoinABranchTookAwayJoinsAgain(t *testing.T) {
	for _, version := range []string{"6", "11"} {
		t.Run("version "+version, func(t *testing.T) {
			g := newTangle(t, version, 1)
			before := g.heads
			e := g.witness(0)
			joined := g.heads[0]
			user := id.User("@alice:witness0.example")
			closed := g.set(g.admin, event.TypeJoinRules, `{"join_rule":"invite"}`, before...)
			for name, err := range e.Receive(t.Context(), elsewhere, g.room, []jsontext.Value{g.raw(closed.ID)}) {
				if err != nil {
					t.Fatal(name, err)
				}
			}
			if now := stateOf(t, g.s, e, g.room)[event.StateTuple{Type: event.TypeMember, Key: string(user)}]; now != nil {
				t.Fatalf("alice is still there: %s", g.describe(now))
			}
			merge := g.build(g.admin, "m.room.message", nil, `{"msgtype":"m.text","body":"merge"}`, joined, closed.ID)
			g.linear(g.set(g.admin, event.TypeJoinRules, `{"join_rule":"public"}`, merge.ID))
			g.must(e.Join(t.Context(), room.Change{Room: g.room, Sender: user, Via: []id.Server{elsewhere}}))
			if now := stateOf(t, g.s, e, g.room)[event.StateTuple{Type: event.TypeMember, Key: string(user)}]; now == nil || now.ID == joined {
				t.Errorf("alice is not there: %s", g.describe(now))
			}
		})
	}
}

// A refusal of an invite that no other server heard of holds as long as nobody here is in the
// room. Who joins it hears that the invite still stands.
func TestAnInviteThatWasRefusedInVainStandsInTheRoom(t *testing.T) {
	g := newTangle(t, "11", 1)
	e := g.witness(0)
	user, invited := id.User("@alice:witness0.example"), id.User("@bob:witness0.example")
	invite := g.build(g.admin, event.TypeMember, ptr(string(invited)), `{"membership":"invite"}`, g.heads...)
	g.linear(invite)
	for name, err := range e.Receive(t.Context(), elsewhere, g.room, []jsontext.Value{g.raw(invite.ID)}) {
		if err != nil {
			t.Fatal(name, err)
		}
	}
	g.must(e.Leave(t.Context(), room.Change{Room: g.room, Sender: user}))
	g.must(e.Leave(t.Context(), room.Change{Room: g.room, Sender: invited}))
	membership := func() (m store.Membership) {
		rooms, err := e.RoomsOf(t.Context(), invited, store.Invite)
		g.must(err)
		if len(rooms) > 0 {
			return store.Invite
		}
		return store.Leave
	}
	if m := membership(); m != store.Leave {
		t.Errorf("bob's membership is %v, having refused the invite", m)
	}
	g.must(e.Join(t.Context(), room.Change{Room: g.room, Sender: user, Via: []id.Server{elsewhere}}))
	if m := membership(); m != store.Invite {
		t.Errorf("bob's membership is %v, where the room has him invited", m)
	}
}

// Of a state that another server tells, nothing may be left out because that server had some
// trouble meanwhile: the event waits, until the state is to be had or another event leads to it.
func TestAStateThatCouldNotBeFetchedIsNotTakenForWhole(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		start := p.newest()
		lost := p.say("lost", start)
		rename := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"membership":"join","displayname":"Charlie"}`, lost.ID)
		one := p.say("one", p.say("zero", rename.ID).ID)
		p.hides[lost.ID], p.hides[rename.ID] = true, true
		p.down = map[id.Event]bool{rename.ID: true}
		if err := p.send(one)[one.ID]; err != nil {
			t.Errorf("it is not refused: %v", err)
		}
		p.wantShown()
		p.down = nil
		p.deliver(p.say("two", one.ID))
		p.wantShown("zero", "one", "two")
		p.want(event.TypeMember, string(remoteCharlie), `{"displayname":"Charlie","membership":"join"}`)
	})
}

// What lies behind an event that was not accepted is part of the history all the same, and is
// fetched for who scrolls back.
func TestHistoryBehindASoftFailureIsFetched(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.member(remoteBob, "join", p.newest())
		p.deliver(root)
		hidden := p.say("hidden", root.ID)
		late := p.say("soft-failed", hidden.ID)
		last := p.build(remoteBob, "m.room.message", nil, `{"msgtype":"m.text","body":"last"}`, late.ID)
		p.must(p.e.Ban(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteCharlie}))
		p.hides[hidden.ID] = true
		p.deliver(last)
		p.wantShown("last")
		_, err := p.e.ReadMessages(t.Context(), room.Reader{User: alice}, p.room, room.Page{Back: true, Limit: 100})
		p.must(err)
		p.wantShown("hidden", "last")
	})
}

// Nobody lists an event that was rejected. Whoever has missed it asks for it by name, and for what is
// before it: so it judges by itself, and believes nobody's word of the state after it.
func TestARejectedEventIsAskedForByName(t *testing.T) {
	for _, listed := range []bool{false, true} {
		eachResolution(t, func(t *testing.T, p *peer) {
			bob := p.member(remoteBob, "join", p.newest())
			p.deliver(bob)
			before := p.say("before", bob.ID)
			topic := p.set(remoteBob, "m.room.topic", `{"topic":"not for Bob to say"}`, before.ID)
			p.refuses = map[id.Event]bool{topic.ID: true}
			// The other server is for it: its word of the state after the event is that it stands.
			last := p.sayAs(remoteBob, "after", topic.ID)
			shown := []string{"before", "after"}
			if listed {
				last, shown = p.say("last", last.ID), append(shown, "last")
			}
			p.deliver(last)
			p.wantShown(shown...)
			p.wantFlags(topic.ID, store.Rejected)
			p.want("m.room.topic", "", "")
			p.wantExtremities(last.ID)
		})
	}
}

// Nor does a rejected event end the history for who scrolls back.
func TestHistoryBehindARejectedEventIsFetched(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		older := p.say("older", p.newest())
		refused := p.sayAs(remoteBob, "said outside", older.ID)
		first := p.say("first", refused.ID)
		p.hides[older.ID], p.hides[refused.ID] = true, true
		p.deliver(p.say("second", first.ID))
		p.wantShown("first", "second")
		p.hides, p.refuses = nil, map[id.Event]bool{refused.ID: true}
		_, err := p.e.ReadMessages(t.Context(), room.Reader{User: alice}, p.room, room.Page{Back: true, Limit: 100})
		p.must(err)
		p.wantShown("older", "first", "second")
	})
}

// older is what bob said between a join and a leave, of which the server hears as older history.
func (p *peer) older() *event.PDU {
	p.t.Helper()
	came := p.member(remoteBob, "join", p.newest())
	older := p.sayAs(remoteBob, "older", came.ID)
	left := p.member(remoteBob, "leave", older.ID)
	first := p.say("first", left.ID)
	for _, hidden := range []*event.PDU{came, older, left} {
		p.hides[hidden.ID] = true
	}
	p.deliver(p.say("second", first.ID))
	p.hides = map[id.Event]bool{}
	_, err := p.e.ReadMessages(p.t.Context(), room.Reader{User: alice}, p.room, room.Page{Back: true, Limit: 100})
	p.must(err)
	return older
}

// Of older history the place is known, but not the state that it met: others are not told one, and
// what comes after it, on a branch, is not judged by the state from after it.
func TestTheStateOfOlderHistoryIsNotGuessed(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		older := p.older()
		p.wantShown("older", "first", "second")
		_, err := p.e.ServeState(t.Context(), elsewhere, p.room, older.ID)
		wantCode(t, err, "M_NOT_FOUND")
		branch := p.sayAs(remoteBob, "on a branch", older.ID)
		p.deliver(branch)
		p.wantFlags(branch.ID, store.SoftFailed) // bob was in the room there, and is not now
		_, err = p.e.ServeState(t.Context(), elsewhere, p.room, branch.ID)
		p.must(err)
		p.want(event.TypeMember, string(remoteBob), `{"membership":"leave"}`)
	})
}

// What is known of the state after older history is from after it. It decides only where nobody
// knows better, and not because nobody answers.
func TestABranchOfOlderHistoryIsJudgedByAGuessOnlyIfNobodyKnows(t *testing.T) {
	down := errors.New("no route to host")
	unknown := errcode.NotFound("the state is not known here")
	eachResolution(t, func(t *testing.T, p *peer) {
		older := p.older()
		branch := p.sayAs(remoteBob, "on a branch", older.ID)
		told := func(is func(at id.Event) error) {
			p.states = func(_ id.Server, at id.Event) (id.Event, error) { return at, is(at) }
		}
		told(func(id.Event) error { return down })
		p.deliver(branch)
		p.wantUnknown(branch.ID)
		told(func(id.Event) error { return unknown })
		p.deliver(branch)
		p.wantUnknown(branch.ID) // bob is not in the room by what is known
		told(func(at id.Event) error {
			if at != branch.ID {
				return unknown
			}
			return nil
		})
		p.deliver(branch)
		p.wantFlags(branch.ID, store.SoftFailed)
		_, err := p.e.ServeState(t.Context(), elsewhere, p.room, branch.ID)
		p.must(err)

		told(func(id.Event) error { return unknown })
		guess := p.say("by a guess", older.ID)
		p.deliver(guess)
		p.wantFlags(guess.ID, 0)
		_, err = p.e.ServeState(t.Context(), elsewhere, p.room, guess.ID)
		wantCode(t, err, "M_NOT_FOUND")
		p.states = nil
		next := p.say("by the truth", guess.ID)
		p.deliver(next)
		_, err = p.e.ServeState(t.Context(), elsewhere, p.room, next.ID)
		p.must(err)
	})
}

// Where neither who made an event nor who handed it on knows the state before it, others are asked:
// any of them may lie, so two have to tell the same, or the others say that they do not know.
func TestOthersAreAskedForTheStateBefore(t *testing.T) {
	for name, tells := range map[string]map[id.Server]string{
		"two tell the same":              {"third.example": "the truth", "fourth.example": "the truth"},
		"one tells, the other knows not": {"third.example": "", "fourth.example": "the truth"},
		"one lies":                       {"third.example": "a lie", "fourth.example": "the truth", "fifth.example": "the truth"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), "11")
			for server := range tells {
				p.deliver(p.member(id.User("@charlie:"+server), "join", p.newest()))
			}
			before := p.newest()
			older := p.older()
			p.states = func(from id.Server, at id.Event) (id.Event, error) {
				switch tells[from] {
				case "the truth":
					return at, nil
				case "a lie":
					return before, nil
				}
				return "", errcode.NotFound("the state is not known here")
			}
			branch := p.sayAs(remoteBob, "on a branch", older.ID)
			p.deliver(branch)
			p.wantFlags(branch.ID, store.SoftFailed)
		})
	}
}

// What another server says of the state decides whether an event is accepted: so it is the
// event's own server that is asked, and not whoever hands the event on.
func TestTheMakerOfAnEventIsAskedForTheStateBefore(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		rename := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"membership":"join","displayname":"Charlie"}`, p.newest())
		zero := p.say("zero", rename.ID)
		one := p.say("one", zero.ID)
		p.hides[rename.ID], p.liar = true, "third.example"
		results := p.e.Receive(t.Context(), p.liar, p.room, []jsontext.Value{p.raw(one.ID)})
		p.must(results[one.ID])
		p.wantShown("zero", "one")
		p.want(event.TypeMember, string(remoteCharlie), `{"displayname":"Charlie","membership":"join"}`)
		// Where its own server does not help, nothing is believed of one that answers something else.
		again := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"membership":"join","displayname":"C."}`, one.ID)
		two := p.say("three", p.say("two", again.ID).ID)
		p.hides[again.ID], p.down = true, map[id.Event]bool{again.ID: true}
		p.must(p.e.Receive(t.Context(), p.liar, p.room, []jsontext.Value{p.raw(two.ID)})[two.ID])
		p.wantShown("zero", "one")
	})
}
