package push

import (
	"context"
	"fmt"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// CopyRoom gives all local members of a room that was upgraded their rules about it
// for its replacement, too. It is meant for room.Engine.Upgrade.
func (s *Service) CopyRoom(tx *store.Tx, from, to id.Room) error {
	nid, ok, err := tx.Rooms.Find(from)
	if err != nil || !ok {
		return err
	}
	members, err := tx.Members.LocalJoined(nid)
	if err != nil {
		return fmt.Errorf("local members of %s: %w", from, err)
	}
	for _, m := range members {
		user, err := tx.IDs.UserID(m)
		if err != nil {
			return err
		}
		if err := s.copyRules(tx, user, from, to); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) copyRules(tx *store.Tx, user id.User, from, to id.Room) error {
	rules, _, err := s.load(tx, user)
	if err != nil || !rules.CopyRoom(from, to) {
		return err
	}
	return s.save(tx, user, rules)
}

// Upgrades follows the change counter and copies a user's rules about a room to the
// one that replaces it when they join that, whoever upgraded it, on whichever server.
// One goroutine at a time.
// spec: client-server-api#server-behaviour-19
type Upgrades struct {
	service   *Service
	began     bool
	at, saved int64 // position up to which joins are looked at; the one in the store
}

// NewUpgrades makes the follower, which goes on where it last saved its position.
func NewUpgrades(s *Service) *Upgrades { return &Upgrades{service: s} }

const (
	follower = "push rules of upgraded rooms" // name in the store
	batch    = 500                            // events looked at in one step
	// saveEvery is how many positions may have to be looked at again after a crash,
	// which does no harm. Saving each would double the server's commits.
	saveEvery = 1000
)

// Follow looks at all joins up to a position.
func (u *Upgrades) Follow(ctx context.Context, position int64) error {
	if err := u.begin(ctx, position); err != nil {
		return fmt.Errorf("begin to follow upgrades: %w", err)
	}
	for u.at < position {
		joins, upTo, err := u.look(ctx, position)
		if err == nil && (len(joins) > 0 || upTo >= u.saved+saveEvery) {
			err = u.copy(ctx, joins, upTo)
		}
		if err != nil {
			return fmt.Errorf("copy push rules to upgraded rooms: %w", err)
		}
		u.at = upTo
	}
	return nil
}

// Run follows until the context ends.
func (u *Upgrades) Run(ctx context.Context, hub *stream.Hub) (err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	hub.Follow(ctx, func(position int64) {
		if err = u.Follow(ctx, position); err != nil {
			stop()
		}
	})
	return err
}

// begin finds where to go on. What was before the very first start is left as it is.
func (u *Upgrades) begin(ctx context.Context, position int64) error {
	if u.began {
		return nil
	}
	var known bool
	err := u.service.store.View(ctx, func(tx *store.Tx) (err error) {
		u.at, known, err = tx.Followers.Position(follower)
		return err
	})
	if err == nil && !known {
		u.at = position
		err = u.copy(ctx, nil, position)
	}
	u.saved, u.began = u.at, err == nil
	return err
}

// look finds joins in the next batch of events, and where that ends.
func (u *Upgrades) look(ctx context.Context, position int64) (joins []upgradeJoin, upTo int64, err error) {
	err = u.service.store.View(ctx, func(tx *store.Tx) error {
		places, err := tx.Events.After(u.at, position, batch)
		if err != nil {
			return err
		}
		if upTo = position; len(places) == batch {
			upTo = places[batch-1].Position
		}
		joins, err = u.service.joinsOfUpgraded(tx, places)
		return err
	})
	return joins, upTo, err
}

func (u *Upgrades) copy(ctx context.Context, joins []upgradeJoin, upTo int64) error {
	err := u.service.store.Update(ctx, func(tx *store.Tx) error {
		for _, j := range joins {
			if err := u.service.copyRules(tx, j.user, j.from, j.to); err != nil {
				return err
			}
		}
		return tx.Followers.SetPosition(follower, upTo)
	})
	if err == nil {
		u.saved = upTo
	}
	return err
}

// upgradeJoin is that a local user has joined a room which replaces another.
type upgradeJoin struct {
	user     id.User
	from, to id.Room
}

func (s *Service) joinsOfUpgraded(tx *store.Tx, places []store.Place) (joins []upgradeJoin, err error) {
	nids := make([]store.EventNID, len(places))
	for i, p := range places {
		nids[i] = p.NID
	}
	events, err := s.rooms.Events(tx, nids)
	if err != nil {
		return nil, err
	}
	for _, ev := range events {
		p := ev.PDU
		if p.Type != event.TypeMember || p.StateKey == nil || p.Membership() != "join" || id.User(*p.StateKey).Server() != s.rooms.Server() {
			continue
		}
		old, err := s.predecessor(tx, ev.Room, ev.VersionBefore())
		if err != nil {
			return nil, err
		}
		if old == "" {
			continue
		}
		was, err := wasMember(tx, old, id.User(*p.StateKey))
		if err != nil {
			return nil, err
		}
		if was {
			joins = append(joins, upgradeJoin{id.User(*p.StateKey), old, p.Room})
		}
	}
	return joins, nil
}

// predecessor is the room that a room says it replaces; empty: none.
func (s *Service) predecessor(tx *store.Tx, room store.RoomNID, version int64) (id.Room, error) {
	key, ok, err := tx.IDs.FindStateKey(event.StateTuple{Type: event.TypeCreate})
	if err != nil || !ok {
		return "", err
	}
	nid, ok, err := tx.State.At(room, key, version)
	if err != nil || !ok {
		return "", err
	}
	create, err := s.rooms.Events(tx, []store.EventNID{nid})
	if err != nil {
		return "", err
	}
	return predecessorOf(create[0].PDU), nil
}

// wasMember says whether a local user has or had any membership in a room.
func wasMember(tx *store.Tx, room id.Room, user id.User) (bool, error) {
	nid, ok, err := tx.Rooms.Find(room)
	if err != nil || !ok {
		return false, err
	}
	userNID, ok, err := tx.IDs.FindUser(user)
	if err != nil || !ok {
		return false, err
	}
	_, ok, err = tx.Members.Get(nid, userNID)
	return ok, err
}
