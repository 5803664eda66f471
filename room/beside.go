package room

import (
	"context"
	"log/slog"
	"slices"

	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// Since a join with partial state there may be gaps before which nobody can tell the state, because
// the one that sent what is missing has a partial state itself, or nobody else ever got it. Of what
// is known here beside the history, from an earlier time in the room mostly, the state can be worked
// out nevertheless, and of what others hand out by name: from the states after the events before it,
// however far back these are told.

// maxDerived bounds for how many events in one round that is tried which no server tells the state after.
const maxDerived = 50

// derivable says whether the state after an event can be known when the room is rewound: servers
// tell it, or can be asked for those after the events before it.
func (e *Engine) derivable(ctx context.Context, servers []id.Server, v *roomversion.Version, room id.Room, name id.Event, f *fetched) (bool, error) {
	if f.states[name] != nil {
		return true, nil
	}
	if able, ok := f.derivable[name]; ok || len(f.derivable) >= maxDerived {
		return able, nil
	}
	f.derivable[name] = false // until it is known; so is what comes before itself
	for _, s := range servers {
		if m, err := e.fetchStateAfter(ctx, s, v, room, name); err == nil {
			f.states[name] = m
			delete(f.derivable, name)
			return true, nil
		}
	}
	ev, err := e.fetchBeside(ctx, servers, v, room, name)
	if err != nil || ev == nil {
		return false, err
	}
	able := true
	if ev.Flags&store.Outlier != 0 || ev.Flags.Untold() {
		able = len(ev.PDU.PrevEvents) > 0
		for _, prev := range ev.PDU.PrevEvents {
			if able, err = e.derivable(ctx, servers, v, room, prev, f); !able || err != nil {
				break
			}
		}
	}
	f.derivable[name] = able
	return able, err
}

// fetchBeside is an event that is here, or that one of some servers hands out; nil: none does.
func (e *Engine) fetchBeside(ctx context.Context, servers []id.Server, v *roomversion.Version, room id.Room, name id.Event) (*Event, error) {
	for i := -1; i < len(servers); i++ {
		if i >= 0 {
			if err := e.fetchOutliers(ctx, servers[i], v, room, []id.Event{name}); err != nil {
				if ctx.Err() != nil {
					return nil, err
				}
				slog.DebugContext(ctx, "missing event not received", "event", name, "from", servers[i], "error", err)
			}
		}
		var ev *Event
		err := e.store.View(ctx, func(tx *store.Tx) error {
			nid, ok, err := tx.Rooms.Find(room)
			if err != nil || !ok {
				return err
			}
			if ev, ok, err = e.Event(tx, nid, name); !ok {
				ev = nil
			}
			return err
		})
		if err != nil || ev != nil {
			return ev, err
		}
	}
	return nil, nil
}

// derive works out the state after an event that is missing in the history since the join, if that
// can be; nil: it cannot.
func (w *writing) derive(tx *store.Tx, join *Event, name id.Event, f *fetched) (*StateMap, error) {
	if m := f.states[name]; m != nil || !f.derivable[name] {
		return m, nil
	}
	ev, ok, err := w.find(tx, name)
	if err != nil || !ok {
		return nil, err
	}
	if ev.Flags&store.Outlier == 0 && !ev.Flags.Untold() {
		if w.fresh[name] == nil && ev.Position > join.Position {
			return nil, nil // it is to be judged again, later
		}
		return w.engine.stateAfter(tx, w.head, ev)
	}
	var states []*StateMap
	for _, prev := range ev.PDU.PrevEvents {
		m, err := w.derive(tx, join, prev, f)
		if m == nil || err != nil {
			return nil, err
		}
		states = append(states, m)
	}
	m, err := w.resolve(tx, states)
	if err != nil {
		return nil, err
	}
	if ev.IsState && !ev.Flags.Refused() {
		reason, err := w.deniedBy(tx, ev.PDU, m)
		if err != nil {
			return nil, err
		}
		if reason == nil {
			m = m.Set(ev.Key, ev.NID)
		}
	}
	f.states[name] = m
	return m, nil
}

// fetchAtGap asks for the states after the events that are missing; if some of these are nowhere
// to be had, for the state that the event after them met.
func (e *Engine) fetchAtGap(ctx context.Context, servers []id.Server, v *roomversion.Version, g gapSince, f *fetched) (bool, error) {
	all := true
	for _, name := range g.missing {
		able, err := e.derivable(ctx, servers, v, g.event.Room, name, f)
		if err != nil {
			return false, err
		}
		all = all && able
	}
	if all {
		return true, nil
	}
	return slices.ContainsFunc(servers, func(s id.Server) bool {
		m, err := e.fetchStateBefore(ctx, s, v, g.event.Room, g.event.ID)
		if err == nil {
			f.before[g.event.ID] = m
		}
		return err == nil
	}), nil
}
