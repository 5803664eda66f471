package store

import "hearth/matrix/id"

// Gaps is where rooms' histories are not known here, and which events are missing.
type Gaps struct{ tx *Tx }

// Gap lies just before the timeline event at Position. What is fetched of it gets
// the positions from Next down to Floor, which nothing else has.
type Gap struct {
	Room        RoomNID
	Position    int64
	Next, Floor int64
	StateBefore int64 // for the events fetched; see Event
}

const (
	gapColumns = `room_nid, position, next, floor, state_before`
	insertGap  = `INSERT INTO timeline_gaps (` + gapColumns + `) VALUES ($1, $2, $3, $4, $5)`
	getGap     = `SELECT ` + gapColumns + ` FROM timeline_gaps WHERE room_nid = $1 AND position = $2`
	gapsDown   = `SELECT ` + gapColumns + ` FROM timeline_gaps WHERE room_nid = $1 AND position > $2 AND position <= $3 ORDER BY position DESC LIMIT $4`
	moveGap    = `UPDATE timeline_gaps SET position = $3, next = $4 WHERE room_nid = $1 AND position = $2`
	deleteGap  = `DELETE FROM timeline_gaps WHERE room_nid = $1 AND position = $2`

	deleteEmptyGap = `DELETE FROM timeline_gaps WHERE room_nid = $1 AND position = $2
		AND NOT EXISTS (SELECT 1 FROM backward_extremities b WHERE b.room_nid = timeline_gaps.room_nid AND b.position = timeline_gaps.position)`

	insertExtremity = `INSERT INTO backward_extremities (room_nid, event_key, position) VALUES ($1, $2, $3)
		ON CONFLICT (room_nid, event_key) DO NOTHING`
	findExtremity     = `SELECT position FROM backward_extremities WHERE room_nid = $1 AND event_key = $2`
	deleteExtremities = `DELETE FROM backward_extremities WHERE room_nid = $1 AND position = $2`
	deleteExtremity   = `DELETE FROM backward_extremities WHERE room_nid = $1 AND event_key = $2`
	moveExtremities   = `UPDATE backward_extremities SET position = $3 WHERE room_nid = $1 AND position = $2`
	extremitiesOf     = `SELECT event_key FROM backward_extremities WHERE room_nid = $1 AND position = $2 LIMIT $3`
)

func scanGap(r scanner) (g Gap, err error) {
	err = r.Scan(&g.Room, &g.Position, &g.Next, &g.Floor, &g.StateBefore)
	return
}

// Insert notes a gap.
func (t Gaps) Insert(g Gap) error {
	_, err := t.tx.exec(insertGap, g.Room, g.Position, g.Next, g.Floor, g.StateBefore)
	return err
}

// Get reads the gap before the event at a position.
func (t Gaps) Get(room RoomNID, position int64) (Gap, bool, error) {
	return one(t.tx, scanGap, getGap, room, position)
}

// Down lists the gaps before events after one position up to another, newest first.
func (t Gaps) Down(room RoomNID, after, upTo int64, limit int) ([]Gap, error) {
	return list(t.tx, scanGap, gapsDown, room, after, upTo, limit)
}

// Move puts a gap, with what is missing there, before an older event: some of it
// was fetched.
func (t Gaps) Move(g Gap, position, next int64) error {
	if _, err := t.tx.exec(moveGap, g.Room, g.Position, position, next); err != nil {
		return err
	}
	_, err := t.tx.exec(moveExtremities, g.Room, g.Position, position)
	return err
}

// Delete takes a gap away: nothing is missing there any more.
func (t Gaps) Delete(g Gap) error {
	_, err := t.tx.exec(deleteGap, g.Room, g.Position)
	return err
}

// Drop takes a gap away with what is missing there.
func (t Gaps) Drop(g Gap) error {
	if err := t.Delete(g); err != nil {
		return err
	}
	_, err := t.tx.exec(deleteExtremities, g.Room, g.Position)
	return err
}

// Miss notes that an event is missing at a gap.
func (t Gaps) Miss(room RoomNID, e id.Event, position int64) error {
	_, err := t.tx.exec(insertExtremity, room, EventKey(e), position)
	return err
}

// Missing finds the gap at which an event is missing, by its position.
func (t Gaps) Missing(room RoomNID, e id.Event) (int64, bool, error) {
	return one(t.tx, value[int64], findExtremity, room, EventKey(e))
}

// Found notes that an event is missing no more.
func (t Gaps) Found(room RoomNID, e id.Event) error {
	_, err := t.tx.exec(deleteExtremity, room, EventKey(e))
	return err
}

// Closed notes that an event that was missing came by itself, and takes the gap away if
// nothing else is missing there.
func (t Gaps) Closed(room RoomNID, e id.Event) error {
	position, ok, err := t.Missing(room, e)
	if err != nil || !ok {
		return err
	}
	if err := t.Found(room, e); err != nil {
		return err
	}
	_, err = t.tx.exec(deleteEmptyGap, room, position)
	return err
}

// MissingAt lists some events that are missing at a gap.
func (t Gaps) MissingAt(room RoomNID, position int64, limit int) ([]id.Event, error) {
	return list(t.tx, func(r scanner) (id.Event, error) {
		var key []byte
		err := r.Scan(&key)
		return eventOfKey(key), err
	}, extremitiesOf, room, position, limit)
}
