package store

import (
	"encoding/binary"
	"hash/fnv"
	"slices"
)

// Outgoing is what other servers are to be told: events and EDUs in order, each
// with the set of servers that it goes to.
type Outgoing struct{ tx *Tx }

// OutgoingItem is one event or EDU.
type OutgoingItem struct {
	Position int64
	Room     RoomNID  // of an event
	Event    EventNID // 0: an EDU
	EDU      []byte   // as JSON
	Set      int64    // of destinations, see Destinations
}

const (
	insertOutgoing = `INSERT INTO outgoing_items (position, room_nid, event_nid, edu, set_nid) VALUES ($1, $2, $3, $4, $5)`
	outgoingAfter  = `SELECT position, COALESCE(room_nid, 0), COALESCE(event_nid, 0), edu, set_nid FROM outgoing_items WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3`
	deleteOutgoing = `DELETE FROM outgoing_items WHERE position <= $1`
	setsOfHash     = `SELECT set_nid, servers FROM destination_sets WHERE hash = $1`
	insertSet      = `INSERT INTO destination_sets (set_nid, hash, servers)
		VALUES ((SELECT COALESCE(MAX(set_nid), 0) + 1 FROM destination_sets), $1, $2) RETURNING set_nid`
	getSet = `SELECT servers FROM destination_sets WHERE set_nid = $1`
)

// Insert queues an item. Its position is that of the event, or a new one; one
// position has one item.
func (t Outgoing) Insert(i OutgoingItem) error {
	var room, event, edu any
	if i.Event != 0 {
		room, event = i.Room, i.Event
	} else {
		edu = i.EDU
	}
	_, err := t.tx.exec(insertOutgoing, i.Position, room, event, edu, i.Set)
	return err
}

// After lists items after one position up to another, in order.
func (t Outgoing) After(after, upTo int64, limit int) ([]OutgoingItem, error) {
	return list(t.tx, func(r scanner) (i OutgoingItem, err error) {
		err = r.Scan(&i.Position, &i.Room, &i.Event, &i.EDU, &i.Set)
		return
	}, outgoingAfter, after, upTo, limit)
}

// Delete forgets all items up to a position: nobody waits for them any more.
func (t Outgoing) Delete(upTo int64) error {
	_, err := t.tx.exec(deleteOutgoing, upTo)
	return err
}

// Set finds or makes the set of some servers, in order without repetition.
func (t Outgoing) Set(servers []ServerNID) (int64, error) {
	packed := packDifferences(servers)
	h := fnv.New64a()
	h.Write(packed)
	hash := int64(h.Sum64())
	var found int64
	err := each(t.tx, func(r scanner) error {
		var nid int64
		var have []byte
		err := r.Scan(&nid, &have)
		if slices.Equal(have, packed) {
			found = nid
		}
		return err
	}, setsOfHash, hash)
	if err != nil || found != 0 {
		return found, err
	}
	found, _, err = one(t.tx, value[int64], insertSet, hash, packed)
	return found, err
}

// Destinations lists the servers of a set.
func (t Outgoing) Destinations(set int64) ([]ServerNID, error) {
	packed, err := must(one(t.tx, value[[]byte], getSet, set))
	if err != nil {
		return nil, err
	}
	servers, err := unpackNumbers(packed)
	for i := 1; i < len(servers); i++ {
		servers[i] += servers[i-1]
	}
	return servers, err
}

// packDifferences writes rising numbers in variable length.
func packDifferences(numbers []int64) []byte {
	b := []byte{} // not NULL
	last := int64(0)
	for _, n := range numbers {
		b = binary.AppendVarint(b, n-last)
		last = n
	}
	return b
}
