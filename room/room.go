// Package room is the room engine: the only writer of room history. Every event
// of a room, whoever made it, goes through one lock, one check of the rules and
// one commit here.
//
// It must not know other servers (Network is what it asks of them), HTTP, or
// those who follow what happens in rooms: sync, push, application services and
// the federation sender read the change stream by themselves.
//
// Start at Engine.Send, then write.go for how a write set is built, commit.go for how it is
// committed, and effects.go for what an event does beyond being stored.
package room

import (
	"context"
	"crypto/ed25519"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"hearth/matrix/id"
	"hearth/matrix/stateres"
	"hearth/store"
)

// Options is what an engine is told when it is made.
type Options struct {
	Server id.Server
	KeyID  id.Key
	Key    ed25519.PrivateKey
	// DefaultVersion is the room version of new rooms; empty: the protocol's own default.
	DefaultVersion string
	// EncryptPresets are the presets whose rooms are encrypted even where the client does not ask for it.
	EncryptPresets []string
	// EventCacheBytes and RoomCacheBytes bound what is kept of events and of loaded rooms. 0: 32 MB each.
	EventCacheBytes, RoomCacheBytes int
	// NoSearch switches the search for words off, with its index.
	NoSearch bool
	// TempDir is a folder for files that are needed for a while; empty: the system's.
	TempDir string
	// Network reaches other homeservers; nil: there are none.
	Network Network
	// PolicyServer makes this server the policy server of rooms that name it; nil: it is none.
	PolicyServer *PolicyServer
	// Profile says what a local user is called, for membership events.
	Profile func(context.Context, id.User) (Profile, error)
}

// Profile is what a membership event tells of a user. Empty: not set.
type Profile struct{ DisplayName, AvatarURL string }

// Engine holds the rooms that are in use. All methods may be called from any goroutine.
type Engine struct {
	store   *store.Store
	options Options
	events  *otter.Cache[store.EventNID, *Event]

	mu    sync.Mutex
	rooms *otter.Cache[id.Room, *room]

	acls         aclCache
	alone        alone
	entering     locks[entrance] // who has other servers let them into a room
	joining      locks[id.Room]  // who joins a room by way of another server
	signing      locks[id.Room]  // whose event is at the room's policy server
	policy       *ownPolicy
	partial      partialRooms
	nids         nidBlock
	lastCreation atomic.Int64
}

// New makes an engine on an open store.
func New(s *store.Store, o Options) *Engine {
	const defaultBytes = 32 << 20
	if o.EventCacheBytes == 0 {
		o.EventCacheBytes = defaultBytes
	}
	if o.RoomCacheBytes == 0 {
		o.RoomCacheBytes = defaultBytes
	}
	return &Engine{
		store:   s,
		options: o,
		acls:    newACLCache(),
		policy:  newOwnPolicy(o),
		events: otter.Must(&otter.Options[store.EventNID, *Event]{
			MaximumWeight: uint64(o.EventCacheBytes),
			Weigher:       func(_ store.EventNID, e *Event) uint32 { return e.weight() },
		}),
		rooms: otter.Must(&otter.Options[id.Room, *room]{
			MaximumWeight: uint64(o.RoomCacheBytes),
			Weigher:       func(_ id.Room, r *room) uint32 { return r.weight() },
		}),
	}
}

// Server is the name of this server.
func (e *Engine) Server() id.Server { return e.options.Server }

// room is a loaded room. Whoever holds its lock is its only writer here; head
// is what the next write set builds on, which may still wait for its commit.
type room struct {
	lock    chan struct{}
	head    *Head
	pending *store.Pending // of the newest write set, nil: none since loading
	reading sync.Mutex     // guards head and pending for those without the lock

	inflight []inflight
	graph    *stateres.Graph // nil: not needed so far
}

func (r *room) weight() uint32 { return uint32(1000 + 20*r.head.State.Len() + 8*len(r.head.Locals)) }

// load returns the room, from memory or from the store; false: it is not known here.
func (e *Engine) load(ctx context.Context, name id.Room) (*room, bool, error) {
	if r, ok := e.rooms.GetIfPresent(name); ok {
		return r, true, nil
	}
	var head *Head
	err := e.store.View(ctx, func(tx *store.Tx) (err error) {
		head, err = e.readHead(tx, name)
		return err
	})
	if err != nil || head == nil {
		return nil, false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if r, ok := e.rooms.GetIfPresent(name); ok {
		return r, true, nil
	}
	r := &room{lock: make(chan struct{}, 1), head: head}
	e.rooms.Set(name, r)
	return r, true, nil
}

// drop forgets a loaded room whose memory is ahead of, or behind, the store.
func (e *Engine) drop(name id.Room, r *room) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if now, ok := e.rooms.GetIfPresent(name); ok && now == r {
		e.rooms.Invalidate(name)
	}
}

// Head is where a room stands, all of it committed; false: the room is not known here.
func (e *Engine) Head(ctx context.Context, name id.Room) (*Head, bool, error) {
	for {
		r, ok, err := e.load(ctx, name)
		if err != nil || !ok {
			return nil, false, err
		}
		r.reading.Lock()
		head, pending := r.head, r.pending
		r.reading.Unlock()
		if pending == nil {
			return head, true, nil
		}
		if err := pending.Wait(ctx); err == nil {
			return head, true, nil
		} else if ctx.Err() != nil {
			return nil, false, ctx.Err()
		}
		e.drop(name, r)
	}
}

// creationTime is now, but never the same twice: rooms are named by the hash of
// their create event, and two rooms of one user may differ in nothing else. It is rounded
// up, so that no room is as old as a moment before somebody asked for it.
func (e *Engine) creationTime() int64 {
	for {
		last := e.lastCreation.Load()
		if t := max(now()+1, last+1); e.lastCreation.CompareAndSwap(last, t) {
			return t
		}
	}
}

// now is the time in milliseconds, as events carry it.
func now() int64 { return time.Now().UnixMilli() }
