package stateres

import (
	"cmp"
	"math"
	"slices"

	"hearth/matrix/event"
)

// mainlineSort is the mainline ordering based on a power levels event; ok is
// false if the room has none, then all positions are the same.
// spec: rooms/v2#definitions
func (b *bodies) mainlineSort(events []Index, powerLevels Index, ok bool) []Index {
	m := newMainline(b.graph, powerLevels, ok)
	type placed struct {
		at       Index
		position int
		ev       *event.PDU
	}
	list := make([]placed, len(events))
	for n, i := range events {
		list[n] = placed{i, m.of(i), b.body(i)}
	}
	slices.SortFunc(list, func(x, y placed) int {
		return cmp.Or(cmp.Compare(y.position, x.position), compareAge(x.ev, y.ev))
	})
	out := make([]Index, len(list))
	for n, p := range list {
		out[n] = p.at
	}
	return out
}

// A mainline knows the positions of power levels events: their own for those of
// the mainline, that of the first one of it that they rest on for others.
type mainline struct {
	graph    *Graph
	position map[Index]int
	path     []Index // scratch
}

const notOnMainline = math.MaxInt

func newMainline(g *Graph, powerLevels Index, ok bool) *mainline {
	m := &mainline{graph: g, position: map[Index]int{}}
	for i, n := powerLevels, 0; ok; n++ {
		m.position[i] = n
		i, ok = g.authOf(i, KindPowerLevels)
	}
	return m
}

// of is the mainline position of an event. What it learns on its way it keeps, so
// that many events on one long branch do not walk it again and again.
func (m *mainline) of(i Index) int {
	m.path = m.path[:0]
	position := notOnMainline
	for {
		next, ok := m.graph.authOf(i, KindPowerLevels)
		if !ok {
			break
		}
		if known, ok := m.position[next]; ok {
			position = known
			break
		}
		m.path = append(m.path, next)
		i = next
	}
	for _, i := range m.path {
		m.position[i] = position
	}
	return position
}
