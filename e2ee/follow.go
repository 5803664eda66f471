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
	// changed are keys of which it was not known, when they changed, who shares a room with
	// their user: others are to hear of them now.
	changed []store.DeviceListChange
}

// introduction is that a local user shares a room with servers since he joined one.
type introduction struct {
	user store.UserNID
	name id.User
	to   []store.ServerNID
	// keyless: they are told of devices without keys too.
	keyless bool
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
		completed, err := s.completed(tx, &c, at, next)
		some = some || completed
		return err
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
			if err := s.introduce(tx, i); err != nil {
				return fmt.Errorf("tell new servers of %s: %w", i.name, err)
			}
		}
		for _, d := range c.changed {
			if err := s.tellAgain(tx, d); err != nil {
				return err
			}
		}
		return tx.Followers.SetPosition(follower, next)
	})
}

// completed works out what follows from the states of rooms that became whole: only now is it
// known who was in them all along. It says whether there were any.
func (s *Service) completed(tx *store.Tx, c *consequences, after, upTo int64) (some bool, err error) {
	rooms, err := tx.Rooms.WholeAfter(after)
	if err != nil {
		return false, err
	}
	for _, nid := range rooms {
		row, ok, err := tx.Rooms.GetNID(nid)
		if err != nil {
			return false, err
		}
		if !ok || row.WholeSince > upTo {
			continue
		}
		some = true
		if err := c.complete(tx, row); err != nil {
			return false, fmt.Errorf("room %s: %w", row.ID, err)
		}
	}
	return some, nil
}

func (c *consequences) complete(tx *store.Tx, row store.Room) error {
	members, err := tx.Members.LocalOfRoom(row.NID)
	if err != nil {
		return err
	}
	since := row.WholeSince
	for _, m := range members {
		if m.Membership == store.Join {
			since = min(since, m.Position)
		}
	}
	for since < row.WholeSince {
		changes, err := tx.DeviceLists.Devices(since, row.WholeSince, followBatch)
		if err != nil {
			return err
		}
		if since = row.WholeSince; len(changes) == followBatch {
			since = changes[followBatch-1].Position
		}
		for _, d := range changes {
			if joined, err := tx.Members.Joined(row.NID, d.User); err != nil {
				return err
			} else if joined {
				c.changed = append(c.changed, d)
			}
		}
	}
	moved, err := tx.Members.MovedAfter(row.NID, row.WholeSince-1)
	for _, m := range moved {
		if err == nil && m.Membership != store.Join && !m.Local {
			err = c.forgetUnless(tx, m.User, 0)
		}
	}
	return err
}

// tellAgain tells those who share a room with a user that keys of his changed.
func (s *Service) tellAgain(tx *store.Tx, d store.DeviceListChange) error {
	name, err := tx.IDs.UserID(d.User)
	if err != nil {
		return err
	}
	if s.isLocal(name) {
		return s.tellServers(tx, d.User, d.Device, tx.NextPosition())
	}
	return remoteListChanged(tx, d.User, d.Device)
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
			return c.joined(tx, m, name)
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
func (c *consequences) joined(tx *store.Tx, m store.Member, name id.User) error {
	row, _, err := tx.Rooms.GetNID(m.Room)
	if err != nil {
		return err
	}
	to, err := tx.RemoteLists.NewServers(m.User, m.Room)
	if err == nil && len(to) > 0 {
		to, err = without(tx, to, name.Server())
	}
	if err == nil && len(to) > 0 {
		// Of a room joined with a partial state it is not certain who is in it, so that the
		// servers there hear of what they need only.
		whole := row.Partial.Version == 0 && row.WholeSince <= m.Position
		c.introduce = append(c.introduce, introduction{m.User, name, to, whole})
	}
	return err
}

// maxIntroduced bounds the devices of which new servers are told.
const maxIntroduced = 50

// introduce tells servers of a user's devices. These updates refer to none before:
// they make a server without the whole list ask for it.
func (s *Service) introduce(tx *store.Tx, i introduction) error {
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
		if err := s.describe(tx, i.user, &u); err != nil {
			return err
		}
		if err := tell(u); err != nil {
			return err
		}
	}
	if !i.keyless {
		return nil
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
		if err := tell(DeviceListUpdate{User: i.name, Device: d.ID, Name: s.nameForServers(d), StreamID: last, PrevID: []int64{}}); err != nil {
			return err
		}
	}
	return nil
}
