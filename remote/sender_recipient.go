package remote

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"hearth/matrix/id"
	"hearth/store"
)

// A queue that grows beyond this is dropped: the destination reads the store instead.
const (
	maxQueue      = 200
	maxQueueBytes = 1 << 20
)

// sendTime bounds one attempt, whatever the transport does.
const sendTime = 2 * time.Minute

// recipient is a server that there is something for and that answers, as far
// as is known. The sender's lock guards it; what is the goroutine's alone is below.
type recipient struct {
	nid  store.ServerNID
	name id.Server
	wake chan struct{} // there is something new

	queue     []*item // what it has not accepted yet, if it does not read the store
	queued    int     // bytes
	reading   bool    // reads the store from cursor on
	cursor    int64   // everything for it up to here was accepted
	volatile  volatileQueue
	atSave    int64 // its position when that was last noted
	attempt   int64 // see store.Destination
	interval  time.Duration
	failingTS int64

	// The goroutine's alone.
	reached bool // see isThere
	narrowed
}

// narrowed is what is known of a destination that does not take everything: it stays known
// while the destination does not answer.
type narrowed struct {
	limit    int // items in a transaction, after one that was too much; 0: no such
	refusals refusals
	catchUp  catchUp
}

// push puts an item into the queue. The caller holds the sender's lock.
func (d *recipient) push(it *item) {
	if d.reading {
		return
	}
	if len(d.queue) == maxQueue || d.queued+len(it.body) > maxQueueBytes && len(d.queue) > 0 {
		d.cursor, d.reading = d.queue[0].position-1, true
		d.queue, d.queued = nil, 0
		return
	}
	d.queue = append(d.queue, it)
	d.queued += len(it.body)
	d.signal()
}

func (d *recipient) signal() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// position is up to where it has accepted everything. The caller holds the lock.
func (d *recipient) position(spread int64) int64 {
	switch {
	case d.reading:
		return d.cursor
	case len(d.queue) > 0:
		return d.queue[0].position - 1
	}
	return spread
}

// serve sends a destination what there is for it, one transaction after the
// other, until there is nothing more, it fails, or the context ends.
func (s *Sender) serve(ctx context.Context, d *recipient) error {
	for s.await(ctx, d) {
		slots := s.slotsFor(d)
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		going, err := s.sendNext(ctx, d)
		<-slots
		if err != nil || !going {
			return err
		}
	}
	return nil
}

// slotsFor is what bounds the transactions under way to such a destination: hundreds that
// do not answer must hold up neither those that do nor those of which nothing is known.
func (s *Sender) slotsFor(d *recipient) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.answers[d.nid]:
		return s.slots[0]
	case d.failingTS == 0:
		return s.slots[1]
	}
	return s.slots[2]
}

// await returns true when there is something to be sent. If there is nothing
// more, the destination is active no longer.
func (s *Sender) await(ctx context.Context, d *recipient) bool {
	for ctx.Err() == nil {
		s.mu.Lock()
		if d.reading || len(d.queue) > 0 {
			s.mu.Unlock()
			return true
		}
		due, any := d.volatile.due()
		if !any {
			delete(s.active, d.nid)
			s.touch()
			s.mu.Unlock()
			return false
		}
		s.mu.Unlock()
		wait := time.Until(due)
		if wait <= 0 {
			return true
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-d.wake:
		case <-ctx.Done():
		}
		timer.Stop()
	}
	return false
}

// isThere asks a destination that has long been down whether it is there: to find out what
// it has missed costs more than that, and there may be hundreds that will never be back.
func (s *Sender) isThere(ctx context.Context, d *recipient) error {
	if d.reached || s.options.Reach == nil || d.interval < longPause {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	err := s.options.Reach(ctx, d.name)
	d.reached = err == nil
	return err
}

// sendNext sends the next transaction, if there is one; false: the destination failed.
func (s *Sender) sendNext(ctx context.Context, d *recipient) (going bool, err error) {
	if err := s.isThere(ctx, d); err != nil {
		if ctx.Err() == nil {
			s.fail(d, d.attempt, err)
		}
		return false, nil
	}
	t, err := s.next(ctx, d)
	if err != nil || t == nil {
		return err == nil && ctx.Err() == nil, err
	}
	if t.items == 0 && !t.volatile {
		s.accept(d, t) // all of it was passed over
		return true, nil
	}
	sending, cancel := context.WithTimeout(ctx, sendTime)
	results, err := s.options.Send(sending, d.name, t.id, t.body)
	cancel()
	switch {
	case err == nil:
		s.accept(d, t)
		for event, why := range results {
			slog.DebugContext(ctx, "another server refuses an event", "server", d.name, "event", event, "why", why)
		}
		return true, nil
	case ctx.Err() != nil:
		return false, nil // it will be sent again
	case tooMuch(err):
		return s.narrow(ctx, d, t, err), nil
	case broke(err):
		return s.refused(ctx, d, t, err), nil
	}
	d.refusals.inRow = 0
	s.fail(d, t.last, err)
	return false, nil
}

// accept notes that a transaction has arrived.
func (s *Sender) accept(d *recipient, t *transaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.failingTS != 0 {
		slog.Info("another server answers again", "server", d.name)
	}
	d.interval, d.failingTS, d.attempt = 0, 0, 0
	s.answers[d.nid] = true
	if d.limit > 0 {
		if d.limit *= 2; d.limit > maxPDUs+maxEDUs {
			d.limit = 0
		}
	}
	if d.limit == 0 {
		d.refusals = refusals{}
	}
	s.touch()
	t.accepted()
}

// fail ends an active destination: it is tried again later. attempt is the last
// position of the transaction that failed.
func (s *Sender) fail(d *recipient, attempt int64, cause error) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.failingTS == 0 {
		d.failingTS = now.UnixMilli()
		slog.Info("another server does not answer; trying again", "server", d.name, "error", cause)
	}
	d.interval = min(max(2*d.interval, firstPause), maxPause)
	pause := time.Duration(float64(d.interval) * (0.8 + 0.4*rand.Float64()))
	o := &outage{name: d.name, retryAt: now.Add(pause), tried: now, unsaved: true, Destination: store.Destination{
		Server: d.nid, Sent: d.position(s.spread), Attempt: attempt,
		RetryIntervalMS: d.interval.Milliseconds(), RetryAfterTS: now.Add(pause).UnixMilli(), FailingSinceTS: d.failingTS,
	}}
	if d.limit > 0 || d.refusals.inRow > 0 {
		o.narrowed = &d.narrowed
	}
	delete(s.active, d.nid)
	delete(s.answers, d.nid)
	s.failing[d.nid], s.byName[d.name] = o, o
	s.changed = true
	s.poke()
}

// resume makes a destination active again that did not answer. The caller holds the lock.
func (s *Sender) resume(o *outage) {
	delete(s.failing, o.Server)
	delete(s.byName, o.name)
	d := &recipient{
		nid: o.Server, name: o.name, cursor: o.Sent, attempt: o.Attempt, reading: true, atSave: -1,
		interval: time.Duration(o.RetryIntervalMS) * time.Millisecond, failingTS: o.FailingSinceTS,
		wake: make(chan struct{}, 1),
	}
	if o.narrowed != nil {
		d.narrowed = *o.narrowed
	}
	s.start(d)
}

// next makes the next transaction for a destination; nil: there is none just now.
func (s *Sender) next(ctx context.Context, d *recipient) (*transaction, error) {
	s.mu.Lock()
	reading, upTo := d.reading, s.spread
	if !reading {
		t := s.fromQueue(d)
		s.mu.Unlock()
		t.finish(s.options.Server)
		return t, nil
	}
	s.mu.Unlock()
	t, err := s.fromStore(ctx, d, upTo)
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil
		}
		return nil, fmt.Errorf("read what goes to %s: %w", d.name, err)
	}
	if t != nil {
		t.finish(s.options.Server)
	}
	return t, nil
}

// fromQueue makes a transaction of what is at the front of the queue. The caller
// holds the lock.
func (s *Sender) fromQueue(d *recipient) *transaction {
	t := &transaction{limit: d.limit}
	n := 0
	for _, it := range d.queue {
		if !t.add(it) {
			break
		}
		n++
	}
	switch {
	case d.limit > 0:
		d.volatile = volatileQueue{} // it might be what the server does not take
	case n == len(d.queue): // it may be about what comes later in the queue
		t.addVolatile(&d.volatile)
	}
	t.accepted = func() {
		// It may have begun to read the store, from the front of the queue, meanwhile.
		if d.reading {
			d.cursor = max(d.cursor, t.last)
			return
		}
		for _, it := range d.queue[:n] {
			d.queued -= len(it.body)
		}
		d.queue = append([]*item(nil), d.queue[n:]...)
	}
	return t
}
