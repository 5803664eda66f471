package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// Sender tells other servers what concerns them: the events of rooms that they
// are in, messages for their users' devices, changes of keys, and in passing who
// is typing, reading and online.
//
// What must not be lost stands in the store (store.Outgoing), one row for each
// event or EDU with the set of its destinations. Follow puts what is new into
// the queues of its destinations, each of which has a goroutine as long as there
// is something for it and it answers. A destination that does not answer, or
// whose queue grows too long, loses its queue and has a row instead
// (store.Destinations); later it reads on from there.
//
// So this holds in the store at any time: a destination without a row has got
// everything up to where the sender has come (store.Followers), and one with a
// row everything up to that row's position. A crash repeats what was sent since
// that was last noted, and loses nothing.
// spec: server-server-api#transactions
type Sender struct {
	store   *store.Store
	options SenderOptions
	slots   [3]chan struct{} // bound the transactions under way, see slotsFor
	kick    chan struct{}    // wakes tend

	mu      sync.Mutex
	ctx     context.Context // of Run, while it runs
	running sync.WaitGroup
	own     store.ServerNID
	spread  int64 // everything up to here was put into queues
	noted   int64 // the same, as the store has it
	active  map[store.ServerNID]*recipient
	answers map[store.ServerNID]bool // those that took the last transaction they got
	failing map[store.ServerNID]*outage
	byName  map[id.Server]*outage
	rows    map[store.ServerNID]bool // destinations that have a row
	changed bool                     // since it was last noted
	lastEDU int64                    // number of the last volatile EDU
	early   []earlyEDU               // wait for spread
	sets    map[int64]*destinationSet
	members int // of all sets in memory
}

// SenderOptions is what a sender is told when it is made.
type SenderOptions struct {
	Server id.Server
	// Send hands a transaction to a server, which answers with what is wrong with
	// which events. Errors are *errcode.Error where the server answered with one.
	Send func(ctx context.Context, to id.Server, txnID string, body []byte) (map[id.Event]string, error)
	// Reach asks a server whether it is there; nil: transactions find that out.
	Reach func(ctx context.Context, to id.Server) error
	// MissedKeys is the EDU that tells a server of a change of keys, where what it should have
	// been sent then is deleted; nil: it is not concerned. No func: it is told of none.
	MissedKeys func(tx *store.Tx, change store.DeviceListChange, to store.ServerNID) ([]byte, error)
	// Allow says whether a server may be talked to; nil: all may. It must be quick.
	Allow func(id.Server) bool
}

// EDU is news that is worth sending now or not at all.
// spec: server-server-api#edus
type EDU struct {
	Type    string
	Content jsontext.Value
	// Key names what the news is about: later news with the same type and key
	// replaces it.
	Key string
	// Patience is how long it may wait for company.
	Patience time.Duration
}

const (
	follower      = "federation sender"                // name in the store
	deletedEvents = "federation sender events deleted" // up to where there are only EDUs in the store
	deletedEDUs   = "federation sender EDUs deleted"   // up to where there is nothing

	spreadBatch = 200
	maxSending  = 256 // transactions under way at once, of each kind
	saveEvery   = 2 * time.Second
	// maxSetMembers bounds the sets of destinations in memory, in servers of 24 bytes.
	maxSetMembers = 100_000
)

// Pauses between attempts at a server that does not answer: each twice the one before.
const (
	firstPause = 10 * time.Second
	maxPause   = 8 * time.Hour
	// longPause is from which pause on a server is asked whether it is there before
	// anything is read for it.
	longPause = 10 * time.Minute
	// upPause is how soon after a failure a server is tried again because it sent
	// something itself: it may be one that cannot be reached all the same.
	upPause = time.Minute
)

// destinationSet is the servers that an item goes to.
type destinationSet struct {
	nids  []store.ServerNID
	names []id.Server
}

// item is an event or EDU on its way. Several queues share it.
type item struct {
	position int64
	edu      bool
	body     []byte
}

// outage is a destination that does not answer: it has no goroutine and no queue.
type outage struct {
	store.Destination
	name    id.Server
	retryAt time.Time
	tried   time.Time
	unsaved bool

	narrowed *narrowed // nil: nothing was too much for it
}

// NewSender makes a sender. It sends nothing before Run.
func NewSender(s *store.Store, o SenderOptions) *Sender {
	if o.Allow == nil {
		o.Allow = func(id.Server) bool { return true }
	}
	return &Sender{
		store: s, options: o,
		slots:   [3]chan struct{}{make(chan struct{}, maxSending), make(chan struct{}, maxSending), make(chan struct{}, maxSending)},
		kick:    make(chan struct{}, 1),
		lastEDU: time.Now().UnixNano(),
	}
}

// Run sends until the context ends, beginning where it stopped the last time.
func (s *Sender) Run(ctx context.Context, hub *stream.Hub) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	if err := s.begin(ctx); err != nil {
		return fmt.Errorf("begin to send to other servers: %w", err)
	}
	var following error
	s.running.Go(func() {
		hub.Follow(ctx, func(position int64) {
			if following == nil {
				following = guard(func() error { return s.follow(ctx, position) })
			}
			if following != nil {
				stop()
			}
		})
	})
	tending := guard(func() error { return s.tend(ctx) })
	stop()
	s.mu.Lock()
	s.ctx = nil // nobody is started any more
	s.mu.Unlock()
	s.running.Wait()
	return errors.Join(following, tending, s.save(context.WithoutCancel(ctx), true))
}

// guard turns a panic into an error, so that it ends one loop and not the server.
func guard(fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return fn()
}

// begin reads where the sender stopped.
func (s *Sender) begin(ctx context.Context) error {
	var own store.ServerNID
	err := s.store.Update(ctx, func(tx *store.Tx) (err error) {
		own, err = tx.IDs.Server(s.options.Server)
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.own = own
	s.active, s.failing = map[store.ServerNID]*recipient{}, map[store.ServerNID]*outage{}
	s.answers = map[store.ServerNID]bool{}
	s.byName, s.rows = map[id.Server]*outage{}, map[store.ServerNID]bool{}
	s.sets, s.members, s.early = map[int64]*destinationSet{}, 0, nil
	err = s.store.View(ctx, func(tx *store.Tx) error {
		if s.spread, _, err = tx.Followers.Position(follower); err != nil {
			return err
		}
		rows, err := tx.Destinations.List()
		for _, row := range rows {
			if err != nil {
				return err
			}
			o := &outage{Destination: row, retryAt: time.UnixMilli(row.RetryAfterTS)}
			if latest := time.Now().Add(maxPause); o.retryAt.After(latest) {
				o.retryAt = latest // the clock was ahead when it was noted
			}
			o.name, err = tx.IDs.ServerName(row.Server)
			s.failing[row.Server], s.byName[o.name], s.rows[row.Server] = o, o, true
		}
		return err
	})
	s.noted, s.ctx = s.spread, ctx
	return err
}

// follow puts everything up to a position into the queues of its destinations.
func (s *Sender) follow(ctx context.Context, position int64) error {
	for s.spread < position { // only written here
		batch, err := s.read(ctx, position)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("read what goes to other servers: %w", err)
		}
		s.put(batch)
	}
	return nil
}

// batch is items with their destinations.
type batch struct {
	items []*item
	sets  []*destinationSet
	upTo  int64
}

// read reads the next items up to a position.
func (s *Sender) read(ctx context.Context, position int64) (b batch, err error) {
	b.upTo = position
	err = s.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.Outgoing.After(s.spread, position, spreadBatch)
		if err != nil || len(rows) == 0 {
			return err
		}
		if len(rows) == spreadBatch {
			b.upTo = rows[len(rows)-1].Position
		}
		items, err := load(tx, rows)
		if err != nil {
			return err
		}
		for i, it := range items {
			if it == nil {
				continue
			}
			set, err := s.set(tx, rows[i].Set)
			if err != nil {
				return err
			}
			b.items, b.sets = append(b.items, it), append(b.sets, set)
		}
		return nil
	})
	return b, err
}

// load makes items of rows, in their order; nil where an event is gone.
func load(tx *store.Tx, rows []store.OutgoingItem) ([]*item, error) {
	var nids []store.EventNID
	for _, r := range rows {
		if r.Event != 0 {
			nids = append(nids, r.Event)
		}
	}
	events, err := tx.Events.Load(nids)
	if err != nil {
		return nil, err
	}
	bodies := make(map[store.EventNID][]byte, len(events))
	for _, e := range events {
		bodies[e.NID] = e.JSON
	}
	items := make([]*item, len(rows))
	for i, r := range rows {
		switch {
		case r.Event == 0:
			items[i] = &item{position: r.Position, edu: true, body: r.EDU}
		case bodies[r.Event] != nil:
			items[i] = &item{position: r.Position, body: bodies[r.Event]}
		}
	}
	return items, nil
}

// set reads a set of destinations, from memory if it is there.
func (s *Sender) set(tx *store.Tx, nid int64) (*destinationSet, error) {
	s.mu.Lock()
	set := s.sets[nid]
	s.mu.Unlock()
	if set != nil {
		return set, nil
	}
	nids, err := tx.Outgoing.Destinations(nid)
	if err != nil {
		return nil, fmt.Errorf("destinations %d: %w", nid, err)
	}
	set = &destinationSet{nids, make([]id.Server, len(nids))}
	for i, n := range nids {
		if set.names[i], err = tx.IDs.ServerName(n); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.members += len(nids); s.members > maxSetMembers {
		clear(s.sets)
		s.members = len(nids)
	}
	s.sets[nid] = set
	return set, nil
}

func (set *destinationSet) has(nid store.ServerNID) bool {
	_, ok := slices.BinarySearch(set.nids, nid)
	return ok
}

// put puts items into the queues of their destinations.
func (s *Sender) put(b batch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, it := range b.items {
		for k, nid := range b.sets[i].nids {
			if d := s.reach(nid, b.sets[i].names[k], it.position-1); d != nil {
				d.push(it)
			}
		}
	}
	s.spread = b.upTo
	for len(s.early) > 0 && s.early[0].position <= s.spread {
		s.early[0].spread(s)
		s.early = s.early[1:]
	}
	s.touch()
}

// reach is an active destination, started if need be; nil: there is nothing to
// be sent to it now. The caller holds the lock.
func (s *Sender) reach(nid store.ServerNID, name id.Server, got int64) *recipient {
	if nid == s.own || s.failing[nid] != nil {
		return nil
	}
	d := s.active[nid]
	if d == nil && s.ctx != nil && s.ctx.Err() == nil && s.options.Allow(name) {
		d = &recipient{nid: nid, name: name, cursor: got, atSave: -1, wake: make(chan struct{}, 1)}
		s.start(d)
	}
	return d
}

// start gives a destination its goroutine. The caller holds the lock.
func (s *Sender) start(d *recipient) {
	ctx := s.ctx
	s.active[d.nid] = d
	s.running.Go(func() {
		if err := guard(func() error { return s.serve(ctx, d) }); err != nil && ctx.Err() == nil {
			slog.Error("sending to another server failed here", "server", d.name, "error", err)
			s.fail(d, 0, err)
		}
	})
}

// earlyEDU is a volatile EDU on its way into the queues, after everything up to a position: it
// may be about what another server only learns by that, such as a membership.
type earlyEDU struct {
	*volatileEDU
	position int64
	to       destinationSet
}

// maxEarly bounds them; older ones go first.
const maxEarly = 10_000

// Queue sends news to servers (this one may be among them) unless they do not answer. It
// goes out after what was committed before.
func (s *Sender) Queue(ctx context.Context, e EDU, to []store.ServerNID) error {
	early := earlyEDU{to: destinationSet{to, make([]id.Server, len(to))}}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		for i, nid := range to {
			if early.to.names[i], err = tx.IDs.ServerName(nid); err != nil {
				return err
			}
		}
		early.position, err = tx.ReadPosition()
		return err
	})
	if err != nil {
		return fmt.Errorf("queue %s: %w", e.Type, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return nil // nobody sends
	}
	s.lastEDU++
	early.volatileEDU = &volatileEDU{EDU: e, number: s.lastEDU, due: time.Now().Add(e.Patience)}
	if early.position <= s.spread {
		early.spread(s)
		return nil
	}
	if len(s.early) == maxEarly {
		s.early = s.early[1:]
	}
	s.early = append(s.early, early)
	return nil
}

// spread puts the EDU into the queues of its destinations. The caller holds the sender's lock.
func (e *earlyEDU) spread(s *Sender) {
	for i, nid := range e.to.nids {
		if d := s.reach(nid, e.to.names[i], s.spread); d != nil {
			d.volatile.add(e.volatileEDU)
			d.signal()
		}
	}
}

// Up notes that a server is there: it sent something. If it did not answer
// before, it is tried again.
func (s *Sender) Up(server id.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.byName[server]
	if o == nil {
		return
	}
	now := time.Now()
	at := o.tried.Add(min(time.Duration(o.RetryIntervalMS)*time.Millisecond, upPause))
	if at.Before(now) {
		at = now
	}
	if at.Before(o.retryAt) {
		o.retryAt = at
		s.poke()
	}
}

// touch says that there is something to note in the store. The caller holds the lock.
func (s *Sender) touch() {
	if !s.changed {
		s.changed = true
		s.poke()
	}
}

func (s *Sender) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}
