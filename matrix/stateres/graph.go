package stateres

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"hearth/matrix/event"
)

// Index is the place of a state event in its room's Graph. Every event comes
// after its auth events.
type Index uint32

// Key is the caller's number for a type and state key. It is the same for all
// events of an entry of the state, and different for those of another.
type Key uint32

// Kind is what resolution has to know of an event's type.
type Kind uint8

const (
	KindOther Kind = iota
	KindCreate
	KindPowerLevels
	KindJoinRules
	KindMember
	kinds
)

// KindOf is the kind of events that set an entry. Power levels and the like
// count only under the empty state key.
func KindOf(t event.StateTuple) Kind {
	switch {
	case t.Type == event.TypeMember:
		return KindMember
	case t.Key != "":
		return KindOther
	case t.Type == event.TypeCreate:
		return KindCreate
	case t.Type == event.TypePowerLevels:
		return KindPowerLevels
	case t.Type == event.TypeJoinRules:
		return KindJoinRules
	}
	return KindOther
}

// A Node is a state event in the graph.
type Node struct {
	NID      int64 // the caller's number for the event; those of later nodes are greater
	Key      Key
	Kind     Kind
	Rejected bool    // it was refused on receipt: it may not help to authorise others
	Auth     []Index // its auth events, in any order
}

// Graph has the state events of one room, with their auth events as edges. It
// grows only at its end. Callers must not append while others read.
type Graph struct {
	nids   []int64
	keys   []Key
	flags  []uint8 // kind, and the bit flagRejected
	starts []uint32
	edges  []Index
}

const flagRejected = 0x80

// ErrMalformed says that nodes given to a graph, or their encoding, break its order.
var ErrMalformed = errors.New("auth graph: malformed")

// Len is the number of events.
func (g *Graph) Len() int { return len(g.nids) }

// NID is the caller's number of an event.
func (g *Graph) NID(i Index) int64 { return g.nids[i] }

// Key is the entry of the state that an event sets.
func (g *Graph) Key(i Index) Key { return g.keys[i] }

// Kind is the kind of an event.
func (g *Graph) Kind(i Index) Kind { return Kind(g.flags[i] &^ flagRejected) }

// Rejected says whether an event was rejected.
func (g *Graph) Rejected(i Index) bool { return g.flags[i]&flagRejected != 0 }

// SetRejected notes another verdict on an event.
func (g *Graph) SetRejected(i Index, rejected bool) {
	g.flags[i] &^= flagRejected
	if rejected {
		g.flags[i] |= flagRejected
	}
}

// Auth lists the auth events of an event, ascending. It must not be changed.
func (g *Graph) Auth(i Index) []Index {
	return g.edges[g.start(i):g.starts[i]]
}

func (g *Graph) start(i Index) uint32 {
	if i == 0 {
		return 0
	}
	return g.starts[i-1]
}

// Append adds an event whose auth events are in the graph already.
func (g *Graph) Append(n Node) (Index, error) {
	at := Index(g.Len())
	if at > 0 && n.NID <= g.nids[at-1] {
		return 0, fmt.Errorf("%w: event %d comes after %d", ErrMalformed, n.NID, g.nids[at-1])
	}
	if n.Kind >= kinds {
		return 0, fmt.Errorf("%w: kind %d", ErrMalformed, n.Kind)
	}
	first := len(g.edges)
	g.edges = append(g.edges, n.Auth...)
	slices.Sort(g.edges[first:])
	g.edges = g.edges[:first+len(slices.Compact(g.edges[first:]))]
	if last := len(g.edges); last > first && g.edges[last-1] >= at {
		g.edges = g.edges[:first]
		return 0, fmt.Errorf("%w: event %d has an auth event that does not come before it", ErrMalformed, n.NID)
	}
	flags := uint8(n.Kind)
	if n.Rejected {
		flags |= flagRejected
	}
	g.nids = append(g.nids, n.NID)
	g.keys = append(g.keys, n.Key)
	g.flags = append(g.flags, flags)
	g.starts = append(g.starts, uint32(len(g.edges)))
	return at, nil
}

// Lookup finds an event by the caller's number.
func (g *Graph) Lookup(nid int64) (Index, bool) {
	i, ok := slices.BinarySearch(g.nids, nid)
	return Index(i), ok
}

// authOf is the auth event of a kind, if an event has one.
func (g *Graph) authOf(i Index, kind Kind) (Index, bool) {
	for _, a := range g.Auth(i) {
		if g.Kind(a) == kind {
			return a, true
		}
	}
	return 0, false
}

// A Set is a room's state: one event for each key, in the order of the keys.
type Set []Index

// NewSet puts events in the order that a Set has.
func (g *Graph) NewSet(events []Index) (Set, error) {
	s := Set(slices.Clone(events))
	slices.SortFunc(s, func(a, b Index) int { return cmp.Compare(g.Key(a), g.Key(b)) })
	return s, g.check(s)
}

// Find looks a key up in a set.
func (g *Graph) Find(s Set, key Key) (Index, bool) {
	at, ok := slices.BinarySearchFunc(s, key, func(i Index, k Key) int { return cmp.Compare(g.keys[i], k) })
	if !ok {
		return 0, false
	}
	return s[at], true
}

// With is a set with some entries replaced or added; changes is a set too.
func (g *Graph) With(s, changes Set) Set {
	out := make(Set, 0, len(s)+len(changes))
	for _, i := range s {
		for len(changes) > 0 && g.keys[changes[0]] < g.keys[i] {
			out, changes = append(out, changes[0]), changes[1:]
		}
		if len(changes) > 0 && g.keys[changes[0]] == g.keys[i] {
			i, changes = changes[0], changes[1:]
		}
		out = append(out, i)
	}
	return append(out, changes...)
}

// check makes sure that a set is one of this graph.
func (g *Graph) check(s Set) error {
	for n, i := range s {
		if int(i) >= g.Len() {
			return fmt.Errorf("%w: there is no event %d", ErrMalformed, i)
		}
		if n > 0 && g.keys[s[n-1]] >= g.keys[i] {
			return fmt.Errorf("%w: a state set is not in the order of its keys", ErrMalformed)
		}
	}
	return nil
}
