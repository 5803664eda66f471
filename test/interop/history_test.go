//go:build interop

package interop_test

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"testing"
)

// spec: server-server-api#backfilling-and-retrieving-missing-events
func TestOldHistoryIsFetched(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := alice.create(obj{"preset": "public_chat"})
		const said = 250
		for i := range said {
			alice.says(room, fmt.Sprint("old ", i))
			if i%50 == 0 {
				alice.state(room, "m.room.topic", "", obj{"topic": fmt.Sprint("topic ", i)})
			}
		}
		bob.join(room, alice.server())
		bob.sees(room, bob, "join")
		next, from := said-1, ""
		created := false
		for page := 0; page < 60 && !created; page++ {
			q := url.Values{"dir": {"b"}, "limit": {"40"}}
			if from != "" {
				q.Set("from", from)
			}
			r := bob.must("GET", p("/v3/rooms/%s/messages", room)+"?"+q.Encode(), nil)
			for _, e := range list(r, "chunk") {
				if body, ok := at(e, "content", "body").(string); ok {
					if want := fmt.Sprint("old ", next); body != want {
						t.Fatalf("%q comes where %q should", body, want)
					}
					next--
				}
				created = created || at(e, "type") == "m.room.create"
			}
			end, ok := r["end"].(string)
			if !ok {
				break
			}
			from = end
		}
		if next != -1 || !created {
			t.Errorf("history ends before message %d; the beginning was seen: %v", next, created)
		}
	})
}

// spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func TestSpaceHierarchy(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		space := alice.create(obj{"preset": "public_chat", "creation_content": obj{"type": "m.space"}})
		var rooms []string
		for i := range 3 {
			rooms = append(rooms, alice.create(obj{"preset": []string{"public_chat", "public_chat", "private_chat"}[i], "name": fmt.Sprint(i)}))
			alice.state(space, "m.space.child", rooms[i], obj{"via": []string{alice.server()}})
		}
		bob.join(space, alice.server())
		bob.sees(space, alice, "join")
		r := bob.must("GET", p("/v1/rooms/%s/hierarchy", space), nil)
		seen := map[any]any{}
		for _, e := range list(r, "rooms") {
			seen[at(e, "room_id")] = at(e, "name")
		}
		if len(seen) != 3 || seen[rooms[0]] != "0" || seen[rooms[1]] != "1" {
			t.Errorf("the hierarchy is %v", r)
		}
		if r := bob.must("GET", p("/v1/room_summary/%s?via=%s", rooms[1], alice.server()), nil); r["name"] != "1" {
			t.Errorf("the summary is %v", r)
		}
	})
}

// spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func TestManyMembers(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := alice.create(obj{"preset": "public_chat"})
		members := []*user{alice, bob}
		for range 14 {
			u := register(t, here, "charlie")
			u.join(room, alice.server())
			members = append(members, u)
		}
		bob.join(room, alice.server())
		bob.says(room, "straight away")
		alice.reads(room, "straight away")
		alice.says(room, "so soon?")
		bob.reads(room, "so soon?")
		r := bob.must("GET", p("/v3/rooms/%s/members", room), nil)
		joined := map[any]bool{}
		for _, e := range list(r, "chunk") {
			joined[at(e, "state_key")] = at(e, "content", "membership") == "join"
		}
		for _, m := range members {
			if !joined[m.id] {
				t.Errorf("%s is not among the members", m.id)
			}
		}
		if r := bob.must("GET", p("/v3/rooms/%s/joined_members", room), nil); len(r["joined"].(obj)) != len(members) {
			t.Errorf("joined members: %v", r)
		}
		members[5].leave(room)
		bob.sees(room, members[5], "leave")
		second := register(t, there, "charlie")
		second.join(room, alice.server())
		alice.sees(room, second, "join")
	})
}

// The commands, which a shell runs, stop a server and start it again, and
// return when that is done.
func TestServerThatWasDownCatchesUp(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		name := "HEARTH_INTEROP_%s_B"
		if there == os.Getenv("HEARTH_INTEROP_A") {
			name = "HEARTH_INTEROP_%s_A"
		}
		stop, start := os.Getenv(fmt.Sprintf(name, "STOP")), os.Getenv(fmt.Sprintf(name, "START"))
		if stop == "" || start == "" {
			t.Skip("skipped: " + fmt.Sprintf(name, "STOP") + " or " + fmt.Sprintf(name, "START") + " is not set")
		}
		run := func(command string) {
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", command).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", command, err, out)
			}
		}
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := together(t, alice, bob)
		run(stop)
		var said []string
		for i := range 30 {
			said = append(said, fmt.Sprint("while you were away ", i))
			alice.says(room, said[i])
		}
		alice.must("PUT", "/v3/sendToDevice/com.example.hello/1", obj{"messages": obj{bob.id: obj{bob.device: obj{}}}})
		run(start)
		// Whoever was down says something: that it is back. What was missed comes then.
		bob.says(room, "what did I miss?")
		alice.until("bob's message", func() bool {
			for _, e := range alice.room(room).Timeline {
				if e.Content["body"] == "what did I miss?" {
					return true
				}
			}
			return false
		})
		bob.until("the message to the device", func() bool { return len(bob.toDevice) == 1 })
		alice.says(room, "everything")
		bob.reads(room, "everything")
		seen := map[any]bool{}
		r := bob.must("GET", p("/v3/rooms/%s/messages", room)+"?dir=b&limit=100", nil)
		for _, e := range list(r, "chunk") {
			seen[at(e, "content", "body")] = true
		}
		for _, text := range said {
			if !seen[text] {
				t.Errorf("%q is missing", text)
			}
		}
	})
}
