package endpoint

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"hearth/test/server"
)

const v1 = "/_matrix/client/v1"

// house is a server with two members of one room. Each answer is checked
// against the specification's schema by the server's Do.
type house struct {
	*testing.T
	alice, bob *server.Client
	room       string
	txn        int
}

func newHouse(t *testing.T) *house {
	s := server.Start(t)
	h := &house{T: t, alice: s.Register("alice"), bob: s.Register("bob")}
	h.room = h.create(h.alice, object{"preset": "public_chat", "visibility": "public", "name": "Kitchen", "topic": "Food"})
	h.bob.MustDo("POST", h.path("/join"), object{})
	return h
}

func (h *house) create(c *server.Client, body object) string {
	h.Helper()
	room, _ := c.MustDo("POST", v3+"/createRoom", body)["room_id"].(string)
	return room
}

func (h *house) path(rest string) string { return v3 + "/rooms/" + url.PathEscape(h.room) + rest }

func (h *house) send(c *server.Client, content object) string {
	h.Helper()
	h.txn++
	id, _ := c.MustDo("PUT", h.path(fmt.Sprintf("/send/m.room.message/%d", h.txn)), content)["event_id"].(string)
	return id
}

func (h *house) say(c *server.Client, body string) string {
	h.Helper()
	return h.send(c, object{"msgtype": "m.text", "body": body})
}

// bodies is what the events of a list say, or their types.
func bodies(list any) string {
	var out []string
	events, _ := list.([]any)
	for _, e := range events {
		ev := e.(object)
		if r, ok := ev["result"].(object); ok {
			ev = r
		}
		text, ok := part(ev, "content")["body"].(string)
		if !ok {
			text, _ = ev["type"].(string)
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// spec: client-server-api#getting-events-for-a-room
func TestReadingARoom(t *testing.T) {
	h := newHouse(t)
	first := h.say(h.alice, "one")
	h.say(h.bob, "two")
	page := h.alice.MustDo("GET", h.path("/messages?dir=b&limit=2&filter="+url.QueryEscape(`{"lazy_load_members":true}`)), nil)
	want(t, "newest", bodies(page["chunk"]), "two, one")
	if n := len(page["state"].([]any)); n != 2 {
		t.Errorf("%d members with the page", n)
	}
	old, _ := h.alice.Do("GET", strings.Replace(h.path("/messages"), "/v3/", "/r0/", 1), nil)
	if old != 200 {
		t.Errorf("messages without dir, under r0: %d", old)
	}
	around := h.bob.MustDo("GET", h.path("/context/"+url.PathEscape(first)+"?limit=2"), nil)
	want(t, "context", bodies(around["events_after"]), "two")
	want(t, "event", part(h.bob.MustDo("GET", h.path("/event/"+url.PathEscape(first)), nil), "content")["body"].(string), "one")
	want(t, "event of any room", part(h.bob.MustDo("GET", v3+"/events/"+url.PathEscape(first), nil), "content")["body"].(string), "one")
	near := h.bob.MustDo("GET", strings.Replace(h.path("/timestamp_to_event?ts=1&dir=f"), "/v3/", "/v1/", 1), nil)
	if near["event_id"] == nil {
		t.Errorf("nearest: %v", near)
	}
	for _, state := range []string{"/state/m.room.name", "/state/m.room.name/"} {
		want(t, state, fmt.Sprint(h.bob.MustDo("GET", h.path(state), nil)["name"]), "Kitchen")
	}
	if ev := h.bob.MustDo("GET", h.path("/state/m.room.name?format=event"), nil); ev["sender"] != "@alice:localhost" || ev["room_id"] != h.room {
		t.Errorf("state event: %v", ev)
	}
	members := h.bob.MustDo("GET", h.path("/members?membership=join"), nil)
	if n := len(members["chunk"].([]any)); n != 2 {
		t.Errorf("%d members", n)
	}
	if joined := part(h.bob.MustDo("GET", h.path("/joined_members"), nil), "joined"); joined["@alice:localhost"] == nil {
		t.Errorf("joined members: %v", joined)
	}
	if peek := h.bob.MustDo("GET", h.path("/initialSync"), nil); peek["membership"] != "join" || peek["visibility"] != "public" {
		t.Errorf("initialSync: %v", peek["membership"])
	}
	for _, c := range []struct {
		path, code string
		status     int
	}{
		{h.path("/messages?dir=x"), "M_INVALID_PARAM", 400},
		{h.path("/messages?dir=b&from=x"), "M_INVALID_PARAM", 400},
		{h.path("/messages?dir=b&limit=-1"), "M_INVALID_PARAM", 400},
		{h.path("/messages?dir=b&filter=x"), "M_NOT_JSON", 400},
		{v3 + "/rooms/!nowhere:localhost/messages?dir=b", "M_FORBIDDEN", 403},
		{h.path("/event/$nothing"), "M_NOT_FOUND", 404},
		{h.path("/context/$nothing"), "M_NOT_FOUND", 404},
		{v3 + "/rooms/!nowhere:localhost/event/$nothing", "M_NOT_FOUND", 404},
		{h.path("/state/org.example.none"), "M_NOT_FOUND", 404},
		{h.path("/members?membership=x"), "M_INVALID_PARAM", 400},
		{strings.Replace(h.path("/timestamp_to_event?dir=f"), "/v3/", "/v1/", 1), "M_MISSING_PARAM", 400},
	} {
		status, r := h.bob.Do("GET", c.path, nil)
		refused(t, c.path, status, r, c.status, c.code)
	}
}

// A forgotten room is gone, but the other devices learn that it was left.
// spec: client-server-api#post_matrixclientv3roomsroomidforget
func TestForgetting(t *testing.T) {
	h := newHouse(t)
	since, _ := h.bob.MustDo("GET", v3+"/sync?timeout=0", nil)["next_batch"].(string)
	status, r := h.bob.Do("POST", h.path("/forget"), object{})
	refused(t, "forget while joined", status, r, 400, "M_UNKNOWN")
	h.bob.MustDo("POST", h.path("/leave"), object{})
	h.bob.MustDo("GET", h.path("/messages?dir=b"), nil)
	h.bob.MustDo("POST", h.path("/forget"), object{})
	status, r = h.bob.Do("GET", h.path("/messages"), nil)
	refused(t, "messages of a forgotten room", status, r, 403, "M_FORBIDDEN")
	later := h.bob.MustDo("GET", v3+"/sync?timeout=0&since="+url.QueryEscape(since), nil)
	if part(later, "rooms", "leave", h.room) == nil {
		t.Error("another device does not learn that the room was left")
	}
	all := h.bob.MustDo("GET", v3+"/sync?timeout=0&filter="+url.QueryEscape(`{"room":{"include_leave":true}}`), nil)
	if part(all, "rooms", "leave", h.room) != nil {
		t.Error("a forgotten room is in a new sync")
	}
}

// spec: client-server-api#relationships-api
func TestRelationsAndThreads(t *testing.T) {
	h := newHouse(t)
	root := h.say(h.alice, "root")
	relates := func(body, relType string) object {
		return object{"msgtype": "m.text", "body": body, "m.relates_to": object{"rel_type": relType, "event_id": root}, "m.new_content": object{"body": body}}
	}
	h.send(h.bob, relates("reply", "m.thread"))
	h.send(h.alice, relates("edit", "m.replace"))
	base := v1 + "/rooms/" + url.PathEscape(h.room)
	below := base + "/relations/" + url.PathEscape(root)
	want(t, "all", bodies(h.bob.MustDo("GET", below, nil)["chunk"]), "edit, reply")
	want(t, "oldest first", bodies(h.bob.MustDo("GET", below+"?dir=f&recurse=true", nil)["chunk"]), "reply, edit")
	want(t, "threaded", bodies(h.bob.MustDo("GET", below+"/m.thread", nil)["chunk"]), "reply")
	want(t, "messages", bodies(h.bob.MustDo("GET", below+"/m.thread/m.room.message", nil)["chunk"]), "reply")
	want(t, "reactions", bodies(h.bob.MustDo("GET", below+"/m.annotation", nil)["chunk"]), "")
	threads := h.bob.MustDo("GET", base+"/threads?include=participated", nil)
	want(t, "threads", bodies(threads["chunk"]), "root")
	bundle := part(threads["chunk"].([]any)[0].(object), "unsigned", "m.relations")
	want(t, "latest", fmt.Sprint(part(bundle, "m.thread", "latest_event", "content")["body"]), "reply")
	want(t, "edit", fmt.Sprint(part(bundle, "m.replace", "content")["body"]), "edit")
	for path, code := range map[string]string{base + "/threads?include=x": "M_INVALID_PARAM", below + "?limit=0": "M_INVALID_PARAM", below + "?recurse=x": "M_INVALID_PARAM"} {
		status, r := h.bob.Do("GET", path, nil)
		refused(t, path, status, r, 400, code)
	}
}

// spec: client-server-api#server-side-search
func TestSearching(t *testing.T) {
	h := newHouse(t)
	for i := range 20 {
		h.say(h.alice, fmt.Sprintf("Message number %d", i))
	}
	search := func(token string, more object) object {
		t.Helper()
		criteria := object{"search_term": "message", "keys": []string{"content.body"}, "order_by": "recent",
			"filter": object{"limit": 10, "rooms": []string{h.room}}}
		for k, v := range more {
			criteria[k] = v
		}
		r := h.bob.MustDo("POST", v3+"/search?next_batch="+url.QueryEscape(token), object{"search_categories": object{"room_events": criteria}})
		return part(r, "search_categories", "room_events")
	}
	token := ""
	for i, first := range []string{"Message number 19", "Message number 9", ""} {
		page := search(token, nil)
		if got := bodies(page["results"]); !strings.HasPrefix(got, first) || page["count"] != float64(20) {
			t.Errorf("page %d: %s of %v", i, got, page["count"])
		}
		token, _ = page["next_batch"].(string)
		if last := first == ""; last != (token == "") {
			t.Errorf("page %d: next_batch %q", i, token)
		}
	}
	page := search("", object{"search_term": "Message 4", "filter": object{"limit": 1}, "include_state": true,
		"event_context": object{"before_limit": 2, "after_limit": 2, "include_profile": true}, "groupings": object{"group_by": []object{{"key": "room_id"}}}})
	around := part(page["results"].([]any)[0].(object), "context")
	want(t, "before", bodies(around["events_before"]), "Message number 3, Message number 2")
	want(t, "after", bodies(around["events_after"]), "Message number 5, Message number 6")
	if page["next_batch"] == nil || part(page, "groups", "room_id", h.room) == nil || part(page, "state")[h.room] == nil {
		t.Errorf("page of one: %v", page)
	}
	for _, bad := range []object{{"search_term": nil}, {"order_by": "x"}, {"keys": []string{"content.x"}}, {"groupings": object{"group_by": []object{{"key": "x"}}}}} {
		criteria := object{"search_term": "x"}
		for k, v := range bad {
			criteria[k] = v
		}
		if status, r := h.bob.Do("POST", v3+"/search", object{"search_categories": object{"room_events": criteria}}); status != 400 {
			t.Errorf("%v: %d %v", bad, status, r)
		}
	}
}

// spec: client-server-api#published-room-directory
func TestDirectory(t *testing.T) {
	h := newHouse(t)
	space := h.create(h.alice, object{"preset": "public_chat", "name": "Home", "creation_content": object{"type": "m.space"}})
	h.alice.MustDo("PUT", v3+"/rooms/"+url.PathEscape(space)+"/state/m.space.child/"+url.PathEscape(h.room), object{"via": []string{"localhost"}})
	rooms := h.bob.MustDo("GET", v1+"/rooms/"+url.PathEscape(space)+"/hierarchy", nil)["rooms"].([]any)
	if len(rooms) != 2 || rooms[0].(object)["name"] != "Home" || rooms[1].(object)["name"] != "Kitchen" {
		t.Errorf("hierarchy: %v", rooms)
	}
	if listed := h.bob.MustDo("GET", v3+"/publicRooms", nil)["chunk"].([]any); len(listed) != 1 {
		t.Errorf("listed: %v", listed)
	}
	found := h.bob.MustDo("POST", v3+"/publicRooms", object{"filter": object{"generic_search_term": "FOOD"}})["chunk"].([]any)
	if len(found) != 1 || found[0].(object)["topic"] != "Food" {
		t.Errorf("found: %v", found)
	}
	if s := h.bob.MustDo("GET", v1+"/room_summary/"+url.PathEscape(h.room), nil); s["membership"] != "join" || s["num_joined_members"] != float64(2) {
		t.Errorf("summary: %v", s)
	}
	if m := h.bob.MustDo("GET", v1+"/mutual_rooms?user_id="+url.QueryEscape("@alice:localhost"), nil); m["count"] != float64(1) {
		t.Errorf("mutual: %v", m)
	}
	people := h.bob.MustDo("POST", v3+"/user_directory/search", object{"search_term": "ALI"})["results"].([]any)
	if len(people) != 1 || people[0].(object)["user_id"] != "@alice:localhost" {
		t.Errorf("people: %v", people)
	}
	status, r := h.bob.Do("GET", v1+"/mutual_rooms", nil)
	refused(t, "mutual rooms with nobody", status, r, 400, "M_MISSING_PARAM")
	status, r = h.bob.Do("GET", v1+"/rooms/"+url.PathEscape(space)+"/hierarchy?limit=0", nil)
	refused(t, "no rooms of a space", status, r, 400, "M_INVALID_PARAM")
}

// spec: client-server-api#reporting-content
func TestReporting(t *testing.T) {
	h := newHouse(t)
	spam := h.say(h.alice, "spam")
	h.bob.MustDo("POST", h.path("/report/"+url.PathEscape(spam)), object{"reason": "spam", "score": -100})
	h.bob.MustDo("POST", h.path("/report"), object{"reason": ""})
	h.bob.MustDo("POST", v3+"/users/@alice:localhost/report", object{"reason": "spam"})
	status, r := h.bob.Do("POST", h.path("/report/$nothing"), object{})
	refused(t, "report of nothing", status, r, 404, "M_NOT_FOUND")
	status, r = h.bob.Do("POST", h.path("/report"), object{})
	refused(t, "report without reason", status, r, 400, "M_MISSING_PARAM")
}
