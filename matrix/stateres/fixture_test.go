package stateres

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// state is a room's state by names.
type state map[event.StateTuple]id.Event

// testRoom is a room whose events are made by hand; ids are names, not hashes.
type testRoom struct {
	t        testing.TB
	version  *roomversion.Version
	graph    *Graph
	events   []*event.PDU // by Index
	at       map[id.Event]Index
	keys     map[event.StateTuple]Key
	rejected map[id.Event]bool
}

func newTestRoom(t testing.TB, version string) *testRoom {
	v, ok := roomversion.Get(version)
	if !ok {
		t.Fatalf("no room version %s", version)
	}
	return &testRoom{t: t, version: v, graph: &Graph{}, at: map[id.Event]Index{}, keys: map[event.StateTuple]Key{}, rejected: map[id.Event]bool{}}
}

func (r *testRoom) room() id.Room {
	if r.version.RoomIDIsCreateEventID {
		return "!create"
	}
	return "!room:a"
}

func (r *testRoom) key(t event.StateTuple) Key {
	k, ok := r.keys[t]
	if !ok {
		k = Key(len(r.keys))
		r.keys[t] = k
	}
	return k
}

// add makes a state event whose auth events are the needed ones of a state.
func (r *testRoom) add(ev *event.PDU, before state) *event.PDU {
	for _, t := range authrules.Needed(r.version, authrules.DraftOf(ev)) {
		if a, ok := before[t]; ok {
			ev.AuthEvents = append(ev.AuthEvents, a)
		}
	}
	return r.insert(ev)
}

func (r *testRoom) insert(ev *event.PDU) *event.PDU {
	ev.Version, ev.Room = r.version, r.room()
	n := Node{NID: int64(len(r.events)) + 1, Key: r.key(ev.Tuple()), Kind: KindOf(ev.Tuple()), Rejected: r.rejected[ev.ID]}
	for _, a := range ev.AuthEvents {
		n.Auth = append(n.Auth, r.at[a])
	}
	i, err := r.graph.Append(n)
	if err != nil {
		r.t.Fatal(err)
	}
	r.events = append(r.events, ev)
	r.at[ev.ID] = i
	return ev
}

func (r *testRoom) event(i id.Event) *event.PDU { return r.events[r.at[i]] }

func (r *testRoom) set(s state) Set {
	var list []Index
	for _, i := range s {
		list = append(list, r.at[i])
	}
	set, err := r.graph.NewSet(list)
	if err != nil {
		r.t.Fatal(err)
	}
	return set
}

func (r *testRoom) state(s Set) state {
	out := state{}
	for _, i := range s {
		out[r.events[i].Tuple()] = r.events[i].ID
	}
	return out
}

// resolve does what a caller does.
func (r *testRoom) resolve(states ...state) (state, error) {
	var sets []Set
	for _, s := range states {
		sets = append(sets, r.set(s))
	}
	c, err := Find(r.version, r.graph, sets)
	if err != nil {
		return nil, err
	}
	var loaded []*event.PDU
	for _, i := range c.Events() {
		loaded = append(loaded, r.events[i])
	}
	lookups, err := c.Lookups(loaded)
	if err != nil {
		return nil, err
	}
	entries := map[event.StateTuple]*event.PDU{}
	for _, t := range lookups {
		if i, ok := r.graph.Find(c.Unconflicted(), r.key(t)); ok {
			entries[t] = r.events[i]
		}
	}
	res, err := c.Resolve(loaded, entries)
	if err != nil {
		return nil, err
	}
	return r.state(res.State()), nil
}

func (r *testRoom) mustResolve(states ...state) state {
	r.t.Helper()
	s, err := r.resolve(states...)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// after is the state with an event.
func (s state) after(ev *event.PDU) state {
	out := maps.Clone(s)
	if out == nil {
		out = state{}
	}
	out[ev.Tuple()] = ev.ID
	return out
}

// check judges an event by a state.
func (r *testRoom) check(ev *event.PDU, before state) error {
	var s authrules.State
	for _, i := range before {
		s.Set(r.event(i))
	}
	return authrules.Check(ev, s)
}

func (r *testRoom) String() string {
	var b strings.Builder
	for _, ev := range r.events {
		fmt.Fprintf(&b, "%s %s %q by %s at %d: %s; auth %v\n", ev.ID, ev.Type, *ev.StateKey, ev.Sender, ev.OriginServerTS, ev.Content, ev.AuthEvents)
	}
	return b.String()
}

func (s state) String() string {
	var lines []string
	for t, i := range s {
		lines = append(lines, t.Type+" "+strconv.Quote(t.Key)+" = "+string(i))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// stateEvent is an event before its room has it.
func stateEvent(name, typ, key, sender, content string, ts int64) *event.PDU {
	v, _ := roomversion.Get(roomversion.Default)
	ev, err := event.ParseTrusted(v, id.Event("$"+name), []byte(`{"content":`+content+`,"type":"`+typ+`"}`))
	if err != nil {
		panic(err)
	}
	ev.StateKey, ev.Sender = &key, id.User(sender)
	ev.OriginServerTS, ev.Depth = ts, ts
	return ev
}
