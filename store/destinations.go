package store

// Destinations is which other servers have yet to be told what.
type Destinations struct{ tx *Tx }

// Destination is a server that has not got everything. Servers without a row have.
type Destination struct {
	Server          ServerNID
	Sent            int64 // everything for it up to this position was accepted
	Attempt         int64 // last position of the transaction that failed; 0: none
	RetryIntervalMS int64
	RetryAfterTS    int64
	FailingSinceTS  int64 // 0: it answers
}

const (
	listDestinations = `SELECT server_nid, sent_position, attempt_position, retry_interval_ms, retry_after_ts, failing_since_ts
		FROM destinations ORDER BY server_nid`
	setDestination = `INSERT INTO destinations (server_nid, sent_position, attempt_position, retry_interval_ms, retry_after_ts, failing_since_ts)
		VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (server_nid) DO UPDATE SET sent_position = excluded.sent_position,
		attempt_position = excluded.attempt_position, retry_interval_ms = excluded.retry_interval_ms,
		retry_after_ts = excluded.retry_after_ts, failing_since_ts = excluded.failing_since_ts`
	deleteDestination = `DELETE FROM destinations WHERE server_nid = $1`
	leastSent         = `SELECT MIN(sent_position) FROM destinations HAVING COUNT(*) > 0`

	outgoingPlaces = `SELECT position, COALESCE(room_nid, 0), COALESCE(event_nid, 0), set_nid FROM outgoing_items
		WHERE position > $1 AND position <= $2 ORDER BY position LIMIT $3`
	getOutgoingEDU  = `SELECT edu FROM outgoing_items WHERE position = $1`
	firstOutgoing   = `SELECT MIN(position) FROM outgoing_items HAVING COUNT(*) > 0`
	deleteOutEvents = `DELETE FROM outgoing_items WHERE position <= $1 AND event_nid IS NOT NULL`

	insertAge  = `INSERT INTO outgoing_ages (ts, position) VALUES ($1, $2) ON CONFLICT (ts) DO NOTHING`
	positionAt = `SELECT position FROM outgoing_ages WHERE ts <= $1 ORDER BY ts DESC LIMIT 1`
	deleteAges = `DELETE FROM outgoing_ages WHERE ts < (SELECT MAX(a.ts) FROM outgoing_ages a WHERE a.ts <= $1)`
)

// List reads all rows, in order of nids.
func (t Destinations) List() ([]Destination, error) {
	return list(t.tx, func(r scanner) (d Destination, err error) {
		err = r.Scan(&d.Server, &d.Sent, &d.Attempt, &d.RetryIntervalMS, &d.RetryAfterTS, &d.FailingSinceTS)
		return
	}, listDestinations)
}

// Set stores a server that has not got everything.
func (t Destinations) Set(d Destination) error {
	_, err := t.tx.exec(setDestination, d.Server, d.Sent, d.Attempt, d.RetryIntervalMS, d.RetryAfterTS, d.FailingSinceTS)
	return err
}

// Delete notes that a server has got everything.
func (t Destinations) Delete(server ServerNID) error {
	_, err := t.tx.exec(deleteDestination, server)
	return err
}

// LeastSent is how far the server furthest behind has come; false: there is none.
func (t Destinations) LeastSent() (int64, bool, error) {
	return one(t.tx, value[int64], leastSent)
}

// Places lists items without their EDUs, after one position up to another, in order.
func (t Outgoing) Places(after, upTo int64, limit int) ([]OutgoingItem, error) {
	return list(t.tx, func(r scanner) (i OutgoingItem, err error) {
		err = r.Scan(&i.Position, &i.Room, &i.Event, &i.Set)
		return
	}, outgoingPlaces, after, upTo, limit)
}

// EDU reads the EDU at a position; false: there is none any more.
func (t Outgoing) EDU(position int64) ([]byte, bool, error) {
	return one(t.tx, value[[]byte], getOutgoingEDU, position)
}

// First is the position of the oldest item; false: there is none.
func (t Outgoing) First() (int64, bool, error) { return one(t.tx, value[int64], firstOutgoing) }

// DeleteEvents forgets events up to a position; EDUs stay.
func (t Outgoing) DeleteEvents(upTo int64) error {
	_, err := t.tx.exec(deleteOutEvents, upTo)
	return err
}

// SetAge notes where the change counter stands at a time.
func (t Outgoing) SetAge(ts, position int64) error {
	_, err := t.tx.exec(insertAge, ts, position)
	return err
}

// PositionAt is where the change counter stood at a time, or somewhat earlier; false: not known.
func (t Outgoing) PositionAt(ts int64) (int64, bool, error) {
	return one(t.tx, value[int64], positionAt, ts)
}

// ForgetAges drops what PositionAt does not need for this time and later ones.
func (t Outgoing) ForgetAges(ts int64) error {
	_, err := t.tx.exec(deleteAges, ts)
	return err
}
