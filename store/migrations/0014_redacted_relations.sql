-- What redacted events referred to: an event stays in its thread when it is redacted.
CREATE TABLE redacted_relations (
	event_nid INTEGER PRIMARY KEY,
	room_nid INTEGER NOT NULL,
	target BLOB NOT NULL,
	rel_type TEXT NOT NULL,
	type_nid INTEGER NOT NULL,
	sender_nid INTEGER NOT NULL,
	position INTEGER NOT NULL
);
CREATE INDEX redacted_relations_place ON redacted_relations (room_nid, position);
