package store

import (
	"errors"
	"fmt"

	"github.com/go-json-experiment/json"

	"hearth/matrix/id"
)

// Rooms is the table of rooms that this server knows.
type Rooms struct{ tx *Tx }

// Room is a room's row. Head names the last write set; a writer that built on
// another one is refused with ErrStaleHead.
type Room struct {
	NID          RoomNID
	ID           id.Room
	Public       bool
	Creator      id.User
	Version      string
	Head         int64
	StateVersion int64
	Extremities  []EventNID
	LastPosition int64
	Joined       int64 // members
	Invited      int64
	Partial      Partial
	WholeSince   int64 // position at which a partial state became whole; 0: it always was
}

// Partial says of a room that was joined without its members which part of its
// state log lacks them. The zero value: the state is whole.
type Partial struct {
	Version int64     // of the state that the join met, without most members
	Join    EventNID  // the join
	Via     id.Server // who let us in
}

// ErrStaleHead says that the room has moved on since the write set was built.
var ErrStaleHead = errors.New("the room has a newer head")

const (
	roomColumns = `room_nid, room_id, is_public, creator, room_version, head, state_version, extremities, last_position, joined_members, invited_members,
		partial_version, partial_join, partial_via, whole_position`
	findRoomNID = `SELECT room_nid FROM rooms WHERE room_id = $1`
	findRoomID  = `SELECT room_id FROM rooms WHERE room_nid = $1`
	getRoom     = `SELECT ` + roomColumns + ` FROM rooms WHERE room_id = $1`
	getRoomNID  = `SELECT ` + roomColumns + ` FROM rooms WHERE room_nid = $1`
	insertRoom  = `INSERT INTO rooms (room_nid, room_id, creator, room_version)
		VALUES ((SELECT COALESCE(MAX(room_nid), 0) + 1 FROM rooms), $1, $2, $3) RETURNING room_nid`
	advanceRoom = `UPDATE rooms SET head = head + 1, state_version = $3, extremities = $4,
		last_position = CASE WHEN last_position > $5 THEN last_position ELSE $5 END,
		joined_members = $6, invited_members = $7 WHERE room_nid = $1 AND head = $2`
	deleteInside    = `DELETE FROM events WHERE room_nid = $1 AND flags / 8 % 2 = 0` // 8 is Outside
	deleteAuthGraph = `DELETE FROM auth_graph WHERE room_nid = $1`
	setVersion      = `UPDATE rooms SET room_version = $2 WHERE room_nid = $1 AND state_version = 0`
	// Rooms that are listed: by this server, or in networks of application services as well.
	inPublic   = ` FROM rooms WHERE joined_members > 0 AND is_public = 1`
	inNetworks = ` FROM rooms WHERE joined_members > 0 AND ($1 = 1 AND is_public = 1 OR room_nid IN (
		SELECT l.room_nid FROM appservice_room_list l WHERE ($3 = '' OR l.network_id = $3) AND l.appservice_id IN (
		SELECT value FROM json_each($2) -- only: sqlite
		SELECT value FROM json_array_elements_text($2::json) -- only: postgres
		)))`
	publicDown   = ` AND (joined_members < $1 OR joined_members = $1 AND room_nid > $2) ORDER BY joined_members DESC, room_nid LIMIT $3`
	publicUp     = ` AND (joined_members > $1 OR joined_members = $1 AND room_nid < $2) ORDER BY joined_members, room_nid DESC LIMIT $3`
	networksDown = ` AND (joined_members < $4 OR joined_members = $4 AND room_nid > $5) ORDER BY joined_members DESC, room_nid LIMIT $6`
	networksUp   = ` AND (joined_members > $4 OR joined_members = $4 AND room_nid < $5) ORDER BY joined_members, room_nid DESC LIMIT $6`
	setPartial   = `UPDATE rooms SET partial_version = $2, partial_join = $3, partial_via = $4 WHERE room_nid = $1`
	setWhole     = `UPDATE rooms SET partial_version = 0, partial_join = 0, partial_via = '', whole_position = $2,
		last_position = (SELECT COALESCE(MAX(e.position), 0) FROM events e WHERE e.room_nid = $1) WHERE room_nid = $1`
	partialRooms = `SELECT ` + roomColumns + ` FROM rooms WHERE partial_version > 0 ORDER BY room_nid`
	wholeAfter   = `SELECT room_nid FROM rooms WHERE whole_position > $1 AND whole_position > 0`
	setPublic    = `UPDATE rooms SET is_public = $2 WHERE room_nid = $1`
	listRooms    = `SELECT ` + roomColumns + ` FROM rooms WHERE room_nid > $1 ORDER BY room_nid LIMIT $2`
)

func scanRoom(r scanner) (Room, error) {
	var v Room
	var public int64
	var extremities string
	err := r.Scan(&v.NID, &v.ID, &public, &v.Creator, &v.Version, &v.Head, &v.StateVersion, &extremities, &v.LastPosition, &v.Joined, &v.Invited,
		&v.Partial.Version, &v.Partial.Join, &v.Partial.Via, &v.WholeSince)
	if err != nil {
		return v, err
	}
	v.Public = public != 0
	if err := json.Unmarshal([]byte(extremities), &v.Extremities); err != nil {
		return v, fmt.Errorf("extremities of %s: %w", v.ID, err)
	}
	return v, nil
}

// Find finds a room's nid.
func (t Rooms) Find(room id.Room) (RoomNID, bool, error) {
	return find(t.tx, t.tx.store.names.roomNID, room, findRoomNID, string(room))
}

// ID is the room that a nid stands for.
func (t Rooms) ID(nid RoomNID) (id.Room, error) {
	return must(find(t.tx, t.tx.store.names.roomID, nid, findRoomID, nid))
}

// Get reads a room's row.
func (t Rooms) Get(room id.Room) (Room, bool, error) {
	return one(t.tx, scanRoom, getRoom, string(room))
}

// GetNID reads a room's row by its number.
func (t Rooms) GetNID(nid RoomNID) (Room, bool, error) {
	return one(t.tx, scanRoom, getRoomNID, nid)
}

// List pages through all rooms in order of nid, after the given one.
func (t Rooms) List(after RoomNID, limit int) ([]Room, error) {
	return list(t.tx, scanRoom, listRooms, after, limit)
}

// Insert makes a room without any event.
func (t Rooms) Insert(room id.Room, creator id.User, version string) (RoomNID, error) {
	nid, _, err := one(t.tx, value[int64], insertRoom, string(room), string(creator), version)
	return nid, err
}

// Restart gives a room another version that nobody here was ever in, and forgets what
// was told of it in the name of the wrong one. Invites and the like have versions of
// their own.
func (t Rooms) Restart(nid RoomNID, version string) error {
	n, err := t.tx.exec(setVersion, nid, version)
	if err == nil && n == 0 {
		err = errors.New("a room with a state keeps its version")
	}
	for _, q := range []string{deleteInside, deleteAuthGraph} {
		if err != nil {
			return err
		}
		_, err = t.tx.exec(q, nid)
	}
	return err
}

// Advance moves a room's head on from r.Head to what r says otherwise, or
// returns ErrStaleHead when the room is elsewhere. LastPosition never goes back.
func (t Rooms) Advance(r Room) error {
	extremities, err := json.Marshal(r.Extremities)
	if err != nil {
		return err
	}
	n, err := t.tx.exec(advanceRoom, r.NID, r.Head, r.StateVersion, string(extremities), r.LastPosition, r.Joined, r.Invited)
	if err == nil && n == 0 {
		err = ErrStaleHead
	}
	return err
}

// SetPublic lists the room in the directory, or takes it off.
func (t Rooms) SetPublic(nid RoomNID, public bool) error {
	_, err := t.tx.exec(setPublic, nid, toInt(public))
	return err
}

// SetPartial notes that a room's state lacks members from a version on.
func (t Rooms) SetPartial(nid RoomNID, p Partial) error {
	_, err := t.tx.exec(setPartial, nid, p.Version, p.Join, string(p.Via))
	return err
}

// SetWhole notes that a room's state is whole from a position on. Events may have been
// taken out of its timeline by that.
func (t Rooms) SetWhole(nid RoomNID, position int64) error {
	_, err := t.tx.exec(setWhole, nid, position)
	return err
}

// Partial lists the rooms whose state lacks members.
func (t Rooms) Partial() ([]Room, error) { return list(t.tx, scanRoom, partialRooms) }

// WholeAfter lists the rooms whose state became whole after a position.
func (t Rooms) WholeAfter(position int64) ([]RoomNID, error) {
	return list(t.tx, value[int64], wholeAfter, position)
}

// RoomLists says which lists of rooms are looked at: this server's, and those of
// application services, of one network or of all that they have.
type RoomLists struct {
	Public   bool
	Services []string
	Network  string // empty: all
}

// from is the query for rooms in the lists, and its parameters.
func (l RoomLists) from(tx *Tx) (query string, args []any, err error) {
	if l.Public && len(l.Services) == 0 {
		return inPublic, nil, nil
	}
	services, err := textList(tx, l.Services)
	return inNetworks, []any{toInt(l.Public), services, l.Network}, err
}

// CountListed counts the rooms that are in lists and have members.
func (t Rooms) CountListed(l RoomLists) (int64, error) {
	query, args, err := l.from(t.tx)
	if err != nil {
		return 0, err
	}
	n, _, err := one(t.tx, value[int64], `SELECT COUNT(*)`+query, args...)
	return n, err
}

// Listed pages through them in order of members, most first, after a number of
// members and a room; up: before these, nearest first.
func (t Rooms) Listed(l RoomLists, joined int64, room RoomNID, up bool, limit int) ([]Room, error) {
	query, args, err := l.from(t.tx)
	if err != nil {
		return nil, err
	}
	down, back := publicDown, publicUp
	if len(args) > 0 {
		down, back = networksDown, networksUp
	}
	if up {
		down = back
	}
	return list(t.tx, scanRoom, `SELECT `+roomColumns+query+down, append(args, joined, room, limit)...)
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
