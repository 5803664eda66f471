package stateres

// authDifference is what is in the auth chain of some states but not of all.
//
// The chain of a state is that of its conflicted and that of its unconflicted
// events, and the latter is part of every state's. Hence it has to be swept only
// once, and only as far down as there is a difference.
//
// Other servers count the events of a state into its chain. The specification does not, so that
// unconflicted events may come into the full conflicted set here: they are then replayed among
// the others, which ends differently in about one of a thousand tangled merges.
// spec: rooms/v2#definitions
func authDifference(g *Graph, unconflicted Set, parts [][]Index) bitset {
	some, all, chain := newBitset(g.Len()), newBitset(g.Len()), newBitset(g.Len())
	for n, part := range parts {
		chain.clear()
		chain.setAuthOf(g, part)
		chain.descend(g, 0)
		some.union(chain)
		if n == 0 {
			all.union(chain)
		} else {
			all.intersect(chain)
		}
	}
	some.subtract(all)
	if lowest, ok := some.lowest(); ok {
		chain.clear()
		chain.setAuthOf(g, unconflicted)
		chain.descend(g, lowest)
		some.subtract(chain)
	}
	return some
}

// setAuthOf adds the auth events of events, but not themselves: an event is not
// part of its own auth chain.
func (b bitset) setAuthOf(g *Graph, events []Index) {
	for _, i := range events {
		for _, a := range g.Auth(i) {
			b.set(a)
		}
	}
}
