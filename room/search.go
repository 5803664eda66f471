package room

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/store"
)

// searched are the event types whose words can be searched for, and the key of
// content that has them.
// spec: client-server-api#server-side-search
var searched = map[string]string{
	"m.room.message": "body",
	event.TypeName:   "name",
	event.TypeTopic:  "topic",
}

const (
	// indexName is what the store calls the index among the followers.
	indexName = "search"
	// indexBatch is how many events are indexed in one transaction. It keeps other
	// writers waiting for some milliseconds at most.
	indexBatch = 200
	// indexPause is how often the index is brought up to date when nobody searches.
	indexPause = 10 * time.Second
)

// RunIndex keeps the index of words near the present until ctx ends. Indexing
// many events at once costs far less than each in its own commit.
func (e *Engine) RunIndex(ctx context.Context) error {
	tick := time.NewTicker(indexPause)
	defer tick.Stop()
	for {
		if err := e.index(ctx); err != nil && ctx.Err() == nil {
			slog.Error("index words of events", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// index brings the index of words up to date.
func (e *Engine) index(ctx context.Context) error {
	if e.options.NoSearch {
		return nil
	}
	current := false
	err := e.store.View(ctx, func(tx *store.Tx) error {
		done, _, err := tx.Followers.Position(indexName)
		if err != nil {
			return err
		}
		newest, err := tx.ReadPosition()
		current = done == newest
		return err
	})
	for err == nil && !current {
		err = e.store.Update(ctx, func(tx *store.Tx) (err error) {
			current, err = indexNext(tx)
			return err
		})
	}
	return err
}

// indexNext indexes the next batch; current: there is no more. It reads what the
// transaction sees, so that no word of an event that was just redacted gets in.
func indexNext(tx *store.Tx) (current bool, err error) {
	done, _, err := tx.Followers.Position(indexName)
	if err != nil {
		return false, err
	}
	keys, types := map[store.TypeNID]string{}, []store.TypeNID{}
	for typ, key := range searched {
		nid, ok, err := tx.IDs.FindType(typ)
		if err != nil {
			return false, err
		}
		if ok {
			keys[nid], types = key, append(types, nid)
		}
	}
	upTo := tx.Position()
	events, err := tx.Events.OfTypesAfter(done, upTo, types, indexBatch)
	if err != nil {
		return false, err
	}
	for _, ev := range events {
		if ev.RedactedBy != 0 {
			continue
		}
		text, _ := canonical.GetString(canonical.Get(ev.JSON, "content"), keys[ev.Type])
		if found := words(text); len(found) > 0 {
			if err := tx.Search.Insert(ev.NID, ev.Room, found); err != nil {
				return false, fmt.Errorf("index %s: %w", ev.ID, err)
			}
		}
	}
	if current = len(events) < indexBatch; !current {
		upTo = events[len(events)-1].Position
	}
	return current, tx.Followers.SetPosition(indexName, upTo)
}

// maxWords bounds the different words of one event that are indexed, maxWord the
// length of a word, in bytes.
const (
	maxWords = 1000
	maxWord  = 64
)

// words splits a text into its different words, in lower case: runs of letters
// and digits. Of scripts that are written without spaces each character is a word.
func words(text string) (found []string) {
	seen := map[string]bool{}
	add := func(word string) {
		if word = truncated(word); word != "" && !seen[word] && len(found) < maxWords {
			seen[word] = true
			found = append(found, word)
		}
	}
	for _, run := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !isWordRune(r) }) {
		start := 0
		for i, r := range run {
			if unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Katakana, unicode.Thai) {
				end := i + utf8.RuneLen(r)
				add(run[start:i])
				add(run[i:end])
				start = end
			}
		}
		add(run[start:])
	}
	return found
}

func isWordRune(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) || unicode.IsMark(r) }

func truncated(word string) string {
	if len(word) <= maxWord {
		return word
	}
	end := maxWord
	for !utf8.RuneStart(word[end]) {
		end--
	}
	return word[:end]
}
