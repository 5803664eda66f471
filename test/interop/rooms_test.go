//go:build interop

package interop_test

import (
	"fmt"
	"slices"
	"testing"
)

func TestPublicRoom(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob, charlie := register(t, here, "alice"), register(t, there, "bob"), register(t, there, "charlie")
		local := alice.id[1 : len(alice.id)-len(alice.server())-1]
		room := alice.create(obj{"preset": "public_chat", "visibility": "public", "room_alias_name": local, "name": "square"})
		alias := "#" + local + ":" + alice.server()

		// spec: client-server-api#post_matrixclientv3publicrooms
		r := bob.must("POST", p("/v3/publicRooms?server=%s", alice.server()), obj{"limit": 100})
		if !slices.ContainsFunc(list(r, "chunk"), func(e any) bool {
			return at(e, "room_id") == room && at(e, "canonical_alias") == alias && at(e, "name") == "square"
		}) {
			t.Errorf("the directory there says %v", r)
		}
		if r := bob.must("GET", p("/v3/directory/room/%s", alias), nil); r["room_id"] != room {
			t.Errorf("the alias is of %v", r)
		}

		bob.must("POST", p("/v3/join/%s", alias), obj{})
		charlie.join(room, alice.server())
		for _, u := range []*user{alice, bob, charlie} {
			for _, other := range []*user{alice, bob, charlie} {
				u.sees(room, other, "join")
			}
		}
		var said []string
		for i := range 5 {
			said = append(said, fmt.Sprint("to you ", i))
			alice.says(room, said[i])
		}
		bob.reads(room, said...)
		for i := range 5 {
			said = append(said, fmt.Sprint("to you too ", i))
			bob.says(room, said[5+i])
		}
		for _, u := range []*user{alice, bob, charlie} {
			u.reads(room, said...)
		}

		bob.leave(room)
		alice.sees(room, bob, "leave")
		bob.join(room, alice.server())
		alice.sees(room, bob, "join")
		alice.act("kick", room, bob)
		alice.sees(room, bob, "leave")
		bob.sits(room, "leave")
		bob.join(room, alice.server())
		alice.sees(room, bob, "join")
		alice.act("ban", room, bob)
		bob.sits(room, "leave")
		charlie.sees(room, bob, "ban")
		if status, r := bob.call("POST", p("/v3/join/%s?via=%s", room, alice.server()), obj{}); status != 403 {
			t.Errorf("who is banned joins: %d %v", status, r)
		}
		alice.act("unban", room, bob)
		charlie.sees(room, bob, "leave")
		bob.join(room, alice.server())
		alice.sees(room, bob, "join")
		bob.says(room, "back again")
		alice.reads(room, "back again")

		// Whoever is last of a server there, and comes again.
		bob.leave(room)
		charlie.leave(room)
		alice.sees(room, charlie, "leave")
		alice.says(room, "alone")
		bob.join(room, alice.server())
		alice.sees(room, bob, "join")
		alice.says(room, "welcome")
		bob.reads(room, "welcome")
		bob.says(room, "thanks")
		alice.reads(room, "welcome", "thanks")
	})
}

func TestInvites(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := alice.create(obj{"preset": "private_chat", "name": "quiet"})
		bob.refused("M_FORBIDDEN", "POST", p("/v3/join/%s?via=%s", room, alice.server()), obj{})

		alice.act("invite", room, bob)
		bob.sits(room, "invite")
		if name := bob.room(room).State[[2]string{"m.room.name", ""}].Content["name"]; name != "quiet" {
			t.Errorf("the room that bob is invited to is called %v", name)
		}
		bob.leave(room)
		alice.sees(room, bob, "leave")
		bob.sits(room, "leave")

		alice.act("invite", room, bob)
		bob.sits(room, "invite")
		alice.act("kick", room, bob)
		bob.sits(room, "leave")
		bob.refused("M_FORBIDDEN", "POST", p("/v3/join/%s?via=%s", room, alice.server()), obj{})

		alice.act("invite", room, bob)
		bob.sits(room, "invite")
		bob.must("POST", p("/v3/join/%s", room), obj{}) // the invite says where
		alice.sees(room, bob, "join")
		bob.says(room, "here I am")
		alice.reads(room, "here I am")

		direct := bob.create(obj{"preset": "trusted_private_chat", "is_direct": true, "invite": []string{alice.id}})
		alice.sits(direct, "invite")
		if e := alice.room(direct).State[[2]string{"m.room.member", alice.id}]; e.Content["is_direct"] != true {
			t.Errorf("the invite to a direct chat says %v", e.Content)
		}
		alice.join(direct, bob.server())
		bob.sees(direct, alice, "join")
	})
}

// spec: client-server-api#restricted-rooms
func TestRestrictedRoom(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob, charlie := register(t, here, "alice"), register(t, there, "bob"), register(t, there, "charlie")
		club := alice.create(obj{"preset": "public_chat"})
		room := alice.create(obj{"preset": "private_chat", "initial_state": []obj{{"type": "m.room.join_rules", "content": obj{
			"join_rule": "restricted", "allow": []obj{{"type": "m.room_membership", "room_id": club}},
		}}}})
		bob.refused("M_FORBIDDEN", "POST", p("/v3/join/%s?via=%s", room, alice.server()), obj{})
		bob.join(club, alice.server())
		alice.sees(club, bob, "join")
		bob.join(room, alice.server())
		alice.sees(room, bob, "join")
		bob.says(room, "let in")
		alice.reads(room, "let in")
		// A server that is in the room, but has nobody who may invite.
		charlie.refused("M_FORBIDDEN", "POST", p("/v3/join/%s?via=%s", room, alice.server()), obj{})
		charlie.join(club, alice.server())
		alice.sees(club, charlie, "join")
		charlie.join(room, alice.server())
		alice.sees(room, charlie, "join")
		bob.sees(room, charlie, "join")
	})
}

// spec: client-server-api#knocking-on-rooms
func TestKnock(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := alice.create(obj{"preset": "private_chat", "name": "door", "initial_state": []obj{
			{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}},
		}})
		knock := p("/v3/knock/%s?via=%s&server_name=%s", room, alice.server(), alice.server())
		bob.must("POST", knock, obj{"reason": "let me in"})
		alice.sees(room, bob, "knock")
		bob.sits(room, "knock")
		if name := bob.room(room).State[[2]string{"m.room.name", ""}].Content["name"]; name != "door" {
			t.Errorf("the room that bob knocks at is called %v", name)
		}
		// That a server which is not in the room hears of a refusal is not specified.
		alice.act("kick", room, bob)
		bob.must("POST", knock, obj{})
		alice.sees(room, bob, "knock")
		alice.act("invite", room, bob)
		bob.sits(room, "invite")
		bob.join(room, alice.server())
		alice.sees(room, bob, "join")
	})
}

func TestRedactionsAndRelations(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := alice.create(obj{"preset": "public_chat"})
		bob.join(room, alice.server())
		said := alice.says(room, "speling")
		bob.reads(room, "speling")
		alice.send(room, "m.room.message", obj{"msgtype": "m.text", "body": "* spelling",
			"m.new_content": obj{"msgtype": "m.text", "body": "spelling"},
			"m.relates_to":  obj{"rel_type": "m.replace", "event_id": said}})
		bob.reads(room, "speling", "* spelling")
		reaction := bob.send(room, "m.reaction", obj{"m.relates_to": obj{"rel_type": "m.annotation", "event_id": said, "key": "👍"}})
		alice.until("the reaction", func() bool {
			return slices.ContainsFunc(alice.room(room).Timeline, func(e event) bool { return e.ID == reaction })
		})
		for _, u := range []*user{alice, bob} {
			r := u.must("GET", p("/v1/rooms/%s/relations/%s", room, said), nil)
			if len(list(r, "chunk")) != 2 {
				t.Errorf("relations for %s: %v", u.id, r)
			}
			r = u.must("GET", p("/v3/rooms/%s/event/%s", room, said), nil)
			if at(r, "unsigned", "m.relations", "m.replace", "content", "m.new_content", "body") != "spelling" {
				t.Errorf("the edited event for %s: %v", u.id, r)
			}
		}
		redact := func(by *user, id string) string {
			by.transacts++
			return by.must("PUT", p("/v3/rooms/%s/redact/%s/%s", room, id, fmt.Sprint(by.transacts)), obj{"reason": "x"})["event_id"].(string)
		}
		redact(bob, reaction)
		later := bob.says(room, "later")
		alice.reads(room, "later")
		redact(alice, later)
		last := alice.says(room, "the end")
		bob.reads(room, "the end")
		for _, u := range []*user{alice, bob} {
			for _, id := range []string{reaction, later} {
				r := u.must("GET", p("/v3/rooms/%s/event/%s", room, id), nil)
				if len(at(r, "content").(obj)) != 0 || at(r, "unsigned", "redacted_because") == nil {
					t.Errorf("a redacted event for %s: %v", u.id, r)
				}
			}
			if r := u.must("GET", p("/v3/rooms/%s/context/%s", room, last), nil); at(r, "event", "event_id") != last {
				t.Errorf("context for %s: %v", u.id, r)
			}
		}
	})
}

// What goes with an invite or a knock is whole events in some versions, and stripped state in others.
func TestInvitesAndKnocksOfAllVersions(t *testing.T) {
	for i, version := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			bothWays(t, func(t *testing.T, here, there string) {
				alice, bob := register(t, here, "alice"), register(t, there, "bob")
				alice.must("PUT", p("/v3/profile/%s/displayname", alice.id), obj{"displayname": "Alice of Here"})
				comes := func(room, membership string) {
					bob.sits(room, membership)
					state := bob.room(room).State
					if name := state[[2]string{"m.room.name", ""}].Content["name"]; name != "quiet" {
						t.Errorf("%s: bob sees the room as %v", membership, name)
					}
					if name := state[[2]string{"m.room.member", alice.id}].Content["displayname"]; membership == "invite" && name != "Alice of Here" {
						t.Errorf("bob is invited by %v", name)
					}
				}
				room := alice.create(obj{"preset": "private_chat", "name": "quiet", "room_version": version})
				alice.act("invite", room, bob)
				comes(room, "invite")
				bob.join(room, alice.server())
				alice.sees(room, bob, "join")
				if i < 6 {
					return // in version 7 came knocking
				}
				door := alice.create(obj{"preset": "private_chat", "name": "quiet", "room_version": version, "initial_state": []obj{
					{"type": "m.room.join_rules", "content": obj{"join_rule": "knock"}},
				}})
				bob.must("POST", p("/v3/knock/%s?via=%s&server_name=%s", door, alice.server(), alice.server()), obj{})
				comes(door, "knock")
				alice.sees(door, bob, "knock")
				alice.act("invite", door, bob)
				comes(door, "invite")
				bob.join(door, alice.server())
				alice.sees(door, bob, "join")
			})
		})
	}
}

func TestRoomVersions(t *testing.T) {
	for _, version := range []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			bothWays(t, func(t *testing.T, here, there string) {
				alice, bob := register(t, here, "alice"), register(t, there, "bob")
				room := alice.create(obj{"preset": "public_chat", "room_version": version})
				bob.join(room, alice.server())
				alice.sees(room, bob, "join")
				levels := alice.must("GET", p("/v3/rooms/%s/state/m.room.power_levels/", room), nil)
				if levels["users"] == nil {
					levels["users"] = obj{}
				}
				at(levels, "users").(obj)[bob.id] = 60
				alice.state(room, "m.room.power_levels", "", levels)
				said := alice.says(room, "one")
				bob.reads(room, "one")
				bob.state(room, "m.room.topic", "", obj{"topic": "both"})
				alice.until("the topic", func() bool {
					return alice.room(room).State[[2]string{"m.room.topic", ""}].Content["topic"] == "both"
				})
				bob.must("PUT", p("/v3/rooms/%s/redact/%s/redaction", room, said), obj{})
				bob.says(room, "two")
				alice.reads(room, "two")
				if r := alice.must("GET", p("/v3/rooms/%s/event/%s", room, said), nil); len(at(r, "content").(obj)) != 0 {
					t.Errorf("it was not redacted: %v", r)
				}
				// What both say at once is a fork; both come to the same state.
				a, b := alice.state(room, "m.room.name", "", obj{"name": "a"}), bob.state(room, "m.room.name", "", obj{"name": "b"})
				for _, u := range []*user{alice, bob} {
					u.until("both names", func() bool {
						n := 0
						for _, e := range u.room(room).Timeline {
							if e.ID == a || e.ID == b {
								n++
							}
						}
						return n == 2
					})
				}
				alice.says(room, "three")
				bob.reads(room, "three")
				bob.says(room, "four")
				alice.reads(room, "four")
				x := alice.must("GET", p("/v3/rooms/%s/state/m.room.name/", room), nil)
				if y := bob.must("GET", p("/v3/rooms/%s/state/m.room.name/", room), nil); x["name"] != y["name"] {
					t.Errorf("the name is %v here and %v there", x, y)
				}
			})
		})
	}
}
