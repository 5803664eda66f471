// Package stateres resolves the states of a room's branches into one: state
// resolution versions 1, 2 and 2.1.
//
// It works on integers: a room's state events are the nodes of a Graph, numbered
// so that every event comes after its auth events, and a state is a sorted list
// of such numbers. Walks over the graph are sweeps through bit sets: there is
// no recursion and no path that a hostile room could make long. Only the events
// in dispute are ever looked into. It must not load anything: the caller gives
// values and gets values.
//
// Start at Find. Resolving takes three steps, between which the caller loads what
// the last one asked for:
//
//	conflict, err := stateres.Find(version, graph, sets) // numbers only
//	bodies := load(conflict.Events())                    // usually hundreds
//	entries := lookUp(conflict.Lookups(bodies))          // in the state that all agree on
//	resolved, err := conflict.Resolve(bodies, entries)
//
// One file per step of the specification: auth_difference.go,
// conflicted_subgraph.go, power_sort.go, mainline_sort.go, iterative_auth.go;
// version 1 is v1.go.
// spec: rooms/v12#state-resolution
package stateres

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"hearth/matrix/event"
	"hearth/matrix/roomversion"
)

// ErrNoCreate says that none of the states has a create event, or that its body
// was not given. Nothing can be decided without.
var ErrNoCreate = errors.New("state resolution: there is no create event")

// A Conflict is what the states of a room's branches disagree about. It does not
// change once found.
type Conflict struct {
	version *roomversion.Version
	graph   *Graph

	unconflicted Set
	conflicted   []Index // the conflicted state set, ascending
	full         []Index // the full conflicted set, ascending; without v2, the conflicted state set
	load         []Index // full and, with v2, the auth events of full; ascending

	powerLevels    Index // of the unconflicted state
	hasPowerLevels bool
}

// Find compares the states after each branch. The sets may come in any order.
func Find(v *roomversion.Version, g *Graph, sets []Set) (*Conflict, error) {
	for i, s := range sets {
		if err := g.check(s); err != nil {
			return nil, fmt.Errorf("state set %d: %w", i, err)
		}
	}
	c := &Conflict{version: v, graph: g}
	parts := c.split(sets)
	if !c.hasCreate() {
		return nil, ErrNoCreate
	}
	c.full, c.load = c.conflicted, c.conflicted
	if v.StateRes != roomversion.StateResV1 && len(c.conflicted) > 0 {
		c.full = c.fullConflictedSet(parts)
		c.load = c.withAuthEvents(c.full)
	}
	return c, nil
}

// None says that the states agree on everything: Unconflicted is the result.
func (c *Conflict) None() bool { return len(c.conflicted) == 0 }

// Unconflicted is the unconflicted state map. It must not be changed.
func (c *Conflict) Unconflicted() Set { return c.unconflicted }

// Events lists the events whose bodies Lookups and Resolve need, ascending.
func (c *Conflict) Events() []Index { return c.load }

// split sorts the entries of the sets into what all agree on and what they do
// not. It returns the conflicted events of each set.
// spec: rooms/v2#definitions
func (c *Conflict) split(sets []Set) (parts [][]Index) {
	g := c.graph
	parts = make([][]Index, len(sets))
	at := make([]int, len(sets))
	if len(sets) > 0 {
		c.unconflicted = make(Set, 0, len(sets[0]))
	}
	for {
		key, ok := lowestKey(g, sets, at)
		if !ok {
			break
		}
		ev, agreed := c.agree(sets, at, key)
		if agreed {
			c.unconflicted = append(c.unconflicted, ev)
			if g.Kind(ev) == KindPowerLevels {
				c.powerLevels, c.hasPowerLevels = ev, true
			}
		}
		for i, s := range sets {
			if at[i] >= len(s) || g.Key(s[at[i]]) != key {
				continue
			}
			if !agreed {
				parts[i] = append(parts[i], s[at[i]])
			}
			at[i]++
		}
	}
	for _, p := range parts {
		c.conflicted = append(c.conflicted, p...)
	}
	slices.Sort(c.conflicted)
	c.conflicted = slices.Compact(c.conflicted)
	return parts
}

func lowestKey(g *Graph, sets []Set, at []int) (lowest Key, ok bool) {
	for i, s := range sets {
		if at[i] < len(s) {
			if k := g.Key(s[at[i]]); !ok || k < lowest {
				lowest, ok = k, true
			}
		}
	}
	return lowest, ok
}

// agree says whether the sets have the same event for a key. For version 1, a set
// without the key does not disagree; from version 2 on it does.
func (c *Conflict) agree(sets []Set, at []int, key Key) (ev Index, ok bool) {
	found, missing := false, false
	for i, s := range sets {
		if at[i] >= len(s) || c.graph.Key(s[at[i]]) != key {
			missing = true
			continue
		}
		if found && ev != s[at[i]] {
			return 0, false
		}
		ev, found = s[at[i]], true
	}
	return ev, !missing || c.version.StateRes == roomversion.StateResV1
}

// startsEmpty says that events are judged against what has been resolved alone, and not
// against the unconflicted state as well.
func (c *Conflict) startsEmpty() bool { return c.version.StateRes == roomversion.StateResV21 }

func (c *Conflict) hasCreate() bool {
	isCreate := func(i Index) bool { return c.graph.Kind(i) == KindCreate }
	return slices.ContainsFunc(c.unconflicted, isCreate) || slices.ContainsFunc(c.conflicted, isCreate)
}

// fullConflictedSet is what the algorithm decides about.
// spec: rooms/v12#definitions
func (c *Conflict) fullConflictedSet(parts [][]Index) []Index {
	full := authDifference(c.graph, c.unconflicted, parts)
	if c.version.StateRes == roomversion.StateResV21 {
		full.union(conflictedSubgraph(c.graph, c.conflicted))
	}
	for _, i := range c.conflicted {
		full.set(i)
	}
	return full.list()
}

func (c *Conflict) withAuthEvents(events []Index) []Index {
	all := newBitset(c.graph.Len())
	for _, i := range events {
		all.set(i)
		for _, a := range c.graph.Auth(i) {
			all.set(a)
		}
	}
	return all.list()
}

// A Resolution is the outcome.
type Resolution struct {
	conflict *Conflict
	// Resolved has the entries of the resolved state for the keys that are not in
	// the unconflicted state map. A conflicted key that it lacks has no entry.
	Resolved Set
}

// State is the whole resolved state.
func (r *Resolution) State() Set {
	g, a, b := r.conflict.graph, r.conflict.unconflicted, r.Resolved
	out := make(Set, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if g.Key(a[0]) < g.Key(b[0]) {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// Lookups lists the entries of the unconflicted state that Resolve will judge
// events against; bodies are those of Events, in its order.
func (c *Conflict) Lookups(bodies []*event.PDU) ([]event.StateTuple, error) {
	b, err := c.index(bodies)
	if err != nil {
		return nil, err
	}
	return b.lookups(), nil
}

// Resolve decides. Bodies are those of Events, in its order; entries are the
// events that the unconflicted state has for Lookups, as far as it has some.
func (c *Conflict) Resolve(bodies []*event.PDU, entries map[event.StateTuple]*event.PDU) (*Resolution, error) {
	r := &Resolution{conflict: c}
	if c.None() {
		return r, nil
	}
	b, err := c.index(bodies)
	if err != nil {
		return nil, err
	}
	if err := b.findCreate(entries); err != nil {
		return nil, err
	}
	state := newPartialState(entries)
	if c.version.StateRes == roomversion.StateResV1 {
		b.resolveV1(state)
	} else {
		b.resolveV2(state)
	}
	r.Resolved = c.resolved(state)
	return r, nil
}

// resolveV2 is the algorithm of versions 2 and 2.1; their differences are in
// what is in dispute and in the state that it starts from.
// spec: rooms/v12#algorithm
func (b *bodies) resolveV2(state *partialState) {
	if b.startsEmpty() {
		clear(state.entries)
	}
	power := b.powerEvents()
	b.iterativeAuth(state, b.powerSort(power))
	pl, ok := b.resolvedPowerLevels(state)
	b.iterativeAuth(state, b.mainlineSort(without(b.full, power), pl, ok))
}

// resolved picks the result's entries: the unconflicted ones stand whatever was
// decided about their keys.
func (c *Conflict) resolved(state *partialState) Set {
	g := c.graph
	var out Set
	for _, i := range state.applied {
		if _, agreed := g.Find(c.unconflicted, g.Key(i)); !agreed {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b Index) int { return cmp.Compare(g.Key(a), g.Key(b)) })
	return out
}

// without is the difference of two ascending lists.
func without(all, some []Index) []Index {
	out := make([]Index, 0, len(all)-len(some))
	for _, i := range all {
		if len(some) > 0 && some[0] == i {
			some = some[1:]
			continue
		}
		out = append(out, i)
	}
	return out
}
