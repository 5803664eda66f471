-- The state before an event of a branch: a version of the mainline with some
-- entries changed. Events name an overlay by its number below zero.
CREATE TABLE state_overlays (
	overlay_nid INTEGER PRIMARY KEY,
	room_nid INTEGER NOT NULL,
	version INTEGER NOT NULL,  -- of the mainline, see state_log
	changes BLOB NOT NULL      -- state keys with their events, see store.StateOverlays
);

-- The auth graph: the auth events of each state event, rejected ones and outliers
-- too. Events come after their auth events in order of event_nid.
CREATE TABLE auth_graph (
	room_nid INTEGER NOT NULL,
	event_nid INTEGER NOT NULL,
	skey INTEGER NOT NULL,
	rejected SMALLINT NOT NULL,
	auth BLOB NOT NULL,        -- event_nids in variable length
	PRIMARY KEY (room_nid, event_nid)
) WITHOUT ROWID;

-- Where a room's history is not known here: just before the event at position.
-- What is fetched of it gets the positions below, which were kept free for it.
CREATE TABLE timeline_gaps (
	room_nid INTEGER NOT NULL,
	position INTEGER NOT NULL,
	next INTEGER NOT NULL,     -- the position that the next event fetched gets, going down
	floor INTEGER NOT NULL,    -- the lowest position kept free
	state_before INTEGER NOT NULL, -- for events fetched
	PRIMARY KEY (room_nid, position)
) WITHOUT ROWID;

-- The events that are missing there: known events have them as prev_events.
CREATE TABLE backward_extremities (
	room_nid INTEGER NOT NULL,
	event_key BLOB NOT NULL,   -- as in events
	position INTEGER NOT NULL, -- of the gap
	PRIMARY KEY (room_nid, event_key)
) WITHOUT ROWID;
CREATE INDEX backward_extremities_gap ON backward_extremities (room_nid, position);

-- The servers that have joined members in a room.
CREATE TABLE room_servers (
	room_nid INTEGER NOT NULL,
	server_nid INTEGER NOT NULL,
	joined INTEGER NOT NULL,
	PRIMARY KEY (room_nid, server_nid)
) WITHOUT ROWID;
CREATE INDEX room_servers_of_server ON room_servers (server_nid);

-- What other servers are to be told, one row for an event or EDU with the set of
-- its destinations.
CREATE TABLE outgoing_items (
	position INTEGER PRIMARY KEY,
	room_nid INTEGER,          -- of an event
	event_nid INTEGER,
	edu BLOB,                  -- an EDU as JSON, if it is no event
	set_nid INTEGER NOT NULL
);

-- Sets of servers, each stored once.
CREATE TABLE destination_sets (
	set_nid INTEGER PRIMARY KEY,
	hash INTEGER NOT NULL,
	servers BLOB NOT NULL      -- server_nids in order, as differences in variable length
);
CREATE INDEX destination_sets_hash ON destination_sets (hash);

-- The version of the room's current state from this event on, where that does not
-- follow from state_before: on a branch, or before a gap.
ALTER TABLE events ADD COLUMN current_state INTEGER;

-- Entries of a room's state that an event changed although it does not set them:
-- where branches meet, the state may fall back to other events.
CREATE TABLE state_shifts (
	room_nid INTEGER NOT NULL,
	position INTEGER NOT NULL, -- of the event
	skey INTEGER NOT NULL,
	PRIMARY KEY (room_nid, position, skey)
) WITHOUT ROWID;

-- Redactions whose target is not known yet.
CREATE TABLE waiting_redactions (
	room_nid INTEGER NOT NULL,
	target BLOB NOT NULL,      -- event_key
	event_nid INTEGER NOT NULL,
	PRIMARY KEY (room_nid, target, event_nid)
) WITHOUT ROWID;
