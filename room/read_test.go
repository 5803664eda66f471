package room_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// shown is a response or a part of one.
type shown struct {
	Start, End string
	Chunk      []shownEvent
	State      []shownEvent
	Event      shownEvent
	Before     []shownEvent `json:"events_before"`
	After      []shownEvent `json:"events_after"`
}

type shownEvent struct {
	ID       id.Event `json:"event_id"`
	Type     string
	Sender   id.User
	StateKey *string `json:"state_key"`
	Content  struct {
		Body       string
		Name       string
		Membership string
	}
	Unsigned struct {
		Relations map[string]jsontext.Value `json:"m.relations"`
	}
}

// String is short: what a test compares.
func (e shownEvent) String() string {
	switch {
	case e.Type == "m.room.message":
		return e.Content.Body
	case e.Type == event.TypeMember:
		return *e.StateKey + " " + e.Content.Membership
	}
	return e.Type
}

func names(events []shownEvent) string {
	var s []string
	for _, e := range events {
		s = append(s, e.String())
	}
	return strings.Join(s, ", ")
}

func parse[T any](t *testing.T, body jsontext.Value, err error) (v T) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &v, json.MatchCaseInsensitiveNames(true)); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if e := (*errcode.Error)(nil); !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

// script is a room under test.
type script struct {
	*testing.T
	e    *room.Engine
	s    *store.Store
	name id.Room
}

func newScript(t *testing.T, s *store.Store, visibility string) *script {
	t.Helper()
	e := newEngine(t, s)
	name, err := e.Create(t.Context(), room.Creation{Creator: alice, Preset: "public_chat", InitialState: []room.InitialState{
		{Type: event.TypeHistoryVisibility, Content: jsontext.Value(`{"history_visibility":"` + visibility + `"}`)},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return &script{t, e, s, name}
}

func (s *script) send(sender id.User, content string) id.Event {
	s.Helper()
	return s.sendType(sender, "m.room.message", content)
}

func (s *script) sendType(sender id.User, typ, content string) id.Event {
	s.Helper()
	ev, err := s.e.Send(s.Context(), s.name, room.Proposal{Sender: sender, Type: typ, Content: jsontext.Value(content)})
	if err != nil {
		s.Fatal(err)
	}
	return ev
}

func (s *script) say(sender id.User, body string) id.Event {
	s.Helper()
	return s.send(sender, `{"msgtype":"m.text","body":"`+body+`"}`)
}

func (s *script) set(sender id.User, typ, content string) id.Event {
	s.Helper()
	key := ""
	ev, err := s.e.Send(s.Context(), s.name, room.Proposal{Sender: sender, Type: typ, StateKey: &key, Content: jsontext.Value(content)})
	if err != nil {
		s.Fatal(err)
	}
	return ev
}

func (s *script) join(users ...id.User) {
	s.Helper()
	for _, u := range users {
		if err := s.e.Join(s.Context(), room.Change{Room: s.name, Sender: u}); err != nil {
			s.Fatal(err)
		}
	}
}

func (s *script) leave(u id.User) {
	s.Helper()
	if err := s.e.Leave(s.Context(), room.Change{Room: s.name, Sender: u}); err != nil {
		s.Fatal(err)
	}
}

func (s *script) messages(u id.User, p room.Page) shown {
	s.Helper()
	if p.Limit == 0 {
		p.Limit = 100
	}
	body, err := s.e.ReadMessages(s.Context(), room.Reader{User: u}, s.name, p)
	return parse[shown](s.T, body, err)
}

func (s *script) ignore(who, whom id.User) {
	s.Helper()
	err := s.s.Update(s.Context(), func(tx *store.Tx) error {
		return tx.AccountData.Set(who, "m.ignored_user_list", jsontext.Value(`{"ignored_users":{"`+string(whom)+`":{}}}`))
	})
	if err != nil {
		s.Fatal(err)
	}
}

const charlie = id.User("@charlie:localhost")

func TestWhoHasLeftSeesTheRoomAsItWas(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "joined")
		s.join(bob)
		s.set(alice, event.TypeName, `{"name":"before"}`)
		s.say(alice, "one")
		s.say(alice, "two")
		s.leave(bob)
		s.set(alice, event.TypeName, `{"name":"after"}`)
		s.say(alice, "three")
		s.join(charlie)
		ctx, name := t.Context(), event.StateTuple{Type: event.TypeName}

		if got := names(s.messages(bob, room.Page{Back: true, Limit: 3}).Chunk); got != "@bob:localhost leave, two, one" {
			t.Errorf("messages of who has left: %s", got)
		}
		for who, want := range map[id.User]string{bob: `{"name":"before"}`, alice: `{"name":"after"}`} {
			got, err := s.e.ReadStateEntry(ctx, room.Reader{User: who}, s.name, name, false)
			if err != nil || string(got) != want {
				t.Errorf("name for %s: %s %v, want %s", who, got, err, want)
			}
		}
		var body bytes.Buffer
		err := s.e.ReadMembers(ctx, room.Reader{User: bob}, s.name, room.MemberChoice{}, &body)
		if got := names(parse[shown](t, body.Bytes(), err).Chunk); got != "@alice:localhost join, @bob:localhost leave" {
			t.Errorf("members for who has left: %s", got)
		}
		err = s.e.ReadJoinedMembers(ctx, room.Reader{User: bob}, s.name, io.Discard)
		wantCode(t, err, "M_FORBIDDEN")

		// A new invite shows nothing of what happened in between.
		if err := s.e.Invite(ctx, room.Change{Room: s.name, Sender: alice, Target: bob}); err != nil {
			t.Fatal(err)
		}
		got, err := s.e.ReadStateEntry(ctx, room.Reader{User: bob}, s.name, name, false)
		if err != nil || string(got) != `{"name":"before"}` {
			t.Errorf("name for who is invited again: %s %v", got, err)
		}
		s.leave(bob)
		if err := s.e.Forget(ctx, s.name, bob); err != nil {
			t.Fatal(err)
		}
		_, err = s.e.ReadMessages(ctx, room.Reader{User: bob}, s.name, room.Page{Limit: 10})
		wantCode(t, err, "M_FORBIDDEN")
	})
}

func TestPagesMeetWithoutGapOrOverlap(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	for _, body := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		s.say(alice, body)
	}
	for _, back := range []bool{true, false} {
		var all []shownEvent
		p := room.Page{Back: back, Limit: 3}
		for {
			h := s.messages(alice, p)
			all = append(all, h.Chunk...)
			if h.End == "" {
				break
			}
			var err error
			if p.From, err = room.ParseToken("from", h.End); err != nil {
				t.Fatal(err)
			}
		}
		if !back {
			slices.Reverse(all)
		}
		want := "g, f, e, d, c, b, a, m.room.history_visibility, m.room.join_rules"
		if got := names(all); !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "m.room.create") {
			t.Errorf("back %v: %s", back, got)
		}
	}
}

func TestContextTokensGoOnWhereItEnds(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	var events []id.Event
	for _, body := range []string{"a", "b", "c", "d", "e"} {
		events = append(events, s.say(alice, body))
	}
	body, err := s.e.ReadContext(t.Context(), room.Reader{User: alice}, s.name, events[2], 2, &filter.RoomEventFilter{LazyLoadMembers: true})
	c := parse[shown](t, body, err)
	if names(c.Before) != "b" || c.Event.String() != "c" || names(c.After) != "d" {
		t.Errorf("context: %s | %s | %s", names(c.Before), c.Event, names(c.After))
	}
	if !strings.Contains(names(c.State), "@alice:localhost join") {
		t.Errorf("state: %s", names(c.State))
	}
	for _, side := range []struct {
		token string
		back  bool
		want  string
	}{{c.Start, true, "a"}, {c.End, false, "e"}} {
		from, err := room.ParseToken("from", side.token)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(s.messages(alice, room.Page{From: from, Back: side.back, Limit: 1}).Chunk); got != side.want {
			t.Errorf("after the context comes %s, want %s", got, side.want)
		}
	}
	_, err = s.e.ReadContext(t.Context(), room.Reader{User: bob}, s.name, events[2], 2, nil)
	wantCode(t, err, "M_NOT_FOUND")
}

func TestLazyLoadingAddsTheSenders(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.join(bob, charlie)
	from := s.messages(alice, room.Page{Back: true, Limit: 1}).Start
	s.say(charlie, "hello")
	p := room.Page{Limit: 10, Filter: &filter.RoomEventFilter{LazyLoadMembers: true}}
	var err error
	if p.From, err = room.ParseToken("from", from); err != nil {
		t.Fatal(err)
	}
	h := s.messages(alice, p)
	if names(h.Chunk) != "hello" || names(h.State) != "@charlie:localhost join" {
		t.Errorf("%s with %s", names(h.Chunk), names(h.State))
	}
}

func TestIgnoredUsersSayNothing(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	s.join(bob)
	s.say(bob, "spam")
	s.say(alice, "hello")
	s.ignore(alice, bob)
	if got := names(s.messages(alice, room.Page{Back: true, Limit: 2}).Chunk); got != "hello, @bob:localhost join" {
		t.Errorf("got %s", got)
	}
}

func TestMembersAtAToken(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil), "shared")
	at, err := room.ParseToken("at", s.messages(alice, room.Page{Back: true, Limit: 1}).Start)
	if err != nil {
		t.Fatal(err)
	}
	s.join(bob)
	s.join(charlie)
	s.leave(bob)
	for _, c := range []struct {
		choice room.MemberChoice
		want   string
	}{
		{room.MemberChoice{At: at}, "@alice:localhost join"},
		{room.MemberChoice{Only: store.Leave}, "@bob:localhost leave"},
		{room.MemberChoice{Not: store.Leave}, "@alice:localhost join, @charlie:localhost join"},
		{room.MemberChoice{Only: store.Leave, Not: store.Leave}, "@alice:localhost join, @bob:localhost leave, @charlie:localhost join"},
	} {
		var body bytes.Buffer
		err := s.e.ReadMembers(t.Context(), room.Reader{User: alice}, s.name, c.choice, &body)
		if got := names(parse[shown](t, body.Bytes(), err).Chunk); got != c.want {
			t.Errorf("%+v: %s, want %s", c.choice, got, c.want)
		}
	}
}

func TestNearestEventThatMayBeSeen(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "joined")
		send := func(ts int64) id.Event {
			ev, err := s.e.Send(t.Context(), s.name, room.Proposal{Sender: alice, Type: "m.room.message", Content: jsontext.Value(`{}`), Timestamp: ts})
			if err != nil {
				t.Fatal(err)
			}
			return ev
		}
		hidden := send(1000)
		s.join(bob)
		first, second, third := send(1000), send(2000), send(3000)
		for _, c := range []struct {
			who  id.User
			ts   int64
			back bool
			want id.Event
		}{
			{alice, 500, false, hidden}, {bob, 500, false, first}, {bob, 1000, true, first}, {bob, 1500, false, second},
			{bob, 2999, true, second}, {bob, 3000, true, third}, {bob, 500, true, ""},
		} {
			got, err := s.e.EventAt(t.Context(), room.Reader{User: c.who}, s.name, c.ts, c.back)
			if c.want == "" {
				wantCode(t, err, "M_NOT_FOUND")
			} else if err != nil || got.ID != c.want {
				t.Errorf("%s at %d back %v: %v %v, want %s", c.who, c.ts, c.back, got, err, c.want)
			}
		}
		_, err := s.e.EventAt(t.Context(), room.Reader{User: charlie}, s.name, 500, false)
		wantCode(t, err, "M_FORBIDDEN")
	})
}
