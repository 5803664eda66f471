package room

import (
	"slices"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// The events of one write set are judged one after the other, and nothing of them is in the
// store until all are. What asks about the room meanwhile asks here, where they are known.

// note has the event of an entry found from now on by those who judge what comes after it.
func (w *writing) note(en *entry) {
	ev := en.event
	if w.numbered[ev.NID] == ev {
		return
	}
	w.fresh[ev.ID], w.numbered[ev.NID] = ev, ev
	if en.auth != nil && en.joinsGraph() {
		w.nodes = append(w.nodes, en.node(w.head.NID))
	} else if en.changesVerdict() {
		w.verdicts = append(w.verdicts, ev)
	}
}

// pronounce has the graph in memory know the verdicts that the write set changes.
func (w *writing) pronounce() {
	g := w.room.graph
	if g == nil {
		return
	}
	for _, ev := range w.verdicts {
		if i, ok := g.Lookup(ev.NID); ok {
			g.SetRejected(i, ev.Flags.Refused())
		}
	}
}

// find reads an event of the room, of this write set too.
func (w *writing) find(tx *store.Tx, name id.Event) (*Event, bool, error) {
	if ev, ok := w.fresh[name]; ok {
		return ev, true, nil
	}
	return w.engine.Event(tx, w.head.NID, name)
}

// events reads events by their numbers, of this write set too.
func (w *writing) events(tx *store.Tx, nids []store.EventNID) ([]*Event, error) {
	found := make([]*Event, len(nids))
	stored := make([]store.EventNID, 0, len(nids))
	for i, nid := range nids {
		if found[i] = w.numbered[nid]; found[i] == nil {
			stored = append(stored, nid)
		}
	}
	others, err := w.engine.Events(tx, stored)
	if err != nil || len(stored) == len(nids) {
		return others, err
	}
	for i := range found {
		if found[i] == nil {
			found[i], others = others[0], others[1:]
		}
	}
	return found, nil
}

func (w *writing) event(tx *store.Tx, nid store.EventNID) (*Event, error) {
	all, err := w.events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// pdu reads an event without the state that it met, as Engine.pdu does.
func (w *writing) pdu(tx *store.Tx, nid store.EventNID) (*event.PDU, error) {
	if ev := w.numbered[nid]; ev != nil {
		return ev.PDU, nil
	}
	return w.engine.pdu(tx, nid)
}

// isMissing says whether an event is known to be missing in the history.
func (w *writing) isMissing(tx *store.Tx, name id.Event) (bool, error) {
	for _, en := range w.entries {
		if en.placed() && slices.Contains(en.gap, name) {
			return true, nil
		}
	}
	_, missing, err := tx.Gaps.Missing(w.head.NID, name)
	return missing, err
}

// changed says whether the write set changes an entry of the current state.
func (w *writing) changed(key store.StateKey) bool {
	return slices.ContainsFunc(w.entries, func(en entry) bool {
		return slices.ContainsFunc(en.changes, func(c change) bool { return c.key == key })
	})
}

// joinsGraph says whether the event is to be in the room's auth graph, and is not yet.
func (en *entry) joinsGraph() bool { return en.event.IsState && (!en.stored || en.old != 0) }

// changesVerdict says whether an event in the auth graph is rejected now, or no more.
func (en *entry) changesVerdict() bool {
	return en.event.IsState && en.stored && en.old == 0 && en.was.Refused() != en.event.Flags.Refused()
}

// node is the event's place in the auth graph.
func (en *entry) node(room store.RoomNID) store.AuthNode {
	ev := en.event
	return store.AuthNode{Room: room, Event: ev.NID, Key: ev.Key, Rejected: ev.Flags.Refused(), Auth: en.auth}
}
