package room

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Proposal is an event that a local user wants to be part of a room.
type Proposal struct {
	Sender    id.User
	Type      string
	StateKey  *string // nil: not a state event
	Content   jsontext.Value
	Redacts   id.Event
	Timestamp int64 // milliseconds; 0: now. Only application services may choose it.
	Txn       *Txn  // nil: the request bears no transaction id
	Suspended bool  // the sender may only leave and redact their own events
}

// Txn identifies a client's request, so that its repetition makes no second event.
// spec: client-server-api#transaction-identifiers
type Txn struct {
	Device   id.Device
	ID       string
	Endpoint string // what the path says beyond room and transaction id
}

// writing is a room under its lock, with the write set that is being built.
// Only write and create make one: nothing joins a room's history without it.
type writing struct {
	engine  *Engine
	room    *room
	base    *Head // what the store has, or will have when the write sets before are committed
	head    *Head // base and the events so far
	entries []entry
	// fresh are the events of this write set, and the one about to join it, by their ids, and
	// numbered by their numbers: the store and the memory of events do not have them as they are here.
	fresh    map[id.Event]*Event
	numbered map[store.EventNID]*Event
	// nodes are what the room's auth graph has to have of them that the store does not.
	nodes []store.AuthNode
	// verdicts are those of them that are in it, and are rejected now, or no more.
	verdicts []*Event
	// awaited are the redactions among them whose targets are not known, by these.
	awaited map[id.Event][]*Event
	// ready are events that a policy server has signed, in the order in which they were drafted.
	ready []*event.PDU
	// asks is the policy server that has to sign the events.
	asks *policyServer
	// first holds what is written before the entries, which begin on version from of the
	// state log. position is that of the newest event.
	first []func(tx *store.Tx, position int64) error
	from  int64
	// takes is how many positions first takes.
	takes int64
	// gaps are those since the join of a room that is rewound; they are noted anew.
	gaps []store.Gap
	free freeGaps
	// also holds further writes that belong to the same commit.
	also []func(*store.Tx) error
}

// entry is one event of a write set.
type entry struct {
	event   *Event
	changes []change // of the room's current state
	effects []effect
	txn     *store.Transaction
	auth    []store.EventNID // of a state event, where they are known by number already

	stored  bool             // the event has a row already, beside the timeline
	was     store.EventFlags // that it has there
	old     store.EventNID   // of that row, if it is to have another number
	overlay *store.Overlay   // to be stored: the state that the event met
	gap     []id.Event       // events before it that are not known here
	// position is where an older event goes that was missing; 0: at the end.
	position int64
	// forward: other servers are told, but for the one that the event came from.
	forward bool
	origin  id.Server
	// again: the event was judged before, while the room's state was partial.
	again bool
	// late: it is known to come before the join that the room is rewound to, and by which state it
	// is to be judged is not.
	late bool
}

// placed says whether the event joins the timeline.
func (en *entry) placed() bool {
	return en.event.Flags&(store.Rejected|store.SoftFailed|store.Outlier) == 0
}

// keep says whether the event is to be found in memory. One that comes in beside the
// timeline is not: it is one of the very many of a large room's state, mostly.
func (en *entry) keep() bool { return en.stored || en.event.Flags&store.Outlier == 0 }

// change is one entry of a room's current state that becomes another event's.
type change struct {
	key           store.StateKey
	tuple         event.StateTuple
	event         store.EventNID // 0: the entry is taken away
	before, after *event.PDU     // nil: there was, or will be, no entry
	member        *memberChange  // of a membership
}

// memberChange is what a change of a membership means.
type memberChange struct {
	user          store.UserNID
	id            id.User
	server        store.ServerNID
	local         bool
	before, after store.Membership
}

// inflight is a transaction whose commit is awaited; the store does not know it yet.
type inflight struct {
	txn     store.Transaction
	event   id.Event
	pending *store.Pending
}

// maxAttempts bounds how often a write set is built anew because another node moved the room on.
const maxAttempts = 5

// write builds a write set under the room's lock and returns when it is on
// disk. build may run again on a newer head, so it must have no other effect
// than on what it is given.
func (e *Engine) write(ctx context.Context, room id.Room, build func(*writing) error) error {
	for attempt := 1; ; attempt++ {
		r, ok, err := e.load(ctx, room)
		if err != nil {
			return fmt.Errorf("load %s: %w", room, err)
		}
		if !ok {
			return errcode.NotFound("room %s is not known here", room)
		}
		pending, err := e.enqueue(ctx, r, build)
		if err != nil {
			return err
		}
		if pending == nil {
			return nil
		}
		if err = pending.Wait(ctx); err == nil || ctx.Err() != nil {
			return err
		}
		// What is in memory is not what is on disk: begin anew from there.
		e.drop(room, r)
		if !errors.Is(err, store.ErrStaleHead) || attempt == maxAttempts {
			return fmt.Errorf("write to %s: %w", room, err)
		}
	}
}

// enqueue builds a write set and hands it to the committer; nil: there was nothing to write.
func (e *Engine) enqueue(ctx context.Context, r *room, build func(*writing) error) (*store.Pending, error) {
	select {
	case r.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-r.lock }()
	w := newWriting(e, r, r.head)
	if err := build(w); err != nil {
		if len(w.nodes)+len(w.verdicts) > 0 {
			r.graph = nil // it may have some of them, which are not to be
		}
		return nil, err
	}
	w.pronounce()
	if len(w.entries) == 0 && len(w.first) == 0 && len(w.also) == 0 {
		return nil, nil
	}
	head := *w.head
	head.Head = w.base.Head + 1
	if n := len(head.past); n > maxPast {
		head.past = slices.Clone(head.past[n-maxPast:])
	}
	w.head = &head
	// Before the commit, which puts the events with their positions in their place.
	for i := range w.entries {
		// What is stored already changes with the commit only.
		if en := &w.entries[i]; !en.stored && en.keep() {
			e.events.Set(en.event.NID, en.event)
		}
	}
	// Whoever learns of the commit finds the new head.
	r.reading.Lock()
	pending := e.store.Enqueue(w.commit)
	r.head, r.pending = w.head, pending
	r.reading.Unlock()
	for _, en := range w.entries {
		if en.txn != nil {
			r.inflight = append(r.inflight, inflight{*en.txn, en.event.ID, pending})
		}
	}
	return pending, nil
}

func newWriting(e *Engine, r *room, head *Head) *writing {
	return &writing{
		engine: e, room: r, base: head, head: head, from: head.StateVersion,
		fresh: map[id.Event]*Event{}, numbered: map[store.EventNID]*Event{}, awaited: map[id.Event][]*Event{},
	}
}

// add builds an event on the room's head, checks it by the rules, and makes it
// part of the write set.
func (w *writing) add(ctx context.Context, p Proposal) (*Event, error) {
	ev := &Event{}
	var draft entry
	err := w.engine.withNames(ctx, p, func(tx *store.Tx, n names) error {
		auth, err := w.authState(tx, p)
		if err != nil {
			return err
		}
		if ev.PDU, err = w.build(p, auth); err != nil {
			return err
		}
		if err := authrules.Check(ev.PDU, auth.state); err != nil {
			return err
		}
		ev.Event = store.Event{
			Room: w.head.NID, ID: ev.PDU.ID, Sender: n.sender, Type: n.typ, Key: n.key, IsState: p.StateKey != nil,
			Depth: ev.PDU.Depth, TS: ev.PDU.OriginServerTS, StateBefore: w.head.StateVersion,
		}
		if slices.ContainsFunc(w.head.extremities, func(x *Event) bool { return x.Flags.Untold() }) {
			ev.Flags = store.Guessed // what others say after it puts that right
		}
		draft = entry{event: ev, forward: true}
		if p.StateKey != nil {
			before, err := w.stateEvent(tx, ev.PDU.Tuple())
			if err != nil {
				return err
			}
			draft.changes = []change{{key: n.key, tuple: ev.PDU.Tuple(), before: before, after: ev.PDU}}
		}
		if p.Txn != nil {
			ev.Txn = string(p.Txn.Device) + " " + p.Txn.ID
			draft.txn = w.transaction(n.sender, p.Txn)
		}
		if ev.NID, err = w.engine.nids.next(ctx, w.engine.store); err != nil {
			return err
		}
		if ev.IsState {
			draft.changes[0].event = ev.NID
		}
		return w.gatherEffects(tx, &draft)
	})
	if err != nil {
		return nil, err
	}
	return ev, w.append(draft, append([]*Event{ev}, w.head.extremities[min(len(w.head.extremities), maxPrevEvents):]...))
}

// append makes an entry part of the write set; extremities are those after it.
func (w *writing) append(en entry, extremities []*Event) (err error) {
	if w.head, err = w.head.after(en.changes, extremities); err != nil {
		return err
	}
	w.note(&en)
	w.endOutside(&en)
	w.entries = append(w.entries, en)
	return nil
}

func (w *writing) transaction(sender store.UserNID, t *Txn) *store.Transaction {
	return &store.Transaction{User: sender, Device: string(t.Device), Room: w.head.NID, TxnID: t.ID, Endpoint: t.Endpoint}
}

// auth is what an event is judged by, and how it names that.
type auth struct {
	state authrules.State
	refs  []event.Ref
}

// authState gathers the events that the auth events selection asks for from the room's state.
// spec: server-server-api#auth-events-selection
func (w *writing) authState(tx *store.Tx, p Proposal) (auth, error) {
	a := auth{state: authrules.State{
		Create: w.head.Create, PowerLevels: w.head.PowerLevels, JoinRules: w.head.JoinRules, Levels: w.head.Levels,
	}}
	if w.head.Create == nil {
		return a, nil // this is to be the create event
	}
	for _, t := range authrules.Needed(w.head.Version, authrules.Draft{Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Content: p.Content}) {
		pdu, err := w.stateEvent(tx, t)
		if err != nil {
			return a, err
		}
		if pdu == nil {
			continue
		}
		a.refs = append(a.refs, pdu.Ref())
		if t.Type == event.TypeMember || t.Type == event.TypeThirdPartyInvite {
			a.state.Set(pdu)
		}
	}
	return a, nil
}

// stateEvent reads the state that the write set has arrived at; nil: there is no such entry.
func (w *writing) stateEvent(tx *store.Tx, t event.StateTuple) (*event.PDU, error) {
	if t.Key == "" {
		switch t.Type {
		case event.TypeCreate:
			return w.head.Create, nil
		case event.TypePowerLevels:
			return w.head.PowerLevels, nil
		case event.TypeJoinRules:
			return w.head.JoinRules, nil
		case event.TypeHistoryVisibility:
			return w.head.HistoryVisibility, nil
		}
	}
	key, ok, err := tx.IDs.FindStateKey(t)
	if err != nil || !ok {
		return nil, err
	}
	nid, ok := w.head.State.Get(key)
	if !ok {
		return nil, nil
	}
	ev, err := w.event(tx, nid)
	if err != nil {
		return nil, err
	}
	return ev.PDU, nil
}

// maxPrevEvents bounds how many extremities one event ties together.
// spec: server-server-api#pdus
const maxPrevEvents = 20

func (w *writing) build(p Proposal, a auth) (*event.PDU, error) {
	if signed := w.signedAs(p); signed != nil {
		return signed, nil
	}
	o := &w.engine.options
	proto := event.Proto{
		Room: w.head.ID, Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Content: p.Content, Redacts: p.Redacts,
		AuthEvents: a.refs, OriginServerTS: p.Timestamp, Depth: 1,
	}
	switch {
	case p.Timestamp != 0:
	case w.head.Create == nil:
		proto.OriginServerTS = w.engine.creationTime()
	case w.base.Create == nil:
		proto.OriginServerTS = max(now(), w.head.Create.OriginServerTS)
	default:
		proto.OriginServerTS = now()
	}
	if w.head.Version.EventID == 1 {
		proto.EventID = w.engine.newEventID()
	}
	for _, x := range w.head.extremities[:min(len(w.head.extremities), maxPrevEvents)] {
		proto.PrevEvents = append(proto.PrevEvents, x.PDU.Ref())
		proto.Depth = max(proto.Depth, min(x.Depth, maxDepth-1)+1)
	}
	return event.Build(w.head.Version, proto, o.Server, o.KeyID, o.Key)
}

// newEventID is for room versions 1 and 2, where events are named by chance.
func (e *Engine) newEventID() id.Event {
	return id.Event("$" + rand.Text() + ":" + string(e.options.Server))
}

// maxDepth is the greatest integer of canonical JSON. spec: rooms/v6
const maxDepth = 1<<53 - 1

// keptFree is how many positions are left for events that are missing before one,
// in case they are fetched. The counter has room for as many gaps as there can be.
const keptFree = 1 << 20
