package store

import (
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/stream"
)

// AccountData is what clients keep about their users: account data, global and
// of rooms (tags too), and filters. Setting it takes a position and tells the hub.
type AccountData struct{ tx *Tx }

// AccountDataRow is one piece of account data.
type AccountDataRow struct {
	Room     id.Room // empty for global
	Type     string
	Content  jsontext.Value
	Position int64
}

const (
	getAccountData  = `SELECT content FROM account_data WHERE user_id = $1 AND account_data_type = $2`
	listAccountData = `SELECT '', account_data_type, content, stream_id FROM account_data WHERE user_id = $1 AND stream_id > $2 ORDER BY stream_id`
	setAccountData  = `INSERT INTO account_data (user_id, account_data_type, stream_id, content) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_id, account_data_type) DO UPDATE SET stream_id = excluded.stream_id, content = excluded.content`
	deleteAccountData = `DELETE FROM account_data WHERE user_id = $1`
	deleteOneAccount  = `DELETE FROM account_data WHERE user_id = $1 AND account_data_type = $2`

	getRoomAccountData    = `SELECT content FROM room_account_data WHERE user_id = $1 AND room_id = $2 AND account_data_type = $3`
	listOfRoomAccountData = `SELECT room_id, account_data_type, content, stream_id FROM room_account_data WHERE user_id = $1 AND room_id = $2 AND stream_id > $3 ORDER BY stream_id`
	listRoomsAccountData  = `SELECT room_id, account_data_type, content, stream_id FROM room_account_data WHERE user_id = $1 AND stream_id > $2 ORDER BY stream_id`
	setRoomAccountData    = `INSERT INTO room_account_data (user_id, room_id, account_data_type, stream_id, content) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id, room_id, account_data_type) DO UPDATE SET stream_id = excluded.stream_id, content = excluded.content`
	deleteRoomAccountData = `DELETE FROM room_account_data WHERE user_id = $1`

	getFilter    = `SELECT filter_json FROM user_filters WHERE user_id = $1 AND filter_id = $2`
	findFilter   = `SELECT filter_id FROM user_filters WHERE user_id = $1 AND digest = $2`
	insertFilter = `INSERT INTO user_filters (user_id, filter_id, filter_json, digest)
		VALUES ($1, (SELECT COALESCE(MAX(filter_id), -1) + 1 FROM user_filters WHERE user_id = $1), $2, $3) RETURNING filter_id`
	deleteFilters = `DELETE FROM user_filters WHERE user_id = $1`
)

func scanJSON(r scanner) (jsontext.Value, error) {
	var s string
	err := r.Scan(&s)
	return jsontext.Value(s), err
}

func scanAccountData(r scanner) (v AccountDataRow, err error) {
	var content string
	err = r.Scan(&v.Room, &v.Type, &content, &v.Position)
	v.Content = jsontext.Value(content)
	return
}

// Get reads global account data.
func (t AccountData) Get(u id.User, typ string) (jsontext.Value, bool, error) {
	return one(t.tx, scanJSON, getAccountData, string(u), typ)
}

// List lists global account data that changed after a position.
func (t AccountData) List(u id.User, after int64) ([]AccountDataRow, error) {
	return list(t.tx, scanAccountData, listAccountData, string(u), after)
}

// Set stores global account data.
func (t AccountData) Set(u id.User, typ string, content jsontext.Value) error {
	nid, err := t.tx.IDs.User(u)
	if err != nil {
		return err
	}
	if _, err := t.tx.exec(setAccountData, string(u), typ, t.tx.NextPosition(), string(content)); err != nil {
		return err
	}
	t.tx.Touch(stream.Account, 0, nid)
	return nil
}

// GetRoom reads account data of a room.
func (t AccountData) GetRoom(u id.User, room id.Room, typ string) (jsontext.Value, bool, error) {
	return one(t.tx, scanJSON, getRoomAccountData, string(u), string(room), typ)
}

// ListRoom lists account data of one room that changed after a position.
func (t AccountData) ListRoom(u id.User, room id.Room, after int64) ([]AccountDataRow, error) {
	return list(t.tx, scanAccountData, listOfRoomAccountData, string(u), string(room), after)
}

// ListRooms lists account data of all rooms that changed after a position.
func (t AccountData) ListRooms(u id.User, after int64) ([]AccountDataRow, error) {
	return list(t.tx, scanAccountData, listRoomsAccountData, string(u), after)
}

// SetRoom stores account data of a room, which this server need not know.
func (t AccountData) SetRoom(u id.User, room id.Room, typ string, content jsontext.Value) error {
	nid, err := t.tx.IDs.User(u)
	if err != nil {
		return err
	}
	roomNID, _, err := t.tx.Rooms.Find(room)
	if err != nil {
		return err
	}
	if _, err := t.tx.exec(setRoomAccountData, string(u), string(room), typ, t.tx.NextPosition(), string(content)); err != nil {
		return err
	}
	t.tx.Touch(stream.RoomAccount, roomNID, nid)
	return nil
}

// Delete forgets one type of global account data.
func (t AccountData) Delete(u id.User, typ string) error {
	_, err := t.tx.exec(deleteOneAccount, string(u), typ)
	return err
}

// DeleteAll forgets all account data and filters of a user.
func (t AccountData) DeleteAll(u id.User) error {
	for _, query := range []string{deleteAccountData, deleteRoomAccountData, deleteFilters} {
		if _, err := t.tx.exec(query, string(u)); err != nil {
			return err
		}
	}
	return nil
}

// GetFilter reads a filter by the id that InsertFilter gave.
func (t AccountData) GetFilter(u id.User, filter string) (jsontext.Value, bool, error) {
	n, err := strconv.ParseInt(filter, 10, 64)
	if err != nil {
		return nil, false, nil
	}
	return one(t.tx, scanJSON, getFilter, string(u), n)
}

// InsertFilter stores a filter and returns its id; the same filter has the same id.
func (t AccountData) InsertFilter(u id.User, filter jsontext.Value) (string, error) {
	digest := HashToken(string(filter))
	n, ok, err := one(t.tx, value[int64], findFilter, string(u), digest)
	if err == nil && !ok {
		n, _, err = one(t.tx, value[int64], insertFilter, string(u), string(filter), digest)
	}
	return strconv.FormatInt(n, 10), err
}
