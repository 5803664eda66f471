package endpoint

import (
	"net/url"
	"testing"

	"hearth/test/server"
)

// part walks down the objects of an answer; nil where there is none.
func part(o object, keys ...string) object {
	for _, k := range keys {
		o, _ = o[k].(object)
	}
	return o
}

// Each answer is checked against the specification's schema by the server's Do.
// spec: client-server-api#syncing
func TestSyncFollowsRooms(t *testing.T) {
	s := server.Start(t)
	alice, bob := s.Register("alice"), s.Register("bob")
	sync := func(c *server.Client, since, more string) object {
		path := v3 + "/sync?timeout=0" + more
		if since != "" {
			path += "&since=" + url.QueryEscape(since)
		}
		return c.MustDo("GET", path, nil)
	}
	next := func(o object) string { token, _ := o["next_batch"].(string); return token }

	start := sync(bob, "", "")
	room, _ := alice.MustDo("POST", v3+"/createRoom", object{"preset": "private_chat", "name": "Kitchen", "invite": []string{"@bob:localhost"}})["room_id"].(string)
	invited := sync(bob, next(start), "")
	if part(invited, "rooms", "invite", room, "invite_state") == nil {
		t.Fatalf("no invite: %v", invited)
	}
	bob.MustDo("POST", v3+"/join/"+url.PathEscape(room), object{})
	joined := sync(bob, next(invited), "&use_state_after=true")
	if r := part(joined, "rooms", "join", room); r["state_after"] == nil || r["state"] != nil {
		t.Errorf("joined: %v", joined)
	}
	sent := alice.MustDo("PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/1", object{"msgtype": "m.text", "body": "hello"})
	heard := sync(bob, next(joined), "")
	events, _ := part(heard, "rooms", "join", room, "timeline")["events"].([]any)
	if len(events) != 1 || events[0].(object)["event_id"] != sent["event_id"] {
		t.Errorf("heard: %v", heard)
	}
	bob.MustDo("POST", v3+"/rooms/"+url.PathEscape(room)+"/leave", object{})
	if left := sync(bob, next(heard), ""); part(left, "rooms", "leave", room) == nil {
		t.Errorf("left: %v", left)
	}
	old := alice.MustDo("GET", v3+"/events?from="+url.QueryEscape(next(joined)), nil)
	if chunk, _ := old["chunk"].([]any); len(chunk) != 2 {
		t.Errorf("events: %v", old)
	}
}

func TestSyncRefusesBadParameters(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	for _, query := range []string{"since=garbage", "filter=99", "set_presence=asleep", "timeout=soon"} {
		status, body := alice.Do("GET", v3+"/sync?"+query, nil)
		refused(t, query, status, body, 400, "M_INVALID_PARAM")
	}
}

// What clients did before /sync: everything at once, then /events from there.
// spec: client-server-api#get_matrixclientv3initialsync
func TestInitialSync(t *testing.T) {
	s := server.Start(t)
	alice, bob := s.Register("alice"), s.Register("bob")
	create := func(keys object) string { return alice.MustDo("POST", v3+"/createRoom", keys)["room_id"].(string) }
	say := func(room, body string) {
		alice.MustDo("PUT", v3+"/rooms/"+url.PathEscape(room)+"/send/m.room.message/"+url.PathEscape(body), object{"msgtype": "m.text", "body": body})
	}
	do := func(room, what string) { bob.MustDo("POST", v3+"/rooms/"+url.PathEscape(room)+what, object{}) }
	get := func(query string) (object, map[string]object) {
		answer, rooms := bob.MustDo("GET", v3+"/initialSync"+query, nil), map[string]object{}
		for _, r := range answer["rooms"].([]any) {
			rooms[r.(object)["room_id"].(string)] = r.(object)
		}
		return answer, rooms
	}

	if answer, rooms := get(""); len(rooms) != 0 || answer["presence"] == nil || answer["end"] == "" {
		t.Errorf("of nobody: %v", answer)
	}
	joined, left := create(object{"preset": "public_chat", "visibility": "public", "name": "Kitchen"}), create(object{"preset": "public_chat"})
	invited, declined := create(object{"invite": []string{bob.User}}), create(object{"invite": []string{bob.User}})
	kicked, banned := create(object{"preset": "public_chat"}), create(object{"preset": "public_chat"})
	for _, room := range []string{joined, left, kicked, banned} {
		do(room, "/join")
		say(room, "one")
	}
	do(left, "/leave")
	do(declined, "/leave")
	alice.MustDo("POST", v3+"/rooms/"+url.PathEscape(kicked)+"/kick", object{"user_id": bob.User})
	alice.MustDo("POST", v3+"/rooms/"+url.PathEscape(banned)+"/ban", object{"user_id": bob.User})
	say(left, "not for bob")
	say(joined, "two")
	bob.MustDo("PUT", v3+"/user/"+url.PathEscape(bob.User)+"/account_data/org.example.mine", object{"a": 1})
	bob.MustDo("PUT", v3+"/user/"+url.PathEscape(bob.User)+"/rooms/"+url.PathEscape(joined)+"/tags/u.food", object{})
	alice.MustDo("PUT", v3+"/presence/"+url.PathEscape(alice.User)+"/status", object{"presence": "unavailable"})

	answer, rooms := get("?limit=1")
	if len(rooms) != 2 {
		t.Fatalf("%d rooms: %v", len(rooms), rooms)
	}
	kitchen := rooms[joined]
	want(t, "messages", bodies(kitchen["messages"].(object)["chunk"]), "two")
	if kitchen["membership"] != "join" || kitchen["visibility"] != "public" || len(kitchen["state"].([]any)) < 5 || len(kitchen["account_data"].([]any)) != 1 {
		t.Errorf("joined: %v", kitchen)
	}
	if r := rooms[invited]; r["membership"] != "invite" || part(r, "invite")["sender"] != alice.User || r["state"] != nil {
		t.Errorf("invited: %v", r)
	}
	types := map[any]bool{}
	for _, e := range answer["account_data"].([]any) {
		types[e.(object)["type"]] = true
	}
	if !types["org.example.mine"] || !types["m.push_rules"] {
		t.Errorf("account data: %v", types)
	}
	seen := false
	for _, e := range answer["presence"].([]any) {
		seen = seen || e.(object)["sender"] == alice.User && part(e.(object), "content")["presence"] == "unavailable"
	}
	if !seen {
		t.Errorf("presence: %v", answer["presence"])
	}
	older := bob.MustDo("GET", v3+"/rooms/"+url.PathEscape(joined)+"/messages?dir=b&limit=1&from="+url.QueryEscape(part(kitchen, "messages")["start"].(string)), nil)
	want(t, "older", bodies(older["chunk"]), "one")
	say(joined, "three")
	news := bob.MustDo("GET", v3+"/events?from="+url.QueryEscape(answer["end"].(string)), nil)
	want(t, "news", bodies(news["chunk"]), "three")

	_, rooms = get("?archived=true&limit=2")
	if len(rooms) != 5 || rooms[declined] != nil {
		t.Errorf("with those left: %v", rooms)
	}
	for room, membership := range map[string]string{left: "leave", kicked: "leave", banned: "ban"} {
		r := rooms[room]
		if r["membership"] != membership {
			t.Errorf("%s: %v", membership, r)
		}
		want(t, membership, bodies(part(r, "messages")["chunk"]), "one, m.room.member")
	}
	status, r := bob.Do("GET", v3+"/initialSync?limit=-1", nil)
	refused(t, "limit", status, r, 400, "M_INVALID_PARAM")
	status, r = s.Do("GET", v3+"/initialSync", "", nil)
	refused(t, "nobody", status, r, 401, "M_MISSING_TOKEN")
}
