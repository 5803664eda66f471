//go:build interop

// Package interop_test lets two running homeservers federate, at least one of
// which need not be ours, and looks at what their users notice:
//
//	HEARTH_INTEROP_A=http://127.0.0.1:8009 HEARTH_INTEROP_B=http://127.0.0.1:8019 go test -tags interop ./test/interop
//
// The addresses are of their client APIs. Registration must be open on both,
// and limits of rates wide. Every test is run in both directions.
package interop_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
)

// patience is how long a test waits for what should happen soon.
const patience = 15 * time.Second

type obj = map[string]any

// bothWays runs a test with each of the servers as the first one.
func bothWays(t *testing.T, fn func(t *testing.T, here, there string)) {
	a, b := os.Getenv("HEARTH_INTEROP_A"), os.Getenv("HEARTH_INTEROP_B")
	if a == "" || b == "" {
		t.Skip("skipped: HEARTH_INTEROP_A and HEARTH_INTEROP_B are not set")
	}
	t.Run("A to B", func(t *testing.T) { fn(t, a, b) })
	t.Run("B to A", func(t *testing.T) { fn(t, b, a) })
}

// user is an account with one device.
type user struct {
	t                      *testing.T
	url, id, device, token string

	since     string
	rooms     map[string]*room
	presence  map[string]string
	changed   map[string]bool // whose devices changed
	toDevice  []event
	transacts int
}

// room is what /sync told of a room so far.
type room struct {
	Is       string // the part of /sync it was in last
	Timeline []event
	State    map[[2]string]event
	Typing   []any
	Receipts map[string]string // the event each user read last
}

type event struct {
	Type     string  `json:"type"`
	ID       string  `json:"event_id"`
	Sender   string  `json:"sender"`
	StateKey *string `json:"state_key"`
	Content  obj     `json:"content"`
	Unsigned obj     `json:"unsigned"`
}

func register(t *testing.T, url, name string) *user {
	t.Helper()
	u := &user{t: t, url: url, rooms: map[string]*room{}, presence: map[string]string{}, changed: map[string]bool{}}
	r := u.must("POST", "/v3/register", obj{
		"username": name + "-" + strings.ToLower(rand.Text()[:8]), "password": rand.Text(), "auth": obj{"type": "m.login.dummy"},
	})
	u.id, u.device, u.token = r["user_id"].(string), r["device_id"].(string), r["access_token"].(string)
	return u
}

func (u *user) server() string { _, s, _ := strings.Cut(u.id, ":"); return s }

// call makes a request of the client API; paths have what they name escaped.
func (u *user) call(method, path string, body obj) (int, obj) {
	u.t.Helper()
	var content []byte
	if body != nil {
		var err error
		if content, err = json.Marshal(body); err != nil {
			u.t.Fatal(err)
		}
	}
	status, _, reply := u.raw(method, "/_matrix/client"+path, "application/json", content)
	var r obj
	if err := json.Unmarshal(reply, &r); err != nil {
		u.t.Fatalf("%s %s: %d %s: %v", method, path, status, reply, err)
	}
	return status, r
}

func (u *user) raw(method, path, contentType string, content []byte) (int, http.Header, []byte) {
	u.t.Helper()
	req, err := http.NewRequestWithContext(u.t.Context(), method, u.url+path, bytes.NewReader(content))
	if err != nil {
		u.t.Fatal(err)
	}
	req.Header.Set("Content-Type", contentType)
	if u.token != "" {
		req.Header.Set("Authorization", "Bearer "+u.token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		u.t.Fatal(err)
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if err != nil {
		u.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, reply
}

// must makes a request that has to succeed.
func (u *user) must(method, path string, body obj) obj {
	u.t.Helper()
	status, r := u.call(method, path, body)
	if status != 200 {
		u.t.Fatalf("%s %s: %d %v", method, path, status, r)
	}
	return r
}

// refused makes a request that has to fail with an error.
func (u *user) refused(code, method, path string, body obj) {
	u.t.Helper()
	if status, r := u.call(method, path, body); status == 200 || r["errcode"] != code {
		u.t.Fatalf("%s %s: %d %v, want %s", method, path, status, r, code)
	}
}

// p fills the verbs of a path with escaped values.
func p(format string, values ...string) string {
	escaped := make([]any, len(values))
	for i, v := range values {
		escaped[i] = url.PathEscape(v)
	}
	return fmt.Sprintf(format, escaped...)
}

// at is what is found below keys, or nil.
func at(v any, keys ...string) any {
	for _, k := range keys {
		m, ok := v.(obj)
		if !ok {
			return nil
		}
		v = m[k]
	}
	return v
}

func list(v any, keys ...string) []any {
	l, _ := at(v, keys...).([]any)
	return l
}

// until syncs until fn, which is asked after each answer, is content.
func (u *user) until(what string, fn func() bool) {
	u.t.Helper()
	for end := time.Now().Add(patience); !fn(); {
		if time.Now().After(end) {
			u.t.Fatalf("%s gave up waiting for: %s", u.id, what)
		}
		u.sync()
	}
}

// eventually asks until fn is content, for what /sync does not tell of.
func (u *user) eventually(what string, fn func() bool) {
	u.t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !fn(); <-tick.C {
		if time.Now().After(end) {
			u.t.Fatalf("%s gave up waiting for: %s", u.id, what)
		}
	}
}

func (u *user) sync() {
	u.t.Helper()
	q := url.Values{"timeout": {"2000"}}
	if u.since != "" {
		q.Set("since", u.since)
	}
	status, _, reply := u.raw("GET", "/_matrix/client/v3/sync?"+q.Encode(), "application/json", nil)
	var r struct {
		Next  string `json:"next_batch"`
		Rooms map[string]map[string]struct {
			Timeline, State, Ephemeral struct{ Events []event }
			Invite                     struct{ Events []event } `json:"invite_state"`
			Knock                      struct{ Events []event } `json:"knock_state"`
		}
		Presence struct{ Events []event }
		ToDevice struct{ Events []event }   `json:"to_device"`
		Lists    struct{ Changed []string } `json:"device_lists"`
	}
	if err := json.Unmarshal(reply, &r, json.MatchCaseInsensitiveNames(true)); err != nil || status != 200 {
		u.t.Fatalf("sync: %d %s: %v", status, reply, err)
	}
	u.since = r.Next
	for is, rooms := range r.Rooms {
		for id, got := range rooms {
			room := u.room(id)
			room.Is = is
			for _, es := range [][]event{got.Invite.Events, got.Knock.Events, got.State.Events, got.Timeline.Events} {
				for _, e := range es {
					if e.StateKey != nil {
						room.State[[2]string{e.Type, *e.StateKey}] = e
					}
				}
			}
			room.Timeline = append(room.Timeline, got.Timeline.Events...)
			for _, e := range got.Ephemeral.Events {
				room.hear(e)
			}
		}
	}
	for _, e := range r.Presence.Events {
		u.presence[e.Sender], _ = e.Content["presence"].(string)
	}
	for _, id := range r.Lists.Changed {
		u.changed[id] = true
	}
	u.toDevice = append(u.toDevice, r.ToDevice.Events...)
}

func (r *room) hear(e event) {
	if e.Type == "m.typing" {
		r.Typing = list(e.Content, "user_ids")
		return
	}
	for id, receipts := range e.Content {
		for reader := range at(receipts, "m.read").(obj) {
			r.Receipts[reader] = id
		}
	}
}

func (u *user) room(id string) *room {
	if u.rooms[id] == nil {
		u.rooms[id] = &room{State: map[[2]string]event{}, Receipts: map[string]string{}}
	}
	return u.rooms[id]
}

// create makes a room and returns its id.
func (u *user) create(body obj) string {
	u.t.Helper()
	return u.must("POST", "/v3/createRoom", body)["room_id"].(string)
}

func (u *user) join(room, via string) {
	u.t.Helper()
	u.must("POST", p("/v3/join/%s?via=%s&server_name=%s", room, via, via), obj{})
}

// act is a request about another user: invite, kick, ban, unban.
func (u *user) act(what, room string, other *user) {
	u.t.Helper()
	u.must("POST", p("/v3/rooms/%s/%s", room, what), obj{"user_id": other.id})
}

func (u *user) leave(room string) {
	u.t.Helper()
	u.must("POST", p("/v3/rooms/%s/leave", room), obj{})
}

func (u *user) send(room, kind string, content obj) string {
	u.t.Helper()
	u.transacts++
	return u.must("PUT", p("/v3/rooms/%s/send/%s/%s", room, kind, fmt.Sprint(u.transacts)), content)["event_id"].(string)
}

func (u *user) state(room, kind, key string, content obj) string {
	u.t.Helper()
	return u.must("PUT", p("/v3/rooms/%s/state/%s/%s", room, kind, key), content)["event_id"].(string)
}

func (u *user) says(room, text string) string {
	u.t.Helper()
	return u.send(room, "m.room.message", obj{"msgtype": "m.text", "body": text})
}

// reads waits until the last messages are these.
func (u *user) reads(room string, texts ...string) {
	u.t.Helper()
	u.until(fmt.Sprintf("messages %q", texts), func() bool {
		var got []string
		for _, e := range u.room(room).Timeline {
			if text, ok := e.Content["body"].(string); ok && e.Type == "m.room.message" {
				got = append(got, text)
			}
		}
		return len(got) >= len(texts) && fmt.Sprint(got[len(got)-len(texts):]) == fmt.Sprint(texts)
	})
}

// sees waits until a user has a membership in a room.
func (u *user) sees(room string, other *user, membership string) {
	u.t.Helper()
	u.until(membership+" of "+other.id, func() bool {
		return u.room(room).State[[2]string{"m.room.member", other.id}].Content["membership"] == membership
	})
}

// sits waits until a room is in a part of the user's own /sync.
func (u *user) sits(room, is string) {
	u.t.Helper()
	u.until(room+" to be in "+is, func() bool { return u.room(room).Is == is })
}
