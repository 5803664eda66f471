package endpoint

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"hearth/config"
	"hearth/test/server"
)

// challenge asks for something that needs authentication and returns the session.
func challenge(t *testing.T, c *server.Client, method, path string, body object) string {
	t.Helper()
	status, r := c.Do(method, path, body)
	session, _ := r["session"].(string)
	if status != 401 || session == "" || r["errcode"] != nil {
		t.Fatalf("%d %v", status, r)
	}
	return session
}

func devices(c *server.Client) (list []string) {
	for _, d := range c.MustDo("GET", v3+"/devices", nil)["devices"].([]any) {
		list = append(list, d.(object)["device_id"].(string))
	}
	return
}

func TestDevicesAreDeletedAfterAuthenticationOnly(t *testing.T) {
	s := server.Start(t)
	phone := s.Register("alice")
	laptop := s.Login("alice")
	path := v3 + "/devices/" + laptop.Device
	session := challenge(t, phone, "DELETE", path, object{})
	status, r := phone.Do("DELETE", path, object{"auth": object{"session": session}})
	if status != 401 || r["errcode"] != nil || r["completed"] != nil {
		t.Errorf("a session without a stage: %d %v", status, r)
	}
	phone.MustDo("DELETE", path, object{"auth": passwordAuth("@alice:localhost", session)})
	status, r = laptop.Do("GET", v3+"/account/whoami", nil)
	refused(t, "the device's token", status, r, 401, "M_UNKNOWN_TOKEN")
	// Deleting what is gone succeeds, and needs authentication all the same.
	challenge(t, phone, "DELETE", path, object{})
	phone.MustDo("DELETE", path, object{"auth": passwordAuth("alice", "")})

	tablet := s.Login("alice")
	body := object{"devices": []string{tablet.Device, "UNKNOWN", "with\x00nul"}}
	session = challenge(t, phone, "POST", v3+"/delete_devices", body)
	// Nothing but the session and the stage: the devices are those of the first request.
	phone.MustDo("POST", v3+"/delete_devices", object{"auth": passwordAuth("alice", session)})
	if d := devices(phone); !slices.Equal(d, []string{phone.Device}) {
		t.Errorf("left: %v", d)
	}
}

// A session proves one request of one user and nothing else.
func TestASessionIsBoundToItsRequest(t *testing.T) {
	s := server.Start(t)
	alice, bob := s.Register("alice"), s.Register("bob")
	laptop, tablet := s.Login("alice"), s.Login("alice")
	session := challenge(t, alice, "POST", v3+"/delete_devices", object{"devices": []string{laptop.Device}})
	for what, try := range map[string]struct {
		c            *server.Client
		method, path string
		body         object
	}{
		"other devices":  {alice, "POST", v3 + "/delete_devices", object{"devices": []string{tablet.Device}}},
		"other endpoint": {alice, "POST", v3 + "/account/deactivate", object{}},
		"other device":   {alice, "DELETE", v3 + "/devices/" + tablet.Device, object{}},
		"other user":     {bob, "POST", v3 + "/delete_devices", object{"devices": []string{laptop.Device}}},
	} {
		try.body["auth"] = passwordAuth(try.c.User, session)
		status, r := try.c.Do(try.method, try.path, try.body)
		refused(t, what, status, r, 403, "M_FORBIDDEN")
	}
	session = challenge(t, alice, "POST", v3+"/account/password", object{"new_password": "mine"})
	status, r := alice.Do("POST", v3+"/account/password", object{"new_password": "theirs", "auth": passwordAuth("alice", session)})
	refused(t, "other password", status, r, 403, "M_FORBIDDEN")
	s.Login("alice")
}

// No auth object but one with the right password of the right user satisfies the password stage.
func TestPasswordStage(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	s.Register("bob")
	path := v3 + "/devices/X"
	for what, auth := range map[string]any{
		"type alone":        object{"type": "m.login.password"},
		"empty password":    object{"type": "m.login.password", "user": "alice", "password": ""},
		"wrong password":    object{"type": "m.login.password", "user": "alice", "password": "wrong"},
		"dummy":             object{"type": "m.login.dummy"},
		"unknown stage":     object{"type": "m.login.sso"},
		"registration":      object{"type": "m.login.registration_token", "token": "x"},
		"unknown session":   object{"type": "m.login.password", "session": "nope"},
		"the hash's marker": object{"type": "secret_hash"},
	} {
		status, r := alice.Do("DELETE", path, object{"auth": auth})
		if status != 401 || r["errcode"] == nil || r["session"] == nil || r["completed"] != nil {
			t.Errorf("%s: %d %v", what, status, r)
		}
	}
	// Naming another account ends the request: no further try can mend that.
	for _, other := range []string{"bob", "charlie"} {
		status, r := alice.Do("DELETE", path, object{"auth": passwordAuth(other, "")})
		refused(t, other, status, r, 403, "M_FORBIDDEN")
	}
	for what, auth := range map[string]any{"null": nil, "empty": object{}, "another session": object{"session": "nope"}} {
		status, r := alice.Do("DELETE", path, object{"auth": auth})
		if status != 401 || r["errcode"] != nil {
			t.Errorf("%s: %d %v", what, status, r)
		}
	}
	for what, auth := range map[string]any{"string": "x", "list": []int{1}, "number for type": object{"type": 1}} {
		status, r := alice.Do("DELETE", path, object{"auth": auth})
		refused(t, what, status, r, 400, "M_BAD_JSON")
	}
	// A failed try can be repeated in its session.
	status, r := alice.Do("DELETE", path, object{"auth": object{"type": "m.login.password", "user": "alice", "password": "wrong"}})
	refused(t, "first try", status, r, 401, "M_FORBIDDEN")
	alice.MustDo("DELETE", path, object{"auth": passwordAuth("alice", r["session"].(string))})
}

func TestStagesComeInOrder(t *testing.T) {
	s := server.Start(t, func(c *config.Config) { c.RegistrationUnverified, c.RegistrationRequiresToken = false, true }, terms)
	invite(t, s, "invited", nil)
	body := func(auth object) object {
		return object{"username": "alice", "password": password, "auth": auth}
	}
	status, r := s.Do("POST", v3+"/register", "", body(nil))
	flows := fmt.Sprint(r["flows"])
	if status != 401 || flows != "[map[stages:[m.login.registration_token m.login.terms]]]" {
		t.Fatalf("%d %v", status, r)
	}
	policies := r["params"].(object)["m.login.terms"].(object)["policies"].(object)
	if policies["privacy"].(object)["en"].(object)["url"] != "https://example.org/privacy" {
		t.Errorf("%v", policies)
	}
	session := r["session"]
	status, r = s.Do("POST", v3+"/register", "", body(object{"type": "m.login.terms", "session": session}))
	if status != 401 || r["errcode"] == nil || r["completed"] != nil {
		t.Errorf("out of order: %d %v", status, r)
	}
	token := object{"type": "m.login.registration_token", "token": "invited", "session": session}
	for range 2 { // a completed stage is not done again
		status, r = s.Do("POST", v3+"/register", "", body(token))
		if status != 401 || r["errcode"] != nil || fmt.Sprint(r["completed"]) != "[m.login.registration_token]" {
			t.Errorf("first stage: %d %v", status, r)
		}
	}
	s.MustDo("POST", v3+"/register", "", body(object{"type": "m.login.terms", "session": session}))
}

// terms makes new users accept a policy.
func terms(c *config.Config) {
	c.Hearth.Terms = []config.Terms{{ID: "privacy", Version: "1", Language: "en", Name: "Privacy", URL: "https://example.org/privacy"}}
}

func TestFallbackPages(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	path := v3 + "/devices/X"
	session := challenge(t, alice, "DELETE", path, object{})
	page := v3 + "/auth/m.login.password/fallback/web?session=" + session
	send := func(method, form string) *httptest.ResponseRecorder {
		w := s.Raw(t.Context(), method, page, "", form)
		if !strings.HasPrefix(w.Header().Get("Content-Type"), "text/html") || !strings.Contains(w.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'") {
			t.Errorf("%v", w.Header())
		}
		return w
	}
	if w := send("GET", ""); w.Code != 200 || !strings.Contains(w.Body.String(), `name="password"`) || strings.Contains(w.Body.String(), "onAuthDone") {
		t.Errorf("form: %d %s", w.Code, w.Body)
	}
	if w := send("POST", "password=wrong"); w.Code == 200 || !strings.Contains(w.Body.String(), "alert") {
		t.Errorf("wrong password: %d %s", w.Code, w.Body)
	}
	if status, _ := alice.Do("DELETE", path, object{"auth": object{"session": session}}); status != 401 {
		t.Errorf("after a wrong password: %d", status)
	}
	if w := send("POST", "password="+strings.ReplaceAll(password, " ", "+")); w.Code != 200 || !strings.Contains(w.Body.String(), "window.onAuthDone();") {
		t.Errorf("right password: %d %s", w.Code, w.Body)
	}
	if w := send("GET", ""); !strings.Contains(w.Body.String(), "window.onAuthDone();") {
		t.Errorf("once more: %s", w.Body)
	}
	alice.MustDo("DELETE", path, object{"auth": object{"session": session}})
	for _, path := range []string{page, v3 + "/auth/m.login.password/fallback/web", v3 + "/auth/m.login.sso/fallback/web?session=" + session} {
		if w := s.Raw(t.Context(), "GET", path, "", ""); w.Code != 404 {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}
