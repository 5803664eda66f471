package store

// Appservices is what application services have yet to be told, and the rooms that they list.
type Appservices struct{ tx *Tx }

// AppserviceState is how it goes with an application service.
type AppserviceState struct {
	ID       string
	LastTxn  int64 // the last transaction that it took
	Since    int64 // nothing up to this position is sent
	Failures int64 // attempts since it last took something
	RetryTS  int64 // when to try again, in milliseconds
	Queued   int64 // events that wait
}

// QueuedEvent is an event on its way to an application service.
type QueuedEvent struct {
	Position int64
	Event    EventNID
	Txn      int64
}

const (
	appserviceColumns = `as_id, last_txn, since, failures, retry_ts,
		(SELECT COUNT(*) FROM application_services_queue q WHERE q.as_id = s.as_id)`
	getAppservice    = `SELECT ` + appserviceColumns + ` FROM application_services_state s WHERE as_id = $1`
	insertAppservice = `INSERT INTO application_services_state (as_id, since) VALUES ($1, $2)`
	noteAppservice   = `UPDATE application_services_state SET state = $2, last_txn = $3, failures = $4, retry_ts = $5 WHERE as_id = $1`
	queueEvent       = `INSERT INTO application_services_queue (as_id, position, event_nid, txn_id) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING`
	listQueue        = `SELECT position, event_nid, txn_id FROM application_services_queue WHERE as_id = $1 ORDER BY position LIMIT $2`
	unqueueEvents    = `DELETE FROM application_services_queue WHERE as_id = $1 AND position <= $2`
	listRoomIn       = `INSERT INTO appservice_room_list (appservice_id, network_id, room_nid) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	unlistRoomIn     = `DELETE FROM appservice_room_list WHERE appservice_id = $1 AND network_id = $2 AND room_nid = $3`
	lastQueuedTxn    = `SELECT COALESCE(MAX(txn_id), 0) FROM application_services_queue WHERE as_id = $1`
)

// Get reads the state of an application service; false: it is new.
func (t Appservices) Get(service string) (AppserviceState, bool, error) {
	return one(t.tx, func(r scanner) (s AppserviceState, err error) {
		err = r.Scan(&s.ID, &s.LastTxn, &s.Since, &s.Failures, &s.RetryTS, &s.Queued)
		return
	}, getAppservice, service)
}

// Insert notes a new application service, which gets nothing up to a position.
func (t Appservices) Insert(service string, since int64) error {
	_, err := t.tx.exec(insertAppservice, service, since)
	return err
}

// Set writes down how it goes.
func (t Appservices) Set(s AppserviceState) error {
	state := "up"
	if s.Failures > 0 {
		state = "down"
	}
	_, err := t.tx.exec(noteAppservice, s.ID, state, s.LastTxn, s.Failures, s.RetryTS)
	return err
}

// Queue notes an event that an application service is to get.
func (t Appservices) Queue(service string, e QueuedEvent) error {
	_, err := t.tx.exec(queueEvent, service, e.Position, e.Event, e.Txn)
	return err
}

// ListQueue lists what an application service is to get next.
func (t Appservices) ListQueue(service string, limit int) ([]QueuedEvent, error) {
	return list(t.tx, func(r scanner) (e QueuedEvent, err error) {
		err = r.Scan(&e.Position, &e.Event, &e.Txn)
		return
	}, listQueue, service, limit)
}

// Unqueue forgets what an application service has got, up to a position.
func (t Appservices) Unqueue(service string, upTo int64) error {
	_, err := t.tx.exec(unqueueEvents, service, upTo)
	return err
}

// SetListed puts a room on the list of a service's network, or takes it off.
func (t Appservices) SetListed(service, network string, room RoomNID, listed bool) error {
	query := unlistRoomIn
	if listed {
		query = listRoomIn
	}
	_, err := t.tx.exec(query, service, network, room)
	return err
}

// LastQueuedTxn is the highest transaction in the queue, or 0.
func (t Appservices) LastQueuedTxn(service string) (int64, error) {
	n, _, err := one(t.tx, value[int64], lastQueuedTxn, service)
	return n, err
}
