-- Events that an application service has yet to get. Those of one transaction
-- go together, again and again until it takes them.
CREATE TABLE application_services_queue (
	as_id TEXT NOT NULL,
	position INTEGER NOT NULL,
	event_nid INTEGER NOT NULL,
	txn_id INTEGER NOT NULL,
	PRIMARY KEY (as_id, position)
) WITHOUT ROWID;

CREATE TABLE application_services_state (
	as_id TEXT PRIMARY KEY,
	state TEXT NOT NULL DEFAULT 'up',     -- or down: it does not answer
	last_txn INTEGER NOT NULL DEFAULT 0,  -- the last transaction that it took
	since INTEGER NOT NULL,               -- nothing up to this position is sent: it was not there yet
	failures INTEGER NOT NULL DEFAULT 0,  -- attempts since it last took something
	retry_ts INTEGER NOT NULL DEFAULT 0   -- when to try again, in milliseconds
);
