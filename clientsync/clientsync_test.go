package clientsync_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/clientsync"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const (
	alice   = id.User("@alice:localhost")
	bob     = id.User("@bob:localhost")
	charlie = id.User("@charlie:localhost")
)

// server is a store, an engine and a syncer, as one process has them.
type server struct {
	t       testing.TB
	store   *store.Store
	rooms   *room.Engine
	hub     *stream.Hub
	syncer  *clientsync.Syncer
	options clientsync.Options
}

func newServer(t testing.TB) *server {
	s := &server{t: t}
	s.store = storetest.Open(t, func(c stream.Commit) func() { return s.hub.Publish(c) })
	s.rooms = room.New(s.store, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		Profile: func(_ context.Context, u id.User) (room.Profile, error) {
			return room.Profile{DisplayName: u.Localpart()}, nil
		},
	})
	s.restart()
	return s
}

// restart forgets what is only in memory.
func (s *server) restart() {
	s.hub = stream.NewHub(s.store.Position())
	var position int64
	s.view(func(tx *store.Tx) (err error) { position, err = tx.ReadPosition(); return err })
	s.hub = stream.NewHub(position)
	s.configure(s.options)
}

func (s *server) configure(o clientsync.Options) {
	s.options = o
	s.syncer = clientsync.New(s.store, s.rooms, s.hub, o)
}

func (s *server) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) view(fn func(*store.Tx) error) {
	s.t.Helper()
	s.ok(s.store.View(context.Background(), fn))
}

func (s *server) update(fn func(*store.Tx) error) {
	s.t.Helper()
	s.ok(s.store.Update(context.Background(), fn))
}

func (s *server) nid(u id.User) (nid store.UserNID) {
	s.view(func(tx *store.Tx) (err error) { nid, _, err = tx.IDs.FindUser(u); return err })
	return nid
}

func (s *server) roomNID(r id.Room) (nid store.RoomNID) {
	s.view(func(tx *store.Tx) (err error) { nid, _, err = tx.Rooms.Find(r); return err })
	return nid
}

func (s *server) create(c room.Creation) id.Room {
	s.t.Helper()
	r, err := s.rooms.Create(context.Background(), c)
	s.ok(err)
	return r
}

// publicRoom makes a room that anybody may join.
func (s *server) publicRoom(creator id.User) id.Room {
	s.t.Helper()
	return s.create(room.Creation{Creator: creator, Preset: "public_chat"})
}

func (s *server) join(r id.Room, u id.User) {
	s.t.Helper()
	s.ok(s.rooms.Join(context.Background(), room.Change{Room: r, Sender: u}))
}

func (s *server) leave(r id.Room, u id.User) {
	s.t.Helper()
	s.ok(s.rooms.Leave(context.Background(), room.Change{Room: r, Sender: u}))
}

func (s *server) invite(r id.Room, by, whom id.User) {
	s.t.Helper()
	s.ok(s.rooms.Invite(context.Background(), room.Change{Room: r, Sender: by, Target: whom}))
}

func (s *server) kick(r id.Room, by, whom id.User) {
	s.t.Helper()
	s.ok(s.rooms.Kick(context.Background(), room.Change{Room: r, Sender: by, Target: whom}))
}

func (s *server) ban(r id.Room, by, whom id.User) {
	s.t.Helper()
	s.ok(s.rooms.Ban(context.Background(), room.Change{Room: r, Sender: by, Target: whom}))
}

func (s *server) send(r id.Room, p room.Proposal) id.Event {
	s.t.Helper()
	ev, err := s.rooms.Send(context.Background(), r, p)
	s.ok(err)
	return ev
}

// say sends messages with these bodies.
func (s *server) say(r id.Room, u id.User, bodies ...string) (last id.Event) {
	s.t.Helper()
	for _, body := range bodies {
		last = s.send(r, room.Proposal{Sender: u, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"` + body + `"}`)})
	}
	return last
}

func (s *server) set(r id.Room, u id.User, typ, key, content string) id.Event {
	s.t.Helper()
	return s.send(r, room.Proposal{Sender: u, Type: typ, StateKey: &key, Content: jsontext.Value(content)})
}

func (s *server) name(r id.Room, u id.User, name string) id.Event {
	s.t.Helper()
	return s.set(r, u, "m.room.name", "", `{"name":"`+name+`"}`)
}

// answer is an answer of /sync.
type answer struct {
	NextBatch string `json:"next_batch"`
	Rooms     struct {
		Join   map[id.Room]roomAnswer `json:"join"`
		Leave  map[id.Room]roomAnswer `json:"leave"`
		Invite map[id.Room]struct {
			State events `json:"invite_state"`
		} `json:"invite"`
		Knock map[id.Room]struct {
			State events `json:"knock_state"`
		} `json:"knock"`
	} `json:"rooms"`
	AccountData     events           `json:"account_data"`
	Presence        events           `json:"presence"`
	ToDevice        events           `json:"to_device"`
	DeviceLists     *deviceLists     `json:"device_lists"`
	OneTimeKeys     map[string]int64 `json:"device_one_time_keys_count"`
	UnusedFallbacks []string         `json:"device_unused_fallback_key_types"`
	raw             string
}

type deviceLists struct {
	Changed []id.User `json:"changed"`
	Left    []id.User `json:"left"`
}

type roomAnswer struct {
	Summary *struct {
		Heroes  []id.User `json:"m.heroes"`
		Joined  *int64    `json:"m.joined_member_count"`
		Invited *int64    `json:"m.invited_member_count"`
	} `json:"summary"`
	State              *events `json:"state"`
	StateAfter         *events `json:"state_after"`
	StateAfterUnstable *events `json:"org.matrix.msc4222.state_after"`
	Timeline           struct {
		Events    []clientEvent `json:"events"`
		Limited   bool          `json:"limited"`
		PrevBatch string        `json:"prev_batch"`
	} `json:"timeline"`
	Ephemeral   events                      `json:"ephemeral"`
	AccountData events                      `json:"account_data"`
	Unread      *clientsync.Count           `json:"unread_notifications"`
	Threads     map[string]clientsync.Count `json:"unread_thread_notifications"`
}

type events struct {
	Events []clientEvent `json:"events"`
}

type clientEvent struct {
	Type     string         `json:"type"`
	Sender   id.User        `json:"sender"`
	StateKey *string        `json:"state_key"`
	ID       id.Event       `json:"event_id"`
	RoomID   id.Room        `json:"room_id"`
	Content  map[string]any `json:"content"`
	Unsigned map[string]any `json:"unsigned"`
	Redacts  id.Event       `json:"redacts"`
}

// String is short: the body of a message, the value of a state event.
func (e clientEvent) String() string {
	switch {
	case e.Type == "m.room.message":
		return fmt.Sprint(e.Content["body"])
	case e.Type == "m.room.member":
		return fmt.Sprintf("%s:%s", id.User(*e.StateKey).Localpart(), e.Content["membership"])
	case e.Type == "m.room.name":
		return fmt.Sprintf("name:%s", e.Content["name"])
	case e.Type == "m.room.topic":
		return fmt.Sprintf("topic:%s", e.Content["topic"])
	}
	return strings.TrimPrefix(e.Type, "m.room.")
}

func line(list []clientEvent) string {
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = e.String()
	}
	return strings.Join(words, " ")
}

// members is what of a list is about memberships.
func members(list []clientEvent) string {
	var only []clientEvent
	for _, e := range list {
		if e.Type == "m.room.member" {
			only = append(only, e)
		}
	}
	return line(only)
}

func (r roomAnswer) state() string {
	if r.State == nil {
		return ""
	}
	return line(r.State.Events)
}

func (r roomAnswer) stateAfter() string {
	if r.StateAfter == nil {
		return "absent"
	}
	return line(r.StateAfter.Events)
}

func (r roomAnswer) timeline() string { return line(r.Timeline.Events) }

// request asks as a user's device; change may alter what is asked.
func request(u id.User, since string, change ...func(*clientsync.Request)) clientsync.Request {
	r := clientsync.Request{User: u, Device: "DEVICE", Since: since}
	for _, c := range change {
		c(&r)
	}
	return r
}

func withFilter(f string) func(*clientsync.Request) {
	return func(r *clientsync.Request) { r.Filter = f }
}

func waiting(d time.Duration) func(*clientsync.Request) {
	return func(r *clientsync.Request) { r.Timeout = d }
}

func stateAfter(r *clientsync.Request) { r.StateAfter = true }
func fullState(r *clientsync.Request)  { r.FullState = true }

const lazy = `{"room":{"state":{"lazy_load_members":true}}}`

func (s *server) ask(r clientsync.Request) (answer, error) {
	var out bytes.Buffer
	err := s.syncer.Sync(context.Background(), r, &out)
	if err != nil {
		return answer{}, err
	}
	var a answer
	if err := json.Unmarshal(out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("%w in %s", err, out.String())
	}
	a.raw = out.String()
	return a, nil
}

func (s *server) sync(u id.User, since string, change ...func(*clientsync.Request)) answer {
	s.t.Helper()
	a, err := s.ask(request(u, since, change...))
	s.ok(err)
	return a
}

func (s *server) want(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// both runs a test with what the hub remembers, and with a hub that remembers nothing.
func both(t *testing.T, test func(t *testing.T, s *server, forget func())) {
	t.Run("remembered", func(t *testing.T) { test(t, newServer(t), func() {}) })
	t.Run("from the store", func(t *testing.T) {
		s := newServer(t)
		test(t, s, s.restart)
	})
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Code != code || e.Status != 400 {
		t.Errorf("error %v, want 400 %s", err, code)
	}
}

func TestFirstSyncHasTheRoomWhole(t *testing.T) {
	s := newServer(t)
	r := s.create(room.Creation{Creator: alice, Name: "Kitchen"})
	s.say(r, alice, "one", "two")
	a := s.sync(alice, "")
	j := a.Rooms.Join[r]
	if got := j.timeline(); !strings.HasSuffix(got, "name:Kitchen one two") || j.Timeline.Limited {
		t.Errorf("timeline %q, limited %v", got, j.Timeline.Limited)
	}
	s.want("state before a timeline from the first event on", j.state(), "")
	if j.Timeline.Events[0].Type != "m.room.create" {
		t.Errorf("the timeline begins with %s", j.Timeline.Events[0].Type)
	}
	for _, e := range j.Timeline.Events {
		if e.RoomID != "" {
			t.Errorf("%s names its room", e.Type)
		}
	}
	if again := s.sync(alice, a.NextBatch); len(again.Rooms.Join) != 0 {
		t.Errorf("nothing happened, but sync says %s", again.raw)
	}
}

func TestFirstSyncOfLongRoomIsLimited(t *testing.T) {
	s := newServer(t)
	r := s.create(room.Creation{Creator: alice, Name: "Kitchen"})
	s.say(r, alice, "one", "two", "three")
	j := s.sync(alice, "", withFilter(`{"room":{"timeline":{"limit":2}}}`)).Rooms.Join[r]
	s.want("timeline", j.timeline(), "two three")
	if !j.Timeline.Limited {
		t.Error("not limited")
	}
	if got := j.state(); !strings.Contains(got, "name:Kitchen") || !strings.Contains(got, "alice:join") || !strings.Contains(got, "create") {
		t.Errorf("state %q", got)
	}
	before, err := stream.ParsePosition(j.Timeline.PrevBatch)
	s.ok(err)
	s.view(func(tx *store.Tx) error {
		places, err := tx.Events.TimelineDown(s.roomNID(r), 0, before.Durable, 1)
		if err != nil {
			return err
		}
		events, err := s.rooms.Events(tx, []store.EventNID{places[0].NID})
		if err == nil && events[0].PDU.ContentValue("body").String() != `"one"` {
			t.Errorf("prev_batch leads to %s", events[0].PDU.JSON)
		}
		return err
	})
}

func TestNewEventsComeOnce(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.publicRoom(alice)
		quiet := s.publicRoom(alice)
		s.join(r, bob)
		since := s.sync(bob, "").NextBatch
		s.say(r, alice, "one")
		s.name(r, alice, "Kitchen")
		forget()
		a := s.sync(bob, since)
		j := a.Rooms.Join[r]
		s.want("timeline", j.timeline(), "one name:Kitchen")
		s.want("state", j.state(), "")
		if j.Timeline.Limited || j.Timeline.PrevBatch == "" || len(a.Rooms.Join) != 1 {
			t.Errorf("%s", a.raw)
		}
		forget()
		if again := s.sync(bob, a.NextBatch); len(again.Rooms.Join) != 0 {
			t.Errorf("it came again: %s", again.raw)
		}
		_ = quiet
	})
}

func TestGapHasTheStateThatChangedInIt(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.publicRoom(alice)
		s.join(r, bob)
		since := s.sync(bob, "").NextBatch
		s.name(r, alice, "First")
		s.name(r, alice, "Second")
		s.join(r, charlie)
		s.set(r, alice, "m.room.topic", "", `{"topic":"Old"}`)
		s.say(r, alice, "one")
		s.set(r, alice, "m.room.topic", "", `{"topic":"New"}`)
		s.say(r, alice, "two")
		forget()
		j := s.sync(bob, since, withFilter(`{"room":{"timeline":{"limit":3}}}`)).Rooms.Join[r]
		s.want("timeline", j.timeline(), "one topic:New two")
		s.want("state", j.state(), "name:Second charlie:join topic:Old")
		if !j.Timeline.Limited {
			t.Error("not limited")
		}
		j = s.sync(bob, since, withFilter(`{"room":{"timeline":{"limit":3}}}`), stateAfter).Rooms.Join[r]
		s.want("state_after", j.stateAfter(), "name:Second charlie:join topic:New")
		if j.State != nil {
			t.Error("state beside state_after")
		}
	})
}

// spec: client-server-api#get_matrixclientv3sync use_state_after
func TestStateAfterIsThereEvenWhenEmpty(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	a := s.sync(alice, "", stateAfter)
	if got := a.Rooms.Join[r].stateAfter(); !strings.Contains(got, "create alice:join power_levels") {
		t.Errorf("first state_after: %q", got)
	}
	s.say(r, alice, "one")
	a = s.sync(alice, a.NextBatch, stateAfter)
	s.want("state_after of a message", a.Rooms.Join[r].stateAfter(), "")
	s.name(r, alice, "Kitchen")
	a = s.sync(alice, a.NextBatch, stateAfter)
	s.want("state_after of a name", a.Rooms.Join[r].stateAfter(), "name:Kitchen")
	s.want("timeline", a.Rooms.Join[r].timeline(), "name:Kitchen")
	s.update(func(tx *store.Tx) error {
		return tx.AccountData.SetRoom(alice, r, "m.tag", jsontext.Value(`{"tags":{}}`))
	})
	a = s.sync(alice, a.NextBatch, func(q *clientsync.Request) { q.StateAfterUnstable = true })
	if j := a.Rooms.Join[r]; j.StateAfterUnstable == nil || j.StateAfter != nil || j.State != nil || len(j.AccountData.Events) != 1 {
		t.Errorf("asked by the old name: %s", a.raw)
	}
}

// A client that follows state and timeline must arrive at the right state,
// whatever its filter keeps out of the timeline.
func TestStateFilteredOutOfTheTimelineGoesIntoState(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.publicRoom(alice)
		const messages = `{"room":{"timeline":{"types":["m.room.message"]}}}`
		a := s.sync(alice, "", withFilter(messages))
		s.want("first timeline", a.Rooms.Join[r].timeline(), "")
		if got := a.Rooms.Join[r].state(); !strings.Contains(got, "create") || !strings.Contains(got, "alice:join") {
			t.Errorf("first state: %q", got)
		}
		s.say(r, alice, "one")
		s.name(r, alice, "Kitchen")
		s.say(r, alice, "two")
		forget()
		a = s.sync(alice, a.NextBatch, withFilter(messages))
		s.want("timeline", a.Rooms.Join[r].timeline(), "one two")
		s.want("state", a.Rooms.Join[r].state(), "name:Kitchen")
		s.name(r, alice, "Cellar")
		forget()
		a = s.sync(alice, a.NextBatch, withFilter(messages))
		s.want("state alone", a.Rooms.Join[r].state(), "name:Cellar")
	})
}

func TestJoiningBringsTheRoomWhole(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.publicRoom(alice)
		s.name(r, alice, "Kitchen")
		s.say(r, alice, "one", "two")
		s.sync(bob, "")
		since := s.sync(bob, "").NextBatch
		s.join(r, bob)
		forget()
		a := s.sync(bob, since, withFilter(`{"room":{"timeline":{"limit":2}}}`))
		j := a.Rooms.Join[r]
		s.want("timeline", j.timeline(), "two bob:join")
		if got := j.state(); !strings.Contains(got, "name:Kitchen") || !strings.Contains(got, "alice:join") || strings.Contains(got, "bob") {
			t.Errorf("state %q", got)
		}
		if !j.Timeline.Limited || j.Summary == nil || *j.Summary.Joined != 2 {
			t.Errorf("%s", a.raw)
		}
		j = s.sync(bob, since, withFilter(`{"room":{"timeline":{"types":["m.room.message"]}}}`)).Rooms.Join[r]
		s.want("messages", j.timeline(), "one two")
		if !j.Timeline.Limited {
			t.Error("a room that bob came into is shown as if nothing had been before")
		}
		own := s.publicRoom(bob)
		forget()
		if s.sync(bob, a.NextBatch).Rooms.Join[own].Timeline.Limited {
			t.Error("of the room that bob made all is there, but limited")
		}
	})
}

func TestRejoiningBringsTheRoomWhole(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	since := s.sync(bob, "").NextBatch
	s.leave(r, bob)
	s.name(r, alice, "While away")
	s.join(r, bob)
	a := s.sync(bob, since, withFilter(`{"room":{"timeline":{"limit":1}}}`))
	s.want("timeline", a.Rooms.Join[r].timeline(), "bob:join")
	if got := a.Rooms.Join[r].state(); !strings.Contains(got, "create") || !strings.Contains(got, "name:While away") {
		t.Errorf("state %q", got)
	}
	if len(a.Rooms.Leave) != 0 {
		t.Errorf("the room is in leave too: %s", a.raw)
	}
}

// spec: client-server-api#room-history-visibility
func TestTimelineKeepsToHistoryVisibility(t *testing.T) {
	for _, tt := range []struct{ visibility, want string }{
		{"joined", "bob:join after"},
		{"invited", "bob:invite meanwhile bob:join after"},
		{"shared", "before bob:invite meanwhile bob:join after"},
		{"world_readable", "before bob:invite meanwhile bob:join after"},
	} {
		t.Run(tt.visibility, func(t *testing.T) {
			s := newServer(t)
			r := s.create(room.Creation{Creator: alice, Preset: "private_chat"})
			s.set(r, alice, "m.room.history_visibility", "", `{"history_visibility":"`+tt.visibility+`"}`)
			s.say(r, alice, "before")
			s.invite(r, alice, bob)
			s.say(r, alice, "meanwhile")
			s.join(r, bob)
			s.say(r, alice, "after")
			j := s.sync(bob, "", withFilter(`{"room":{"timeline":{"types":["m.room.message","m.room.member"],"not_senders":[]}}}`)).Rooms.Join[r]
			got := strings.TrimPrefix(j.timeline(), "alice:join ")
			s.want("timeline", got, tt.want)
		})
	}
}

func TestInviteShowsStrippedState(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.create(room.Creation{Creator: alice, Name: "Kitchen"})
		s.sync(bob, "")
		since := s.sync(bob, "").NextBatch
		s.invite(r, alice, bob)
		forget()
		a := s.sync(bob, since)
		got := line(a.Rooms.Invite[r].State.Events)
		for _, want := range []string{"create", "name:Kitchen", "join_rules", "bob:invite"} {
			if !strings.Contains(got, want) {
				t.Errorf("invite_state %q has no %s", got, want)
			}
		}
		for _, e := range a.Rooms.Invite[r].State.Events {
			// The create event goes whole, so that it proves the room's id.
			if e.Type != "m.room.create" && (e.ID != "" || e.Unsigned != nil) {
				t.Errorf("%s is not stripped", e.Type)
			}
		}
		forget()
		if again := s.sync(bob, a.NextBatch); len(again.Rooms.Invite) != 0 {
			t.Errorf("the invite came again")
		}
		if first := s.sync(bob, ""); len(first.Rooms.Invite) != 1 {
			t.Errorf("a first sync does not know of the invite")
		}
		if len(a.Rooms.Join) != 0 || strings.Contains(a.raw, `"state"`) {
			t.Errorf("%s", a.raw)
		}
	})
}

func TestKnockShowsStrippedState(t *testing.T) {
	s := newServer(t)
	r := s.create(room.Creation{Creator: alice, Name: "Kitchen", InitialState: []room.InitialState{{Type: "m.room.join_rules", Content: jsontext.Value(`{"join_rule":"knock"}`)}}})
	s.ok(s.rooms.Knock(context.Background(), room.Change{Room: r, Sender: bob}))
	a := s.sync(bob, "")
	if got := line(a.Rooms.Knock[r].State.Events); !strings.Contains(got, "create") || !strings.Contains(got, "bob:knock") {
		t.Errorf("knock_state %q", got)
	}
}

// The leave section stops at the leave event.
func TestLeavingShowsTheEndOfTheRoom(t *testing.T) {
	for name, leave := range map[string]func(*server, id.Room){
		"leave":      func(s *server, r id.Room) { s.leave(r, bob) },
		"leave:kick": func(s *server, r id.Room) { s.kick(r, alice, bob) },
		"ban":        func(s *server, r id.Room) { s.ban(r, alice, bob) },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, s *server, forget func()) {
				membership, _, _ := strings.Cut(name, ":")
				r := s.publicRoom(alice)
				s.join(r, bob)
				since := s.sync(bob, "").NextBatch
				s.say(r, alice, "one")
				leave(s, r)
				s.say(r, alice, "secret")
				s.name(r, alice, "Secret")
				forget()
				a := s.sync(bob, since)
				s.want("timeline", a.Rooms.Leave[r].timeline(), "one bob:"+membership)
				s.want("state", a.Rooms.Leave[r].state(), "")
				if strings.Contains(strings.ToLower(a.raw), "secret") || len(a.Rooms.Join) != 0 {
					t.Errorf("%s", a.raw)
				}
				forget()
				if again := s.sync(bob, a.NextBatch); len(again.Rooms.Leave) != 0 {
					t.Error("the leave came again")
				}
				// Only whom others put out learns of it unasked.
				if first := s.sync(bob, ""); (len(first.Rooms.Leave) != 0) != (name != "leave") {
					t.Errorf("a first sync shows left rooms unasked: %s", first.raw)
				}
				first := s.sync(bob, "", withFilter(`{"room":{"include_leave":true,"timeline":{"limit":1}}}`))
				s.want("archived timeline", first.Rooms.Leave[r].timeline(), "bob:"+membership)
				if got := first.Rooms.Leave[r].state(); !strings.Contains(got, "create") || !strings.Contains(got, "bob:join") || strings.Contains(got, "Secret") {
					t.Errorf("archived state %q", got)
				}
				after := s.sync(bob, "", withFilter(`{"room":{"include_leave":true,"timeline":{"limit":1}}}`), stateAfter)
				if got := after.Rooms.Leave[r].stateAfter(); !strings.Contains(got, "bob:"+membership) || strings.Contains(got, "Secret") {
					t.Errorf("archived state_after %q", got)
				}
			})
		})
	}
}

func TestGapBeforeLeaving(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	since := s.sync(bob, "").NextBatch
	s.name(r, alice, "Seen")
	s.say(r, alice, "one")
	s.leave(r, bob)
	s.name(r, alice, "Secret")
	a := s.sync(bob, since, withFilter(`{"room":{"timeline":{"limit":1}}}`))
	s.want("timeline", a.Rooms.Leave[r].timeline(), "bob:leave")
	s.want("state", a.Rooms.Leave[r].state(), "name:Seen")
	if !a.Rooms.Leave[r].Timeline.Limited {
		t.Error("not limited")
	}
}

func TestRejectedInviteShowsOnlyItsEnd(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.create(room.Creation{Creator: alice, Name: "Secret", Preset: "private_chat"})
		s.invite(r, alice, bob)
		since := s.sync(bob, "").NextBatch
		s.leave(r, bob)
		forget()
		a := s.sync(bob, since)
		s.want("timeline", a.Rooms.Leave[r].timeline(), "bob:leave")
		s.want("state", a.Rooms.Leave[r].state(), "")
		if strings.Contains(a.raw, "Secret") {
			t.Errorf("%s", a.raw)
		}
	})
}

// Of some memberships only the end is known: the room's state has lost them, and there is no event by which.
func TestAMembershipThatEndsWithoutAnEvent(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.create(room.Creation{Creator: alice, Name: "Secret", Preset: "private_chat"})
		since := s.sync(bob, "").NextBatch
		s.update(func(tx *store.Tx) error {
			row, _, err := tx.Rooms.Get(r)
			if err != nil {
				return err
			}
			user, err := tx.IDs.User(bob)
			if err != nil {
				return err
			}
			m := store.Member{Room: row.NID, User: user, Membership: store.Leave, Position: tx.NextPosition(), Local: true}
			tx.Touch(stream.Room, row.NID, user)
			return tx.Members.Set(m)
		})
		forget()
		a := s.sync(bob, since)
		if _, ok := a.Rooms.Leave[r]; !ok || strings.Contains(a.raw, "Secret") {
			t.Errorf("%s", a.raw)
		}
		if a = s.sync(bob, a.NextBatch); len(a.Rooms.Leave) != 0 {
			t.Errorf("%s", a.raw)
		}
		for _, first := range []answer{s.sync(bob, ""), s.sync(bob, "", withFilter(`{"room":{"include_leave":true}}`)), s.sync(bob, since, fullState)} {
			if strings.Contains(first.raw, "Secret") {
				t.Errorf("%s", first.raw)
			}
		}
	})
}

// Who left and is banned later hears of the ban, and of nothing in between.
func TestBanAfterLeaving(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	s.leave(r, bob)
	since := s.sync(bob, "").NextBatch
	s.say(r, alice, "secret")
	s.name(r, alice, "Secret")
	s.ban(r, alice, bob)
	a := s.sync(bob, since)
	s.want("timeline", a.Rooms.Leave[r].timeline(), "bob:ban")
	s.want("state", a.Rooms.Leave[r].state(), "")
	first := s.sync(bob, "", withFilter(`{"room":{"include_leave":true}}`))
	if strings.Contains(strings.ToLower(first.raw), "secret") {
		t.Errorf("%s", first.raw)
	}
}

func TestForgottenRoomIsGone(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	since := s.sync(bob, "").NextBatch
	s.leave(r, bob)
	s.ok(s.rooms.Forget(context.Background(), r, bob))
	if a := s.sync(bob, "", withFilter(`{"room":{"include_leave":true}}`)); len(a.Rooms.Leave) != 0 {
		t.Errorf("%s", a.raw)
	}
	// Devices that knew the room learn that it was left, once.
	a := s.sync(bob, since)
	s.want("timeline", a.Rooms.Leave[r].timeline(), "bob:leave")
	if a = s.sync(bob, a.NextBatch); len(a.Rooms.Leave) != 0 {
		t.Errorf("%s", a.raw)
	}
}

func TestFullState(t *testing.T) {
	s := newServer(t)
	r := s.create(room.Creation{Creator: alice, Name: "Kitchen"})
	other := s.publicRoom(alice)
	since := s.sync(alice, "").NextBatch
	s.say(r, alice, "one")
	a := s.sync(alice, since, fullState, waiting(time.Hour))
	s.want("timeline", a.Rooms.Join[r].timeline(), "one")
	if got := a.Rooms.Join[r].state(); !strings.Contains(got, "create") || !strings.Contains(got, "name:Kitchen") {
		t.Errorf("state %q", got)
	}
	if got := a.Rooms.Join[other].state(); !strings.Contains(got, "create") {
		t.Errorf("state of the quiet room %q", got)
	}
}

func TestFilterOfRooms(t *testing.T) {
	s := newServer(t)
	a, b := s.publicRoom(alice), s.publicRoom(alice)
	got := s.sync(alice, "", withFilter(`{"room":{"rooms":["`+string(a)+`"]}}`))
	if _, ok := got.Rooms.Join[a]; !ok || len(got.Rooms.Join) != 1 {
		t.Errorf("rooms: %s", got.raw)
	}
	got = s.sync(alice, "", withFilter(`{"room":{"not_rooms":["`+string(a)+`"]}}`))
	if _, ok := got.Rooms.Join[b]; !ok || len(got.Rooms.Join) != 1 {
		t.Errorf("not_rooms: %s", got.raw)
	}
}

func TestFilterOfEvents(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	since := s.sync(alice, "").NextBatch
	s.say(r, alice, "mine")
	s.say(r, bob, "his")
	s.name(r, alice, "Kitchen")
	for filter, want := range map[string]string{
		`{"room":{"timeline":{"senders":["@bob:localhost"]}}}`:     "his",
		`{"room":{"timeline":{"not_senders":["@bob:localhost"]}}}`: "mine name:Kitchen",
		`{"room":{"timeline":{"types":["m.room.n*"]}}}`:            "name:Kitchen",
		`{"room":{"timeline":{"not_types":["m.room.message"]}}}`:   "name:Kitchen",
		`{"room":{"timeline":{"limit":0}}}`:                        "",
		`{"room":{"timeline":{"rooms":[]}}}`:                       "",
		`{"room":{"timeline":{"contains_url":true}}}`:              "",
	} {
		s.want(filter, s.sync(alice, since, withFilter(filter)).Rooms.Join[r].timeline(), want)
	}
	a := s.sync(alice, since, withFilter(`{"event_fields":["content.body","type"]}`))
	if e := a.Rooms.Join[r].Timeline.Events[0]; e.ID != "" || e.Sender != "" || e.Content["body"] != "mine" || e.Content["msgtype"] != nil {
		t.Errorf("event_fields: %+v", e)
	}
	a = s.sync(alice, since, withFilter(`{"event_format":"federation"}`))
	if !strings.Contains(a.raw, `"prev_events"`) || !strings.Contains(a.raw, `"hashes"`) {
		t.Errorf("event_format: %s", a.raw)
	}
}

func TestStoredFilter(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.say(r, alice, "one", "two")
	var filter string
	s.update(func(tx *store.Tx) (err error) {
		filter, err = tx.AccountData.InsertFilter(alice, jsontext.Value(`{"room":{"timeline":{"limit":1}}}`))
		return err
	})
	for range 2 {
		s.want("timeline", s.sync(alice, "", withFilter(filter)).Rooms.Join[r].timeline(), "two")
	}
}

func TestBadParameters(t *testing.T) {
	s := newServer(t)
	for name, r := range map[string]clientsync.Request{
		"since":        request(alice, "garbage"),
		"filter id":    request(alice, "", withFilter("77")),
		"set_presence": request(alice, "", func(r *clientsync.Request) { r.SetPresence = "asleep" }),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := s.ask(r)
			wantCode(t, err, "M_INVALID_PARAM")
		})
	}
	_, err := s.ask(request(alice, "", withFilter(`{"room":3}`)))
	wantCode(t, err, "M_BAD_JSON")
	_, err = s.ask(request(alice, "", withFilter(`{"room":`)))
	wantCode(t, err, "M_NOT_JSON")
}

func TestTokenOfTheFutureMeansNow(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	a := s.sync(alice, "h999999999_1")
	if len(a.Rooms.Join) != 0 || a.NextBatch == "" {
		t.Errorf("%s", a.raw)
	}
	s.say(r, alice, "one")
	s.want("timeline", s.sync(alice, a.NextBatch).Rooms.Join[r].timeline(), "one")
}
