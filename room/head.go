package room

import (
	"fmt"
	"slices"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// Head is where a room stands after its newest write set. It is immutable:
// each event makes a new one. Of its row, Public and LastPosition are as they
// were when the room was loaded: whoever needs them reads the store.
type Head struct {
	store.Room
	Version *roomversion.Version
	State   *StateMap
	Locals  []store.UserNID // local users who are joined, in order; not to be changed

	// Kept decoded, since every event is judged by them.
	Create, PowerLevels, JoinRules, HistoryVisibility *event.PDU
	Levels                                            *authrules.PowerLevels

	extremities []*Event
}

// readHead reads a room's head from the store; nil: no such room.
func (e *Engine) readHead(tx *store.Tx, room id.Room) (*Head, error) {
	row, ok, err := tx.Rooms.Get(room)
	if err != nil || !ok {
		return nil, err
	}
	h := &Head{Room: row}
	if h.Version, ok = roomversion.Get(row.Version); !ok {
		return nil, fmt.Errorf("room %s has version %q, which this Hearth does not know", room, row.Version)
	}
	entries, err := tx.State.All(row.NID, row.StateVersion)
	if err != nil {
		return nil, fmt.Errorf("read state of %s: %w", room, err)
	}
	h.State = newStateMap(entries)
	if h.Locals, err = tx.Members.LocalJoined(row.NID); err != nil {
		return nil, fmt.Errorf("read members of %s: %w", room, err)
	}
	if h.extremities, err = e.Events(tx, row.Extremities); err != nil {
		return nil, fmt.Errorf("read extremities of %s: %w", room, err)
	}
	for _, t := range []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules, event.TypeHistoryVisibility} {
		ev, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: t})
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", t, room, err)
		}
		if ok {
			if err := h.decode(ev.PDU); err != nil {
				return nil, err
			}
		}
	}
	return h, h.compile()
}

// decode keeps the state events that every event is judged by.
func (h *Head) decode(p *event.PDU) error {
	if *p.StateKey != "" {
		return nil
	}
	switch p.Type {
	case event.TypeCreate:
		h.Create = p
		return h.compile()
	case event.TypePowerLevels:
		h.PowerLevels = p
		return h.compile()
	case event.TypeJoinRules:
		h.JoinRules = p
	case event.TypeHistoryVisibility:
		h.HistoryVisibility = p
	}
	return nil
}

func (h *Head) compile() (err error) {
	if h.Levels, err = authrules.ParsePowerLevels(h.Version, h.Create, h.PowerLevels); err != nil {
		return fmt.Errorf("power levels of %s: %w", h.ID, err)
	}
	return nil
}

// after is the head once an event has joined the room's history. member says
// what a membership event changed.
func (h *Head) after(ev *Event, member *memberChange) (*Head, error) {
	n := *h
	n.extremities = []*Event{ev}
	n.Extremities = []store.EventNID{ev.NID}
	if !ev.IsState {
		return &n, nil
	}
	n.StateVersion++
	n.State = h.State.Set(ev.Key, ev.NID)
	if member != nil {
		n.count(member.before, -1)
		n.count(member.after, +1)
		if member.local {
			n.Locals = withLocal(h.Locals, member.user, member.after == store.Join)
		}
	}
	return &n, n.decode(ev.PDU)
}

func (h *Head) count(m store.Membership, by int64) {
	switch m {
	case store.Join:
		h.Joined += by
	case store.Invite:
		h.Invited += by
	}
}

// withLocal returns the list with a user in it or not, leaving the old one alone.
func withLocal(list []store.UserNID, user store.UserNID, in bool) []store.UserNID {
	i, found := slices.BinarySearch(list, user)
	switch {
	case found == in:
		return list
	case in:
		return slices.Insert(slices.Clone(list), i, user)
	}
	return slices.Delete(slices.Clone(list), i, i+1)
}
