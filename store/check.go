package store

import (
	"context"
	"fmt"
)

// latest is the event by which the newest state gives membership m; 0: it gives none.
const latest = `COALESCE((SELECT l.event_nid FROM state_log l WHERE l.room_nid = m.room_nid AND l.skey = m.user_nid * 2 + 1
	ORDER BY l.version DESC LIMIT 1), 0)`

// resident says of room r that somebody here is joined.
const resident = `EXISTS (SELECT 1 FROM room_members j WHERE j.room_nid = r.room_nid AND j.is_local = 1 AND j.membership = 1)`

// told says of membership m in room r that its user was told it from outside the room, of whose state
// it is no part: nobody here is in the room, or that part is not known yet.
const told = `EXISTS (SELECT 1 FROM events o WHERE o.event_nid = m.event_nid AND (o.flags / 8 % 2 = 1 -- Outside
	OR r.partial_version <> 0 AND m.is_local = 1 AND ` + latest + ` = 0
	OR o.flags % 2 = 1 AND NOT ` + resident + ` AND NOT EXISTS (SELECT 1 FROM state_log x WHERE x.room_nid = o.room_nid AND x.event_nid = o.event_nid)))`

// invariants are queries that find nothing in a sound database. Each row is one
// fault, told as a text.
var invariants = []struct{ what, query string }{
	{"an event is ahead of the change counter",
		`SELECT CAST(event_nid AS TEXT) FROM events WHERE position > (SELECT position FROM stream_position)`},
	{"a room's newest position is not that of its newest event",
		`SELECT r.room_id FROM rooms r WHERE r.last_position <> (SELECT COALESCE(MAX(e.position), 0) FROM events e WHERE e.room_nid = r.room_nid)`},
	{"a room's state version is not that of its log",
		`SELECT r.room_id FROM rooms r WHERE r.state_version <> (SELECT COALESCE(MAX(l.version), 0) FROM state_log l WHERE l.room_nid = r.room_nid)`},
	{"a room names a forward extremity that is missing",
		`SELECT r.room_id FROM rooms r
		CROSS JOIN json_each(r.extremities) x -- only: sqlite
		CROSS JOIN json_array_elements_text(r.extremities::json) x -- only: postgres
		WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.room_nid = r.room_nid
		AND e.event_nid = x.value -- only: sqlite
		AND e.event_nid = x.value::bigint -- only: postgres
		)`},
	{"the state log names an event that is missing or of another key",
		`SELECT CAST(l.event_nid AS TEXT) FROM state_log l LEFT JOIN events e ON e.event_nid = l.event_nid AND e.room_nid = l.room_nid AND e.skey = l.skey
		WHERE l.event_nid <> 0 AND e.event_nid IS NULL`},
	{"a membership is not that of the room's state",
		`SELECT CAST(m.event_nid AS TEXT) FROM room_members m JOIN rooms r ON r.room_nid = m.room_nid WHERE m.event_nid <> ` + latest + ` AND NOT ` + told},
	{"a room's count of members is wrong",
		`SELECT r.room_id FROM rooms r WHERE r.joined_members <> (SELECT COUNT(*) FROM room_members m WHERE m.room_nid = r.room_nid AND m.membership = 1)
		OR r.invited_members <> (SELECT COUNT(*) FROM room_members m WHERE m.room_nid = r.room_nid AND m.membership = 2 AND m.event_nid = ` + latest + `)
		-- Where nobody here is in the room, what users here are told from outside takes the place of its state.
		AND ` + resident},
	{"a room's state is partial from a version or a join on that it does not have",
		`SELECT r.room_id FROM rooms r WHERE r.partial_version <> 0 AND (r.partial_version > r.state_version
		OR NOT EXISTS (SELECT 1 FROM events e WHERE e.event_nid = r.partial_join AND e.room_nid = r.room_nid AND e.position IS NOT NULL))`},
	{"a room's count of a server's members is wrong",
		`SELECT r.room_id FROM room_servers s JOIN rooms r ON r.room_nid = s.room_nid WHERE r.partial_version = 0 AND (s.told <> 0 OR s.joined <>
		(SELECT COUNT(*) FROM room_members m JOIN user_ids u ON u.user_nid = m.user_nid WHERE m.room_nid = s.room_nid AND m.membership = 1 AND u.server_nid = s.server_nid))`},
	{"a server with members in a room is not among its servers",
		`SELECT r.room_id FROM room_members m JOIN user_ids u ON u.user_nid = m.user_nid JOIN rooms r ON r.room_nid = m.room_nid
		WHERE m.membership = 1 AND NOT EXISTS (SELECT 1 FROM room_servers s WHERE s.room_nid = m.room_nid AND s.server_nid = u.server_nid)`},
	{"a transaction names an event that is missing",
		`SELECT CAST(t.event_nid AS TEXT) FROM event_transactions t WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.event_nid = t.event_nid)`},
	{"a relation is of an event that is missing or redacted",
		`SELECT CAST(l.event_nid AS TEXT) FROM event_relations l WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.event_nid = l.event_nid AND e.redacted_by IS NULL)`},
}

// Check looks for faults in the database and tells each in a sentence. None is
// what it should find; it reads whole tables, so it takes its time.
func (s *Store) Check(ctx context.Context) (faults []string, err error) {
	err = s.View(ctx, func(tx *Tx) error {
		if s.dialect.name == sqlite.name {
			reports, err := list(tx, value[string], `PRAGMA integrity_check`)
			if err != nil {
				return fmt.Errorf("integrity check: %w", err)
			}
			for _, r := range reports {
				if r != "ok" {
					faults = append(faults, "the database file is damaged: "+r)
				}
			}
		}
		for _, i := range invariants {
			found, err := list(tx, value[string], i.query)
			if err != nil {
				return fmt.Errorf("check whether %s: %w", i.what, err)
			}
			for _, f := range found {
				faults = append(faults, i.what+": "+f)
			}
		}
		return nil
	})
	return faults, err
}
