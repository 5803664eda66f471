// Package sim runs many servers in one process, over a network that loses, delays, repeats and
// reorders what it carries and falls apart into pieces, while servers restart and one of them is
// hostile. Users do at random what users do. In the end, when the network is whole again and all
// have told each other what they have, the honest servers must agree on the room: the same state,
// the same extremities, nothing that was acknowledged to a user missing, every store sound.
//
// The servers are room engines, each on a store of its own; above them are no accounts and no
// HTTP. One goroutine does one thing after the other on a virtual clock, all by one seed: a run
// with the same seed and the same code is the same.
//
//	go test ./test/sim                                        a few short runs
//	go test ./test/sim -run Long -sim.seconds 600             new seeds for so long
//	go test ./test/sim -run Long -sim.seed 17 -sim.version 6  one run again
//
// Start at World.Run. actions.go is what users do, hostile.go what the hostile server does,
// network.go what servers ask of each other, settle.go the end and what must hold then.
package sim

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
)

// World is all there is in a run.
type World struct {
	t       testing.TB
	ctx     context.Context
	rand    *rand.Rand
	version *roomversion.Version
	// postgres: the servers have PostgreSQL, not SQLite.
	postgres bool
	room     id.Room
	other    id.Room   // one more room, for events that appear in the wrong one
	servers  []*Server // the first hosts the room; the last is hostile
	// side is which piece of the network a server is in; nothing passes between pieces.
	side  map[id.Server]int
	calm  bool // the network works and nobody is hostile
	gone  bool // the hostile server is
	acked []ack
	// forged are events that no server may ever keep.
	forged map[id.Event]string
	log    []string
	// Tell is told of a run that failed what happened; nil: nobody is.
	Tell io.Writer
}

// ack is an event whose sender was told that it was sent.
type ack struct {
	event id.Event
	by    *Server
	at    time.Time
	// partial: by a state without all members. Once the server has them, it may have to take back
	// what it said.
	partial bool
}

// New makes servers, of which the last is hostile, with users of all but that in a room. With
// postgres, their databases are on the PostgreSQL server that HEARTH_TEST_POSTGRES names.
func New(t testing.TB, version string, seed uint64, honest int, postgres bool) *World {
	v, ok := roomversion.Get(version)
	if !ok {
		t.Fatalf("no room version %s", version)
	}
	w := &World{t: t, ctx: t.Context(), rand: rand.New(rand.NewPCG(seed, uint64(v.Number))), version: v, postgres: postgres,
		side: map[id.Server]int{}, forged: map[id.Event]string{}}
	for n := range honest {
		w.servers = append(w.servers, w.start(id.Server(fmt.Sprintf("s%d.example", n))))
	}
	w.servers = append(w.servers, w.start("hostile.example"))
	w.hostile().hostile = true
	w.calm = true
	founder := w.servers[0]
	for _, name := range []*id.Room{&w.other, &w.room} {
		var err error
		*name, err = founder.engine.Create(w.ctx, room.Creation{Creator: founder.user("alice"), Version: version, Preset: "public_chat",
			PowerLevels: []byte(`{"events":{"m.room.topic":0,"m.room.name":25},"invite":0,"kick":25,"ban":25}`)})
		w.must(err)
	}
	for _, s := range w.servers[1:] {
		w.must(s.engine.Join(w.ctx, room.Change{Room: w.other, Sender: s.user("alice"), Via: []id.Server{founder.Name}}))
		w.must(s.engine.Join(w.ctx, room.Change{Room: w.room, Sender: s.user("alice"), Via: []id.Server{founder.Name}}))
		w.drain()
	}
	if w.chance(2) { // the hostile server has some power
		w.grant(founder, founder.user("alice"), w.hostile().user("alice"), 50)
		w.drain()
	}
	for _, s := range w.servers {
		s.resident = time.Now()
	}
	w.calm = false
	return w
}

func (w *World) hostile() *Server { return w.servers[len(w.servers)-1] }

func (w *World) honest() []*Server { return w.servers[:len(w.servers)-1] }

func (w *World) server(name id.Server) *Server {
	for _, s := range w.servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

func (w *World) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// note keeps what happened, for who looks into a failed run.
func (w *World) note(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf("%s ", time.Now().Format("04:05.000"))+fmt.Sprintf(format, args...))
}

func (w *World) chance(of int) bool { return w.rand.IntN(of) == 0 }

func pick[T any](w *World, from ...T) T { return from[w.rand.IntN(len(from))] }

// Run lets so many things happen, heals the network and checks that all is well.
func (w *World) Run(steps int) {
	w.t.Helper()
	for range steps {
		w.step()
		time.Sleep(time.Duration(w.rand.IntN(200)) * time.Millisecond)
	}
	w.settle()
	w.check()
	if w.t.Failed() && w.Tell != nil {
		w.tell()
	}
	for _, s := range w.servers {
		w.must(s.store.Close())
	}
}

// tell says what happened, and what the honest servers think of each other's events.
func (w *World) tell() {
	for _, line := range w.log {
		fmt.Fprintln(w.Tell, line)
	}
	for _, s := range w.honest() {
		for _, p := range s.scene(w.room).timeline {
			fmt.Fprintf(w.Tell, "%s has %s depth %d after %v: %s %s\n", s.Name, describe(p), p.Depth, p.PrevEvents, p.Type, w.opinions(p.ID))
		}
		s.tellGaps()
	}
	w.tellStates()
}

// tellStates says before which events the states of honest servers differ.
func (w *World) tellStates() {
	list := w.honest()
	for _, p := range list[0].scene(w.room).timeline {
		states := make([]map[id.Event]bool, len(list))
		for i, s := range list {
			states[i] = s.stateBefore(p.ID)
		}
		for i, s := range list[1:] {
			if a, b := states[0], states[i+1]; a != nil && b != nil && !maps.Equal(a, b) {
				fmt.Fprintf(w.Tell, "before %s depth %d: %s has %v, %s has %v\n", p.ID, p.Depth, list[0].Name, without(a, b), s.Name, without(b, a))
			}
		}
	}
}

// stateBefore is the state that a server tells others to be that before an event; nil: it tells none.
func (s *Server) stateBefore(at id.Event) map[id.Event]bool {
	a, err := s.engine.ServeState(s.w.ctx, s.Name, s.w.room, at)
	if err != nil {
		return nil
	}
	names, err := a.State.IDs(s.w.ctx)
	s.w.must(err)
	state := map[id.Event]bool{}
	for _, name := range names {
		state[name] = true
	}
	return state
}

func without(a, b map[id.Event]bool) (rest []id.Event) {
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if !b[name] {
			rest = append(rest, name)
		}
	}
	return rest
}

// tellGaps says what a server knows to be missing in the history.
func (s *Server) tellGaps() {
	w := s.w
	h, ok, err := s.engine.Head(w.ctx, w.room)
	w.must(err)
	if !ok {
		return
	}
	w.must(s.store.View(w.ctx, func(tx *store.Tx) error {
		gaps, err := tx.Gaps.Down(h.NID, 0, 1<<60, 100)
		if err != nil {
			return err
		}
		for _, g := range gaps {
			missing, err := tx.Gaps.MissingAt(h.NID, g.Position, 100)
			if err != nil {
				return err
			}
			places, err := tx.Events.TimelineUp(h.NID, g.Position-1, g.Position, 1)
			if err != nil {
				return err
			}
			before := "an event that is gone"
			if len(places) > 0 {
				events, err := s.engine.Events(tx, []store.EventNID{places[0].NID})
				if err != nil {
					return err
				}
				before = string(events[0].ID)
			}
			fmt.Fprintf(w.Tell, "%s has a gap before %s: %v, room for %d\n", s.Name, before, missing, g.Next-g.Floor+1)
		}
		return nil
	}))
}

// opinions are the flags that the honest servers have on an event.
func (w *World) opinions(name id.Event) (all string) {
	for _, s := range w.honest() {
		w.must(s.store.View(w.ctx, func(tx *store.Tx) error {
			row, ok, err := tx.Events.Know(name)
			all += fmt.Sprintf(" %s:%t,%d", s.Name, ok, row.Flags)
			return err
		}))
	}
	return all
}

func (w *World) step() {
	switch n := w.rand.IntN(100); {
	case n < 40:
		w.act(pick(w, w.honest()...))
	case n < 84:
		if s := pick(w, w.servers...); s != w.hostile() {
			s.send(pick(w, w.servers...))
		}
	case n < 92:
		w.attack(pick(w, w.honest()...))
	case n < 96:
		if w.chance(2) {
			w.side = map[id.Server]int{}
			w.note("the network is whole")
			break
		}
		for _, s := range w.servers {
			w.side[s.Name] = w.rand.IntN(2)
		}
		w.note("the network falls apart: %v", w.side)
	case n < 97:
		pick(w, w.servers...).restart()
	case n < 99:
		pick(w, w.servers...).complete()
	default:
		w.drainSome()
	}
}

// drainSome lets servers reach each other for a while.
func (w *World) drainSome() {
	for range 3 {
		for _, s := range w.honest() {
			for _, to := range w.servers {
				s.send(to)
			}
		}
	}
}

// drain delivers all that is on its way.
func (w *World) drain() {
	for busy := true; busy; {
		busy = false
		for _, s := range w.servers {
			for _, to := range w.servers {
				busy = s.send(to) || busy
			}
		}
	}
}

func others(list []*Server, not *Server) []*Server {
	return slices.DeleteFunc(slices.Clone(list), func(s *Server) bool { return s == not })
}
