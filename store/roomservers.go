package store

// RoomServers is which servers have joined members in which rooms. While a room's state
// is partial, those count too of which another server said so.
type RoomServers struct{ tx *Tx }

const (
	addRoomServer = `INSERT INTO room_servers (room_nid, server_nid, joined) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, server_nid) DO UPDATE SET joined = room_servers.joined + excluded.joined`
	dropRoomServer = `DELETE FROM room_servers WHERE room_nid = $1 AND server_nid = $2 AND joined <= 0 AND told = 0`
	tellRoomServer = `INSERT INTO room_servers (room_nid, server_nid, joined, told) VALUES ($1, $2, 0, 1)
		ON CONFLICT (room_nid, server_nid) DO UPDATE SET told = 1`
	untellRoomServers = `UPDATE room_servers SET told = 0 WHERE room_nid = $1`
	dropUntold        = `DELETE FROM room_servers WHERE room_nid = $1 AND joined <= 0 AND told = 0`
	clearRoomServers  = `DELETE FROM room_servers WHERE room_nid = $1`
	serversOfRoom     = `SELECT server_nid FROM room_servers WHERE room_nid = $1 ORDER BY server_nid`
	countsOfRoom      = `SELECT server_nid, joined, told FROM room_servers WHERE room_nid = $1 ORDER BY server_nid`
	serverInRoom      = `SELECT 1 FROM room_servers WHERE room_nid = $1 AND server_nid = $2`
	roomsOfServer     = `SELECT room_nid FROM room_servers WHERE server_nid = $1 ORDER BY room_nid`
	serversOfSharers  = `SELECT DISTINCT s.server_nid FROM room_servers s WHERE s.room_nid IN
		(SELECT m.room_nid FROM room_members m WHERE m.user_nid = $1 AND m.membership = 1) ORDER BY s.server_nid`
	serverSharesRoom = `SELECT 1 FROM room_members m JOIN room_servers s ON s.room_nid = m.room_nid AND s.server_nid = $2
		WHERE m.user_nid = $1 AND m.membership = 1 AND m.is_local = 1 LIMIT 1`
)

// Add counts members of a server that joined, or left below zero.
func (t RoomServers) Add(room RoomNID, server ServerNID, joined int64) error {
	if _, err := t.tx.exec(addRoomServer, room, server, joined); err != nil || joined > 0 {
		return err
	}
	_, err := t.tx.exec(dropRoomServer, room, server)
	return err
}

// Tell notes that another server said that a server is in the room.
func (t RoomServers) Tell(room RoomNID, server ServerNID) error {
	_, err := t.tx.exec(tellRoomServer, room, server)
	return err
}

// Untell forgets what another server said: only servers of known members are left.
func (t RoomServers) Untell(room RoomNID) error {
	if _, err := t.tx.exec(untellRoomServers, room); err != nil {
		return err
	}
	_, err := t.tx.exec(dropUntold, room)
	return err
}

// Clear forgets the servers in a room, which are then counted anew.
func (t RoomServers) Clear(room RoomNID) error {
	_, err := t.tx.exec(clearRoomServers, room)
	return err
}

// ServerCount is how many members of a server are joined to a room.
type ServerCount struct {
	Server ServerNID
	Joined int64
	Told   bool // whatever the count: its members are not all known
}

// Counts lists the servers in a room with their members, in order of nid.
func (t RoomServers) Counts(room RoomNID) ([]ServerCount, error) {
	return list(t.tx, func(r scanner) (c ServerCount, err error) {
		err = r.Scan(&c.Server, &c.Joined, &c.Told)
		return
	}, countsOfRoom, room)
}

// OfRoom lists the servers in a room, this one among them, in order of nid.
func (t RoomServers) OfRoom(room RoomNID) ([]ServerNID, error) {
	return list(t.tx, value[int64], serversOfRoom, room)
}

// In says whether a server has a member in a room.
func (t RoomServers) In(room RoomNID, server ServerNID) (bool, error) {
	_, ok, err := one(t.tx, value[int64], serverInRoom, room, server)
	return ok, err
}

// RoomsOf lists the rooms that a server has members in.
func (t RoomServers) RoomsOf(server ServerNID) ([]RoomNID, error) {
	return list(t.tx, value[int64], roomsOfServer, server)
}

// Seeing lists the servers that share a room with a user, this one among them.
func (t RoomServers) Seeing(user UserNID) ([]ServerNID, error) {
	return list(t.tx, value[int64], serversOfSharers, user)
}

// Sees says whether a server shares a room with a local user.
func (t RoomServers) Sees(server ServerNID, user UserNID) (bool, error) {
	_, ok, err := one(t.tx, value[int64], serverSharesRoom, user, server)
	return ok, err
}
