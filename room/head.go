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
	policy                                            *policyServer // that the state names, in the room or not

	extremities []*Event
	servers     *servers
	past        []pastState // some states before, newest last
	rewound     bool        // the gaps that the store has are noted anew
}

// pastState is an older version of a room's state.
type pastState struct {
	version int64
	state   *StateMap
}

// maxPast is how many older versions a head remembers: branches mostly begin near it.
// While a write set is built, it has all that the store does not have yet.
const maxPast = 16

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
	if h.servers, err = readServers(tx, row.NID); err != nil {
		return nil, fmt.Errorf("read servers in %s: %w", room, err)
	}
	for _, t := range []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules, event.TypeHistoryVisibility, event.TypePolicy} {
		ev, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: t})
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", t, room, err)
		}
		if ok {
			h.decode(ev.PDU.Tuple(), ev.PDU)
		}
	}
	return h, h.compile()
}

// decode keeps the state events that every event is judged by, nil where there are
// none, and says whether the power levels have to be compiled anew.
func (h *Head) decode(t event.StateTuple, p *event.PDU) (levels bool) {
	if t.Key != "" {
		return false
	}
	switch t.Type {
	case event.TypeCreate:
		h.Create = p
		return true
	case event.TypePowerLevels:
		h.PowerLevels = p
		return true
	case event.TypeJoinRules:
		h.JoinRules = p
	case event.TypeHistoryVisibility:
		h.HistoryVisibility = p
	case event.TypePolicy:
		h.policy = parsePolicy(p)
	}
	return false
}

func (h *Head) compile() (err error) {
	if h.Create == nil {
		return nil // of the room only outliers are known so far
	}
	if h.Levels, err = authrules.ParsePowerLevels(h.Version, h.Create, h.PowerLevels); err != nil {
		return fmt.Errorf("power levels of %s: %w", h.ID, err)
	}
	return nil
}

// after is the head once an event has joined the room's history: with changes of
// the current state, and new extremities.
func (h *Head) after(changes []change, extremities []*Event) (*Head, error) {
	n := *h
	n.extremities = extremities
	n.Extremities = make([]store.EventNID, len(extremities))
	for i, x := range extremities {
		n.Extremities[i] = x.NID
	}
	if len(changes) == 0 {
		return &n, nil
	}
	n.past = append(slices.Clone(h.past), pastState{h.StateVersion, h.State})
	n.StateVersion++
	for _, c := range changes {
		n.State = n.State.With([]store.StateEntry{{Key: c.key, Event: c.event}})
	}
	return &n, n.apply(changes)
}

// afterSnapshot is the head with a state that another server told.
func (h *Head) afterSnapshot(state *StateMap, changes []change) (*Head, error) {
	n := *h
	if len(changes) == 0 {
		return &n, nil
	}
	n.past = nil
	n.StateVersion++
	n.State = state
	return &n, n.apply(changes)
}

// apply keeps what the head knows beside the state itself in step with it.
func (n *Head) apply(changes []change) error {
	levels := false
	joins := map[store.ServerNID]int64{}
	for _, c := range changes {
		if m := c.member; m != nil {
			n.count(m.before, -1)
			n.count(m.after, +1)
			if m.local {
				n.Locals = withLocal(n.Locals, m.user, m.after == store.Join)
			}
			joins[m.server] += m.joins()
		}
		levels = n.decode(c.tuple, c.after) || levels
	}
	n.servers = n.servers.with(joins)
	if levels {
		return n.compile()
	}
	return nil
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
