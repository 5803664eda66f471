package stream

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

// Position is a point in both counters: the durable one of the database and
// the volatile one of this process, for what need not survive a restart.
type Position struct{ Durable, Volatile int64 }

// maxFeeds and maxFeedRooms bound the memory of feeds. A feed that is dropped
// sends its user to the store once; nothing is lost.
const (
	maxFeeds     = 20_000
	maxFeedRooms = 5_000
)

// Hub remembers, for users who asked lately, what changed since, and wakes
// those who wait. All methods may be called from any goroutine.
type Hub struct {
	mu        sync.Mutex
	now       Position
	feeds     map[int64]*feed
	waiters   map[int64]map[*waiter]struct{}
	followers map[chan struct{}]struct{}
	released  chan struct{}
}

// feed is what changed for one user after start.
type feed struct {
	start Position
	used  int64 // durable position when somebody last asked; the least is dropped first
	kinds [kinds]int64
	rooms map[int64]*RoomChange
}

// RoomChange holds, for one room, the position of the last change of each kind; 0 for none remembered.
type RoomChange struct {
	Room int64
	Last [kinds]int64
}

type waiter struct{ wake chan struct{} }

// NewHub makes a hub whose durable counter stands at position, as the store read it.
// The volatile counter starts at the clock, so that positions of an earlier
// process are older than any of this one.
func NewHub(position int64) *Hub {
	return &Hub{
		now:       Position{position, time.Now().UnixMilli()},
		feeds:     map[int64]*feed{},
		waiters:   map[int64]map[*waiter]struct{}{},
		followers: map[chan struct{}]struct{}{},
		released:  make(chan struct{}),
	}
}

// Now is the position up to which everything is complete.
func (h *Hub) Now() Position {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now
}

// Publish is called by the store's committer, in order of positions. Whoever
// asks from now on finds the commit; whoever waits for it already is woken by
// the function returned, which the committer calls after it has answered the
// writers: clients lose track of an event that their /sync brings before the
// answer to the request that made it.
func (h *Hub) Publish(c Commit) (wake func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.Durable = max(h.now.Durable, c.Position)
	var waiting []chan struct{}
	for _, ch := range c.Changes {
		waiting = h.mark(ch, waiting)
	}
	for f := range h.followers {
		waiting = append(waiting, f)
	}
	return func() { wakeAll(waiting) }
}

// PublishVolatile tells of a change that is kept in memory only and gives it its position.
func (h *Hub) PublishVolatile(kind Kind, room int64, users []int64) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.Volatile++
	wakeAll(h.mark(Change{Kind: kind, Position: h.now.Volatile, Room: room, Users: users}, nil))
	return h.now.Volatile
}

// mark notes a change and appends those who wait for it to waiting.
func (h *Hub) mark(c Change, waiting []chan struct{}) []chan struct{} {
	for _, u := range c.Users {
		if f := h.feeds[u]; f != nil {
			f.mark(c)
			if len(f.rooms) > maxFeedRooms {
				delete(h.feeds, u)
			}
		}
		for w := range h.waiters[u] {
			waiting = append(waiting, w.wake)
		}
	}
	return waiting
}

// wakeAll wakes each once: a channel that is full has a wake-up coming already.
func wakeAll(waiting []chan struct{}) {
	for _, wake := range waiting {
		select {
		case wake <- struct{}{}:
		default:
		}
	}
}

func (f *feed) mark(c Change) {
	f.kinds[c.Kind] = c.Position
	if c.Room == 0 {
		return
	}
	r := f.rooms[c.Room]
	if r == nil {
		r = &RoomChange{Room: c.Room}
		f.rooms[c.Room] = r
	}
	r.Last[c.Kind] = c.Position
}

// Changes says what changed for a user after since.
type Changes struct {
	Now   Position
	Kinds [kinds]bool  // kinds of which anything changed
	Rooms []RoomChange // rooms with a change, in no order
}

// Any says whether there is any change at all.
func (c Changes) Any() bool { return c.Kinds != [kinds]bool{} }

// Since lists what changed for a user after since. Where the hub does not
// remember so far back it says false, and the caller reads the store; the next
// call finds a memory that began with this one.
func (h *Hub) Since(user int64, since Position) (Changes, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := h.feed(user)
	c := Changes{Now: h.now}
	if since.Durable < f.start.Durable || since.Volatile < f.start.Volatile {
		return c, false
	}
	for k, at := range f.kinds {
		c.Kinds[k] = at > since.of(Kind(k))
	}
	for _, r := range f.rooms {
		if r.changedSince(since) {
			c.Rooms = append(c.Rooms, *r)
		}
	}
	return c, true
}

// Wait returns when something has changed for the user after since, or at the
// context's end, whichever is first. It says which.
func (h *Hub) Wait(ctx context.Context, user int64, since Position) bool {
	w := &waiter{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	if h.waiters[user] == nil {
		h.waiters[user] = map[*waiter]struct{}{}
	}
	h.waiters[user][w] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if delete(h.waiters[user], w); len(h.waiters[user]) == 0 {
			delete(h.waiters, user)
		}
	}()
	for {
		if c, known := h.Since(user, since); !known || c.Any() {
			return true
		}
		select {
		case <-w.wake:
		case <-h.released:
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// Reach returns once everything up to a durable position is known here, or at
// the context's end. It says which. A reader whose snapshot of the store is
// newer than what it knows of changes waits here, mostly not at all.
func (h *Hub) Reach(ctx context.Context, position int64) bool {
	wake := h.listen()
	defer h.unlisten(wake)
	for h.Now().Durable < position {
		select {
		case <-wake:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// Release ends all waiting, now and from now on, so that a server that stops
// answers its clients instead of cutting them off. It may be called once.
func (h *Hub) Release() { close(h.released) }

// Follow calls fn with the durable position whenever it has moved, beginning
// with the present one, until the context ends. One call at a time; positions
// that come while fn runs are told once. fn reads the store from its own saved
// position, so a crash between reading and saving repeats work and loses none.
func (h *Hub) Follow(ctx context.Context, fn func(position int64)) {
	wake := h.listen()
	defer h.unlisten(wake)
	for {
		fn(h.Now().Durable)
		select {
		case <-wake:
		case <-ctx.Done():
			return
		}
	}
}

func (h *Hub) listen() chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	wake := make(chan struct{}, 1)
	h.followers[wake] = struct{}{}
	return wake
}

func (h *Hub) unlisten(wake chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.followers, wake)
}

func (h *Hub) feed(user int64) *feed {
	f := h.feeds[user]
	if f == nil {
		if len(h.feeds) >= maxFeeds {
			h.dropOldest()
		}
		f = &feed{start: h.now, rooms: map[int64]*RoomChange{}}
		h.feeds[user] = f
	}
	f.used = h.now.Durable
	return f
}

// dropOldest forgets the tenth of feeds that nobody has asked for longest.
func (h *Hub) dropOldest() {
	used := make([]int64, 0, len(h.feeds))
	for f := range maps.Values(h.feeds) {
		used = append(used, f.used)
	}
	slices.Sort(used)
	limit := used[len(used)/10]
	for u, f := range h.feeds {
		if f.used <= limit && len(h.feeds) > maxFeeds*9/10 {
			delete(h.feeds, u)
		}
	}
}

func (k Kind) volatile() bool { return k == Typing || k == Presence }

func (p Position) of(k Kind) int64 {
	if k.volatile() {
		return p.Volatile
	}
	return p.Durable
}

func (r *RoomChange) changedSince(since Position) bool {
	for k, at := range r.Last {
		if at > since.of(Kind(k)) {
			return true
		}
	}
	return false
}
