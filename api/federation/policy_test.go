package federation_test

import (
	"crypto/ed25519"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
	"hearth/room"
	"hearth/test/server"
)

// guard is a policy server: it has a member in the room, and signs what is no spam.
type guard struct {
	*server.Server
	key   ed25519.PrivateKey
	shown chan string // bodies of what it was asked about
}

func startGuard(t *testing.T, n *server.Network) *guard {
	t.Helper()
	g := &guard{Server: n.Start(), key: ed25519.NewKeyFromSeed([]byte(strings.Repeat("g", ed25519.SeedSize))), shown: make(chan string, 100)}
	g.Serve("POST", "/_matrix/policy/v1/sign", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if _, err := g.Remote.AuthenticateRequest(r.Context(), r, body); err != nil {
			http.Error(w, `{"errcode":"M_UNAUTHORIZED"}`, http.StatusUnauthorized)
			return
		}
		v, _ := roomversion.Get("11")
		pdu, err := event.Parse(v, body)
		if err != nil {
			http.Error(w, `{"errcode":"M_BAD_JSON"}`, http.StatusBadRequest)
			return
		}
		text := pdu.ContentString("body")
		g.shown <- text
		if strings.Contains(text, "spam") {
			http.Error(w, `{"errcode":"M_FORBIDDEN","error":"no spam, please"}`, http.StatusForbidden)
			return
		}
		var all struct {
			Signatures map[id.Server]map[id.Key]string `json:"signatures"`
		}
		if pdu, err = pdu.AddSignature(g.Name(), "ed25519:policy_server", g.key); err == nil {
			err = json.Unmarshal(pdu.JSON, &all)
		}
		if err != nil {
			http.Error(w, `{"errcode":"M_UNKNOWN"}`, http.StatusInternalServerError)
			return
		}
		fmt.Fprintf(w, `{%q:{"ed25519:policy_server":%q}}`, g.Name(), all.Signatures[g.Name()]["ed25519:policy_server"])
	})
	return g
}

// spec: server-server-api#policy-servers
func TestAPolicyServerGuardsARoomOfThreeServers(t *testing.T) {
	n := server.NewNetwork(t)
	g := startGuard(t, n)
	p := &pair{t: t, here: n.Start(), away: n.Start()}
	p.alice, p.bob = p.here.Register("alice"), p.away.Register("bob")
	charlie := g.Register("charlie")
	name := p.createRoom(object{"preset": "public_chat", "room_version": "11"})
	p.bobJoins(name)
	if err := g.Rooms.Join(t.Context(), room.Change{Room: name, Sender: id.User(charlie.User), Via: []id.Server{p.here.Name()}}); err != nil {
		t.Fatal(err)
	}
	p.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+escaped(name)+"/state/m.room.policy", object{"via": g.Name(),
		"public_keys": object{"ed25519": signing.EncodeBase64(g.key.Public().(ed25519.PublicKey))}})
	p.say(name, "hello")
	if asked := <-g.shown; asked != "hello" {
		t.Errorf("%q", asked)
	}
	p.bobReads(name, "hello")
	status, answer := p.alice.Do("PUT", "/_matrix/client/v3/rooms/"+escaped(name)+"/send/m.room.message/2", object{"msgtype": "m.text", "body": "spam"})
	if status != 403 || answer["errcode"] != "M_FORBIDDEN" || answer["error"] != "no spam, please" {
		t.Errorf("%d %v", status, answer)
	}
	// What another server sends without asking is shown to it here.
	p.mustAsk("PUT", prefix+"send/p1", transaction(p.away, p.message(name, "good").JSON, p.message(name, "more spam").JSON))
	if bodies := strings.Join(p.bodies(name), ","); bodies != "hello,good" {
		t.Errorf("the room shows %s", bodies)
	}
	// One that has its signature needs no question.
	signed, err := p.message(name, "signed").AddSignature(g.Name(), "ed25519:policy_server", g.key)
	if err != nil {
		t.Fatal(err)
	}
	for len(g.shown) > 0 {
		<-g.shown
	}
	p.mustAsk("PUT", prefix+"send/p2", transaction(p.away, signed.JSON))
	if bodies := strings.Join(p.bodies(name), ","); bodies != "hello,good,signed" || len(g.shown) > 0 {
		t.Errorf("the room shows %s; the policy server was asked %d times", bodies, len(g.shown))
	}
	// It is gone: nothing is said, until the room does without it.
	g.Serve("POST", "/_matrix/policy/v1/sign", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if status, answer := p.alice.Do("PUT", "/_matrix/client/v3/rooms/"+escaped(name)+"/send/m.room.message/3", object{"msgtype": "m.text", "body": "anyone?"}); status != 502 || answer["errcode"] != "M_UNKNOWN" {
		t.Errorf("%d %v", status, answer)
	}
	p.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+escaped(name)+"/state/m.room.policy", object{})
	p.say(name, "free")
	if bodies := strings.Join(p.bodies(name), ","); bodies != "hello,good,signed,free" {
		t.Errorf("the room shows %s", bodies)
	}
}

// bobReads waits until bob sees a message.
func (p *pair) bobReads(name id.Room, body string) {
	p.t.Helper()
	for since := ""; p.t.Context().Err() == nil; {
		answer := p.bob.MustDo("GET", "/_matrix/client/v3/sync?timeout=5000"+since, nil)
		since = "&since=" + url.QueryEscape(answer["next_batch"].(string))
		text, err := json.Marshal(answer["rooms"])
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.Contains(string(text), fmt.Sprintf(`"body":%q`, body)) {
			return
		}
	}
}
