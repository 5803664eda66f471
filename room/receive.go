package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// gatherTime bounds how long one event may wait for what it refers to.
const gatherTime = 2 * time.Minute

// RoomVersion is the version of a room that is known here.
func (e *Engine) RoomVersion(ctx context.Context, room id.Room) (v *roomversion.Version, ok bool, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		row, known, err := tx.Rooms.Get(room)
		if err != nil || !known {
			return err
		}
		v, ok = roomversion.Get(row.Version)
		return nil
	})
	return v, ok, err
}

// Receive takes events of one room that another server sent, in the order of their
// history. The result has an error for each that is refused, and nil for each that is
// known now: accepted, soft-failed, or there before. One bad event does not
// concern the others.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu
func (e *Engine) Receive(ctx context.Context, origin id.Server, room id.Room, raws []jsontext.Value) map[id.Event]error {
	results := map[id.Event]error{}
	joining := e.joining.isHeld(room)
	v, err := e.resident(ctx, room)
	if err != nil && joining {
		e.awaitJoin(ctx, room)
		v, err = e.resident(ctx, room)
	}
	if err != nil {
		for _, raw := range raws {
			if name, err := e.receiveOutside(ctx, origin, room, raw); name != "" {
				results[name] = err
			}
		}
		return results
	}
	checked := e.check(ctx, origin, v, room, raws, results)
	e.receiveAll(ctx, origin, v, checked, pushed, func(p *event.PDU, err error) {
		if err != nil {
			slog.DebugContext(ctx, "event refused", "event", p.ID, "room", room, "origin", origin, "error", err)
		}
		if errors.Is(err, errUnobtainable) || errors.Is(err, errPreliminary) {
			err = nil // the event is not refused: it cannot be judged, now
		}
		results[p.ID] = err
	})
	return results
}

// receiveAll has events of one room judged in the order of their history, and tells
// what became of each. Those share a write set that need nothing which is not here or
// before them. Each of the others has what it needs gathered, as has each of a write set that
// failed: one event must not take the others with it.
func (e *Engine) receiveAll(ctx context.Context, origin id.Server, v *roomversion.Version, list []*event.PDU, how found, tell func(*event.PDU, error)) {
	together := true
	for list = inOrder(list); len(list) > 0; list = list[1:] {
		if together {
			verdicts, err := e.receiveTogether(ctx, origin, list)
			if err != nil {
				slog.WarnContext(ctx, "events are received one by one", "room", list[0].Room, "origin", origin, "error", err)
				together = false
			}
			for i, got := range verdicts {
				tell(list[i], got.outcome())
			}
			if list = list[len(verdicts):]; len(list) == 0 {
				return
			}
		}
		tell(list[0], e.receiveOne(ctx, origin, v, list[0], how))
	}
}

// receiveTogether has as many of the events judged in one write set as can be.
func (e *Engine) receiveTogether(ctx context.Context, origin id.Server, list []*event.PDU) (verdicts []verdict, err error) {
	err = e.write(ctx, list[0].Room, func(w *writing) error {
		verdicts, err = w.receiveRun(ctx, origin, list)
		return err
	})
	if err != nil {
		return nil, err
	}
	return verdicts, nil
}

// joinWait bounds how long events of a room wait for a join that is under way: what else their
// server sends waits with them, and whom we join by way of may be another, which is slow.
const joinWait = time.Minute

// awaitJoin waits for the end of a join. The servers in a room send what is said there as soon as one
// of them has let us in, before we have the state that it tells, and never again.
func (e *Engine) awaitJoin(ctx context.Context, room id.Room) {
	ctx, cancel := context.WithTimeout(ctx, joinWait)
	defer cancel()
	if unlock, err := e.joining.lock(ctx, room); err == nil {
		unlock()
	}
}

// resident is the version of a room that somebody here is joined to.
func (e *Engine) resident(ctx context.Context, room id.Room) (*roomversion.Version, error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil {
		return nil, err
	}
	if !ok || len(h.Locals) == 0 {
		return nil, errcode.NotFound("this server is not in room %s", room)
	}
	return h.Version, nil
}

// check is the one place where events of others are checked by themselves: their
// form, size, room, signatures and content hash. One whose hash does not fit goes on
// in redacted form. What fails is left out; results tells why, where there is an id.
// from is the server that handed them over.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 1
func (e *Engine) check(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, raws []jsontext.Value, results map[id.Event]error) []*event.PDU {
	list := make([]*event.PDU, 0, len(raws))
	for _, raw := range raws {
		p, err := event.Parse(v, raw)
		if err == nil && p.Room != room {
			err = errcode.InvalidParam("the event is of another room")
		}
		if err == nil {
			err = p.CheckLimits()
		}
		switch {
		case err == nil:
			list = append(list, p)
		case p != nil && results != nil:
			results[p.ID] = err
		default:
			slog.DebugContext(ctx, "malformed event", "room", room, "error", err)
		}
	}
	return e.verify(ctx, from, list, results)
}

// verify checks content hashes and signatures, in this order: which signatures an event must have
// depends on its content, and that counts only as far as it is what the signatures are on, or what the
// hash under them says.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 2
func (e *Engine) verify(ctx context.Context, from id.Server, list []*event.PDU, results map[id.Event]error) []*event.PDU {
	if len(list) == 0 {
		return nil
	}
	refuse := func(p *event.PDU, err error) {
		slog.DebugContext(ctx, "event without valid signatures", "event", p.ID, "error", err)
		if results != nil {
			results[p.ID] = errcode.Forbidden("the event is not signed as it must be: %s", err)
		}
	}
	signed := list[:0:0]
	for _, p := range list {
		if !p.CheckContentHash() {
			redacted, err := p.Redacted() // 3
			if err != nil {
				refuse(p, err)
				continue
			}
			p = redacted
		}
		signed = append(signed, p)
	}
	kept := list[:0:0]
	for i, err := range e.options.Network.VerifyEvents(ctx, from, signed) {
		if err != nil {
			refuse(signed[i], err)
			continue
		}
		kept = append(kept, signed[i])
	}
	return kept
}

// inOrder puts events behind those before them, and behind their auth events: these are before
// them too, but there may be gaps between.
func inOrder(list []*event.PDU) []*event.PDU {
	return ordered(list, func(p *event.PDU) []id.Event { return slices.Concat(p.PrevEvents, p.AuthEvents) })
}

// inAuthOrder puts events behind their auth events.
func inAuthOrder(list []*event.PDU) []*event.PDU { return ordered(list, authNames) }

// authNames are the events that one must come after in the auth graph.
func authNames(p *event.PDU) []id.Event {
	if v := p.Version; !v.RoomIDIsCreateEventID || p.Type == event.TypeCreate || len(p.Room) < 2 {
		return p.AuthEvents
	}
	// The room's id names the create event, which is not listed.
	return append([]id.Event{id.Event("$" + string(p.Room[1:]))}, p.AuthEvents...)
}

// ordered puts each event after those that it refers to, and else leaves the order as it
// is. It leaves out repetitions, and events that refer to themselves by way of others.
func ordered(list []*event.PDU, refs func(*event.PDU) []id.Event) []*event.PDU {
	at := make(map[id.Event]int, len(list))
	unique := list[:0:0]
	for _, p := range list {
		if _, twice := at[p.ID]; !twice {
			at[p.ID] = len(unique)
			unique = append(unique, p)
		}
	}
	waits := make([]int, len(unique))
	after := make([][]int, len(unique))
	var ready []int
	for i, p := range unique {
		for _, name := range refs(p) {
			if j, ok := at[name]; ok {
				waits[i]++
				after[j] = append(after[j], i)
			}
		}
		if waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	sorted := make([]*event.PDU, 0, len(unique))
	for len(ready) > 0 {
		first := ready[0]
		ready = ready[1:]
		sorted = append(sorted, unique[first])
		for _, j := range after[first] {
			if waits[j]--; waits[j] == 0 {
				at, _ := slices.BinarySearch(ready, j)
				ready = slices.Insert(ready, at, j)
			}
		}
	}
	return sorted
}

// found is how an event came here.
type found int

const (
	// pushed: its server sent it unasked, so that is asked for what is missing before it. If it keeps
	// that back, the event is left until somebody tells more: else a server could have what it likes
	// taken for the state of the room, by saying that it comes after events that it shows to nobody.
	pushed found = iota
	// listed: a server told it as one of those before another. What is missing before it may have been left
	// out, and is asked for by name; then states are asked for.
	listed
	// named: a server was asked for it by name, or told it beside what is no event. For what is missing
	// before it, states are asked for.
	named
)

// receiveOne gathers what an event refers to, then has it judged.
func (e *Engine) receiveOne(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU, how found) error {
	known, err := e.isKnown(ctx, p)
	if known || err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, gatherTime)
	defer cancel()
	// First what is before it: its auth events are mostly among that.
	var states map[id.Event]*StateMap
	if how == pushed {
		how, err = e.gatherBefore(ctx, origin, v, p)
	}
	if err == nil && how != pushed {
		states, err = e.gatherStates(ctx, origin, v, p, how)
	}
	if err != nil {
		return err
	}
	states, guessed, err := e.gatherUntold(ctx, origin, v, p, states)
	if err != nil {
		return err
	}
	if err := e.gatherAuth(ctx, origin, v, p); err != nil {
		return err
	}
	a := arrival{pdu: p, origin: origin, states: states, guessed: guessed}
	if _, err = e.arrive(ctx, a); errors.Is(err, errUnjudgedAuth) {
		if err := e.judgeAuth(ctx, origin, v, p); err != nil {
			return err
		}
		a.judged = true
		_, err = e.arrive(ctx, a)
	}
	return err
}

// arrive has an event judged of which all is here that it refers to.
func (e *Engine) arrive(ctx context.Context, a arrival) (verdict, error) {
	got, err := e.receiveSigned(ctx, a)
	if err != nil {
		return got, fmt.Errorf("receive %s: %w", a.pdu.ID, err)
	}
	return got, got.outcome()
}

// outcome is the error of an event that is not known here but as one that was rejected.
func (v verdict) outcome() error {
	switch {
	case v.known || v.reason == nil:
		return nil
	case v.partial:
		return fmt.Errorf("%w: %w", errPreliminary, v.refusal())
	case v.event.Flags&store.Rejected == 0:
		return nil
	}
	return v.refusal()
}

// errPreliminary says that an event was not accepted by a state that is not whole.
var errPreliminary = errors.New("judged by a partial state")

// isKnown says whether an event is part of the history here, accepted or not.
func (e *Engine) isKnown(ctx context.Context, p *event.PDU) (known bool, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Events.Know(p.ID)
		known = ok && row.Flags&store.Outlier == 0
		return err
	})
	return known, err
}

// unknown lists which events are not here; asOutliers: outliers count as known, if their
// auth events are here.
func (e *Engine) unknown(ctx context.Context, names []id.Event, asOutliers bool) (missing []id.Event, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		for _, name := range names {
			row, ok, err := tx.Events.Know(name)
			if err != nil {
				return err
			}
			if !ok || row.Flags&store.Outside != 0 || !asOutliers && row.Flags&store.Outlier != 0 {
				missing = append(missing, name)
			}
		}
		return nil
	})
	return missing, err
}

// outlierBatch is how many outliers share one write set.
const outlierBatch = 500

// storeOutliers keeps events beside the timeline: auth events, states of others. Each
// is judged by its auth events, which must be here or among them. What is rejected is kept, so that
// it is not asked for again, but not of a server that is not in the room: that could have us
// keep whatever it makes up.
func (e *Engine) storeOutliers(ctx context.Context, rejected bool, v *roomversion.Version, room id.Room, list []*event.PDU) error {
	for batch := range slices.Chunk(inAuthOrder(list), outlierBatch) {
		err := e.write(ctx, room, func(w *writing) error { return w.addOutliers(ctx, batch, rejected) })
		if err != nil {
			return fmt.Errorf("keep outliers of %s: %w", room, err)
		}
	}
	return nil
}

func (w *writing) addOutliers(ctx context.Context, list []*event.PDU, rejected bool) error {
	return w.settled(ctx, list, func(tx *store.Tx) error {
		for _, p := range list {
			if err := w.addOutlier(ctx, tx, p, rejected); err != nil && !errors.Is(err, errMissingAuth) {
				return err
			}
		}
		return nil
	})
}

func (w *writing) addOutlier(ctx context.Context, tx *store.Tx, p *event.PDU, rejected bool) error {
	known, ok, err := w.engine.eventOfAnyRoom(tx, p.ID)
	if err != nil || ok && known.Room != w.head.NID {
		return err // of versions 1 and 2: its server gave it the id of another event
	}
	var old *Event
	if ok {
		if known.Flags&store.Outside == 0 {
			return nil
		}
		old = known
	}
	auth, err := w.authEvents(tx, p)
	if err != nil {
		return err
	}
	reason, err := w.denied(tx, p, auth, nil)
	if err != nil || reason != nil && !rejected {
		return err
	}
	en, err := w.draft(ctx, tx, p, old)
	if err != nil {
		return err
	}
	en.event.Flags = store.Outlier
	if reason != nil {
		en.event.Flags |= store.Rejected
	}
	en.auth = w.edges(auth)
	return w.append(en, w.head.extremities)
}

// makeAllNames makes the numbers of what events name, where there are none yet.
func (e *Engine) makeAllNames(ctx context.Context, list []*event.PDU) error {
	var without []Proposal
	err := e.store.View(ctx, func(tx *store.Tx) error {
		for _, p := range list {
			q := Proposal{Sender: p.Sender, Type: p.Type, StateKey: p.StateKey}
			if _, ok, err := findNames(tx, q); err != nil {
				return err
			} else if !ok {
				without = append(without, q)
			}
		}
		return nil
	})
	if err != nil || len(without) == 0 {
		return err
	}
	return e.store.Update(ctx, func(tx *store.Tx) error {
		for _, q := range without {
			if err := makeNames(tx, q); err != nil {
				return err
			}
		}
		return nil
	})
}
