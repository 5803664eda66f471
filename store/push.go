package store

import (
	"database/sql"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/stream"
)

// Push is users' push rules and pushers, and tallies of what they have not read.
type Push struct{ tx *Tx }

// Pusher is where a user wants to be notified.
type Pusher struct {
	User              id.User
	Kind              string
	AppID             string
	PushKey           string
	AppDisplayName    string
	DeviceDisplayName string
	ProfileTag        string
	Lang              string
	Data              jsontext.Value
	Enabled           bool
	Device            id.Device // the session that set it, with which it goes
	TokenID           int64
	SetMS             int64
}

const (
	getPushRules = `SELECT rules, position FROM user_push_rules WHERE user_id = $1`
	setPushRules = `INSERT INTO user_push_rules (user_id, rules, position) VALUES ($1, $2, $3)
		ON CONFLICT (user_id) DO UPDATE SET rules = excluded.rules, position = excluded.position`
	deletePushRules = `DELETE FROM user_push_rules WHERE user_id = $1`

	listPushers = `SELECT user_name, kind, app_id, pushkey, app_display_name, device_display_name, profile_tag, lang, data, enabled,
		COALESCE(device_id, ''), COALESCE(access_token, 0), ts FROM pushers WHERE user_name = $1 ORDER BY id`
	setPusher = `INSERT INTO pushers (user_name, kind, app_id, pushkey, app_display_name, device_display_name, profile_tag, lang, data, enabled,
		device_id, access_token, ts, last_stream_ordering) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
		ON CONFLICT (app_id, pushkey, user_name) DO UPDATE SET kind = excluded.kind, app_display_name = excluded.app_display_name,
		device_display_name = excluded.device_display_name, profile_tag = excluded.profile_tag, lang = excluded.lang, data = excluded.data,
		enabled = excluded.enabled, device_id = excluded.device_id, access_token = excluded.access_token, ts = excluded.ts, failing_since = NULL`
	deletePusher       = `DELETE FROM pushers WHERE user_name = $1 AND app_id = $2 AND pushkey = $3`
	deleteOtherPushers = `DELETE FROM pushers WHERE user_name <> $1 AND app_id = $2 AND pushkey = $3`
	deletePushersOf    = `DELETE FROM pushers WHERE user_name = $1`
	deletePushersOn    = `DELETE FROM pushers WHERE user_name = $1 AND device_id
		IN (SELECT value FROM json_each($2)) -- only: sqlite
		IN (SELECT value FROM json_array_elements_text($2::json)) -- only: postgres`
)

const (
	roomsByActivity = `SELECT m.room_nid, m.position, r.last_position FROM room_members m JOIN rooms r ON r.room_nid = m.room_nid
		WHERE m.user_nid = $1 AND m.membership = 1 AND m.is_local = 1 ORDER BY r.last_position DESC`
	getTally = `SELECT tally FROM unread_tallies WHERE user_nid = $1 AND room_nid = $2`
	setTally = `INSERT INTO unread_tallies (user_nid, room_nid, tally) VALUES ($1, $2, $3)
		ON CONFLICT (user_nid, room_nid) DO UPDATE SET tally = excluded.tally`
)

// JoinedRoom is a room of a user, with the part of its timeline since they joined.
type JoinedRoom struct {
	Room         RoomNID
	JoinPosition int64
	LastPosition int64
}

// RoomsByActivity lists the rooms a local user is joined to, that of the newest event first.
func (t Push) RoomsByActivity(u UserNID) ([]JoinedRoom, error) {
	return list(t.tx, func(r scanner) (v JoinedRoom, err error) {
		err = r.Scan(&v.Room, &v.JoinPosition, &v.LastPosition)
		return
	}, roomsByActivity, u)
}

// Tally reads what SetTally stored.
func (t Push) Tally(u UserNID, room RoomNID) ([]byte, bool, error) {
	return one(t.tx, value[[]byte], getTally, u, room)
}

// SetTally stores what a user has not read of a room.
func (t Push) SetTally(u UserNID, room RoomNID, tally []byte) error {
	_, err := t.tx.exec(setTally, u, room, tally)
	return err
}

// StoredRules are a user's push rules, as JSON, and the position of their last change.
type StoredRules struct {
	JSON     []byte
	Position int64
}

// Rules reads what a user made of the predefined push rules; false: nothing.
func (t Push) Rules(u id.User) (StoredRules, bool, error) {
	return one(t.tx, func(r scanner) (v StoredRules, err error) {
		var text string
		err = r.Scan(&text, &v.Position)
		v.JSON = []byte(text)
		return
	}, getPushRules, string(u))
}

// SetRules stores a user's push rules. It takes a position, which is returned, and tells the hub.
func (t Push) SetRules(u id.User, rules []byte) (int64, error) {
	nid, err := t.tx.IDs.User(u)
	if err != nil {
		return 0, err
	}
	position := t.tx.NextPosition()
	if _, err := t.tx.exec(setPushRules, string(u), string(rules), position); err != nil {
		return 0, err
	}
	t.tx.Touch(stream.Account, 0, nid)
	return position, nil
}

// Pushers lists a user's pushers.
func (t Push) Pushers(u id.User) ([]Pusher, error) {
	return list(t.tx, func(r scanner) (p Pusher, err error) {
		var data string
		err = r.Scan(&p.User, &p.Kind, &p.AppID, &p.PushKey, &p.AppDisplayName, &p.DeviceDisplayName, &p.ProfileTag, &p.Lang, &data,
			&p.Enabled, &p.Device, &p.TokenID, &p.SetMS)
		p.Data = jsontext.Value(data)
		return
	}, listPushers, string(u))
}

// SetPusher makes a pusher, or changes the user's one of the same app and push key.
// What happened before is not pushed to a new one.
func (t Push) SetPusher(p Pusher) error {
	token := sql.NullInt64{Int64: p.TokenID, Valid: p.TokenID != 0}
	_, err := t.tx.exec(setPusher, string(p.User), p.Kind, p.AppID, p.PushKey, p.AppDisplayName, p.DeviceDisplayName, p.ProfileTag,
		p.Lang, string(p.Data), p.Enabled, orNull(string(p.Device)), token, p.SetMS, t.tx.Position())
	return err
}

// DeletePusher removes a user's pusher, if there is one.
func (t Push) DeletePusher(u id.User, appID, pushKey string) error {
	_, err := t.tx.exec(deletePusher, string(u), appID, pushKey)
	return err
}

// DeleteOtherPushers removes the pushers of an app and push key that other users have.
func (t Push) DeleteOtherPushers(u id.User, appID, pushKey string) error {
	_, err := t.tx.exec(deleteOtherPushers, string(u), appID, pushKey)
	return err
}

// DeletePushersOn removes the pushers that some of a user's devices have set.
func (t Push) DeletePushersOn(u id.User, devices []id.Device) error {
	ids, err := textList(t.tx, devices)
	if err != nil {
		return err
	}
	_, err = t.tx.exec(deletePushersOn, string(u), ids)
	return err
}

// DeleteAll forgets a user's push rules and pushers.
func (t Push) DeleteAll(u id.User) error {
	for _, query := range []string{deletePushRules, deletePushersOf} {
		if _, err := t.tx.exec(query, string(u)); err != nil {
			return err
		}
	}
	return nil
}
