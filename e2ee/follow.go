package e2ee

import (
	"context"
	"fmt"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

const (
	follower    = "device lists" // name in the store
	followBatch = 100
	// saveEvery is how many positions without memberships may have to be looked at
	// again after a restart.
	saveEvery = 10_000
)

// Follow watches who joins and leaves: new servers in the rooms of a local user
// are told of his devices, and keys of users of other servers are forgotten when
// nobody here shares a room with them any more, since then nobody tells of changes.
// It begins where it stopped the last time, and runs until the context ends.
// spec: server-server-api#device-management
func (s *Service) Follow(ctx context.Context, hub *stream.Hub) error {
	at, err := s.begin(ctx, hub.Now().Durable)
	if err != nil {
		return err
	}
	saved := at
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hub.Follow(ctx, func(position int64) {
		for at < position && err == nil {
			at, saved, err = s.step(ctx, at, saved, position)
		}
		if err != nil {
			stop()
		}
	})
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("follow memberships: %w", err)
	}
	return err
}

// begin is where to begin: at present, the first time.
func (s *Service) begin(ctx context.Context, now int64) (at int64, err error) {
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		var known bool
		if at, known, err = tx.Followers.Position(follower); err != nil || known {
			return err
		}
		at = now
		return tx.Followers.SetPosition(follower, now)
	})
	return at, err
}

// step looks at the next membership events up to a position.
func (s *Service) step(ctx context.Context, at, saved, position int64) (next, nextSaved int64, err error) {
	var events []store.Event
	next = position
	err = s.store.View(ctx, func(tx *store.Tx) error {
		member, ok, err := tx.IDs.FindType(event.TypeMember)
		if err != nil || !ok {
			return err
		}
		if events, err = tx.Events.OfTypesAfter(at, position, []store.TypeNID{member}, followBatch); err != nil {
			return err
		}
		if len(events) == followBatch {
			next = events[followBatch-1].Position
		}
		return nil
	})
	if err != nil || len(events) == 0 && next < saved+saveEvery {
		return next, saved, err
	}
	return next, next, s.store.Update(ctx, func(tx *store.Tx) error {
		for _, e := range events {
			if err := s.moved(tx, e); err != nil {
				return fmt.Errorf("event %s: %w", e.ID, err)
			}
		}
		return tx.Followers.SetPosition(follower, next)
	})
}

// moved is called for each membership event.
func (s *Service) moved(tx *store.Tx, e store.Event) error {
	user, ok := store.IsMemberKey(e.Key)
	if !ok || !e.IsState {
		return nil
	}
	name, err := tx.IDs.UserID(user)
	if err != nil {
		return err
	}
	membership, _ := canonical.GetString(canonical.Get(e.JSON, "content"), "membership")
	if membership == store.Join.String() {
		m, ok, err := tx.Members.Get(e.Room, user)
		if err != nil || !ok || m.Membership != store.Join || m.Position != e.Position {
			return err // joined before: only a new name, say
		}
		if s.isLocal(name) {
			return introduce(tx, user, name, e.Room)
		}
		return s.forgetUnless(tx, user, e.Room) // what happened before was not told
	}
	if !s.isLocal(name) {
		return s.forgetUnless(tx, user, 0)
	}
	users, err := tx.RemoteLists.InRoom(e.Room)
	for _, u := range users {
		if err == nil {
			err = s.forgetUnless(tx, u, 0)
		}
	}
	return err
}

// forgetUnless forgets the keys of a user of another server unless somebody here
// shares a room with him, other than one.
func (s *Service) forgetUnless(tx *store.Tx, user store.UserNID, otherThan store.RoomNID) error {
	shares, err := tx.RemoteLists.Shares(user, otherThan)
	if err != nil || shares {
		return err
	}
	return forgetList(tx, user)
}

// maxIntroduced bounds the devices of which new servers are told.
const maxIntroduced = 50

// introduce tells servers of a local user's devices that share a room with him
// since he joined this one. These updates refer to none before: they make a
// server without the whole list ask for it.
func introduce(tx *store.Tx, user store.UserNID, name id.User, room store.RoomNID) error {
	to, err := tx.RemoteLists.NewServers(user, room)
	if err != nil || len(to) == 0 {
		return err
	}
	if to, err = without(tx, to, name.Server()); err != nil || len(to) == 0 {
		return err
	}
	keys, err := tx.DeviceKeys.List(user)
	if err != nil {
		return err
	}
	last, err := tx.RemoteLists.Update(user)
	if err != nil {
		return err
	}
	for _, k := range keys[:min(len(keys), maxIntroduced)] {
		u := DeviceListUpdate{User: name, Device: k.Device, StreamID: last, PrevID: []int64{}}
		if err := u.describe(tx, user); err != nil {
			return err
		}
		if err := queueEDU(tx, tx.NextPosition(), to, typeDeviceListUpdate, u); err != nil {
			return err
		}
	}
	return nil
}
