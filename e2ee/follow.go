package e2ee

import (
	"context"
	"fmt"
	"slices"

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

// consequences is what follows from memberships that changed.
type consequences struct {
	forget    []store.UserNID // of other servers
	introduce []introduction
}

// introduction is that a local user shares a room with servers since he joined one.
type introduction struct {
	user store.UserNID
	name id.User
	to   []store.ServerNID
}

// step looks at the next membership events up to a position.
func (s *Service) step(ctx context.Context, at, saved, position int64) (next, nextSaved int64, err error) {
	var c consequences
	some := false
	next = position
	// Who shares rooms with whom can take long to find out, so not while writing.
	err = s.store.View(ctx, func(tx *store.Tx) error {
		member, ok, err := tx.IDs.FindType(event.TypeMember)
		if err != nil || !ok {
			return err
		}
		events, err := tx.Events.OfTypesAfter(at, position, []store.TypeNID{member}, followBatch)
		if err != nil {
			return err
		}
		if len(events) == followBatch {
			next = events[followBatch-1].Position
		}
		some = len(events) > 0
		for _, e := range events {
			if err := s.moved(tx, &c, e); err != nil {
				return fmt.Errorf("event %s: %w", e.ID, err)
			}
		}
		return nil
	})
	if err != nil || !some && next < saved+saveEvery {
		return next, saved, err
	}
	for forgotten := range slices.Chunk(c.forget, followBatch) {
		err := s.store.Update(ctx, func(tx *store.Tx) error {
			for _, user := range forgotten {
				if err := forgetList(tx, user); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return at, saved, err
		}
	}
	return next, next, s.store.Update(ctx, func(tx *store.Tx) error {
		for _, i := range c.introduce {
			if err := i.send(tx); err != nil {
				return fmt.Errorf("tell new servers of %s: %w", i.name, err)
			}
		}
		return tx.Followers.SetPosition(follower, next)
	})
}

// moved works out what follows from a membership event. Keys may be forgotten
// once too often: they are asked for again.
func (s *Service) moved(tx *store.Tx, c *consequences, e store.Event) error {
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
			return c.joined(tx, user, name, e.Room)
		}
		return c.forgetUnless(tx, user, e.Room) // what happened before was not told
	}
	if !s.isLocal(name) {
		return c.forgetUnless(tx, user, 0)
	}
	users, err := tx.RemoteLists.InRoom(e.Room)
	for _, u := range users {
		if err == nil {
			err = c.forgetUnless(tx, u, 0)
		}
	}
	return err
}

// forgetUnless forgets the keys of a user of another server unless somebody here
// shares a room with him, other than one.
func (c *consequences) forgetUnless(tx *store.Tx, user store.UserNID, otherThan store.RoomNID) error {
	shares, err := tx.RemoteLists.Shares(user, otherThan)
	if err == nil && !shares {
		c.forget = append(c.forget, user)
	}
	return err
}

// joined notes the servers that share a room with a local user since he joined one.
func (c *consequences) joined(tx *store.Tx, user store.UserNID, name id.User, room store.RoomNID) error {
	to, err := tx.RemoteLists.NewServers(user, room)
	if err == nil && len(to) > 0 {
		to, err = without(tx, to, name.Server())
	}
	if err == nil && len(to) > 0 {
		c.introduce = append(c.introduce, introduction{user, name, to})
	}
	return err
}

// maxIntroduced bounds the devices of which new servers are told.
const maxIntroduced = 50

// send tells servers of a user's devices. These updates refer to none before:
// they make a server without the whole list ask for it.
func (i introduction) send(tx *store.Tx) error {
	keys, err := tx.DeviceKeys.List(i.user)
	if err != nil {
		return err
	}
	last, err := tx.RemoteLists.Update(i.user)
	if err != nil {
		return err
	}
	told := map[id.Device]bool{}
	tell := func(u DeviceListUpdate) error {
		told[u.Device] = true
		return queueEDU(tx, tx.NextPosition(), i.to, typeDeviceListUpdate, u)
	}
	for _, k := range keys[:min(len(keys), maxIntroduced)] {
		u := DeviceListUpdate{User: i.name, Device: k.Device, StreamID: last, PrevID: []int64{}}
		if err := u.describe(tx, i.user); err != nil {
			return err
		}
		if err := tell(u); err != nil {
			return err
		}
	}
	devices, err := tx.Devices.List(i.name)
	if err != nil {
		return err
	}
	for _, d := range devices {
		if told[d.ID] || len(told) >= maxIntroduced {
			continue
		}
		// It has no keys, yet it is a device of the user's.
		if err := tell(DeviceListUpdate{User: i.name, Device: d.ID, Name: d.DisplayName, StreamID: last, PrevID: []int64{}}); err != nil {
			return err
		}
	}
	return nil
}
