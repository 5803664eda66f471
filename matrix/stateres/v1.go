package stateres

import (
	"bytes"
	"cmp"
	"crypto/sha1"
	"slices"
)

// resolveV1 is the algorithm of room version 1. What affects authorisation is
// decided first, type by type; entries of one type are decided side by side, so
// that their order does not matter.
// spec: rooms/v1#state-resolution
func (b *bodies) resolveV1(state *partialState) {
	disputes := b.disputes()
	for _, kind := range []Kind{KindPowerLevels, KindJoinRules, KindMember} {
		b.decide(state, disputes, kind, b.lastAllowed)
	}
	b.decide(state, disputes, KindOther, b.firstAllowed)
}

// A dispute is the events that claim one entry of the state.
type dispute struct {
	kind   Kind
	events []Index
}

func (b *bodies) disputes() []dispute {
	at := map[Key]int{}
	var list []dispute
	for _, i := range b.conflicted {
		key := b.graph.Key(i)
		n, ok := at[key]
		if !ok {
			n = len(list)
			at[key] = n
			kind := b.graph.Kind(i)
			if kind == KindCreate {
				kind = KindOther
			}
			list = append(list, dispute{kind: kind})
		}
		list[n].events = append(list[n].events, i)
	}
	return list
}

// decide settles the disputes of one kind, and only then makes the outcome part of
// the state.
func (b *bodies) decide(state *partialState, disputes []dispute, kind Kind, choose func(*partialState, []Index) Index) {
	var chosen []Index
	for _, d := range disputes {
		if d.kind != kind {
			continue
		}
		b.sortByDepth(d.events)
		chosen = append(chosen, choose(state, d.events))
	}
	for _, i := range chosen {
		state.apply(i, b.body(i))
	}
}

// sortByDepth sorts by ascending depth, then descending hash of the event id.
func (b *bodies) sortByDepth(events []Index) {
	slices.SortFunc(events, func(x, y Index) int {
		a, c := b.body(x), b.body(y)
		hashA, hashC := sha1.Sum([]byte(a.ID)), sha1.Sum([]byte(c.ID))
		return cmp.Or(cmp.Compare(a.Depth, c.Depth), bytes.Compare(hashC[:], hashA[:]))
	})
}

// lastAllowed takes the first event as given and then goes on for as long as each
// event is allowed by the one before.
func (b *bodies) lastAllowed(state *partialState, events []Index) Index {
	tuple := b.body(events[0]).Tuple()
	before, had := state.entries[tuple]
	defer func() {
		if had {
			state.entries[tuple] = before
		} else {
			delete(state.entries, tuple)
		}
	}()
	last := events[0]
	for _, i := range events[1:] {
		state.entries[tuple] = b.body(last)
		if !b.allowedV1(state, i) {
			break
		}
		last = i
	}
	return last
}

// firstAllowed takes the deepest event that is allowed. If none is, it takes the
// shallowest: the specification does not say, and this is what other servers do.
func (b *bodies) firstAllowed(state *partialState, events []Index) Index {
	for _, i := range slices.Backward(events) {
		if b.allowedV1(state, i) {
			return i
		}
	}
	return events[0]
}

// allowedV1 judges an event against the state so far and nothing else.
func (b *bodies) allowedV1(state *partialState, i Index) bool {
	ev := b.body(i)
	return b.allowed(ev, b.stateFor(ev, state, nil))
}
