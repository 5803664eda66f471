package room

import (
	"fmt"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// Event is a stored event with its parsed PDU. It is shared and immutable; a
// redaction puts another in its place.
type Event struct {
	store.Event
	PDU *event.PDU

	overlay *overlay // the state before it, where StateBefore names one
}

// weight is about what an event takes in memory. Events with one overlay all count it: whoever makes
// it may have as much kept by making many.
func (e *Event) weight() uint32 {
	w := 600 + 2*len(e.PDU.JSON)
	if e.overlay != nil {
		w += 16*len(e.overlay.Changes) + 50*len(e.overlay.memberships)
	}
	return uint32(w)
}

// Events reads events in the order of nids, from memory where it has them, and keeps them
// there. An event that is missing is an error: nids come from the store itself.
func (e *Engine) Events(tx *store.Tx, nids []store.EventNID) ([]*Event, error) {
	return e.readEvents(tx, nids, true)
}

func (e *Engine) readEvents(tx *store.Tx, nids []store.EventNID, keep bool) ([]*Event, error) {
	found := make([]*Event, len(nids))
	var missing []store.EventNID
	for i, nid := range nids {
		if ev, ok := e.events.GetIfPresent(nid); ok {
			found[i] = ev
		} else {
			missing = append(missing, nid)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	rows, err := tx.Events.Load(missing)
	if err != nil {
		return nil, fmt.Errorf("load events: %w", err)
	}
	loaded := make(map[store.EventNID]*Event, len(rows))
	var version *roomversion.Version
	for i, row := range rows {
		if i == 0 || row.Room != rows[i-1].Room {
			if version, err = versionOf(tx, row.Room); err != nil {
				return nil, fmt.Errorf("room of event %s: %w", row.ID, err)
			}
		}
		v := version
		if row.Flags&store.Outside != 0 {
			if v, err = outsideVersion(tx, row.NID, version); err != nil {
				return nil, fmt.Errorf("room version of event %s: %w", row.ID, err)
			}
		}
		ev, err := e.parse(tx, v, row)
		if err != nil {
			return nil, err
		}
		if keep {
			// What a commit has put there since this reader's snapshot is newer: a
			// redacted event must not come back.
			ev, _ = e.events.SetIfAbsent(row.NID, ev)
		}
		loaded[row.NID] = ev
	}
	for i, nid := range nids {
		if found[i] == nil {
			if found[i] = loaded[nid]; found[i] == nil {
				return nil, fmt.Errorf("event %d is missing from the database", nid)
			}
		}
	}
	return found, nil
}

// EventList is events that somebody is to have. They are read while they are sent, since a
// room's state can be larger than what may be held of it.
type EventList struct {
	engine *Engine
	nids   []store.EventNID
	long   bool
}

const (
	// readAtOnce bounds the events in memory of one list.
	readAtOnce = 200
	// longList is from how many events on a list is not kept in memory: it would push out what
	// is needed again soon, and be pushed out itself before anybody reads it a second time.
	longList = 2000
)

// List makes a list of events.
func (e *Engine) List(nids []store.EventNID) EventList {
	return EventList{e, nids, len(nids) >= longList}
}

// Empty says whether no event is left.
func (l *EventList) Empty() bool { return len(l.nids) == 0 }

// Next takes the next few events out of the list.
func (l *EventList) Next(tx *store.Tx) ([]*Event, error) {
	some := l.nids[:min(readAtOnce, len(l.nids))]
	events, err := l.engine.readEvents(tx, some, !l.long)
	if err == nil {
		l.nids = l.nids[len(some):]
	}
	return events, err
}

// Event reads an event of a room by its id; false: not known, or of another room.
func (e *Engine) Event(tx *store.Tx, room store.RoomNID, ev id.Event) (*Event, bool, error) {
	found, ok, err := e.eventOfAnyRoom(tx, ev)
	if err != nil || !ok || found.Room != room {
		return nil, false, err
	}
	return found, true, nil
}

// eventOfAnyRoom reads an event by its id.
func (e *Engine) eventOfAnyRoom(tx *store.Tx, ev id.Event) (*Event, bool, error) {
	nid, ok, err := tx.Events.Find(ev)
	if err != nil || !ok {
		return nil, false, err
	}
	all, err := e.Events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, false, err
	}
	return all[0], true, nil
}

func versionOf(tx *store.Tx, room store.RoomNID) (*roomversion.Version, error) {
	row, ok, err := tx.Rooms.GetNID(room)
	if err != nil || !ok {
		return nil, fmt.Errorf("read room %d: found %t: %w", room, ok, err)
	}
	v, ok := roomversion.Get(row.Version)
	if !ok {
		return nil, fmt.Errorf("room %s is of version %q, which this Hearth does not know", row.ID, row.Version)
	}
	return v, nil
}

// outsideVersion is the room version of an event that has no place in the auth graph;
// usual is that of its room.
func outsideVersion(tx *store.Tx, nid store.EventNID, usual *roomversion.Version) (*roomversion.Version, error) {
	name, ok, err := tx.Events.OutsideVersion(nid)
	if err != nil || !ok {
		return usual, err
	}
	v, ok := roomversion.Get(name)
	if !ok {
		return nil, fmt.Errorf("%q is not known to this Hearth", name)
	}
	return v, nil
}

// parse turns a row into an event.
func (e *Engine) parse(tx *store.Tx, v *roomversion.Version, row store.Event) (*Event, error) {
	pdu, err := parsePDU(v, row)
	if err != nil {
		return nil, err
	}
	row.JSON = nil // the PDU has it
	ev := &Event{Event: row, PDU: pdu}
	if row.StateBefore < 0 {
		if ev.overlay, err = e.overlay(tx, -row.StateBefore); err != nil {
			return nil, fmt.Errorf("state before %s: %w", row.ID, err)
		}
	}
	return ev, nil
}

func parsePDU(v *roomversion.Version, row store.Event) (*event.PDU, error) {
	pdu, err := event.ParseTrusted(v, row.ID, row.JSON)
	if err != nil {
		return nil, fmt.Errorf("event %s in the database: %w", row.ID, err)
	}
	return pdu, nil
}

// pdu reads an event without the state that it met. An overlay reads by it what it is made
// of: that may have met overlays in turn, and so on without end.
func (e *Engine) pdu(tx *store.Tx, nid store.EventNID) (*event.PDU, error) {
	if ev, ok := e.events.GetIfPresent(nid); ok {
		return ev.PDU, nil
	}
	rows, err := tx.Events.Load([]store.EventNID{nid})
	if err != nil {
		return nil, fmt.Errorf("load event %d: %w", nid, err)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("event %d is missing from the database", nid)
	}
	v, err := versionOf(tx, rows[0].Room)
	if err != nil {
		return nil, fmt.Errorf("room of event %s: %w", rows[0].ID, err)
	}
	return parsePDU(v, rows[0])
}

// StateEvent reads one event of a head's state; false: the state has none.
func (e *Engine) StateEvent(tx *store.Tx, h *Head, t event.StateTuple) (*Event, bool, error) {
	key, ok, err := tx.IDs.FindStateKey(t)
	if err != nil || !ok {
		return nil, false, err
	}
	nid, ok := h.State.Get(key)
	if !ok {
		return nil, false, nil
	}
	all, err := e.Events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, false, err
	}
	return all[0], true, nil
}
