package stateres

import (
	"fmt"
	"slices"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
)

// bodies are the events that a conflict is decided by.
type bodies struct {
	*Conflict
	events []*event.PDU // in the order of load
	create *event.PDU   // where rooms are named after it, and it is no auth event
	levels map[compiled]*authrules.PowerLevels
}

type compiled struct{ create, powerLevels *event.PDU }

func (c *Conflict) index(events []*event.PDU) (*bodies, error) {
	if len(events) != len(c.load) {
		return nil, fmt.Errorf("state resolution: %d events given, %d needed", len(events), len(c.load))
	}
	for n, ev := range events {
		if ev == nil || ev.StateKey == nil {
			return nil, fmt.Errorf("state resolution: event %d is missing or is not a state event", c.load[n])
		}
	}
	return &bodies{Conflict: c, events: events, levels: map[compiled]*authrules.PowerLevels{}}, nil
}

// body is the event at an index that load has.
func (b *bodies) body(i Index) *event.PDU {
	n, _ := slices.BinarySearch(b.load, i)
	return b.events[n]
}

// lookups collects what the rules need for the events in dispute. Version 2.1
// starts from nothing, so it needs the create event at most.
func (b *bodies) lookups() []event.StateTuple {
	list := []event.StateTuple{{Type: event.TypeCreate}}
	if b.startsEmpty() {
		return list
	}
	seen := map[event.StateTuple]bool{list[0]: true}
	for _, i := range b.full {
		for _, t := range authrules.Needed(b.version, authrules.DraftOf(b.body(i))) {
			if !seen[t] {
				seen[t] = true
				list = append(list, t)
			}
		}
	}
	return list
}

// findCreate finds the room's create event for those versions whose auth events
// do not list it.
func (b *bodies) findCreate(entries map[event.StateTuple]*event.PDU) error {
	if !b.version.RoomIDIsCreateEventID {
		return nil
	}
	b.create = entries[event.StateTuple{Type: event.TypeCreate}]
	for n := 0; b.create == nil && n < len(b.events); n++ {
		if b.events[n].Is(event.TypeCreate, "") {
			b.create = b.events[n]
		}
	}
	if b.create == nil {
		return ErrNoCreate
	}
	return nil
}

// partialState is the state as far as it is resolved. Of the unconflicted state
// it has what the events in dispute are judged against.
type partialState struct {
	entries map[event.StateTuple]*event.PDU
	applied map[event.StateTuple]Index // what was decided, not what was there at the start
}

func newPartialState(entries map[event.StateTuple]*event.PDU) *partialState {
	s := &partialState{entries: make(map[event.StateTuple]*event.PDU, len(entries)), applied: map[event.StateTuple]Index{}}
	for t, ev := range entries {
		if ev != nil {
			s.entries[t] = ev
		}
	}
	return s
}

func (s *partialState) apply(i Index, ev *event.PDU) {
	s.entries[ev.Tuple()], s.applied[ev.Tuple()] = ev, i
}

// iterativeAuth applies those of the events that the rules allow.
// spec: rooms/v2#definitions
func (b *bodies) iterativeAuth(state *partialState, events []Index) {
	for _, i := range events {
		if ev := b.body(i); b.allowed(ev, b.stateFor(ev, state, b.graph.Auth(i))) {
			state.apply(i, ev)
		}
	}
}

// stateFor collects what an event is judged against: the state so far, and where
// that has nothing the event's own auth events, unless they are rejected.
func (b *bodies) stateFor(ev *event.PDU, state *partialState, authEvents []Index) authrules.State {
	s := authrules.State{Create: b.create}
	for _, t := range authrules.Needed(b.version, authrules.DraftOf(ev)) {
		entry := state.entries[t]
		for _, a := range authEvents {
			if entry != nil {
				break
			}
			if auth := b.body(a); auth.Tuple() == t && !b.graph.Rejected(a) {
				entry = auth
			}
		}
		if entry != nil {
			s.Set(entry)
		}
	}
	return s
}

func (b *bodies) allowed(ev *event.PDU, s authrules.State) bool {
	s.Levels = b.compile(s.Create, s.PowerLevels)
	return authrules.Check(ev, s) == nil
}

// compile parses power levels once. It returns nil if they are malformed: then
// the rules find out themselves.
func (b *bodies) compile(create, powerLevels *event.PDU) *authrules.PowerLevels {
	key := compiled{create, powerLevels}
	levels, ok := b.levels[key]
	if !ok {
		var err error
		if levels, err = authrules.ParsePowerLevels(b.version, create, powerLevels); err != nil {
			levels = nil
		}
		b.levels[key] = levels
	}
	return levels
}

// senderLevel is the power of an event's sender by the event's auth events.
func (b *bodies) senderLevel(i Index) int64 {
	create := b.create
	var powerLevels *event.PDU
	for _, a := range b.graph.Auth(i) {
		switch b.graph.Kind(a) {
		case KindCreate:
			create = b.body(a)
		case KindPowerLevels:
			powerLevels = b.body(a)
		}
	}
	if levels := b.compile(create, powerLevels); levels != nil {
		return levels.UserLevel(b.body(i).Sender)
	}
	return 0
}

// resolvedPowerLevels is the power levels event of the state so far.
func (b *bodies) resolvedPowerLevels(state *partialState) (Index, bool) {
	if i, ok := state.applied[event.StateTuple{Type: event.TypePowerLevels}]; ok {
		return i, true
	}
	return b.powerLevels, b.hasPowerLevels && !b.startsEmpty()
}
