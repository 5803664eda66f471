-- Servers that have not got all that is in outgoing_items up to where the sender
-- has come (see followers): they do not answer, or are slow. All others have.
CREATE TABLE destinations (
	server_nid INTEGER PRIMARY KEY,
	sent_position INTEGER NOT NULL,     -- everything for it up to here was accepted
	attempt_position INTEGER NOT NULL,  -- last item of the transaction that failed, which is sent again; 0: none
	retry_interval_ms INTEGER NOT NULL,
	retry_after_ts INTEGER NOT NULL,
	failing_since_ts INTEGER NOT NULL   -- 0: it answers
);

-- How old outgoing items are: where the change counter stood at some times.
CREATE TABLE outgoing_ages (
	ts INTEGER PRIMARY KEY,
	position INTEGER NOT NULL
);

-- Users of other servers whose keys are kept in device_keys and cross_signing_keys
-- and followed by m.device_list_update.
CREATE TABLE remote_device_lists (
	user_nid INTEGER PRIMARY KEY,
	stream_id INTEGER NOT NULL,         -- of the last update; 0: not known
	stale SMALLINT NOT NULL,            -- something was missed: they must be asked for again
	failures INTEGER NOT NULL,          -- of asking
	retry_after_ts INTEGER NOT NULL
);
CREATE INDEX remote_device_lists_stale ON remote_device_lists (retry_after_ts) WHERE stale = 1;

-- The last m.device_list_update about a local user, which the next one refers to.
CREATE TABLE device_list_updates (
	user_nid INTEGER PRIMARY KEY,
	stream_id INTEGER NOT NULL
);

-- m.direct_to_device messages of other servers that have arrived, so that a
-- repeated one is delivered once.
CREATE TABLE received_to_device (
	server_nid INTEGER NOT NULL,
	message_id TEXT NOT NULL,
	received_ts INTEGER NOT NULL,
	PRIMARY KEY (server_nid, message_id)
) WITHOUT ROWID;
CREATE INDEX received_to_device_age ON received_to_device (received_ts);
