package store

import (
	"encoding/base64"
	"strings"

	"github.com/go-json-experiment/json"

	"hearth/matrix/id"
)

// Events is the table of all PDUs. Each body is stored once.
type Events struct{ tx *Tx }

// Event is a PDU's row. Only redaction ever changes one.
type Event struct {
	NID      EventNID
	Room     RoomNID
	Position int64 // in the timeline; 0: not in it
	ID       id.Event
	Sender   UserNID
	Type     TypeNID
	Key      StateKey // of a state event
	IsState  bool
	Depth    int64
	TS       int64 // origin_server_ts
	// StateBefore is the version of the room's state that the event met; below zero:
	// the negated nid of an overlay, for an event of a branch. Of a Stateless event it
	// is what an event after it met.
	StateBefore int64
	// CurrentState is the version of the room's current state from the event on; 0: it
	// follows from StateBefore, as nothing else happened meanwhile.
	CurrentState int64
	Flags        EventFlags
	RedactedBy   EventNID // 0: not redacted
	Txn          string   // device id, a space, transaction id; empty for what no client here sent with one
	JSON         []byte   // the PDU in canonical form
}

// EventFlags say why an event is not in the timeline, or what is not known of it.
type EventFlags int16

const (
	Outlier EventFlags = 1 << iota
	Rejected
	SoftFailed
	// Outside is an outlier that has no place in the auth graph, as its auth events are
	// not known: a membership of somebody here in a room that nobody here was in.
	Outside
	// Preliminary goes with Rejected: by a state that lacked members, which may be the reason. What
	// rests on the event is not rejected with it.
	Preliminary
	// Stateless is an event whose place in the history is known, but not the state that
	// it met: it was fetched as one of those before what was known.
	Stateless
	// Guessed is an event that was judged by a state of which nobody could tell whether it met that.
	Guessed
)

// Accepted says that an event is part of the timeline.
func (f EventFlags) Accepted() bool { return f&^(Stateless|Guessed) == 0 }

// Untold says that it is for others to tell the state that the event met.
func (f EventFlags) Untold() bool { return f&(Stateless|Guessed) != 0 }

// Refused says that an event is rejected for good, and with it what rests on it.
func (f EventFlags) Refused() bool { return f&(Rejected|Preliminary) == Rejected }

const (
	eventColumns = `event_nid, room_nid, COALESCE(position, 0), event_key, sender_nid, type_nid, COALESCE(skey, -1), depth, origin_server_ts,
		state_before, flags, COALESCE(redacted_by, 0), COALESCE(txn, ''), body, COALESCE(current_state, 0)`
	reserveNIDs  = `UPDATE event_nids SET next = next + $1 RETURNING next`
	findEventNID = `SELECT event_nid FROM events WHERE event_key = $1`
	getEvent     = `SELECT ` + eventColumns + ` FROM events WHERE event_nid = $1`
	getEventID   = `SELECT ` + eventColumns + ` FROM events WHERE event_key = $1`
	insertEvent  = `INSERT INTO events (event_nid, room_nid, position, event_key, sender_nid, type_nid, skey, depth, origin_server_ts, state_before, flags, txn, body, current_state)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)`
	// An event that was known beside the timeline takes its place in it.
	placeEvent           = `UPDATE events SET position = $2, state_before = $3, flags = $4, current_state = $5 WHERE event_nid = $1`
	redactEvent          = `UPDATE events SET body = $2, redacted_by = $3 WHERE event_nid = $1`
	insertOutsideVersion = `INSERT INTO outside_versions (event_nid, room_version) VALUES ($1, $2)`
	getOutsideVersion    = `SELECT room_version FROM outside_versions WHERE event_nid = $1`

	knowEvent  = `SELECT event_nid, room_nid, COALESCE(skey, -1), flags FROM events WHERE event_key = $1`
	loadEvents = `SELECT ` + eventColumns + ` FROM events WHERE event_nid IN (
		SELECT value FROM json_each($1) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($1::json) -- only: postgres
		)`
	eventIDs = `SELECT event_nid, event_key FROM events WHERE event_nid IN (
		SELECT value FROM json_each($1) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($1::json) -- only: postgres
		)`
	timelineDown = `SELECT event_nid, position FROM events WHERE room_nid = $1 AND position > $2 AND position <= $3 AND position IS NOT NULL ORDER BY position DESC LIMIT $4`
	timelineUp   = `SELECT event_nid, position FROM events WHERE room_nid = $1 AND position > $2 AND position <= $3 AND position IS NOT NULL ORDER BY position LIMIT $4`
	stateBetween = `SELECT event_nid, position FROM events WHERE room_nid = $1 AND position > $2 AND position <= $3 AND position IS NOT NULL AND skey IS NOT NULL ORDER BY position`
	eventsAfter  = `SELECT event_nid, position FROM events WHERE position > $1 AND position <= $2 AND position IS NOT NULL ORDER BY position LIMIT $3`
	typesAfter   = `SELECT ` + eventColumns + ` FROM events WHERE position > $1 AND position <= $2 AND position IS NOT NULL AND type_nid IN (
		SELECT value FROM json_each($3) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($3::json) -- only: postgres
		) ORDER BY position LIMIT $4`
	nearestAfter = `SELECT event_nid, position FROM events WHERE room_nid = $1 AND origin_server_ts >= $2 AND (origin_server_ts > $2 OR position > $3)
		AND position IS NOT NULL ORDER BY origin_server_ts, position LIMIT 1`
	nearestBefore = `SELECT event_nid, position FROM events WHERE room_nid = $1 AND origin_server_ts <= $2 AND (origin_server_ts < $2 OR position < $3)
		AND position IS NOT NULL ORDER BY origin_server_ts DESC, position DESC LIMIT 1`
	changedKeys = `SELECT skey, MIN(position) FROM (
		SELECT skey, position FROM events WHERE room_nid = $1 AND position > $2 AND position <= $3 AND position IS NOT NULL AND skey IS NOT NULL
		UNION ALL SELECT skey, position FROM state_shifts WHERE room_nid = $1 AND position > $2 AND position <= $3
		) changes GROUP BY skey ORDER BY MIN(position)`
	renumberEvent  = `UPDATE events SET event_nid = $2 WHERE event_nid = $1`
	renumberMember = `UPDATE room_members SET event_nid = $2 WHERE room_nid = $3 AND event_nid = $1`
	sinceJoin      = `SELECT event_nid FROM events WHERE room_nid = $1 AND flags % 2 = 0 AND event_nid <> $3
		AND (position > $2 OR position IS NULL AND current_state IS NULL AND (state_before >= $4
		OR state_before < 0 AND (SELECT o.version FROM state_overlays o WHERE o.overlay_nid = -state_before) >= $4)) ORDER BY event_nid`
	unshift       = `DELETE FROM state_shifts WHERE room_nid = $1 AND position > $2`
	insertShift   = `INSERT INTO state_shifts (room_nid, position, skey) VALUES ($1, $2, $3)`
	insertWaiting = `INSERT INTO waiting_redactions (room_nid, target, event_nid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	waitingFor    = `SELECT event_nid FROM waiting_redactions WHERE room_nid = $1 AND target = $2 ORDER BY event_nid`
	deleteWaiting = `DELETE FROM waiting_redactions WHERE room_nid = $1 AND target = $2`
)

// EventKey is an event id as the database keeps it: the 32 bytes of a hash, or
// the text of ids that are none (room versions 1 to 3).
func EventKey(e id.Event) []byte {
	if len(e) == 44 {
		if hash, err := base64.RawURLEncoding.Strict().DecodeString(string(e[1:])); err == nil {
			return hash
		}
	}
	key := []byte(e)
	if len(key) == 32 {
		key = append(key, 0) // else it could be taken for a hash
	}
	return key
}

func eventOfKey(key []byte) id.Event {
	if len(key) == 32 {
		return id.Event("$" + base64.RawURLEncoding.EncodeToString(key))
	}
	return id.Event(strings.TrimSuffix(string(key), "\x00"))
}

func scanEvent(r scanner) (Event, error) {
	var e Event
	var key []byte
	err := r.Scan(&e.NID, &e.Room, &e.Position, &key, &e.Sender, &e.Type, &e.Key, &e.Depth, &e.TS,
		&e.StateBefore, &e.Flags, &e.RedactedBy, &e.Txn, &e.JSON, &e.CurrentState)
	if err != nil {
		return e, err
	}
	if e.JSON, err = unpackBody(e.JSON); err != nil {
		return e, err
	}
	e.ID = eventOfKey(key)
	if e.IsState = e.Key >= 0; !e.IsState {
		e.Key = 0
	}
	return e, nil
}

// ReserveNIDs takes n event nids out of use; the first is returned.
func (t Events) ReserveNIDs(n int64) (EventNID, error) {
	next, _, err := one(t.tx, value[int64], reserveNIDs, n)
	return next - n, err
}

// Insert stores an event.
func (t Events) Insert(e Event) error {
	position, current := e.place()
	var skey, txn any
	if e.IsState {
		skey = e.Key
	}
	if e.Txn != "" {
		txn = e.Txn
	}
	_, err := t.tx.exec(insertEvent, e.NID, e.Room, position, EventKey(e.ID), e.Sender, e.Type, skey,
		e.Depth, e.TS, e.StateBefore, int64(e.Flags), txn, packBody(e.JSON), current)
	return err
}

// place is what of an event's place is NULL where there is none.
func (e *Event) place() (position, current any) {
	if e.Position != 0 {
		position = e.Position
	}
	if e.CurrentState != 0 {
		current = e.CurrentState
	}
	return position, current
}

// Place gives an event that is stored already its place in the history: position,
// states and flags of e.
func (t Events) Place(e Event) error {
	position, current := e.place()
	_, err := t.tx.exec(placeEvent, e.NID, position, e.StateBefore, int64(e.Flags), current)
	return err
}

// Redact replaces an event's body by its redacted form.
func (t Events) Redact(nid EventNID, body []byte, by EventNID) error {
	_, err := t.tx.exec(redactEvent, nid, packBody(body), by)
	return err
}

// Find finds an event's nid.
func (t Events) Find(e id.Event) (EventNID, bool, error) {
	return one(t.tx, value[int64], findEventNID, EventKey(e))
}

// Get reads an event.
func (t Events) Get(nid EventNID) (Event, bool, error) { return one(t.tx, scanEvent, getEvent, nid) }

// GetID reads an event by its id.
func (t Events) GetID(e id.Event) (Event, bool, error) {
	return one(t.tx, scanEvent, getEventID, EventKey(e))
}

// Known is what is known of an event without its body.
type Known struct {
	NID     EventNID
	Room    RoomNID
	Key     StateKey // of a state event
	IsState bool
	Flags   EventFlags
}

// Know looks an event up without its body.
func (t Events) Know(e id.Event) (Known, bool, error) {
	return one(t.tx, func(r scanner) (k Known, err error) {
		err = r.Scan(&k.NID, &k.Room, &k.Key, &k.Flags)
		k.IsState = k.Key >= 0
		return k, err
	}, knowEvent, EventKey(e))
}

// InsertOutside inserts an event that has no place in the auth graph, with the room version
// in the name of which it came: of a room that nobody here is in that is not sure.
func (t Events) InsertOutside(e Event, version string) error {
	e.Flags |= Outlier | Outside
	if err := t.Insert(e); err != nil {
		return err
	}
	_, err := t.tx.exec(insertOutsideVersion, e.NID, version)
	return err
}

// OutsideVersion is the room version in the name of which an event came that has no place
// in the auth graph.
func (t Events) OutsideVersion(e EventNID) (version string, ok bool, err error) {
	return one(t.tx, value[string], getOutsideVersion, e)
}

// Load reads several events, in no order; missing ones are left out.
func (t Events) Load(nids []EventNID) ([]Event, error) {
	if len(nids) == 0 {
		return nil, nil
	}
	param, err := json.Marshal(nids)
	if err != nil {
		return nil, err
	}
	return list(t.tx, scanEvent, loadEvents, string(param))
}

// IDs names several events, in the order of nids; missing ones are left out.
func (t Events) IDs(nids []EventNID) ([]id.Event, error) {
	if len(nids) == 0 {
		return nil, nil
	}
	param, err := nidList(nids)
	if err != nil {
		return nil, err
	}
	names := make(map[EventNID]id.Event, len(nids))
	err = each(t.tx, func(r scanner) error {
		var nid EventNID
		var key []byte
		err := r.Scan(&nid, &key)
		names[nid] = eventOfKey(key)
		return err
	}, eventIDs, param)
	ids := make([]id.Event, 0, len(nids))
	for _, nid := range nids {
		if name, ok := names[nid]; ok {
			ids = append(ids, name)
		}
	}
	return ids, err
}

// Place is an event's place in a timeline.
type Place struct {
	NID      EventNID
	Position int64
}

func scanPlace(r scanner) (p Place, err error) { err = r.Scan(&p.NID, &p.Position); return }

// TimelineDown lists a room's timeline after one position up to another, newest first.
func (t Events) TimelineDown(room RoomNID, after, upTo int64, limit int) ([]Place, error) {
	return list(t.tx, scanPlace, timelineDown, room, after, upTo, limit)
}

// TimelineUp lists the same, oldest first.
func (t Events) TimelineUp(room RoomNID, after, upTo int64, limit int) ([]Place, error) {
	return list(t.tx, scanPlace, timelineUp, room, after, upTo, limit)
}

// StateBetween lists the state events of that part of a timeline, oldest first.
func (t Events) StateBetween(room RoomNID, after, upTo int64) ([]Place, error) {
	return list(t.tx, scanPlace, stateBetween, room, after, upTo)
}

// KeyChange is an entry of a room's state that changed, and where it first did.
type KeyChange struct {
	Key   StateKey
	First int64 // position
}

// ChangedKeys lists the entries of a room's state that changed in that part of a timeline.
func (t Events) ChangedKeys(room RoomNID, after, upTo int64) ([]KeyChange, error) {
	return list(t.tx, func(r scanner) (c KeyChange, err error) { err = r.Scan(&c.Key, &c.First); return }, changedKeys, room, after, upTo)
}

// After lists the timeline events of all rooms in order, for followers.
func (t Events) After(after, upTo int64, limit int) ([]Place, error) {
	return list(t.tx, scanPlace, eventsAfter, after, upTo, limit)
}

// Renumber gives an event beside the timeline another nid, so that it comes after its
// auth events, which came later. Of all else only memberships may name it.
func (t Events) Renumber(room RoomNID, old, nid EventNID) error {
	if _, err := t.tx.exec(renumberEvent, old, nid); err != nil {
		return err
	}
	_, err := t.tx.exec(renumberMember, old, nid, room)
	return err
}

// Shift notes that an event changed an entry of the state that it does not set.
func (t Events) Shift(room RoomNID, position int64, key StateKey) error {
	_, err := t.tx.exec(insertShift, room, position, key)
	return err
}

// Unshift forgets what Shift noted after a position.
func (t Events) Unshift(room RoomNID, after int64) error {
	_, err := t.tx.exec(unshift, room, after)
	return err
}

// Since lists the events of a room that came after one, its place given: those of the
// timeline, and those that were not accepted, which are told from earlier ones by the
// version of the state that they met. Outliers are left out.
func (t Events) Since(room RoomNID, p Place, version int64) ([]EventNID, error) {
	return list(t.tx, value[int64], sinceJoin, room, p.Position, p.NID, version)
}

// AwaitTarget notes a redaction whose target is not known yet. One that is judged again may
// have been noted before.
func (t Events) AwaitTarget(room RoomNID, target id.Event, redaction EventNID) error {
	_, err := t.tx.exec(insertWaiting, room, EventKey(target), redaction)
	return err
}

// WaitingFor lists the redactions that wait for an event, oldest first.
func (t Events) WaitingFor(room RoomNID, target id.Event) ([]EventNID, error) {
	return list(t.tx, value[int64], waitingFor, room, EventKey(target))
}

// TargetCame forgets that redactions wait for an event.
func (t Events) TargetCame(room RoomNID, target id.Event) error {
	_, err := t.tx.exec(deleteWaiting, room, EventKey(target))
	return err
}

// OfTypesAfter lists the timeline events of some types of all rooms in order, for followers.
func (t Events) OfTypesAfter(after, upTo int64, types []TypeNID, limit int) ([]Event, error) {
	param, err := nidList(types)
	if err != nil {
		return nil, err
	}
	return list(t.tx, scanEvent, typesAfter, after, upTo, param, limit)
}

// NearestAfter finds the event of a room that is nearest to a time (milliseconds),
// at it or later; of several of that very time, the first whose position is above one.
func (t Events) NearestAfter(room RoomNID, ts, above int64) (Place, bool, error) {
	return one(t.tx, scanPlace, nearestAfter, room, ts, above)
}

// NearestBefore finds the one nearest at that time or earlier; of several of
// that very time, the last whose position is below one.
func (t Events) NearestBefore(room RoomNID, ts, below int64) (Place, bool, error) {
	return one(t.tx, scanPlace, nearestBefore, room, ts, below)
}
