-- The list of public rooms is read in this order.
CREATE INDEX rooms_public ON rooms (joined_members DESC, room_nid) WHERE is_public = 1;

-- For the event of a room that is nearest to a time.
CREATE INDEX events_time ON events (room_nid, origin_server_ts) WHERE position IS NOT NULL;

-- What users report to the administrators. Synapse's names and columns.
CREATE TABLE event_reports (
	id INTEGER PRIMARY KEY,
	received_ts INTEGER NOT NULL, -- in milliseconds
	room_id TEXT NOT NULL,
	event_id TEXT NOT NULL,
	user_id TEXT NOT NULL, -- who reports
	reason TEXT,
	content TEXT -- the body of the request
);

CREATE TABLE room_reports (
	id INTEGER PRIMARY KEY,
	received_ts INTEGER NOT NULL,
	room_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	reason TEXT NOT NULL
);

CREATE TABLE user_reports (
	id INTEGER PRIMARY KEY,
	received_ts INTEGER NOT NULL,
	target_user_id TEXT NOT NULL,
	user_id TEXT NOT NULL,
	reason TEXT NOT NULL
);
