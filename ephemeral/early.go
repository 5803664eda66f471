package ephemeral

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// A receipt of another server may overtake the event that was read, which comes from a third
// server. It waits for it here for a while. Who invents events can only push out others of
// these, of the same room first.
const (
	earlyTime    = time.Minute
	maxEarly     = 200
	maxEarlyRoom = 20
)

// earlyReceipt is a receipt whose event is not here yet.
type earlyReceipt struct {
	Received
	room  id.Room
	until time.Time
}

// errUnseen says that the event of a receipt is not here, or is not in the timeline.
var errUnseen = errcode.NotFound("the event is not in the room")

// await lets receipts wait for their events.
func (r *Receipts) await(ctx context.Context, room id.Room, receipts []Received) error {
	r.mu.Lock()
	now := time.Now()
	r.expire(now)
	for _, v := range receipts {
		// The last one that waits is as good as those before it, and moves them on.
		r.early = slices.DeleteFunc(r.early, func(e earlyReceipt) bool {
			return e.room == room && e.User == v.User && e.Thread == v.Thread
		})
		inRoom, first := 0, -1
		for i, e := range r.early {
			if e.room == room {
				if inRoom++; first < 0 {
					first = i
				}
			}
		}
		switch {
		case inRoom >= maxEarlyRoom:
			r.early = slices.Delete(r.early, first, first+1)
		case len(r.early) >= maxEarly:
			r.early = slices.Delete(r.early, 0, 1)
		}
		r.early = append(r.early, earlyReceipt{v, room, now.Add(earlyTime)})
	}
	r.mu.Unlock()
	return r.arrived(ctx) // perhaps while they were looked for
}

// expire drops what has waited long enough. The caller holds the lock.
func (r *Receipts) expire(now time.Time) {
	r.early = slices.DeleteFunc(r.early, func(e earlyReceipt) bool { return !e.until.After(now) })
}

// arrived receives the receipts whose events are here now.
func (r *Receipts) arrived(ctx context.Context) error {
	r.mu.Lock()
	r.expire(time.Now())
	waiting := slices.Clone(r.early)
	r.mu.Unlock()
	if len(waiting) == 0 {
		return nil
	}
	var here []earlyReceipt
	err := r.store.View(ctx, func(tx *store.Tx) error {
		here = nil
		for _, e := range waiting {
			_, ok, err := tx.Events.Find(e.Event)
			if err == nil && ok {
				var row store.Event
				row, ok, err = tx.Events.GetID(e.Event)
				ok = ok && row.Position != 0
			}
			if err != nil {
				return err
			}
			if ok {
				here = append(here, e)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for events that were read: %w", err)
	}
	r.mu.Lock()
	r.early = slices.DeleteFunc(r.early, func(e earlyReceipt) bool { return slices.Contains(here, e) })
	r.mu.Unlock()
	for _, e := range here {
		if err := r.Receive(ctx, e.room, []Received{e.Received}); err != nil {
			return err
		}
	}
	return nil
}

// Follow receives early receipts when their events arrive, until the context ends.
func (r *Receipts) Follow(ctx context.Context, hub *stream.Hub) error {
	hub.Follow(ctx, func(int64) {
		if err := r.arrived(ctx); err != nil && ctx.Err() == nil {
			slog.ErrorContext(ctx, "receipts that came before their events", "error", err)
		}
	})
	return nil
}
