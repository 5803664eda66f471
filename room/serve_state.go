package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Each calls fn with every event in the federation format. raw is only good until
// fn returns, and no transaction is open meanwhile: fn may wait for a slow server.
func (l EventList) Each(ctx context.Context, fn func(raw jsontext.Value) error) error {
	for !l.Empty() {
		var events []*Event
		err := l.engine.store.View(ctx, func(tx *store.Tx) (err error) {
			events, err = l.Next(tx)
			return err
		})
		if err != nil {
			return fmt.Errorf("read events for another server: %w", err)
		}
		for _, ev := range events {
			if err := fn(event.AppendFederation(nil, ev.PDU, nil)); err != nil {
				return err
			}
		}
	}
	return nil
}

// IDs names the events.
func (l EventList) IDs(ctx context.Context) (ids []id.Event, err error) {
	ids = make([]id.Event, 0, len(l.nids))
	for nids := range slices.Chunk(l.nids, 50*readAtOnce) {
		err := l.engine.store.View(ctx, func(tx *store.Tx) error {
			some, err := tx.Events.IDs(nids)
			ids = append(ids, some...)
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("read event ids for another server: %w", err)
		}
	}
	return ids, nil
}

// StateAnswer is a room's state with its auth chain.
type StateAnswer struct{ State, AuthChain EventList }

// ServeState is the state of a room before an event, for another server.
// spec: server-server-api#get_matrixfederationv1stateroomid
func (e *Engine) ServeState(ctx context.Context, server id.Server, room id.Room, at id.Event) (a StateAnswer, err error) {
	err = e.visit(ctx, server, room, func(tx *store.Tx, v *visitor) error {
		if err := v.mustBeIn(); err != nil {
			return err
		}
		if v.room.Partial.Version != 0 {
			// Others know it, so whoever asks need not wait for this server.
			return errcode.Forbidden("this server has only just joined room %s and does not know all of its state yet", room)
		}
		ev, ok, err := v.event(tx, at)
		if err != nil {
			return err
		}
		// By what others do not know an event sent here was judged, only this server can say.
		ours := ok && ev.PDU.Sender.Server() == e.options.Server
		if !ok || ev.Flags&(store.Outlier|store.Stateless) != 0 || ev.Flags&store.Guessed != 0 && !ours {
			return errcode.NotFound("the state of room %s at event %s is not known here", room, at)
		}
		entries, err := e.entriesBefore(tx, ev)
		if err != nil {
			return err
		}
		state := eventsOf(entries)
		chain, err := authChain(tx, v.room.NID, state)
		a = StateAnswer{e.List(state), e.List(chain)}
		return err
	})
	return a, err
}

// ServeAuthChain is the auth chain of an event, for another server.
// spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (e *Engine) ServeAuthChain(ctx context.Context, server id.Server, room id.Room, of id.Event) (chain EventList, err error) {
	err = e.visit(ctx, server, room, func(tx *store.Tx, v *visitor) error {
		if err := v.mustBeIn(); err != nil {
			return err
		}
		ev, ok, err := v.event(tx, of)
		if err != nil {
			return err
		}
		if !ok {
			return errcode.NotFound("event %s is not known here, or not of room %s", of, room)
		}
		nids, err := e.authChainOf(tx, v.room.NID, ev.PDU)
		chain = e.List(nids)
		return err
	})
	return chain, err
}

// entriesBefore is the whole state of the room before an event.
func (e *Engine) entriesBefore(tx *store.Tx, ev *Event) ([]store.StateEntry, error) {
	if ev.StateBefore >= 0 {
		return tx.State.All(ev.Room, ev.StateBefore)
	}
	o, ok, err := tx.Overlays.Get(-ev.StateBefore)
	if err != nil || !ok {
		return nil, fmt.Errorf("overlay %d: found %t: %w", -ev.StateBefore, ok, err)
	}
	entries, err := tx.State.All(ev.Room, o.Version)
	if err != nil {
		return nil, err
	}
	return withChanges(entries, o.Changes), nil
}

// withChanges is a state with some entries changed; event 0 takes one away. Both are
// in order of keys.
func withChanges(entries, changes []store.StateEntry) []store.StateEntry {
	merged := make([]store.StateEntry, 0, len(entries)+len(changes))
	for _, c := range changes {
		for len(entries) > 0 && entries[0].Key < c.Key {
			merged, entries = append(merged, entries[0]), entries[1:]
		}
		if len(entries) > 0 && entries[0].Key == c.Key {
			entries = entries[1:]
		}
		if c.Event != 0 {
			merged = append(merged, c)
		}
	}
	return append(merged, entries...)
}

// authChainOf is the auth chain of one event, which need not be a state event.
func (e *Engine) authChainOf(tx *store.Tx, room store.RoomNID, pdu *event.PDU) ([]store.EventNID, error) {
	var nids []store.EventNID
	for _, name := range pdu.AuthEvents {
		ev, ok, err := e.Event(tx, room, name)
		if err != nil {
			return nil, err
		}
		if ok {
			nids = append(nids, ev.NID)
		}
	}
	chain, err := authChain(tx, room, nids)
	return union(nids, chain), err
}

// union is two lists as one in order, each event once.
func union(a, b []store.EventNID) []store.EventNID {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// authChain is the auth events of some state events, and theirs, in order of nid:
// each after its own auth events. The work is in proportion to the edges.
func authChain(tx *store.Tx, room store.RoomNID, of []store.EventNID) ([]store.EventNID, error) {
	seen := map[store.EventNID]bool{}
	asked := make(map[store.EventNID]bool, len(of))
	for _, nid := range of {
		asked[nid] = true
	}
	for next := of; len(next) > 0; {
		nodes, err := tx.AuthGraph.Load(room, next)
		if err != nil {
			return nil, fmt.Errorf("read auth graph: %w", err)
		}
		next = nil
		for _, n := range nodes {
			for _, a := range n.Auth {
				if seen[a] {
					continue
				}
				if seen[a] = true; !asked[a] { // whose auth events were read already
					next = append(next, a)
				}
			}
		}
	}
	chain := make([]store.EventNID, 0, len(seen))
	for nid := range seen {
		chain = append(chain, nid)
	}
	slices.Sort(chain)
	return chain, nil
}
