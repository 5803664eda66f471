package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

const (
	// resyncsAtOnce bounds how many rooms are made whole side by side.
	resyncsAtOnce = 4
	// After a round in which no server could tell the state of a room, the next waits.
	firstResyncWait, longestResyncWait = time.Second, 10 * time.Minute
	// fetchTime bounds how long one server may take to tell a state.
	fetchTime = 15 * time.Minute
)

// CompleteStates makes the states of rooms whole that were joined without their members,
// those of an earlier run of the program too, until ctx ends.
func (e *Engine) CompleteStates(ctx context.Context) error {
	if e.options.Network == nil {
		return nil
	}
	var group sync.WaitGroup
	defer group.Wait()
	slots := make(chan struct{}, resyncsAtOnce)
	var busy roomSet
	for {
		next := e.partial.next()
		var rooms []store.Room
		err := e.store.View(ctx, func(tx *store.Tx) (err error) {
			rooms, err = tx.Rooms.Partial()
			return err
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list rooms with partial state: %w", err)
		}
		for _, r := range rooms {
			if !busy.add(r.ID) {
				continue
			}
			group.Go(func() {
				defer busy.remove(r.ID)
				if err := e.completeState(ctx, r.ID, slots); err != nil && ctx.Err() == nil {
					slog.ErrorContext(ctx, "the members of a room are not fetched", "room", r.ID, "error", err)
				}
			})
		}
		select {
		case <-next:
		case <-time.After(longestResyncWait):
		case <-ctx.Done():
			return nil
		}
	}
}

// roomSet is the rooms that somebody is at work on.
type roomSet struct {
	mu sync.Mutex
	in map[id.Room]bool
}

func (s *roomSet) add(r id.Room) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in[r] {
		return false
	}
	if s.in == nil {
		s.in = map[id.Room]bool{}
	}
	s.in[r] = true
	return true
}

func (s *roomSet) remove(r id.Room) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.in, r)
}

// completeState asks the servers in the room again and again, until the state is whole.
func (e *Engine) completeState(ctx context.Context, room id.Room, slots chan struct{}) error {
	for wait := firstResyncWait; ; wait = min(2*wait, longestResyncWait) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		done, err := e.CompleteState(ctx, room)
		<-slots
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// CompleteState asks one server in a room after the other for what its state lacks, and says
// whether nothing does any more.
func (e *Engine) CompleteState(ctx context.Context, room id.Room) (whole bool, err error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil {
		return false, err
	}
	if !ok || h.Partial.Version == 0 {
		return true, nil
	}
	if whole, err := e.completeRound(ctx, h); whole || err != nil {
		return whole, err
	}
	h, ok, err = e.Head(ctx, room)
	if err != nil || !ok || len(h.Locals) > 0 {
		return false, err
	}
	// Nobody tells a server that is not in the room. Whoever joins begins anew.
	return true, e.write(ctx, room, func(w *writing) error { return w.giveUp() })
}

// giveUp takes the state of a room that nobody here is in as it is.
func (w *writing) giveUp() error {
	if w.head.Partial.Version == 0 || len(w.head.Locals) > 0 {
		return nil
	}
	h := *w.head
	h.Partial, h.servers = store.Partial{}, h.servers.untold()
	w.head = &h
	w.also = append(w.also, func(tx *store.Tx) error {
		tx.NextPosition()
		return w.becomeWhole(tx)
	})
	return nil
}

// completeRound asks each server once, and says whether the state is whole.
func (e *Engine) completeRound(ctx context.Context, h *Head) (bool, error) {
	servers, err := e.tellers(ctx, h)
	if err != nil {
		return false, err
	}
	for _, server := range servers {
		began := time.Now()
		f, err := e.fetchWhole(ctx, server, h)
		if err == nil {
			err = e.write(ctx, h.ID, func(w *writing) error { return w.rewind(ctx, f) })
		}
		switch {
		case err == nil:
			slog.InfoContext(ctx, "the state of a room is whole", "room", h.ID, "server", server, "members", len(f.members), "took", time.Since(began))
			return true, nil
		case errors.Is(err, errRejoined):
			return false, nil
		case ctx.Err() != nil:
			return false, nil
		}
		slog.InfoContext(ctx, "a server did not tell the members of a room", "room", h.ID, "server", server, "error", err)
	}
	return false, nil
}

// maxTellers bounds how many servers are asked in one round.
const maxTellers = 50

// tellers are the servers to ask: first the one that let us in.
func (e *Engine) tellers(ctx context.Context, h *Head) ([]id.Server, error) {
	list := []id.Server{h.Partial.Via}
	err := e.store.View(ctx, func(tx *store.Tx) error {
		for _, c := range h.servers.list {
			name, err := tx.IDs.ServerName(c.Server)
			if err != nil {
				return err
			}
			if name != e.options.Server && !slices.Contains(list, name) && len(list) < maxTellers {
				list = append(list, name)
			}
		}
		return nil
	})
	return list, err
}

// fetchWhole fetches what makes a partial state whole from one server.
func (e *Engine) fetchWhole(ctx context.Context, server id.Server, h *Head) (*fetched, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	f := &fetched{partial: h.Partial, states: map[id.Event]*StateMap{}, before: map[id.Event]*StateMap{}, members: map[store.EventNID]memberChange{}}
	var join *Event
	err := e.store.View(ctx, func(tx *store.Tx) error {
		events, err := e.Events(tx, []store.EventNID{h.Partial.Join})
		if err == nil {
			join = events[0]
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	// Also after events that are known here: what was known of the state there may be
	// no more than of an earlier time in the room.
	for _, name := range join.PDU.PrevEvents {
		if f.states[name], err = e.fetchStateAfter(ctx, server, h.Version, h.ID, name); err != nil {
			return nil, fmt.Errorf("state after %s: %w", name, err)
		}
	}
	if err := e.fetchSince(ctx, server, h.Version, join, f); err != nil {
		return nil, err
	}
	for _, told := range []map[id.Event]*StateMap{f.states, f.before} {
		for _, m := range told {
			if err := e.readMembers(ctx, m, f.members); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// maxGapsSince bounds at how many gaps in the history since the join states are asked for.
const maxGapsSince = 50

// fetchSince fetches the states at gaps in the history since the join: from the server that
// tells the rest, else from whoever made what comes after. What cannot be had is done without.
func (e *Engine) fetchSince(ctx context.Context, server id.Server, v *roomversion.Version, join *Event, f *fetched) error {
	gaps, err := e.gapsSince(ctx, join)
	if err != nil {
		return err
	}
	for _, p := range gaps[:min(len(gaps), maxGapsSince)] {
		servers := []id.Server{server}
		if maker := p.Sender.Server(); maker != server && maker != e.options.Server {
			servers = append(servers, maker)
		}
		for _, s := range servers {
			// What is missing before the event may be missing there too.
			m, err := e.fetchStateBefore(ctx, s, v, p.Room, p.ID)
			if err == nil {
				f.before[p.ID] = m
				break
			}
			slog.DebugContext(ctx, "the state at a gap is not known", "event", p.ID, "server", s, "error", err)
		}
	}
	return nil
}

// gapsSince lists the events since the join before which some are missing, or known only
// from an earlier time in the room.
func (e *Engine) gapsSince(ctx context.Context, join *Event) (gaps []*event.PDU, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		since, err := e.eventsSince(tx, join)
		if err != nil {
			return err
		}
		whole := map[id.Event]bool{join.ID: true}
		for _, ev := range since {
			whole[ev.ID] = true
		}
		for _, ev := range since {
			if slices.ContainsFunc(ev.PDU.PrevEvents, func(name id.Event) bool { return !whole[name] }) {
				gaps = append(gaps, ev.PDU)
			}
		}
		return nil
	})
	return gaps, err
}

// readMembers adds the members of a state.
func (e *Engine) readMembers(ctx context.Context, m *StateMap, into map[store.EventNID]memberChange) error {
	var entries []store.StateEntry
	m.All(func(key store.StateKey, nid store.EventNID) bool {
		if _, ok := store.IsMemberKey(key); ok {
			if _, known := into[nid]; !known {
				entries = append(entries, store.StateEntry{Key: key, Event: nid})
			}
		}
		return true
	})
	for chunk := range slices.Chunk(entries, snapshotChunk) {
		err := e.store.View(ctx, func(tx *store.Tx) error {
			events, err := e.Events(tx, eventsOf(chunk))
			if err != nil {
				return err
			}
			for i, c := range chunk {
				user, _ := store.IsMemberKey(c.Key)
				if into[c.Event], err = e.memberOf(tx, user, events[i]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// errNoState says that an answer is no state of a room.
var errNoState = errors.New("the other server told a state without a create event")

// hasCreate says whether a state has a create event.
func (e *Engine) hasCreate(tx *store.Tx, m *StateMap) (bool, error) {
	key, ok, err := tx.IDs.FindStateKey(event.StateTuple{Type: event.TypeCreate})
	if err != nil || !ok {
		return false, err
	}
	_, ok = m.Get(key)
	return ok, nil
}
