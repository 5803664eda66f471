package store

import "hearth/matrix/id"

// ToDevice is the queues of messages for devices.
type ToDevice struct{ tx *Tx }

// ToDeviceMessage is a waiting message.
type ToDeviceMessage struct {
	Position int64
	Event    []byte // type, sender and content
}

const (
	insertToDevice = `INSERT INTO to_device_messages (user_nid, device_id, position, event) VALUES ($1, $2, $3, $4)`
	listToDevice   = `SELECT position, event FROM to_device_messages WHERE user_nid = $1 AND device_id = $2
		AND position > $3 AND position <= $4 ORDER BY position LIMIT $5`
	ackToDevice        = `DELETE FROM to_device_messages WHERE user_nid = $1 AND device_id = $2 AND position <= $3`
	deleteToDevice     = `DELETE FROM to_device_messages WHERE user_nid = $1 AND device_id = $2`
	insertToDeviceTxn  = `INSERT INTO to_device_transactions (user_nid, device_id, event_type, txn_id, created_ts) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`
	expireToDeviceTxns = `DELETE FROM to_device_transactions WHERE created_ts < $1`
	weighToDevice      = `SELECT COALESCE(SUM(CASE WHEN LENGTH(event) > $3 THEN LENGTH(event) ELSE $3 END), 0) FROM to_device_messages
		WHERE user_nid = $1 AND device_id = $2`
	eachToDevice     = `SELECT position, event FROM to_device_messages WHERE user_nid = $1 AND device_id = $2 ORDER BY position`
	deleteToDeviceAt = `DELETE FROM to_device_messages WHERE user_nid = $1 AND device_id = $2 AND position IN (
		SELECT value FROM json_each($3) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($3::json) -- only: postgres
		)`
	insertReceived = `INSERT INTO received_to_device (server_nid, message_id, received_ts) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`
	expireReceived = `DELETE FROM received_to_device WHERE received_ts < $1`
	trimReceived   = `DELETE FROM received_to_device WHERE server_nid = $1 AND received_ts <
		(SELECT r.received_ts FROM received_to_device r WHERE r.server_nid = $1 ORDER BY r.received_ts DESC LIMIT 1 OFFSET $2)`
	deleteToDeviceTxnsOf = `DELETE FROM to_device_transactions WHERE user_nid = $1 AND device_id = $2`
)

// Insert queues a message for a device at the next position.
func (t ToDevice) Insert(user UserNID, device id.Device, event []byte) error {
	_, err := t.tx.exec(insertToDevice, user, string(device), t.tx.NextPosition(), event)
	return err
}

// List reads at most limit messages after a position up to another, in order of arrival.
func (t ToDevice) List(user UserNID, device id.Device, after, upTo int64, limit int) ([]ToDeviceMessage, error) {
	return list(t.tx, func(r scanner) (m ToDeviceMessage, err error) {
		err = r.Scan(&m.Position, &m.Event)
		return
	}, listToDevice, user, string(device), after, upTo, limit)
}

// DeleteUpTo deletes what the device has acknowledged: messages up to a position.
func (t ToDevice) DeleteUpTo(user UserNID, device id.Device, position int64) error {
	_, err := t.tx.exec(ackToDevice, user, string(device), position)
	return err
}

// Delete deletes a device's queue and its transactions.
func (t ToDevice) Delete(user UserNID, device id.Device) error {
	if _, err := t.tx.exec(deleteToDeviceTxnsOf, user, string(device)); err != nil {
		return err
	}
	_, err := t.tx.exec(deleteToDevice, user, string(device))
	return err
}

// InsertTransaction notes a request of a sending device, and says whether it is new.
func (t ToDevice) InsertTransaction(user UserNID, device id.Device, eventType, txnID string, now int64) (bool, error) {
	n, err := t.tx.exec(insertToDeviceTxn, user, string(device), eventType, txnID, now)
	return n > 0, err
}

// ExpireTransactions forgets requests from before a time.
func (t ToDevice) ExpireTransactions(before int64) error {
	_, err := t.tx.exec(expireToDeviceTxns, before)
	return err
}

// Weight is how many bytes wait for a device, where each message counts as least bytes at least.
func (t ToDevice) Weight(user UserNID, device id.Device, least int) (int64, error) {
	n, _, err := one(t.tx, value[int64], weighToDevice, user, string(device), least)
	return n, err
}

// Each calls fn with all that waits for a device, in order of arrival.
func (t ToDevice) Each(user UserNID, device id.Device, fn func(ToDeviceMessage)) error {
	return each(t.tx, func(r scanner) error {
		var m ToDeviceMessage
		if err := r.Scan(&m.Position, &m.Event); err != nil {
			return err
		}
		fn(m)
		return nil
	}, eachToDevice, user, string(device))
}

// DeleteAt deletes the messages at some positions of a device's queue.
func (t ToDevice) DeleteAt(user UserNID, device id.Device, positions []int64) error {
	param, err := nidList(positions)
	if err != nil {
		return err
	}
	_, err = t.tx.exec(deleteToDeviceAt, user, string(device), param)
	return err
}

// InsertReceived notes a message of another server, and says whether it is new.
func (t ToDevice) InsertReceived(server ServerNID, messageID string, now int64) (bool, error) {
	n, err := t.tx.exec(insertReceived, server, messageID, now)
	return n > 0, err
}

// ExpireReceived forgets messages from before a time.
func (t ToDevice) ExpireReceived(before int64) error {
	_, err := t.tx.exec(expireReceived, before)
	return err
}

// TrimReceived forgets a server's messages but for about the newest.
func (t ToDevice) TrimReceived(server ServerNID, keep int) error {
	_, err := t.tx.exec(trimReceived, server, keep)
	return err
}
