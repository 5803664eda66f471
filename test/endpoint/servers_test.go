package endpoint

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/config"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/room"
	"hearth/test/server"
)

// watcher follows what a client's syncs bring.
type watcher struct {
	t     *testing.T
	c     *server.Client
	since string
}

func watch(t *testing.T, c *server.Client) *watcher {
	w := &watcher{t: t, c: c}
	w.since = c.MustDo("GET", "/_matrix/client/v3/sync?timeout=0", nil)["next_batch"].(string)
	return w
}

// until syncs until what it brings holds all of some texts, and returns that sync.
func (w *watcher) until(what string, texts ...string) string {
	w.t.Helper()
	for range 30 {
		answer := w.c.MustDo("GET", "/_matrix/client/v3/sync?timeout=5000&since="+url.QueryEscape(w.since), nil)
		w.since = answer["next_batch"].(string)
		raw, err := json.Marshal(answer, json.Deterministic(true))
		if err != nil {
			w.t.Fatal(err)
		}
		found := true
		for _, text := range texts {
			found = found && strings.Contains(string(raw), text)
		}
		if found {
			return string(raw)
		}
	}
	w.t.Fatalf("%s does not arrive at %s", what, w.c.User)
	return ""
}

// TestTwoServersTellEachOther is what users of two servers see of each other beside
// the history of their room.
func TestTwoServersTellEachOther(t *testing.T) {
	n := server.NewNetwork(t)
	here, away := n.Start(), n.Start()
	alice, bob := here.Register("alice"), away.Register("bob")
	name := alice.MustDo("POST", "/_matrix/client/v3/createRoom", object{"preset": "public_chat"})["room_id"].(string)
	if err := away.Rooms.Join(t.Context(), room.Change{Room: id.Room(name), Sender: id.User(bob.User), Via: []id.Server{here.Name()}}); err != nil {
		t.Fatal(err)
	}
	a, b := watch(t, alice), watch(t, bob)
	inRoom := "/_matrix/client/v3/rooms/" + url.PathEscape(name)

	event := alice.MustDo("PUT", inRoom+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "from alice"})["event_id"].(string)
	b.until("alice's message", "from alice")
	bob.MustDo("PUT", inRoom+"/send/m.room.message/2", object{"msgtype": "m.text", "body": "from bob"})
	a.until("bob's message", "from bob")

	alice.MustDo("PUT", inRoom+"/typing/"+url.PathEscape(alice.User), object{"typing": true, "timeout": 30000})
	b.until("alice's typing", `"m.typing"`, `"user_ids":["`+alice.User+`"]`)
	bob.MustDo("POST", inRoom+"/receipt/m.read/"+url.PathEscape(event), object{"thread_id": "main"})
	a.until("bob's receipt", `"m.receipt"`, event, bob.User, `"thread_id":"main"`)
	alice.MustDo("PUT", "/_matrix/client/v3/presence/"+url.PathEscape(alice.User)+"/status", object{"presence": "online", "status_msg": "here"})
	b.until("alice's presence", `"m.presence"`, `"status_msg":"here"`)

	bob.MustDo("PUT", "/_matrix/client/v3/sendToDevice/m.x/1", object{"messages": object{alice.User: object{"*": object{"n": 1}}}})
	a.until("bob's message to her device", `"to_device":{"events":[{"content":{"n":1},"sender":"`+bob.User+`","type":"m.x"}]}`)
}

// identity is device keys made from a seed, and their public key.
func identity(t *testing.T, c *server.Client, seed string) (keys jsontext.Value, public string) {
	t.Helper()
	k := ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
	public = signing.EncodeBase64(k.Public().(ed25519.PublicKey))
	object := fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["x"],"keys":{"ed25519:%s":%q}}`, c.User, c.Device, c.Device, public)
	keys, err := signing.Sign([]byte(object), id.User(c.User), id.Key("ed25519:"+c.Device), k)
	if err != nil {
		t.Fatal(err)
	}
	return keys, public
}

// queryKeys is what a client is told of a user's keys.
func queryKeys(t *testing.T, c, of *server.Client) string {
	t.Helper()
	answer := c.MustDo("POST", "/_matrix/client/v3/keys/query", object{"device_keys": object{string(of.User): []string{}}})
	raw, err := json.Marshal(answer, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestKeysOfUsersOfAnotherServer: who shares a room sees them, and their changes.
func TestKeysOfUsersOfAnotherServer(t *testing.T) {
	n := server.NewNetwork(t)
	here, away := n.Start(), n.Start()
	alice, bob := here.Register("alice"), away.Register("bob")
	name := alice.MustDo("POST", "/_matrix/client/v3/createRoom", object{"preset": "public_chat"})["room_id"].(string)
	join := func() {
		if err := away.Rooms.Join(t.Context(), room.Change{Room: id.Room(name), Sender: id.User(bob.User), Via: []id.Server{here.Name()}}); err != nil {
			t.Fatal(err)
		}
	}
	upload := func(c *server.Client, seed string) (public string) {
		keys, public := identity(t, c, seed)
		c.MustDo("POST", "/_matrix/client/v3/keys/upload", object{"device_keys": keys, "one_time_keys": object{"x:" + seed: "one-time"}})
		return public
	}
	query := func(c, of *server.Client) string { return queryKeys(t, c, of) }
	public := upload(bob, "1")
	a := watch(t, alice)
	join()
	a.until("bob, who is new", `"changed":["`+bob.User+`"]`)
	if got := query(alice, bob); !strings.Contains(got, public) || !strings.Contains(got, `"failures":{}`) {
		t.Errorf("bob's keys are %s", got)
	}
	for mark := range strings.SplitSeq("2 3", " ") {
		public = upload(bob, mark)
		// Bob's server tells of him when he joins, too, which may come first.
		got := ""
		for !strings.Contains(got, public) {
			a.until("bob's new keys", `"changed":["`+bob.User+`"]`)
			got = query(alice, bob)
		}
	}
	claimed := alice.MustDo("POST", "/_matrix/client/v3/keys/claim", object{"one_time_keys": object{bob.User: object{bob.Device: "x"}}})
	if raw, _ := json.Marshal(claimed); !strings.Contains(string(raw), "one-time") {
		t.Errorf("claimed %s", raw)
	}
	bob.MustDo("POST", "/_matrix/client/v3/rooms/"+url.PathEscape(name)+"/leave", object{})
	a.until("bob, who is gone", `"left":["`+bob.User+`"]`)
}

// TestDevicesOfWhoJoinsByWayOfAnotherServer: a third server in the room hears of the join from the
// second, and of devices from the first, in any order.
func TestDevicesOfWhoJoinsByWayOfAnotherServer(t *testing.T) {
	for _, first := range []string{"join", "devices"} {
		t.Run(first, func(t *testing.T) {
			n := server.NewNetwork(t)
			middle, third := n.Start(), n.Start()
			away := n.Start(func(cfg *config.Config) { cfg.DeviceNamesToServers = true })
			alice, bob, charlie := middle.Register("alice"), away.Register("bob"), third.Register("charlie")
			name := alice.MustDo("POST", "/_matrix/client/v3/createRoom", object{"preset": "public_chat"})["room_id"].(string)
			join := func(s *server.Server, c *server.Client) {
				t.Helper()
				if err := s.Rooms.Join(t.Context(), room.Change{Room: id.Room(name), Sender: id.User(c.User), Via: []id.Server{middle.Name()}}); err != nil {
					t.Fatal(err)
				}
			}
			join(third, charlie)
			c := watch(t, charlie)

			// One of both has to wait until the other was taken in.
			texts := map[string]string{"join": `"membership":"join"`, "devices": "changed soon after"}
			taken := make(chan struct{})
			third.Around(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
				body, err := io.ReadAll(r.Body)
				if err != nil {
					t.Error(err)
				}
				r.Body = io.NopCloser(bytes.NewReader(body))
				is := func(what string) bool {
					return strings.Contains(r.URL.Path, "/send/") && strings.Contains(string(body), texts[what]) && strings.Contains(string(body), bob.User)
				}
				for what := range texts {
					if what != first && is(what) {
						select {
						case <-taken:
						case <-r.Context().Done():
						}
					}
				}
				server.ServeHTTP(w, r)
				if is(first) {
					select {
					case <-taken:
					default:
						close(taken)
					}
				}
			})
			upload := func(seed string) (public string) {
				keys, public := identity(t, bob, seed)
				bob.MustDo("POST", "/_matrix/client/v3/keys/upload", object{"device_keys": keys})
				return public
			}
			upload("1")
			join(away, bob)
			public := upload("2")
			bob.MustDo("PUT", "/_matrix/client/v3/devices/"+url.PathEscape(bob.Device), object{"display_name": texts["devices"]})
			for seed := '3'; ; seed++ {
				// The client asks when it hears of the join, if not before; and again for later changes.
				got := ""
				for !strings.Contains(got, public) {
					c.until("bob's devices", `"changed":["`+bob.User+`"]`)
					got = queryKeys(t, charlie, bob)
				}
				if seed == '5' {
					break
				}
				public = upload(string(seed))
			}
		})
	}
}
