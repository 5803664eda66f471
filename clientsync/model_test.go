package clientsync_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"hearth/clientsync"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// mirror is a client that does what the spec tells clients to do with state,
// state_after and timeline.
type mirror struct {
	s       *server
	user    id.User
	since   string
	options []func(*clientsync.Request)
	rooms   map[id.Room]map[string]id.Event // state by type and key
	heard   map[id.Room][]id.Event          // timelines since the last gap
	gone    map[id.Room]bool
}

func (m *mirror) sync() answer {
	m.s.t.Helper()
	a := m.s.sync(m.user, m.since, m.options...)
	m.since = a.NextBatch
	for r, j := range a.Rooms.Join {
		m.apply(r, j)
		delete(m.gone, r)
	}
	for r, j := range a.Rooms.Leave {
		m.apply(r, j)
		if !m.gone[r] {
			m.left(r, a)
		}
		m.gone[r] = true
	}
	for r := range a.Rooms.Invite {
		delete(m.rooms, r) // what was known of it has to wait for a join
		m.gone[r] = true
	}
	return a
}

func (m *mirror) apply(r id.Room, j roomAnswer) {
	if m.rooms[r] == nil {
		m.rooms[r] = map[string]id.Event{}
	}
	take := func(list []clientEvent) {
		for _, e := range list {
			if e.StateKey != nil {
				m.rooms[r][e.Type+" "+*e.StateKey] = e.ID
			}
		}
	}
	if j.StateAfter != nil {
		take(j.StateAfter.Events)
	} else {
		if j.State != nil {
			take(j.State.Events)
		}
		take(j.Timeline.Events)
	}
	if j.Timeline.Limited {
		m.heard[r] = nil
	}
	for _, e := range j.Timeline.Events {
		m.heard[r] = append(m.heard[r], e.ID)
	}
}

// left compares what is known of a room that ended with what was there to be known.
func (m *mirror) left(r id.Room, a answer) {
	m.s.t.Helper()
	if want := m.s.actual(r, m.user); !maps.Equal(m.rooms[r], want) {
		m.s.t.Fatalf("state of %s, which was left, differs\nhas  %v\nwant %v\n%s", r, m.rooms[r], want, a.raw)
	}
}

// actual is the state of a room that the user may know, as the store has it.
func (s *server) actual(r id.Room, u id.User) map[string]id.Event {
	state := map[string]id.Event{}
	s.view(func(tx *store.Tx) error {
		row, _, err := tx.Rooms.Get(r)
		if err != nil {
			return err
		}
		view, err := s.rooms.View(tx, row, s.nid(u))
		if err != nil {
			return err
		}
		version := row.StateVersion
		if view.Member.Membership != store.Join {
			version, _ = view.LastLeft()
		}
		all, err := tx.State.All(row.NID, version)
		if err != nil {
			return err
		}
		for _, e := range all {
			tuple, err := tx.IDs.StateTuple(e.Key)
			if err != nil {
				return err
			}
			ev, _, err := tx.Events.Get(e.Event)
			if err != nil {
				return err
			}
			state[tuple.Type+" "+tuple.Key] = ev.ID
		}
		own, _, err := tx.Events.Get(view.Member.Event) // also where they left before they were banned
		state["m.room.member "+string(u)] = own.ID
		return err
	})
	return state
}

// Whatever happens between two syncs, a client that follows them arrives at the
// state that the server has, and hears each event once.
func TestClientArrivesAtTheServersState(t *testing.T) {
	for name, options := range map[string][]func(*clientsync.Request){
		"state":                {withFilter(`{"room":{"timeline":{"limit":4}}}`)},
		"state_after":          {withFilter(`{"room":{"timeline":{"limit":4}}}`), stateAfter},
		"messages only":        {withFilter(`{"room":{"timeline":{"limit":2,"types":["m.room.message"]}}}`)},
		"messages only, after": {withFilter(`{"room":{"timeline":{"limit":2,"types":["m.room.message"]}}}`), stateAfter},
		"no timeline":          {withFilter(`{"room":{"timeline":{"limit":0}}}`)},
	} {
		for _, memory := range []string{"remembered", "from the store"} {
			t.Run(name+"/"+memory, func(t *testing.T) {
				seed := rand.Uint64()
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("seed %d", seed)
					}
				})
				random := rand.New(rand.NewPCG(seed, 1))
				s := newServer(t)
				m := &mirror{s: s, user: bob, options: options, rooms: map[id.Room]map[string]id.Event{}, heard: map[id.Room][]id.Event{}, gone: map[id.Room]bool{}}
				rooms := []id.Room{s.publicRoom(alice), s.publicRoom(alice)}
				m.sync()
				for step := range 60 {
					s.happen(random, rooms[random.IntN(len(rooms))], step)
					if random.IntN(4) > 0 {
						continue
					}
					if memory == "from the store" {
						s.restart()
					}
					a := m.sync()
					for r, got := range m.rooms {
						if want := s.actual(r, bob); !m.gone[r] && !maps.Equal(got, want) {
							t.Fatalf("step %d: state of %s differs\nhas  %v\nwant %v\n%s", step, r, got, want, a.raw)
						}
						seen := map[id.Event]bool{}
						for _, e := range m.heard[r] {
							if seen[e] {
								t.Fatalf("step %d: %s came twice\n%s", step, e, a.raw)
							}
							seen[e] = true
						}
					}
				}
			})
		}
	}
}

// happen lets something happen in a room. What the rules forbid does not.
func (s *server) happen(random *rand.Rand, r id.Room, step int) {
	ctx := context.Background()
	user := []id.User{alice, bob, charlie}[random.IntN(3)]
	change := room.Change{Room: r, Sender: user}
	by := room.Change{Room: r, Sender: alice, Target: []id.User{bob, charlie}[random.IntN(2)]}
	switch random.IntN(12) {
	case 0, 1, 2:
		s.say(r, alice, fmt.Sprint(step))
	case 3:
		s.name(r, alice, fmt.Sprint(step))
	case 4:
		s.set(r, alice, "m.room.topic", "", fmt.Sprintf(`{"topic":"%d"}`, step))
	case 5, 6, 7:
		_ = s.rooms.Join(ctx, change)
	case 8:
		if user != alice {
			_ = s.rooms.Leave(ctx, change)
		}
	case 9:
		_ = s.rooms.Kick(ctx, by)
	case 10:
		_ = s.rooms.Invite(ctx, by)
	case 11:
		if random.IntN(2) == 0 {
			_ = s.rooms.Ban(ctx, by)
		} else {
			_ = s.rooms.Unban(ctx, by)
		}
	}
}
