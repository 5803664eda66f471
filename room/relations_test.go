package room_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// relating is the content of a message that refers to another event.
func relating(body, relType string, target id.Event, more string) string {
	return fmt.Sprintf(`{"msgtype":"m.text","body":%q,"m.relates_to":{"rel_type":%q,"event_id":%q}%s}`, body, relType, target, more)
}

const edited = `,"m.new_content":{"body":"edited"}`

func (s *script) edit(sender id.User, target id.Event, body string) id.Event {
	s.Helper()
	return s.send(sender, relating(body, "m.replace", target, edited))
}

func (s *script) reply(sender id.User, root id.Event, body string) id.Event {
	s.Helper()
	return s.send(sender, relating(body, "m.thread", root, ""))
}

func (s *script) redact(sender id.User, target id.Event) {
	s.Helper()
	if _, err := s.e.Redact(s.Context(), s.name, room.Proposal{Sender: sender, Redacts: target, Content: jsontext.Value(`{}`)}); err != nil {
		s.Fatal(err)
	}
}

func (s *script) event(who id.User, name id.Event) shownEvent {
	s.Helper()
	body, err := s.e.ReadEvent(s.Context(), room.Reader{User: who}, s.name, name)
	return parse[shownEvent](s.T, body, err)
}

// replacement is the body of the edit that is bundled with an event; empty: none.
func (s *script) replacement(who id.User, name id.Event) string {
	s.Helper()
	raw := s.event(who, name).Unsigned.Relations["m.replace"]
	if raw == nil {
		return ""
	}
	return parse[shownEvent](s.T, raw, nil).Content.Body
}

type shownThread struct {
	Latest       shownEvent `json:"latest_event"`
	Count        int
	Participated bool `json:"current_user_participated"`
}

// thread is what is bundled with the root of a thread, in short.
func (s *script) thread(who id.User, root id.Event) string {
	s.Helper()
	raw := s.event(who, root).Unsigned.Relations["m.thread"]
	if raw == nil {
		return "none"
	}
	t := parse[shownThread](s.T, raw, nil)
	return fmt.Sprintf("%d, latest %s, participated %v", t.Count, t.Latest, t.Participated)
}

func TestOnlyValidEditsAreBundled(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.join(bob)
	cases := []struct {
		what string
		make func() id.Event // returns the original
		want string
	}{
		{"no edit", func() id.Event { return s.say(alice, "a") }, ""},
		{"one edit", func() id.Event {
			original := s.say(alice, "a")
			s.edit(alice, original, "b")
			return original
		}, "b"},
		{"the newest by its sender's clock", func() id.Event {
			original := s.say(alice, "a")
			for ts, body := range map[int64]string{3000: "later", 2000: "earlier"} {
				_, err := s.e.Send(t.Context(), s.name, room.Proposal{Sender: alice, Type: "m.room.message", Timestamp: ts,
					Content: jsontext.Value(relating(body, "m.replace", original, edited))})
				if err != nil {
					t.Fatal(err)
				}
			}
			return original
		}, "later"},
		{"of somebody else", func() id.Event {
			original := s.say(alice, "a")
			s.edit(bob, original, "b")
			return original
		}, ""},
		{"of another type", func() id.Event {
			original := s.say(alice, "a")
			s.sendType(alice, "m.sticker", relating("b", "m.replace", original, edited))
			return original
		}, ""},
		{"without new content", func() id.Event {
			original := s.say(alice, "a")
			s.send(alice, relating("b", "m.replace", original, ""))
			return original
		}, ""},
		{"with new content that is none", func() id.Event {
			original := s.say(alice, "a")
			s.send(alice, relating("b", "m.replace", original, `,"m.new_content":"text"`))
			return original
		}, ""},
		{"encrypted, so that nobody knows", func() id.Event {
			original := s.sendType(alice, "m.room.encrypted", `{"ciphertext":"x"}`)
			s.sendType(alice, "m.room.encrypted", relating("b", "m.replace", original, ""))
			return original
		}, "m.room.encrypted"},
		{"of an edit", func() id.Event {
			first := s.edit(alice, s.say(alice, "a"), "b")
			s.edit(alice, first, "c")
			return first
		}, ""},
		{"of state", func() id.Event {
			original := s.set(alice, "m.room.topic", `{"topic":"a"}`)
			s.sendType(alice, "m.room.topic", relating("b", "m.replace", original, edited))
			return original
		}, ""},
		{"the newest redacted", func() id.Event {
			original := s.say(alice, "a")
			s.edit(alice, original, "b")
			s.redact(alice, s.edit(alice, original, "c"))
			return original
		}, "b"},
		{"the original redacted", func() id.Event {
			original := s.say(alice, "a")
			s.edit(alice, original, "b")
			s.redact(alice, original)
			return original
		}, ""},
	}
	for _, c := range cases {
		original := c.make()
		got := s.replacement(bob, original)
		if c.what == "encrypted, so that nobody knows" && s.event(bob, original).Unsigned.Relations["m.replace"] != nil {
			got = "m.room.encrypted"
		}
		if got != c.want {
			t.Errorf("%s: bundled is %q, want %q", c.what, got, c.want)
		}
	}
}

func TestThreadsAreSummedUpForEachReader(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "joined")
		s.join(bob)
		root := s.say(alice, "root")
		s.reply(alice, root, "one")
		last := s.reply(bob, root, "two")
		s.edit(bob, last, "two, edited")
		s.join(charlie)
		want := func(who id.User, want string) {
			t.Helper()
			if got := s.thread(who, root); got != want {
				t.Errorf("thread for %s: %s, want %s", who, got, want)
			}
		}
		want(alice, "2, latest two, participated true")
		want(bob, "2, latest two, participated true")
		raw := s.event(alice, root).Unsigned.Relations["m.thread"]
		if edit := parse[shownThread](t, raw, nil).Latest.Unsigned.Relations["m.replace"]; edit == nil {
			t.Error("the edit of the latest event is not bundled with it")
		}
		_, err := s.e.ReadEvent(t.Context(), room.Reader{User: charlie}, s.name, root)
		wantCode(t, err, "M_NOT_FOUND")

		s.ignore(alice, bob)
		want(alice, "1, latest one, participated true")
		s.redact(bob, last)
		want(bob, "1, latest one, participated false")
	})
}

func TestReferencesAreListed(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.join(bob)
	poll := s.say(alice, "poll")
	first := s.sendType(bob, "m.poll.response", relating("", "m.reference", poll, ""))
	second := s.sendType(alice, "m.poll.response", relating("", "m.reference", poll, ""))
	raw := s.event(alice, poll).Unsigned.Relations["m.reference"]
	if want := fmt.Sprintf(`{"chunk":[{"event_id":"%s"},{"event_id":"%s"}]}`, first, second); string(raw) != want {
		t.Errorf("bundled %s, want %s", raw, want)
	}
	s.ignore(alice, bob)
	raw = s.event(alice, poll).Unsigned.Relations["m.reference"]
	if want := fmt.Sprintf(`{"chunk":[{"event_id":"%s"}]}`, second); string(raw) != want {
		t.Errorf("bundled for who ignores bob: %s, want %s", raw, want)
	}
	s.sendType(bob, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(first)+`","key":"x"}}`)
	if got := s.event(alice, first).Unsigned.Relations; got != nil {
		t.Errorf("annotations are bundled: %v", got)
	}
}

func (s *script) relations(who id.User, q room.RelationQuery) (got []string, next string) {
	s.Helper()
	if q.Limit == 0 {
		q.Limit = 100
	}
	body, err := s.e.ReadRelations(s.Context(), room.Reader{User: who}, s.name, q)
	page := parse[struct {
		Chunk []shownEvent
		Next  string `json:"next_batch"`
		Depth int    `json:"recursion_depth"`
	}](s.T, body, err)
	for _, ev := range page.Chunk {
		got = append(got, ev.String())
	}
	if q.Recurse != (page.Depth > 0) {
		s.Errorf("recursion_depth is %d", page.Depth)
	}
	return got, page.Next
}

func TestRelationsOfAnEvent(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		s.join(bob)
		root := s.say(alice, "root")
		reply := s.reply(bob, root, "reply")
		s.sendType(alice, "m.dummy", relating("", "m.thread", root, ""))
		s.edit(alice, root, "edit")
		below := s.sendType(alice, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(reply)+`","key":"a"}}`)
		s.sendType(alice, "m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"`+string(below)+`","key":"b"}}`)
		for _, c := range []struct {
			q    room.RelationQuery
			want string
		}{
			{room.RelationQuery{Page: room.Page{Back: true}}, "edit m.dummy reply"},
			{room.RelationQuery{}, "reply m.dummy edit"},
			{room.RelationQuery{RelType: "m.thread", Page: room.Page{Back: true}}, "m.dummy reply"},
			{room.RelationQuery{RelType: "m.thread", EventType: "m.room.message"}, "reply"},
			{room.RelationQuery{RelType: "m.thread", EventType: "org.example.never"}, ""},
			{room.RelationQuery{Recurse: true}, "reply m.dummy edit m.reaction m.reaction"},
			{room.RelationQuery{Recurse: true, RelType: "m.annotation"}, ""},
		} {
			c.q.Parent = root
			if got, next := s.relations(bob, c.q); strings.Join(got, " ") != c.want || next != "" {
				t.Errorf("%+v: %v, next %q; want %s", c.q, got, next, c.want)
			}
		}
		_, err := s.e.ReadRelations(t.Context(), room.Reader{User: charlie}, s.name, room.RelationQuery{Parent: root})
		wantCode(t, err, "M_NOT_FOUND")
	})
}

func TestRelationsInPages(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	root := s.say(alice, "root")
	for i := range 7 {
		s.reply(alice, root, fmt.Sprint(i))
		s.say(alice, "between")
	}
	for _, recurse := range []bool{false, true} {
		for _, back := range []bool{false, true} {
			q := room.RelationQuery{Parent: root, Recurse: recurse, Page: room.Page{Back: back, Limit: 3}}
			var all []string
			for pages := 1; ; pages++ {
				got, next := s.relations(alice, q)
				all = append(all, got...)
				if next == "" {
					if pages != 3 {
						t.Errorf("%d pages", pages)
					}
					break
				}
				var err error
				if q.From, err = room.ParseToken("from", next); err != nil {
					t.Fatal(err)
				}
			}
			want := "0123456"
			if back {
				want = "6543210"
			}
			if got := strings.Join(all, ""); got != want {
				t.Errorf("recurse %v, back %v: %s", recurse, back, got)
			}
		}
	}
}

func (s *script) threads(who id.User, q room.ThreadQuery) (got, next string) {
	s.Helper()
	if q.Limit == 0 {
		q.Limit = 10
	}
	body, err := s.e.ReadThreads(s.Context(), room.Reader{User: who}, s.name, q)
	page := parse[struct {
		Chunk []shownEvent
		Next  string `json:"next_batch"`
	}](s.T, body, err)
	var list []string
	for _, ev := range page.Chunk {
		latest := parse[shownThread](s.T, ev.Unsigned.Relations["m.thread"], nil).Latest
		list = append(list, ev.String()+": "+latest.String())
	}
	return strings.Join(list, ", "), page.Next
}

func TestThreadsOfARoom(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		s.join(bob)
		first, second := s.say(alice, "A"), s.say(bob, "B")
		s.reply(bob, first, "1")
		s.reply(bob, second, "2")
		third := s.say(bob, "C")
		s.reply(bob, third, "3")
		s.reply(alice, first, "4")
		if got, next := s.threads(alice, room.ThreadQuery{}); got != "A: 4, C: 3, B: 2" || next != "" {
			t.Errorf("all: %s, next %q", got, next)
		}
		if got, _ := s.threads(alice, room.ThreadQuery{Participated: true}); got != "A: 4" {
			t.Errorf("those alice wrote in: %s", got)
		}
		got, next := s.threads(alice, room.ThreadQuery{Limit: 2})
		from, err := room.ParseToken("from", next)
		if got != "A: 4, C: 3" || err != nil || from == nil {
			t.Fatalf("first page: %s, %v", got, err)
		}
		if got, next := s.threads(alice, room.ThreadQuery{Limit: 2, From: from}); got != "B: 2" || next != "" {
			t.Errorf("second page: %s, next %q", got, next)
		}
		_, err = s.e.ReadThreads(t.Context(), room.Reader{User: charlie}, s.name, room.ThreadQuery{Limit: 1})
		wantCode(t, err, "M_FORBIDDEN")

		// Bob's replies are gone, and his root, in which alice takes part, is empty.
		s.reply(alice, third, "5")
		s.ignore(alice, bob)
		if got, _ := s.threads(alice, room.ThreadQuery{}); got != ": 5, A: 4" {
			t.Errorf("for who ignores bob: %s", got)
		}
	})
}

func TestRelationsThatMayNotBeMade(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.join(bob)
	root := s.say(alice, "root")
	reaction := func(sender id.User, key string) error {
		_, err := s.e.Send(t.Context(), s.name, room.Proposal{Sender: sender, Type: "m.reaction",
			Content: jsontext.Value(fmt.Sprintf(`{ "m.relates_to": {"rel_type":"m.annotation","event_id":%q,"key":%q} }`, root, key))})
		return err
	}
	for _, c := range []struct {
		sender id.User
		key    string
	}{{alice, "👍"}, {bob, "👍"}, {alice, "👎"}} {
		if err := reaction(c.sender, c.key); err != nil {
			t.Errorf("%s with %s: %v", c.sender, c.key, err)
		}
	}
	wantCode(t, reaction(alice, "👍"), "M_DUPLICATE_ANNOTATION")
	reply := s.reply(alice, root, "reply")
	_, err := s.e.Send(t.Context(), s.name, room.Proposal{Sender: bob, Type: "m.room.message", Content: jsontext.Value(relating("x", "m.thread", reply, ""))})
	wantCode(t, err, "M_UNKNOWN")
	answer := s.send(bob, fmt.Sprintf(`{"body":"rich reply","m.relates_to":{"m.in_reply_to":{"event_id":%q}}}`, root))
	s.reply(alice, answer, "a thread may begin at a rich reply")
}

func TestMessagesBundleOncePerPage(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	root := s.say(alice, "root")
	s.reply(alice, root, "reply")
	h := s.messages(alice, room.Page{Back: true, Limit: 2, Filter: &filter.RoomEventFilter{}})
	if h.Chunk[0].Unsigned.Relations != nil || h.Chunk[1].Unsigned.Relations["m.thread"] == nil {
		t.Errorf("bundled: %v, %v", h.Chunk[0].Unsigned.Relations, h.Chunk[1].Unsigned.Relations)
	}
}

func benchmarkRoom(b *testing.B, related bool) (*room.Engine, id.Room) {
	s := storetest.Open(b, nil)
	e := newEngine(b, s)
	name, err := e.Create(b.Context(), room.Creation{Creator: alice})
	if err != nil {
		b.Fatal(err)
	}
	var root id.Event
	for i := range 200 {
		p := message(alice, "")
		if related && i%2 == 1 {
			p.Content = jsontext.Value(relating("reply", "m.thread", root, ""))
		}
		ev, err := e.Send(b.Context(), name, p)
		if err != nil {
			b.Fatal(err)
		}
		if i%2 == 0 {
			root = ev
		}
	}
	return e, name
}

// A page of 100 messages, to which nothing refers or half of which begin threads.
func BenchmarkMessages(b *testing.B) {
	for _, related := range []bool{false, true} {
		b.Run(fmt.Sprintf("related=%v", related), func(b *testing.B) {
			e, name := benchmarkRoom(b, related)
			for b.Loop() {
				if _, err := e.ReadMessages(b.Context(), room.Reader{User: alice}, name, room.Page{Back: true, Limit: 100}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
