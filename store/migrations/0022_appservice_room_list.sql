-- Rooms that application services list in the directories of their networks.
CREATE TABLE appservice_room_list (
	appservice_id TEXT NOT NULL,
	network_id TEXT NOT NULL,
	room_nid INTEGER NOT NULL,
	PRIMARY KEY (appservice_id, network_id, room_nid)
) WITHOUT ROWID;
