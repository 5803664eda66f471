package authrules

import (
	"testing"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// Every rule of every room version, by the number it has there.
func TestRules(t *testing.T) {
	type row struct {
		name string
		room func(r *room) // what is different about the room
		ev   func(r *room) *event.PDU
		want verdicts
	}
	member := func(sender, target, content string) func(r *room) *event.PDU {
		return func(r *room) *event.PDU { return r.event(sender, event.TypeMember, target, content) }
	}
	join := func(name string) func(r *room) *event.PDU {
		return member(name, user(name), `{"membership":"join"}`)
	}
	to := func(sender, target, membership string) func(r *room) *event.PDU {
		return member(sender, user(target), `{"membership":"`+membership+`"}`)
	}
	state := func(sender, typ, key string) func(r *room) *event.PDU {
		return func(r *room) *event.PDU { return r.event(sender, typ, key, `{}`) }
	}
	message := func(sender string) func(r *room) *event.PDU {
		return func(r *room) *event.PDU { return r.message(sender, "m.room.message", `{"body":"hi"}`) }
	}
	joinRule := func(rule string) func(r *room) {
		return func(r *room) { r.put("alice", event.TypeJoinRules, "", `{"join_rule":"`+rule+`"}`) }
	}
	levels := func(users, rest string) func(r *room) {
		return func(r *room) { r.put("alice", event.TypePowerLevels, "", r.levels(users, rest)) }
	}
	newLevels := func(sender, users, rest string) func(r *room) *event.PDU {
		return func(r *room) *event.PDU { return r.event(sender, event.TypePowerLevels, "", r.levels(users, rest)) }
	}
	rawLevels := func(sender, content string) func(r *room) *event.PDU {
		return func(r *room) *event.PDU { return r.event(sender, event.TypePowerLevels, "", content) }
	}
	create := func(content string, change func(ev *event.PDU)) func(r *room) *event.PDU {
		return func(r *room) *event.PDU {
			ev := r.event("alice", event.TypeCreate, "", content)
			ev.PrevEvents = nil
			if change != nil {
				change(ev)
			}
			return ev
		}
	}
	first := func(change func(ev *event.PDU)) func(r *room) *event.PDU {
		return func(r *room) *event.PDU {
			ev := join("alice")(r)
			ev.PrevEvents = []id.Event{"$create"}
			change(ev)
			return ev
		}
	}
	nothing := func(*event.PDU) {}
	newborn := func(r *room) {
		create := r.state[event.StateTuple{Type: event.TypeCreate}]
		clear(r.state)
		r.state[create.Tuple()] = create
	}

	rows := []row{
		// 1
		{"a create event", nil, create(`{"creator":"@alice:a"}`, nil), "1-12:ok"},
		{"a create event after another event", nil, create(`{"creator":"@alice:a"}`, func(ev *event.PDU) { ev.PrevEvents = []id.Event{"$x"} }), "1-12:1.1"},
		{"a room on another's server", nil, create(`{"creator":"@alice:a"}`, func(ev *event.PDU) { ev.Room = "!room:b" }), "1-11:1.2 12:ok"},
		{"MSC4291: a create event with a room id", nil, create(`{"creator":"@alice:a"}`, func(ev *event.PDU) { ev.JSON = []byte(`{"room_id":"!create"}`) }), "1-11:ok 12:1.2"},
		{"an unknown room version", nil, create(`{"creator":"@alice:a","room_version":"99"}`, nil), "1-12:1.3"},
		{"a room version that is a number", nil, create(`{"creator":"@alice:a","room_version":1}`, nil), "1-12:1.3"},
		{"no creator", nil, create(`{}`, nil), "1-10:1.4 11-12:ok"},
		{"additional creators", nil, create(`{"additional_creators":["@bob:b"],"creator":"@alice:a"}`, nil), "1-12:ok"},
		{"no additional creators", nil, create(`{"additional_creators":[],"creator":"@alice:a"}`, nil), "1-12:ok"},
		{"additional creators that are no users", nil, create(`{"additional_creators":["bob"],"creator":"@alice:a"}`, nil), "1-11:ok 12:1.4"},
		{"additional creators that are no strings", nil, create(`{"additional_creators":["@bob:b",1],"creator":"@alice:a"}`, nil), "1-11:ok 12:1.4"},
		{"additional creators that are no list", nil, create(`{"additional_creators":"@bob:b","creator":"@alice:a"}`, nil), "1-11:ok 12:1.4"},
		// 2
		{"a room without a create event", func(r *room) { r.drop(event.TypeCreate, "") }, message("alice"), "1-11:2.4 12:2"},
		{"CVE-2025-54315: a create event of another room", func(r *room) {
			r.state[event.StateTuple{Type: event.TypeCreate}].ID = "$other"
		}, message("alice"), "1-11:ok 12:2"},
		{"synapse 1.2.0: redacting the create event does not take the room back to version 1", func(r *room) {
			r.put("alice", event.TypeCreate, "", `{"creator":"@alice:a"}`)
			joinRule("knock")(r)
		}, to("zoe", "zoe", "knock"), "1-5:5.6 6:4.6 7-12:ok"},
		// 3, in version 12 4
		{"a foreigner where none are let in", func(r *room) { r.put("alice", event.TypeCreate, "", `{"creator":"@alice:a","m.federate":false}`) }, message("bob"), "1-11:3 12:4"},
		{"the creator's server where no others are let in", func(r *room) { r.put("alice", event.TypeCreate, "", `{"creator":"@alice:a","m.federate":false}`) }, message("alice"), "1-12:ok"},
		{"m.federate: true", func(r *room) { r.put("alice", event.TypeCreate, "", `{"creator":"@alice:a","m.federate":true}`) }, message("bob"), "1-12:ok"},
		// 4 of versions 1 to 5
		{"aliases of the sender's server", nil, state("zoe", event.TypeAliases, "z"), "1-5:ok 6-11:5 12:6"},
		{"aliases without a state key", nil, func(r *room) *event.PDU { return r.message("bob", event.TypeAliases, `{}`) }, "1-5:4.1 6-12:ok"},
		{"aliases of another server", nil, state("bob", event.TypeAliases, "a"), "1-5:4.2 6-12:ok"},
		// 5, from version 6 on 4, in version 12 5
		{"a member event that is no state", nil, func(r *room) *event.PDU { return r.message("bob", event.TypeMember, `{"membership":"join"}`) }, "1-5:5.1 6-11:4.1 12:5.1"},
		{"no membership", nil, member("bob", "@bob:b", `{}`), "1-5:5.1 6-11:4.1 12:5.1"},
		{"an authorising user that is none", nil, member("bob", "@bob:b", `{"join_authorised_via_users_server":"x","membership":"join"}`), "1-7:ok 8-11:4.2.1 12:5.2.1"},
		{"an unknown membership", nil, to("bob", "bob", "dance"), "1-5:5.6 6:4.6 7:4.7 8-11:4.8 12:5.8"},
		{"a membership that is a number", nil, member("bob", "@bob:b", `{"membership":1}`), "1-5:5.6 6:4.6 7:4.7 8-11:4.8 12:5.8"},
		// join
		{"the first join", newborn, first(nothing), "1-12:ok"},
		{"the first join by somebody else", newborn, first(func(ev *event.PDU) { *ev.StateKey = "@bob:b" }), "1-5:5.2.2 6-7:4.2.2 8-11:4.3.2 12:5.3.2"},
		{"the creator of content, not the sender, joins first up to version 10", func(r *room) {
			newborn(r)
			r.put("alice", event.TypeCreate, "", `{"creator":"@bob:b"}`)
		}, first(func(ev *event.PDU) { *ev.StateKey, ev.Sender = "@bob:b", "@bob:b" }), "1-5:ok 6-7:ok 8-10:ok 11:4.3.7 12:5.3.7"},
		{"a first join after two events", newborn, first(func(ev *event.PDU) { ev.PrevEvents = append(ev.PrevEvents, "$x") }), "1-5:5.2.6 6-7:4.2.6 8-11:4.3.7 12:5.3.7"},
		{"a first join after something else", newborn, first(func(ev *event.PDU) { ev.PrevEvents = []id.Event{"$x"} }), "1-5:5.2.6 6-7:4.2.6 8-11:4.3.7 12:5.3.7"},
		{"a join for somebody else", nil, to("bob", "zoe", "join"), "1-5:5.2.2 6-7:4.2.2 8-11:4.3.2 12:5.3.2"},
		{"a join of the banned", nil, join("eve"), "1-5:5.2.3 6-7:4.2.3 8-11:4.3.3 12:5.3.3"},
		{"a join to a public room", nil, join("zoe"), "1-12:ok"},
		{"a join on invitation", joinRule("invite"), join("ivy"), "1-12:ok"},
		{"a change of one's own name", joinRule("invite"), join("bob"), "1-12:ok"},
		{"a join without invitation", joinRule("invite"), join("zoe"), "1-5:5.2.6 6-7:4.2.6 8-11:4.3.7 12:5.3.7"},
		{"a join where there is no join rule", func(r *room) { r.drop(event.TypeJoinRules, "") }, join("zoe"), "1-5:5.2.6 6-7:4.2.6 8-11:4.3.7 12:5.3.7"},
		{"an invited join where there is no join rule", func(r *room) { r.drop(event.TypeJoinRules, "") }, join("ivy"), "1-12:ok"},
		{"a join to a private room", joinRule("private"), join("ivy"), "1-5:5.2.6 6-7:4.2.6 8-11:4.3.7 12:5.3.7"},
		{"a join to a room that may be knocked at", joinRule("knock"), join("karl"), "1-5:5.2.6 6-7:4.2.6 8-11:4.3.7 12:5.3.7"},
		{"a join on invitation after a knock", joinRule("knock"), join("ivy"), "1-5:5.2.6 6:4.2.6 7-12:ok"},
		{"an invited join to a restricted room", joinRule("restricted"), join("ivy"), "1-5:5.2.6 6-7:4.2.6 8-12:ok"},
		{"an invited join to a room with both rules", joinRule("knock_restricted"), join("ivy"), "1-5:5.2.6 6-7:4.2.6 8-9:4.3.7 10-12:ok"},
		{"a restricted join by a member's leave", joinRule("restricted"), member("zoe", "@zoe:z", `{"join_authorised_via_users_server":"@charlie:c","membership":"join"}`), "1-5:5.2.6 6-7:4.2.6 8-12:ok"},
		{"a restricted join by nobody's leave", joinRule("restricted"), join("zoe"), "8-11:4.3.5.2 12:5.3.5.2"},
		{"a restricted join by leave of one who left", joinRule("restricted"), member("zoe", "@zoe:z", `{"join_authorised_via_users_server":"@lea:l","membership":"join"}`), "8-11:4.3.5.2 12:5.3.5.2"},
		{"a restricted join by leave of one who may not invite", func(r *room) {
			joinRule("restricted")(r)
			levels(`"@bob:b":50`, `,"invite":50`)(r)
		}, member("zoe", "@zoe:z", `{"join_authorised_via_users_server":"@charlie:c","membership":"join"}`), "8-11:4.3.5.2 12:5.3.5.2"},
		// invite
		{"an invitation", nil, to("charlie", "zoe", "invite"), "1-12:ok"},
		{"an invitation of one who left", nil, to("charlie", "lea", "invite"), "1-12:ok"},
		{"an invitation of one who knocks", nil, to("charlie", "karl", "invite"), "1-12:ok"},
		{"an invitation by an outsider", nil, to("lea", "zoe", "invite"), "1-5:5.3.2 6-7:4.3.2 8-11:4.4.2 12:5.4.2"},
		{"an invitation of a member", nil, to("charlie", "bob", "invite"), "1-5:5.3.3 6-7:4.3.3 8-11:4.4.3 12:5.4.3"},
		{"an invitation of the banned", nil, to("bob", "eve", "invite"), "1-5:5.3.3 6-7:4.3.3 8-11:4.4.3 12:5.4.3"},
		{"an invitation beyond one's power", levels(`"@bob:b":50`, `,"invite":1`), to("charlie", "zoe", "invite"), "1-5:5.3.5 6-7:4.3.5 8-11:4.4.5 12:5.4.5"},
		// leave
		{"leaving", nil, to("charlie", "charlie", "leave"), "1-12:ok"},
		{"rejecting an invitation", nil, to("ivy", "ivy", "leave"), "1-12:ok"},
		{"taking back a knock", nil, to("karl", "karl", "leave"), "1-5:5.4.1 6:4.4.1 7-12:ok"},
		{"leaving twice", nil, to("lea", "lea", "leave"), "1-5:5.4.1 6-7:4.4.1 8-11:4.5.1 12:5.5.1"},
		{"leaving in spite of a ban", nil, to("eve", "eve", "leave"), "1-5:5.4.1 6-7:4.4.1 8-11:4.5.1 12:5.5.1"},
		{"a kick by an outsider", nil, to("lea", "charlie", "leave"), "1-5:5.4.2 6-7:4.4.2 8-11:4.5.2 12:5.5.2"},
		{"lifting a ban without power", nil, to("charlie", "eve", "leave"), "1-5:5.4.3 6-7:4.4.3 8-11:4.5.3 12:5.5.3"},
		{"lifting a ban", nil, to("bob", "eve", "leave"), "1-12:ok"},
		{"lifting a ban needs the power to kick as well", levels(`"@bob:b":50`, `,"kick":60`), to("bob", "eve", "leave"), "1-5:5.4.5 6-7:4.4.5 8-11:4.5.5 12:5.5.5"},
		{"a kick", nil, to("bob", "charlie", "leave"), "1-12:ok"},
		{"a kick of one's equal", levels(`"@bob:b":50,"@charlie:c":50`, ""), to("bob", "charlie", "leave"), "1-5:5.4.5 6-7:4.4.5 8-11:4.5.5 12:5.5.5"},
		{"a kick of the creator", nil, to("bob", "alice", "leave"), "1-5:5.4.5 6-7:4.4.5 8-11:4.5.5 12:5.5.5"},
		{"a kick without power", nil, to("charlie", "dora", "leave"), "1-5:5.4.5 6-7:4.4.5 8-11:4.5.5 12:5.5.5"},
		// ban
		{"a ban", nil, to("bob", "charlie", "ban"), "1-12:ok"},
		{"a ban of somebody unknown", nil, to("bob", "zoe", "ban"), "1-12:ok"},
		{"a ban by an outsider", nil, to("lea", "charlie", "ban"), "1-5:5.5.1 6-7:4.5.1 8-11:4.6.1 12:5.6.1"},
		{"a ban without power", nil, to("charlie", "dora", "ban"), "1-5:5.5.3 6-7:4.5.3 8-11:4.6.3 12:5.6.3"},
		{"a ban of the creator", nil, to("bob", "alice", "ban"), "1-5:5.5.3 6-7:4.5.3 8-11:4.6.3 12:5.6.3"},
		// knock
		{"a knock", joinRule("knock"), to("zoe", "zoe", "knock"), "1-5:5.6 6:4.6 7-12:ok"},
		{"a knock at a room with both rules", joinRule("knock_restricted"), to("zoe", "zoe", "knock"), "7:4.6.1 8-9:4.7.1 10-12:ok"},
		{"a knock at a public room", nil, to("zoe", "zoe", "knock"), "7:4.6.1 8-11:4.7.1 12:5.7.1"},
		{"a knock for somebody else", joinRule("knock"), to("bob", "zoe", "knock"), "7:4.6.2 8-11:4.7.2 12:5.7.2"},
		{"a knock of a member", joinRule("knock"), to("bob", "bob", "knock"), "7:4.6.4 8-11:4.7.4 12:5.7.4"},
		{"a knock of the banned", joinRule("knock"), to("eve", "eve", "knock"), "7:4.6.4 8-11:4.7.4 12:5.7.4"},
		{"a knock of the invited", joinRule("knock"), to("ivy", "ivy", "knock"), "7:4.6.4 8-11:4.7.4 12:5.7.4"},
		{"another knock", joinRule("knock"), to("karl", "karl", "knock"), "7-12:ok"},
		// 6, from version 6 on 5, in version 12 6
		{"a message of a member", nil, message("charlie"), "1-12:ok"},
		{"a message of one who left", nil, message("lea"), "1-5:6 6-11:5 12:6"},
		{"a message of somebody unknown", nil, message("zoe"), "1-5:6 6-11:5 12:6"},
		{"a message of the invited", nil, message("ivy"), "1-5:6 6-11:5 12:6"},
		// third party invites
		{"a third party invite", nil, state("charlie", event.TypeThirdPartyInvite, "token"), "1-12:ok"},
		{"a third party invite beyond one's power", levels(`"@bob:b":50`, `,"invite":1`), state("charlie", event.TypeThirdPartyInvite, "token"), "1-5:7.1 6-11:6.1 12:7.1"},
		// levels
		{"state without power", nil, state("charlie", event.TypeTopic, ""), "1-5:8 6-11:7 12:8"},
		{"state with power", nil, state("bob", event.TypeTopic, ""), "1-12:ok"},
		{"CVE-2022-36009: state needs 50 where power levels do not say", func(r *room) { r.put("alice", event.TypePowerLevels, "", `{"users":{"@charlie:c":49}}`) }, state("charlie", event.TypeTopic, ""), "1-5:8 6-11:7 12:8"},
		{"CVE-2022-36009: messages need nothing where power levels do not say", func(r *room) { r.put("alice", event.TypePowerLevels, "", `{}`) }, message("charlie"), "1-12:ok"},
		{"messages that need power", levels(`"@bob:b":50`, `,"events_default":10`), message("charlie"), "1-5:8 6-11:7 12:8"},
		{"a type that needs power", levels(`"@bob:b":50`, `,"events":{"m.room.message":60}`), message("bob"), "1-5:8 6-11:7 12:8"},
		{"a type that needs less", levels(`"@bob:b":50`, `,"events":{"m.room.topic":0}`), state("charlie", event.TypeTopic, ""), "1-12:ok"},
		{"CVE-2018-12423: without power levels a member has no power", func(r *room) { r.drop(event.TypePowerLevels, "") }, state("bob", event.TypeTopic, ""), "1-5:8 6-11:7 12:8"},
		{"CVE-2018-12423: without power levels the creator has", func(r *room) { r.drop(event.TypePowerLevels, "") }, state("alice", event.TypeTopic, ""), "1-12:ok"},
		{"without power levels messages need none", func(r *room) { r.drop(event.TypePowerLevels, "") }, message("bob"), "1-12:ok"},
		{"power levels that do not name the creator", func(r *room) { r.put("alice", event.TypePowerLevels, "", `{}`) }, state("alice", event.TypeTopic, ""), "1-5:8 6-11:7 12:ok"},
		// state keys
		{"a state key of another user", nil, state("alice", "m.x", "@bob:b"), "1-5:9 6-11:8 12:9"},
		{"a state key of one's own", nil, state("bob", "m.x", "@bob:b"), "1-12:ok"},
		{"a message is no state", nil, message("bob"), "1-12:ok"},
		// power levels
		{"a level that is a string", nil, newLevels("alice", `"@bob:b":50`, `,"kick":"50"`), "1-9:ok 10-11:9.1 12:10.1"},
		{"a level that is nothing", nil, newLevels("alice", `"@bob:b":50`, `,"kick":null`), "1-9:ok 10-11:9.1 12:10.1"},
		{"a level of a type that is a string", nil, newLevels("alice", `"@bob:b":50`, `,"events":{"m.x":"1"}`), "1-9:ok 10-11:9.2 12:10.2"},
		{"levels of types that are no object", nil, newLevels("alice", `"@bob:b":50`, `,"events":[]`), "1-9:ok 10-11:9.2 12:10.2"},
		{"a notification level that is a string", nil, newLevels("alice", `"@bob:b":50`, `,"notifications":{"room":"1"}`), "1-9:ok 10-11:9.2 12:10.2"},
		{"notification levels that are no object", nil, newLevels("alice", `"@bob:b":50`, `,"notifications":1`), "1-9:ok 10-11:9.2 12:10.2"},
		{"users that are no object", nil, rawLevels("alice", `{"users":[]}`), "1-5:10.1 6-9:9.1 10-11:9.3 12:10.3"},
		{"a user that is none", nil, newLevels("alice", `"bob":50`, ""), "1-5:10.1 6-9:9.1 10-11:9.3 12:10.3"},
		{"a user's level that is a string", nil, newLevels("alice", `"@bob:b":"50"`, ""), "1-9:ok 10-11:9.3 12:10.3"},
		{"a user's level that is a word", nil, newLevels("alice", `"@bob:b":"much"`, ""), "1-5:10.1 6-9:9.1 10-11:9.3 12:10.3"},
		{"MSC4289: a creator among the users", nil, rawLevels("alice", `{"users":{"@alice:a":100}}`), "1-11:ok 12:10.4"},
		{"MSC4289: an additional creator among the users", func(r *room) {
			r.put("alice", event.TypeCreate, "", `{"additional_creators":["@dora:d"],"creator":"@alice:a"}`)
		}, rawLevels("alice", `{"users":{"@dora:d":1}}`), "12:10.4"},
		{"the first power levels", func(r *room) { r.drop(event.TypePowerLevels, "") }, newLevels("alice", `"@zoe:z":999`, `,"ban":999`), "1-12:ok"},
		{"the first power levels must have a form", func(r *room) { r.drop(event.TypePowerLevels, "") }, rawLevels("alice", `{"users":1}`), "1-5:10.1 6-9:9.1 10-11:9.3 12:10.3"},
		{"lowering a level above one's own", levels(`"@bob:b":50`, `,"ban":60,"state_default":50`), newLevels("bob", `"@bob:b":50`, `,"ban":50,"state_default":50`), "1-5:10.3.1 6-9:9.3.1 10-11:9.5.1 12:10.6.1"},
		{"removing a level above one's own", levels(`"@bob:b":50`, `,"ban":60`), newLevels("bob", `"@bob:b":50`, ""), "1-5:10.3.1 6-9:9.3.1 10-11:9.5.1 12:10.6.1"},
		{"raising a level above one's own", levels(`"@bob:b":50`, `,"ban":50`), newLevels("bob", `"@bob:b":50`, `,"ban":51`), "1-5:10.3.2 6-9:9.3.2 10-11:9.5.2 12:10.6.2"},
		{"adding a level above one's own", nil, newLevels("bob", `"@bob:b":50`, `,"users_default":51`), "1-5:10.3.2 6-9:9.3.2 10-11:9.5.2 12:10.6.2"},
		{"keeping a level above one's own", levels(`"@bob:b":50`, `,"ban":60`), newLevels("bob", `"@bob:b":50`, `,"ban":60,"kick":50`), "1-12:ok"},
		{"writing a level in another way", levels(`"@bob:b":50`, `,"ban":60`), newLevels("bob", `"@bob:b":50`, `,"ban":" +060 "`), "1-9:ok"},
		{"lowering a type's level above one's own", levels(`"@bob:b":50`, `,"events":{"m.x":60}`), newLevels("bob", `"@bob:b":50`, `,"events":{"m.x":50}`), "1-5:10.4.1 6-9:9.4.1 10-11:9.6.1 12:10.7.1"},
		{"removing a type's level above one's own", levels(`"@bob:b":50`, `,"events":{"m.x":60}`), newLevels("bob", `"@bob:b":50`, ""), "1-5:10.4.1 6-9:9.4.1 10-11:9.6.1 12:10.7.1"},
		{"adding a type's level above one's own", nil, newLevels("bob", `"@bob:b":50`, `,"events":{"m.x":60}`), "1-5:10.5.1 6-9:9.5.1 10-11:9.7.1 12:10.8.1"},
		{"changing a notification level above one's own", levels(`"@bob:b":50`, `,"notifications":{"room":60}`), newLevels("bob", `"@bob:b":50`, `,"notifications":{"room":50}`), "1-5:ok 6-9:9.4.1 10-11:9.6.1 12:10.7.1"},
		{"adding a notification level above one's own", nil, newLevels("bob", `"@bob:b":50`, `,"notifications":{"room":60}`), "1-5:ok 6-9:9.5.1 10-11:9.7.1 12:10.8.1"},
		{"demoting one's equal", levels(`"@bob:b":50,"@charlie:c":50`, ""), newLevels("bob", `"@bob:b":50,"@charlie:c":0`, ""), "1-5:10.6.1 6-9:9.6.1 10-11:9.8.1 12:10.9.1"},
		{"removing one's equal", levels(`"@bob:b":50,"@charlie:c":50`, ""), newLevels("bob", `"@bob:b":50`, ""), "1-5:10.6.1 6-9:9.6.1 10-11:9.8.1 12:10.9.1"},
		{"demoting oneself", nil, newLevels("bob", `"@bob:b":10`, ""), "1-12:ok"},
		{"removing oneself", nil, newLevels("bob", "", ""), "1-12:ok"},
		{"promoting oneself", nil, newLevels("bob", `"@bob:b":51`, ""), "1-5:10.7.1 6-9:9.7.1 10-11:9.9.1 12:10.10.1"},
		{"promoting another above oneself", nil, newLevels("bob", `"@bob:b":50,"@zoe:z":51`, ""), "1-5:10.7.1 6-9:9.7.1 10-11:9.9.1 12:10.10.1"},
		{"promoting another to one's own level", nil, newLevels("bob", `"@bob:b":50,"@zoe:z":50`, ""), "1-12:ok"},
		{"demoting those below", levels(`"@bob:b":50,"@charlie:c":49`, ""), newLevels("bob", `"@bob:b":50`, ""), "1-12:ok"},
		{"MSC4289: a creator sets levels as high as numbers go", nil, newLevels("alice", `"@bob:b":9007199254740991`, ""), "12:ok"},
		{"MSC4289: a creator demotes one of the highest level", levels(`"@bob:b":9007199254740991`, ""), newLevels("alice", "", ""), "12:ok"},
		{"MSC4289: nobody of any level demotes a creator", levels(`"@bob:b":9007199254740991`, ""), to("bob", "alice", "leave"), "12:5.5.5"},
		{"MSC4289: additional creators are creators", func(r *room) {
			r.put("alice", event.TypeCreate, "", `{"additional_creators":["@dora:d"],"creator":"@alice:a"}`)
		}, state("dora", event.TypeTopic, ""), "1-5:8 6-11:7 12:ok"},
	}
	for _, tt := range rows {
		t.Run(tt.name, func(t *testing.T) {
			tested := false
			for _, v := range roomversion.All() {
				want, ok := tt.want.of(t, v.Number)
				if !ok {
					continue
				}
				tested = true
				r := newRoom(t, v.ID)
				if tt.room != nil {
					tt.room(r)
				}
				err := r.check(tt.ev(r))
				if got := ruleOf(t, err); got != want {
					t.Errorf("version %s: got %s (%v), want %s", v.ID, got, err, want)
				}
			}
			if !tested {
				t.Error("no room version has this")
			}
		})
	}
}

// Redactions have a rule of their own in versions 1 and 2 alone.
func TestRedactionRule(t *testing.T) {
	tests := []struct {
		name    string
		sender  string
		id      id.Event
		redacts id.Event
		want    verdicts
	}{
		{"with the power to redact", "bob", "$r:b", "$x:z", "1-12:ok"},
		{"of an event of the same server", "charlie", "$r:c", "$x:c", "1-12:ok"},
		{"of an event of another server", "charlie", "$r:c", "$x:z", "1-2:11.3 3-12:ok"},
		{"an event id with another server's name counts, the sender's does not", "charlie", "$r:b", "$x:c", "1-2:11.3"},
		{"of nothing", "charlie", "$r:c", "", "1-2:11.3 3-12:ok"},
		{"ids without servers are not of the same one", "charlie", "$r", "$x", "1-2:11.3 3-12:ok"},
	}
	for _, tt := range tests {
		for _, v := range roomversion.All() {
			want, ok := tt.want.of(t, v.Number)
			if !ok {
				continue
			}
			r := newRoom(t, v.ID)
			ev := r.message(tt.sender, event.TypeRedaction, `{}`)
			ev.ID, ev.Redacts = tt.id, tt.redacts
			if got := ruleOf(t, r.check(ev)); got != want {
				t.Errorf("%s, version %s: got %s, want %s", tt.name, v.ID, got, want)
			}
		}
	}
}

// syn 1.2.1: in versions 1 and 2 servers disagreed on who may redact.
func TestMayRedact(t *testing.T) {
	tests := []struct {
		name   string
		sender string
		change func(redaction, target *event.PDU)
		want   map[bool]bool // by whether an auth rule has judged it already
	}{
		{"a moderator", "bob", nil, map[bool]bool{true: true, false: true}},
		{"the sender's server", "zoe", func(_, target *event.PDU) { target.Sender = "@zack:z" }, map[bool]bool{true: true, false: true}},
		{"somebody else", "charlie", nil, map[bool]bool{true: true, false: false}},
		{"another event", "bob", func(redaction, _ *event.PDU) { redaction.Redacts = "$other" }, map[bool]bool{true: false, false: false}},
		{"an event of another room", "bob", func(_, target *event.PDU) { target.Room = "!other" }, map[bool]bool{true: false, false: false}},
		{"what is no redaction", "bob", func(redaction, _ *event.PDU) { redaction.Type = "m.room.message" }, map[bool]bool{true: false, false: false}},
	}
	for _, tt := range tests {
		for _, v := range roomversion.All() {
			r := newRoom(t, v.ID)
			levels, err := ParsePowerLevels(v, r.state[event.StateTuple{Type: event.TypeCreate}], r.state[event.StateTuple{Type: event.TypePowerLevels}])
			if err != nil {
				t.Fatal(err)
			}
			target := r.message("dora", "m.room.message", `{}`)
			redaction := r.message(tt.sender, event.TypeRedaction, `{}`)
			target.ID, redaction.ID, redaction.Redacts = "$target", "$redaction", "$target"
			if tt.change != nil {
				tt.change(redaction, target)
			}
			if got := MayRedact(redaction, target, levels); got != tt.want[v.RedactionAuthRule] {
				t.Errorf("%s, version %s: %v", tt.name, v.ID, got)
			}
		}
	}
}
