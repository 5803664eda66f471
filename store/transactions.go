package store

import "encoding/hex"

// Transactions remembers which event each client transaction made.
// spec: client-server-api#transaction-identifiers
type Transactions struct{ tx *Tx }

// Transaction names a client's request: the same device, room, endpoint and id mean the same request.
type Transaction struct {
	User     UserNID
	Device   string
	Room     RoomNID
	TxnID    string
	Endpoint string
}

const (
	findTransaction   = `SELECT event_nid FROM event_transactions WHERE user_nid = $1 AND device_id = $2 AND room_nid = $3 AND txn_id = $4 AND endpoint = $5`
	insertTransaction = `INSERT INTO event_transactions (user_nid, device_id, room_nid, txn_id, endpoint, event_nid, created_ts) VALUES ($1, $2, $3, $4, $5, $6, $7)`
	expireTransaction = `DELETE FROM event_transactions WHERE created_ts < $1`
)

// Find finds the event that a transaction made.
func (t Transactions) Find(x Transaction) (EventNID, bool, error) {
	return one(t.tx, value[int64], findTransaction, x.User, x.Device, x.Room, x.TxnID, x.Endpoint)
}

// Insert notes that a transaction made an event, at a time in milliseconds.
func (t Transactions) Insert(x Transaction, e EventNID, now int64) error {
	_, err := t.tx.exec(insertTransaction, x.User, x.Device, x.Room, x.TxnID, x.Endpoint, e, now)
	return err
}

// Expire forgets transactions made before a time.
func (t Transactions) Expire(before int64) error {
	_, err := t.tx.exec(expireTransaction, before)
	return err
}

func hexOf(b []byte) string { return hex.EncodeToString(b) }
