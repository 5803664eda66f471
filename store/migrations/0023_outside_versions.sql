-- The room versions in the name of which invites and the like of rooms elsewhere came: whoever
-- tells of one first must not decide it for others.
CREATE TABLE outside_versions (
	event_nid INTEGER NOT NULL PRIMARY KEY,
	room_version TEXT NOT NULL
) WITHOUT ROWID;
