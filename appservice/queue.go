package appservice

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

const (
	follower = "application services" // name in the store
	batch    = 500                    // events looked at in one step
	// saveEvery is how many positions without anything of interest may have to be
	// looked at again after a crash.
	saveEvery = 1000
	// maxTransaction bounds the events of one transaction.
	maxTransaction = 100
	maxKnownRooms  = 10_000
)

// queue is what one service is to get. Which events go in a transaction is
// settled when they are queued, so that a transaction that is tried again, even
// after a crash, is the same one.
type queue struct {
	service *Service
	log     *slog.Logger
	wake    chan struct{} // there are events
	retry   chan struct{} // it is worth trying at once

	mu   sync.Mutex // held while a transaction is opened or added to
	txn  int64      // the transaction that takes the next event; no attempt was made to send it
	size int        // events in it

	// The rest is the follower's alone.
	since   int64
	members map[store.RoomNID]membership
}

// membership is what a service's users have to do with a room.
type membership struct {
	joined bool
	left   int64 // position at which the last of those who are not joined any more went
}

// Run queues events for services until the context ends, beginning where it
// stopped the last time. Begin comes before it.
func (v *Services) Run(ctx context.Context, hub *stream.Hub) (err error) {
	at, saved, err := v.position(ctx)
	if err != nil || len(v.queues) == 0 {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hub.Follow(ctx, func(position int64) {
		for at < position && err == nil {
			at, saved, err = v.step(ctx, at, saved, position)
		}
		if err != nil {
			stop()
		}
	})
	return err
}

// Begin notes services that are new: they get what happens from now on. With no
// service at all nobody misses what is passed over. It is called once, before
// anything else.
func (v *Services) Begin(ctx context.Context, now int64) error {
	err := v.store.Update(ctx, func(tx *store.Tx) error {
		_, known, err := tx.Followers.Position(follower)
		if err == nil && (!known || len(v.queues) == 0) {
			err = tx.Followers.SetPosition(follower, now)
		}
		for _, q := range v.queues {
			if err == nil {
				err = q.begin(tx, now)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("begin to serve application services: %w", err)
	}
	return nil
}

func (q *queue) begin(tx *store.Tx, now int64) error {
	state, known, err := tx.Appservices.Get(q.service.ID)
	if err != nil {
		return err
	}
	if !known {
		state.Since = now
		if err := tx.Appservices.Insert(q.service.ID, now); err != nil {
			return err
		}
	}
	last, err := tx.Appservices.LastQueuedTxn(q.service.ID)
	// What is queued may have been sent already: nothing is added to it.
	q.since, q.txn, q.size = state.Since, max(last, state.LastTxn)+1, 0
	return err
}

func (v *Services) position(ctx context.Context) (at, saved int64, err error) {
	err = v.store.View(ctx, func(tx *store.Tx) error {
		at, _, err = tx.Followers.Position(follower)
		return err
	})
	return at, at, err
}

// interest is that a service is to get an event.
type interest struct {
	queue *queue
	event store.QueuedEvent
}

// step looks at the next batch of events and queues those of interest.
func (v *Services) step(ctx context.Context, at, saved, position int64) (next, nextSaved int64, err error) {
	upTo := position
	var found []interest
	err = v.store.View(ctx, func(tx *store.Tx) error {
		places, err := tx.Events.After(at, position, batch)
		if err != nil {
			return err
		}
		if len(places) == batch {
			upTo = places[batch-1].Position
		}
		found, err = v.interests(tx, places)
		return err
	})
	if err != nil {
		return at, saved, fmt.Errorf("look for events of application services: %w", err)
	}
	if len(found) == 0 && upTo < saved+saveEvery {
		return upTo, saved, nil
	}
	if err := v.enqueue(ctx, found, upTo); err != nil {
		return at, saved, fmt.Errorf("queue events for application services: %w", err)
	}
	return upTo, upTo, nil
}

func (v *Services) interests(tx *store.Tx, places []store.Place) (found []interest, err error) {
	nids := make([]store.EventNID, len(places))
	for i, p := range places {
		nids[i] = p.NID
	}
	events, err := v.rooms.Events(tx, nids)
	if err != nil {
		return nil, err
	}
	for _, ev := range events {
		for _, q := range v.queues {
			ok, err := q.concerns(tx, ev)
			if err != nil {
				return nil, err
			}
			if ok && ev.Position > q.since {
				found = append(found, interest{q, store.QueuedEvent{Position: ev.Position, Event: ev.NID}})
			}
		}
	}
	return found, nil
}

// enqueue writes down what was found and that all before is done.
func (v *Services) enqueue(ctx context.Context, found []interest, upTo int64) error {
	// Nobody may begin to send a transaction while it is added to.
	for _, q := range v.queues {
		q.mu.Lock()
		defer q.mu.Unlock()
	}
	for i := range found {
		q := found[i].queue
		if q.size == maxTransaction {
			q.txn, q.size = q.txn+1, 0
		}
		q.size++
		found[i].event.Txn = q.txn
	}
	err := v.store.Update(ctx, func(tx *store.Tx) error {
		for _, f := range found {
			if err := tx.Appservices.Queue(f.queue.service.ID, f.event); err != nil {
				return err
			}
		}
		return tx.Followers.SetPosition(follower, upTo)
	})
	if err == nil {
		for _, f := range found {
			signal(f.queue.wake)
		}
	}
	return err
}

// concerns says whether a service is to get an event: for its sender, the user
// that it is about, its room, or those in its room.
// spec: application-service-api#registration
func (q *queue) concerns(tx *store.Tx, ev *room.Event) (bool, error) {
	s, p := q.service, ev.PDU
	member := p.Type == event.TypeMember && p.StateKey != nil && s.OwnsUser(id.User(*p.StateKey))
	if member {
		delete(q.members, ev.Room)
	}
	if member || s.OwnsUser(p.Sender) || s.OwnsRoom(p.Room) {
		return true, nil
	}
	m, err := q.membership(tx, ev.Room)
	// Whoever has left by now was there when earlier events happened.
	if err != nil || m.joined || m.left >= ev.Position {
		return err == nil, err
	}
	return q.ownsAnAlias(tx, p.Room)
}

func (q *queue) membership(tx *store.Tx, room store.RoomNID) (membership, error) {
	if m, ok := q.members[room]; ok {
		return m, nil
	}
	var m membership
	all, err := tx.Members.LocalOfRoom(room)
	if err != nil {
		return m, err
	}
	for _, member := range all {
		u, err := tx.IDs.UserID(member.User)
		switch {
		case err != nil:
			return m, err
		case !q.service.OwnsUser(u):
		case member.Membership == store.Join:
			m.joined = true
		case member.Membership == store.Leave || member.Membership == store.Ban:
			m.left = max(m.left, member.Position)
		}
	}
	if len(q.members) >= maxKnownRooms {
		clear(q.members)
	}
	q.members[room] = m
	return m, nil
}

func (q *queue) ownsAnAlias(tx *store.Tx, room id.Room) (bool, error) {
	if len(q.service.aliases) == 0 {
		return false, nil
	}
	aliases, err := tx.Aliases.OfRoom(room)
	for _, a := range aliases {
		if q.service.OwnsAlias(a) {
			return true, nil
		}
	}
	return false, err
}
