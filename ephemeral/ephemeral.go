// Package ephemeral owns what rooms show beside their history: receipts and
// read markers (kept), who is typing and who is online (in memory).
//
// It must not write room history nor decide who is a member. Start at
// Receipts, Typing and Presence; each says what a sync reads of it.
// spec: client-server-api#receipts
// spec: client-server-api#typing-notifications
// spec: client-server-api#presence
package ephemeral

import (
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// place is a joined user in a room.
type place struct {
	room    store.RoomNID
	user    store.UserNID
	partial bool // what is known of the room is not whole yet
}

// findPlace refuses users who are not joined to the room, and unknown rooms in the same words.
func findPlace(tx *store.Tx, room id.Room, user id.User) (p place, err error) {
	row, known, err := tx.Rooms.Get(room)
	if err != nil {
		return p, err
	}
	joined := false
	if p.room, p.partial = row.NID, row.Partial.Version != 0; known {
		joined, err = tx.Members.MayBeJoined(row, user)
	}
	if err == nil && !joined {
		err = errcode.Forbidden("you are not in the room")
	}
	if err != nil {
		return p, err
	}
	p.user, _, err = tx.IDs.FindUser(user)
	return p, err
}
