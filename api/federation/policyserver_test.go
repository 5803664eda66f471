package federation_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/config"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/test/server"
)

const sign = "/_matrix/policy/v1/sign"

// watched is a room whose policy server is the first of three servers. It wants no
// message that sells, mentions more than two users, or comes of a user named spam.
type watched struct {
	*pair
	third   *server.Server
	charlie *server.Client
	name    id.Room
	policy  object // the content of m.room.policy
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	n := server.NewNetwork(t)
	w := &watched{pair: &pair{t: t, away: n.Start()}, third: n.Start()}
	w.here = n.Start(func(cfg *config.Config) {
		cfg.Hearth.PolicyServer.DenyText = []config.Pattern{{Regexp: regexp.MustCompile(`(?i)buy\s+now`)}}
		cfg.Hearth.PolicyServer.DenyUsers = []string{"@spam*:*"}
		cfg.Hearth.PolicyServer.MaxMentions = 2
	})
	w.alice, w.bob, w.charlie = w.here.Register("alice"), w.away.Register("bob"), w.third.Register("charlie")
	w.name = w.createRoom(object{"preset": "public_chat", "room_version": "11"})
	w.bobJoins(w.name)
	w.joins(w.third, w.charlie)
	w.policy = w.here.MustDo("GET", "/.well-known/matrix/policy_server", "", nil)
	w.policy["via"] = w.here.Name()
	return w
}

func (w *watched) joins(s *server.Server, c *server.Client) {
	w.t.Helper()
	if err := s.Rooms.Join(w.t.Context(), room.Change{Room: w.name, Sender: id.User(c.User), Via: []id.Server{w.here.Name()}}); err != nil {
		w.t.Fatal(err)
	}
	c.MustDo("GET", "/_matrix/client/v3/rooms/"+escaped(w.name)+"/joined_members", nil)
}

// guard names the policy server, and waits until everybody knows it.
func (w *watched) guard() {
	w.t.Helper()
	w.alice.MustDo("PUT", w.path("/state/m.room.policy"), w.policy)
	for _, c := range []*server.Client{w.bob, w.charlie} {
		w.reads(c, `"m.room.policy"`)
	}
}

func (w *watched) path(rest string) string {
	return "/_matrix/client/v3/rooms/" + escaped(w.name) + rest
}

// reads waits until a client is told of something by /sync.
func (w *watched) reads(c *server.Client, text string) {
	w.t.Helper()
	for since := ""; w.t.Context().Err() == nil; {
		answer := c.MustDo("GET", "/_matrix/client/v3/sync?timeout=5000"+since, nil)
		since = "&since=" + url.QueryEscape(answer["next_batch"].(string))
		rooms, err := json.Marshal(answer["rooms"])
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(string(rooms), text) {
			return
		}
	}
}

// sends sends a message and returns status and answer.
func (w *watched) sends(c *server.Client, txn string, content object) (int, object) {
	w.t.Helper()
	return c.Do("PUT", w.path("/send/m.room.message/"+txn), content)
}

// signature is that of the policy server on an event, as a server has it.
func (w *watched) signature(of *server.Server, name string) any {
	w.t.Helper()
	from := w.away
	if of == from {
		from = w.here
	}
	status, answer := of.AskJSON(from, "GET", prefix+"event/"+escaped(name), nil)
	if status != 200 {
		w.t.Fatalf("%d %v", status, answer)
	}
	signatures := answer["pdus"].([]any)[0].(object)["signatures"].(object)
	own, _ := signatures[string(w.here.Name())].(object)
	return own["ed25519:policy_server"]
}

// shown lists the messages that a client finds in the room.
func (w *watched) shown(c *server.Client) string {
	w.t.Helper()
	var list []string
	page := c.MustDo("GET", w.path("/messages?dir=f&limit=100&filter="+url.QueryEscape(`{"types":["m.room.message"]}`)), nil)
	for _, e := range page["chunk"].([]any) {
		list = append(list, fmt.Sprint(e.(object)["content"].(object)["body"]))
	}
	return strings.Join(list, ",")
}

// spec: server-server-api#policy-servers
func TestThisServerIsThePolicyServerOfARoom(t *testing.T) {
	w := startWatched(t)
	spammer := w.away.Register("spammer")
	w.joins(w.away, spammer)
	w.reads(w.alice, "@spammer")
	w.guard()

	for s, c := range map[*server.Server]*server.Client{w.here: w.alice, w.away: w.bob} {
		status, answer := w.sends(c, "1", object{"msgtype": "m.text", "body": "hello of " + c.User})
		if status != 200 {
			t.Fatalf("%d %v", status, answer)
		}
		w.reads(w.charlie, "hello of "+c.User)
		for _, at := range []*server.Server{s, w.third} {
			if w.signature(at, answer["event_id"].(string)) == nil {
				t.Errorf("what %s said has no signature of the policy server on %s", c.User, at.Name())
			}
		}
		for txn, content := range map[string]object{
			"2": {"msgtype": "m.text", "body": "Buy  now!"},
			"3": {"msgtype": "m.text", "body": "look", "format": "org.matrix.custom.html", "formatted_body": "<b>BUY NOW</b>"},
			"4": {"msgtype": "m.text", "body": "* x", "m.new_content": object{"msgtype": "m.text", "body": "buy now"}},
			"5": {"msgtype": "m.text", "body": "hey", "m.mentions": object{"user_ids": []string{"@a:x", "@b:x", "@c:x"}}},
		} {
			if status, answer := w.sends(c, txn, content); status != 400 || answer["errcode"] != "M_FORBIDDEN" {
				t.Errorf("%s says %v: %d %v", c.User, content, status, answer)
			}
		}
	}
	if status, answer := w.sends(w.bob, "6", object{"msgtype": "m.text", "body": "you two", "m.mentions": object{"user_ids": []string{"@a:x", "@b:x"}}}); status != 200 {
		t.Errorf("%d %v", status, answer)
	}
	if status, answer := w.sends(spammer, "7", object{"msgtype": "m.text", "body": "harmless"}); status != 400 || answer["errcode"] != "M_FORBIDDEN" {
		t.Errorf("%d %v", status, answer)
	}
	spammer.MustDo("POST", w.path("/leave"), nil) // is not kept in
	if status, answer := spammer.Do("POST", "/_matrix/client/v3/join/"+escaped(w.name)+"?via="+url.QueryEscape(string(w.here.Name())), nil); status != 400 || answer["errcode"] != "M_FORBIDDEN" {
		t.Errorf("a user who is not wanted comes in: %d %v", status, answer)
	}
}

// A server that sends what the policy server refused has sent it in vain.
func TestWhatThePolicyServerRefusesIsSoftFailed(t *testing.T) {
	w := startWatched(t)
	w.guard()
	good, bad := w.message(w.name, "good"), w.message(w.name, "buy now")
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("o", ed25519.SeedSize)))
	forged, err := w.message(w.name, "please buy now").AddSignature(w.here.Name(), "ed25519:policy_server", other)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []*server.Server{w.here, w.third} {
		status, answer := s.AskJSON(w.away, "PUT", prefix+"send/around", transaction(w.away, bad.JSON, forged.JSON, good.JSON))
		if status != 200 || len(answer["pdus"].(object)) != 3 {
			t.Errorf("%d %v", status, answer)
		}
	}
	for _, c := range []*server.Client{w.alice, w.charlie} {
		if got := w.shown(c); got != "good" {
			t.Errorf("%s sees %s", c.User, got)
		}
	}
	if w.signature(w.here, string(good.ID)) == nil || w.signature(w.third, string(good.ID)) == nil {
		t.Error("what came without a signature was not signed")
	}
}

// spec: server-server-api#post_matrixpolicyv1sign
func TestErrorsOfThePolicyServer(t *testing.T) {
	w := startWatched(t)
	ask := func(status int, code string, body any) {
		t.Helper()
		w.wantError(status, code, "POST", sign, body)
	}
	m := w.message(w.name, "hello")
	ask(404, "M_NOT_FOUND", []byte(m.JSON)) // the room names no policy server
	w.guard()
	m = w.message(w.name, "hello")
	if status, answer := w.ask("POST", sign, []byte(m.JSON)); status != 200 || len(answer) != 1 {
		t.Errorf("%d %v", status, answer)
	}
	ask(404, "M_NOT_FOUND", bytes.ReplaceAll(m.JSON, []byte(w.name), []byte("!unknown:elsewhere.example")))
	for _, malformed := range []string{`{}`, `[]`, `7`, `{"room_id":7}`, `{"room_id":"x"}`, `{"room_id":"` + string(w.name) + `"}`} {
		ask(400, "M_BAD_JSON", []byte(malformed))
	}
	// What was read here is not what others would be shown.
	ask(400, "M_FORBIDDEN", bytes.Replace(w.message(w.name, "buy now").JSON, []byte("buy now"), []byte("goodbye"), 1))
	empty := ""
	ask(400, "M_FORBIDDEN", []byte(w.build(w.away, m.Version, event.Proto{
		Room: w.name, Type: event.TypePolicy, StateKey: &empty, Sender: m.Sender, Content: jsontext.Value(`{}`), Depth: 9,
		PrevEvents: []event.Ref{{ID: m.PrevEvents[0]}}, AuthEvents: []event.Ref{{ID: m.AuthEvents[0]}},
	}).JSON))
	ask(413, "M_TOO_LARGE", []byte(`{"room_id":"`+string(w.name)+`","x":"`+strings.Repeat("x", 300<<10)+`"}`))
	if r := w.here.Raw(t.Context(), "POST", sign, "", string(m.JSON)); r.Code != 401 {
		t.Errorf("a request without a signature: %d", r.Code)
	}
	w.alice.MustDo("PUT", w.path("/state/m.room.server_acl"), object{"allow": []string{"*"}, "deny": []string{"127.0.0.1"}})
	ask(403, "M_FORBIDDEN", []byte(m.JSON))

	// A key that the room does not have of it.
	name := w.createRoom(object{"preset": "public_chat", "room_version": "11"})
	w.bobJoins(name)
	w.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+escaped(name)+"/state/m.room.policy",
		object{"via": w.here.Name(), "public_keys": object{"ed25519": strings.Repeat("A", 43)}})
	ask(404, "M_NOT_FOUND", []byte(w.message(name, "hello").JSON))
}

// It is for a server to say whether it serves a room: by a user who is in there.
func TestAPolicyServerLeavesARoomToItself(t *testing.T) {
	w := startWatched(t)
	w.guard()
	m := w.message(w.name, "buy now")
	w.alice.MustDo("POST", w.path("/leave"), nil)
	w.reads(w.bob, `"content":{"membership":"leave"}`)
	w.wantError(404, "M_NOT_FOUND", "POST", sign, []byte(m.JSON))
	if status, answer := w.sends(w.bob, "1", object{"msgtype": "m.text", "body": "buy now"}); status != 200 {
		t.Errorf("%d %v", status, answer)
	}
}

func TestAServerThatIsNoPolicyServer(t *testing.T) {
	p := newPair(t, func(cfg *config.Config) { cfg.Hearth.PolicyServer.Enabled = false })
	if status, answer := p.here.Do("GET", "/.well-known/matrix/policy_server", "", nil); status != 404 || answer["errcode"] != "M_NOT_FOUND" {
		t.Errorf("%d %v", status, answer)
	}
	p.wantError(404, "M_UNRECOGNIZED", "POST", sign, object{"room_id": "!a:b"})
}
