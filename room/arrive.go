package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// arrival is an event of another server, or one that another server had to see
// first: its form, signatures and hash are checked, what it refers to was asked for.
type arrival struct {
	pdu    *event.PDU
	origin id.Server // who handed it over
	// states are what other servers say of the state after those of its prev_events
	// that are not known here, or whose state here may lack members, and of nothing else.
	states map[id.Event]*StateMap
	// guessed: some of these are from after the event, as nobody knows the right ones. What they allow is
	// accepted, what they do not is left until somebody knows.
	guessed bool
	// judged: those of its auth events that are missing in the history were judged by the states that they met, if these
	// could be had.
	judged bool
	// forward: the other servers in the room are to be told of it.
	forward bool
	// asked is the policy server that was asked to sign it if need be; refusal: it did not.
	asked   *policyServer
	refusal error
}

// verdict is what became of an event.
type verdict struct {
	event  *Event
	reason error // of a rejection or soft failure: a *authrules.Denied mostly
	known  bool  // it was part of the history before
	// partial: it was judged by a state that lacks members, and will be judged again.
	partial bool
}

// maxMissingPrev bounds how many unknown prev_events one event may have: as many as
// it may have at all.
const maxMissingPrev = maxPrevEvents

var (
	errMissingAuth  = errors.New("an auth event is not known here")
	errUnjudgedAuth = errors.New("an auth event is not judged by the state that it met")
)

// receive makes an event part of the write set.
func (w *writing) receive(ctx context.Context, a arrival) (v verdict, err error) {
	err = w.settled(ctx, []*event.PDU{a.pdu}, func(tx *store.Tx) (err error) {
		v, err = w.take(ctx, tx, a)
		return err
	})
	return v, err
}

// receiveRun makes events part of the write set, each judged by what those before it have
// made of the room, up to the first that has to be received by itself.
func (w *writing) receiveRun(ctx context.Context, origin id.Server, list []*event.PDU) (verdicts []verdict, err error) {
	err = w.settled(ctx, list, func(tx *store.Tx) error {
		for _, p := range list {
			v, err := w.take(ctx, tx, arrival{pdu: p, origin: origin})
			if concernsOne(err) {
				return nil
			}
			if err != nil {
				return fmt.Errorf("receive %s: %w", p.ID, err)
			}
			verdicts = append(verdicts, v)
		}
		return nil
	})
	return verdicts, err
}

// concernsOne says whether an error is no matter of other events: something is missing that
// the event needs, a policy server has to be asked, or it cannot be of this room.
func concernsOne(err error) bool {
	told := (*errcode.Error)(nil)
	return errors.Is(err, errMissingPrev) || errors.Is(err, errMissingAuth) || errors.Is(err, errUnjudgedAuth) || errors.Is(err, errPolicyMoved) || errors.As(err, &told)
}

// take judges an event by its auth events, by the state it met and by the room's
// current state, and makes it part of the write set accordingly. After an error that
// concerns nothing else, the write set is as before.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 4
func (w *writing) take(ctx context.Context, tx *store.Tx, a arrival) (v verdict, err error) {
	known, ok, err := w.engine.eventOfAnyRoom(tx, a.pdu.ID)
	switch {
	case err != nil:
		return v, err
	case ok && known.Room != w.head.NID:
		return v, errcode.InvalidParam("%s is the id of an event of another room", a.pdu.ID)
	case ok && known.Flags&store.Outlier == 0:
		return verdict{event: known, known: true}, nil
	}
	en, err := w.draft(ctx, tx, a.pdu, known)
	if err != nil {
		return v, err
	}
	en.forward, en.origin = a.forward, a.origin
	extremities := w.head.extremities
	if v.reason, err = w.judge(ctx, tx, a, &en, &extremities); err != nil {
		return v, err
	}
	if a.guessed {
		en.event.Flags |= store.Guessed
	}
	v.event, v.partial = en.event, w.head.Partial.Version != 0
	return v, w.append(en, extremities)
}

// draft is the entry of an event of another server that is not judged yet. known is the
// outlier that it was before; nil: none.
func (w *writing) draft(ctx context.Context, tx *store.Tx, p *event.PDU, known *Event) (en entry, err error) {
	n, ok, err := findNames(tx, Proposal{Sender: p.Sender, Type: p.Type, StateKey: p.StateKey})
	if err != nil || !ok {
		return en, fmt.Errorf("names of %s (%v): %w", p.ID, ok, err)
	}
	nid, err := w.engine.nids.next(ctx, w.engine.store)
	if err != nil {
		return en, err
	}
	en.event = &Event{PDU: p, Event: store.Event{
		NID: nid, Room: w.head.NID, ID: p.ID, Sender: n.sender, Type: n.typ, Key: n.key, IsState: p.StateKey != nil,
		Depth: p.Depth, TS: p.OriginServerTS,
	}}
	if known != nil {
		w.replaceOutlier(&en, known)
	}
	return en, nil
}

// replaceOutlier has an event take the place of what is known of it beside the
// timeline. One that is not in the auth graph gets a new number, after its auth events.
func (w *writing) replaceOutlier(en *entry, known *Event) {
	en.stored, en.was = true, known.Flags
	en.event.PDU, en.event.RedactedBy = known.PDU, known.RedactedBy
	if known.Flags&store.Outside != 0 {
		en.old = known.NID
		return
	}
	en.event.NID = known.NID
}

// settled calls fn, which judges events, on a snapshot of the store that has all that was
// built before. What the events name has numbers there.
func (w *writing) settled(ctx context.Context, list []*event.PDU, fn func(*store.Tx) error) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	if err := w.engine.makeAllNames(ctx, list); err != nil {
		return err
	}
	return w.engine.store.View(ctx, fn)
}

// settle waits until what was built before is in the store: branches are judged by
// what is there, and in the write set.
func (w *writing) settle(ctx context.Context) error {
	w.room.reading.Lock()
	pending := w.room.pending
	w.room.reading.Unlock()
	if pending == nil {
		return nil
	}
	return pending.Wait(ctx)
}

// judge fills the entry of an event: its flags, the state it met and what it changes.
// The error says that it could not be judged, and leaves the write set as it was; the reason, why
// it is not accepted.
func (w *writing) judge(ctx context.Context, tx *store.Tx, a arrival, en *entry, extremities *[]*Event) (reason, err error) {
	head, first := w.head, len(w.first)
	defer func() {
		if err != nil {
			w.head, w.first = head, w.first[:first]
		}
	}()
	ev := en.event
	auth, err := w.authEvents(tx, ev.PDU)
	if err != nil {
		return nil, err
	}
	en.auth = w.edges(auth)
	if err := w.needJudged(tx, auth, a, en); err != nil {
		return nil, err
	}
	prev, missing, err := w.prevEvents(tx, a)
	if err != nil {
		return nil, err
	}
	if err := w.needStates(prev, en, a); err != nil {
		return nil, err
	}
	if err := w.learn(tx, auth); err != nil {
		return nil, err
	}
	before, err := w.stateOfPrev(tx, prev, missing, a.states)
	if err != nil {
		return nil, err
	}
	before = w.withLearned(before, auth)
	var fresh bool
	if ev.StateBefore, ev.overlay, fresh, err = w.nameState(ctx, tx, before, prev); err != nil {
		return nil, err
	}
	if fresh {
		en.overlay = &ev.overlay.Overlay
	}
	en.gap = missing
	if reason, err = w.denied(tx, ev.PDU, auth, nil); err == nil && reason == nil && !en.late { // 4
		if reason, err = w.deniedBy(tx, ev.PDU, before); reason != nil && w.head.Partial.Version != 0 { // 5
			// That may be for want of members: it is judged again when they are known.
			ev.Flags = store.Rejected | store.Preliminary
			return reason, err
		}
		if reason != nil && a.guessed {
			return nil, fmt.Errorf("%s by a guessed state: %w: %w", ev.PDU.ID, errUnobtainable, reason)
		}
	}
	if err != nil {
		return nil, err
	}
	if reason != nil {
		ev.Flags = store.Rejected
		return reason, nil
	}
	// 6: not for what is missing in the history, which is not news.
	late := en.late
	if !en.again {
		if late, err = w.isMissing(tx, ev.ID); err != nil {
			return nil, err
		}
	}
	if !late {
		if !w.knowsBetter(a) {
			reason, err = w.deniedBy(tx, ev.PDU, w.head.State)
		}
		if err == nil && reason == nil {
			reason, err = w.notRecommended(tx, a) // 7
		}
		if err != nil {
			return nil, err
		}
	}
	if reason != nil {
		ev.Flags = store.SoftFailed
		return reason, nil
	}
	w.note(en) // the room's state may have it from here on
	if err := w.advance(tx, en, before, late, prev, extremities); err != nil {
		return nil, err
	}
	if err := w.gatherEffects(tx, en); err != nil || en.again {
		return nil, err
	}
	return nil, w.redactedBefore(tx, en)
}

// authEvents reads the events that an event names as its auth_events.
func (w *writing) authEvents(tx *store.Tx, p *event.PDU) ([]*Event, error) {
	var auth []*Event
	for _, name := range p.AuthEvents {
		ev, ok, err := w.find(tx, name)
		if err == nil && !ok {
			ev, ok, err = w.engine.eventOfAnyRoom(tx, name)
		}
		if err != nil {
			return nil, err
		}
		if !ok || ev.Flags&store.Outside != 0 {
			return nil, fmt.Errorf("%s of %s: %w", name, p.ID, errMissingAuth)
		}
		// An event that is no state event, or one of another room, authorises nothing;
		// the rules refuse it by its own fields.
		auth = append(auth, ev)
	}
	return auth, nil
}

// needJudged makes sure that no auth event is known to be missing in the history. Beside that it is judged by its
// own auth events only: by the state that it met it may be refused, and with it all that rests on it.
func (w *writing) needJudged(tx *store.Tx, auth []*Event, a arrival, en *entry) error {
	if a.judged || en.again || w.head.Partial.Version != 0 {
		return nil // they are judged when the state is whole
	}
	for _, x := range auth {
		if now, ok := w.head.State.Get(x.Key); x.Flags&store.Outlier == 0 || x.Flags.Refused() || ok && now == x.NID {
			continue
		}
		if missing, err := w.isMissing(tx, x.ID); err != nil {
			return err
		} else if missing {
			return fmt.Errorf("%s of %s: %w", x.ID, a.pdu.ID, errUnjudgedAuth)
		}
	}
	return nil
}

// refuseOutlier has an outlier rejected that the state which it met does not allow.
func (w *writing) refuseOutlier(ctx context.Context, a arrival) error {
	return w.settled(ctx, []*event.PDU{a.pdu}, func(tx *store.Tx) error {
		known, ok, err := w.find(tx, a.pdu.ID)
		if err != nil || !ok || known.Flags&store.Outlier == 0 || known.Flags&(store.Rejected|store.Outside) != 0 {
			return err
		}
		prev, missing, err := w.prevEvents(tx, a)
		if err != nil {
			return err
		}
		before, err := w.stateOfPrev(tx, prev, missing, a.states)
		if err != nil {
			return err
		}
		if reason, err := w.deniedBy(tx, a.pdu, before); err != nil || reason == nil {
			return err
		}
		en, err := w.draft(ctx, tx, a.pdu, known)
		if err != nil {
			return err
		}
		en.event.Flags = known.Flags | store.Rejected
		return w.append(en, w.head.extremities)
	})
}

// edges are those of an event's auth events that the room's auth graph can have: of an
// event that is rejected they may be messages, or of another room.
func (w *writing) edges(auth []*Event) []store.EventNID {
	nids := make([]store.EventNID, 0, len(auth))
	for _, x := range auth {
		if x.IsState && x.Room == w.head.NID {
			nids = append(nids, x.NID)
		}
	}
	return nids
}

// prevEvents reads the events before an event; missing are those not known here.
func (w *writing) prevEvents(tx *store.Tx, a arrival) (prev []*Event, missing []id.Event, err error) {
	for _, name := range a.pdu.PrevEvents {
		ev, ok, err := w.find(tx, name)
		if err != nil {
			return nil, nil, err
		}
		if ok && ev.Flags&store.Outlier == 0 {
			prev = append(prev, ev)
			continue
		}
		if a.states[name] == nil {
			return nil, nil, fmt.Errorf("%s before %s: %w", name, a.pdu.ID, errMissingPrev)
		}
		missing = append(missing, name)
	}
	return prev, missing, nil
}

var errMissingPrev = errors.New("a previous event, or the state after it, is not known here")

// needStates makes sure that the states after known events are given of which it is not known: what
// StateBefore names is from after them, and by that others would be judged wrongly.
func (w *writing) needStates(prev []*Event, en *entry, a arrival) error {
	if en.again || w.head.Partial.Version != 0 {
		return nil // they are judged by what is known
	}
	for _, p := range prev {
		if p.Flags.Untold() && a.states[p.ID] == nil {
			return fmt.Errorf("the state after %s before %s: %w", p.ID, a.pdu.ID, errMissingPrev)
		}
	}
	return nil
}

// knowsBetter says whether an event comes after all that is here, of which some rests on a guess, by a
// state that others have told: that is newer than the current state, which refuses nothing then.
func (w *writing) knowsBetter(a arrival) bool {
	guessed := false
	for _, x := range w.head.extremities {
		if !slices.Contains(a.pdu.PrevEvents, x.ID) {
			return false
		}
		guessed = guessed || x.Flags.Untold()
	}
	return guessed && !a.guessed && w.head.Partial.Version == 0
}

// stateOfPrev is the state after all events before one.
func (w *writing) stateOfPrev(tx *store.Tx, prev []*Event, missing []id.Event, others map[id.Event]*StateMap) (*StateMap, error) {
	if len(missing) == 0 && sameEvents(prev, w.head.extremities) {
		return w.head.State, nil
	}
	var states []*StateMap
	for _, p := range prev {
		m := others[p.ID]
		if m == nil {
			var err error
			if m, err = w.engine.stateAfter(tx, w.head, p); err != nil {
				return nil, err
			}
		}
		states = append(states, m)
	}
	for _, name := range missing {
		if m := others[name]; m != untold {
			states = append(states, m)
		}
	}
	if len(states) == 0 {
		return newStateMap(nil), nil
	}
	return w.resolve(tx, states)
}

func sameEvents(a, b []*Event) bool {
	if len(a) != len(b) {
		return false
	}
	for _, x := range a {
		if !slices.ContainsFunc(b, func(y *Event) bool { return x.NID == y.NID }) {
			return false
		}
	}
	return true
}

// createEvent is the room's create event, for room versions whose auth events do not
// list it. There the room's id is its hash, so it is known even before the room is.
func (w *writing) createEvent(tx *store.Tx) (*event.PDU, error) {
	if w.head.Create != nil || w.head.Version.CreateInAuthEvents {
		return w.head.Create, nil
	}
	ev, ok, err := w.find(tx, id.Event("$"+string(w.head.ID[1:])))
	if err != nil || !ok {
		return nil, err
	}
	return ev.PDU, nil
}

// denied says why an event is not allowed by its auth events, or by the state that it
// met, if that is known.
func (w *writing) denied(tx *store.Tx, p *event.PDU, auth []*Event, before *StateMap) (reason, err error) {
	named := make([]authrules.AuthEvent, len(auth))
	pdus := make([]*event.PDU, len(auth))
	for i, ev := range auth {
		named[i] = authrules.AuthEvent{PDU: ev.PDU, Rejected: ev.Flags.Refused()}
		pdus[i] = ev.PDU
	}
	if err := authrules.CheckAuthEvents(p, named); err != nil {
		return split(err)
	}
	byAuth := authrules.StateOf(pdus...)
	if byAuth.Create == nil && p.Type != event.TypeCreate {
		if byAuth.Create, err = w.createEvent(tx); err != nil {
			return nil, err
		}
	}
	if reason, err := split(authrules.Check(p, byAuth)); reason != nil || err != nil || before == nil {
		return reason, err
	}
	return w.deniedBy(tx, p, before)
}

// deniedBy says why an event is not allowed by a state.
func (w *writing) deniedBy(tx *store.Tx, p *event.PDU, m *StateMap) (reason, err error) {
	state, err := w.rulesState(tx, p, m)
	if err != nil {
		return nil, err
	}
	return split(authrules.Check(p, state))
}

// split tells a verdict of the rules from an error.
func split(err error) (reason, failed error) {
	if denied := (*authrules.Denied)(nil); errors.As(err, &denied) {
		return denied, nil
	}
	return nil, err
}

// rulesState is what of a state the rules ask for to judge an event.
func (w *writing) rulesState(tx *store.Tx, p *event.PDU, m *StateMap) (authrules.State, error) {
	s := authrules.State{}
	create := event.StateTuple{Type: event.TypeCreate}
	for _, t := range append(authrules.Needed(w.head.Version, authrules.DraftOf(p)), create) {
		key, ok, err := tx.IDs.FindStateKey(t)
		if err != nil {
			return s, err
		}
		nid, ok2 := m.Get(key)
		if !ok || !ok2 {
			continue
		}
		ev, err := w.event(tx, nid)
		if err != nil {
			return s, err
		}
		s.Set(ev.PDU)
		if ev.PDU == w.head.PowerLevels {
			s.Levels = w.head.Levels
		}
	}
	return s, nil
}

// advance works out the extremities after an event, and the room's current state. late:
// it belongs in the middle of the history, what comes after it is known.
func (w *writing) advance(tx *store.Tx, en *entry, before *StateMap, late bool, prev []*Event, extremities *[]*Event) error {
	ev := en.event
	next, behind, err := w.remaining(tx, prev)
	if err != nil {
		return err
	}
	en.gap = append(en.gap, behind...)
	after := before
	if ev.IsState {
		after = before.Set(ev.Key, ev.NID)
	}
	if late {
		en.then(func(tx *store.Tx, row store.Event) error { return tx.Gaps.Closed(row.Room, row.ID) })
		if len(next) == 0 {
			next = w.head.extremities
		}
	} else {
		next = append(next, ev)
	}
	current := w.head.State
	if !late || len(next) < len(w.head.extremities) {
		if current, err = w.currentState(tx, next, ev, after); err != nil {
			return err
		}
	}
	*extremities = next
	if en.changes, err = w.changesTo(tx, current); err != nil {
		return err
	}
	linear := !late && len(next) == 1 && ev.StateBefore == w.head.StateVersion && ev.IsState == (len(en.changes) == 1)
	if !linear {
		ev.CurrentState = w.head.StateVersion
		if len(en.changes) > 0 {
			ev.CurrentState++
		}
	}
	return nil
}

// currentState is the state after all extremities; that after one is given.
func (w *writing) currentState(tx *store.Tx, extremities []*Event, ev *Event, after *StateMap) (*StateMap, error) {
	var states []*StateMap
	for _, x := range extremities {
		m := after
		if x != ev {
			var err error
			if m, err = w.engine.stateAfter(tx, w.head, x); err != nil {
				return nil, err
			}
		}
		states = append(states, m)
	}
	return w.resolve(tx, states)
}

// remaining are the extremities that an event does not come after. Rejected and
// soft-failed events are no extremities; what is before them may be. behind is what
// is missing before such events, which no event of the timeline misses so far.
func (w *writing) remaining(tx *store.Tx, prev []*Event) (left []*Event, behind []id.Event, err error) {
	covered := map[store.EventNID]bool{}
	queue := slices.Clone(prev)
	for i := 0; i < len(queue) && i < maxCovered; i++ {
		ev := queue[i]
		if covered[ev.NID] {
			continue
		}
		covered[ev.NID] = true
		if ev.Flags&(store.Rejected|store.SoftFailed) == 0 {
			continue
		}
		for _, name := range ev.PDU.PrevEvents {
			before, ok, err := w.find(tx, name)
			if err != nil {
				return nil, nil, err
			}
			if ok && before.Flags&store.Outlier == 0 {
				queue = append(queue, before)
				continue
			}
			if missed, err := w.isMissing(tx, name); err != nil {
				return nil, nil, err
			} else if (!missed || w.head.rewound) && !slices.Contains(behind, name) && len(behind) < maxMissingPrev {
				behind = append(behind, name)
			}
		}
	}
	for _, x := range w.head.extremities {
		if !covered[x.NID] {
			left = append(left, x)
		}
	}
	return left, behind, nil
}

// maxCovered bounds how far the walk over events that were not accepted goes.
const maxCovered = 1000

// changesTo lists how the current state becomes another.
func (w *writing) changesTo(tx *store.Tx, to *StateMap) ([]change, error) {
	entries := w.head.State.Diff(to)
	if len(entries) == 0 {
		return nil, nil
	}
	changes := make([]change, len(entries))
	read := func(nid store.EventNID) (*event.PDU, error) {
		if nid == 0 {
			return nil, nil
		}
		ev, err := w.event(tx, nid)
		if err != nil {
			return nil, err
		}
		return ev.PDU, nil
	}
	for i, e := range entries {
		old, _ := w.head.State.Get(e.Key)
		c := change{key: e.Key, event: e.Event}
		var err error
		if c.tuple, err = tx.IDs.StateTuple(e.Key); err != nil {
			return nil, err
		}
		if c.before, err = read(old); err != nil {
			return nil, err
		}
		if c.after, err = read(e.Event); err != nil {
			return nil, err
		}
		changes[i] = c
	}
	return changes, nil
}

// refusal is a verdict as other servers are told it.
func (v verdict) refusal() error {
	told := (*errcode.Error)(nil) // by the room's policy server
	switch {
	case v.event == nil || v.event.Flags&(store.Rejected|store.SoftFailed) == 0:
		return nil
	case errors.As(v.reason, &told):
		return told
	case v.reason != nil:
		return errcode.Forbidden("the event is not allowed: %s", v.reason)
	}
	return errcode.Forbidden("the event is not allowed")
}
