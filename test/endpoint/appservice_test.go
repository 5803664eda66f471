package endpoint

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/config"
	"hearth/test/server"
)

// bridge is an application service that answers as told, by method and path.
type bridge struct {
	*httptest.Server
	answers map[string]string
	events  chan object
	// asked is called with the paths of requests for users and rooms, and says the status of the answer.
	asked func(path string) int
}

// startWithBridge starts a server with a bridge named irc whose token is "as".
func startWithBridge(t *testing.T) (*server.Server, *bridge) {
	b := &bridge{answers: map[string]string{}, events: make(chan object, 1000)}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer hs" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		body, _ := io.ReadAll(r.Body)
		var txn struct {
			Events []object `json:"events"`
		}
		if strings.HasPrefix(r.URL.Path, "/_matrix/app/v1/transactions/") {
			if err := json.Unmarshal(body, &txn); err != nil {
				t.Error(err)
			}
		}
		if r.Method == http.MethodGet && b.asked != nil {
			w.WriteHeader(b.asked(r.URL.Path))
		}
		answer, ok := b.answers[r.URL.Path]
		if !ok {
			answer = "{}"
		}
		io.WriteString(w, answer)
		for _, e := range txn.Events {
			b.events <- e
		}
	}))
	t.Cleanup(b.Close)
	path := filepath.Join(t.TempDir(), "irc.yaml")
	text := "{id: irc, url: '" + b.URL + "', as_token: as, hs_token: hs, sender_localpart: _irc_bot, rate_limited: false, protocols: [irc], namespaces: {" +
		"users: [{exclusive: true, regex: '@_irc_.*:localhost'}], aliases: [{exclusive: true, regex: '#_irc_.*:localhost'}]}}"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return server.Start(t, func(c *config.Config) { c.AppServiceFiles = []string{path} }), b
}

// wait returns the first event that fits.
func (b *bridge) wait(t *testing.T, fits func(object) bool) object {
	t.Helper()
	for {
		select {
		case e := <-b.events:
			if fits(e) {
				return e
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the bridge was not told")
		}
	}
}

// What a bridge does on its first day, from start to a message in each direction.
// spec: application-service-api
func TestBridge(t *testing.T) {
	s, b := startWithBridge(t)
	alice := s.Register("alice")

	if r := s.MustDo("GET", v3+"/account/whoami", "as", nil); r["user_id"] != "@_irc_bot:localhost" {
		t.Errorf("the bot is %v", r)
	}
	status, r := s.Do("POST", v3+"/register", "as", object{"type": "m.login.application_service", "username": "_irc_bot"})
	refused(t, "the bot registers itself again", status, r, 400, "M_USER_IN_USE")
	if r := s.MustDo("POST", "/_matrix/client/v1/appservice/irc/ping", "as", object{"transaction_id": "meow"}); r["duration_ms"] == nil {
		t.Errorf("ping: %v", r)
	}
	status, r = s.Do("POST", "/_matrix/client/v1/appservice/other/ping", "as", object{})
	refused(t, "ping for another", status, r, 403, "M_FORBIDDEN")
	status, r = s.Do("POST", "/_matrix/client/v1/appservice/irc/ping", alice.Token, object{})
	refused(t, "ping of a user", status, r, 403, "M_FORBIDDEN")

	r = s.MustDo("POST", v3+"/register", "as", object{"type": "m.login.application_service", "username": "_irc_bob", "inhibit_login": true})
	ghost := r["user_id"].(string)
	as := "?user_id=" + url.QueryEscape(ghost)
	status, r = s.Do("POST", v3+"/register", "as", object{"type": "m.login.application_service", "username": "bob"})
	refused(t, "a user outside the namespace", status, r, 400, "M_EXCLUSIVE")
	status, r = s.Do("POST", v3+"/register", "", object{"username": "_irc_eve", "password": password, "auth": object{"type": "m.login.dummy"}})
	refused(t, "somebody else in the namespace", status, r, 400, "M_EXCLUSIVE")

	room := s.MustDo("POST", v3+"/createRoom", "as", object{"preset": "public_chat", "room_alias_name": "_irc_rust"})["room_id"].(string)
	s.MustDo("POST", v3+"/join/"+url.PathEscape(room)+as, "as", object{})
	alice.MustDo("POST", v3+"/join/"+url.PathEscape("#_irc_rust:localhost"), object{})
	alice.MustDo("PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "hello"})
	e := b.wait(t, func(e object) bool { return e["type"] == "m.room.message" })
	if e["sender"] != "@alice:localhost" || e["room_id"] != room || e["content"].(object)["body"] != "hello" {
		t.Errorf("heard %v", e)
	}
	sent := s.MustDo("PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/2"+as+"&ts=1234567", "as", object{"msgtype": "m.text", "body": "hi"})
	got := alice.MustDo("GET", v3+"/rooms/"+url.PathEscape(room)+"/event/"+url.PathEscape(sent["event_id"].(string)), nil)
	if got["sender"] != ghost || got["origin_server_ts"] != 1234567.0 {
		t.Errorf("alice got %v", got)
	}

	other := alice.MustDo("POST", v3+"/createRoom", object{})["room_id"].(string)
	status, r = alice.Do("PUT", v3+"/directory/room/"+url.PathEscape("#_irc_mine:localhost"), object{"room_id": other})
	refused(t, "a user's alias in the namespace", status, r, 400, "M_EXCLUSIVE")
	status, r = alice.Do("POST", v3+"/createRoom", object{"room_alias_name": "_irc_mine"})
	refused(t, "a room with such an alias", status, r, 400, "M_EXCLUSIVE")
	status, r = s.Do("PUT", v3+"/directory/room/"+url.PathEscape("#free:localhost"), "as", object{"room_id": room})
	refused(t, "the bridge's alias outside", status, r, 400, "M_EXCLUSIVE")
}

// A bridge makes rooms and users when somebody asks for them: that is how a channel of another
// network is joined for the first time.
// spec: application-service-api#querying
func TestWhatABridgeMakesWhenAsked(t *testing.T) {
	s, b := startWithBridge(t)
	alice := s.Register("alice")
	paths := make(chan string, 100)
	asked := func() (all []string) {
		for len(paths) > 0 {
			all = append(all, <-paths)
		}
		return all
	}
	b.asked = func(path string) int {
		paths <- path
		switch path {
		case "/_matrix/app/v1/rooms/#_irc_go:localhost":
			s.MustDo("POST", v3+"/createRoom", "as", object{"preset": "public_chat", "room_alias_name": "_irc_go"})
			return 200
		case "/_matrix/app/v1/users/@_irc_dora:localhost":
			s.MustDo("POST", v3+"/register", "as", object{"type": "m.login.application_service", "username": "_irc_dora", "inhibit_login": true})
			s.MustDo("PUT", v3+"/profile/@_irc_dora:localhost/displayname?user_id=@_irc_dora:localhost", "as", object{"displayname": "dora (irc)"})
			return 200
		case "/_matrix/app/v1/users/@_irc_broken:localhost":
			panic(http.ErrAbortHandler)
		}
		return 404
	}
	alice.MustDo("POST", v3+"/join/"+url.PathEscape("#_irc_go:localhost"), object{})
	if r := alice.MustDo("GET", v3+"/profile/@_irc_dora:localhost", nil); r["displayname"] != "dora (irc)" {
		t.Errorf("the profile is %v", r)
	}
	for range 3 { // who is not known is not asked for again at once
		status, r := alice.Do("POST", v3+"/join/"+url.PathEscape("#_irc_none:localhost"), object{})
		refused(t, "a channel that the bridge does not know", status, r, 404, "M_NOT_FOUND")
		status, r = alice.Do("GET", v3+"/profile/@_irc_none:localhost", nil)
		refused(t, "a user that the bridge does not know", status, r, 404, "M_NOT_FOUND")
	}
	status, r := alice.Do("GET", v3+"/directory/room/"+url.PathEscape("#other:localhost"), nil)
	refused(t, "an alias of no bridge", status, r, 404, "M_NOT_FOUND")
	status, r = alice.Do("GET", v3+"/profile/@bob:localhost", nil)
	refused(t, "a user of no bridge", status, r, 404, "M_NOT_FOUND")
	if all := asked(); len(all) != 4 {
		t.Errorf("the bridge was asked for %q", all)
	}
	status, r = alice.Do("GET", v3+"/profile/@_irc_broken:localhost", nil)
	refused(t, "a bridge that does not answer", status, r, 408, "M_UNKNOWN")
	// Of users that are invited, a bridge is asked before it is told.
	asked()
	b.answers["/_matrix/app/v1/users/@_irc_charlie:localhost"] = "{}"
	alice.MustDo("POST", v3+"/createRoom", object{"invite": []any{"@_irc_charlie:localhost"}})
	b.wait(t, func(e object) bool { return e["state_key"] == "@_irc_charlie:localhost" })
	if all := asked(); len(all) != 1 || all[0] != "/_matrix/app/v1/users/@_irc_charlie:localhost" {
		t.Errorf("the bridge was asked for %q", all)
	}
}

// spec: client-server-api#third-party-lookups
func TestThirdPartyNetworks(t *testing.T) {
	s, b := startWithBridge(t)
	alice := s.Register("alice")
	const app = "/_matrix/app/v1/thirdparty"
	b.answers[app+"/protocol/irc"] = `{"user_fields":["nick"],"location_fields":["channel"],"icon":"mxc://localhost/a",
		"field_types":{"nick":{"regexp":".*","placeholder":"x"},"channel":{"regexp":".*","placeholder":"#x"}},
		"instances":[{"network_id":"libera","desc":"Libera","fields":{}}]}`
	b.answers[app+"/location/irc"] = `[{"alias":"#_irc_x:localhost","protocol":"irc","fields":{"channel":"#x"}},{"alias":"incomplete"}]`
	b.answers[app+"/user"] = `[{"userid":"@_irc_bob:localhost","protocol":"irc","fields":{"nick":"bob"}}]`

	all := alice.MustDo("GET", v3+"/thirdparty/protocols", nil)
	irc, _ := all["irc"].(object)
	instances, _ := irc["instances"].([]any)
	if len(all) != 1 || len(instances) != 1 || instances[0].(object)["instance_id"] != "irc|libera" {
		t.Errorf("protocols: %v", all)
	}
	alice.MustDo("GET", v3+"/thirdparty/protocol/irc", nil)
	for _, path := range []string{"/protocol/gitter", "/location/gitter", "/user/gitter"} {
		status, r := alice.Do("GET", v3+"/thirdparty"+path, nil)
		refused(t, path, status, r, 404, "M_NOT_FOUND")
	}
	for path, want := range map[string]string{
		"/location/irc?channel=x":                        `[{"alias":"#_irc_x:localhost","protocol":"irc","fields":{"channel":"#x"}}]`,
		"/user?userid=%40_irc_bob%3Alocalhost":           `[{"userid":"@_irc_bob:localhost","protocol":"irc","fields":{"nick":"bob"}}]`,
		"/location?alias=" + url.QueryEscape("#a:b.org"): `[]`,
	} {
		if w := s.Raw(t.Context(), "GET", v3+"/thirdparty"+path, alice.Token, ""); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	status, r := alice.Do("GET", v3+"/thirdparty/user", nil)
	refused(t, "no user", status, r, 400, "M_MISSING_PARAM")
}

// spec: client-server-api#put_matrixclientv3directorylistappservicenetworkidroomid
func TestRoomsOfABridgedNetwork(t *testing.T) {
	s, _ := startWithBridge(t)
	alice := s.Register("alice")
	room := s.MustDo("POST", v3+"/createRoom", "as", object{"preset": "public_chat", "name": "#rust"})["room_id"].(string)
	own := alice.MustDo("POST", v3+"/createRoom", object{"visibility": "public", "name": "Kitchen"})["room_id"].(string)
	path := v3 + "/directory/list/appservice/libera/" + url.PathEscape(room)
	found := func(query object) (names string) {
		for _, r := range alice.MustDo("POST", v3+"/publicRooms", query)["chunk"].([]any) {
			names += r.(object)["name"].(string) + " "
		}
		return names
	}
	for _, step := range []struct{ visibility, libera, all string }{
		{"public", "#rust ", "#rust Kitchen "}, {"public", "#rust ", "#rust Kitchen "}, {"private", "", "Kitchen "},
	} {
		s.MustDo("PUT", path, "as", object{"visibility": step.visibility})
		want(t, step.visibility, found(object{"third_party_instance_id": "irc|libera"}), step.libera)
		want(t, step.visibility, found(object{"include_all_networks": true}), step.all)
		want(t, "rooms of Matrix", found(object{}), "Kitchen ")
	}
	for _, c := range []struct {
		path, token string
		body        object
		status      int
		code        string
	}{
		{path, alice.Token, object{"visibility": "public"}, 403, "M_FORBIDDEN"},
		{v3 + "/directory/list/appservice/libera/" + url.PathEscape(own), alice.Token, object{"visibility": "public"}, 403, "M_FORBIDDEN"},
		{path, "", object{"visibility": "public"}, 401, "M_MISSING_TOKEN"},
		{path, "as", object{}, 400, "M_MISSING_PARAM"},
		{path, "as", object{"visibility": "secret"}, 400, "M_INVALID_PARAM"},
		{v3 + "/directory/list/appservice/libera/" + url.PathEscape("!nowhere:localhost"), "as", object{"visibility": "public"}, 404, "M_NOT_FOUND"},
	} {
		status, r := s.Do("PUT", c.path, c.token, c.body)
		refused(t, c.path, status, r, c.status, c.code)
	}
}
