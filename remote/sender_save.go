package remote

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"hearth/store"
)

// How long items are kept for destinations that do not answer. Of events and changes of
// keys these need not be told each: see catchUp.
const (
	sweepEvery = time.Hour
	keepEvents = 2 * 24 * time.Hour
	keepEDUs   = 30 * 24 * time.Hour
	sweepStep  = 5000 // positions in one transaction
)

// tend notes in the store how far the sender and its destinations have come,
// wakes destinations whose time has come, and drops old items, until the context ends.
func (s *Sender) tend(ctx context.Context) error {
	var saved, swept time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.kick:
		}
		now := time.Now()
		next, changed := s.wakeDue(now)
		if changed && now.Sub(saved) >= saveEvery {
			if err := s.save(ctx, false); err != nil && ctx.Err() == nil {
				slog.Error("note what other servers have got", "error", err)
			}
			saved = now
			_, changed = s.wakeDue(now)
		}
		if now.Sub(swept) >= sweepEvery {
			if err := s.sweep(ctx, now); err != nil && ctx.Err() == nil {
				slog.Error("drop what other servers have got", "error", err)
			}
			swept = now
		}
		next = sooner(next, swept.Add(sweepEvery))
		if changed {
			next = sooner(next, saved.Add(saveEvery))
		}
		timer.Reset(max(0, time.Until(next)))
	}
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || b.Before(a) {
		return b
	}
	return a
}

// wakeDue tries again those whose time has come. It says when the next one's
// comes (zero: there is none), and whether there is something to note.
func (s *Sender) wakeDue(now time.Time) (next time.Time, changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.failing {
		switch {
		case o.retryAt.After(now):
		case !s.options.Allow(o.name):
			o.retryAt = now.Add(maxPause)
		case s.ctx != nil && s.ctx.Err() == nil:
			s.resume(o)
			continue
		}
		next = sooner(next, o.retryAt)
	}
	return next, s.changed
}

// save notes how far all have come. Destinations that are slow get a row, so that
// they do not hold back the position of all others; at the end all active ones do.
func (s *Sender) save(ctx context.Context, end bool) error {
	s.mu.Lock()
	upTo := s.spread
	rows := map[store.ServerNID]store.Destination{}
	wanted := map[store.ServerNID]bool{}
	for nid, d := range s.active {
		at := d.position(s.spread)
		slow := d.reading || at == d.atSave || s.rows[nid] && at < s.noted
		d.atSave = at
		if at < s.spread && (slow || end) {
			rows[nid], wanted[nid] = d.row(s.spread), true
		} else {
			upTo = min(upTo, at)
		}
	}
	unsaved := map[store.ServerNID]*outage{}
	for nid, o := range s.failing {
		wanted[nid] = true
		if o.unsaved || !s.rows[nid] {
			rows[nid], unsaved[nid] = o.Destination, o
		}
	}
	var gone []store.ServerNID
	for nid := range s.rows {
		if !wanted[nid] {
			gone = append(gone, nid)
		}
	}
	s.changed = false
	s.mu.Unlock()

	err := s.store.Update(ctx, func(tx *store.Tx) error {
		for _, row := range rows {
			if err := tx.Destinations.Set(row); err != nil {
				return err
			}
		}
		for _, nid := range gone {
			if err := tx.Destinations.Delete(nid); err != nil {
				return err
			}
		}
		return tx.Followers.SetPosition(follower, upTo)
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.changed = true
		return err
	}
	s.rows, s.noted = wanted, upTo
	for _, o := range unsaved {
		o.unsaved = false
	}
	if len(s.active) > 0 {
		s.changed = true // they go on
	}
	return nil
}

// row is what is noted of an active destination. The caller holds the sender's lock.
func (d *recipient) row(spread int64) store.Destination {
	return store.Destination{Server: d.nid, Sent: d.position(spread), Attempt: d.attempt,
		RetryIntervalMS: d.interval.Milliseconds(), FailingSinceTS: d.failingTS}
}

// sweep deletes items that every destination has got, and those that are too old.
func (s *Sender) sweep(ctx context.Context, now time.Time) error {
	var got, edus, events, first int64 // up to where all have got everything, and what is too old
	var doneEDUs, doneEvents int64
	var any bool
	s.mu.Lock()
	position, noted := s.spread, s.noted
	s.mu.Unlock()
	err := s.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Outgoing.SetAge(now.UnixMilli(), position); err != nil {
			return err
		}
		return tx.Outgoing.ForgetAges(now.Add(-keepEDUs).UnixMilli())
	})
	if err != nil {
		return err
	}
	err = s.store.View(ctx, func(tx *store.Tx) error {
		got = noted
		least, waiting, err := tx.Destinations.LeastSent()
		if err != nil {
			return err
		}
		if waiting {
			got = min(got, least)
		}
		if edus, _, err = tx.Outgoing.PositionAt(now.Add(-keepEDUs).UnixMilli()); err != nil {
			return err
		}
		if events, _, err = tx.Outgoing.PositionAt(now.Add(-keepEvents).UnixMilli()); err != nil {
			return err
		}
		if doneEDUs, _, err = tx.Followers.Position(deletedEDUs); err != nil {
			return err
		}
		if doneEvents, _, err = tx.Followers.Position(deletedEvents); err != nil {
			return err
		}
		first, any, err = tx.Outgoing.First()
		return err
	})
	if err != nil || !any {
		return err
	}
	// First the notes, so that nobody takes what is left for the whole.
	if events > max(got, doneEvents) || edus > max(got, doneEDUs) {
		err = s.store.Update(ctx, func(tx *store.Tx) error {
			if err := tx.Followers.SetPosition(deletedEvents, max(events, doneEvents)); err != nil || edus <= got {
				return err
			}
			return tx.Followers.SetPosition(deletedEDUs, max(edus, doneEDUs))
		})
	}
	if err == nil {
		err = s.delete(ctx, first, max(got, edus), store.Outgoing.Delete)
	}
	if err == nil {
		err = s.delete(ctx, max(first, got+1, edus+1, doneEvents+1), events, store.Outgoing.DeleteEvents)
	}
	return err
}

// delete deletes items up to a position, some at a time: others want to write too.
func (s *Sender) delete(ctx context.Context, first, upTo int64, some func(store.Outgoing, int64) error) error {
	for at := first - 1; at < upTo; {
		at = min(at+sweepStep, upTo)
		if err := s.store.Update(ctx, func(tx *store.Tx) error { return some(tx.Outgoing, at) }); err != nil {
			return fmt.Errorf("delete items up to %d: %w", at, err)
		}
	}
	return nil
}
