package endpoint

import (
	"fmt"
	"strings"
	"testing"

	"hearth/test/server"
)

func TestProfileFields(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	const profile = v3 + "/profile/@alice:localhost"
	alice.MustDo("PUT", profile+"/displayname", object{"displayname": "Alice Liddell"})
	alice.MustDo("PUT", profile+"/avatar_url", object{"avatar_url": "mxc://localhost/cat"})
	alice.MustDo("PUT", profile+"/m.tz", object{"m.tz": "Europe/London"})
	alice.MustDo("PUT", profile+"/org.example.pronouns", object{"org.example.pronouns": []any{"she", nil, 1.5}})
	alice.MustDo("PUT", "/_matrix/client/unstable/uk.tcpip.msc4133/profile/@alice:localhost/org.example.nothing", object{"org.example.nothing": nil})
	want := "map[avatar_url:mxc://localhost/cat displayname:Alice Liddell m.tz:Europe/London org.example.nothing:<nil> org.example.pronouns:[she <nil> 1.5]]"
	if got := fmt.Sprint(s.MustDo("GET", profile, "", nil)); got != want {
		t.Errorf("got %s", got)
	}
	if got := s.MustDo("GET", profile+"/m.tz", "", nil); got["m.tz"] != "Europe/London" || len(got) != 1 {
		t.Errorf("one field: %v", got)
	}
	for _, key := range []string{"m.tz", "displayname", "org.example.pronouns", "org.example.nothing", "org.example.never"} {
		alice.MustDo("DELETE", profile+"/"+key, nil)
		status, r := s.Do("GET", profile+"/"+key, "", nil)
		refused(t, key, status, r, 404, "M_NOT_FOUND")
	}
	alice.MustDo("PUT", profile+"/avatar_url", object{"avatar_url": ""})
	if got := s.MustDo("GET", profile, "", nil); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
}

func TestProfileRefusals(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	s.Register("bob")
	const profile = v3 + "/profile/@alice:localhost/"
	long := "org." + strings.Repeat("x", 300)
	for what, test := range map[string]struct {
		key, body string
		status    int
		code      string
	}{
		"key missing":     {"displayname", `{}`, 400, "M_MISSING_PARAM"},
		"other key":       {"displayname", `{"avatar_url":"mxc://a/b"}`, 400, "M_MISSING_PARAM"},
		"no string":       {"displayname", `{"displayname":1}`, 400, "M_INVALID_PARAM"},
		"null":            {"displayname", `{"displayname":null}`, 400, "M_INVALID_PARAM"},
		"long name":       {"displayname", `{"displayname":"` + strings.Repeat("x", 257) + `"}`, 400, "M_INVALID_PARAM"},
		"NUL":             {"displayname", `{"displayname":"a\u0000"}`, 400, "M_INVALID_PARAM"},
		"no JSON":         {"displayname", `{"displayname"`, 400, "M_NOT_JSON"},
		"no object":       {"displayname", `"displayname"`, 400, "M_BAD_JSON"},
		"long key":        {long, `{"` + long + `":1}`, 400, "M_KEY_TOO_LARGE"},
		"key with spaces": {"a%20b", `{"a b":1}`, 400, "M_INVALID_PARAM"},
		"capitals":        {"Org.Example", `{"Org.Example":1}`, 400, "M_INVALID_PARAM"},
		"too large":       {"org.example.big", `{"org.example.big":"` + strings.Repeat("x", 64<<10) + `"}`, 400, "M_PROFILE_TOO_LARGE"},
	} {
		status, r := alice.Do("PUT", profile+test.key, test.body)
		refused(t, what, status, r, test.status, test.code)
	}
	// Many fields are too large together.
	for i := range 3 {
		key := fmt.Sprintf("org.example.part%d", i)
		status, r := alice.Do("PUT", profile+key, object{key: strings.Repeat("x", 30<<10)})
		if i < 2 && status != 200 {
			t.Errorf("%d: %d %v", i, status, r)
		} else if i == 2 {
			refused(t, "third part", status, r, 400, "M_PROFILE_TOO_LARGE")
		}
	}
	status, r := alice.Do("PUT", v3+"/profile/@bob:localhost/displayname", object{"displayname": "Bobby"})
	refused(t, "another's profile", status, r, 403, "M_FORBIDDEN")
	status, r = s.Do("PUT", profile+"displayname", "", object{"displayname": "A"})
	refused(t, "nobody", status, r, 401, "M_MISSING_TOKEN")
	status, r = s.Do("GET", v3+"/profile/@charlie:localhost", "", nil)
	refused(t, "unknown user", status, r, 404, "M_NOT_FOUND")
	status, r = s.Do("GET", v3+"/profile/charlie", "", nil)
	refused(t, "no user id", status, r, 400, "M_INVALID_PARAM")
}

func TestRoomsHearOfANewName(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	room := alice.MustDo("POST", v3+"/createRoom", object{})["room_id"].(string)
	alice.MustDo("PUT", v3+"/profile/@alice:localhost/displayname", object{"displayname": "Queen"})
	member := alice.MustDo("GET", v3+"/rooms/"+room+"/state/m.room.member/@alice:localhost", nil)
	if member["displayname"] != "Queen" || member["membership"] != "join" {
		t.Errorf("%v", member)
	}
}
