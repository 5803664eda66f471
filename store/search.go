package store

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
)

// Search is the index of the words of events. What a word is, the caller says:
// letters and digits of ASCII, and any other characters.
type Search struct{ tx *Tx }

const (
	insertWordsSQLite   = `INSERT INTO event_search (rowid, words) VALUES ($1, $2)`
	insertWordsPostgres = `INSERT INTO event_search (event_nid, room_nid, words)
		VALUES ($1, $2, array_to_tsvector(ARRAY(SELECT DISTINCT json_array_elements_text($3::json))))`
	deleteWords = `
		DELETE FROM event_search WHERE rowid = $1 -- only: sqlite
		DELETE FROM event_search WHERE event_nid = $1 -- only: postgres
		`
	findWordsSQLite   = `SELECT rowid FROM event_search WHERE event_search MATCH $1 ORDER BY rowid DESC LIMIT $2`
	findWordsPostgres = `SELECT event_nid FROM event_search WHERE words @@ $1::tsquery
		AND room_nid IN (SELECT value::bigint FROM json_array_elements_text($2::json)) ORDER BY event_nid DESC LIMIT $3`
)

// Insert notes the words of an event.
func (t Search) Insert(e EventNID, room RoomNID, words []string) error {
	if t.tx.conn.dialect.name == sqlite.name {
		_, err := t.tx.exec(insertWordsSQLite, e, roomWord(room)+" "+strings.Join(words, " "))
		return err
	}
	list, err := json.Marshal(words)
	if err != nil {
		return err
	}
	_, err = t.tx.exec(insertWordsPostgres, e, room, string(list))
	return err
}

// roomWord stands for a room in SQLite's index; no word of a text begins with this sign.
func roomWord(room RoomNID) string { return "§" + strconv.FormatInt(room, 10) }

// Delete forgets an event's words: it was redacted.
func (t Search) Delete(e EventNID) error {
	_, err := t.tx.exec(deleteWords, e)
	return err
}

// Find lists the events of some rooms that have all of some words, those that
// came last first.
func (t Search) Find(rooms []RoomNID, words []string, limit int) ([]EventNID, error) {
	if len(rooms) == 0 || len(words) == 0 {
		return nil, nil
	}
	if t.tx.conn.dialect.name == sqlite.name {
		inRooms := make([]string, len(rooms))
		for i, r := range rooms {
			inRooms[i] = roomWord(r)
		}
		query := `("` + strings.Join(inRooms, `" OR "`) + `") AND "` + strings.Join(words, `" AND "`) + `"`
		return list(t.tx, value[int64], findWordsSQLite, query, limit)
	}
	param, err := nidList(rooms)
	if err != nil {
		return nil, err
	}
	return list(t.tx, value[int64], findWordsPostgres, `'`+strings.Join(words, `' & '`)+`'`, param, limit)
}
