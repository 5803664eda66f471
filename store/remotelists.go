package store

// RemoteLists is which users of other servers have their devices' keys kept here,
// in the tables of DeviceKeys and CrossSigning, and how local users' lists are
// numbered for other servers.
type RemoteLists struct{ tx *Tx }

// RemoteList is the device list of a user of another server.
type RemoteList struct {
	User         UserNID
	StreamID     int64 // of the last update; 0: not known
	Stale        bool  // something was missed
	Failures     int64 // of asking for it anew
	RetryAfterTS int64
}

const (
	remoteListColumns = `SELECT user_nid, stream_id, stale, failures, retry_after_ts FROM remote_device_lists `
	getRemoteList     = remoteListColumns + `WHERE user_nid = $1`
	staleRemoteLists  = `SELECT user_nid, stream_id, stale, failures, retry_after_ts FROM (
			SELECT l.user_nid, l.stream_id, l.stale, l.failures, l.retry_after_ts,
				ROW_NUMBER() OVER (PARTITION BY u.server_nid ORDER BY l.retry_after_ts, l.user_nid) AS turn
			FROM remote_device_lists l JOIN user_ids u ON u.user_nid = l.user_nid WHERE l.stale = 1) s
		WHERE turn <= $2 ORDER BY retry_after_ts, user_nid LIMIT $1`
	setRemoteList = `INSERT INTO remote_device_lists (user_nid, stream_id, stale, failures, retry_after_ts) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_nid) DO UPDATE SET stream_id = excluded.stream_id, stale = excluded.stale, failures = excluded.failures,
		retry_after_ts = excluded.retry_after_ts`
	deleteRemoteList = `DELETE FROM remote_device_lists WHERE user_nid = $1`
	remoteListsIn    = `SELECT m.user_nid FROM room_members m WHERE m.room_nid = $1 AND m.is_local = 0
		AND EXISTS (SELECT 1 FROM remote_device_lists l WHERE l.user_nid = m.user_nid) ORDER BY m.user_nid`
	// The condition is_local = 0 is for the index room_members_elsewhere.
	sharesAnyRoom = `SELECT 1 FROM room_members m WHERE m.user_nid = $1 AND m.membership = 1 AND m.is_local = 0 AND m.room_nid <> $2
		AND EXISTS (SELECT 1 FROM room_members o WHERE o.room_nid = m.room_nid AND o.membership = 1 AND o.is_local = 1) LIMIT 1`
	newServers = `SELECT r.server_nid FROM room_servers r WHERE r.room_nid = $2 AND NOT EXISTS (
			SELECT 1 FROM room_members m JOIN room_servers s ON s.room_nid = m.room_nid AND s.server_nid = r.server_nid
			WHERE m.user_nid = $1 AND m.membership = 1 AND m.is_local = 1 AND m.room_nid <> $2) ORDER BY r.server_nid`

	getListUpdate = `SELECT stream_id FROM device_list_updates WHERE user_nid = $1`
	setListUpdate = `INSERT INTO device_list_updates (user_nid, stream_id) VALUES ($1, $2)
		ON CONFLICT (user_nid) DO UPDATE SET stream_id = excluded.stream_id`
)

func scanRemoteList(r scanner) (l RemoteList, err error) {
	var stale int64
	err = r.Scan(&l.User, &l.StreamID, &stale, &l.Failures, &l.RetryAfterTS)
	l.Stale = stale != 0
	return
}

// Get reads a user's list; false: his keys are not kept.
func (t RemoteLists) Get(user UserNID) (RemoteList, bool, error) {
	return one(t.tx, scanRemoteList, getRemoteList, user)
}

// Stale lists what must be asked for anew, the most urgent first, and so much of one server at most.
func (t RemoteLists) Stale(limit, ofServer int) ([]RemoteList, error) {
	return list(t.tx, scanRemoteList, staleRemoteLists, limit, ofServer)
}

// Set stores a list.
func (t RemoteLists) Set(l RemoteList) error {
	_, err := t.tx.exec(setRemoteList, l.User, l.StreamID, toInt(l.Stale), l.Failures, l.RetryAfterTS)
	return err
}

// Delete forgets a list, and says whether there was one. The keys are deleted by themselves.
func (t RemoteLists) Delete(user UserNID) (bool, error) {
	n, err := t.tx.exec(deleteRemoteList, user)
	return n > 0, err
}

// InRoom lists users with a list who are or were members of a room.
func (t RemoteLists) InRoom(room RoomNID) ([]UserNID, error) {
	return list(t.tx, value[int64], remoteListsIn, room)
}

// Shares says whether a user of another server shares a room with any local user;
// one room may be left out of account, or 0.
func (t RemoteLists) Shares(user UserNID, without RoomNID) (bool, error) {
	_, ok, err := one(t.tx, value[int64], sharesAnyRoom, user, without)
	return ok, err
}

// NewServers lists the servers that share this room with a local user and no other.
func (t RemoteLists) NewServers(user UserNID, room RoomNID) ([]ServerNID, error) {
	return list(t.tx, value[int64], newServers, user, room)
}

// Update is the stream id of the last update of a local user's list; 0: there was none.
func (t RemoteLists) Update(user UserNID) (int64, error) {
	last, _, err := one(t.tx, value[int64], getListUpdate, user)
	return last, err
}

// SetUpdate notes the stream id of an update of a local user's list.
func (t RemoteLists) SetUpdate(user UserNID, streamID int64) error {
	_, err := t.tx.exec(setListUpdate, user, streamID)
	return err
}
