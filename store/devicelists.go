package store

import "hearth/matrix/id"

// DeviceLists says whose devices changed when, and finds whose changes a user may see.
type DeviceLists struct{ tx *Tx }

const (
	setDeviceListChange = `INSERT INTO device_list_changes (user_nid, device_id, position) VALUES ($1, $2, $3)
		ON CONFLICT (user_nid, device_id) DO UPDATE SET position = excluded.position`
	setSignatureChange = `INSERT INTO user_signature_changes (signer_nid, target_nid, position) VALUES ($1, $2, $3)
		ON CONFLICT (signer_nid, target_nid) DO UPDATE SET position = excluded.position`
	listsChanged = `SELECT c.user_nid FROM device_list_changes c WHERE c.position > $2 AND (c.user_nid = $1 OR EXISTS (
			SELECT 1 FROM room_members a JOIN room_members b ON b.room_nid = a.room_nid
			WHERE a.user_nid = $1 AND a.is_local = 1 AND a.membership = 1 AND b.user_nid = c.user_nid AND b.membership = 1))
		UNION SELECT target_nid FROM user_signature_changes WHERE signer_nid = $1 AND position > $2 ORDER BY 1`
	devicesChanged = `SELECT user_nid, device_id, position FROM device_list_changes WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3`
	observers      = `SELECT DISTINCT o.user_nid FROM room_members o WHERE o.is_local = 1 AND o.membership = 1 AND o.room_nid IN (
			SELECT m.room_nid FROM room_members m WHERE m.user_nid = $1 AND m.membership = 1 AND m.is_local = 0) ORDER BY o.user_nid`
	membersChanged = `SELECT DISTINCT skey FROM events WHERE room_nid = $1 AND position > $2 AND position IS NOT NULL
		AND skey IS NOT NULL AND skey % 2 = 1 ORDER BY skey`
	joinedMembers = `SELECT user_nid, position FROM room_members WHERE room_nid = $1 AND membership = 1 ORDER BY user_nid`
	sharesSince   = `SELECT 1 FROM room_members a JOIN room_members b ON b.room_nid = a.room_nid
		WHERE a.user_nid = $1 AND a.is_local = 1 AND a.membership = 1 AND a.position <= $3
		AND b.user_nid = $2 AND b.membership = 1 AND b.position <= $3 LIMIT 1`
	allSharing = `SELECT b.user_nid FROM room_members a JOIN room_members b ON b.room_nid = a.room_nid
		WHERE a.user_nid = $1 AND a.is_local = 1 AND a.membership = 1 AND b.membership = 1`
)

// DeviceListChange is the last change of one device's keys.
type DeviceListChange struct {
	User     UserNID
	Device   id.Device // empty: the user's cross-signing keys
	Position int64
}

// Set notes that a device's keys changed; an empty device id stands for the user's cross-signing keys.
func (t DeviceLists) Set(user UserNID, device id.Device, position int64) error {
	_, err := t.tx.exec(setDeviceListChange, user, string(device), position)
	return err
}

// SetSigned notes that a user signed another user's master key.
func (t DeviceLists) SetSigned(signer, target UserNID, position int64) error {
	_, err := t.tx.exec(setSignatureChange, signer, target, position)
	return err
}

// Changed lists users whose keys changed after a position and who share a room with viewer now; viewer himself too.
func (t DeviceLists) Changed(viewer UserNID, after int64) ([]UserNID, error) {
	return list(t.tx, value[int64], listsChanged, viewer, after)
}

// Devices lists, for followers, what changed between two positions, in order.
func (t DeviceLists) Devices(after, upTo int64, limit int) ([]DeviceListChange, error) {
	return list(t.tx, func(r scanner) (c DeviceListChange, err error) {
		err = r.Scan(&c.User, &c.Device, &c.Position)
		return
	}, devicesChanged, after, upTo, limit)
}

// Observers lists the local users who share a room with a user of another server.
func (t DeviceLists) Observers(user UserNID) ([]UserNID, error) {
	return list(t.tx, value[int64], observers, user)
}

// MembersChanged lists whose membership event in a room is newer than a position.
func (t DeviceLists) MembersChanged(room RoomNID, after int64) ([]UserNID, error) {
	keys, err := list(t.tx, value[int64], membersChanged, room, after)
	for i, k := range keys {
		keys[i], _ = IsMemberKey(k)
	}
	return keys, err
}

// EachJoined calls fn for each joined member of a room with the position of the join.
func (t DeviceLists) EachJoined(room RoomNID, fn func(user UserNID, since int64)) error {
	return each(t.tx, func(r scanner) error {
		var user, since int64
		err := r.Scan(&user, &since)
		fn(user, since)
		return err
	}, joinedMembers, room)
}

// SharedSince says whether there is a room to which both have been joined since a position; viewer must be local.
func (t DeviceLists) SharedSince(viewer, other UserNID, position int64) (bool, error) {
	_, ok, err := one(t.tx, value[int64], sharesSince, viewer, other, position)
	return ok, err
}

// EachSharing calls fn with the members of all rooms of a local user, some repeatedly.
func (t DeviceLists) EachSharing(viewer UserNID, fn func(UserNID)) error {
	return each(t.tx, func(r scanner) error {
		var user int64
		err := r.Scan(&user)
		fn(user)
		return err
	}, allSharing, viewer)
}
