package stateres

import (
	"cmp"
	"container/heap"

	"hearth/matrix/event"
)

// powerEvents lists the power events of the full conflicted set, and what they
// rest on of it.
// spec: rooms/v2#algorithm 1
func (b *bodies) powerEvents() []Index {
	reached, full := newBitset(b.graph.Len()), newBitset(b.graph.Len())
	for _, i := range b.full {
		full.set(i)
		if b.isPower(i) {
			reached.set(i)
		}
	}
	if len(b.full) > 0 {
		reached.descend(b.graph, b.full[0])
	}
	reached.intersect(full)
	return reached.list()
}

// isPower says whether an event is a power event: one that may take away what
// somebody is able to do.
//
// The specification asks for the type alone; deployed servers ask for an empty
// state key too, as only such events have power, and so does KindOf.
// spec: rooms/v2#definitions
func (b *bodies) isPower(i Index) bool {
	switch b.graph.Kind(i) {
	case KindPowerLevels, KindJoinRules:
		return true
	case KindMember:
		ev := b.body(i)
		m := ev.Membership()
		return (m == event.MembershipLeave || m == event.MembershipBan) && *ev.StateKey != string(ev.Sender)
	}
	return false
}

// powerSort is the reverse topological power ordering: Kahn's algorithm, taking
// among the events whose auth events are all placed the smallest one.
// spec: rooms/v2#definitions
func (b *bodies) powerSort(events []Index) []Index {
	position := make(map[Index]int, len(events))
	for n, i := range events {
		position[i] = n
	}
	waitsFor := make([]int, len(events))
	citedBy := make([][]int, len(events))
	ready := &powerQueue{}
	for n, i := range events {
		for _, a := range b.graph.Auth(i) {
			if m, ok := position[a]; ok {
				waitsFor[n]++
				citedBy[m] = append(citedBy[m], n)
			}
		}
	}
	push := func(n int) {
		ev := b.body(events[n])
		heap.Push(ready, candidate{n, b.senderLevel(events[n]), ev})
	}
	for n := range events {
		if waitsFor[n] == 0 {
			push(n)
		}
	}
	out := make([]Index, 0, len(events))
	for ready.Len() > 0 {
		next := heap.Pop(ready).(candidate)
		out = append(out, events[next.position])
		for _, n := range citedBy[next.position] {
			if waitsFor[n]--; waitsFor[n] == 0 {
				push(n)
			}
		}
	}
	return out
}

// A candidate is an event that may come next.
type candidate struct {
	position int
	level    int64 // of its sender, by its own auth events
	ev       *event.PDU
}

func (c candidate) compare(o candidate) int {
	return cmp.Or(cmp.Compare(o.level, c.level), compareAge(c.ev, o.ev))
}

// compareAge is how all orderings break ties.
func compareAge(a, b *event.PDU) int {
	return cmp.Or(cmp.Compare(a.OriginServerTS, b.OriginServerTS), cmp.Compare(a.ID, b.ID))
}

// powerQueue is a heap of candidates.
type powerQueue []candidate

func (q powerQueue) Len() int           { return len(q) }
func (q powerQueue) Less(i, j int) bool { return q[i].compare(q[j]) < 0 }
func (q powerQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *powerQueue) Push(x any)        { *q = append(*q, x.(candidate)) }
func (q *powerQueue) Pop() any {
	last := len(*q) - 1
	c := (*q)[last]
	*q = (*q)[:last]
	return c
}
