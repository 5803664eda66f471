package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
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
				err := e.completeState(ctx, r.ID, slots)
				busy.remove(r.ID)
				if partial, failed := e.isPartial(ctx, r.ID); partial && err == nil {
					e.partial.begin() // somebody has joined it again just now
				} else if err = errors.Join(err, failed); err != nil && ctx.Err() == nil {
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
// whether there is nothing more to ask for.
func (e *Engine) CompleteState(ctx context.Context, room id.Room) (done bool, err error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil {
		return false, err
	}
	if !ok || h.Partial.Version == 0 {
		return true, nil
	}
	if len(h.Locals) == 0 {
		return true, nil // nobody tells a server that is not in the room; whoever joins begins anew
	}
	return e.completeRound(ctx, h)
}

// completeRound asks each server once, and says whether the state is whole. The server that let
// us in is believed: the join rests on its word. Of the others two have to tell the same, since
// any one of them may be hostile; one alone is believed when there is no third, or when the rest
// has not answered for long. Until then, states at gaps since the join are waited for as well: who
// can tell them may be out of reach, or not have its own state whole.
func (e *Engine) completeRound(ctx context.Context, h *Head) (bool, error) {
	servers, err := e.tellers(ctx, h)
	if err != nil {
		return false, err
	}
	late := e.partial.round(h.ID) >= loneRounds
	alone := late || len(servers) <= 2
	for i, server := range servers {
		began := time.Now()
		f, err := e.fetchWhole(ctx, server, servers, h)
		if err == nil && server != h.Partial.Via && !alone && !e.seconded(ctx, servers[i+1:], h, f) {
			err = errAlone
		}
		if err == nil && f.lacks > 0 && !late {
			slog.InfoContext(ctx, "the state of a room is not known at some gaps in its history", "room", h.ID, "server", server, "gaps", f.lacks)
			return false, nil
		}
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

// loneRounds is after how many rounds one server alone is believed, and what nobody tells is done
// without: about half a minute.
const loneRounds = 5

var errAlone = errors.New("no other server tells the same")

// seconded says whether one of some servers tells the same states before the join.
func (e *Engine) seconded(ctx context.Context, servers []id.Server, h *Head, f *fetched) bool {
	for _, server := range servers {
		if server == h.Partial.Via {
			continue
		}
		telling, cancel := context.WithTimeout(ctx, fetchTime)
		same, err := e.tellsTheSame(telling, server, h, f)
		cancel()
		if err != nil {
			slog.DebugContext(ctx, "the members of a room are not confirmed", "room", h.ID, "server", server, "error", err)
		}
		if same {
			return true
		}
	}
	return false
}

// tellsTheSame says whether a server tells the same states before the join as another did.
func (e *Engine) tellsTheSame(ctx context.Context, server id.Server, h *Head, f *fetched) (bool, error) {
	join, err := e.joinOf(ctx, h)
	if err != nil {
		return false, err
	}
	if met := f.before[join.ID]; met != nil {
		m, err := e.fetchStateBefore(ctx, server, h.Version, h.ID, join.ID)
		return err == nil && len(m.Diff(met)) == 0, err
	}
	for _, name := range join.PDU.PrevEvents {
		m, err := e.fetchStateAfter(ctx, server, h.Version, h.ID, name)
		if err != nil || len(m.Diff(f.states[name])) != 0 {
			return false, err
		}
	}
	return true, nil
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

// fetchWhole fetches what makes a partial state whole from one server, and from others too what
// that cannot tell of the time since.
func (e *Engine) fetchWhole(ctx context.Context, server id.Server, others []id.Server, h *Head) (*fetched, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	f := &fetched{partial: h.Partial, states: map[id.Event]*StateMap{}, before: map[id.Event]*StateMap{}, derivable: map[id.Event]bool{}, members: map[store.EventNID]memberChange{}}
	join, err := e.joinOf(ctx, h)
	if err != nil {
		return nil, err
	}
	if err := e.fetchBefore(ctx, server, h, join, f); err != nil {
		return nil, err
	}
	if err := e.fetchSince(ctx, append([]id.Server{server}, others...), h, join, f); err != nil {
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

// joinOf is the join that met a partial state.
func (e *Engine) joinOf(ctx context.Context, h *Head) (join *Event, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		events, err := e.Events(tx, []store.EventNID{h.Partial.Join})
		if err == nil {
			join = events[0]
		}
		return err
	})
	return join, err
}

// fetchBefore fetches the states after the events before the join. Also after those that are
// known here: what was known of the state there may be no more than of an earlier time in the room.
// A server that does not know one of them may know what the join met nevertheless: it was told
// that when the join arrived, and what comes before it only later, as old history.
func (e *Engine) fetchBefore(ctx context.Context, server id.Server, h *Head, join *Event, f *fetched) error {
	for _, name := range join.PDU.PrevEvents {
		m, err := e.fetchStateAfter(ctx, server, h.Version, h.ID, name)
		if told := (*errcode.Error)(nil); errors.As(err, &told) && told.Status == http.StatusNotFound {
			clear(f.states)
			f.before[join.ID], err = e.fetchStateBefore(ctx, server, h.Version, h.ID, join.ID)
			return err
		}
		if err != nil {
			return fmt.Errorf("state after %s: %w", name, err)
		}
		f.states[name] = m
	}
	return nil
}

const (
	// maxGapsSince bounds at how many gaps in the history since the join states are asked for.
	maxGapsSince = 50
	// maxGapTellers bounds how many servers are asked at each.
	maxGapTellers = 5
)

// gapSince is an event since a join before which some events are missing, or known only from
// an earlier time in the room.
type gapSince struct {
	event   *event.PDU
	missing []id.Event
}

// fetchSince fetches the states at gaps in the history since the join: from the server that
// tells the rest, from whoever made what comes after, or from others.
func (e *Engine) fetchSince(ctx context.Context, servers []id.Server, h *Head, join *Event, f *fetched) error {
	gaps, err := e.gapsSince(ctx, join)
	if err != nil {
		return err
	}
	for _, g := range gaps[:min(len(gaps), maxGapsSince)] {
		ask := servers[:1:1]
		for _, s := range append([]id.Server{g.event.Sender.Server()}, servers...) {
			if s != e.options.Server && !slices.Contains(ask, s) && len(ask) < maxGapTellers {
				ask = append(ask, s)
			}
		}
		known, err := e.fetchAtGap(ctx, ask, h.Version, g, f)
		if err != nil {
			return err
		}
		if !known {
			f.lacks++
			slog.DebugContext(ctx, "the state at a gap is not known", "event", g.event.ID, "servers", ask)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// gapsSince lists the gaps in the history since a join.
func (e *Engine) gapsSince(ctx context.Context, join *Event) (gaps []gapSince, err error) {
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
			var missing []id.Event
			for _, name := range ev.PDU.PrevEvents {
				if !whole[name] {
					missing = append(missing, name)
				}
			}
			if len(missing) > 0 {
				gaps = append(gaps, gapSince{ev.PDU, missing})
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
