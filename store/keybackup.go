package store

import "hearth/matrix/id"

// KeyBackup holds the encrypted backups of room keys.
type KeyBackup struct{ tx *Tx }

// BackupVersion is one backup of a user.
type BackupVersion struct {
	Version   int64
	Algorithm string
	AuthData  []byte
	ETag      int64
	Count     int64
	Deleted   bool
}

// BackupSession is the key of one session in a backup.
type BackupSession struct {
	Room              id.Room
	Session           string
	FirstMessageIndex int64
	ForwardedCount    int64
	Verified          bool
	Data              []byte
}

const (
	backupColumns = `version, algorithm, auth_data, etag, count, deleted`
	insertBackup  = `INSERT INTO key_backup_versions (user_nid, version, algorithm, auth_data)
		VALUES ($1, (SELECT COALESCE(MAX(version), 0) + 1 FROM key_backup_versions WHERE user_nid = $1), $2, $3) RETURNING version`
	getBackup      = `SELECT ` + backupColumns + ` FROM key_backup_versions WHERE user_nid = $1 AND version = $2`
	currentBackup  = `SELECT ` + backupColumns + ` FROM key_backup_versions WHERE user_nid = $1 AND deleted = 0 ORDER BY version DESC LIMIT 1`
	setBackupAuth  = `UPDATE key_backup_versions SET auth_data = $3 WHERE user_nid = $1 AND version = $2`
	advanceBackup  = `UPDATE key_backup_versions SET etag = etag + 1, count = count + $3 WHERE user_nid = $1 AND version = $2`
	markDeleted    = `UPDATE key_backup_versions SET deleted = 1, count = 0, auth_data = $3 WHERE user_nid = $1 AND version = $2`
	sessionColumns = `room_id, session_id, first_message_index, forwarded_count, is_verified, session_data`
	getSession     = `SELECT ` + sessionColumns + ` FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND room_id = $3 AND session_id = $4`
	sessionsOfRoom = `SELECT ` + sessionColumns + ` FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND room_id = $3 ORDER BY session_id`
	allSessions    = `SELECT ` + sessionColumns + ` FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 ORDER BY room_id, session_id`
	setSession     = `INSERT INTO key_backup_sessions (user_nid, version, ` + sessionColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (user_nid, version, room_id, session_id) DO UPDATE SET first_message_index = excluded.first_message_index,
		forwarded_count = excluded.forwarded_count, is_verified = excluded.is_verified, session_data = excluded.session_data`
	deleteSession  = `DELETE FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND room_id = $3 AND session_id = $4`
	deleteRoomKeys = `DELETE FROM key_backup_sessions WHERE user_nid = $1 AND version = $2 AND room_id = $3`
	deleteAllKeys  = `DELETE FROM key_backup_sessions WHERE user_nid = $1 AND version = $2`
)

func scanBackup(r scanner) (v BackupVersion, err error) {
	var deleted int64
	err = r.Scan(&v.Version, &v.Algorithm, &v.AuthData, &v.ETag, &v.Count, &deleted)
	v.Deleted = deleted != 0
	return
}

func scanSession(r scanner) (s BackupSession, err error) {
	var verified int64
	err = r.Scan(&s.Room, &s.Session, &s.FirstMessageIndex, &s.ForwardedCount, &verified, &s.Data)
	s.Verified = verified != 0
	return
}

// Insert makes a new backup, which is the current one from now on.
func (t KeyBackup) Insert(user UserNID, algorithm string, authData []byte) (version int64, err error) {
	version, _, err = one(t.tx, value[int64], insertBackup, user, algorithm, authData)
	return
}

// Get reads a backup's row, also of a deleted one.
func (t KeyBackup) Get(user UserNID, version int64) (BackupVersion, bool, error) {
	return one(t.tx, scanBackup, getBackup, user, version)
}

// Current reads the newest backup that is not deleted.
func (t KeyBackup) Current(user UserNID) (BackupVersion, bool, error) {
	return one(t.tx, scanBackup, currentBackup, user)
}

// SetAuthData replaces a backup's auth_data.
func (t KeyBackup) SetAuthData(user UserNID, version int64, authData []byte) error {
	_, err := t.tx.exec(setBackupAuth, user, version, authData)
	return err
}

// Advance notes that a backup's keys changed and are more by some number.
func (t KeyBackup) Advance(user UserNID, version, more int64) error {
	_, err := t.tx.exec(advanceBackup, user, version, more)
	return err
}

// Delete removes a backup's keys and marks it as deleted.
func (t KeyBackup) Delete(user UserNID, version int64) error {
	if _, err := t.DeleteSessions(user, version, "", ""); err != nil {
		return err
	}
	_, err := t.tx.exec(markDeleted, user, version, []byte("{}"))
	return err
}

// GetSession reads one key.
func (t KeyBackup) GetSession(user UserNID, version int64, room id.Room, session string) (BackupSession, bool, error) {
	return one(t.tx, scanSession, getSession, user, version, string(room), session)
}

// Sessions reads the keys of a room, or of all rooms if room is empty.
func (t KeyBackup) Sessions(user UserNID, version int64, room id.Room) ([]BackupSession, error) {
	if room == "" {
		return list(t.tx, scanSession, allSessions, user, version)
	}
	return list(t.tx, scanSession, sessionsOfRoom, user, version, string(room))
}

// SetSession stores a key.
func (t KeyBackup) SetSession(user UserNID, version int64, s BackupSession) error {
	_, err := t.tx.exec(setSession, user, version, string(s.Room), s.Session, s.FirstMessageIndex, s.ForwardedCount, toInt(s.Verified), s.Data)
	return err
}

// DeleteSessions deletes one key, the keys of a room if session is empty, or
// all if room is empty too. It says how many there were.
func (t KeyBackup) DeleteSessions(user UserNID, version int64, room id.Room, session string) (int64, error) {
	switch {
	case room == "":
		return t.tx.exec(deleteAllKeys, user, version)
	case session == "":
		return t.tx.exec(deleteRoomKeys, user, version, string(room))
	}
	return t.tx.exec(deleteSession, user, version, string(room), session)
}
