package room_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

type shownSearch struct {
	Count      int
	Highlights []string
	Results    []struct {
		Rank    float64
		Result  shownEvent
		Context *struct {
			Start, End string
			Before     []shownEvent                             `json:"events_before"`
			After      []shownEvent                             `json:"events_after"`
			Profiles   map[id.User]struct{ DisplayName string } `json:"profile_info"`
		}
	}
	Groups map[string]map[string]struct {
		Results []id.Event
		Order   int
		Next    string `json:"next_batch"`
	}
	State map[id.Room][]shownEvent
	Next  string `json:"next_batch"`
}

func (r shownSearch) String() string {
	var list []string
	for _, h := range r.Results {
		text := h.Result.Content.Body
		if text == "" {
			text = h.Result.Content.Name
		}
		list = append(list, text)
	}
	return strings.Join(list, ", ")
}

func placeToken(p room.SearchPlace) string {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

func (s *script) search(who id.User, q room.SearchQuery) shownSearch {
	s.Helper()
	if q.Limit == 0 {
		q.Limit = 10
	}
	body, err := s.e.Search(s.Context(), room.Reader{User: who}, q, placeToken)
	return parse[shownSearch](s.T, body, err)
}

func TestSearchFindsWordsThatOneMaySee(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "joined")
		s.say(alice, "Hello before bob")
		s.join(bob)
		s.say(alice, "hello, World")
		s.say(bob, "größe, été, 東京タワー, word's it's-hyphenated")
		s.set(alice, event.TypeName, `{"name":"Hello Room"}`)
		s.sendType(alice, "m.room.encrypted", `{"body":"hello"}`)
		later := s.say(alice, "until later")
		gone := s.say(alice, "hello, gone")
		s.redact(alice, gone)
		for _, c := range []struct {
			who  id.User
			q    room.SearchQuery
			want string
		}{
			{alice, room.SearchQuery{Term: "HELLO", Recent: true}, "Hello Room, hello, World, Hello before bob"},
			{bob, room.SearchQuery{Term: "hello", Recent: true}, "Hello Room, hello, World"},
			{bob, room.SearchQuery{Term: "world hello"}, "hello, World"},
			{bob, room.SearchQuery{Term: "wor"}, ""},
			{bob, room.SearchQuery{Term: "GRÖSSE größe"}, ""},
			{bob, room.SearchQuery{Term: "Größe"}, "größe, été, 東京タワー, word's it's-hyphenated"},
			{bob, room.SearchQuery{Term: "京"}, "größe, été, 東京タワー, word's it's-hyphenated"},
			{bob, room.SearchQuery{Term: `it's "hyphenated`}, "größe, été, 東京タワー, word's it's-hyphenated"},
			{bob, room.SearchQuery{Term: `" OR * § ' & !`}, ""},
			{bob, room.SearchQuery{Term: "hello", Keys: []string{"content.name"}}, "Hello Room"},
			{bob, room.SearchQuery{Term: "hello", Keys: []string{"content.topic"}}, ""},
			{charlie, room.SearchQuery{Term: "hello"}, ""},
		} {
			got := s.search(c.who, c.q)
			if got.String() != c.want || (c.want == "") != (got.Count == 0) {
				t.Errorf("%s searches %+v: %s (%d), want %s", c.who, c.q, got, got.Count, c.want)
			}
		}
		f, err := filter.ParseRoomEventFilter([]byte(`{"not_rooms":["` + string(s.name) + `"]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := s.search(bob, room.SearchQuery{Term: "hello", Filter: f}); got.Count != 0 {
			t.Errorf("in no room: %s", got)
		}
		s.redact(alice, later)
		if got := s.search(bob, room.SearchQuery{Term: "later"}); got.Count != 0 {
			t.Errorf("redacted after it was indexed: %s", got)
		}
		s.ignore(bob, alice)
		if got := s.search(bob, room.SearchQuery{Term: "hello"}); got.String() != "Hello Room" {
			t.Errorf("for who ignores alice: %s", got)
		}
	})
}

func TestSearchPutsTheCloserMatchFirst(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.say(alice, "fish")
	s.say(alice, "a long story in which a fish comes by at some time and goes on")
	got := s.search(alice, room.SearchQuery{Term: "fish"})
	if !strings.HasPrefix(got.String(), "fish, a long") || got.Results[0].Rank <= got.Results[1].Rank {
		t.Errorf("by rank: %s", got)
	}
	if got = s.search(alice, room.SearchQuery{Term: "fish", Recent: true}); !strings.HasSuffix(got.String(), ", fish") {
		t.Errorf("by time: %s", got)
	}
}

func TestSearchInPagesWithContext(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	for i := range 7 {
		s.say(alice, fmt.Sprintf("message number %d", i))
	}
	q := room.SearchQuery{Term: "message", Recent: true, Limit: 3}
	var pages []string
	for {
		got := s.search(alice, q)
		if got.Count != 7 {
			t.Errorf("count %d", got.Count)
		}
		if got.String() != "" {
			pages = append(pages, got.String())
		}
		if got.Next == "" {
			break
		}
		if err := json.Unmarshal([]byte(got.Next), &q.After); err != nil {
			t.Fatal(err)
		}
	}
	if want := "message number 6, message number 5, message number 4|message number 3, message number 2, message number 1|message number 0"; strings.Join(pages, "|") != want {
		t.Errorf("pages: %s", strings.Join(pages, "|"))
	}
	_, err := s.e.Search(t.Context(), room.Reader{User: alice}, room.SearchQuery{Term: "message", Limit: 1, After: room.SearchPlace{Event: "$nothing"}}, placeToken)
	wantCode(t, err, "M_INVALID_PARAM")

	got := s.search(alice, room.SearchQuery{Term: "number 3", IncludeState: true, Context: &room.SearchContext{Before: 2, After: 1, IncludeProfile: true}})
	c := got.Results[0].Context
	if names(c.Before) != "message number 2, message number 1" || names(c.After) != "message number 4" || c.Start == "" || c.End == "" {
		t.Errorf("context: %s | %s", names(c.Before), names(c.After))
	}
	if c.Profiles[alice].DisplayName != "Somebody" {
		t.Errorf("profiles: %v", c.Profiles)
	}
	if !strings.Contains(names(got.State[s.name]), "m.room.create") {
		t.Errorf("state: %s", names(got.State[s.name]))
	}
	if strings.Join(got.Highlights, " ") != "number 3" {
		t.Errorf("highlights: %v", got.Highlights)
	}
}

func TestSearchInGroups(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.join(bob)
	first := s.say(alice, "word one")
	s.say(bob, "word two")
	s.say(alice, "word three")
	got := s.search(alice, room.SearchQuery{Term: "word", Recent: true, Limit: 2, GroupBy: []string{"room_id", "sender"}})
	if len(got.Groups["room_id"][string(s.name)].Results) != 2 || got.Groups["sender"][string(bob)].Order != 2 || got.Groups["sender"][string(bob)].Next != "" {
		t.Fatalf("groups: %+v", got.Groups)
	}
	q := room.SearchQuery{Term: "word", Recent: true}
	if err := json.Unmarshal([]byte(got.Groups["sender"][string(alice)].Next), &q.After); err != nil {
		t.Fatal(err)
	}
	if got = s.search(alice, q); len(got.Results) != 1 || got.Results[0].Result.ID != first {
		t.Errorf("next page of alice's: %s", got)
	}
}

func TestSearchInManyRooms(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		s.say(alice, "needle")
		s.search(alice, room.SearchQuery{Term: "needle"}) // brings the index up to date
		rooms := make([]store.RoomNID, 3000)
		if err := st.View(t.Context(), func(tx *store.Tx) error {
			nid, _, err := tx.Rooms.Find(s.name)
			if err != nil {
				return err
			}
			for i := range rooms {
				rooms[i] = nid + int64(i)
			}
			found, err := tx.Search.Find(rooms, []string{"needle"}, 10)
			if len(found) != 1 {
				t.Errorf("found %v", found)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSearchSwitchedOff(t *testing.T) {
	st := storetest.Open(t, nil)
	e := room.New(st, room.Options{Server: storetest.Server, NoSearch: true})
	_, err := e.Search(t.Context(), room.Reader{User: alice}, room.SearchQuery{Term: "x"}, placeToken)
	wantCode(t, err, "M_UNKNOWN")
}

func BenchmarkSearch(b *testing.B) {
	s := storetest.Open(b, nil)
	e := newEngine(b, s)
	name, err := e.Create(b.Context(), room.Creation{Creator: alice})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 1000 {
		p := message(alice, "")
		p.Content = jsontext.Value(fmt.Sprintf(`{"body":"message number %d of a thousand"}`, i))
		if _, err := e.Send(b.Context(), name, p); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		if _, err := e.Search(b.Context(), room.Reader{User: alice}, room.SearchQuery{Term: "number 500", Limit: 10}, placeToken); err != nil {
			b.Fatal(err)
		}
	}
}

// What one transaction of the index costs, with its share of the work.
func BenchmarkIndex(b *testing.B) {
	s := storetest.Open(b, nil)
	e := newEngine(b, s)
	name, err := e.Create(b.Context(), room.Creation{Creator: alice})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		b.StopTimer()
		for i := range 200 {
			p := message(alice, "")
			p.Content = jsontext.Value(fmt.Sprintf(`{"body":"message number %d of two hundred, with some words that many have: the quick brown fox"}`, i))
			if _, err := e.Send(b.Context(), name, p); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if _, err := e.Search(b.Context(), room.Reader{User: alice}, room.SearchQuery{Term: "none at all", Limit: 10}, placeToken); err != nil {
			b.Fatal(err)
		}
	}
}
