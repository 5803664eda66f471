package appservice

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const (
	alice = id.User("@alice:localhost")
	bob   = id.User("@bob:localhost")
	ghost = id.User("@_irc_ghost:localhost")
	bot   = id.User("@_irc_bot:localhost")
)

// sent is a request that the bridge got.
type sent struct {
	Path   string
	Header http.Header
	Query  map[string][]string
	Body   string
	Events []struct {
		ID       id.Event       `json:"event_id"`
		Room     id.Room        `json:"room_id"`
		Sender   id.User        `json:"sender"`
		Type     string         `json:"type"`
		StateKey *string        `json:"state_key"`
		Content  jsontext.Value `json:"content"`
		Unsigned map[string]any `json:"unsigned"`
	} `json:"events"`
	Ephemeral []jsontext.Value `json:"ephemeral"`
}

func (s sent) txn() string { return s.Path[strings.LastIndexByte(s.Path, '/')+1:] }

// bridge stands for an application service: a real server that answers as told.
type bridge struct {
	*httptest.Server
	got chan sent

	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request)
	taken  map[string]bool // transactions, by path: a second one is no news
}

func newBridge(t testing.TB) *bridge {
	b := &bridge{got: make(chan sent, 100), taken: map[string]bool{}}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s := sent{Path: r.URL.Path, Header: r.Header, Query: r.URL.Query(), Body: string(body)}
		if len(body) > 0 {
			if err := json.Unmarshal(body, &s); err != nil {
				t.Errorf("%s: %s", err, body)
			}
		}
		b.mu.Lock()
		answer, known := b.answer, b.taken[s.Path]
		b.taken[s.Path] = known || answer == nil && r.Method == http.MethodPut
		b.mu.Unlock()
		if answer != nil {
			answer(w, r)
		} else {
			io.WriteString(w, "{}")
		}
		if !known && !strings.Contains(s.Path, "/users/") {
			b.got <- s
		}
	}))
	t.Cleanup(b.Close)
	return b
}

func (b *bridge) answers(fn func(http.ResponseWriter, *http.Request)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = fn
}

func status(code int) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, `{"errcode":"M_FORBIDDEN"}`)
	}
}

func (b *bridge) next(t testing.TB) sent {
	t.Helper()
	select {
	case s := <-b.got:
		return s
	case <-time.After(20 * time.Second):
		t.Fatal("the bridge got nothing")
		return sent{}
	}
}

// world is a server with a bridge.
type world struct {
	t        testing.TB
	store    *store.Store
	hub      *stream.Hub
	rooms    *room.Engine
	bridge   *bridge
	services *Services
	stop     func()
}

func newWorld(t testing.TB, change ...func(string) string) *world {
	w := &world{t: t, bridge: newBridge(t)}
	w.store = storetest.Open(t, func(c stream.Commit) func() { return w.hub.Publish(c) })
	w.hub = stream.NewHub(w.store.Position())
	w.rooms = room.New(w.store, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
	text := "{id: irc, url: '" + w.bridge.URL + "', as_token: as, hs_token: hs/+&, sender_localpart: _irc_bot, namespaces: {" +
		"users: [{exclusive: true, regex: '@_irc_.*'}], aliases: [{exclusive: true, regex: '#_irc_.*'}], rooms: []}}"
	for _, c := range change {
		text = c(text)
	}
	registry, err := NewRegistry(parse(t, text))
	w.must(err)
	w.services = New(w.store, w.rooms, registry)
	w.start()
	return w
}

// start runs what the program runs.
func (w *world) start() {
	w.must(w.services.Begin(w.t.Context(), w.hub.Now().Durable))
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	for _, loop := range []func() error{
		func() error { return w.services.Run(ctx, w.hub) },
		func() error { return w.services.Deliver(ctx, "irc") },
	} {
		loops.Go(func() {
			if err := loop(); err != nil && ctx.Err() == nil {
				w.t.Error(err)
			}
		})
	}
	stopped := false
	w.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			loops.Wait()
		}
	}
	w.t.Cleanup(w.stop)
}

// restart is a stop of the whole program and another start.
func (w *world) restart() {
	w.stop()
	w.services = New(w.store, w.rooms, w.services.Registry)
	w.start()
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(by id.User) id.Room {
	w.t.Helper()
	r, err := w.rooms.Create(w.t.Context(), room.Creation{Creator: by, Preset: "public_chat"})
	w.must(err)
	return r
}

func (w *world) say(r id.Room, by id.User, body string) id.Event {
	w.t.Helper()
	e, err := w.rooms.Send(w.t.Context(), r, room.Proposal{Sender: by, Type: "m.room.message", Content: jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))})
	w.must(err)
	return e
}

// heard collects transactions until the bridge has heard a message, and returns all events.
func (w *world) heard(last id.Event) (events []id.Event) {
	w.t.Helper()
	for {
		for _, e := range w.bridge.next(w.t).Events {
			events = append(events, e.ID)
			if e.ID == last {
				return events
			}
		}
	}
}

// spec: application-service-api#pushing-events
func TestEventsAreSent(t *testing.T) {
	w := newWorld(t)
	quiet, loud := w.create(alice), w.create(alice)
	w.say(quiet, alice, "not for the bridge")
	w.must(w.rooms.Invite(t.Context(), room.Change{Room: loud, Sender: alice, Target: ghost}))
	got := w.bridge.next(t)
	if got.Path != "/_matrix/app/v1/transactions/1" || got.Header.Get("Authorization") != "Bearer hs/+&" || got.Query["access_token"][0] != "hs/+&" {
		t.Errorf("%+v", got)
	}
	if len(got.Events) != 1 || got.Events[0].Type != "m.room.member" || *got.Events[0].StateKey != string(ghost) || got.Events[0].Room != loud {
		t.Fatalf("%s", got.Body)
	}
	if got.Events[0].Unsigned["invite_room_state"] == nil || got.Events[0].Unsigned["age"] == nil {
		t.Errorf("unsigned of the invite: %v", got.Events[0].Unsigned)
	}
	w.must(w.rooms.Join(t.Context(), room.Change{Room: loud, Sender: ghost}))
	hello := w.say(loud, alice, "hello")
	if events := w.heard(hello); len(events) != 2 {
		t.Errorf("heard %v", events)
	}
	// Until the last of its users has left, and of that still.
	w.must(w.rooms.Leave(t.Context(), room.Change{Room: loud, Sender: ghost, Target: ghost}))
	if got := w.bridge.next(t); len(got.Events) != 1 || got.Events[0].Unsigned["prev_content"] == nil {
		t.Errorf("%s", got.Body)
	}
	w.say(loud, alice, "among us")
	w.must(w.rooms.Join(t.Context(), room.Change{Room: quiet, Sender: ghost}))
	if got := w.bridge.next(t); len(got.Events) != 1 || got.Events[0].Room != quiet {
		t.Errorf("%s", got.Body)
	}
}

func TestWhatConcernsAService(t *testing.T) {
	for name, change := range map[string]func(string) string{
		"its bot": func(s string) string { return s },
		"a room id": func(s string) string {
			return strings.Replace(s, "rooms: []", "rooms: [{exclusive: false, regex: '!.*'}]", 1)
		},
		"an alias":       func(s string) string { return s },
		"all users here": func(s string) string { return strings.Replace(s, "'@_irc_.*'", "'@.*:localhost'", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, change)
			r := w.create(alice)
			switch name {
			case "its bot":
				w.must(w.rooms.Join(t.Context(), room.Change{Room: r, Sender: bot}))
			case "an alias":
				w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
					_, err := tx.Aliases.Insert(store.Alias{Alias: "#_irc_x:localhost", Room: r, Creator: alice})
					return err
				}))
			}
			w.heard(w.say(r, alice, "hello"))
		})
	}
}

func TestTransactionsAreRepeatedUntilTaken(t *testing.T) {
	w := newWorld(t)
	r := w.create(bot)
	w.heard(w.say(r, alice2(w, r), "first"))
	w.bridge.answers(status(500))
	lost := w.say(r, alice, "second")
	first := w.bridge.next(t)
	later := w.say(r, alice, "third") // while the second is in flight
	again := w.bridge.next(t)
	if first.Body != again.Body || first.txn() != again.txn() {
		t.Errorf("changed: %s, then %s", first.Body, again.Body)
	}
	w.bridge.answers(nil)
	if took, err := w.services.Ping(t.Context(), "irc", "meow"); err != nil || took <= 0 {
		t.Fatal(err)
	}
	if ping := w.bridge.next(t); ping.Path != "/_matrix/app/v1/ping" || ping.Body != `{"transaction_id":"meow"}` || ping.Header.Get("Authorization") != "Bearer hs/+&" {
		t.Errorf("%+v", ping)
	}
	if events := w.heard(later); len(events) != 2 || events[0] != lost {
		t.Errorf("heard %v", events)
	}
}

// alice2 lets alice join.
func alice2(w *world, r id.Room) id.User {
	w.t.Helper()
	w.must(w.rooms.Join(w.t.Context(), room.Change{Room: r, Sender: alice}))
	return alice
}

func TestNothingIsLostAcrossRestarts(t *testing.T) {
	w := newWorld(t)
	r := w.create(bot)
	w.heard(w.say(r, alice2(w, r), "first"))
	w.bridge.answers(status(503))
	w.say(r, alice, "second")
	before := w.bridge.next(t)
	w.bridge.next(t) // now the first failure is written down
	w.stop()
	w.say(r, alice, "while it was down")
	last := w.say(r, alice, "this too")
	w.bridge.answers(nil)
	w.restart()
	if state, err := w.services.state(t.Context(), "irc"); err != nil || state.Failures == 0 {
		t.Errorf("forgot that it had to wait: %+v %v", state, err)
	}
	after := w.bridge.next(t)
	if after.txn() != before.txn() || len(after.Events) != 1 || after.Events[0].ID != before.Events[0].ID {
		t.Errorf("changed: %s, then %s", before.Body, after.Body)
	}
	if events := w.heard(last); len(events) != 2 {
		t.Errorf("heard %v", events)
	}
	// What it took is not sent again.
	w.restart()
	end := w.say(r, alice, "end")
	if events := w.heard(end); len(events) != 1 {
		t.Errorf("heard %v", events)
	}
}

func TestTransactionsAreBounded(t *testing.T) {
	w := newWorld(t)
	r := w.create(bot)
	w.heard(w.say(r, alice2(w, r), "first"))
	w.stop()
	var last id.Event
	for i := range 2*maxTransaction + 5 {
		last = w.say(r, alice, fmt.Sprint(i))
	}
	w.restart()
	n, txns, at := 0, map[string]bool{}, ""
	for at != string(last) {
		got := w.bridge.next(t)
		if len(got.Events) > maxTransaction || txns[got.txn()] {
			t.Errorf("transaction %s of %d events", got.txn(), len(got.Events))
		}
		txns[got.txn()] = true
		for _, e := range got.Events {
			var c struct{ Body string }
			if err := json.Unmarshal(e.Content, &c, json.MatchCaseInsensitiveNames(true)); err != nil || c.Body != fmt.Sprint(n) {
				t.Fatalf("event %d is %s", n, e.Content)
			}
			n++
			at = string(e.ID)
		}
	}
}

func TestNewServicesBeginNow(t *testing.T) {
	w := newWorld(t)
	r := w.create(bot)
	w.heard(w.say(r, alice2(w, r), "before"))
	w.stop()
	newcomer := parse(t, "{id: new, url: '"+w.bridge.URL+"/new', as_token: as2, hs_token: hs2, sender_localpart: other, namespaces: {rooms: [{exclusive: false, regex: '.*'}]}}")
	registry, err := NewRegistry(newcomer)
	w.must(err)
	w.services = New(w.store, w.rooms, registry)
	w.must(w.services.Begin(t.Context(), w.hub.Now().Durable))
	ctx, cancel := context.WithCancel(t.Context())
	var loops sync.WaitGroup
	loops.Go(func() { _ = w.services.Run(ctx, w.hub) })
	loops.Go(func() { _ = w.services.Deliver(ctx, "new") })
	now := w.say(r, alice, "now")
	got := w.bridge.next(t)
	if !strings.HasPrefix(got.Path, "/new/_matrix/app/v1/transactions/") || len(got.Events) != 1 || got.Events[0].ID != now {
		t.Errorf("%s %s", got.Path, got.Body)
	}
	cancel()
	loops.Wait()
}

// spec: client-server-api#post_matrixclientv1appserviceappserviceidping
func TestPingFailures(t *testing.T) {
	w := newWorld(t)
	code := func(err error, status int, code string) *errcode.Error {
		t.Helper()
		e, ok := errors.AsType[*errcode.Error](err)
		if !ok || e.Status != status || e.Code != code {
			t.Fatalf("got %v, want %s", err, code)
		}
		return e
	}
	w.bridge.answers(status(403))
	_, err := w.services.Ping(t.Context(), "irc", "")
	e := code(err, 502, "M_BAD_STATUS")
	if e.Extra["status"] != 403 || e.Extra["body"] != `{"errcode":"M_FORBIDDEN"}` {
		t.Errorf("%v", e.Extra)
	}
	if got := w.bridge.next(t); got.Body != "{}" {
		t.Errorf("%s", got.Body)
	}
	_, err = w.services.Ping(t.Context(), "unknown", "")
	code(err, 403, "M_FORBIDDEN")
	w.bridge.Close()
	_, err = w.services.Ping(t.Context(), "irc", "")
	e = code(err, 502, "M_CONNECTION_FAILED")
	if strings.Contains(e.Message, "hs/+") || strings.Contains(e.Message, "hs%2F") {
		t.Errorf("the token is in the error: %s", e.Message)
	}
	registry, err := NewRegistry(parse(t, "{id: quiet, url: null, as_token: a, hs_token: h, sender_localpart: s, namespaces: {}}"))
	w.must(err)
	quiet := New(w.store, w.rooms, registry)
	_, err = quiet.Ping(t.Context(), "quiet", "")
	code(err, 400, "M_URL_NOT_SET")
	w.must(quiet.Deliver(t.Context(), "quiet"))
}

func TestPingTimeout(t *testing.T) {
	w := newWorld(t)
	w.bridge.answers(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	w.services.client = shortClient()
	_, err := w.services.Ping(t.Context(), "irc", "")
	if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Status != 504 || e.Code != "M_CONNECTION_TIMEOUT" {
		t.Errorf("got %v", err)
	}
}
