package client

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/push"
	"hearth/room"
	"hearth/store/storetest"
)

// script sends requests as alice and compares answers.
type script struct {
	t      *testing.T
	router *httpx.Router
}

// call sends a request and expects a status; the answer must hold each of the wanted texts.
func (s script) call(status int, method, path, body string, want ...string) string {
	s.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "/_matrix/client/v3"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer alice")
	s.router.ServeHTTP(w, r)
	answer := w.Body.String()
	if w.Code != status {
		s.t.Errorf("%s %s: status %d, want %d: %s", method, path, w.Code, status, answer)
	}
	for _, text := range want {
		if !strings.Contains(answer, text) {
			s.t.Errorf("%s %s: %s is not in %s", method, path, text, answer)
		}
	}
	return answer
}

func pushScript(t *testing.T) script {
	s := storetest.Open(t, nil)
	a := &API{Push: push.New(s, room.New(s, room.Options{Server: storetest.Server}), push.Options{})}
	router := &httpx.Router{Authenticate: func(_ context.Context, token string, _ *http.Request) (httpx.Caller, error) {
		if token != "alice" {
			return httpx.Caller{}, errcode.UnknownToken("unknown token")
		}
		return httpx.Caller{User: id.MakeUser(token, storetest.Server), Device: "DEV"}, nil
	}}
	router.Mount(a.pushNotifications()...)
	return script{t, router}
}

func TestPushRulesAPI(t *testing.T) {
	s := pushScript(t)
	const rules = "/pushrules/global/"
	for _, path := range []string{"/pushrules/", "/pushrules"} {
		s.call(200, "GET", path, "", `{"global":{"override":[{"rule_id":".m.rule.master"`)
	}
	s.call(200, "GET", rules, "", `{"override":[`, `"content":[]`)
	s.call(200, "GET", rules+"room/", "", `[]`)
	s.call(404, "GET", rules+"postcontent/", "", "M_NOT_FOUND")
	s.call(404, "GET", "/pushrules/device/", "", "M_UNRECOGNIZED")

	s.call(404, "GET", rules+"content/cake", "", "M_NOT_FOUND")
	s.call(404, "PUT", rules+"content/cake/enabled", `{"enabled":true}`, "M_NOT_FOUND")
	s.call(404, "GET", rules+"content/cake/actions", "", "M_NOT_FOUND")
	s.call(404, "DELETE", rules+"content/cake", "", "M_NOT_FOUND")
	s.call(404, "GET", rules+"postcontent/.io.element.msc4306.rule.subscribed_thread", "", "M_NOT_FOUND")

	s.call(400, "PUT", rules+"content/cake", `{"pattern":"cake"}`, "M_MISSING_PARAM")
	s.call(400, "PUT", rules+"content/cake", `{"actions":[]}`, "M_MISSING_PARAM")
	s.call(400, "PUT", rules+"content/cake", `{"actions":"notify","pattern":"cake"}`, "M_BAD_JSON")
	s.call(400, "PUT", rules+"content/cake", `{"actions":["shout"],"pattern":"cake"}`, "M_INVALID_PARAM")
	s.call(400, "PUT", rules+"content/cake", `{"actions":[]`, "M_NOT_JSON")
	s.call(400, "PUT", rules+"content/cake?before=pie", `{"actions":[],"pattern":"cake"}`, "M_UNKNOWN", "before/after rule not found: pie")
	s.call(400, "PUT", rules+"content/.cake", `{"actions":[],"pattern":"cake"}`, "M_INVALID_PARAM")
	s.call(400, "PUT", rules+"content/ca%2Fke", `{"actions":[],"pattern":"cake"}`, "M_INVALID_PARAM")
	s.call(400, "PUT", rules+"content/ca%5Cke", `{"actions":[],"pattern":"cake"}`, "M_INVALID_PARAM")
	s.call(400, "PUT", rules+"postcontent/cake", `{"actions":[]}`, "M_INVALID_PARAM")

	s.call(200, "PUT", rules+"content/cake", `{"actions":["notify"],"pattern":"cake"}`, `{}`)
	s.call(200, "GET", rules+"content/cake", "", `{"rule_id":"cake","default":false,"enabled":true,"actions":["notify"],"pattern":"cake"}`)
	s.call(200, "PUT", rules+"content/lie?after=cake", `{"actions":[],"pattern":"lie"}`)
	if answer := s.call(200, "GET", rules+"content", ""); strings.Index(answer, "cake") > strings.Index(answer, "lie") {
		t.Errorf("order is wrong: %s", answer)
	}
	s.call(200, "PUT", rules+"room/!r:example.org", `{"actions":["dont_notify"]}`)
	s.call(200, "GET", rules+"room/%21r%3Aexample.org", "", `"actions":["dont_notify"]`)

	s.call(400, "PUT", rules+"content/cake/enabled", `{}`, "M_MISSING_PARAM")
	s.call(400, "PUT", rules+"content/cake/enabled", `{"enabled":"no"}`, "M_BAD_JSON")
	s.call(200, "PUT", rules+"content/cake/enabled", `{"enabled":false}`, `{}`)
	s.call(200, "GET", rules+"content/cake/enabled", "", `{"enabled":false}`)
	s.call(400, "PUT", rules+"override/.m.rule.master/actions", `{}`, "M_MISSING_PARAM")
	s.call(200, "PUT", rules+"override/.m.rule.reaction/actions", `{"actions":["notify",{"set_tweak":"highlight"}]}`, `{}`)
	s.call(200, "GET", rules+"override/.m.rule.reaction/actions", "", `{"actions":["notify",{"set_tweak":"highlight"}]}`)
	s.call(400, "DELETE", rules+"override/.m.rule.reaction", "", "M_INVALID_PARAM")
	s.call(200, "DELETE", rules+"content/cake", "", `{}`)
	s.call(404, "GET", rules+"content/cake/enabled", "", "M_NOT_FOUND")
}

func TestPushersAPI(t *testing.T) {
	s := pushScript(t)
	s.call(200, "GET", "/pushers", "", `{"pushers":[]}`)
	const pusher = `{"lang":"en","kind":"http","app_display_name":"Mat Rix","device_display_name":"iPhone 9","profile_tag":"xxyyzz",
		"app_id":"com.example.app.ios","pushkey":"APA91","data":{"url":"https://push.example.org/_matrix/push/v1/notify","format":"event_id_only"}}`
	s.call(400, "POST", "/pushers/set", `{"kind":"http","app_id":"a","pushkey":"k"}`, "M_MISSING_PARAM", "lang, data")
	s.call(400, "POST", "/pushers/set", `{"app_id":"a","pushkey":"k"}`, "M_MISSING_PARAM")
	s.call(200, "POST", "/pushers/set", pusher, `{}`)
	answer := s.call(200, "GET", "/pushers", "", `"pushkey":"APA91"`, `"org.matrix.msc3881.enabled":true`, `"org.matrix.msc3881.device_id":"DEV"`)
	if !jsontext.Value(answer).IsValid() {
		t.Errorf("not JSON: %s", answer)
	}
	s.call(200, "POST", "/pushers/set", `{"kind":null,"app_id":"com.example.app.ios","pushkey":"APA91"}`, `{}`)
	s.call(200, "GET", "/pushers", "", `{"pushers":[]}`)
}

func TestNotificationsAPI(t *testing.T) {
	s := pushScript(t)
	s.call(200, "GET", "/notifications?limit=5&only=highlight", "", `{"notifications":[]}`)
	s.call(400, "GET", "/notifications?limit=0", "", "M_INVALID_PARAM")
	s.call(400, "GET", "/notifications?limit=x", "", "M_INVALID_PARAM")
	s.call(400, "GET", "/notifications?from=x", "", "M_INVALID_PARAM")
}

// The answers have what the specification requires of them.
func TestPushAnswersAreWhole(t *testing.T) {
	s := pushScript(t)
	var all struct {
		Global map[string][]map[string]jsontext.Value `json:"global"`
	}
	if err := json.Unmarshal([]byte(s.call(200, "GET", "/pushrules/", "")), &all); err != nil {
		t.Fatal(err)
	}
	for kind, rules := range all.Global {
		for _, r := range rules {
			for _, key := range []string{"actions", "default", "enabled", "rule_id"} {
				if r[key] == nil {
					t.Errorf("%s rule %s has no %s", kind, fmt.Sprint(r["rule_id"]), key)
				}
			}
			if (kind == "override" || kind == "underride") && r["conditions"] == nil {
				t.Errorf("%s rule %s has no conditions", kind, r["rule_id"])
			}
		}
	}
}
