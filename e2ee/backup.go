package e2ee

import (
	"context"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Backup is a backup of a user's room keys.
type Backup struct {
	Algorithm string         `json:"algorithm"`
	AuthData  jsontext.Value `json:"auth_data"`
	Count     int64          `json:"count"`
	ETag      string         `json:"etag"`
	Version   string         `json:"version"`
}

// BackupState is how a backup stands after a change of its keys.
type BackupState struct {
	Count int64  `json:"count"`
	ETag  string `json:"etag"`
}

// BackedUpKey is one session's key in a backup. All members are required.
type BackedUpKey struct {
	FirstMessageIndex *int64         `json:"first_message_index"`
	ForwardedCount    *int64         `json:"forwarded_count"`
	IsVerified        *bool          `json:"is_verified"`
	SessionData       jsontext.Value `json:"session_data"`
}

// RoomKeys is the keys of one room by session id.
type RoomKeys struct {
	Sessions map[string]BackedUpKey `json:"sessions"`
}

const (
	maxAuthData    = 64 << 10
	maxSessionData = 64 << 10
	maxSessions    = 10_000 // in one request
)

func noBackup() error { return errcode.NotFound("there is no such backup version") }

// CreateBackup starts a new backup, which is the current one from now on.
// spec: client-server-api#post_matrixclientv3room_keysversion
func (s *Service) CreateBackup(ctx context.Context, user id.User, algorithm string, authData jsontext.Value) (version string, err error) {
	if !validName(algorithm) {
		return "", errcode.InvalidParam("algorithm is missing or not valid")
	}
	data, err := parseAuthData(authData)
	if err != nil {
		return "", err
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		nid, err := tx.IDs.User(user)
		if err != nil {
			return err
		}
		v, err := tx.KeyBackup.Insert(nid, algorithm, data)
		version = strconv.FormatInt(v, 10)
		return err
	})
	return version, err
}

// parseAuthData demands an object; what is in it concerns clients only.
func parseAuthData(raw jsontext.Value) ([]byte, error) {
	switch {
	case absent(raw):
		return nil, errcode.MissingParam("auth_data is missing")
	case raw.Kind() != '{':
		return nil, errcode.BadJSON("auth_data must be an object")
	case len(raw) > maxAuthData:
		return nil, errcode.TooLarge("auth_data is larger than %d bytes", maxAuthData)
	}
	data, err := canonical.Append(nil, raw, canonical.Options{})
	if err != nil {
		return nil, errcode.BadJSON("auth_data: %s", err)
	}
	return data, nil
}

// GetBackup reads a backup, or the current one if version is empty.
func (s *Service) GetBackup(ctx context.Context, user id.User, version string) (b Backup, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		_, v, err := findBackup(tx, user, version)
		b = Backup{v.Algorithm, v.AuthData, v.Count, strconv.FormatInt(v.ETag, 10), strconv.FormatInt(v.Version, 10)}
		return err
	})
	return b, err
}

// findBackup finds a backup that is not deleted; the current one if version is empty.
func findBackup(tx *store.Tx, user id.User, version string) (store.UserNID, store.BackupVersion, error) {
	nid, v, err := findAnyBackup(tx, user, version)
	if err == nil && v.Deleted {
		err = noBackup()
	}
	return nid, v, err
}

func findAnyBackup(tx *store.Tx, user id.User, version string) (nid store.UserNID, v store.BackupVersion, err error) {
	var ok bool
	if nid, ok, err = tx.IDs.FindUser(user); err != nil {
		return 0, v, err
	}
	if version == "" && ok {
		v, ok, err = tx.KeyBackup.Current(nid)
	} else if n, parseErr := strconv.ParseInt(version, 10, 64); ok && parseErr == nil {
		v, ok, err = tx.KeyBackup.Get(nid, n)
	} else {
		ok = false
	}
	if err == nil && !ok {
		err = noBackup()
	}
	return nid, v, err
}

// SetBackupAuthData replaces a backup's auth_data; nothing else of it may change.
// spec: client-server-api#put_matrixclientv3room_keysversionversion
func (s *Service) SetBackupAuthData(ctx context.Context, user id.User, version, algorithm string, authData jsontext.Value) error {
	data, err := parseAuthData(authData)
	if err != nil {
		return err
	}
	return s.store.Update(ctx, func(tx *store.Tx) error {
		nid, v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		if v.Algorithm != algorithm {
			return errcode.InvalidParam("the algorithm of a backup cannot change")
		}
		return tx.KeyBackup.SetAuthData(nid, v.Version, data)
	})
}

// DeleteBackup deletes a backup with its keys; again is no error.
func (s *Service) DeleteBackup(ctx context.Context, user id.User, version string) error {
	return s.store.Update(ctx, func(tx *store.Tx) error {
		nid, v, err := findAnyBackup(tx, user, version)
		if err != nil || v.Deleted {
			return err
		}
		return tx.KeyBackup.Delete(nid, v.Version)
	})
}

// PutRoomKeys adds keys to the current backup. Of two keys of a session the
// better one stays.
// spec: client-server-api#server-side-key-backups
func (s *Service) PutRoomKeys(ctx context.Context, user id.User, version string, rooms map[id.Room]RoomKeys) (state BackupState, err error) {
	sessions, err := parseSessions(rooms)
	if err != nil {
		return state, err
	}
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		nid, current, err := findBackup(tx, user, "")
		if err != nil {
			return err
		}
		if now := strconv.FormatInt(current.Version, 10); version != now {
			return errcode.New(403, "M_WRONG_ROOM_KEYS_VERSION", "only the newest backup can be written").With("current_version", now)
		}
		changed, added := false, int64(0)
		for _, k := range sessions {
			old, ok, err := tx.KeyBackup.GetSession(nid, current.Version, k.Room, k.Session)
			if err != nil {
				return err
			}
			if ok && !isBetter(k, old) {
				continue
			}
			if err := tx.KeyBackup.SetSession(nid, current.Version, k); err != nil {
				return err
			}
			if changed = true; !ok {
				added++
			}
		}
		state, err = advance(tx, nid, current, changed, added)
		return err
	})
	return state, err
}

// isBetter is the spec's rule for which of two keys of a session is kept.
func isBetter(k, old store.BackupSession) bool {
	if k.Verified != old.Verified {
		return k.Verified
	}
	if k.FirstMessageIndex != old.FirstMessageIndex {
		return k.FirstMessageIndex < old.FirstMessageIndex
	}
	return k.ForwardedCount < old.ForwardedCount
}

func advance(tx *store.Tx, nid store.UserNID, v store.BackupVersion, changed bool, added int64) (BackupState, error) {
	if !changed {
		return BackupState{v.Count, strconv.FormatInt(v.ETag, 10)}, nil
	}
	return BackupState{v.Count + added, strconv.FormatInt(v.ETag+1, 10)}, tx.KeyBackup.Advance(nid, v.Version, added)
}

func parseSessions(rooms map[id.Room]RoomKeys) ([]store.BackupSession, error) {
	var all []store.BackupSession
	for room, keys := range rooms {
		if keys.Sessions == nil {
			return nil, errcode.BadJSON("a room has no sessions")
		}
		for session, k := range keys.Sessions {
			switch {
			case len(all) >= maxSessions:
				return nil, errcode.TooLarge("the request has more than %d keys", maxSessions)
			case !validName(session):
				return nil, errcode.InvalidParam("a session id is not valid")
			case k.FirstMessageIndex == nil || k.ForwardedCount == nil || k.IsVerified == nil || absent(k.SessionData):
				return nil, errcode.BadJSON("the key of session %s lacks a member", session)
			case *k.FirstMessageIndex < 0 || *k.ForwardedCount < 0 || k.SessionData.Kind() != '{':
				return nil, errcode.BadJSON("the key of session %s has a bad member", session)
			case len(k.SessionData) > maxSessionData:
				return nil, errcode.TooLarge("session_data of session %s is larger than %d bytes", session, maxSessionData)
			}
			all = append(all, store.BackupSession{Room: room, Session: session, FirstMessageIndex: *k.FirstMessageIndex,
				ForwardedCount: *k.ForwardedCount, Verified: *k.IsVerified, Data: k.SessionData})
		}
	}
	return all, nil
}

func showSession(s store.BackupSession) BackedUpKey {
	return BackedUpKey{&s.FirstMessageIndex, &s.ForwardedCount, &s.Verified, s.Data}
}

// GetRoomKeys reads the keys of a backup, of one room or of all if room is empty.
func (s *Service) GetRoomKeys(ctx context.Context, user id.User, version string, room id.Room) (map[id.Room]RoomKeys, error) {
	rooms := map[id.Room]RoomKeys{}
	return rooms, s.store.View(ctx, func(tx *store.Tx) error {
		nid, v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		sessions, err := tx.KeyBackup.Sessions(nid, v.Version, room)
		for _, k := range sessions {
			if rooms[k.Room].Sessions == nil {
				rooms[k.Room] = RoomKeys{map[string]BackedUpKey{}}
			}
			rooms[k.Room].Sessions[k.Session] = showSession(k)
		}
		return err
	})
}

// GetRoomKey reads the key of one session.
func (s *Service) GetRoomKey(ctx context.Context, user id.User, version string, room id.Room, session string) (k BackedUpKey, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		nid, v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		found, ok, err := tx.KeyBackup.GetSession(nid, v.Version, room, session)
		if err == nil && !ok {
			err = errcode.NotFound("there is no such key in the backup")
		}
		k = showSession(found)
		return err
	})
	return k, err
}

// DeleteRoomKeys deletes one key of a backup, the keys of a room if session is
// empty, or all if room is empty too.
func (s *Service) DeleteRoomKeys(ctx context.Context, user id.User, version string, room id.Room, session string) (state BackupState, err error) {
	err = s.store.Update(ctx, func(tx *store.Tx) error {
		nid, v, err := findBackup(tx, user, version)
		if err != nil {
			return err
		}
		n, err := tx.KeyBackup.DeleteSessions(nid, v.Version, room, session)
		if err != nil {
			return err
		}
		state, err = advance(tx, nid, v, n > 0, -n)
		return err
	})
	return state, err
}
