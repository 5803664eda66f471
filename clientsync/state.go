package clientsync

import (
	"context"

	"hearth/room"
	"hearth/store"
)

// state is what goes into `state` or `state_after`: for each entry of the
// room's state, the event the client shall have.
type state struct {
	events  []store.EventNID
	has     map[store.StateKey]bool
	members bool // a membership changed
}

func (st *state) add(key store.StateKey, nid store.EventNID) {
	if nid != 0 && !st.has[key] {
		st.has[key] = true
		st.events = append(st.events, nid)
	}
}

func (r *Request) stateAfter() bool { return r.StateAfter || r.StateAfterUnstable }

// state works out the state that goes with a timeline.
//
// With state_after it is that at the end. Otherwise it is that at the start, but
// for entries whose last change is not in the timeline, as a filter or the
// history visibility keeps it from the client: these are as at the end, since
// the client has no other way to get there.
func (y *response) state(tx *store.Tx, sp *span, t *timeline) (*state, error) {
	st := &state{has: map[store.StateKey]bool{}}
	if sp.own != 0 && (y.req.stateAfter() || !t.shown()[sp.own]) {
		st.add(store.MemberKey(y.user), sp.own)
	}
	if sp.noState {
		return st, nil
	}
	if sp.whole {
		return st, y.wholeState(tx, sp, t, st)
	}
	if !y.req.stateAfter() && !t.limited && t.gapless {
		return st, nil
	}
	changed, err := tx.Events.ChangedKeys(sp.view.Room.NID, sp.from, sp.to)
	if err != nil {
		return nil, err
	}
	inGap := map[store.StateKey]bool{}
	keys := make([]store.StateKey, len(changed))
	for i, c := range changed {
		keys[i] = c.Key
		inGap[c.Key] = c.First <= t.start
		if _, isMember := store.IsMemberKey(c.Key); isMember {
			st.members = true
		}
	}
	atEnd, err := lookUp(tx, sp.view.Room.NID, keys, sp.stateAt)
	if err != nil {
		return nil, err
	}
	shown := t.shown()
	if y.req.stateAfter() {
		for _, key := range keys {
			st.add(key, atEnd[key])
		}
		return st, nil
	}
	atStart, err := y.atStart(tx, sp, t, keys)
	if err != nil {
		return nil, err
	}
	for _, key := range keys {
		if !shown[atEnd[key]] {
			st.add(key, atEnd[key])
		} else if inGap[key] {
			st.add(key, atStart[key])
		}
	}
	return st, nil
}

func (y *response) wholeState(tx *store.Tx, sp *span, t *timeline, st *state) error {
	version := sp.stateAt
	if !y.req.stateAfter() {
		start, err := y.startVersion(tx, sp, t)
		if err != nil {
			return err
		}
		version = start
		if err := y.branchState(tx, sp, t, st); err != nil {
			return err
		}
		if !t.gapless {
			if err := y.hiddenState(tx, sp, t, st); err != nil {
				return err
			}
		}
	}
	read := tx.State.All
	if y.filter.Room.State.LazyLoadMembers {
		read = tx.State.NonMembers
	}
	entries, err := read(sp.view.Room.NID, version)
	for _, e := range entries {
		st.add(e.Key, e.Event)
	}
	return err
}

// branchState adds what the room's state has of events in the timeline that lie on a
// branch from before its start. The timeline is in the order of arrival, as the
// specification has it; to those who go by the order of the graph, the conformance suite
// among them, such an event came before the timeline. To have it twice does no harm.
// spec: client-server-api#syncing
func (y *response) branchState(tx *store.Tx, sp *span, t *timeline, st *state) error {
	for _, ev := range t.events {
		if !ev.IsState || ev.Depth > t.cut {
			continue
		}
		nid, ok, err := tx.State.At(sp.view.Room.NID, ev.Key, sp.stateAt)
		if err != nil {
			return err
		}
		if ok && nid == ev.NID {
			st.add(ev.Key, nid)
		}
	}
	return nil
}

// hiddenState adds the entries that changed after the timeline's start by
// events which are not shown in it.
func (y *response) hiddenState(tx *store.Tx, sp *span, t *timeline, st *state) error {
	changed, err := tx.Events.ChangedKeys(sp.view.Room.NID, t.start, sp.to)
	if err != nil {
		return err
	}
	keys := make([]store.StateKey, 0, len(changed))
	for _, c := range changed {
		if _, isMember := store.IsMemberKey(c.Key); !isMember || !y.filter.Room.State.LazyLoadMembers {
			keys = append(keys, c.Key)
		}
	}
	atEnd, err := lookUp(tx, sp.view.Room.NID, keys, sp.stateAt)
	shown := t.shown()
	for key, nid := range atEnd {
		if !shown[nid] {
			st.add(key, nid)
		}
	}
	return err
}

func (t *timeline) shown() map[store.EventNID]bool {
	shown := make(map[store.EventNID]bool, len(t.events))
	for _, ev := range t.events {
		shown[ev.NID] = true
	}
	return shown
}

// startVersion is the version of the state before the timeline; never newer than what the user may know.
func (y *response) startVersion(tx *store.Tx, sp *span, t *timeline) (int64, error) {
	version, err := y.s.rooms.StateVersionAt(tx, sp.view.Room, t.start)
	return min(version, sp.stateAt), err
}

func (y *response) atStart(tx *store.Tx, sp *span, t *timeline, keys []store.StateKey) (map[store.StateKey]store.EventNID, error) {
	version, err := y.startVersion(tx, sp, t)
	if err != nil {
		return nil, err
	}
	return lookUp(tx, sp.view.Room.NID, keys, version)
}

// fewKeys is up to how many entries are faster looked up one by one than by reading the whole state.
const fewKeys = 200

// lookUp reads some entries of a version of a room's state.
func lookUp(tx *store.Tx, room store.RoomNID, keys []store.StateKey, version int64) (map[store.StateKey]store.EventNID, error) {
	found := make(map[store.StateKey]store.EventNID, len(keys))
	if len(keys) > fewKeys {
		for _, key := range keys {
			found[key] = 0
		}
		all, err := tx.State.All(room, version)
		for _, e := range all {
			if _, asked := found[e.Key]; asked {
				found[e.Key] = e.Event
			}
		}
		return found, err
	}
	for _, key := range keys {
		nid, ok, err := tx.State.At(room, key, version)
		if err != nil {
			return nil, err
		}
		if ok {
			found[key] = nid
		}
	}
	return found, nil
}

// stateChunk is how many events of a large state are held at once.
const stateChunk = 500

// largeState is a state that is not written where it was found: see writeLarge.
type largeState struct {
	span  *span
	state *state
}

// tellState writes `state` or `state_after`, or leaves that to writeLarge, and says whether
// there is anything to tell.
func (y *response) tellState(tx *store.Tx, sp *span, st *state) (bool, error) {
	if y.parts && len(st.events) > stateChunk {
		y.large = &largeState{sp, st}
		return true, nil
	}
	return y.writeState(sp, st, func(fn func(*store.Tx) error) error { return fn(tx) })
}

// writeLarge writes the state of the room that was written last into its object, if that was
// left out: bit by bit, with no snapshot held while the client takes it.
func (y *response) writeLarge(ctx context.Context) error {
	if y.large == nil {
		return nil
	}
	l := *y.large
	y.large = nil
	y.w.reopen()
	_, err := y.writeState(l.span, l.state, func(fn func(*store.Tx) error) error {
		if err := y.s.store.View(ctx, fn); err != nil {
			return err
		}
		return y.w.flushFull()
	})
	y.w.b = append(y.w.b, '}')
	return err
}

// writeState writes `state` or `state_after` with events that it reads, some at a time, by
// way of view. It says whether there was anything to tell.
func (y *response) writeState(sp *span, st *state, view func(func(*store.Tx) error) error) (bool, error) {
	names := []string{"state"}
	if y.req.stateAfter() {
		names = names[:0]
		if y.req.StateAfter {
			names = append(names, "state_after")
		}
		if y.req.StateAfterUnstable {
			names = append(names, "org.matrix.msc4222.state_after")
		}
	}
	some := false
	for _, name := range names {
		// state_after tells by its presence that the server knows it, so it is there even when empty.
		err := y.w.events(name, y.req.stateAfter(), func() error {
			start := y.w.size()
			for list := y.s.rooms.List(st.events); !list.Empty(); {
				if err := view(func(tx *store.Tx) error { return y.writeStateEvents(tx, sp, &list) }); err != nil {
					return err
				}
			}
			some = some || y.w.size() > start
			return nil
		})
		if err != nil {
			return false, err
		}
	}
	return some, nil
}

// writeStateEvents writes the next few events of a list.
func (y *response) writeStateEvents(tx *store.Tx, sp *span, list *room.EventList) error {
	events, err := list.Next(tx)
	if err != nil {
		return err
	}
	wanted := events[:0]
	for _, ev := range events {
		if y.filter.Room.State.Match(filtered(sp, ev)) {
			wanted = append(wanted, ev)
			if y.filter.Room.State.LazyLoadMembers {
				y.sentMember(sp, ev)
			}
		}
	}
	format := y.format()
	format.OmitReplaced = true
	return y.appendEvents(tx, sp, wanted, format)
}
