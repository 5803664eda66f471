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
	"hearth/stream"
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
	// also holds further writes that belong to the same commit.
	also []func(*store.Tx) error
}

// entry is one event of a write set.
type entry struct {
	event   *Event
	member  *memberChange
	effects []effect
	txn     *store.Transaction
}

// memberChange is what a membership event does.
type memberChange struct {
	user          store.UserNID
	id            id.User
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
	w := &writing{engine: e, room: r, base: r.head, head: r.head}
	if err := build(w); err != nil {
		return nil, err
	}
	if len(w.entries) == 0 && len(w.also) == 0 {
		return nil, nil
	}
	head := *w.head
	head.Head = w.base.Head + 1
	w.head = &head
	// Before the commit, which puts the events with their positions in their place.
	for _, en := range w.entries {
		e.events.Set(en.event.NID, en.event)
	}
	pending := e.store.Enqueue(w.commit)
	for _, en := range w.entries {
		if en.txn != nil {
			r.inflight = append(r.inflight, inflight{*en.txn, en.event.ID, pending})
		}
	}
	r.reading.Lock()
	r.head, r.pending = w.head, pending
	r.reading.Unlock()
	return pending, nil
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
		draft = entry{event: ev}
		if p.Txn != nil {
			ev.Txn = string(p.Txn.Device) + " " + p.Txn.ID
			draft.txn = w.transaction(n.sender, p.Txn)
		}
		return w.gatherEffects(tx, &draft)
	})
	if err != nil {
		return nil, err
	}
	if ev.NID, err = w.engine.nids.next(ctx, w.engine.store); err != nil {
		return nil, err
	}
	if w.head, err = w.head.after(ev, draft.member); err != nil {
		return nil, err
	}
	w.entries = append(w.entries, draft)
	return ev, nil
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
	for _, en := range slices.Backward(w.entries) { // not in the store, nor in memory yet
		if en.event.PDU.Is(t.Type, t.Key) {
			return en.event.PDU, nil
		}
	}
	ev, ok, err := w.engine.StateEvent(tx, w.head, t)
	if err != nil || !ok {
		return nil, err
	}
	return ev.PDU, nil
}

// maxPrevEvents bounds how many extremities one event ties together.
// spec: server-server-api#pdus
const maxPrevEvents = 20

func (w *writing) build(p Proposal, a auth) (*event.PDU, error) {
	o := &w.engine.options
	proto := event.Proto{
		Room: w.head.ID, Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Content: p.Content, Redacts: p.Redacts,
		AuthEvents: a.refs, OriginServerTS: p.Timestamp, Depth: 1,
	}
	switch {
	case p.Timestamp != 0:
	case w.head.Create == nil:
		proto.OriginServerTS = w.engine.creationTime()
	default:
		proto.OriginServerTS = now()
	}
	if w.head.Version.EventID == 1 {
		proto.EventID = id.Event("$" + rand.Text() + ":" + string(o.Server))
	}
	for _, x := range w.head.extremities[:min(len(w.head.extremities), maxPrevEvents)] {
		proto.PrevEvents = append(proto.PrevEvents, x.PDU.Ref())
		proto.Depth = max(proto.Depth, min(x.Depth, maxDepth-1)+1)
	}
	return event.Build(w.head.Version, proto, o.Server, o.KeyID, o.Key)
}

// maxDepth is the greatest integer of canonical JSON. spec: rooms/v6
const maxDepth = 1<<53 - 1

// commit writes the set in the store's transaction. It may touch nothing but the store.
func (w *writing) commit(tx *store.Tx) error {
	row := w.head.Room
	row.Head = w.base.Head
	row.LastPosition = tx.Position() + int64(len(w.entries))
	// First, so that a set which another node has overtaken is known as such.
	if err := tx.Rooms.Advance(row); err != nil {
		return err
	}
	for i := range w.entries {
		if err := w.commitEntry(tx, &w.entries[i]); err != nil {
			return err
		}
	}
	for _, fn := range w.also {
		if err := fn(tx); err != nil {
			return err
		}
	}
	return nil
}

func (w *writing) commitEntry(tx *store.Tx, en *entry) error {
	row := en.event.Event
	row.Room, row.Position, row.JSON = w.head.NID, tx.NextPosition(), en.event.PDU.JSON
	if err := tx.Events.Insert(row); err != nil {
		return fmt.Errorf("insert %s: %w", row.ID, err)
	}
	placed := &Event{row, en.event.PDU}
	placed.JSON = nil // the PDU has it
	tx.AfterCommit(func() { w.engine.events.Set(placed.NID, placed) })
	if row.IsState {
		if err := tx.State.Insert(row.Room, row.Key, row.StateBefore+1, row.NID); err != nil {
			return fmt.Errorf("change state by %s: %w", row.ID, err)
		}
	}
	if en.txn != nil {
		if err := tx.Transactions.Insert(*en.txn, row.NID, now()); err != nil {
			return fmt.Errorf("note transaction of %s: %w", row.ID, err)
		}
	}
	for _, apply := range en.effects {
		if err := apply(tx, row); err != nil {
			return fmt.Errorf("effects of %s: %w", row.ID, err)
		}
	}
	tx.Touch(stream.Room, row.Room, w.concerned(en)...)
	return nil
}

// concerned are the local users who can see an event: those joined, and whom a
// membership event is about.
func (w *writing) concerned(en *entry) []store.UserNID {
	m := en.member
	if m == nil || !m.local {
		return w.head.Locals
	}
	return withLocal(w.head.Locals, m.user, true)
}
