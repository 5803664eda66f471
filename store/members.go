package store

import "hearth/matrix/id"

// Members is the current membership of all rooms.
type Members struct{ tx *Tx }

// Membership of a user in a room. The zero value: never had any.
type Membership int16

const (
	Join Membership = iota + 1
	Invite
	Knock
	Leave
	Ban
)

var membershipNames = [...]string{"", "join", "invite", "knock", "leave", "ban"}

func (m Membership) String() string { return membershipNames[m] }

// ParseMembership reads the membership of an m.room.member event; 0: none of the known ones.
func ParseMembership(s string) Membership {
	for i, name := range membershipNames {
		if name == s {
			return Membership(i)
		}
	}
	return 0
}

// Member is one user's membership in one room.
type Member struct {
	Room       RoomNID
	User       UserNID
	Membership Membership
	Event      EventNID
	Position   int64 // when this membership came about; profile changes of a member do not move it
	Local      bool
	Forgotten  bool
}

const (
	memberColumns = `room_nid, user_nid, membership, event_nid, position, is_local, forgotten`
	getMember     = `SELECT ` + memberColumns + ` FROM room_members WHERE room_nid = $1 AND user_nid = $2`
	setMember     = `INSERT INTO room_members (room_nid, user_nid, membership, event_nid, position, is_local) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (room_nid, user_nid) DO UPDATE SET membership = excluded.membership, event_nid = excluded.event_nid, forgotten = 0,
		position = CASE WHEN room_members.membership = excluded.membership AND excluded.membership = 1 THEN room_members.position ELSE excluded.position END`
	forgetMember    = `UPDATE room_members SET forgotten = 1 WHERE room_nid = $1 AND user_nid = $2`
	membersOfUser   = `SELECT ` + memberColumns + ` FROM room_members WHERE user_nid = $1 AND is_local = 1 ORDER BY room_nid`
	roomsOfUser     = `SELECT room_nid FROM room_members WHERE user_nid = $1 AND membership = $2 AND is_local = 1 ORDER BY room_nid`
	membersOfRoom   = `SELECT ` + memberColumns + ` FROM room_members WHERE room_nid = $1 ORDER BY user_nid`
	movedAfter      = `SELECT ` + memberColumns + ` FROM room_members WHERE room_nid = $1 AND position > $2 ORDER BY user_nid`
	membersOfServer = `SELECT m.room_nid, m.user_nid, m.membership, m.event_nid, m.position, m.is_local, m.forgotten
		FROM room_members m JOIN user_ids u ON u.user_nid = m.user_nid WHERE m.room_nid = $1 AND u.server_nid = $2 ORDER BY m.user_nid`
	serverInvited = `SELECT 1 FROM room_members m JOIN user_ids u ON u.user_nid = m.user_nid
		WHERE m.room_nid = $1 AND m.membership = 2 AND u.server_nid = $2 LIMIT 1`
	localJoined = `SELECT user_nid FROM room_members WHERE room_nid = $1 AND membership = 1 AND is_local = 1 ORDER BY user_nid`
	localOfRoom = `SELECT ` + memberColumns + ` FROM room_members
		INDEXED BY room_members_local -- only: sqlite
		WHERE room_nid = $1 AND is_local = 1 ORDER BY user_nid`
	sharingLocal = `SELECT DISTINCT o.user_nid FROM room_members o WHERE o.membership = 1 AND o.is_local = 1 AND o.room_nid IN
		(SELECT m.room_nid FROM room_members m WHERE m.user_nid = $1 AND m.membership = 1 AND m.is_local = 1) ORDER BY o.user_nid`
	sharedRooms = `SELECT a.room_nid FROM room_members a JOIN room_members b ON a.room_nid = b.room_nid
		WHERE a.user_nid = $1 AND a.membership = 1 AND a.is_local = 1 AND b.user_nid = $2 AND b.membership = 1 ORDER BY a.room_nid`
	sharesRoom = `SELECT 1 FROM room_members a JOIN room_members b ON a.room_nid = b.room_nid
		WHERE a.user_nid = $1 AND a.membership = 1 AND a.is_local = 1 AND b.user_nid = $2 AND b.membership = 1 LIMIT 1`
	roomsChanged = `SELECT m.room_nid, m.user_nid, m.membership, m.event_nid, m.position, m.is_local, m.forgotten
		FROM room_members m JOIN rooms r ON r.room_nid = m.room_nid
		WHERE m.user_nid = $1 AND m.is_local = 1 AND (m.position > $2 OR m.membership = 1 AND (r.last_position > $2 OR r.whole_position > $2)) ORDER BY m.room_nid`
	heroes       = `SELECT user_nid FROM room_members WHERE room_nid = $1 AND user_nid <> $2 AND membership IN (1, 2) ORDER BY position, user_nid LIMIT $3`
	formerHeroes = `SELECT user_nid FROM room_members WHERE room_nid = $1 AND user_nid <> $2 AND membership IN (4, 5) ORDER BY position, user_nid LIMIT $3`
	setStripped  = `INSERT INTO stripped_states (room_nid, user_nid, events) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, user_nid) DO UPDATE SET events = excluded.events`
	getStripped = `SELECT events FROM stripped_states WHERE room_nid = $1 AND user_nid = $2`
)

func scanMember(r scanner) (Member, error) {
	var m Member
	var local, forgotten int64
	err := r.Scan(&m.Room, &m.User, &m.Membership, &m.Event, &m.Position, &local, &forgotten)
	m.Local, m.Forgotten = local != 0, forgotten != 0
	return m, err
}

// Get reads a user's membership in a room; false: there never was any.
func (t Members) Get(room RoomNID, user UserNID) (Member, bool, error) {
	return one(t.tx, scanMember, getMember, room, user)
}

// Joined says whether a user is joined to a room.
func (t Members) Joined(room RoomNID, user UserNID) (bool, error) {
	m, ok, err := t.Get(room, user)
	return ok && m.Membership == Join, err
}

// MayBeJoined says whether a user is joined to a room, or may be: a user of whom nothing
// is known yet, in a room with a partial state, of a server that is in the room.
func (t Members) MayBeJoined(room Room, user id.User) (bool, error) {
	nid, seen, err := t.tx.IDs.FindUser(user)
	if err != nil {
		return false, err
	}
	if seen {
		if m, known, err := t.Get(room.NID, nid); err != nil || known {
			return m.Membership == Join, err
		}
	}
	if room.Partial.Version == 0 || user.Server() == t.tx.store.server {
		return false, nil
	}
	server, seen, err := t.tx.IDs.FindServer(user.Server())
	if err != nil || !seen {
		return false, err
	}
	return t.tx.RoomServers.In(room.NID, server)
}

// MovedAfter lists the memberships of a room that came about after a position.
func (t Members) MovedAfter(room RoomNID, position int64) ([]Member, error) {
	return list(t.tx, scanMember, movedAfter, room, position)
}

// Set notes a membership.
func (t Members) Set(m Member) error {
	_, err := t.tx.exec(setMember, m.Room, m.User, int64(m.Membership), m.Event, m.Position, toInt(m.Local))
	return err
}

// Forget notes that a user who left does not want to see the room any more.
func (t Members) Forget(room RoomNID, user UserNID) error {
	_, err := t.tx.exec(forgetMember, room, user)
	return err
}

// OfUser lists all memberships of a local user.
func (t Members) OfUser(user UserNID) ([]Member, error) {
	return list(t.tx, scanMember, membersOfUser, user)
}

// RoomsOf lists the rooms in which a local user has one membership.
func (t Members) RoomsOf(user UserNID, m Membership) ([]RoomNID, error) {
	return list(t.tx, value[int64], roomsOfUser, user, int64(m))
}

// OfRoom lists all memberships of a room.
func (t Members) OfRoom(room RoomNID) ([]Member, error) {
	return list(t.tx, scanMember, membersOfRoom, room)
}

// OfServer lists all memberships that users of a server have or had in a room.
func (t Members) OfServer(room RoomNID, server ServerNID) ([]Member, error) {
	return list(t.tx, scanMember, membersOfServer, room, server)
}

// ServerInvited says whether a user of a server is invited to a room.
func (t Members) ServerInvited(room RoomNID, server ServerNID) (bool, error) {
	_, ok, err := one(t.tx, value[int64], serverInvited, room, server)
	return ok, err
}

// LocalJoined lists a room's joined local users, in order.
func (t Members) LocalJoined(room RoomNID) ([]UserNID, error) {
	return list(t.tx, value[int64], localJoined, room)
}

// LocalOfRoom lists all memberships of a room's local users, past ones too.
func (t Members) LocalOfRoom(room RoomNID) ([]Member, error) {
	return list(t.tx, scanMember, localOfRoom, room)
}

// SharingLocal lists the local users who are joined to a room that a local
// user is joined to, this one among them if any.
func (t Members) SharingLocal(user UserNID) ([]UserNID, error) {
	return list(t.tx, value[int64], sharingLocal, user)
}

// SharedRooms lists the rooms to which both are joined; a must be local.
func (t Members) SharedRooms(a, b UserNID) ([]RoomNID, error) {
	return list(t.tx, value[int64], sharedRooms, a, b)
}

// ShareRoom says whether both are joined to some room; a must be local.
func (t Members) ShareRoom(a, b UserNID) (bool, error) {
	_, ok, err := one(t.tx, value[int64], sharesRoom, a, b)
	return ok, err
}

// Changed lists a local user's memberships that came about after a position, and
// those of rooms joined where anything happened after it.
func (t Members) Changed(user UserNID, after int64) ([]Member, error) {
	return list(t.tx, scanMember, roomsChanged, user, after)
}

// Heroes lists the first members joined or invited to a room, without one user;
// where there are none, those who left or were banned.
func (t Members) Heroes(room RoomNID, without UserNID, limit int) ([]UserNID, error) {
	users, err := list(t.tx, value[int64], heroes, room, without, limit)
	if err != nil || len(users) > 0 {
		return users, err
	}
	return list(t.tx, value[int64], formerHeroes, room, without, limit)
}

// SetStripped stores the stripped state (a JSON array) that an invited or knocking user may see.
func (t Members) SetStripped(room RoomNID, user UserNID, events []byte) error {
	_, err := t.tx.exec(setStripped, room, user, events)
	return err
}

// Stripped reads it.
func (t Members) Stripped(room RoomNID, user UserNID) ([]byte, bool, error) {
	return one(t.tx, value[[]byte], getStripped, room, user)
}
