package authrules

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// A room has Alice, who made it, the moderator Bob (50), the members Charlie and Dora (0);
// Ivy is invited, Eve is banned, Karl knocks and Lea left. Everybody is on a server of
// their own, called by the first letter of their name.
type room struct {
	version *roomversion.Version
	state   map[event.StateTuple]*event.PDU
}

func newRoom(t testing.TB, version string) *room {
	t.Helper()
	v, ok := roomversion.Get(version)
	if !ok {
		t.Fatalf("no room version %s", version)
	}
	r := &room{version: v, state: map[event.StateTuple]*event.PDU{}}
	r.put("alice", event.TypeCreate, "", `{"creator":"@alice:a","room_version":"`+version+`"}`)
	for name, membership := range map[string]string{
		"alice": "join", "bob": "join", "charlie": "join", "dora": "join",
		"ivy": "invite", "eve": "ban", "karl": "knock", "lea": "leave",
	} {
		r.put(name, event.TypeMember, user(name), `{"membership":"`+membership+`"}`)
	}
	r.put("alice", event.TypePowerLevels, "", r.levels(`"@bob:b":50`, ""))
	r.put("alice", event.TypeJoinRules, "", `{"join_rule":"public"}`)
	return r
}

// levels are power levels with Alice at the top where she has to be named.
func (r *room) levels(users, rest string) string {
	if !r.version.PrivilegedCreators {
		users = strings.TrimSuffix(`"@alice:a":100,`+users, ",")
	}
	return `{"users":{` + users + `}` + rest + `}`
}

func user(name string) string { return "@" + name + ":" + name[:1] }

func (r *room) event(sender, typ, key, content string) *event.PDU {
	ev := r.message(sender, typ, content)
	ev.StateKey = &key
	return ev
}

func (r *room) message(sender, typ, content string) *event.PDU {
	js, err := canonical.Append(nil, []byte(`{"content":`+content+`,"prev_events":[],"type":"`+typ+`"}`), canonical.Options{})
	if err != nil {
		panic(err)
	}
	ev, err := event.ParseTrusted(r.version, "$event:x", js)
	if err != nil {
		panic(err)
	}
	ev.Room, ev.Sender, ev.PrevEvents = r.id(), id.User(user(sender)), []id.Event{"$before"}
	return ev
}

func (r *room) id() id.Room {
	if r.version.RoomIDIsCreateEventID {
		return "!create"
	}
	return "!room:a"
}

func (r *room) put(sender, typ, key, content string) *event.PDU {
	ev := r.event(sender, typ, key, content)
	ev.ID = id.Event("$" + strings.TrimPrefix(typ, "m.room.") + key)
	if typ == event.TypeCreate {
		ev.ID, ev.PrevEvents = "$create", nil
	}
	r.state[ev.Tuple()] = ev
	return ev
}

func (r *room) drop(typ, key string) { delete(r.state, event.StateTuple{Type: typ, Key: key}) }

func (r *room) check(ev *event.PDU) error {
	var s State
	for _, e := range r.state {
		s.Set(e)
	}
	return Check(ev, s)
}

// verdicts names the outcome by room version, such as "1-5:5.1 6-12:ok".
type verdicts string

// of gives what is expected in a room version; versions that are not named are
// not tested.
func (v verdicts) of(t testing.TB, version int) (rule string, ok bool) {
	for part := range strings.FieldsSeq(string(v)) {
		span, rule, _ := strings.Cut(part, ":")
		first, last, isSpan := strings.Cut(span, "-")
		if !isSpan {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil {
			t.Fatalf("verdict %q", part)
		}
		if from <= version && version <= to {
			return rule, true
		}
	}
	return "", false
}

func ruleOf(t testing.TB, err error) string {
	t.Helper()
	if err == nil {
		return "ok"
	}
	var denied *Denied
	if !errors.As(err, &denied) {
		t.Fatalf("%v is not a refusal", err)
	}
	return denied.Rule
}
