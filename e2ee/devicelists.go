package e2ee

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/store"
)

// DeviceLists is whose devices a client must ask for anew and whose it may forget.
type DeviceLists struct {
	Changed []id.User `json:"changed"`
	Left    []id.User `json:"left"`
}

// fewUsers is up to how many users are looked up one by one; for more, the
// members of all rooms of the viewer are read once.
const fewUsers = 100

// GetDeviceLists works out what changed for a user after a position: whose keys
// changed, who newly shares a room with him, who shares none any more. rooms
// may name the rooms where anything changed since, as the hub remembers them;
// nil: all are looked at. Changes after the snapshot of tx come next time.
// spec: client-server-api#e2e-extensions-to-sync
func GetDeviceLists(tx *store.Tx, viewer store.UserNID, after int64, rooms []store.RoomNID) (DeviceLists, error) {
	d := deviceLists{tx: tx, viewer: viewer, after: after, changed: map[store.UserNID]bool{}, joined: map[store.UserNID]bool{}, gone: map[store.UserNID]bool{}}
	if err := d.find(rooms); err != nil {
		return DeviceLists{}, fmt.Errorf("device lists: %w", err)
	}
	var lists DeviceLists
	var err error
	if lists.Changed, err = d.names(d.changed); err == nil {
		lists.Left, err = d.names(d.gone)
	}
	return lists, err
}

// GetKeysChanges is GetDeviceLists for /keys/changes.
// spec: client-server-api#get_matrixclientv3keyschanges
func (s *Service) GetKeysChanges(ctx context.Context, user id.User, from int64) (lists DeviceLists, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		nid, _, err := tx.IDs.FindUser(user)
		if err == nil {
			lists, err = GetDeviceLists(tx, nid, from, nil)
		}
		return err
	})
	return lists, err
}

type deviceLists struct {
	tx     *store.Tx
	viewer store.UserNID
	after  int64

	changed map[store.UserNID]bool
	joined  map[store.UserNID]bool // share a room in which one of both is new
	gone    map[store.UserNID]bool // shared a room that one of both has left
	// entered: the viewer joined a room. Who meets others there is told of himself too: his
	// devices may not know of each other what those others now ask for. Other servers do
	// so, and the conformance suite wants it.
	entered bool
}

func (d *deviceLists) find(rooms []store.RoomNID) error {
	keys, err := d.tx.DeviceLists.Changed(d.viewer, d.after)
	if err != nil {
		return err
	}
	for _, u := range keys {
		d.changed[u] = true
	}
	memberships, err := d.memberships(rooms)
	if err != nil {
		return err
	}
	for _, me := range memberships {
		if err := d.room(me); err != nil {
			return fmt.Errorf("room %d: %w", me.Room, err)
		}
	}
	if err := d.dropOldAcquaintances(); err != nil {
		return err
	}
	if d.entered && len(d.joined) > 0 {
		d.changed[d.viewer] = true
	}
	maps.Copy(d.changed, d.joined)
	return d.dropSharing()
}

// memberships is the viewer's membership in rooms where something changed.
func (d *deviceLists) memberships(rooms []store.RoomNID) ([]store.Member, error) {
	if rooms == nil {
		return d.tx.Members.Changed(d.viewer, d.after)
	}
	var all []store.Member
	for _, room := range rooms {
		m, ok, err := d.tx.Members.Get(room, d.viewer)
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, m)
		}
	}
	return all, nil
}

// room collects who joined or left, or all members where the viewer did.
func (d *deviceLists) room(me store.Member) (err error) {
	room := me.Room
	isIn := me.Membership == store.Join
	isNew := isIn && me.Position > d.after
	wasIn := isIn && !isNew
	d.entered = d.entered || isNew
	if !wasIn {
		if wasIn, err = d.wasJoined(room, d.viewer); err != nil {
			return err
		}
	}
	if isNew || wasIn && !isIn {
		err := d.tx.DeviceLists.EachJoined(room, func(user store.UserNID, since int64) {
			switch {
			case user == d.viewer:
			case isNew:
				d.joined[user] = true
			case since <= d.after:
				d.gone[user] = true
			}
		})
		if err != nil {
			return err
		}
	}
	if wasIn && isIn {
		if err := d.completed(room); err != nil {
			return err
		}
	}
	moved, err := d.tx.DeviceLists.MembersChanged(room, d.after)
	if err != nil {
		return err
	}
	for _, user := range moved {
		if user == d.viewer {
			continue
		}
		m, _, err := d.tx.Members.Get(room, user)
		if err != nil {
			return err
		}
		if m.Membership == store.Join && isIn {
			if m.Position > d.after {
				d.joined[user] = true
			}
			continue
		}
		if !wasIn {
			continue
		}
		if left, err := d.wasJoined(room, user); err != nil {
			return err
		} else if left {
			d.gone[user] = true
		}
	}
	return nil
}

// completed collects those who were taken for members of a room while its state was partial,
// and are none. Who turns out to be a member is no news here: the viewer's clients ask for
// the keys of all members when they get to know them, and of what changed meanwhile Follow tells.
func (d *deviceLists) completed(room store.RoomNID) error {
	row, ok, err := d.tx.Rooms.GetNID(room)
	if err != nil || !ok || row.WholeSince <= d.after {
		return err
	}
	moved, err := d.tx.Members.MovedAfter(room, d.after)
	for _, m := range moved {
		if m.User != d.viewer && m.Membership != store.Join && m.Position == row.WholeSince {
			d.gone[m.User] = true
		}
	}
	return err
}

// wasJoined says whether a user was joined to a room at the position, from the
// log of the room's state.
func (d *deviceLists) wasJoined(room store.RoomNID, user store.UserNID) (bool, error) {
	history, err := d.tx.State.History(room, store.MemberKey(user))
	if err != nil {
		return false, err
	}
	for _, c := range slices.Backward(history) {
		if c.Event == 0 {
			continue
		}
		e, ok, err := d.tx.Events.Get(c.Event)
		if err != nil || !ok {
			return false, err
		}
		if e.Position <= d.after { // 0: part of the state with which this server joined
			membership, _ := canonical.GetString(canonical.Get(e.JSON, "content"), "membership")
			return membership == store.Join.String(), nil
		}
	}
	return false, nil
}

// dropOldAcquaintances forgets newcomers with whom the viewer shares another
// room all along. With many of them it is cheaper for all to let clients ask.
func (d *deviceLists) dropOldAcquaintances() error {
	if len(d.joined) > fewUsers {
		return nil
	}
	for user := range d.joined {
		known, err := d.tx.DeviceLists.SharedSince(d.viewer, user, d.after)
		if err != nil {
			return err
		}
		if known {
			delete(d.joined, user)
		}
	}
	return nil
}

// dropSharing leaves in gone only those who share no room with the viewer.
func (d *deviceLists) dropSharing() error {
	if len(d.gone) > fewUsers {
		return d.tx.DeviceLists.EachSharing(d.viewer, func(user store.UserNID) { delete(d.gone, user) })
	}
	for user := range d.gone {
		shares, err := d.tx.Members.ShareRoom(d.viewer, user)
		if err != nil {
			return err
		}
		if shares {
			delete(d.gone, user)
		}
	}
	return nil
}

// names is the ids of users in order.
func (d *deviceLists) names(users map[store.UserNID]bool) ([]id.User, error) {
	ids := make([]id.User, 0, len(users))
	for nid := range users {
		u, err := d.tx.IDs.UserID(nid)
		if err != nil {
			return nil, err
		}
		ids = append(ids, u)
	}
	slices.Sort(ids)
	return ids, nil
}
