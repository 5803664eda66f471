package endpoint

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"hearth/config"
	"hearth/store"
	"hearth/test/server"
)

type object = server.Object

const (
	v3       = "/_matrix/client/v3"
	password = server.Password
)

// refused expects a status and a code.
func refused(t *testing.T, what string, status int, body object, wantStatus int, wantCode string) {
	t.Helper()
	if status != wantStatus || body["errcode"] != wantCode {
		t.Errorf("%s: %d %v, want %d %s", what, status, body, wantStatus, wantCode)
	}
}

func passwordAuth(user, session string) object {
	auth := object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": user}, "password": password}
	if session != "" {
		auth["session"] = session
	}
	return auth
}

func loginBody(user, pw string) object {
	return object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": user}, "password": pw}
}

// invite makes a registration token that works so many times; nil: always.
func invite(t *testing.T, s *server.Server, token string, uses *int64) {
	t.Helper()
	err := s.Store.Update(t.Context(), func(tx *store.Tx) error {
		_, err := tx.Registration.InsertToken(store.RegistrationToken{Token: token, UsesAllowed: uses})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRegisterInOneRequest(t *testing.T) {
	s := server.Start(t)
	r := s.MustDo("POST", v3+"/register", "", object{"username": "Alice", "password": password, "device_id": "PHONE",
		"initial_device_display_name": "My phone", "auth": object{"type": "m.login.dummy"}})
	if r["user_id"] != "@alice:localhost" || r["device_id"] != "PHONE" || r["access_token"] == "" || r["home_server"] != "localhost" {
		t.Errorf("%v", r)
	}
	token := r["access_token"].(string)
	if who := s.MustDo("GET", v3+"/account/whoami", token, nil); who["user_id"] != "@alice:localhost" || who["device_id"] != "PHONE" {
		t.Errorf("whoami %v", who)
	}
	device := s.MustDo("GET", v3+"/devices/PHONE", token, nil)
	if device["display_name"] != "My phone" {
		t.Errorf("device %v", device)
	}
	if p := s.MustDo("GET", v3+"/profile/@alice:localhost", "", nil); p["displayname"] != "Alice" {
		t.Errorf("profile %v", p)
	}
}

func TestRegistrationRefusesNames(t *testing.T) {
	s := server.Start(t)
	s.Register("alice")
	for name, code := range map[string]string{"alice": "M_USER_IN_USE", "ALICE": "M_USER_IN_USE", "a@b": "M_INVALID_USERNAME", "a b": "M_INVALID_USERNAME",
		"é": "M_INVALID_USERNAME", strings.Repeat("x", 250): "M_INVALID_USERNAME"} {
		// The refusal comes before any authentication is asked for.
		status, r := s.Do("POST", v3+"/register", "", object{"username": name, "password": password})
		refused(t, name, status, r, 400, code)
		status, r = s.Do("GET", v3+"/register/available?username="+url.QueryEscape(name), "", nil)
		refused(t, name+" available", status, r, 400, code)
	}
	if r := s.MustDo("GET", v3+"/register/available?username=bob", "", nil); r["available"] != true {
		t.Errorf("%v", r)
	}
	for _, name := range []string{"3", "a.b", "a_b", "a=b", "a-b", "a/b", "a+b"} {
		s.Register(name)
	}
}

func TestRegistrationWantsAuthentication(t *testing.T) {
	s := server.Start(t)
	status, r := s.Do("POST", v3+"/register", "", object{"username": "alice", "password": password})
	if status != 401 || r["session"] == nil || r["errcode"] != nil {
		t.Fatalf("%d %v", status, r)
	}
	// The last request may be the session alone; the password was not kept in the clear.
	done := s.MustDo("POST", v3+"/register", "", object{"auth": object{"type": "m.login.dummy", "session": r["session"]}})
	if done["user_id"] != "@alice:localhost" {
		t.Errorf("%v", done)
	}
	s.Login("alice")
	// A session is good once.
	status, again := s.Do("POST", v3+"/register", "", object{"username": "bob", "auth": object{"session": r["session"]}})
	if status != 401 || again["session"] == r["session"] {
		t.Errorf("%d %v", status, again)
	}
	status, r = s.Do("POST", v3+"/register", "", object{"username": "bob", "auth": object{"type": "m.login.dummy"}})
	refused(t, "no password", status, r, 400, "M_MISSING_PARAM")
	if r := s.MustDo("POST", v3+"/register", "", object{"username": "bob", "password": password, "inhibit_login": true, "auth": object{"type": "m.login.dummy"}}); r["access_token"] != nil {
		t.Errorf("login was inhibited: %v", r)
	}
	if r := s.MustDo("POST", v3+"/register", "", object{"password": password, "auth": object{"type": "m.login.dummy"}}); r["user_id"] == "" {
		t.Errorf("no name was made: %v", r)
	}
}

func TestClosedRegistration(t *testing.T) {
	s := server.Start(t, func(c *config.Config) { c.EnableRegistration = false })
	status, r := s.Do("POST", v3+"/register", "", object{"username": "alice", "password": password, "auth": object{"type": "m.login.dummy"}})
	refused(t, "register", status, r, 403, "M_FORBIDDEN")
	status, r = s.Do("POST", v3+"/register?kind=guest", "", object{})
	refused(t, "guest", status, r, 403, "M_GUEST_ACCESS_FORBIDDEN")
	status, r = s.Do("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=x", "", nil)
	refused(t, "validity", status, r, 403, "M_FORBIDDEN")
}

func TestRegistrationByToken(t *testing.T) {
	s := server.Start(t, func(c *config.Config) { c.RegistrationUnverified, c.RegistrationRequiresToken = false, true })
	once := int64(1)
	invite(t, s, "invited", &once)
	valid := func() any {
		return s.MustDo("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token=invited", "", nil)["valid"]
	}
	if valid() != true {
		t.Error("the token is not valid")
	}
	body := func(user string, auth object) object {
		return object{"username": user, "password": password, "auth": auth}
	}
	status, r := s.Do("POST", v3+"/register", "", body("alice", object{"type": "m.login.dummy"}))
	if status != 401 || r["errcode"] == nil {
		t.Errorf("a stage that is not offered: %d %v", status, r)
	}
	status, r = s.Do("POST", v3+"/register", "", body("alice", object{"type": "m.login.registration_token", "token": "guessed"}))
	refused(t, "wrong token", status, r, 401, "M_UNAUTHORIZED")
	session := r["session"]
	s.MustDo("POST", v3+"/register", "", body("alice", object{"type": "m.login.registration_token", "token": "invited", "session": session}))
	if valid() != false {
		t.Error("the token is valid after its only use")
	}
	status, r = s.Do("POST", v3+"/register", "", body("bob", object{"type": "m.login.registration_token", "token": "invited"}))
	refused(t, "used token", status, r, 401, "M_UNAUTHORIZED")
}

func TestLogin(t *testing.T) {
	s := server.Start(t)
	s.Register("alice")
	for _, user := range []string{"alice", "@alice:localhost", "ALICE", "@Alice:localhost"} {
		if r := s.MustDo("POST", v3+"/login", "", loginBody(user, password)); r["user_id"] != "@alice:localhost" {
			t.Errorf("%s: %v", user, r)
		}
	}
	s.MustDo("POST", v3+"/login", "", object{"type": "m.login.password", "user": "alice", "password": password})
	for what, body := range map[string]object{
		"wrong password":   loginBody("alice", "wrong"),
		"empty password":   loginBody("alice", ""),
		"long password":    loginBody("alice", strings.Repeat("x", 10_000)),
		"unknown user":     loginBody("bob", password),
		"NUL in the name":  loginBody("ali\x00ce", password),
		"other server":     loginBody("@alice:example.org", password),
		"unknown 3PID":     {"type": "m.login.password", "password": password, "identifier": object{"type": "m.id.thirdparty", "medium": "email", "address": "a@example.org"}},
		"unknown phone":    {"type": "m.login.password", "password": password, "identifier": object{"type": "m.id.phone", "country": "GB", "phone": "0123"}},
		"old style medium": {"type": "m.login.password", "password": password, "medium": "email", "address": "a@example.org"},
	} {
		status, r := s.Do("POST", v3+"/login", "", body)
		if what == "NUL in the name" {
			refused(t, what, status, r, 400, "M_INVALID_PARAM")
			continue
		}
		refused(t, what, status, r, 403, "M_FORBIDDEN")
	}
	for what, body := range map[string]any{
		"no type": object{}, "unknown type": object{"type": "m.login.magic"}, "no password": object{"type": "m.login.password", "user": "alice"},
		"number as password": `{"type":"m.login.password","user":"alice","password":7}`, "identifier of unknown type": object{"type": "m.login.password", "password": "x", "identifier": object{"type": "m.id.dna"}},
	} {
		if status, r := s.Do("POST", v3+"/login", "", body); status != 400 || r["errcode"] == nil {
			t.Errorf("%s: %d %v", what, status, r)
		}
	}
}

func TestLoginOnAKnownDeviceEndsItsSession(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	body := loginBody("alice", password)
	body["device_id"], body["initial_device_display_name"] = alice.Device, "ignored"
	r := s.MustDo("POST", v3+"/login", "", body)
	status, old := alice.Do("GET", v3+"/account/whoami", nil)
	refused(t, "old token", status, old, 401, "M_UNKNOWN_TOKEN")
	if d := s.MustDo("GET", v3+"/devices/"+alice.Device, r["access_token"].(string), nil); d["display_name"] != nil {
		t.Errorf("the known device was renamed: %v", d)
	}
}

func TestTokensThatAreNone(t *testing.T) {
	s := server.Start(t)
	status, r := s.Do("GET", v3+"/account/whoami", "", nil)
	refused(t, "no token", status, r, 401, "M_MISSING_TOKEN")
	// An empty token is no token, not one that fits a row without any.
	w := s.Raw(t.Context(), "GET", v3+"/account/whoami?access_token=", "", "")
	if w.Code != 401 || !strings.Contains(w.Body.String(), "M_MISSING_TOKEN") {
		t.Errorf("empty token: %d %s", w.Code, w.Body)
	}
	status, r = s.Do("GET", v3+"/account/whoami", "hat_guessed", nil)
	refused(t, "unknown token", status, r, 401, "M_UNKNOWN_TOKEN")
	if r["soft_logout"] != false {
		t.Errorf("%v", r)
	}
	alice := s.Register("alice")
	s.MustDo("GET", v3+"/account/whoami?access_token="+alice.Token, "", nil)
}

func TestRefresh(t *testing.T) {
	s := server.Start(t)
	s.Register("alice")
	body := loginBody("alice", password)
	body["refresh_token"] = true
	first := s.MustDo("POST", v3+"/login", "", body)
	if first["refresh_token"] == nil || first["expires_in_ms"] == nil {
		t.Fatalf("%v", first)
	}
	refresh := func(token any) object {
		return s.MustDo("POST", v3+"/refresh", "", object{"refresh_token": token})
	}
	lost := refresh(first["refresh_token"])
	// The answer was lost: the same token works again, and what it gave dies.
	second := refresh(first["refresh_token"])
	status, r := s.Do("GET", v3+"/account/whoami", lost["access_token"].(string), nil)
	refused(t, "lost pair", status, r, 401, "M_UNKNOWN_TOKEN")
	// Once the new pair is used the old token is gone.
	if who := s.MustDo("GET", v3+"/account/whoami", second["access_token"].(string), nil); who["device_id"] != first["device_id"] {
		t.Errorf("the device changed: %v", who)
	}
	status, r = s.Do("POST", v3+"/refresh", "", object{"refresh_token": first["refresh_token"]})
	refused(t, "used token", status, r, 401, "M_UNKNOWN_TOKEN")
	third := refresh(second["refresh_token"])
	fourth := refresh(third["refresh_token"])
	// Using the newer refresh token counts as use too.
	status, r = s.Do("POST", v3+"/refresh", "", object{"refresh_token": second["refresh_token"]})
	refused(t, "token before last", status, r, 401, "M_UNKNOWN_TOKEN")
	s.MustDo("POST", v3+"/logout", fourth["access_token"].(string), object{})
	status, r = s.Do("POST", v3+"/refresh", "", object{"refresh_token": fourth["refresh_token"]})
	refused(t, "after logout", status, r, 401, "M_UNKNOWN_TOKEN")
}

func TestLogout(t *testing.T) {
	s := server.Start(t)
	phone := s.Register("alice")
	laptop := s.Login("alice")
	phone.MustDo("POST", v3+"/logout", object{})
	status, r := phone.Do("GET", v3+"/account/whoami", nil)
	refused(t, "phone", status, r, 401, "M_UNKNOWN_TOKEN")
	if d := laptop.MustDo("GET", v3+"/devices", nil)["devices"].([]any); len(d) != 1 {
		t.Errorf("the device is still there: %v", d)
	}
	tablet := s.Login("alice")
	laptop.MustDo("POST", v3+"/logout/all", object{})
	for _, c := range []*server.Client{laptop, tablet} {
		status, r := c.Do("GET", v3+"/account/whoami", nil)
		refused(t, c.Device, status, r, 401, "M_UNKNOWN_TOKEN")
	}
}

func TestLoginTokens(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	const path = "/_matrix/client/v1/login/get_token"
	status, r := alice.Do("POST", path, object{})
	if status != 401 || r["flows"] == nil {
		t.Fatalf("%d %v", status, r)
	}
	r = alice.MustDo("POST", path, object{"auth": passwordAuth("alice", r["session"].(string))})
	login := object{"type": "m.login.token", "token": r["login_token"]}
	if r := s.MustDo("POST", v3+"/login", "", login); r["user_id"] != "@alice:localhost" {
		t.Errorf("%v", r)
	}
	status, r = s.Do("POST", v3+"/login", "", login)
	refused(t, "second use", status, r, 403, "M_FORBIDDEN")
}

func TestChangePassword(t *testing.T) {
	s := server.Start(t)
	phone := s.Register("alice")
	laptop := s.Login("alice")
	change := object{"new_password": "another", "auth": passwordAuth("alice", "")}
	phone.MustDo("POST", v3+"/account/password", change)
	phone.MustDo("GET", v3+"/account/whoami", nil)
	status, r := laptop.Do("GET", v3+"/account/whoami", nil)
	refused(t, "the other session", status, r, 401, "M_UNKNOWN_TOKEN")
	status, r = s.Do("POST", v3+"/login", "", loginBody("alice", password))
	refused(t, "old password", status, r, 403, "M_FORBIDDEN")
	tablet := s.MustDo("POST", v3+"/login", "", loginBody("alice", "another"))
	auth := passwordAuth("alice", "")
	auth["password"] = "another"
	phone.MustDo("POST", v3+"/account/password", object{"new_password": "third", "logout_devices": false, "auth": auth})
	s.MustDo("GET", v3+"/account/whoami", tablet["access_token"].(string), nil)
}

func TestWeakPasswords(t *testing.T) {
	s := server.Start(t, func(c *config.Config) {
		c.Password.Policy = config.PasswordPolicy{Enabled: true, MinLength: 8, Digit: true, Symbol: true, Lowercase: true, Uppercase: true}
	})
	for _, weak := range []string{"Aa1!", "aaaaaa1!", "AAAAAA1!", "Aaaaaaa!", "Aaaaaaa1"} {
		status, r := s.Do("POST", v3+"/register", "", object{"username": "alice", "password": weak, "auth": object{"type": "m.login.dummy"}})
		refused(t, weak, status, r, 400, "M_WEAK_PASSWORD")
	}
	s.MustDo("POST", v3+"/register", "", object{"username": "alice", "password": "Aaaaaa1!", "auth": object{"type": "m.login.dummy"}})
}

func TestDeactivate(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	status, r := alice.Do("POST", v3+"/account/deactivate", object{"auth": object{"type": "m.login.password", "user": "alice", "password": "wrong"}})
	refused(t, "wrong password", status, r, 401, "M_FORBIDDEN")
	r = alice.MustDo("POST", v3+"/account/deactivate", object{"erase": true, "auth": passwordAuth("alice", "")})
	if r["id_server_unbind_result"] != "success" {
		t.Errorf("%v", r)
	}
	status, r = alice.Do("GET", v3+"/account/whoami", nil)
	refused(t, "token", status, r, 401, "M_UNKNOWN_TOKEN")
	status, r = s.Do("POST", v3+"/login", "", loginBody("alice", password))
	refused(t, "login", status, r, 403, "M_USER_DEACTIVATED")
	status, r = s.Do("GET", v3+"/profile/@alice:localhost", "", nil)
	refused(t, "profile", status, r, 404, "M_NOT_FOUND")
	status, r = s.Do("POST", v3+"/register", "", object{"username": "alice", "password": password})
	refused(t, "the name is not free", status, r, 400, "M_USER_IN_USE")
}

func TestGuests(t *testing.T) {
	s := server.Start(t, func(c *config.Config) { c.AllowGuestAccess = true })
	g := s.MustDo("POST", v3+"/register?kind=guest", "", object{"device_id": "IGNORED", "username": "ignored"})
	token, user := g["access_token"].(string), g["user_id"].(string)
	if g["device_id"] == "IGNORED" || strings.HasPrefix(user, "@ignored") {
		t.Errorf("%v", g)
	}
	if who := s.MustDo("GET", v3+"/account/whoami", token, nil); who["is_guest"] != true {
		t.Errorf("%v", who)
	}
	s.MustDo("PUT", v3+"/profile/"+user+"/displayname", token, object{"displayname": "G"})
	status, r := s.Do("PUT", v3+"/profile/"+user+"/avatar_url", token, object{"avatar_url": "mxc://localhost/x"})
	refused(t, "avatar", status, r, 403, "M_GUEST_ACCESS_FORBIDDEN")
	status, r = s.Do("PUT", v3+"/user/"+user+"/account_data/m.x", token, object{})
	refused(t, "account data", status, r, 403, "M_GUEST_ACCESS_FORBIDDEN")
	local, _, _ := strings.Cut(user[1:], ":")
	s.MustDo("POST", v3+"/register", "", object{"username": local, "password": password, "guest_access_token": token, "auth": object{"type": "m.login.dummy"}})
	if who := s.MustDo("GET", v3+"/account/whoami", token, nil); who["is_guest"] == true {
		t.Errorf("still a guest: %v", who)
	}
	status, r = s.Do("POST", v3+"/register", "", object{"username": local, "password": password, "guest_access_token": token, "auth": object{"type": "m.login.dummy"}})
	refused(t, "upgrade of a user", status, r, 403, "M_FORBIDDEN")
}

func TestThreePIDs(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	if r := alice.MustDo("GET", v3+"/account/3pid", nil); len(r["threepids"].([]any)) != 0 {
		t.Errorf("%v", r)
	}
	if ok, err := s.Accounts.AddThreePID(t.Context(), "@alice:localhost", "email", "alice@example.org"); err != nil || !ok {
		t.Fatal(ok, err)
	}
	r := s.MustDo("POST", v3+"/login", "", object{"type": "m.login.password", "password": password,
		"identifier": object{"type": "m.id.thirdparty", "medium": "email", "address": "Alice@Example.org"}})
	if r["user_id"] != "@alice:localhost" {
		t.Errorf("%v", r)
	}
	ask := object{"client_secret": "s", "email": "a@example.org", "send_attempt": 1}
	status, r := s.Do("POST", v3+"/account/3pid/email/requestToken", "", ask)
	refused(t, "requestToken", status, r, 400, "M_THREEPID_MEDIUM_NOT_SUPPORTED")
	status, r = s.Do("POST", v3+"/register/email/requestToken", "", ask)
	refused(t, "register requestToken", status, r, 403, "M_THREEPID_DENIED")
	status, r = alice.Do("POST", v3+"/account/3pid/add", object{"client_secret": "s", "sid": "x", "auth": passwordAuth("alice", "")})
	refused(t, "add", status, r, 403, "M_THREEPID_AUTH_FAILED")
	alice.MustDo("POST", v3+"/account/3pid/delete", object{"medium": "email", "address": "alice@example.org"})
	if r := alice.MustDo("GET", v3+"/account/3pid", nil); len(r["threepids"].([]any)) != 0 {
		t.Errorf("%v", r)
	}
}

func TestOpenIDTokens(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	r := alice.MustDo("POST", v3+"/user/@alice:localhost/openid/request_token", object{})
	if r["token_type"] != "Bearer" || r["matrix_server_name"] != "localhost" || r["expires_in"] == nil {
		t.Errorf("%v", r)
	}
	status, r := s.Do("GET", v3+"/account/whoami", r["access_token"].(string), nil)
	refused(t, "as access token", status, r, 401, "M_UNKNOWN_TOKEN")
	status, r = alice.Do("POST", v3+"/user/@bob:localhost/openid/request_token", object{})
	refused(t, "of another", status, r, 403, "M_FORBIDDEN")
}

func TestLoginFlowsAndPages(t *testing.T) {
	s := server.Start(t)
	flows := s.MustDo("GET", v3+"/login", "", nil)["flows"].([]any)
	if first := flows[0].(object); first["type"] != "m.login.password" {
		t.Errorf("%v", flows)
	}
	w := s.Raw(t.Context(), "GET", "/_matrix/static/client/login/?device_id=X", "", "")
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "matrixLogin.onLogin(response)") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "nonce-") {
		t.Errorf("login page: %d %s", w.Code, w.Body)
	}
}
