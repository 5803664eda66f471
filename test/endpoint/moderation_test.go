package endpoint

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"strings"
	"testing"

	"hearth/config"
	"hearth/test/server"
)

// makeAdmin does what an operator's sqlite3 program does on the live file.
func makeAdmin(t *testing.T, s *server.Server, user string) {
	t.Helper()
	s.SQL(`UPDATE users SET admin=1 WHERE name='` + user + `'`)
}

func TestLockedAccounts(t *testing.T) {
	s := server.Start(t)
	admin, alice := s.Register("admin"), s.Register("alice")
	const lock = "/_matrix/client/v1/admin/lock/@alice:localhost"
	status, r := admin.Do("PUT", lock, object{"locked": true})
	refused(t, "no admin yet", status, r, 403, "M_FORBIDDEN")
	makeAdmin(t, s, "@admin:localhost")
	if r := admin.MustDo("GET", lock, nil); r["locked"] != false {
		t.Errorf("%v", r)
	}
	admin.MustDo("PUT", lock, object{"locked": true})
	status, r = alice.Do("GET", v3+"/account/whoami", nil)
	refused(t, "whoami", status, r, 401, "M_USER_LOCKED")
	if r["soft_logout"] != true {
		t.Errorf("%v", r)
	}
	status, r = s.Do("POST", v3+"/login", "", loginBody("alice", password))
	refused(t, "login", status, r, 401, "M_USER_LOCKED")
	admin.MustDo("PUT", lock, object{"locked": false})
	alice.MustDo("GET", v3+"/account/whoami", nil)
	admin.MustDo("PUT", lock, object{"locked": true})
	alice.MustDo("POST", v3+"/logout", object{})
	status, r = alice.Do("GET", v3+"/account/whoami", nil)
	refused(t, "after logout", status, r, 401, "M_UNKNOWN_TOKEN")
}

func TestSuspendedAccounts(t *testing.T) {
	s := server.Start(t)
	admin, alice := s.Register("admin"), s.Register("alice")
	makeAdmin(t, s, "@admin:localhost")
	const suspend = "/_matrix/client/v1/admin/suspend/@alice:localhost"
	alice.MustDo("PUT", v3+"/profile/@alice:localhost/displayname", object{"displayname": "Alice"})
	room := alice.MustDo("POST", v3+"/createRoom", object{"preset": "public_chat"})["room_id"].(string)
	path := v3 + "/rooms/" + room
	admin.MustDo("POST", path+"/join", object{})
	own := alice.MustDo("PUT", path+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "hello"})["event_id"].(string)
	others := admin.MustDo("PUT", path+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "hello"})["event_id"].(string)
	admin.MustDo("PUT", suspend, object{"suspended": true})
	if r := admin.MustDo("GET", suspend, nil); r["suspended"] != true {
		t.Errorf("%v", r)
	}
	for path, body := range map[string]object{
		"/profile/@alice:localhost/displayname": {"displayname": "X"},
	} {
		status, r := alice.Do("PUT", v3+path, body)
		refused(t, path, status, r, 403, "M_USER_SUSPENDED")
	}
	for _, path := range []string{"/createRoom", "/join/!r:localhost", "/rooms/!r:localhost/invite", "/knock/!r:localhost"} {
		status, r := alice.Do("POST", v3+path, object{"user_id": "@bob:localhost"})
		refused(t, path, status, r, 403, "M_USER_SUSPENDED")
	}
	for what, body := range map[string]object{
		"/send/m.room.message/2":                     {"msgtype": "m.text", "body": "refused"},
		"/send/m.room.redaction/3":                   {"redacts": others},
		"/redact/" + others + "/4":                   {},
		"/state/m.room.topic":                        {"topic": "refused"},
		"/state/m.room.member/" + alice.User:         {"membership": "join", "displayname": "X"},
		"/state/m.room.member/" + string(admin.User): {"membership": "leave"},
	} {
		status, r := alice.Do("PUT", path+what, body)
		refused(t, what, status, r, 403, "M_USER_SUSPENDED")
	}
	alice.MustDo("PUT", path+"/redact/"+own+"/5", object{})
	alice.MustDo("PUT", path+"/state/m.room.member/"+alice.User, object{"membership": "leave"})
	alice.MustDo("GET", v3+"/account/whoami", nil)
	again := s.Login("alice")
	again.MustDo("POST", v3+"/logout", object{})
	admin.MustDo("PUT", suspend, object{"suspended": false})
	alice.MustDo("PUT", v3+"/profile/@alice:localhost/displayname", object{"displayname": "X"})
}

func TestModerationRefusals(t *testing.T) {
	s := server.Start(t)
	admin, other, alice := s.Register("admin"), s.Register("other"), s.Register("alice")
	makeAdmin(t, s, "@admin:localhost")
	makeAdmin(t, s, other.User)
	for _, what := range []string{"lock", "suspend"} {
		path := "/_matrix/client/v1/admin/" + what + "/"
		on := object{what + "ed": true}
		if what == "suspend" {
			on = object{"suspended": true}
		}
		for user, want := range map[string]struct {
			status int
			code   string
		}{
			"@alice:example.org": {400, "M_INVALID_PARAM"},
			"@nobody:localhost":  {404, "M_NOT_FOUND"},
			other.User:           {403, "M_FORBIDDEN"},
			admin.User:           {403, "M_FORBIDDEN"},
		} {
			status, r := admin.Do("PUT", path+user, on)
			refused(t, what+" "+user, status, r, want.status, want.code)
			// Who is no administrator learns nothing of who exists.
			status, r = alice.Do("PUT", path+user, on)
			refused(t, "alice: "+what+" "+user, status, r, 403, "M_FORBIDDEN")
		}
		status, r := admin.Do("PUT", path+alice.User, object{})
		refused(t, "no value", status, r, 400, "M_MISSING_PARAM")
	}
	alice.MustDo("POST", v3+"/account/deactivate", object{"auth": passwordAuth("alice", "")})
	status, r := admin.Do("GET", "/_matrix/client/v1/admin/lock/"+alice.User, nil)
	refused(t, "deactivated", status, r, 404, "M_NOT_FOUND")
	if c := admin.MustDo("GET", v3+"/capabilities", nil)["capabilities"].(object); c["m.account_moderation"] == nil {
		t.Errorf("%v", c)
	}
}

func TestWhoIs(t *testing.T) {
	s := server.Start(t)
	admin, alice, bob := s.Register("admin"), s.Register("alice"), s.Register("bob")
	makeAdmin(t, s, "@admin:localhost")
	for _, c := range []*server.Client{admin, alice} {
		r := c.MustDo("GET", v3+"/admin/whois/@alice:localhost", nil)
		if r["devices"].(object)[alice.Device] == nil {
			t.Errorf("%s: %v", c.User, r)
		}
	}
	status, r := bob.Do("GET", v3+"/admin/whois/@alice:localhost", nil)
	refused(t, "bob", status, r, 403, "M_FORBIDDEN")
}

func macOf(secret string, parts ...string) string {
	m := hmac.New(sha1.New, []byte(secret))
	m.Write([]byte(strings.Join(parts, "\x00")))
	return hex.EncodeToString(m.Sum(nil))
}

func TestRegistrationBySharedSecret(t *testing.T) {
	s := server.Start(t, func(c *config.Config) { c.EnableRegistration = false })
	const path = "/_synapse/admin/v1/register"
	nonce := func() string { return s.MustDo("GET", path, "", nil)["nonce"].(string) }
	n := nonce()
	body := object{"nonce": n, "username": "Root", "password": "pw", "admin": true, "mac": macOf("secret", n, "Root", "pw", "admin")}
	r := s.MustDo("POST", path, "", body)
	if r["user_id"] != "@root:localhost" || r["home_server"] != "localhost" || r["device_id"] == nil {
		t.Errorf("%v", r)
	}
	if c := s.MustDo("GET", v3+"/capabilities", r["access_token"].(string), nil)["capabilities"].(object); c["m.account_moderation"] == nil {
		t.Error("no administrator was made")
	}
	s.MustDo("POST", v3+"/login", "", loginBody("root", "pw"))
	status, r := s.Do("POST", path, "", body)
	refused(t, "nonce twice", status, r, 400, "M_UNKNOWN")

	for what, test := range map[string]struct {
		user, mac string
		extra     object
		status    int
		code      string
	}{
		"wrong secret":      {"bob", "wrong", nil, 403, "M_UNKNOWN"},
		"admin not signed":  {"bob", "secret", object{"admin": true}, 403, "M_UNKNOWN"},
		"taken":             {"root", "secret", nil, 400, "M_USER_IN_USE"},
		"symbols":           {"a@b", "secret", nil, 400, "M_INVALID_USERNAME"},
		"NUL":               {"a\x00b", "secret", nil, 400, ""},
		"unknown user type": {"bob", "secret", object{"user_type": "king"}, 400, "M_UNKNOWN"},
		"no mac":            {"bob", "secret", object{"mac": nil}, 400, "M_BAD_JSON"},
	} {
		n := nonce()
		body := object{"nonce": n, "username": test.user, "password": "pw", "mac": macOf(test.mac, n, test.user, "pw", "notadmin")}
		for k, v := range test.extra {
			body[k] = v
		}
		status, r := s.Do("POST", path, "", body)
		if test.code == "" {
			test.code, _ = r["errcode"].(string)
		}
		refused(t, what, status, r, test.status, test.code)
	}
	n = nonce()
	bot := s.MustDo("POST", path, "", object{"nonce": n, "username": "bot", "password": "pw", "user_type": "bot", "mac": macOf("secret", n, "bot", "pw", "notadmin", "bot")})
	if bot["user_id"] != "@bot:localhost" {
		t.Errorf("%v", bot)
	}
	closed := server.Start(t, func(c *config.Config) { c.RegistrationSharedSecret = "" })
	n = closed.MustDo("GET", path, "", nil)["nonce"].(string)
	status, r = closed.Do("POST", path, "", object{"nonce": n, "username": "x", "password": "pw", "mac": macOf("", n, "x", "pw", "notadmin")})
	refused(t, "no secret is set", status, r, 400, "M_UNKNOWN")
}
