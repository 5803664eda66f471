package store

import (
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// Reports is what users report to the administrators.
type Reports struct{ tx *Tx }

// EventReport is a report of an event.
type EventReport struct {
	ID         int64
	ReceivedMS int64
	Room       id.Room
	Event      id.Event
	Reporter   id.User
	Reason     string
	Content    jsontext.Value // the body of the request
}

const (
	insertEventReport = `INSERT INTO event_reports (id, received_ts, room_id, event_id, user_id, reason, content)
		VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM event_reports), $1, $2, $3, $4, $5, $6)`
	insertRoomReport = `INSERT INTO room_reports (id, received_ts, room_id, user_id, reason)
		VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM room_reports), $1, $2, $3, $4)`
	insertUserReport = `INSERT INTO user_reports (id, received_ts, target_user_id, user_id, reason)
		VALUES ((SELECT COALESCE(MAX(id), 0) + 1 FROM user_reports), $1, $2, $3, $4)`
	listEventReports = `SELECT id, received_ts, room_id, event_id, user_id, COALESCE(reason, ''), COALESCE(content, '{}') FROM event_reports
		WHERE id > $1 ORDER BY id LIMIT $2`
)

// InsertEvent stores a report of an event.
func (t Reports) InsertEvent(r EventReport) error {
	_, err := t.tx.exec(insertEventReport, r.ReceivedMS, string(r.Room), string(r.Event), string(r.Reporter), orNull(r.Reason), string(r.Content))
	return err
}

// InsertRoom stores a report of a room.
func (t Reports) InsertRoom(nowMS int64, room id.Room, reporter id.User, reason string) error {
	_, err := t.tx.exec(insertRoomReport, nowMS, string(room), string(reporter), reason)
	return err
}

// InsertUser stores a report of a user.
func (t Reports) InsertUser(nowMS int64, target, reporter id.User, reason string) error {
	_, err := t.tx.exec(insertUserReport, nowMS, string(target), string(reporter), reason)
	return err
}

// ListEvents pages through the reports of events in order of their ids, after one.
func (t Reports) ListEvents(after int64, limit int) ([]EventReport, error) {
	return list(t.tx, func(r scanner) (v EventReport, err error) {
		var content string
		err = r.Scan(&v.ID, &v.ReceivedMS, &v.Room, &v.Event, &v.Reporter, &v.Reason, &content)
		v.Content = jsontext.Value(content)
		return
	}, listEventReports, after, limit)
}
