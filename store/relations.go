package store

import (
	"github.com/go-json-experiment/json"

	"hearth/matrix/id"
)

// Relations says which events refer to which by m.relates_to. Redacted events are not in it.
type Relations struct{ tx *Tx }

// Relation is one event's reference to another.
type Relation struct {
	Event    EventNID
	Room     RoomNID
	Target   id.Event
	RelType  string
	Type     TypeNID
	Sender   UserNID
	Position int64
}

const (
	relationColumns = `event_nid, room_nid, target, rel_type, type_nid, sender_nid, position`
	insertRelation  = `INSERT INTO event_relations (` + relationColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7)`
	deleteRelation  = `DELETE FROM event_relations WHERE event_nid = $1`
	getRelation     = `SELECT ` + relationColumns + ` FROM event_relations WHERE event_nid = $1`
	relationsDown   = `SELECT ` + relationColumns + ` FROM event_relations WHERE target = $1 AND room_nid = $2
		AND ($3 = '' OR rel_type = $3) AND position > $4 AND position < $5 ORDER BY position DESC LIMIT $6`
	relationsUp = `SELECT ` + relationColumns + ` FROM event_relations WHERE target = $1 AND room_nid = $2
		AND ($3 = '' OR rel_type = $3) AND position > $4 AND position < $5 ORDER BY position LIMIT $6`
	relationsOfRoom = `SELECT ` + relationColumns + ` FROM event_relations WHERE room_nid = $1 AND rel_type = $2
		AND position < $3 ORDER BY position DESC LIMIT $4`
	relationsBetween = `SELECT ` + relationColumns + ` FROM event_relations WHERE room_nid = $1
		AND position > $2 AND position <= $3 ORDER BY position`
	relatedTargets = `SELECT DISTINCT target FROM event_relations WHERE target IN (
		SELECT unhex(value) FROM json_each($1) -- only: sqlite
		SELECT decode(value, 'hex') FROM json_array_elements_text($1::json) AS value -- only: postgres
		)`
)

func scanRelation(r scanner) (Relation, error) {
	var v Relation
	var target []byte
	err := r.Scan(&v.Event, &v.Room, &target, &v.RelType, &v.Type, &v.Sender, &v.Position)
	v.Target = eventOfKey(target)
	return v, err
}

// Insert stores a relation.
func (t Relations) Insert(r Relation) error {
	_, err := t.tx.exec(insertRelation, r.Event, r.Room, EventKey(r.Target), r.RelType, r.Type, r.Sender, r.Position)
	return err
}

// Delete takes an event's relation away: the event was redacted.
func (t Relations) Delete(e EventNID) error {
	_, err := t.tx.exec(deleteRelation, e)
	return err
}

// Get reads the relation that an event has to another.
func (t Relations) Get(e EventNID) (Relation, bool, error) {
	return one(t.tx, scanRelation, getRelation, e)
}

// Down lists what refers to an event with a relation type (empty: any), between two positions (both left out), newest first.
func (t Relations) Down(room RoomNID, target id.Event, relType string, after, before int64, limit int) ([]Relation, error) {
	return list(t.tx, scanRelation, relationsDown, EventKey(target), room, relType, after, before, limit)
}

// Up lists the same, oldest first.
func (t Relations) Up(room RoomNID, target id.Event, relType string, after, before int64, limit int) ([]Relation, error) {
	return list(t.tx, scanRelation, relationsUp, EventKey(target), room, relType, after, before, limit)
}

// OfRoom lists a room's relations of one type before a position, newest first.
func (t Relations) OfRoom(room RoomNID, relType string, before int64, limit int) ([]Relation, error) {
	return list(t.tx, scanRelation, relationsOfRoom, room, relType, before, limit)
}

// Between lists a room's relations of all types after one position up to another, oldest first.
func (t Relations) Between(room RoomNID, after, upTo int64) ([]Relation, error) {
	return list(t.tx, scanRelation, relationsBetween, room, after, upTo)
}

// Targets says which of some events anything refers to at all.
func (t Relations) Targets(events []id.Event) (map[id.Event]bool, error) {
	hexes := make([]string, len(events))
	for i, e := range events {
		hexes[i] = hexOf(EventKey(e))
	}
	param, err := json.Marshal(hexes)
	if err != nil {
		return nil, err
	}
	found := map[id.Event]bool{}
	err = each(t.tx, func(r scanner) error {
		var key []byte
		if err := r.Scan(&key); err != nil {
			return err
		}
		found[eventOfKey(key)] = true
		return nil
	}, relatedTargets, string(param))
	return found, err
}
