package endpoint

import (
	"net/url"
	"strings"
	"testing"

	"hearth/account"
	"hearth/matrix/id"
	"hearth/test/server"
)

// withBridge adds an application service that has @_irc_* for itself.
func withBridge(t *testing.T) *server.Server {
	t.Helper()
	s := server.Start(t)
	owns := func(u id.User) bool { return strings.HasPrefix(string(u), "@_irc_") && u.Server() == "localhost" }
	bridge := account.Appservice{ID: "irc", Sender: "@ircbot:localhost", Owns: owns}
	s.Accounts.FindAppservice = func(token string) (account.Appservice, bool) { return bridge, token == "as_token" }
	s.Accounts.ExclusiveTo = func(u id.User) (string, bool) { return "irc", owns(u) }
	if err := s.Accounts.MakeSender(t.Context(), bridge); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestApplicationServicesActAsTheirUsers(t *testing.T) {
	s := withBridge(t)
	s.Register("alice")
	whoami := func(query url.Values) (int, object) {
		return s.Do("GET", v3+"/account/whoami?"+query.Encode(), "as_token", nil)
	}
	if _, r := whoami(nil); r["user_id"] != "@ircbot:localhost" || r["device_id"] != nil {
		t.Errorf("%v", r)
	}
	status, r := whoami(url.Values{"user_id": {"@_irc_bob:localhost"}})
	refused(t, "not registered", status, r, 403, "M_FORBIDDEN")
	status, r = whoami(url.Values{"user_id": {"@alice:localhost"}})
	refused(t, "outside the namespace", status, r, 403, "M_FORBIDDEN")
	s.MustDo("POST", v3+"/register", "as_token", object{"type": "m.login.application_service", "username": "_irc_bob", "inhibit_login": true})
	if status, r := whoami(url.Values{"user_id": {"@_irc_bob:localhost"}}); status != 200 || r["user_id"] != "@_irc_bob:localhost" {
		t.Errorf("%d %v", status, r)
	}
	as := v3 + "/devices/BRIDGE?user_id=@_irc_bob:localhost"
	status, r = whoami(url.Values{"user_id": {"@_irc_bob:localhost"}, "device_id": {"BRIDGE"}})
	refused(t, "unknown device", status, r, 400, "M_UNKNOWN_DEVICE")
	if status, r := s.Do("PUT", as, "as_token", object{"display_name": "Bridge"}); status != 201 {
		t.Errorf("device made: %d %v", status, r)
	}
	if status, r := s.Do("PUT", as, "as_token", object{"display_name": "The bridge"}); status != 200 {
		t.Errorf("device renamed: %d %v", status, r)
	}
	for _, key := range []string{"device_id", "org.matrix.msc3202.device_id"} {
		if _, r := whoami(url.Values{"user_id": {"@_irc_bob:localhost"}, key: {"BRIDGE"}}); r["device_id"] != "BRIDGE" {
			t.Errorf("%s: %v", key, r)
		}
	}
	// Application services delete devices without proving anything more.
	s.MustDo("DELETE", as, "as_token", object{})
	// The query means nothing for ordinary tokens.
	bob := s.Register("charlie")
	if r := bob.MustDo("GET", v3+"/account/whoami?user_id=@alice:localhost&device_id=X", nil); r["user_id"] != "@charlie:localhost" {
		t.Errorf("%v", r)
	}
}

func TestApplicationServicesRegisterAndLogIn(t *testing.T) {
	s := withBridge(t)
	register := func(token, name string) (int, object) {
		return s.Do("POST", v3+"/register", token, object{"type": "m.login.application_service", "username": name})
	}
	status, r := register("", "_irc_bob")
	refused(t, "no token", status, r, 401, "M_MISSING_TOKEN")
	status, r = register("wrong", "_irc_bob")
	refused(t, "wrong token", status, r, 403, "M_FORBIDDEN")
	status, r = register("as_token", "bob")
	refused(t, "outside the namespace", status, r, 400, "M_EXCLUSIVE")
	if status, r := register("as_token", "_irc_bob"); status != 200 || r["access_token"] == nil {
		t.Errorf("%d %v", status, r)
	}
	status, r = register("as_token", "_irc_bob")
	refused(t, "twice", status, r, 400, "M_USER_IN_USE")
	status, r = s.Do("POST", v3+"/register", "", object{"username": "_irc_eve", "password": password, "auth": object{"type": "m.login.dummy"}})
	refused(t, "others", status, r, 400, "M_EXCLUSIVE")
	status, r = s.Do("GET", v3+"/register/available?username=_irc_eve", "", nil)
	refused(t, "available", status, r, 400, "M_EXCLUSIVE")

	login := func(token, name string) (int, object) {
		return s.Do("POST", v3+"/login", token, object{"type": "m.login.application_service", "identifier": object{"type": "m.id.user", "user": name}})
	}
	if status, r := login("as_token", "_irc_bob"); status != 200 || r["user_id"] != "@_irc_bob:localhost" {
		t.Errorf("%d %v", status, r)
	}
	s.Register("alice")
	status, r = login("as_token", "alice")
	refused(t, "login outside", status, r, 400, "M_EXCLUSIVE")
	status, r = login("as_token", "_irc_nobody")
	refused(t, "login unregistered", status, r, 403, "M_FORBIDDEN")
	status, r = login("wrong", "_irc_bob")
	refused(t, "login with a wrong token", status, r, 403, "M_FORBIDDEN")
	// It has no password, so no password is right.
	for _, pw := range []string{"", "x"} {
		status, r = s.Do("POST", v3+"/login", "", loginBody("_irc_bob", pw))
		refused(t, "by password", status, r, 403, "M_FORBIDDEN")
	}
}
