-- 8 in events.flags: an outlier that has no place in the auth graph.
-- 16: a rejection by a state that lacked members.
UPDATE events SET flags = flags + 8 WHERE flags % 2 = 1 AND skey IS NOT NULL
	AND NOT EXISTS (SELECT 1 FROM auth_graph g WHERE g.room_nid = events.room_nid AND g.event_nid = events.event_nid);
