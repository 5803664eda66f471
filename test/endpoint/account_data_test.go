package endpoint

import (
	"fmt"
	"strings"
	"testing"

	"hearth/test/server"
)

func TestAccountData(t *testing.T) {
	s := server.Start(t)
	alice, bob := s.Register("alice"), s.Register("bob")
	for _, base := range []string{v3 + "/user/@alice:localhost/account_data/", v3 + "/user/@alice:localhost/rooms/!any:example.org/account_data/"} {
		status, r := alice.Do("GET", base+"org.example.x", nil)
		refused(t, "not set", status, r, 404, "M_NOT_FOUND")
		alice.MustDo("PUT", base+"org.example.x", `{"b": 1.50, "a": "\u0000"}`)
		w := s.Raw(t.Context(), "GET", base+"org.example.x", alice.Token, "")
		if w.Body.String() != `{"b": 1.50, "a": "\u0000"}` {
			t.Errorf("content was changed: %s", w.Body)
		}
		alice.MustDo("PUT", base+"org.example.x", object{})
		if r := alice.MustDo("GET", base+"org.example.x", nil); len(r) != 0 {
			t.Errorf("%v", r)
		}
		for _, typ := range []string{"m.fully_read", "m.push_rules"} {
			status, r = alice.Do("PUT", base+typ, object{})
			refused(t, typ, status, r, 405, "M_BAD_JSON")
		}
		status, r = alice.Do("PUT", base+"org.example.x", `[]`)
		refused(t, "no object", status, r, 400, "M_BAD_JSON")
		status, r = alice.Do("PUT", base+"org.example.x", `{`)
		refused(t, "no JSON", status, r, 400, "M_NOT_JSON")
		status, r = alice.Do("PUT", base+strings.Repeat("x", 300), object{})
		refused(t, "long type", status, r, 400, "M_INVALID_PARAM")
		status, r = alice.Do("PUT", base+"org.example.x", `{"x":"`+strings.Repeat("x", 2<<20)+`"}`)
		refused(t, "too large", status, r, 413, "M_TOO_LARGE")
		for _, method := range []string{"GET", "PUT"} {
			status, r = bob.Do(method, base+"org.example.x", map[string]any{"GET": nil, "PUT": object{}}[method])
			refused(t, "another's", status, r, 403, "M_FORBIDDEN")
		}
	}
	status, r := alice.Do("GET", v3+"/user/@alice:localhost/rooms/nope/account_data/m.x", nil)
	refused(t, "no room id", status, r, 400, "M_INVALID_PARAM")
	if r := alice.MustDo("GET", v3+"/user/@alice:localhost/account_data/m.push_rules", nil); r["global"] == nil {
		t.Errorf("push rules: %v", r)
	}
}

// How a device notifies is of no use without the device.
// msc: 3890
func TestNotificationSettingsOfADeviceGoWithIt(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	other := s.Login("alice")
	const path = v3 + "/user/@alice:localhost/account_data/"
	const of = "org.matrix.msc3890.local_notification_settings."
	alice.MustDo("PUT", path+of+other.Device, object{"is_silenced": true})
	alice.MustDo("PUT", path+of+"THIRD", object{"is_silenced": true})
	other.MustDo("POST", v3+"/logout", object{})
	status, r := alice.Do("GET", path+of+other.Device, nil)
	refused(t, "of a device that is gone", status, r, 404, "M_NOT_FOUND")
	alice.MustDo("GET", path+of+"THIRD", nil)
}

func TestTags(t *testing.T) {
	s := server.Start(t)
	alice, bob := s.Register("alice"), s.Register("bob")
	const tags = v3 + "/user/@alice:localhost/rooms/!r:localhost/tags"
	get := func() string { return fmt.Sprint(alice.MustDo("GET", tags, nil)) }
	if got := get(); got != "map[tags:map[]]" {
		t.Error(got)
	}
	alice.MustDo("PUT", tags+"/m.favourite", object{"order": 0.5})
	alice.MustDo("PUT", tags+"/u.Work%2FProject", object{})
	if got := get(); got != "map[tags:map[m.favourite:map[order:0.5] u.Work/Project:map[]]]" {
		t.Error(got)
	}
	// Clients see them as account data.
	if got := fmt.Sprint(alice.MustDo("GET", v3+"/user/@alice:localhost/rooms/!r:localhost/account_data/m.tag", nil)); !strings.Contains(got, "m.favourite") {
		t.Error(got)
	}
	alice.MustDo("DELETE", tags+"/m.favourite", nil)
	alice.MustDo("DELETE", tags+"/m.never", nil)
	if got := get(); got != "map[tags:map[u.Work/Project:map[]]]" {
		t.Error(got)
	}
	alice.MustDo("PUT", v3+"/user/@alice:localhost/rooms/!r:localhost/account_data/m.tag", object{"tags": "nonsense"})
	alice.MustDo("PUT", tags+"/m.lowpriority", object{})
	status, r := alice.Do("PUT", tags+"/"+strings.Repeat("x", 256), object{})
	refused(t, "long tag", status, r, 400, "M_INVALID_PARAM")
	status, r = bob.Do("GET", tags, nil)
	refused(t, "another's", status, r, 403, "M_FORBIDDEN")
}

func TestFilters(t *testing.T) {
	s := server.Start(t)
	alice, bob := s.Register("alice"), s.Register("bob")
	const path = v3 + "/user/@alice:localhost/filter"
	filterID := alice.MustDo("POST", path, object{"room": object{"timeline": object{"limit": 10}}})["filter_id"].(string)
	if strings.HasPrefix(filterID, "{") {
		t.Error(filterID)
	}
	if got := fmt.Sprint(alice.MustDo("GET", path+"/"+filterID, nil)); got != "map[room:map[timeline:map[limit:10]]]" {
		t.Error(got)
	}
	for _, unknown := range []string{"99", "x", "-1"} {
		status, r := alice.Do("GET", path+"/"+unknown, nil)
		refused(t, unknown, status, r, 404, "M_NOT_FOUND")
	}
	status, r := alice.Do("POST", path, `{"room":{"timeline":{"limit":"ten"}}}`)
	refused(t, "malformed", status, r, 400, "M_BAD_JSON")
	status, r = bob.Do("GET", path+"/"+filterID, nil)
	refused(t, "another's", status, r, 403, "M_FORBIDDEN")
}
