-- The one change counter. Its row is locked by each writing transaction.
CREATE TABLE stream_position (position INTEGER NOT NULL);
INSERT INTO stream_position (position) VALUES (0);

-- Integers that stand for strings inside; never shown outside.
CREATE TABLE user_ids (
	user_nid INTEGER PRIMARY KEY,
	user_id TEXT NOT NULL UNIQUE,
	is_local SMALLINT NOT NULL,
	server_nid INTEGER NOT NULL
);

CREATE TABLE server_ids (
	server_nid INTEGER PRIMARY KEY,
	server_name TEXT NOT NULL UNIQUE
);

CREATE TABLE event_types (
	type_nid INTEGER PRIMARY KEY,
	type TEXT NOT NULL UNIQUE
);

-- One row for each (type, state_key) but members, whose key is made from their user_nid.
CREATE TABLE state_keys (
	skey_nid INTEGER PRIMARY KEY,
	type_nid INTEGER NOT NULL,
	state_key TEXT NOT NULL,
	UNIQUE (type_nid, state_key)
);
