package store

import (
	"github.com/go-json-experiment/json"

	"hearth/matrix/id"
)

// Relations says which events refer to which by m.relates_to. What redacted events
// referred to is kept apart: only Chain and Between see it, for
// an event stays in its thread when it is redacted.
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

// The unary plus keeps a room's index out where the event referred to decides:
// what one event has is always less than what a room has.
const (
	relationColumns  = `event_nid, room_nid, target, rel_type, type_nid, sender_nid, position`
	insertRelation   = `INSERT INTO event_relations (` + relationColumns + `) VALUES ($1, $2, $3, $4, $5, $6, $7)`
	redactRelation   = `INSERT INTO redacted_relations (` + relationColumns + `) SELECT ` + relationColumns + ` FROM event_relations WHERE event_nid = $1`
	unredactRelation = `DELETE FROM redacted_relations WHERE event_nid = $1`
	deleteRelation   = `DELETE FROM event_relations WHERE event_nid = $1`
	getRelation      = `SELECT ` + relationColumns + ` FROM event_relations WHERE event_nid = $1
		UNION ALL SELECT ` + relationColumns + ` FROM redacted_relations WHERE event_nid = $1`
	relationsDown = `SELECT ` + relationColumns + ` FROM event_relations WHERE target = $1 AND +room_nid = $2
		AND ($3 = '' OR rel_type = $3) AND position > $4 AND position < $5 ORDER BY position DESC LIMIT $6`
	relationsUp = `SELECT ` + relationColumns + ` FROM event_relations WHERE target = $1 AND +room_nid = $2
		AND ($3 = '' OR rel_type = $3) AND position > $4 AND position < $5 ORDER BY position LIMIT $6`
	relationsOfRoom = `SELECT ` + relationColumns + ` FROM event_relations WHERE room_nid = $1 AND rel_type = $2
		AND position < $3 ORDER BY position DESC LIMIT $4`
	relationsBetween = `SELECT ` + relationColumns + ` FROM event_relations WHERE room_nid = $1 AND position > $2 AND position <= $3
		UNION ALL SELECT ` + relationColumns + ` FROM redacted_relations WHERE room_nid = $1 AND position > $2 AND position <= $3
		ORDER BY position`
	relatedTypes = `SELECT DISTINCT target, rel_type FROM event_relations WHERE +room_nid = $1 AND rel_type IN ('m.replace', 'm.reference', 'm.thread') AND target IN (
		SELECT unhex(value) FROM json_each($2) -- only: sqlite
		SELECT decode(value, 'hex') FROM json_array_elements_text($2::json) AS value -- only: postgres
		)`
	relationsOfMany = `SELECT ` + relationColumns + ` FROM event_relations WHERE +room_nid = $1 AND ($2 = '' OR rel_type = $2) AND (type_nid = $3 OR $3 = 0) AND target IN (
		SELECT unhex(value) FROM json_each($4) -- only: sqlite
		SELECT decode(value, 'hex') FROM json_array_elements_text($4::json) AS value -- only: postgres
		) ORDER BY position LIMIT $5`
	newestReplacements = `SELECT r.event_nid FROM event_relations r JOIN events e ON e.event_nid = r.event_nid
		WHERE r.target = $1 AND +r.room_nid = $2 AND r.rel_type = 'm.replace' AND r.sender_nid = $3 AND r.type_nid = $4
		ORDER BY e.origin_server_ts DESC LIMIT $5`
	relationsBy = `SELECT event_nid FROM event_relations WHERE target = $1 AND +room_nid = $2 AND rel_type = $3 AND type_nid = $4 AND sender_nid = $5`
	countThread = `SELECT COUNT(*), COALESCE(SUM(CASE WHEN sender_nid = $3 THEN 1 ELSE 0 END), 0) FROM event_relations
		WHERE target = $1 AND +room_nid = $2 AND rel_type = 'm.thread' AND sender_nid NOT IN (
		SELECT value FROM json_each($4) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($4::json) -- only: postgres
		)`
	// A thread stands where its newest reply is, among those that are not ignored.
	newestThreads = `SELECT r.target, r.position FROM event_relations r WHERE r.room_nid = $1 AND r.rel_type = 'm.thread' AND r.position < $2
		AND r.sender_nid NOT IN (
		SELECT value FROM json_each($3) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($3::json) -- only: postgres
		) AND NOT EXISTS (SELECT 1 FROM event_relations n WHERE n.target = r.target AND n.rel_type = 'm.thread' AND n.position > r.position
		AND +n.room_nid = $1 AND n.sender_nid NOT IN (
		SELECT value FROM json_each($3) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($3::json) -- only: postgres
		)) AND (EXISTS (SELECT 1 FROM event_relations p WHERE p.target = r.target AND p.rel_type = 'm.thread' AND +p.room_nid = $1 AND p.sender_nid = $4)
		OR EXISTS (SELECT 1 FROM events e WHERE e.event_key = r.target AND e.sender_nid = $4) OR $4 = 0)
		ORDER BY r.position DESC LIMIT $5`
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

// Restore stores the relation of an event that was taken out of the history before.
func (t Relations) Restore(r Relation) error {
	if _, err := t.tx.exec(unredactRelation, r.Event); err != nil {
		return err
	}
	return t.Insert(r)
}

// Redact puts an event's relation to those of redacted events.
func (t Relations) Redact(e EventNID) error {
	if _, err := t.tx.exec(redactRelation, e); err != nil {
		return err
	}
	_, err := t.tx.exec(deleteRelation, e)
	return err
}

// maxHops is how many relations are followed from an event up.
const maxHops = 4

// Chain lists the relation of an event, of the event that it refers to, and so on,
// within its room, at most some hops; those of redacted events too.
func (t Relations) Chain(e EventNID) ([]Relation, error) {
	var chain []Relation
	for range maxHops {
		r, ok, err := one(t.tx, scanRelation, getRelation, e)
		if err != nil || !ok || len(chain) > 0 && r.Room != chain[0].Room {
			return chain, err
		}
		chain = append(chain, r)
		if e, ok, err = t.tx.Events.Find(r.Target); err != nil || !ok {
			return chain, err
		}
	}
	return chain, nil
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

// Between lists a room's relations of all types after one position up to another,
// oldest first; those of redacted events too.
func (t Relations) Between(room RoomNID, after, upTo int64) ([]Relation, error) {
	return list(t.tx, scanRelation, relationsBetween, room, after, upTo)
}

// Related says for some events of a room in which of the ways that are
// aggregated others refer to them; those to which nothing refers are left out.
func (t Relations) Related(room RoomNID, events []id.Event) (map[id.Event][]string, error) {
	param, err := eventKeys(events)
	if err != nil {
		return nil, err
	}
	found := map[id.Event][]string{}
	err = each(t.tx, func(r scanner) error {
		var key []byte
		var relType string
		if err := r.Scan(&key, &relType); err != nil {
			return err
		}
		target := eventOfKey(key)
		found[target] = append(found[target], relType)
		return nil
	}, relatedTypes, room, param)
	return found, err
}

// eventKeys are event keys in hex as a JSON array.
func eventKeys(events []id.Event) (string, error) {
	hexes := make([]string, len(events))
	for i, e := range events {
		hexes[i] = hexOf(EventKey(e))
	}
	param, err := json.Marshal(hexes)
	return string(param), err
}

// OfMany lists what refers to any of some events with a relation type (empty:
// any) and an event type (0: any), oldest first.
func (t Relations) OfMany(room RoomNID, targets []id.Event, relType string, typ TypeNID, limit int) ([]Relation, error) {
	param, err := eventKeys(targets)
	if err != nil {
		return nil, err
	}
	return list(t.tx, scanRelation, relationsOfMany, room, relType, typ, param, limit)
}

// Replacements lists the replacements of an event that one sender made with one event type, newest
// by origin_server_ts first.
func (t Relations) Replacements(room RoomNID, target id.Event, sender UserNID, typ TypeNID, limit int) ([]EventNID, error) {
	return list(t.tx, value[int64], newestReplacements, EventKey(target), room, sender, typ, limit)
}

// By lists the events by which one sender refers to an event in one way.
func (t Relations) By(room RoomNID, target id.Event, relType string, typ TypeNID, sender UserNID) ([]EventNID, error) {
	return list(t.tx, value[int64], relationsBy, EventKey(target), room, relType, typ, sender)
}

// ThreadSize counts the replies in a thread, and among them those of one user, without those of some others.
func (t Relations) ThreadSize(room RoomNID, root id.Event, user UserNID, without []UserNID) (all, own int64, err error) {
	ignored, err := nidList(without)
	if err != nil {
		return 0, 0, err
	}
	size, _, err := one(t.tx, func(r scanner) (n [2]int64, err error) {
		err = r.Scan(&n[0], &n[1])
		return
	}, countThread, EventKey(root), room, user, ignored)
	return size[0], size[1], err
}

// nidList is numbers as a JSON array.
func nidList(nids []int64) (string, error) {
	if len(nids) == 0 {
		return "[]", nil
	}
	param, err := json.Marshal(nids)
	return string(param), err
}

// Thread is the root of a thread with the position of the newest reply.
type Thread struct {
	Root     id.Event // may be unknown
	Position int64
}

// Threads lists a room's threads with a newest reply before a position, newest
// first, without the replies of some users. participant (0: anybody) wrote the root or a reply.
func (t Relations) Threads(room RoomNID, before int64, participant UserNID, without []UserNID, limit int) ([]Thread, error) {
	ignored, err := nidList(without)
	if err != nil {
		return nil, err
	}
	return list(t.tx, func(r scanner) (v Thread, err error) {
		var root []byte
		err = r.Scan(&root, &v.Position)
		v.Root = eventOfKey(root)
		return
	}, newestThreads, room, before, ignored, participant, limit)
}
