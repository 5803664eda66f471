package endpoint

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"hearth/config"
	"hearth/matrix/id"
	"hearth/test/server"
)

const client = "/_matrix/client/"

func esc(s string) string { return url.PathEscape(s) }

// expect wants an error of a status and code.
func expect(t *testing.T, c *server.Client, status int, code, method, path string, body any) {
	t.Helper()
	got, answer := c.Do(method, path, body)
	if got != status || answer["errcode"] != code {
		t.Errorf("%s %s: %d %v, want %d %s", method, path, got, answer, status, code)
	}
}

// spec: client-server-api#get_matrixclientv3profileuserid
func TestProfilesOfOtherServers(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	profile := client + "v3/profile/" + esc(bob.User)
	bob.MustDo("PUT", profile+"/displayname", server.Object{"displayname": "Bob"})
	bob.MustDo("PUT", profile+"/org.example.shoe", server.Object{"org.example.shoe": 43})
	if got := alice.MustDo("GET", profile, nil); got["displayname"] != "Bob" || got["org.example.shoe"] != 43.0 || len(got) != 2 {
		t.Errorf("profile: %v", got)
	}
	if got := alice.MustDo("GET", profile+"/displayname", nil); got["displayname"] != "Bob" || len(got) != 1 {
		t.Errorf("name: %v", got)
	}
	expect(t, alice, 404, "M_NOT_FOUND", "GET", profile+"/avatar_url", nil)
	expect(t, alice, 404, "M_NOT_FOUND", "GET", client+"v3/profile/"+esc("@nobody:"+string(b.Name())), nil)
}

// spec: client-server-api#get_matrixclientv3directoryroomroomalias
func TestAliasesOfOtherServers(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat"})["room_id"]
	alias := "#老虎Â£я🤨👉ඞ:" + string(b.Name())
	bob.MustDo("PUT", client+"v3/directory/room/"+esc(alias), server.Object{"room_id": room})

	got := alice.MustDo("GET", client+"v3/directory/room/"+esc(alias), nil)
	if servers := got["servers"].([]any); got["room_id"] != room || !slices.Equal(servers, []any{string(b.Name())}) {
		t.Errorf("alias: %v, want %s", got, room)
	}
	expect(t, alice, 404, "M_NOT_FOUND", "GET", client+"v3/directory/room/"+esc("#none:"+string(b.Name())), nil)
}

// spec: client-server-api#get_matrixclientv3publicrooms
func TestPublicRoomsOfOtherServers(t *testing.T) {
	a, b := server.StartPair(t, func(c *config.Config) { c.PublicRoomsToServers = true })
	alice, bob := a.Register("alice"), b.Register("bob")
	rooms := map[any]string{}
	for _, name := range []string{"one", "two", "three"} {
		r := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat", "visibility": "public", "name": name})
		rooms[r["room_id"]] = name
	}
	path := client + "v3/publicRooms?server=" + url.QueryEscape(string(b.Name()))

	seen := map[any]bool{}
	for since := ""; ; {
		page := alice.MustDo("GET", path+"&limit=2&since="+url.QueryEscape(since), nil)
		for _, r := range page["chunk"].([]any) {
			r := r.(server.Object)
			if rooms[r["room_id"]] != r["name"] || seen[r["room_id"]] {
				t.Errorf("room %v, seen already: %t", r, seen[r["room_id"]])
			}
			seen[r["room_id"]] = true
		}
		next, ok := page["next_batch"].(string)
		if !ok {
			break
		}
		since = next
	}
	if len(seen) != 3 {
		t.Errorf("saw %d rooms of 3", len(seen))
	}
	page := alice.MustDo("POST", path, server.Object{"filter": server.Object{"generic_search_term": "thr"}})
	if chunk := page["chunk"].([]any); len(chunk) != 1 || chunk[0].(server.Object)["name"] != "three" {
		t.Errorf("search: %v", chunk)
	}
	if own := alice.MustDo("GET", client+"v3/publicRooms", nil)["chunk"].([]any); len(own) != 0 {
		t.Errorf("own list: %v", own)
	}
}

func TestPublicRoomsStayPrivate(t *testing.T) {
	a, b := server.StartPair(t)
	alice := a.Register("alice")
	expect(t, alice, 403, "M_FORBIDDEN", "GET", client+"v3/publicRooms?server="+url.QueryEscape(string(b.Name())), nil)
}

func TestServersThatCannotBeReached(t *testing.T) {
	// Nothing listens on this port of this machine.
	const gone = "127.0.0.1:1"
	s := server.Start(t, func(c *config.Config) {
		c.FederationDomainWhitelist = append(c.FederationDomainWhitelist, gone)
		c.FederationIPRangeDeny = []config.IPRange{}
	})
	alice := s.Register("alice")
	for _, path := range []string{
		"v3/profile/" + esc("@bob:"+gone),
		"v3/directory/room/" + esc("#room:"+gone),
		"v3/publicRooms?server=" + gone,
		"v1/media/download/" + gone + "/abc",
	} {
		expect(t, alice, 502, "M_UNKNOWN", "GET", client+path, nil)
	}
	room := alice.MustDo("POST", client+"v3/createRoom", server.Object{})["room_id"].(string)
	bob := "@bob:" + gone
	expect(t, alice, 502, "M_UNKNOWN", "POST", client+"v3/rooms/"+esc(room)+"/invite", server.Object{"user_id": bob})
	// A room for two that would have one user only is none. One for more is there, without who cannot be reached.
	expect(t, alice, 502, "M_UNKNOWN", "POST", client+"v3/createRoom", server.Object{"invite": []any{bob}, "is_direct": true, "room_alias_name": "two"})
	expect(t, alice, 404, "M_NOT_FOUND", "GET", client+"v3/directory/room/"+esc("#two:"+string(s.Name())), nil)
	s.Register("charlie")
	charlie := "@charlie:" + string(s.Name())
	group := alice.MustDo("POST", client+"v3/createRoom", server.Object{"invite": []any{bob, charlie}})["room_id"]
	if joined := alice.MustDo("GET", client+"v3/joined_rooms", nil)["joined_rooms"].([]any); len(joined) != 2 || !slices.Contains(joined, any(room)) || !slices.Contains(joined, group) {
		t.Errorf("alice is in %v, not only in %v and %v", joined, room, group)
	}
	invited := alice.MustDo("GET", client+"v3/rooms/"+esc(group.(string))+"/members?membership=invite", nil)["chunk"].([]any)
	if len(invited) != 1 || invited[0].(map[string]any)["state_key"] != charlie {
		t.Errorf("invited are %v", invited)
	}
	for _, way := range []string{"v3/join/", "v3/knock/"} {
		expect(t, alice, 502, "M_UNKNOWN", "POST", client+way+esc("!room:"+gone), nil)
		expect(t, alice, 502, "M_UNKNOWN", "POST", client+way+esc("#room:"+gone), nil)
	}
	// With whom the server may not talk, it does not.
	expect(t, alice, 403, "M_FORBIDDEN", "GET", client+"v3/profile/"+esc("@bob:elsewhere.example"), nil)
}

// join joins a room by way of another server.
func join(c *server.Client, room any, via *server.Server) {
	c.MustDo("POST", client+"v3/join/"+esc(room.(string))+"?via="+url.QueryEscape(string(via.Name())), nil)
	c.MustDo("GET", client+"v3/rooms/"+esc(room.(string))+"/joined_members", nil) // waits until they are known
}

func TestJoiningByAnAliasOfAnotherServer(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat", "room_alias_name": "den"})["room_id"]
	alias := "#den:" + string(b.Name())
	if got := alice.MustDo("POST", client+"v3/join/"+esc(alias), nil)["room_id"]; got != room {
		t.Errorf("joined %v, want %v", got, room)
	}
	got := alice.MustDo("GET", client+"v3/directory/room/"+esc(alias), nil)
	if servers := got["servers"].([]any); !slices.Equal(servers, []any{string(a.Name()), string(b.Name())}) {
		t.Errorf("servers of the alias after joining: %v", servers)
	}
}

// The servers that a user names are those that are asked to let him in. The one that
// made the room, which its id tells, is asked only where none of them is there at all.
func TestWhoseServersRefuseIsNotLetInByTheFounder(t *testing.T) {
	n := server.NewNetwork(t)
	a, b, c := n.Start(), n.Start(), n.Start()
	alice, bob, charlie := a.Register("alice"), b.Register("bob"), c.Register("charlie")
	allowed := alice.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat", "room_version": "10"})["room_id"].(string)
	room := alice.MustDo("POST", client+"v3/createRoom", server.Object{"room_version": "10",
		"power_level_content_override": server.Object{"invite": 100},
		"initial_state": []any{server.Object{"type": "m.room.join_rules", "content": server.Object{
			"join_rule": "restricted", "allow": []any{server.Object{"type": "m.room_membership", "room_id": allowed}},
		}}}})["room_id"].(string)
	join(charlie, allowed, a)
	join(bob, allowed, a) // his server knows that charlie is there
	join(bob, room, a)
	path := client + "v3/join/" + esc(room)
	expect(t, charlie, 400, "M_UNABLE_TO_GRANT_JOIN", "POST", path+"?via="+url.QueryEscape(string(b.Name())), nil)
	charlie.MustDo("POST", path+"?via=127.0.0.1:1", nil)
}

// spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
func TestTimesBeforeTheJoinAreFoundElsewhere(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat"})["room_id"]
	path := client + "v1/rooms/" + esc(room.(string)) + "/"
	send := func(txn string) (event string, ts int64) {
		event = bob.MustDo("PUT", client+"v3/rooms/"+esc(room.(string))+"/send/m.room.message/"+txn, server.Object{"msgtype": "m.text", "body": txn})["event_id"].(string)
		return event, int64(bob.MustDo("GET", client+"v3/rooms/"+esc(room.(string))+"/event/"+esc(event), nil)["origin_server_ts"].(float64))
	}
	first, firstTS := send("first")
	last, lastTS := send("last")
	join(alice, room, b)

	at := func(ts int64, dir string) any {
		return alice.MustDo("GET", path+"timestamp_to_event?dir="+dir+"&ts="+strconv.FormatInt(ts, 10), nil)["event_id"]
	}
	// Both may have been sent within a millisecond, and then the outermost is meant.
	if got := at(lastTS, "b"); got != last {
		t.Errorf("backwards from the last: %v, want %v", got, last)
	}
	if firstTS != lastTS {
		if got := at(firstTS, "f"); got != first {
			t.Errorf("forwards from the first: %v, want %v", got, first)
		}
	}
	around := alice.MustDo("GET", client+"v3/rooms/"+esc(room.(string))+"/context/"+esc(last)+"?limit=0", nil)
	page := alice.MustDo("GET", client+"v3/rooms/"+esc(room.(string))+"/messages?dir=b&from="+url.QueryEscape(around["start"].(string)), nil)
	if chunk := page["chunk"].([]any); len(chunk) == 0 || chunk[0].(server.Object)["event_id"] != first {
		t.Errorf("before the last: %v", chunk)
	}
}

// What was said before the first of the server's users joined is paged back to from
// where /sync begins to show the room.
// spec: client-server-api#get_matrixclientv3roomsroomidmessages
func TestHistoryBeforeTheJoinIsPagedBackTo(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat"})["room_id"].(string)
	var want []string
	for i := range 70 { // more than are asked for at once
		sent := bob.MustDo("PUT", client+"v3/rooms/"+esc(room)+"/send/m.room.message/"+strconv.Itoa(i), server.Object{"msgtype": "m.text", "body": "before"})
		want = append(want, sent["event_id"].(string))
	}
	slices.Reverse(want)
	since := alice.MustDo("GET", client+"v3/sync?timeout=0", nil)["next_batch"].(string)
	join(alice, room, b)
	first := alice.MustDo("GET", client+"v3/sync?timeout=0&since="+url.QueryEscape(since), nil)
	timeline := first["rooms"].(server.Object)["join"].(server.Object)[room].(server.Object)["timeline"].(server.Object)

	var got []string
	for from := timeline["prev_batch"]; from != nil && len(got) < len(want); {
		page := alice.MustDo("GET", client+"v3/rooms/"+esc(room)+"/messages?dir=b&limit=20&from="+url.QueryEscape(from.(string)), nil)
		for _, e := range page["chunk"].([]any) {
			if e := e.(server.Object); e["type"] == "m.room.message" {
				got = append(got, e["event_id"].(string))
			}
		}
		from = page["end"]
	}
	if !slices.Equal(got, want) {
		t.Errorf("history from before the join has %d events, want %d in this order:\n%v\n%v", len(got), len(want), got, want)
	}
}

// space makes a space with rooms, which are reached by way of servers.
func space(c *server.Client, rooms map[string]*server.Server) string {
	name := c.MustDo("POST", client+"v3/createRoom", server.Object{
		"preset": "public_chat", "creation_content": server.Object{"type": "m.space"},
	})["room_id"].(string)
	for room, via := range rooms {
		c.MustDo("PUT", client+"v3/rooms/"+esc(name)+"/state/m.space.child/"+esc(room), server.Object{"via": []id.Server{via.Name()}, "suggested": true})
	}
	return name
}

// rooms lists the rooms of a space, sorted.
func rooms(c *server.Client, space, query string) (list []string) {
	for _, r := range c.MustDo("GET", client+"v1/rooms/"+esc(space)+"/hierarchy?"+query, nil)["rooms"].([]any) {
		list = append(list, r.(server.Object)["room_id"].(string))
	}
	slices.Sort(list)
	return list
}

func sorted(list ...string) []string { slices.Sort(list); return list }

// spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func TestSpacesOnOtherServers(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	create := func(c *server.Client, preset string) string {
		return c.MustDo("POST", client+"v3/createRoom", server.Object{"preset": preset, "name": preset})["room_id"].(string)
	}
	open, closed, own := create(bob, "public_chat"), create(bob, "private_chat"), create(alice, "private_chat")
	inner := space(bob, map[string]*server.Server{open: b, closed: b, own: a})
	outer := space(alice, map[string]*server.Server{inner: b})

	if got, want := rooms(alice, outer, ""), sorted(outer, inner, open, own); !slices.Equal(got, want) {
		t.Errorf("alice sees %v, want %v", got, want)
	}
	carol := a.Register("charlie")
	if got, want := rooms(carol, outer, ""), sorted(outer, inner, open); !slices.Equal(got, want) {
		t.Errorf("somebody in none of the rooms sees %v, want %v", got, want)
	}
	if got, want := rooms(alice, outer, "max_depth=1"), sorted(outer, inner); !slices.Equal(got, want) {
		t.Errorf("one level deep: %v, want %v", got, want)
	}

	// spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
	summary := client + "v1/room_summary/"
	via := "?via=" + url.QueryEscape(string(b.Name()))
	if got := alice.MustDo("GET", summary+esc(open)+via, nil); got["name"] != "public_chat" || got["join_rule"] != "public" {
		t.Errorf("summary: %v", got)
	}
	expect(t, alice, 404, "M_NOT_FOUND", "GET", summary+esc(closed)+via, nil)
	if status, got := a.Do("GET", summary+esc(open)+via, "", nil); status != 404 {
		t.Errorf("somebody who is not logged in makes the server ask: %d %v", status, got)
	}

	// Whoever knocks was told of the room by a server, which can be asked again.
	door := bob.MustDo("POST", client+"v3/createRoom", server.Object{"name": "door", "initial_state": []any{
		server.Object{"type": "m.room.join_rules", "content": server.Object{"join_rule": "knock"}},
	}})["room_id"].(string)
	expect(t, alice, 404, "M_NOT_FOUND", "GET", summary+esc(door), nil)
	alice.MustDo("POST", client+"v3/knock/"+esc(door)+via, nil)
	if got := alice.MustDo("GET", summary+esc(door), nil); got["name"] != "door" || got["membership"] != "knock" {
		t.Errorf("summary for who knocks: %v", got)
	}
}

// spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
func TestFilesOfOtherServers(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	const text = "what the file holds"
	up := b.Raw(t.Context(), "POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape("grüße.txt"), bob.Token, text)
	uri, _ := strings.CutSuffix(strings.TrimSpace(up.Body.String()), `"}`)
	path := uri[strings.Index(uri, "mxc://")+len("mxc://"):]

	for range 2 {
		got := a.Raw(t.Context(), "GET", client+"v1/media/download/"+path, alice.Token, "")
		if got.Code != 200 || got.Body.String() != text || !strings.HasSuffix(got.Header().Get("Content-Disposition"), "gr%C3%BC%C3%9Fe.txt") {
			t.Errorf("download: %d %v %s", got.Code, got.Header(), got.Body)
		}
	}
	expect(t, alice, 404, "M_NOT_FOUND", "GET", client+"v1/media/download/"+string(b.Name())+"/none", nil)

	pending := bob.MustDo("POST", "/_matrix/media/v1/create", nil)["content_uri"].(string)
	expect(t, alice, 504, "M_NOT_YET_UPLOADED", "GET", client+"v1/media/download/"+strings.TrimPrefix(pending, "mxc://")+"?timeout_ms=0", nil)
}

func TestRoomsThatAreTooLarge(t *testing.T) {
	a, b := server.StartPair(t, func(c *config.Config) {
		c.LimitRemoteRooms.Enabled, c.LimitRemoteRooms.Complexity = true, 0.005 // two entries
		c.AdminContact = "mailto:admin@localhost"
	})
	alice, bob := a.Register("alice"), b.Register("bob")
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat"})["room_id"].(string)
	path := client + "v3/join/" + esc(room) + "?via=" + url.QueryEscape(string(b.Name()))
	expect(t, alice, 400, "M_RESOURCE_LIMIT_EXCEEDED", "POST", path, nil)
	bob.MustDo("POST", client+"v3/rooms/"+esc(room)+"/invite", server.Object{"user_id": alice.User})
	expect(t, alice, 400, "M_RESOURCE_LIMIT_EXCEEDED", "POST", client+"v3/rooms/"+esc(room)+"/join", nil)
	if joined := alice.MustDo("GET", client+"v3/joined_rooms", nil)["joined_rooms"].([]any); len(joined) != 0 {
		t.Errorf("joined %v", joined)
	}
	// Rooms in which the server is already cost it nothing more.
	b.Register("charlie").MustDo("POST", client+"v3/join/"+esc(room), nil)
}

// spec: client-server-api#post_matrixclientv3user_directorysearch
func TestPeopleOfOtherServersAreFound(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	bob.MustDo("PUT", client+"v3/profile/"+esc(bob.User)+"/displayname", server.Object{"displayname": "Robert Builder"})
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat"})["room_id"]
	find := func(c *server.Client, term string) []any {
		return c.MustDo("POST", client+"v3/user_directory/search", server.Object{"search_term": term})["results"].([]any)
	}
	if found := find(alice, "bob"); len(found) != 0 {
		t.Errorf("before they met: %v", found)
	}
	join(alice, room, b)
	for _, term := range []string{"bob", "builder", "Rob"} {
		found := find(alice, term)
		if len(found) != 1 || found[0].(server.Object)["user_id"] != bob.User || found[0].(server.Object)["display_name"] != "Robert Builder" {
			t.Errorf("%s: %v", term, found)
		}
	}
	if found := find(a.Register("charlie"), "builder"); len(found) != 0 {
		t.Errorf("somebody who never met them: %v", found)
	}
}
