package endpoint

import (
	"net/url"
	"slices"
	"testing"

	"hearth/config"
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
	expect(t, alice, 404, "M_NOT_FOUND", "GET", client+"v3/profile/"+esc("@nobody:"+string(b.Config.ServerName)), nil)
	// With whom the server may not talk, it does not.
	expect(t, alice, 403, "M_FORBIDDEN", "GET", client+"v3/profile/"+esc("@bob:elsewhere.example"), nil)
}

// spec: client-server-api#get_matrixclientv3directoryroomroomalias
func TestAliasesOfOtherServers(t *testing.T) {
	a, b := server.StartPair(t)
	alice, bob := a.Register("alice"), b.Register("bob")
	room := bob.MustDo("POST", client+"v3/createRoom", server.Object{"preset": "public_chat"})["room_id"]
	alias := "#老虎Â£я🤨👉ඞ:" + string(b.Config.ServerName)
	bob.MustDo("PUT", client+"v3/directory/room/"+esc(alias), server.Object{"room_id": room})

	got := alice.MustDo("GET", client+"v3/directory/room/"+esc(alias), nil)
	if servers := got["servers"].([]any); got["room_id"] != room || !slices.Equal(servers, []any{string(b.Config.ServerName)}) {
		t.Errorf("alias: %v, want %s", got, room)
	}
	expect(t, alice, 404, "M_NOT_FOUND", "GET", client+"v3/directory/room/"+esc("#none:"+string(b.Config.ServerName)), nil)
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
	path := client + "v3/publicRooms?server=" + url.QueryEscape(string(b.Config.ServerName))

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
	expect(t, alice, 403, "M_FORBIDDEN", "GET", client+"v3/publicRooms?server="+url.QueryEscape(string(b.Config.ServerName)), nil)
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
}
