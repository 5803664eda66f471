package store

import "hearth/matrix/id"

// Aliases are the local names of rooms.
type Aliases struct{ tx *Tx }

// Alias is one of them.
type Alias struct {
	Alias   id.Alias
	Room    id.Room
	Creator id.User
}

const (
	insertAlias   = `INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	getAlias      = `SELECT room_alias, room_id, creator FROM room_aliases WHERE room_alias = $1`
	aliasesOfRoom = `SELECT room_alias FROM room_aliases WHERE room_id = $1 ORDER BY room_alias`
	deleteAlias   = `DELETE FROM room_aliases WHERE room_alias = $1`
	moveAliases   = `UPDATE room_aliases SET room_id = $2 WHERE room_id = $1`
)

// Insert makes an alias; false: it is taken.
func (t Aliases) Insert(a Alias) (bool, error) {
	n, err := t.tx.exec(insertAlias, string(a.Alias), string(a.Room), string(a.Creator))
	return n == 1, err
}

// Get finds an alias.
func (t Aliases) Get(a id.Alias) (Alias, bool, error) {
	return one(t.tx, func(r scanner) (v Alias, err error) {
		err = r.Scan(&v.Alias, &v.Room, &v.Creator)
		return
	}, getAlias, string(a))
}

// OfRoom lists a room's aliases.
func (t Aliases) OfRoom(room id.Room) ([]id.Alias, error) {
	return list(t.tx, value[id.Alias], aliasesOfRoom, string(room))
}

// Delete takes an alias away.
func (t Aliases) Delete(a id.Alias) error {
	_, err := t.tx.exec(deleteAlias, string(a))
	return err
}

// Move makes all aliases of a room those of another.
func (t Aliases) Move(from, to id.Room) error {
	_, err := t.tx.exec(moveAliases, string(from), string(to))
	return err
}
