package store

// State is the log of the rooms' states: which event a key had from which version on.
type State struct{ tx *Tx }

// StateEntry is one entry of a state.
type StateEntry struct {
	Key   StateKey
	Event EventNID
}

// StateChange is one row of the log: from Version on, the key had Event; 0: none.
type StateChange struct {
	Version int64
	Event   EventNID
}

const (
	insertState  = `INSERT INTO state_log (room_nid, skey, version, event_nid) VALUES ($1, $2, $3, $4)`
	amendState   = insertState + ` ON CONFLICT (room_nid, skey, version) DO UPDATE SET event_nid = excluded.event_nid`
	rewindState  = `DELETE FROM state_log WHERE room_nid = $1 AND version > $2`
	keysAfter    = `SELECT DISTINCT skey FROM state_log WHERE room_nid = $1 AND version > $2 ORDER BY skey`
	stateAt      = `SELECT event_nid FROM state_log WHERE room_nid = $1 AND skey = $2 AND version <= $3 ORDER BY version DESC LIMIT 1`
	stateHistory = `SELECT version, event_nid FROM state_log WHERE room_nid = $1 AND skey = $2 ORDER BY version`
	stateAllAt   = `SELECT skey, event_nid FROM state_log WHERE room_nid = $1 AND version <= $2 ORDER BY skey, version`
	nonMembersAt = `SELECT skey, event_nid FROM state_log WHERE room_nid = $1 AND version <= $2 AND skey % 2 = 0 ORDER BY skey, version`
	stateOfType  = `SELECT l.skey, l.event_nid FROM state_log l JOIN state_keys k ON l.skey = k.skey_nid * 2
		WHERE l.room_nid = $1 AND k.type_nid = $2 AND l.version <= $3 ORDER BY l.skey, l.version`
)

// Insert notes that from version on a key has an event; 0 removes the key.
func (t State) Insert(room RoomNID, key StateKey, version int64, e EventNID) error {
	_, err := t.tx.exec(insertState, room, key, version, e)
	return err
}

// Amend notes afterwards what a key had from a version on; later versions stay.
func (t State) Amend(room RoomNID, key StateKey, version int64, e EventNID) error {
	_, err := t.tx.exec(amendState, room, key, version, e)
	return err
}

// Rewind forgets all versions after one.
func (t State) Rewind(room RoomNID, version int64) error {
	_, err := t.tx.exec(rewindState, room, version)
	return err
}

// KeysAfter lists the keys that changed after a version.
func (t State) KeysAfter(room RoomNID, version int64) ([]StateKey, error) {
	return list(t.tx, value[int64], keysAfter, room, version)
}

// At finds a key's event in the state of a version.
func (t State) At(room RoomNID, key StateKey, version int64) (EventNID, bool, error) {
	nid, ok, err := one(t.tx, value[int64], stateAt, room, key, version)
	return nid, ok && nid != 0, err
}

// History lists what a key has had, oldest first.
func (t State) History(room RoomNID, key StateKey) ([]StateChange, error) {
	return list(t.tx, func(r scanner) (c StateChange, err error) {
		err = r.Scan(&c.Version, &c.Event)
		return
	}, stateHistory, room, key)
}

// All reads the whole state of a version, in order of keys.
func (t State) All(room RoomNID, version int64) ([]StateEntry, error) {
	return t.newest(stateAllAt, room, version)
}

// NonMembers reads the state of a version without memberships.
func (t State) NonMembers(room RoomNID, version int64) ([]StateEntry, error) {
	return t.newest(nonMembersAt, room, version)
}

// OfType reads the state of a version that has one event type; not for members.
func (t State) OfType(room RoomNID, typ TypeNID, version int64) ([]StateEntry, error) {
	return t.newest(stateOfType, room, typ, version)
}

// newest keeps the last row of each key.
func (t State) newest(query string, args ...any) ([]StateEntry, error) {
	var all []StateEntry
	err := each(t.tx, func(r scanner) error {
		var e StateEntry
		if err := r.Scan(&e.Key, &e.Event); err != nil {
			return err
		}
		if n := len(all); n > 0 && all[n-1].Key == e.Key {
			all[n-1] = e
		} else {
			all = append(all, e)
		}
		return nil
	}, query, args...)
	kept := all[:0]
	for _, e := range all {
		if e.Event != 0 {
			kept = append(kept, e)
		}
	}
	return kept, err
}
