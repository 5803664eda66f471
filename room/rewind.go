package room

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// fetched is what was fetched to make a partial state whole.
type fetched struct {
	partial store.Partial
	// states are those after the events before the join, and after those since then that are
	// missing. before are those that the join and events since met, where that could not be had.
	states, before map[id.Event]*StateMap
	// derivable says of other events that are missing whether the states after them can be worked out.
	derivable map[id.Event]bool
	// members are those of the states, by their events.
	members map[store.EventNID]memberChange
	lacks   int // at so many gaps since the join, nobody tells the state
}

// errRejoined says that the room is not in the partial state any more that was to be
// made whole.
var errRejoined = errors.New("the room has been left, joined again or completed meanwhile")

// rewind takes the room back to the join that met a partial state, now with the whole
// of it, and judges anew what came since, in the order of the history: by the same rules
// as if it arrived now, but in its old place. All of it is one write set.
func (w *writing) rewind(ctx context.Context, f *fetched) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	if w.head.Partial != f.partial {
		return errRejoined
	}
	return w.engine.store.View(ctx, func(tx *store.Tx) error {
		events, err := w.engine.Events(tx, []store.EventNID{f.partial.Join})
		if err != nil {
			return err
		}
		join := events[0]
		told, err := tx.State.All(w.head.NID, f.partial.Version)
		if err != nil {
			return err
		}
		met, err := w.metByJoin(tx, join, newStateMap(told), f)
		if err != nil {
			return err
		}
		if err := w.rewindHead(tx, join, newStateMap(told), met, f); err != nil {
			return err
		}
		since, err := w.engine.eventsSince(tx, join)
		if err != nil {
			return err
		}
		late := ancestors(join, since)
		for _, ev := range since {
			if err := w.judgeAgain(ctx, tx, join, ev, f, late[ev.ID]); err != nil {
				return fmt.Errorf("judge %s again: %w", ev.ID, err)
			}
		}
		h := *w.head
		h.rewound, h.past = false, nil
		w.head = &h
		w.also = append(w.also, w.becomeWhole)
		return nil
	})
}

// metByJoin is the whole state that the join met. Who may do what was told by the server
// that let us in, and the join was judged by it: the others only add members.
func (w *writing) metByJoin(tx *store.Tx, join *Event, told *StateMap, f *fetched) (*StateMap, error) {
	met := f.before[join.ID]
	if met == nil {
		states := make([]*StateMap, len(join.PDU.PrevEvents))
		for i, name := range join.PDU.PrevEvents {
			states[i] = f.states[name]
		}
		var err error
		if met, err = w.resolve(tx, states); err != nil {
			return nil, err
		}
	}
	for _, c := range met.Diff(told) {
		if _, isMember := store.IsMemberKey(c.Key); !isMember {
			met = met.With([]store.StateEntry{c})
		}
	}
	return met, nil
}

// rewindHead makes the head that of the join, on the whole state that it met.
func (w *writing) rewindHead(tx *store.Tx, join *Event, told, met *StateMap, f *fetched) error {
	h := *w.head
	h.Partial = store.Partial{}            // nobody is believed any more
	h.StateVersion = f.partial.Version + 1 // the join's own change
	h.State = met.Set(join.Key, join.NID)
	h.past, h.rewound = []pastState{{f.partial.Version, met}}, true
	h.extremities, h.Extremities = []*Event{join}, []store.EventNID{join.NID}
	h.Create, h.PowerLevels, h.JoinRules, h.HistoryVisibility = nil, nil, nil, nil
	for _, t := range []string{event.TypeCreate, event.TypePowerLevels, event.TypeJoinRules, event.TypeHistoryVisibility} {
		if ev, ok, err := w.engine.StateEvent(tx, &h, event.StateTuple{Type: t}); err != nil {
			return err
		} else if ok {
			h.decode(ev.PDU.Tuple(), ev.PDU)
		}
	}
	if err := h.compile(); err != nil {
		return err
	}
	members, err := w.countMembers(tx, &h, join, f)
	if err != nil {
		return err
	}
	if err := w.head.servers.mostlyIn(h.servers); err != nil {
		return err
	}
	last, err := tx.ReadPosition()
	if err != nil {
		return err
	}
	if w.gaps, err = tx.Gaps.Down(h.NID, join.Position, last, math.MaxInt32); err != nil {
		return err
	}
	changes := told.Diff(met)
	reset, err := w.membersToReset(tx, changes, members, f.partial.Version)
	if err != nil {
		return err
	}
	w.head, w.from, w.takes = &h, h.StateVersion, 1
	w.first = append(w.first, func(tx *store.Tx, _ int64) error {
		return w.commitRewind(tx, &h, join, changes, reset)
	})
	return nil
}

// member is a user in a rewound state.
type member struct {
	memberChange
	event store.EventNID
	// news: it matters to the user, who is of this server, or to those who know the room that the user
	// is in it, or is not.
	news bool
}

// countMembers counts who is in the rewound state, for the head, and returns them.
func (w *writing) countMembers(tx *store.Tx, h *Head, join *Event, f *fetched) (map[store.UserNID]member, error) {
	members := make(map[store.UserNID]member, h.State.Len())
	joined := map[store.ServerNID]int64{}
	h.Joined, h.Invited, h.Locals = 0, 0, nil
	var err error
	h.State.All(func(key store.StateKey, nid store.EventNID) bool {
		user, ok := store.IsMemberKey(key)
		if !ok {
			return true
		}
		m := member{event: nid}
		if m.memberChange, ok = f.members[nid]; !ok {
			var events []*Event
			if events, err = w.engine.Events(tx, []store.EventNID{nid}); err != nil {
				return false
			}
			if m.memberChange, err = w.engine.memberOf(tx, user, events[0]); err != nil {
				return false
			}
		}
		h.count(m.after, +1)
		if m.after == store.Join {
			joined[m.server]++
			if m.local {
				h.Locals = withLocal(h.Locals, user, true)
			}
		}
		members[user] = m
		return true
	})
	h.servers = (&servers{}).with(joined)
	return members, err
}

// memberOf is what a membership event makes of a user.
func (e *Engine) memberOf(tx *store.Tx, user store.UserNID, ev *Event) (m memberChange, err error) {
	server := id.User(*ev.PDU.StateKey).Server()
	m = memberChange{user: user, local: server == e.options.Server, after: membershipOf(ev.PDU)}
	m.server, _, err = tx.IDs.FindServer(server)
	return m, err
}

// membersToReset are those whose row may not be that of the rewound state: of whom
// nothing was known, whose membership changed since, and users here who were told theirs from outside.
func (w *writing) membersToReset(tx *store.Tx, changes []store.StateEntry, members map[store.UserNID]member, version int64) ([]member, error) {
	keys, err := tx.State.KeysAfter(w.head.NID, version)
	if err != nil {
		return nil, err
	}
	for _, c := range changes {
		keys = append(keys, c.Key)
	}
	here, err := tx.Members.LocalOfRoom(w.head.NID)
	if err != nil {
		return nil, err
	}
	for _, row := range here {
		if holds, err := mayHold(tx, row); err != nil {
			return nil, err
		} else if !holds {
			keys = append(keys, store.MemberKey(row.User))
		}
	}
	slices.Sort(keys)
	var reset []member
	for _, key := range slices.Compact(keys) {
		user, ok := store.IsMemberKey(key)
		if !ok {
			continue
		}
		m, ok := members[user]
		if !ok {
			m = member{memberChange: memberChange{user: user}}
		}
		row, known, err := tx.Members.Get(w.head.NID, user)
		if err != nil {
			return nil, err
		}
		if known {
			m.local = row.Local
		}
		m.news = m.local || m.after == store.Join || known && row.Membership == store.Join
		if !known || row.Event != m.event {
			reset = append(reset, m)
		}
	}
	return reset, nil
}

func (w *writing) commitRewind(tx *store.Tx, h *Head, join *Event, changes []store.StateEntry, reset []member) error {
	position := tx.NextPosition()
	if err := tx.State.Rewind(h.NID, h.StateVersion); err != nil {
		return err
	}
	if err := tx.Events.Unshift(h.NID, join.Position); err != nil {
		return err
	}
	w.sortGaps()
	for _, g := range w.gaps {
		if err := tx.Gaps.Drop(g); err != nil {
			return fmt.Errorf("forget the gaps of %s: %w", h.ID, err)
		}
	}
	for _, c := range changes {
		if err := tx.State.Amend(h.NID, c.Key, h.StateVersion-1, c.Event); err != nil {
			return fmt.Errorf("complete the state of %s: %w", h.ID, err)
		}
	}
	for _, m := range reset {
		since := join.Position
		if m.news {
			since = position
		}
		if err := m.set(tx, h.NID, m.event, since); err != nil {
			return err
		}
		if m.local {
			tx.Touch(stream.Room, h.NID, m.user)
		}
	}
	if err := tx.RoomServers.Clear(h.NID); err != nil {
		return err
	}
	for _, c := range h.servers.list {
		if err := tx.RoomServers.Add(h.NID, c.Server, c.Joined); err != nil {
			return fmt.Errorf("count servers in %s: %w", h.ID, err)
		}
	}
	// To those who read whole states only, the room appears now.
	tx.Touch(stream.Room, h.NID, h.Locals...)
	return nil
}

// eventsSince lists the events of the room after the join, each behind those before it.
func (e *Engine) eventsSince(tx *store.Tx, join *Event) ([]*Event, error) {
	nids, err := tx.Events.Since(join.Room, store.Place{NID: join.NID, Position: join.Position}, join.StateBefore)
	if err != nil {
		return nil, err
	}
	byID := make(map[id.Event]*Event, len(nids))
	pdus := make([]*event.PDU, 0, len(nids))
	for chunk := range slices.Chunk(nids, snapshotChunk) {
		events, err := e.Events(tx, chunk)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			byID[ev.ID] = ev
			pdus = append(pdus, ev.PDU)
		}
	}
	list := make([]*Event, 0, len(pdus))
	for _, p := range inOrder(pdus) {
		list = append(list, byID[p.ID])
	}
	return list, nil
}

// ancestors are those events that come before the join by their prev_events, though
// they arrived after it: they were missing in the history, and are no news.
func ancestors(join *Event, since []*Event) map[id.Event]bool {
	byID := make(map[id.Event]*Event, len(since))
	for _, ev := range since {
		byID[ev.ID] = ev
	}
	before := map[id.Event]bool{}
	for queue := slices.Clone(join.PDU.PrevEvents); len(queue) > 0; queue = queue[1:] {
		if ev := byID[queue[0]]; ev != nil && !before[ev.ID] {
			before[ev.ID] = true
			queue = append(queue, ev.PDU.PrevEvents...)
		}
	}
	return before
}

// untold stands for a state that no server could tell.
var untold = newStateMap(nil)

// judgeAgain judges an event of the rewound room. It stays where it is in the timeline;
// one that was not accepted before, and is now, comes at its end.
func (w *writing) judgeAgain(ctx context.Context, tx *store.Tx, join, old *Event, f *fetched, late bool) error {
	en := draftAgain(old)
	en.position, en.late = old.Position, late
	states, placed, guessed, err := w.statesAgain(tx, join, old, f, late)
	if err != nil {
		return err
	}
	extremities := w.head.extremities
	if placed {
		_, err = w.judge(ctx, tx, arrival{pdu: old.PDU, states: states, guessed: guessed && !late}, &en, &extremities)
		if errors.Is(err, errUnobtainable) { // a guess refuses nothing: it is left until somebody tells more
			placed, en = false, draftAgain(old)
			en.late = late
		}
	}
	if !placed {
		err = w.judgeBeside(tx, &en)
	}
	if err != nil {
		return err
	}
	if !en.placed() {
		en.position = 0
	} else if guessed {
		en.event.Flags |= store.Guessed
	}
	return w.append(en, extremities)
}

// draftAgain is the entry of an event that was judged before, without what came of that.
func draftAgain(old *Event) entry {
	ev := &Event{Event: old.Event, PDU: old.PDU}
	ev.Position, ev.Flags, ev.StateBefore, ev.CurrentState = 0, 0, 0, 0
	return entry{event: ev, stored: true, again: true, was: old.Flags}
}

// statesAgain are the states after those events before one that are not known here, or
// only from an earlier time in the room, whose states may never have become whole.
// placed: the state after some event before it is known, which places it in the history,
// as if it came after nothing else. guessed: those states are not what others have.
func (w *writing) statesAgain(tx *store.Tx, join, old *Event, f *fetched, late bool) (states map[id.Event]*StateMap, placed, guessed bool, err error) {
	states = map[id.Event]*StateMap{}
	placed = len(old.PDU.PrevEvents) == 0
	met := f.before[old.ID]
	if met == nil && !old.IsState {
		met = f.states[old.ID] // it changes nothing
	}
	for _, name := range old.PDU.PrevEvents {
		before, ok, err := w.find(tx, name)
		if err != nil {
			return nil, false, false, err
		}
		known := ok && before.Flags&store.Outlier == 0
		since := known && (name == join.ID || w.fresh[name] != nil)
		if since && !before.Flags.Untold() {
			placed = true
			continue
		}
		derived, err := w.derive(tx, join, name, f)
		if err != nil {
			return nil, false, false, err
		}
		switch {
		case derived != nil:
			states[name], placed = derived, true
		case met != nil:
			states[name], placed = met, true
		case known: // by a guess, or from an earlier time in the room
			placed, guessed = true, guessed || before.Flags.Untold()
		case late:
			states[name], placed, guessed = w.head.past[0].state, true, true // nothing rests on it
		default:
			states[name], guessed = untold, true // others know it; what comes after it is asked for then
		}
	}
	if !placed && !old.IsState { // it changes nothing, so that who has been here since may be heard
		for name := range states {
			states[name] = w.head.State
		}
		placed = true
	}
	return states, placed, guessed, nil
}

// judgeBeside makes an outlier of an event of which nobody could tell what came before
// it. It is left until somebody tells more, as it would be if it arrived now.
func (w *writing) judgeBeside(tx *store.Tx, en *entry) error {
	auth, err := w.authEvents(tx, en.event.PDU)
	if err != nil {
		return err
	}
	reason, err := w.denied(tx, en.event.PDU, auth, nil)
	if err != nil {
		return err
	}
	en.auth, en.event.Flags = w.edges(auth), store.Outlier
	if reason != nil {
		en.event.Flags |= store.Rejected
	}
	return nil
}

// abandon takes what came since a join whose state never became whole out of the history: all
// left the room before, and somebody joins again now. By which states it was judged nobody
// can tell, so nothing may rest on it. It can be fetched again as what came before this join.
func (e *Engine) abandon(ctx context.Context, room id.Room) error {
	if unfinished, err := e.isUnfinished(ctx, room); err != nil || !unfinished {
		return err
	}
	return e.write(ctx, room, func(w *writing) error {
		if err := w.settle(ctx); err != nil {
			return err
		}
		if w.head.Partial.Version == 0 || len(w.head.Locals) > 0 {
			return nil
		}
		return e.store.View(ctx, w.abandon)
	})
}

func (w *writing) abandon(tx *store.Tx) error {
	events, err := w.engine.Events(tx, []store.EventNID{w.head.Partial.Join})
	if err != nil {
		return err
	}
	since, err := w.engine.eventsSince(tx, events[0])
	if err != nil {
		return err
	}
	for _, old := range append(events, since...) {
		en := draftAgain(old)
		if err := w.judgeBeside(tx, &en); err != nil {
			return fmt.Errorf("abandon %s: %w", old.ID, err)
		}
		if err := w.append(en, w.head.extremities); err != nil {
			return err
		}
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

// commitAgain keeps in step with an event's new verdict what hangs on it.
func (w *writing) commitAgain(tx *store.Tx, en *entry, row store.Event) error {
	switch {
	case en.position != 0:
		return w.commitGapAgain(tx, en, row)
	case en.was.Accepted(): // clients have it, but it is no part of the history any more
		return errors.Join(tx.Relations.Redact(row.NID), tx.Search.Delete(row.NID))
	}
	return nil
}

// commitGapAgain notes what is missing before an event that stays in its place. What is
// fetched of it goes where positions were kept free for it, or for what was missing before
// an older event that has no place any more.
func (w *writing) commitGapAgain(tx *store.Tx, en *entry, row store.Event) error {
	if len(en.gap) == 0 {
		return nil
	}
	if g, ok := w.free.take(row.Position); ok {
		g.Position, g.StateBefore = row.Position, row.StateBefore
		if err := tx.Gaps.Insert(g); err != nil {
			return err
		}
	}
	for _, missing := range en.gap {
		if err := tx.Gaps.Miss(row.Room, missing, row.Position); err != nil {
			return err
		}
	}
	return nil
}

// freeGaps are the places that were kept free for what is missing since a join.
type freeGaps struct {
	own   map[int64]store.Gap // before events that stay in their place, by their positions
	spare []store.Gap         // newest first
}

// sortGaps says which gaps stay with the event that they are before.
func (w *writing) sortGaps() {
	missing := map[int64]bool{}
	for _, en := range w.entries {
		if en.position != 0 && len(en.gap) > 0 {
			missing[en.position] = true
		}
	}
	w.free = freeGaps{own: map[int64]store.Gap{}}
	for _, g := range w.gaps {
		if missing[g.Position] {
			w.free.own[g.Position] = g
		} else {
			w.free.spare = append(w.free.spare, g)
		}
	}
}

// take takes the gap for what is missing before the event at a position.
func (f *freeGaps) take(position int64) (store.Gap, bool) {
	if g, ok := f.own[position]; ok {
		return g, true
	}
	i := slices.IndexFunc(f.spare, func(g store.Gap) bool { return g.Position <= position })
	if i < 0 {
		return store.Gap{}, false
	}
	g := f.spare[i]
	f.spare = slices.Delete(f.spare, i, i+1)
	return g, true
}
