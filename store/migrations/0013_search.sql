-- The words of messages, room names and topics. SQLite keeps the index alone,
-- under the event's nid, with the room as one more word.
CREATE VIRTUAL TABLE event_search USING fts5(words, content='', contentless_delete=1, detail=none, tokenize='ascii') -- only: sqlite
CREATE TABLE event_search (event_nid BIGINT PRIMARY KEY, room_nid BIGINT NOT NULL, words tsvector NOT NULL) -- only: postgres
;
CREATE INDEX event_search_words ON event_search USING GIN (words) -- only: postgres
;
