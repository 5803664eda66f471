-- Rooms that were joined without their members, which are fetched afterwards.
ALTER TABLE rooms ADD COLUMN partial_version INTEGER NOT NULL DEFAULT 0; -- of the state that lacks members; 0: the state is whole
ALTER TABLE rooms ADD COLUMN partial_join INTEGER NOT NULL DEFAULT 0;    -- event_nid of the join that met that state
ALTER TABLE rooms ADD COLUMN partial_via TEXT NOT NULL DEFAULT '';       -- the server that let us in
ALTER TABLE rooms ADD COLUMN whole_position INTEGER NOT NULL DEFAULT 0;  -- when the state became whole; 0: it always was
CREATE INDEX rooms_partial ON rooms (room_nid) WHERE partial_version > 0;
CREATE INDEX rooms_made_whole ON rooms (whole_position) WHERE whole_position > 0;

-- 1: another server told that this one is in the room; its members are not all known.
ALTER TABLE room_servers ADD COLUMN told SMALLINT NOT NULL DEFAULT 0;
