-- The newest receipt of each user, kind and thread.
CREATE TABLE receipts (
	room_nid INTEGER NOT NULL,
	user_nid INTEGER NOT NULL,
	is_private SMALLINT NOT NULL,    -- m.read.private, which only its sender sees
	thread_id TEXT NOT NULL,         -- an event id or main; empty: unthreaded
	event_key BLOB NOT NULL,         -- as in events
	event_position INTEGER NOT NULL, -- place of the event in the timeline
	ts INTEGER NOT NULL,
	position INTEGER NOT NULL,
	PRIMARY KEY (room_nid, user_nid, is_private, thread_id)
) WITHOUT ROWID;
CREATE INDEX receipts_order ON receipts (room_nid, position);

-- The last known presence of users; the current one is in memory.
CREATE TABLE presence (
	user_nid INTEGER PRIMARY KEY,
	state TEXT NOT NULL,
	status_msg TEXT NOT NULL,
	last_active_ts INTEGER NOT NULL
);
