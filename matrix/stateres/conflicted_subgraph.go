package stateres

// conflictedSubgraph is what lies on the ways, along auth events, from one
// conflicted event to another: all that conflicted events cite and that cites
// conflicted events.
// spec: rooms/v12#definitions
// msc: 4297
func conflictedSubgraph(g *Graph, conflicted []Index) bitset {
	up, down := newBitset(g.Len()), newBitset(g.Len())
	for _, i := range conflicted {
		up.set(i)
		down.set(i)
	}
	if len(conflicted) > 0 {
		lowest, highest := conflicted[0], conflicted[len(conflicted)-1]
		down.descend(g, lowest)
		up.ascend(g, lowest, highest)
	}
	down.intersect(up)
	return down
}
