package room

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// A room that was joined by way of another server has a partial state at first: the
// join brings everything but most members. It can be read and written at once; what
// needs all members waits. Meanwhile
//
//   - members whose events go with what arrives are believed (learn),
//   - events with previous events that are not known are judged by what is known,
//   - what the state does not allow is rejected for the time being (store.Preliminary),
//   - other servers are not let in by way of this one.
//
// The rest is fetched in the background (resync.go), or worked out (beside.go). Then the room is rewound to the
// join, now with its whole state, and what came since is judged again (rewind.go). If
// all leave before that, the state stays as it is until somebody joins again: then it
// goes on (goOn), or what came since the earlier join is given up (abandon).
// spec: server-server-api#put_matrixfederationv2send_joinroomideventid (omit_members)

// lacking says of a state that another server told what it lacks.
type lacking struct {
	via     id.Server         // who told it
	servers []store.ServerNID // that are in the room
}

// maxToldServers bounds how many servers in a room another server is believed.
const maxToldServers = 20_000

// lacks is what an answer to a join lacks; nil: nothing.
func (e *Engine) lacks(ctx context.Context, via id.Server, a JoinAnswer) (*lacking, error) {
	if !a.MembersOmitted {
		return nil, nil
	}
	l := &lacking{via: via}
	err := e.store.Update(ctx, func(tx *store.Tx) error {
		l.servers = l.servers[:0]
		for _, s := range append(a.ServersInRoom[:min(len(a.ServersInRoom), maxToldServers)], via) {
			name, err := id.ParseServer(string(s))
			if err != nil || name == e.options.Server {
				continue // a name that is none cannot be told anything
			}
			nid, err := tx.IDs.Server(name)
			if err != nil {
				return err
			}
			l.servers = append(l.servers, nid)
		}
		return nil
	})
	return l, err
}

// noteLacking marks the room's state as partial, or as whole (nil), from the version on
// that the join met.
func (w *writing) noteLacking(l *lacking, join store.EventNID) {
	h := *w.head
	was := h.Partial
	h.Partial = store.Partial{}
	if was.Version != 0 {
		h.servers = h.servers.untold() // it may be long ago that they were told
	}
	if l != nil {
		h.Partial = store.Partial{Version: h.StateVersion, Join: join, Via: l.via}
		h.servers = h.servers.told(l.servers)
	}
	w.head = &h
	switch {
	case l != nil:
		w.first = append(w.first, func(tx *store.Tx, _ int64) error {
			if err := tx.RoomServers.Untell(h.NID); err != nil {
				return err
			}
			for _, nid := range l.servers {
				if err := tx.RoomServers.Tell(h.NID, nid); err != nil {
					return fmt.Errorf("note servers in %s: %w", h.ID, err)
				}
			}
			return tx.Rooms.SetPartial(h.NID, h.Partial)
		})
	case was.Version != 0:
		w.also = append(w.also, w.becomeWhole)
	}
}

// withNamed is a partial state with the members that the join itself names: without the
// invite of who joins, or whoever vouches for them, nobody could join by it. The server
// that tells the state has let them in by these.
func (w *writing) withNamed(state *StateMap, auth []*Event) *StateMap {
	for _, ev := range auth {
		if _, member := store.IsMemberKey(ev.Key); !member || !ev.IsState || ev.Flags.Refused() || ev.Room != w.head.NID {
			continue
		}
		if _, told := state.Get(ev.Key); !told {
			state = state.Set(ev.Key, ev.NID)
		}
	}
	return state
}

// withLocals is a partial state with what is known of users here from an earlier time
// in the room. Not from one that was abandoned: others may have refused what was said of them
// then, and with it what would rest on it now.
func (w *writing) withLocals(tx *store.Tx, state *StateMap) (*StateMap, error) {
	members, err := tx.Members.LocalOfRoom(w.head.NID)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		key := store.MemberKey(m.User)
		old, ok := w.head.State.Get(key)
		if _, told := state.Get(key); !ok || told {
			continue
		}
		events, err := w.engine.Events(tx, []store.EventNID{old})
		if err != nil {
			return nil, err
		}
		if events[0].Flags&store.Outlier == 0 {
			state = state.Set(key, old)
		}
	}
	return state, nil
}

// learn adds members to a partial state of whom it never had anything, from the auth events of
// an event that arrives. Who sent that event claims no more than they have to prove
// once the state is whole.
func (w *writing) learn(tx *store.Tx, auth []*Event) error {
	if w.head.Partial.Version == 0 {
		return nil
	}
	var learned []change
	servers := map[id.Server]store.ServerNID{}
	for _, ev := range auth {
		if _, ok := w.head.State.Get(ev.Key); ok || !w.isBelieved(ev) {
			continue
		}
		if log, err := tx.State.History(w.head.NID, ev.Key); err != nil {
			return err
		} else if len(log) > 0 && log[len(log)-1].Version >= w.head.Partial.Version || w.changed(ev.Key) {
			continue // the state has lost the membership since the join
		}
		c, err := w.snapshotChange(tx, store.StateEntry{Key: ev.Key, Event: ev.NID}, nil, ev.PDU, servers)
		if err != nil {
			return err
		}
		learned = append(learned, c)
	}
	if len(learned) == 0 {
		return nil
	}
	h := *w.head
	h.past = slices.Clone(h.past)
	for _, c := range learned {
		h.State = h.State.Set(c.key, c.event)
		for i, p := range h.past {
			if _, ok := p.state.Get(c.key); !ok && p.version >= h.Partial.Version {
				h.past[i].state = p.state.Set(c.key, c.event)
			}
		}
	}
	if err := h.apply(learned); err != nil {
		return err
	}
	w.head = &h
	w.first = append(w.first, func(tx *store.Tx, position int64) error {
		return w.commitSnapshot(tx, learned, h.Partial.Version, max(position, tx.Position()))
	})
	return nil
}

// isBelieved says whether an auth event tells of a member of whom a partial state may
// have nothing.
func (w *writing) isBelieved(ev *Event) bool {
	_, member := store.IsMemberKey(ev.Key)
	return member && ev.IsState && !ev.Flags.Refused() && ev.Room == w.head.NID &&
		id.User(*ev.PDU.StateKey).Server() != w.engine.options.Server
}

// withLearned is the state that an event meets with the members that learn believes.
func (w *writing) withLearned(m *StateMap, auth []*Event) *StateMap {
	if w.head.Partial.Version == 0 {
		return m
	}
	for _, ev := range auth {
		if _, ok := m.Get(ev.Key); !ok && w.isBelieved(ev) {
			m = m.Set(ev.Key, ev.NID)
		}
	}
	return m
}

// partialRooms tells within this process of rooms whose state became partial or whole.
// The store knows which are; this only wakes.
type partialRooms struct {
	mu    sync.Mutex
	begun chan struct{}
	whole map[id.Room]chan struct{}
	// rounds counts how many times all servers of a room were asked in vain.
	rounds map[id.Room]int
}

// round counts one more round, and says how many there were before.
func (p *partialRooms) round(room id.Room) (before int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.rounds == nil {
		p.rounds = map[id.Room]int{}
	}
	before = p.rounds[room]
	p.rounds[room]++
	return before
}

// begin wakes whoever fetches states.
func (p *partialRooms) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun != nil {
		close(p.begun)
		p.begun = nil
	}
}

// next is closed when another room's state is partial.
func (p *partialRooms) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.begun == nil {
		p.begun = make(chan struct{})
	}
	return p.begun
}

// end wakes whoever waits for the whole state of a room.
func (p *partialRooms) end(room id.Room) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.rounds, room)
	if c, ok := p.whole[room]; ok {
		close(c)
		delete(p.whole, room)
	}
}

// ended is closed when the state of a room is whole.
func (p *partialRooms) ended(room id.Room) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.whole[room]
	if !ok {
		if p.whole == nil {
			p.whole = map[id.Room]chan struct{}{}
		}
		c = make(chan struct{})
		p.whole[room] = c
	}
	return c
}

const (
	// wholeTime bounds how long a request waits for the members of a room.
	wholeTime = 2 * time.Minute
	// lookAgain is when to look into the store: another process may have fetched them.
	lookAgain = 5 * time.Second
)

// awaitWhole waits until the state of a room has all members. A room that is not known
// is none that lacks any.
func (e *Engine) awaitWhole(ctx context.Context, room id.Room) error {
	var limit <-chan time.Time
	for {
		ended := e.partial.ended(room)
		if partial, err := e.isPartial(ctx, room); err != nil || !partial {
			e.partial.end(room)
			return err
		}
		if limit == nil {
			limit = time.After(wholeTime)
		}
		select {
		case <-ended:
		case <-time.After(lookAgain):
		case <-limit:
			return errcode.New(504, "M_UNKNOWN", "the members of %s have not been received from other servers yet; try again later", room)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitMember waits until it is known what a user's membership is.
func (e *Engine) awaitMember(ctx context.Context, room id.Room, user id.User) error {
	h, ok, err := e.Head(ctx, room)
	if err != nil || !ok || h.Partial.Version == 0 {
		return err
	}
	known := false
	err = e.store.View(ctx, func(tx *store.Tx) error {
		_, known, err = e.StateEvent(tx, h, event.StateTuple{Type: event.TypeMember, Key: string(user)})
		return err
	})
	if err != nil || known {
		return err
	}
	return e.awaitWhole(ctx, room)
}

// isPartial says whether members are missing of a room that somebody here is in: if all
// have left, nobody will ever tell them.
func (e *Engine) isPartial(ctx context.Context, room id.Room) (bool, error) {
	if unfinished, err := e.isUnfinished(ctx, room); err != nil || !unfinished {
		return false, err
	}
	return e.isResident(ctx, room)
}

// isUnfinished says whether the state of a room never became whole.
func (e *Engine) isUnfinished(ctx context.Context, room id.Room) (unfinished bool, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Rooms.Get(room)
		unfinished = ok && row.Partial.Version != 0
		return err
	})
	return unfinished, err
}

// errPartial is for other servers that ask for what takes the whole state.
func errPartial(room id.Room) error {
	return errcode.NotFound("this server has only just joined room %s and does not know all of it yet", room)
}

// becomeWhole notes that the state has all members. The last to be written.
func (w *writing) becomeWhole(tx *store.Tx) error {
	if err := tx.RoomServers.Untell(w.head.NID); err != nil {
		return err
	}
	if err := tx.Rooms.SetWhole(w.head.NID, tx.Position()); err != nil {
		return err
	}
	tx.AfterCommit(func() { w.engine.partial.end(w.head.ID) })
	return nil
}
