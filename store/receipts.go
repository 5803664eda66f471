package store

import "hearth/matrix/id"

// Receipts is how far users have read.
type Receipts struct{ tx *Tx }

// Receipt is the newest receipt of a user, kind and thread in a room.
type Receipt struct {
	Room          RoomNID
	User          UserNID
	Private       bool   // m.read.private, else m.read
	Thread        string // an event id or main; empty: unthreaded
	Event         id.Event
	EventPosition int64 // in the timeline
	TS            int64
	Position      int64
}

const (
	receiptColumns = `room_nid, user_nid, is_private, thread_id, event_key, event_position, ts, position`
	getReceipt     = `SELECT ` + receiptColumns + ` FROM receipts WHERE room_nid = $1 AND user_nid = $2 AND is_private = $3 AND thread_id = $4`
	setReceipt     = `INSERT INTO receipts (` + receiptColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room_nid, user_nid, is_private, thread_id) DO UPDATE SET event_key = excluded.event_key,
		event_position = excluded.event_position, ts = excluded.ts, position = excluded.position`
	receiptsInRoom = `SELECT ` + receiptColumns + ` FROM receipts WHERE room_nid = $1 AND position > $3 AND position <= $4
		AND (is_private = 0 OR user_nid = $2) ORDER BY position`
	receiptRooms = `SELECT DISTINCT m.room_nid FROM room_members m JOIN receipts c ON c.room_nid = m.room_nid
		WHERE m.user_nid = $1 AND m.is_local = 1 AND m.membership = 1 AND c.position > $2`
	receiptsOfUser = `SELECT ` + receiptColumns + ` FROM receipts WHERE room_nid = $1 AND user_nid = $2 ORDER BY event_position`
)

func scanReceipt(r scanner) (v Receipt, err error) {
	var private int64
	var key []byte
	err = r.Scan(&v.Room, &v.User, &private, &v.Thread, &key, &v.EventPosition, &v.TS, &v.Position)
	v.Private, v.Event = private != 0, eventOfKey(key)
	return
}

// Get reads the receipt of a user, kind and thread.
func (t Receipts) Get(room RoomNID, user UserNID, private bool, thread string) (Receipt, bool, error) {
	return one(t.tx, scanReceipt, getReceipt, room, user, toInt(private), thread)
}

// Set stores a receipt in place of the former one.
func (t Receipts) Set(r Receipt) error {
	_, err := t.tx.exec(setReceipt, r.Room, r.User, toInt(r.Private), r.Thread, EventKey(r.Event), r.EventPosition, r.TS, r.Position)
	return err
}

// InRoom lists the receipts of a room that viewer may see and that changed
// after a position and not after another, in order of change.
func (t Receipts) InRoom(room RoomNID, viewer UserNID, after, upTo int64) ([]Receipt, error) {
	return list(t.tx, scanReceipt, receiptsInRoom, room, viewer, after, upTo)
}

// Rooms lists the rooms of a joined local user where any receipt changed after a position.
func (t Receipts) Rooms(user UserNID, after int64) ([]RoomNID, error) {
	return list(t.tx, value[int64], receiptRooms, user, after)
}

// OfUser lists all receipts of a user in a room, private ones too, the one furthest back first.
func (t Receipts) OfUser(room RoomNID, user UserNID) ([]Receipt, error) {
	return list(t.tx, scanReceipt, receiptsOfUser, room, user)
}
