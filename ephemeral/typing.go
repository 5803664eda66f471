package ephemeral

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

const (
	defaultTyping = 30 * time.Second
	maxTyping     = 2 * time.Minute
	// remoteTyping is how long a user of another server types without saying so
	// again: servers do that every 40 seconds or so; we do when tellAgain is over.
	remoteTyping = time.Minute
	tellAgain    = 25 * time.Second
	// maxQuietRooms bounds how many rooms are remembered where nobody types any more.
	maxQuietRooms = 10_000
)

// Typing is who is typing where, in memory only.
type Typing struct {
	// Changed, if set before use, hears of local users who begin, go on and stop.
	Changed func(room store.RoomNID, user id.User, typing bool)

	store *store.Store
	hub   *stream.Hub

	mu    sync.Mutex // held while the hub is told, so that no reader misses what it was told of
	rooms map[store.RoomNID]*typists
}

// typists are those who type in one room.
type typists struct {
	users    map[id.User]*typist
	position int64 // of the last change, volatile
}

type typist struct {
	until time.Time
	timer *time.Timer
	told  time.Time // when Changed last heard of it; zero: of another server
}

// NewTyping makes the service.
func NewTyping(s *store.Store, hub *stream.Hub) *Typing {
	return &Typing{store: s, hub: hub, rooms: map[store.RoomNID]*typists{}}
}

// Set says that a user types in a room for some time (0: a usual one), or stops.
// spec: client-server-api#put_matrixclientv3roomsroomidtypinguserid
func (t *Typing) Set(ctx context.Context, user id.User, room id.Room, typing bool, timeout time.Duration) error {
	if timeout < 0 {
		return errcode.InvalidParam("timeout is below zero")
	}
	if timeout == 0 {
		timeout = defaultTyping
	}
	var p place
	var members []store.UserNID
	err := t.store.View(ctx, func(tx *store.Tx) (err error) {
		if p, err = findPlace(tx, room, user); err == nil {
			members, err = tx.Members.LocalJoined(p.room)
		}
		return err
	})
	if err != nil {
		return err
	}
	news := false
	if typing {
		news = t.start(p.room, user, min(timeout, maxTyping), members, true)
	} else {
		news = t.stop(p.room, user, members, time.Time{})
	}
	if news {
		t.tell(p.room, user, typing)
	}
	return nil
}

// Receive says that a user of another server types in a room, or stops.
// spec: server-server-api#typing-notifications
func (t *Typing) Receive(ctx context.Context, user id.User, room id.Room, typing bool) error {
	var p place
	var members []store.UserNID
	err := t.store.View(ctx, func(tx *store.Tx) (err error) {
		if p, err = findPlace(tx, room, user); err == nil {
			members, err = tx.Members.LocalJoined(p.room)
		}
		return err
	})
	switch {
	case err != nil || len(members) == 0:
	case typing:
		t.start(p.room, user, remoteTyping, members, false)
	default:
		t.stop(p.room, user, members, time.Time{})
	}
	return err
}

// tell lets other servers know of a local user.
func (t *Typing) tell(room store.RoomNID, user id.User, typing bool) {
	if t.Changed != nil {
		t.Changed(room, user, typing)
	}
}

// start says whether other servers must hear of it.
func (t *Typing) start(room store.RoomNID, user id.User, timeout time.Duration, members []store.UserNID, local bool) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil {
		t.forgetQuiet()
		r = &typists{users: map[id.User]*typist{}}
		t.rooms[room] = r
	}
	now := time.Now()
	until := now.Add(timeout)
	who := r.users[user]
	if who == nil {
		who = &typist{}
		who.timer = time.AfterFunc(timeout, func() { t.expire(room, user) })
		r.users[user] = who
		t.publish(room, r, members)
	} else {
		who.timer.Reset(timeout)
	}
	who.until = until
	if news = local && now.Sub(who.told) >= tellAgain; news {
		who.told = now
	}
	return news
}

// stop ends a user's typing; if a time is given, only when it is up by then. It
// says whether other servers must hear of it.
func (t *Typing) stop(room store.RoomNID, user id.User, members []store.UserNID, upBy time.Time) (news bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil || r.users[user] == nil || !upBy.IsZero() && r.users[user].until.After(upBy) {
		return false
	}
	who := r.users[user]
	who.timer.Stop()
	delete(r.users, user)
	t.publish(room, r, members)
	return !who.told.IsZero()
}

func (t *Typing) expire(room store.RoomNID, user id.User) {
	now := time.Now()
	var members []store.UserNID
	err := t.store.View(context.Background(), func(tx *store.Tx) (err error) {
		members, err = tx.Members.LocalJoined(room)
		return err
	})
	if err != nil {
		slog.Warn("end of typing is told to nobody", "error", err)
	}
	if t.stop(room, user, members, now) {
		t.tell(room, user, false)
	}
}

func (t *Typing) publish(room store.RoomNID, r *typists, members []store.UserNID) {
	r.position = t.hub.PublishVolatile(stream.Typing, room, members)
}

// forgetQuiet makes room in memory; a client that has waited since long before
// then may show somebody typing until the next change.
func (t *Typing) forgetQuiet() {
	if len(t.rooms) < maxQuietRooms {
		return
	}
	maps.DeleteFunc(t.rooms, func(_ store.RoomNID, r *typists) bool { return len(r.users) == 0 })
}

// In lists who types in a room, and the volatile position of the last change.
func (t *Typing) In(room store.RoomNID) (users []id.User, changed int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rooms[room]
	if r == nil {
		return nil, 0
	}
	return slices.Sorted(maps.Keys(r.users)), r.position
}

// Run ends all timers when the context ends.
func (t *Typing) Run(ctx context.Context) error {
	<-ctx.Done()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range t.rooms {
		for _, who := range r.users {
			who.timer.Stop()
		}
	}
	clear(t.rooms)
	return nil
}
