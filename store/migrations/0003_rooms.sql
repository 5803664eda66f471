CREATE TABLE rooms (
	room_nid INTEGER PRIMARY KEY,
	room_id TEXT NOT NULL UNIQUE,
	is_public SMALLINT NOT NULL DEFAULT 0,  -- listed in the room directory
	creator TEXT NOT NULL,
	room_version TEXT NOT NULL,
	head INTEGER NOT NULL DEFAULT 0,          -- counts write sets; each names the one it was built on
	state_version INTEGER NOT NULL DEFAULT 0, -- of the current state, see state_log
	extremities TEXT NOT NULL DEFAULT '[]',   -- nids of the forward extremities, as JSON
	last_position INTEGER NOT NULL DEFAULT 0, -- of the newest timeline event
	joined_members INTEGER NOT NULL DEFAULT 0,
	invited_members INTEGER NOT NULL DEFAULT 0
);

-- event_nid is given out in blocks, so that a room may name an event before its commit.
CREATE TABLE event_nids (next INTEGER NOT NULL);
INSERT INTO event_nids (next) VALUES (1);

CREATE TABLE events (
	event_nid INTEGER PRIMARY KEY,
	room_nid INTEGER NOT NULL,
	position INTEGER,                  -- place in the timeline; NULL: not in it
	event_key BLOB NOT NULL,           -- the event id: its 32 bytes of hash, or as text in old rooms
	sender_nid INTEGER NOT NULL,
	type_nid INTEGER NOT NULL,
	skey INTEGER,                      -- NULL: not a state event
	depth INTEGER NOT NULL,
	origin_server_ts INTEGER NOT NULL,
	state_before INTEGER NOT NULL,     -- version of the room's state that the event met
	flags SMALLINT NOT NULL DEFAULT 0, -- 1 outlier, 2 rejected, 4 soft-failed
	redacted_by INTEGER,               -- event_nid of the redaction that emptied the body
	txn TEXT,                          -- device and transaction id of the local sender
	body BLOB NOT NULL                 -- the PDU
);
CREATE UNIQUE INDEX events_key ON events (event_key);
CREATE UNIQUE INDEX events_position ON events (position) WHERE position IS NOT NULL;
CREATE INDEX events_timeline ON events (room_nid, position) WHERE position IS NOT NULL;
CREATE INDEX events_state ON events (room_nid, position) WHERE skey IS NOT NULL AND position IS NOT NULL;

-- The state of a room is a log: at version v, key has the event of its newest
-- row whose version is not above v. 0: the key is gone.
CREATE TABLE state_log (
	room_nid INTEGER NOT NULL,
	skey INTEGER NOT NULL,
	version INTEGER NOT NULL,
	event_nid INTEGER NOT NULL,
	PRIMARY KEY (room_nid, skey, version)
) WITHOUT ROWID;

CREATE TABLE room_members (
	room_nid INTEGER NOT NULL,
	user_nid INTEGER NOT NULL,
	membership SMALLINT NOT NULL,  -- 1 join, 2 invite, 3 knock, 4 leave, 5 ban
	event_nid INTEGER NOT NULL,
	position INTEGER NOT NULL,     -- when this membership came about
	is_local SMALLINT NOT NULL,
	forgotten SMALLINT NOT NULL DEFAULT 0,
	PRIMARY KEY (room_nid, user_nid)
) WITHOUT ROWID;
CREATE INDEX room_members_of_user ON room_members (user_nid, membership) WHERE is_local = 1;
CREATE INDEX room_members_local ON room_members (room_nid, membership, user_nid) WHERE is_local = 1;

-- What somebody invited or knocking may see of the room, as a JSON array of stripped state.
CREATE TABLE stripped_states (
	room_nid INTEGER NOT NULL,
	user_nid INTEGER NOT NULL,
	events BLOB NOT NULL,
	PRIMARY KEY (room_nid, user_nid)
) WITHOUT ROWID;

-- Which event a client's transaction id made, so that a repeated request makes no second one.
CREATE TABLE event_transactions (
	user_nid INTEGER NOT NULL,
	device_id TEXT NOT NULL,
	room_nid INTEGER NOT NULL,
	txn_id TEXT NOT NULL,
	endpoint TEXT NOT NULL,
	event_nid INTEGER NOT NULL,
	created_ts INTEGER NOT NULL,
	PRIMARY KEY (user_nid, device_id, room_nid, txn_id, endpoint)
) WITHOUT ROWID;
CREATE INDEX event_transactions_age ON event_transactions (created_ts);

CREATE TABLE event_relations (
	event_nid INTEGER PRIMARY KEY,
	room_nid INTEGER NOT NULL,
	target BLOB NOT NULL,   -- event_key of the event related to, which may be unknown
	rel_type TEXT NOT NULL,
	type_nid INTEGER NOT NULL,
	sender_nid INTEGER NOT NULL,
	position INTEGER NOT NULL
);
CREATE INDEX event_relations_target ON event_relations (target, rel_type, position);
CREATE INDEX event_relations_room ON event_relations (room_nid, rel_type, position);
