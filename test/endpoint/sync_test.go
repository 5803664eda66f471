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
