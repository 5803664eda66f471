package room

import (
	"cmp"
	"container/heap"
	"context"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Bounds of what one request for history is given.
const (
	MaxBackfill      = 100
	MaxMissingEvents = 50
	// maxWalked bounds the events looked at for one, hidden ones too.
	maxWalked = 1000
)

// ServeBackfill is some events and those before them, newest first, as far as
// another server may see them.
// spec: server-server-api#get_matrixfederationv1backfillroomid
func (e *Engine) ServeBackfill(ctx context.Context, server id.Server, room id.Room, from []id.Event, limit int) (pdus []jsontext.Value, err error) {
	limit = min(limit, MaxBackfill)
	err = e.visit(ctx, server, room, func(tx *store.Tx, v *visitor) error {
		if !v.in {
			// A server that was in the room may have what it saw then.
			if err := v.readMembers(tx); err != nil {
				return err
			}
			if len(v.members) == 0 {
				return v.mustBeIn()
			}
		}
		w := walker{visitor: v, tx: tx, seen: map[id.Event]bool{}}
		if err := w.reach(from); err != nil {
			return err
		}
		for len(pdus) < limit {
			ev, ok, err := w.next()
			if err != nil || !ok {
				return err
			}
			if !isListed(ev) {
				continue
			}
			pdu, ok, err := v.show(tx, ev)
			if err != nil {
				return err
			}
			if ok {
				pdus = append(pdus, event.AppendFederation(nil, pdu, nil))
			}
		}
		return nil
	})
	return pdus, err
}

// ServeMissingEvents is the events between some that another server has and others
// whose prev_events it lacks, older ones first.
// spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (e *Engine) ServeMissingEvents(ctx context.Context, server id.Server, room id.Room, q MissingEvents) (pdus []jsontext.Value, err error) {
	limit := min(q.Limit, MaxMissingEvents)
	err = e.visit(ctx, server, room, func(tx *store.Tx, v *visitor) error {
		if err := v.mustBeIn(); err != nil {
			return err
		}
		w := walker{visitor: v, tx: tx, seen: map[id.Event]bool{}}
		for _, name := range q.Earliest {
			w.seen[name] = true
		}
		latest, err := w.known(q.Latest)
		if err != nil {
			return err
		}
		for _, ev := range latest {
			w.seen[ev.ID] = true
		}
		for _, ev := range latest {
			if err := w.reach(ev.PDU.PrevEvents); err != nil {
				return err
			}
		}
		var found []*Event
		for len(found) < limit {
			ev, ok, err := w.next()
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if ev.Depth >= q.MinDepth && isListed(ev) {
				found = append(found, ev)
			}
		}
		for _, ev := range topological(found) {
			pdu, ok, err := v.show(tx, ev)
			if err != nil {
				return err
			}
			if ok {
				pdus = append(pdus, event.AppendFederation(nil, pdu, nil))
			}
		}
		return nil
	})
	return pdus, err
}

// isListed says whether an event is part of the history that other servers are told. The others that
// are known here only lead on, to what comes before them.
func isListed(ev *Event) bool { return ev.Flags&(store.Rejected|store.Outlier) == 0 }

// walker goes back through a room's history, deeper events first: depth is what
// servers claim, but decides here only which of the known events come first.
type walker struct {
	*visitor
	tx     *store.Tx
	seen   map[id.Event]bool
	queue  eventHeap
	walked int
}

// reach queues events that were not met yet.
func (w *walker) reach(names []id.Event) error {
	var fresh []id.Event
	for _, name := range names {
		if !w.seen[name] && len(w.seen) < 20*maxWalked {
			w.seen[name] = true
			fresh = append(fresh, name)
		}
	}
	events, err := w.known(fresh)
	for _, ev := range events {
		heap.Push(&w.queue, ev)
	}
	return err
}

// known are those of some events that are here.
func (w *walker) known(names []id.Event) (events []*Event, err error) {
	for _, name := range names {
		ev, ok, err := w.engine.Event(w.tx, w.room.NID, name)
		if err != nil {
			return nil, err
		}
		if ok {
			events = append(events, ev)
		}
	}
	return events, nil
}

// next is the deepest event that was reached and not given out yet.
func (w *walker) next() (*Event, bool, error) {
	if len(w.queue) == 0 || w.walked == maxWalked {
		return nil, false, nil
	}
	w.walked++
	ev := heap.Pop(&w.queue).(*Event)
	return ev, true, w.reach(ev.PDU.PrevEvents)
}

type eventHeap []*Event

func (h eventHeap) Len() int      { return len(h) }
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h eventHeap) Less(i, j int) bool {
	return cmp.Or(cmp.Compare(h[j].Depth, h[i].Depth), cmp.Compare(h[j].NID, h[i].NID)) < 0
}
func (h *eventHeap) Push(x any) { *h = append(*h, x.(*Event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	ev := (*h)[last]
	*h = (*h)[:last]
	return ev
}

// topological puts events after their prev_events, whatever depth they claim.
func topological(events []*Event) []*Event {
	slices.Reverse(events)
	index := make(map[id.Event]int, len(events))
	waits := make([]int, len(events)) // prev_events that are not placed yet
	next := make([][]int, len(events))
	for i, ev := range events {
		index[ev.ID] = i
	}
	for i, ev := range events {
		for _, p := range ev.PDU.PrevEvents {
			if j, ok := index[p]; ok && j != i {
				waits[i]++
				next[j] = append(next[j], i)
			}
		}
	}
	sorted := make([]*Event, 0, len(events))
	var ready []int
	for i := range events {
		if waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	for len(ready) > 0 {
		i := ready[0]
		ready = ready[1:]
		sorted = append(sorted, events[i])
		for _, j := range next[i] {
			if waits[j]--; waits[j] == 0 {
				ready = append(ready, j)
			}
		}
	}
	return sorted
}
