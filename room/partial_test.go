package room_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const (
	guestServer = id.Server("guest.example")
	guestBob    = id.User("@bob:guest.example")
	guestAlice  = id.User("@alice:guest.example")
)

// guest is a server that joins the room of a peer by way of the peer's engine, which
// leaves members out. States are told when the test lets them be told.
type guest struct {
	*peer
	e *room.Engine
	s *store.Store

	told   chan struct{} // closed: states are told
	refuse map[id.Server]bool
	asked  []id.Server
	// keeps are servers that keep the members back from the states that they tell.
	keeps map[id.Server]bool
	// conceals is an event that a server keeps back from the states that it tells.
	conceals map[id.Server]id.Event
	// unsure are events at which no server tells the state.
	unsure map[id.Event]bool
	// changes are what clients were told to look at; since is up to where alice has looked, who was what then.
	changes []stream.Change
	since   int64
	was     store.Membership
	// proposes alters the templates of joins, if it is there.
	proposes func(raw string) string
	// tells alters the state that goes with the answer to a knock, if it is there.
	tells func([]jsontext.Value) []jsontext.Value
	// whole: joins bring the whole state.
	whole bool
	stop  func()
}

func (p *peer) guest() *guest {
	p.t.Helper()
	g := &guest{peer: p, told: make(chan struct{}), refuse: map[id.Server]bool{}, keeps: map[id.Server]bool{}, stop: func() {}}
	var err error
	g.s, err = store.Open(p.t.Context(), store.Options{SQLite: filepath.Join(p.t.TempDir(), "guest.db"), Server: guestServer, Published: func(c stream.Commit) func() {
		g.mu.Lock()
		g.changes = append(g.changes, c.Changes...)
		g.mu.Unlock()
		return func() {}
	}})
	p.must(err)
	g.start()
	p.t.Cleanup(func() {
		g.stop()
		storetest.Check(p.t, g.s)
		if err := g.s.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return g
}

// start makes an engine, as when the program starts, with its background work.
func (g *guest) start() {
	g.stop()
	g.e = room.New(g.s, room.Options{
		Server: guestServer, KeyID: "ed25519:1", Key: g.key, Network: g, TempDir: g.t.TempDir(),
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.e.CompleteStates(ctx) }()
	g.stop = func() {
		cancel()
		if err := <-done; err != nil {
			g.t.Error(err)
		}
	}
}

// rests has the engine do no more background work.
func (g *guest) rests() {
	g.stop()
	g.stop = func() {}
}

func (g *guest) MakeMembership(ctx context.Context, _ id.Server, m store.Membership, r id.Room, u id.User, versions []string) (room.Template, error) {
	a := room.Approach{Origin: guestServer, Room: r, User: u, Versions: versions}
	switch m {
	case store.Leave:
		return g.peer.e.MakeLeave(ctx, a)
	case store.Knock:
		return g.peer.e.MakeKnock(ctx, a)
	}
	t, err := g.peer.e.MakeJoin(ctx, a)
	if g.proposes != nil {
		t.Event = jsontext.Value(g.proposes(string(t.Event)))
	}
	return t, err
}

func (g *guest) SendJoin(ctx context.Context, _ id.Server, join *event.PDU, omit bool, each func(room.StatePart, jsontext.Value) error) (a room.JoinAnswer, err error) {
	w, err := g.peer.e.SendJoin(ctx, room.HandIn{Origin: guestServer, Room: join.Room, Event: join.ID, Raw: event.AppendFederation(nil, join, nil)}, omit && !g.whole)
	if err != nil {
		return a, err
	}
	g.learn()
	a = room.JoinAnswer{Event: w.Event, MembersOmitted: w.MembersOmitted, ServersInRoom: w.Servers}
	for part, list := range map[room.StatePart]room.EventList{room.InState: w.State, room.InAuthChain: w.AuthChain} {
		if err := list.Each(ctx, func(raw jsontext.Value) error { return each(part, raw) }); err != nil {
			return a, err
		}
	}
	return a, nil
}

func (g *guest) SendKnock(ctx context.Context, _ id.Server, knock *event.PDU) (jsontext.Value, error) {
	state, err := g.peer.e.SendKnock(ctx, room.HandIn{Origin: guestServer, Room: knock.Room, Event: knock.ID, Raw: event.AppendFederation(nil, knock, nil)})
	if err != nil {
		return nil, err
	}
	if g.tells != nil {
		state = g.tells(state)
	}
	return json.Marshal(state)
}

func (g *guest) SendLeave(ctx context.Context, _ id.Server, leave *event.PDU) error {
	return g.peer.e.SendLeave(ctx, room.HandIn{Origin: guestServer, Room: leave.Room, Event: leave.ID, Raw: event.AppendFederation(nil, leave, nil)})
}

func (g *guest) GetRoomStateIDs(ctx context.Context, from id.Server, r id.Room, at id.Event) (state, chain []id.Event, err error) {
	g.mu.Lock()
	g.asked = append(g.asked, from)
	refused, keeps := g.refuse[from], g.keeps[from]
	g.mu.Unlock()
	if refused {
		return nil, nil, errcode.Forbidden("you are not in the room")
	}
	if g.unsure[at] {
		return nil, nil, errcode.NotFound("the state there is not known here")
	}
	select {
	case <-g.told:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	state, chain, err = g.peer.GetRoomStateIDs(ctx, from, r, at)
	return slices.DeleteFunc(state, func(name id.Event) bool {
		return keeps && g.events[name].Type == event.TypeMember || name == g.conceals[from]
	}), chain, err
}

func (g *guest) join(u id.User) id.Event {
	g.t.Helper()
	g.must(g.e.Join(g.t.Context(), room.Change{Room: g.room, Sender: u, Via: []id.Server{storetest.Server}}))
	all := timeline(g.t, g.s, g.e, g.room)
	return all[len(all)-1].ID
}

// leave is how a user of the guest's leaves, of which the peer does not hear by that.
func (g *guest) leave(u id.User) *event.PDU {
	g.t.Helper()
	g.must(g.e.Leave(g.t.Context(), room.Change{Room: g.room, Sender: u}))
	all := timeline(g.t, g.s, g.e, g.room)
	leave := all[len(all)-1].PDU
	g.know(leave)
	return leave
}

// receive hands events over and says which of them are in the timeline then.
func (g *guest) receive(pdus ...*event.PDU) {
	g.t.Helper()
	var raws []jsontext.Value
	for _, p := range pdus {
		raws = append(raws, g.raw(p.ID))
	}
	for name, err := range g.e.Receive(g.t.Context(), elsewhere, g.room, raws) {
		if err != nil {
			g.t.Logf("%s: %v", name, err)
		}
	}
}

func (g *guest) shows(name id.Event) bool {
	_, err := g.e.ReadEvent(g.t.Context(), room.Reader{User: guestBob}, g.room, name)
	return err == nil
}

// complete lets the state be told and waits until the room has it.
func (g *guest) complete() {
	g.t.Helper()
	close(g.told)
	g.members()
}

func (g *guest) members() string {
	g.t.Helper()
	var body strings.Builder
	g.must(g.e.ReadJoinedMembers(g.t.Context(), room.Reader{User: guestBob}, g.room, &body))
	return body.String()
}

// wantState wants the state after an event to be what the peer says.
func (g *guest) wantState(after id.Event) {
	g.t.Helper()
	h, _, err := g.e.Head(g.t.Context(), g.room)
	g.must(err)
	got := map[event.StateTuple]id.Event{}
	g.must(g.s.View(g.t.Context(), func(tx *store.Tx) (err error) {
		h.State.All(func(key store.StateKey, nid store.EventNID) bool {
			var tuple event.StateTuple
			if tuple, err = tx.IDs.StateTuple(key); err != nil {
				return false
			}
			events, e := g.e.Events(tx, []store.EventNID{nid})
			if err = e; err != nil {
				return false
			}
			got[tuple] = events[0].ID
			return true
		})
		return err
	}))
	want := map[event.StateTuple]id.Event{}
	for tuple, p := range g.after[after] {
		want[tuple] = p.ID
	}
	if !maps.Equal(got, want) {
		g.t.Errorf("the state is %v, not %v", got, want)
	}
}

func eachPartial(t *testing.T, fn func(t *testing.T, g *guest)) {
	eachResolution(t, func(t *testing.T, p *peer) {
		// In a room with a name, no members are told for their names.
		p.local("m.room.name", `{"name":"n"}`)
		p.learn()
		p.deliver(p.member("@bob:elsewhere.example", "join", p.newest()))
		fn(t, p.guest())
	})
}

func TestARoomIsUsedBeforeItsMembersAreKnown(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		joined := g.join(guestBob)
		h, _, err := g.e.Head(t.Context(), g.room)
		g.must(err)
		if h.Partial.Version == 0 {
			t.Fatal("the state is whole")
		}
		said := g.say("hello", joined)
		answer := g.set(remoteCharlie, "m.room.topic", `{"topic":"x"}`, said.ID)
		g.receive(said, answer)
		if !g.shows(said.ID) {
			t.Error("what a member said who was not known is not shown")
		}
		if _, err := g.e.Send(t.Context(), g.room, room.Proposal{Sender: guestBob, Type: "m.room.message", Content: jsontext.Value(`{"body":"here"}`)}); err != nil {
			t.Error(err)
		}
		for what, err := range map[string]error{
			"make_join":  second(g.e.MakeJoin(t.Context(), g.approach(remoteBob))),
			"make_knock": second(g.e.MakeKnock(t.Context(), g.approach(remoteBob))),
		} {
			var refused *errcode.Error
			if !errors.As(err, &refused) || refused.Status != 404 {
				t.Errorf("%s: %v", what, err)
			}
		}
		g.complete()
		if got := g.members(); strings.Count(got, `"@`) != 4 {
			t.Errorf("members are %s", got)
		}
		g.wantState(joined)
	})
}

func second[T any](_ T, err error) error { return err }

// The state that events met is made whole too, also on branches.
func TestBranchesSinceAPartialJoinAreJudgedAgain(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		joined := g.join(guestBob)
		left := g.say("left", joined)
		right := g.member("@alice:elsewhere.example", "join", joined)
		further := g.build("@alice:elsewhere.example", "m.room.message", nil, `{"body":"right"}`, right.ID)
		g.receive(left, right, further)
		both := g.say("both", left.ID, further.ID)
		g.receive(both)
		g.complete()
		g.wantState(both.ID)
		for _, ev := range []*event.PDU{left, right, further, both} {
			state, err := g.e.ServeState(t.Context(), guestServer, g.room, ev.ID)
			g.must(err)
			names, err := state.State.IDs(t.Context())
			g.must(err)
			want := map[id.Event]bool{}
			for _, p := range g.before(ev.ID) {
				want[p.ID] = true
			}
			for _, name := range names {
				if !want[name] {
					t.Errorf("%s met %s", ev.ID, name)
				}
			}
			if len(names) != len(want) {
				t.Errorf("%s met %d entries, not %d", ev.ID, len(names), len(want))
			}
		}
	})
}

// Somebody who left claims to be in the room by naming an old join. They are found out
// when the state is whole, and what hung on it is put right.
func TestWhatAPartialStateLetInIsTakenOut(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		const mallory, victim = id.User("@alice:elsewhere.example"), id.User("@bob:elsewhere.example")
		levels := fmt.Sprintf(`{"users":{%q:100,%q:90,%q:50}}`, alice, mallory, victim)
		if p.v.PrivilegedCreators {
			levels = fmt.Sprintf(`{"users":{%q:90,%q:50}}`, mallory, victim)
		}
		p.local("m.room.power_levels", levels)
		p.local("m.room.name", `{"name":"n"}`)
		p.learn()
		in := p.member(mallory, "join", p.newest())
		p.deliver(in)
		p.deliver(p.member(mallory, "leave", in.ID))
		p.deliver(p.member(victim, "join", p.newest()))
		g := p.guest()
		joined := g.join(guestBob)

		// What mallory believes of the state: they are still in the room.
		truth := g.after[joined]
		g.after[joined] = maps.Clone(truth)
		g.after[joined][in.Tuple()] = in
		kick := g.build(mallory, event.TypeMember, ptr(string(victim)), `{"membership":"leave"}`, joined)
		g.after[kick.ID] = truth
		g.after[joined] = truth
		topic := g.set(victim, "m.room.topic", `{"topic":"I am in"}`, kick.ID)
		charlie := g.say("witness", topic.ID)
		g.receive(kick, topic, charlie)
		if !g.shows(kick.ID) || g.shows(topic.ID) || !g.shows(charlie.ID) {
			t.Fatalf("before: kick %t, topic %t, message %t", g.shows(kick.ID), g.shows(topic.ID), g.shows(charlie.ID))
		}
		g.complete()
		if g.shows(kick.ID) || !g.shows(topic.ID) || !g.shows(charlie.ID) {
			t.Errorf("after: kick %t, topic %t, message %t", g.shows(kick.ID), g.shows(topic.ID), g.shows(charlie.ID))
		}
		g.wantState(charlie.ID)
		if !strings.Contains(g.members(), string(victim)) || strings.Contains(g.members(), string(mallory)) {
			t.Errorf("members are %s", g.members())
		}
	})
}

func TestMembersAreFetchedAfterARestart(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		joined := g.join(guestBob)
		g.start()
		g.receive(g.say("after the restart", joined))
		g.complete()
		g.wantState(joined)
	})
}

func TestMembersAreFetchedFromAnotherServer(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.refuse[storetest.Server] = true
		joined := g.join(guestBob)
		g.complete()
		g.wantState(joined)
		if !slices.Equal(g.asked[:2], []id.Server{storetest.Server, elsewhere}) {
			t.Errorf("asked were %v", g.asked)
		}
	})
}

// Who was told the state that the join met, and fetched what comes before it only as old history,
// knows the one and not the other.
func TestMembersAreFetchedAtTheJoinItself(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		before := g.newest()
		g.unsure = map[id.Event]bool{before: true}
		joined := g.join(guestBob)
		if !slices.Equal(g.events[joined].PrevEvents, []id.Event{before}) {
			t.Fatal("the join comes after something else")
		}
		g.complete()
		g.wantState(joined)
	})
}

// A server that tells a state without the members of most servers is not believed.
func TestAStateThatKeepsServersBackIsRefused(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.local("m.room.name", `{"name":"n"}`)
	p.learn()
	p.deliver(p.member("@bob:elsewhere.example", "join", p.newest()))
	g := p.guest()
	g.keeps[storetest.Server] = true
	joined := g.join(guestBob)
	g.complete()
	g.wantState(joined)
	if !slices.Equal(g.asked, []id.Server{storetest.Server, elsewhere}) {
		t.Errorf("asked were %v", g.asked)
	}
}

// Whoever else here joins does so by way of a server that knows whether they may.
func TestSomebodyElseJoinsARoomWithAPartialState(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.join(guestBob)
		second := g.join(guestAlice)
		g.complete()
		g.wantState(second)
	})
}

func TestWhoLeavesARoomWithAPartialStateCanJoinAgain(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.join(guestBob)
		g.must(g.e.Leave(t.Context(), room.Change{Room: g.room, Sender: guestBob}))
		all := timeline(t, g.s, g.e, g.room)
		leave := all[len(all)-1].PDU
		g.know(leave)
		g.peer.deliver(leave)
		again := g.join(guestBob)
		g.complete()
		g.wantState(again)
	})
}

func TestALargeStateIsStoredInTheOrderOfItsAuthEvents(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.local("m.room.name", `{"name":"n"}`)
	p.learn()
	last := p.newest()
	for i := range 300 {
		m := p.member(id.User(fmt.Sprintf("@member%d:elsewhere.example", i)), "join", last)
		p.deliver(m)
		last = m.ID
	}
	g := p.guest()
	joined := g.join(guestBob)
	g.complete()
	g.wantState(joined)
}

// The invite of who joins is a membership: it is no part of a state without members.
func TestWhoIsInvitedJoinsARoomWithAPartialState(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.local(event.TypeJoinRules, `{"join_rule":"invite"}`)
		levels := fmt.Sprintf(`{"users":{%q:100},"invite":0}`, alice)
		if g.v.PrivilegedCreators {
			levels = `{"invite":0}`
		}
		g.local("m.room.power_levels", levels)
		invite := g.build(remoteCharlie, event.TypeMember, ptr(string(guestBob)), `{"membership":"invite"}`, g.newest())
		g.deliver(invite)
		joined := g.join(guestBob)
		g.complete()
		g.wantState(joined)
	})
}

func TestSomebodyVouchesForWhoJoinsARoomWithAPartialState(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	space, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: "11", Preset: "public_chat"})
	p.must(err)
	p.local("m.room.name", `{"name":"n"}`)
	p.local(event.TypeJoinRules, fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, space))
	g := p.guest()
	p.room, space = space, p.room
	p.learn()
	p.deliver(p.member(guestBob, "join", p.newest()))
	p.room = space
	joined := g.join(guestBob)
	g.complete()
	g.wantState(joined)
}

// What is sent to a server that was not in the room yet can arrive after its join. It is
// old all the same: the state stays that of the join, which knew it.
func TestWhatComesBeforeAPartialJoinIsOldWhenItArrivesLater(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		const mallory = id.User("@alice:elsewhere.example")
		g.deliver(g.member(mallory, "join", g.newest()))
		said := g.build(mallory, "m.room.message", nil, `{"body":"said"}`, g.newest())
		g.deliver(said)
		topic := g.events[g.local("m.room.topic", `{"topic":"x"}`)]
		g.deliver(g.member(mallory, "leave", topic.ID))
		last := g.say("last", g.newest())
		g.deliver(last)
		joined := g.join(guestBob)
		g.receive(said, topic, last)
		g.complete()
		g.wantState(joined)
		h, _, err := g.e.Head(t.Context(), g.room)
		g.must(err)
		if len(h.Extremities) != 1 {
			t.Errorf("there are %d extremities", len(h.Extremities))
		}
		for _, ev := range []*event.PDU{said, topic, last} {
			if _, err := g.e.ServeState(t.Context(), guestServer, g.room, ev.ID); err != nil {
				t.Errorf("%s is not part of the history: %v", ev.Type, err)
			}
		}
	})
}

// Which servers are in a room was told to somebody who has left it: it is forgotten.
func TestARoomThatNobodyIsInAnyMoreHasNoServersThatWereTold(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.refuse[storetest.Server], g.refuse[elsewhere] = true, true
		g.join(guestBob)
		g.must(g.e.Leave(t.Context(), room.Change{Room: g.room, Sender: guestBob}))
		if whole, err := g.e.CompleteState(t.Context(), g.room); err != nil || !whole {
			t.Errorf("the state is whole: %t, %v", whole, err)
		}
	}) // the guest's store is checked in the end
}
