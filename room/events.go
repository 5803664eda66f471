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

func (e *Event) weight() uint32 { return uint32(600 + 2*len(e.PDU.JSON)) }

// Events reads events in the order of nids, from memory where it has them. An
// event that is missing is an error: nids come from the store itself.
func (e *Engine) Events(tx *store.Tx, nids []store.EventNID) ([]*Event, error) {
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
	for _, row := range rows {
		ev, err := e.parse(tx, row)
		if err != nil {
			return nil, err
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

// parse turns a row into an event and keeps it in memory.
func (e *Engine) parse(tx *store.Tx, row store.Event) (*Event, error) {
	pdu, err := parsePDU(tx, row)
	if err != nil {
		return nil, err
	}
	row.JSON = nil // the PDU has it
	// What a commit has put there since this reader's snapshot is newer: a
	// redacted event must not come back.
	ev := &Event{Event: row, PDU: pdu}
	if row.StateBefore < 0 {
		if ev.overlay, err = e.overlay(tx, -row.StateBefore); err != nil {
			return nil, fmt.Errorf("state before %s: %w", row.ID, err)
		}
	}
	ev, _ = e.events.SetIfAbsent(row.NID, ev)
	return ev, nil
}

func parsePDU(tx *store.Tx, row store.Event) (*event.PDU, error) {
	room, ok, err := tx.Rooms.GetNID(row.Room)
	if err != nil || !ok {
		return nil, fmt.Errorf("room of event %s: %w", row.ID, err)
	}
	v, ok := roomversion.Get(room.Version)
	if !ok {
		return nil, fmt.Errorf("event %s is of room version %q, which this Hearth does not know", row.ID, room.Version)
	}
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
	return parsePDU(tx, rows[0])
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
