-- The rooms that a user of another server is in.
CREATE INDEX room_members_elsewhere ON room_members (user_nid, room_nid) WHERE is_local = 0 AND membership = 1;
