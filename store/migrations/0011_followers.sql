-- How far those have come who follow the change counter in the background.
CREATE TABLE followers (
	name TEXT PRIMARY KEY,
	position INTEGER NOT NULL
);

-- How many unread notifications users had at some position, so that a restart
-- need not count them all again. What is missing or old is counted.
CREATE TABLE unread_tallies (
	user_nid INTEGER NOT NULL,
	room_nid INTEGER NOT NULL,
	tally BLOB NOT NULL,
	PRIMARY KEY (user_nid, room_nid)
) WITHOUT ROWID;
