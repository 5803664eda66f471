// Package clientsync answers /sync: it turns the change stream into what one
// device has not seen yet. It follows; nothing here decides what happened, and
// it writes nothing but the end of to-device messages that were acknowledged.
//
// What other packages of this floor know (unread counts, typing, presence,
// device lists) comes through the func fields of Options. Which events may be
// seen is room.View's to say.
//
// Start at Syncer.Sync, then response.build; rooms.go is the rooms section,
// timeline.go and state.go are its hard parts. events.go and initial.go are what
// clients used before /sync.
// spec: client-server-api#syncing
package clientsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/maypok86/otter/v2"

	"hearth/matrix/errcode"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// Options are what other services tell. A field that is nil tells nothing.
type Options struct {
	// PushRules is the content of m.push_rules; false: it did not change after a position.
	PushRules func(tx *store.Tx, user id.User, after int64) (jsontext.Value, bool, error)
	// Unread counts what a joined user has not read in a room, by events up to a position.
	Unread func(ctx context.Context, tx *store.Tx, user store.UserNID, room store.RoomNID, upTo int64) (Unread, error)
	// DeviceLists lists the users whose devices changed after a position, and
	// those no longer seen. rooms are those where anything happened; nil: any.
	DeviceLists func(tx *store.Tx, user store.UserNID, after int64, rooms []store.RoomNID) (changed, left []id.User, err error)
	// Typing lists who is typing in a room, and the volatile position of the last change.
	Typing func(store.RoomNID) ([]id.User, int64)
	// Presence lists m.presence events of users whom a user sees that changed after a volatile position; 0: all.
	Presence func(tx *store.Tx, user store.UserNID, after int64) ([]Presence, error)
	// SetPresence notes that a client syncs with a presence.
	SetPresence func(ctx context.Context, user id.User, device id.Device, presence string) error
}

// Unread counts what a user was notified of in a room and has not read.
type Unread struct {
	Main    Count              // of what is in no thread
	Threads map[id.Event]Count // by thread root
}

// Count is how many events notify, and how many of them highlight.
type Count struct{ Notify, Highlight int }

// Presence is one m.presence event.
type Presence struct {
	Sender  id.User
	Content jsontext.Value
}

// Request is what a client asks.
type Request struct {
	User        id.User
	Device      id.Device
	Filter      string // an id or the JSON itself
	Since       string
	FullState   bool
	SetPresence string
	Timeout     time.Duration
	// StateAfter asks for state_after; StateAfterUnstable by its name before Matrix 1.16.
	// msc: 4222
	StateAfter, StateAfterUnstable bool
}

// maxTimeout bounds how long a client may wait, whatever it asks.
const maxTimeout = 5 * time.Minute

// cachedFilters and cachedMembers bound what is kept between requests, in bytes and entries.
const (
	cachedFilters = 4 << 20
	cachedMembers = 500_000
)

// Syncer answers sync requests. All methods may be called from any goroutine.
type Syncer struct {
	store   *store.Store
	rooms   *room.Engine
	hub     *stream.Hub
	options Options
	filters *otter.Cache[filterKey, *parsedFilter]
	members *otter.Cache[memberKey, *sentMembers]
	buffers sync.Pool
}

// New makes a syncer on an open store, its engine, and the hub that hears of its commits.
func New(s *store.Store, rooms *room.Engine, hub *stream.Hub, o Options) *Syncer {
	return &Syncer{
		store: s, rooms: rooms, hub: hub, options: o,
		filters: otter.Must(&otter.Options[filterKey, *parsedFilter]{
			MaximumWeight: cachedFilters,
			Weigher:       func(_ filterKey, f *parsedFilter) uint32 { return uint32(1000 + 2*f.size) },
		}),
		members: otter.Must(&otter.Options[memberKey, *sentMembers]{
			MaximumWeight: cachedMembers,
			Weigher:       func(memberKey, *sentMembers) uint32 { return maxSentMembers / 10 },
		}),
		buffers: sync.Pool{New: func() any { return new([]byte) }},
	}
}

// Sync answers a request by writing a JSON object to out, waiting for news if
// asked to. An error that is returned after the first write cuts the object off.
// spec: client-server-api#get_matrixclientv3sync
func (s *Syncer) Sync(ctx context.Context, r Request, out io.Writer) error {
	y, err := s.prepare(ctx, r)
	if err != nil {
		return err
	}
	waiting, cancel := context.WithTimeout(ctx, min(r.Timeout, maxTimeout))
	defer cancel()
	for {
		last := !y.mayWait() || !s.hub.Wait(waiting, y.user, y.since.Position)
		if err := ctx.Err(); err != nil {
			return err // the client has gone
		}
		if done, err := y.attempt(ctx, out, last || waiting.Err() != nil); done || err != nil {
			return err
		}
	}
}

// attempt builds the answer and sends it if it is the last or has news. A
// client that goes on waiting holds no buffer.
func (y *response) attempt(ctx context.Context, out io.Writer, last bool) (done bool, err error) {
	y.w.init(out, &y.s.buffers)
	defer y.w.release(&y.s.buffers)
	if err := y.build(ctx); err != nil {
		return false, fmt.Errorf("sync of %s: %w", y.req.User, err)
	}
	if last || y.news {
		y.finish()
		return true, y.w.flush()
	}
	// Nothing of what changed is for this client. What was passed over will not
	// concern it later either.
	y.since = y.now
	return false, nil
}

// mayWait says whether the client wants an answer only when there is news.
func (y *response) mayWait() bool {
	return !y.initial && !y.req.FullState && y.req.Timeout > 0 && y.since.ToDevice == y.since.Durable
}

// prepare reads what a request asks for, and begins to note what changes for its user.
func (s *Syncer) prepare(ctx context.Context, r Request) (*response, error) {
	y := &response{s: s, req: &r, initial: r.Since == ""}
	if !y.initial {
		var err error
		if y.since, err = stream.ParseToken(r.Since); err != nil {
			return nil, errcode.InvalidParam("since is %s", err)
		}
	}
	err := s.store.View(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if y.user, ok, err = tx.IDs.FindUser(r.User); err != nil {
			return err
		}
		if !ok {
			return errNoNumber
		}
		y.filter, err = s.filter(tx, r.User, r.Filter)
		return err
	})
	if errors.Is(err, errNoNumber) {
		// Nothing was ever stored about this user. It shall have a number, by which the hub can call it.
		if err := s.store.Update(ctx, func(tx *store.Tx) error { _, err := tx.IDs.User(r.User); return err }); err != nil {
			return nil, err
		}
		return s.prepare(ctx, r)
	}
	if err != nil {
		return nil, err
	}
	if err := s.setPresence(ctx, &r); err != nil {
		return nil, err
	}
	s.hub.Since(y.user, s.hub.Now())
	return y, nil
}

var errNoNumber = errors.New("the user has no number yet")

// setPresence follows set_presence: a client that polls is online unless it says otherwise.
func (s *Syncer) setPresence(ctx context.Context, r *Request) error {
	switch r.SetPresence {
	case "", "online":
		r.SetPresence = "online"
	case "unavailable":
	case "offline":
		return nil
	default:
		return errcode.InvalidParam("set_presence is offline, online or unavailable")
	}
	if s.options.SetPresence == nil {
		return nil
	}
	return s.options.SetPresence(ctx, r.User, r.Device, r.SetPresence)
}

type filterKey struct {
	user   id.User
	filter string
}

type parsedFilter struct {
	*filter.Filter
	size int
}

// filter finds the filter that a request names or spells out.
// spec: client-server-api#get_matrixclientv3sync filter
func (s *Syncer) filter(tx *store.Tx, user id.User, param string) (*filter.Filter, error) {
	switch {
	case param == "":
		return new(filter.Filter), nil
	case param[0] == '{':
		return filter.Parse([]byte(param))
	}
	key := filterKey{user, param}
	if f, ok := s.filters.GetIfPresent(key); ok {
		return f.Filter, nil
	}
	text, ok, err := tx.AccountData.GetFilter(user, param)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, errcode.InvalidParam("there is no filter %q", param)
	}
	f, err := filter.Parse(bytes.TrimSpace(text))
	if err != nil {
		return nil, err
	}
	s.filters.Set(key, &parsedFilter{f, len(text)})
	return f, nil
}
