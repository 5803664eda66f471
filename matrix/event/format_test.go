package event_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// raw is an event as another server might send it, with some members replaced
// (an empty value removes one).
func raw(v *roomversion.Version, members map[string]string) []byte {
	all := map[string]string{
		"type": `"m.room.message"`, "room_id": `"!room:example.org"`, "sender": `"@alice:example.org"`, "content": `{}`, "depth": `1`,
		"origin_server_ts": `1`, "prev_events": `["$p"]`, "auth_events": `["$a"]`, "hashes": `{"sha256":"aGFzaA"}`, "signatures": `{}`,
	}
	if v.EventRefsArePairs {
		all["prev_events"], all["auth_events"], all["event_id"] = `[["$p:x.org",{"sha256":"aGFzaA"}]]`, `[]`, `"$e:example.org"`
	}
	for k, m := range members {
		all[k] = m
	}
	b := []byte{'{'}
	for k, m := range all {
		if m != "" {
			b = fmt.Appendf(b, "%q:%s,", k, m)
		}
	}
	return append(b[:len(b)-1], '}')
}

// spec: server-server-api#pdus, client-server-api#size-limits
func TestParseChecksTheFormat(t *testing.T) {
	long := strings.Repeat("é", 127) // 254 bytes
	for _, tt := range []struct {
		name     string
		versions string // which to test in
		members  map[string]string
		code     string // empty: accepted
		message  string
	}{
		{"fine", "1 3 6 12", nil, "", ""},
		{"unknown keys", "1 3 6 12", map[string]string{"org.example.x": `[1]`, "origin": `"x"`}, "", ""},
		{"no type", "1 12", map[string]string{"type": ""}, "M_BAD_JSON", "the event has no type"},
		{"no sender", "1 12", map[string]string{"sender": ""}, "M_BAD_JSON", "no sender"},
		{"no content", "1 12", map[string]string{"content": ""}, "M_BAD_JSON", "no content"},
		{"no depth", "1 12", map[string]string{"depth": ""}, "M_BAD_JSON", "no depth"},
		{"no origin_server_ts", "1 12", map[string]string{"origin_server_ts": ""}, "M_BAD_JSON", "no origin_server_ts"},
		{"no hashes", "1 12", map[string]string{"hashes": ""}, "M_BAD_JSON", "no hashes"},
		{"no signatures", "1 12", map[string]string{"signatures": ""}, "M_BAD_JSON", "no signatures"},
		{"no auth_events", "1 12", map[string]string{"auth_events": ""}, "M_BAD_JSON", "no auth_events"},
		{"no prev_events", "1 12", map[string]string{"prev_events": ""}, "M_BAD_JSON", "no prev_events"},
		{"no room_id", "1 11 12", map[string]string{"room_id": ""}, "M_BAD_JSON", "no room_id"},
		{"create without room_id", "11", map[string]string{"room_id": "", "type": `"m.room.create"`}, "M_BAD_JSON", "no room_id"},
		{"create without room_id", "12", map[string]string{"room_id": "", "type": `"m.room.create"`}, "", ""},
		{"no event_id", "1 2", map[string]string{"event_id": ""}, "M_BAD_JSON", "no event_id"},
		{"event_id is only an unknown key", "3 12", map[string]string{"event_id": `7`}, "", ""},
		{"event_id without server", "1", map[string]string{"event_id": `"$x"`}, "M_BAD_JSON", "event_id"},
		{"type is a number", "12", map[string]string{"type": "1"}, "M_BAD_JSON", "type is not a string"},
		{"state_key is null", "12", map[string]string{"state_key": "null"}, "M_BAD_JSON", "state_key is not a string"},
		{"content is an array", "12", map[string]string{"content": "[]"}, "M_BAD_JSON", "content is not an object"},
		{"content is null", "12", map[string]string{"content": "null"}, "M_BAD_JSON", "content is not an object"},
		{"hashes is a string", "12", map[string]string{"hashes": `"x"`}, "M_BAD_JSON", "hashes is not an object"},
		{"signatures is an array", "12", map[string]string{"signatures": `[]`}, "M_BAD_JSON", "signatures is not an object"},
		{"sender is no user id", "12", map[string]string{"sender": `"alice"`}, "M_BAD_JSON", "sender"},
		{"sender without server", "12", map[string]string{"sender": `"@alice"`}, "M_BAD_JSON", "sender"},
		{"historical sender", "1 12", map[string]string{"sender": `"@Ælice Smith!:example.org"`}, "", ""},
		{"empty localpart", "1 12", map[string]string{"sender": `"@:example.org"`}, "", ""},
		{"room_id is no room id", "12", map[string]string{"room_id": `"#x:y"`}, "M_BAD_JSON", "room_id"},

		{"depth 0", "1 12", map[string]string{"depth": "0"}, "", ""},
		{"negative depth", "1 12", map[string]string{"depth": "-1"}, "M_BAD_JSON", "depth is negative"},
		{"largest depth", "1 5", map[string]string{"depth": "9223372036854775807"}, "", ""},
		{"depth beyond 64 bits", "1 5", map[string]string{"depth": "9223372036854775808"}, "M_BAD_JSON", "depth is not an integer"},
		{"largest depth of v6", "6 12", map[string]string{"depth": "9007199254740991"}, "", ""},
		{"depth beyond 53 bits", "6 12", map[string]string{"depth": "9007199254740992"}, "M_BAD_JSON", "outside"},
		{"depth is a float", "1", map[string]string{"depth": "1.0"}, "M_BAD_JSON", "depth is not an integer"},
		{"depth is a string", "12", map[string]string{"depth": `"1"`}, "M_BAD_JSON", "depth is not an integer"},
		{"origin_server_ts is a float", "1", map[string]string{"origin_server_ts": "1.5"}, "M_BAD_JSON", "origin_server_ts is not an integer"},

		{"float in content", "1 2 3 4 5", map[string]string{"content": `{"x":1.5}`}, "", ""},
		{"float in content", "6 7 8 9 10 11 12", map[string]string{"content": `{"x":1.5}`}, "M_BAD_JSON", "not an integer"},
		{"exponent in content", "6 12", map[string]string{"content": `{"x":1e3}`}, "M_BAD_JSON", "not an integer"},
		{"large integer in content", "1 5", map[string]string{"content": `{"x":9007199254740992}`}, "", ""},
		{"large integer in content", "6 12", map[string]string{"content": `{"x":9007199254740992}`}, "M_BAD_JSON", "outside"},
		{"large negative integer in content", "6 12", map[string]string{"content": `{"x":-9007199254740992}`}, "M_BAD_JSON", "outside"},
		{"float in unsigned", "12", map[string]string{"unsigned": `{"x":1.5}`}, "", ""},
		{"NaN", "1 12", map[string]string{"content": `{"x":NaN}`}, "M_BAD_JSON", "value was expected"},
		{"Infinity", "1 12", map[string]string{"content": `{"x":-Infinity}`}, "M_BAD_JSON", "no digits"},
		{"infinity by exponent", "1", map[string]string{"content": `{"x":1e999}`}, "M_BAD_JSON", "too large"},
		{"lone surrogate", "1 12", map[string]string{"content": `{"x":"\ud800"}`}, "M_BAD_JSON", "surrogate"},
		{"duplicate key in content", "1 12", map[string]string{"content": `{"x":1,"x":1}`}, "M_BAD_JSON", "twice"},
		{"duplicate key at the top", "1 12", map[string]string{"content": `{},"content":{"x":1}`}, "M_BAD_JSON", "twice"},
		{"bad UTF-8", "1 12", map[string]string{"content": "{\"x\":\"\xff\"}"}, "M_BAD_JSON", "UTF-8"},
		{"deep nesting", "1 12", map[string]string{"content": `{"x":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "}"}, "M_BAD_JSON", "deep"},

		{"state_key of 255 bytes", "12", map[string]string{"state_key": `"x` + long + `"`}, "", ""},
		{"state_key of 256 bytes", "11 12", map[string]string{"state_key": `"xx` + long + `"`}, "M_TOO_LARGE", "state_key has 256 bytes"},
		{"state_key of 256 characters", "1 10", map[string]string{"state_key": `"` + strings.Repeat("é", 256) + `"`}, "M_TOO_LARGE", "state_key has 256 characters"},
		{"state_key of 255 characters", "1 10", map[string]string{"state_key": `"` + strings.Repeat("é", 255) + `"`}, "", ""},
		{"type of 255 characters", "1 10", map[string]string{"type": `"` + strings.Repeat("é", 255) + `"`}, "", ""},
		{"type of 255 bytes", "12", map[string]string{"type": `"x` + long + `"`}, "", ""},
		{"type of 256 bytes", "11 12", map[string]string{"type": `"xx` + long + `"`}, "M_TOO_LARGE", "type has 256 bytes"},
		{"sender of 255 bytes", "12", map[string]string{"sender": `"@` + long[:242] + `:example.org"`}, "", ""},
		{"sender of 256 bytes", "12", map[string]string{"sender": `"@` + long[:242] + `x:example.org"`}, "M_BAD_JSON", "255"},
		{"room_id of 256 bytes", "12", map[string]string{"room_id": `"!x` + long + `"`}, "M_BAD_JSON", "255"},
		{"event_id of 257 bytes", "1", map[string]string{"event_id": `"$` + long + `:y"`}, "M_BAD_JSON", "255"},

		{"plain ids", "1", map[string]string{"prev_events": `["$p:x"]`}, "M_BAD_JSON", "prev_events has an entry that is not a pair"},
		{"pairs", "3 12", map[string]string{"prev_events": `[["$p",{}]]`}, "M_BAD_JSON", "prev_events"},
		{"pair of three", "1", map[string]string{"auth_events": `[["$p:x",{},1]]`}, "M_BAD_JSON", "auth_events has an entry"},
		{"pair of one", "1", map[string]string{"auth_events": `[["$p:x"]]`}, "M_BAD_JSON", "auth_events has an entry"},
		{"empty pair", "1", map[string]string{"auth_events": `[[]]`}, "M_BAD_JSON", "auth_events has an entry"},
		{"ref is no event id", "12", map[string]string{"auth_events": `["x"]`}, "M_BAD_JSON", "auth_events"},
		{"ref is a number", "12", map[string]string{"auth_events": `[1]`}, "M_BAD_JSON", "auth_events"},
		{"refs are an object", "12", map[string]string{"auth_events": `{}`}, "M_BAD_JSON", "auth_events is not an array"},
		{"redacts is nonsense", "1 10", map[string]string{"type": `"m.room.redaction"`, "redacts": `[1]`}, "", ""},
	} {
		for _, name := range strings.Fields(tt.versions) {
			v := version(t, name)
			p, err := event.Parse(v, raw(v, tt.members))
			switch {
			case tt.code == "" && err != nil:
				t.Errorf("%s, v%s: %v", tt.name, name, err)
			case tt.code != "" && err == nil:
				t.Errorf("%s, v%s was accepted: %s", tt.name, name, p.JSON)
			case tt.code != "" && (code(err) != tt.code || !strings.Contains(err.Error(), tt.message)):
				t.Errorf("%s, v%s: got %v, want %s … %s", tt.name, name, err, tt.code, tt.message)
			}
		}
	}
	for _, in := range []string{``, `[]`, `null`, `"x"`, `{}`, `{"a"`, `1`} {
		if _, err := event.Parse(version(t, "12"), []byte(in)); code(err) != "M_BAD_JSON" {
			t.Errorf("%q: %v", in, err)
		}
	}
}

// The size counts the canonical form with signatures and without unsigned.
func TestEventSize(t *testing.T) {
	v := version(t, "12")
	with := func(n int) []byte {
		return raw(v, map[string]string{"content": `{"body":"` + strings.Repeat("x", n) + `"}`, "unsigned": `{"a":"` + strings.Repeat("y", 9000) + `"}`})
	}
	small, err := event.Parse(v, with(0))
	if err != nil {
		t.Fatal(err)
	}
	room := event.MaxSize - len(small.JSON)
	largest, err := event.Parse(v, with(room))
	if err != nil || len(largest.JSON) != event.MaxSize {
		t.Errorf("the largest event: %v", err)
	}
	if _, err := event.Parse(v, with(room+1)); code(err) != "M_TOO_LARGE" {
		t.Errorf("one byte more: %v", err)
	}
	if _, err := event.Build(v, message(v, `{"body":"`+strings.Repeat("x", event.MaxSize)+`"}`), server, keyID, private); code(err) != "M_TOO_LARGE" {
		t.Errorf("a large event was built: %v", err)
	}
}

// Backfilled events may have more, so Parse lets them pass.
func TestCheckLimits(t *testing.T) {
	v := version(t, "12")
	refs := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat(`"$x",`, n), ",") + "]" }
	for _, tt := range []struct {
		auth, prev int
		code       string
	}{{10, 20, "<nil>"}, {11, 20, "M_BAD_JSON"}, {10, 21, "M_BAD_JSON"}, {0, 0, "<nil>"}} {
		p, err := event.Parse(v, raw(v, map[string]string{"auth_events": refs(tt.auth), "prev_events": refs(tt.prev)}))
		if err != nil {
			t.Fatal(err)
		}
		if got := code(p.CheckLimits()); got != tt.code {
			t.Errorf("%d auth_events and %d prev_events: %s, want %s", tt.auth, tt.prev, got, tt.code)
		}
	}
	proto := message(v, `{}`)
	proto.PrevEvents = make([]event.Ref, 21)
	for i := range proto.PrevEvents {
		proto.PrevEvents[i].ID = "$x"
	}
	if _, err := event.Build(v, proto, server, keyID, private); code(err) != "M_BAD_JSON" {
		t.Errorf("an event with 21 prev_events was built: %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		change        func(*event.Proto)
		code          string
	}{
		{"float", "12", func(p *event.Proto) { p.Content = jsontext.Value(`{"x":1.5}`) }, "M_BAD_JSON"},
		{"content that is no object", "12", func(p *event.Proto) { p.Content = jsontext.Value(`[]`) }, "M_BAD_JSON"},
		{"no content", "12", func(p *event.Proto) { p.Content = nil }, "M_BAD_JSON"},
		{"content that closes early", "12", func(p *event.Proto) { p.Content = jsontext.Value(`{},"sender":"@bob:example.org"`) }, "M_BAD_JSON"},
		{"long state key", "12", func(p *event.Proto) { p.StateKey = ptr(strings.Repeat("x", 256)) }, "M_TOO_LARGE"},
		{"long state key in an old version", "10", func(p *event.Proto) { p.StateKey = ptr(strings.Repeat("ä", 128)) }, "M_TOO_LARGE"},
		{"long type", "12", func(p *event.Proto) { p.Type = strings.Repeat("x", 256) }, "M_TOO_LARGE"},
	} {
		v := version(t, tt.version)
		proto := message(v, `{}`)
		tt.change(&proto)
		if _, err := event.Build(v, proto, server, keyID, private); code(err) != tt.code {
			t.Errorf("%s: got %v, want %s", tt.name, err, tt.code)
		}
	}
	for _, tt := range []struct {
		name, version string
		change        func(*event.Proto)
	}{
		{"event id where it is a hash", "3", func(p *event.Proto) { p.EventID = "$x:example.org" }},
		{"no event id", "1", func(p *event.Proto) { p.EventID = "" }},
		{"no room", "12", func(p *event.Proto) { p.Room = "" }},
		{"room of a create event", "12", func(p *event.Proto) { p.Type = event.TypeCreate }},
	} {
		v := version(t, tt.version)
		proto := message(v, `{}`)
		tt.change(&proto)
		if p, err := event.Build(v, proto, server, keyID, private); err == nil {
			t.Errorf("%s: built %s", tt.name, p.JSON)
		}
	}
}

func TestFloatsAreKeptInOldVersions(t *testing.T) {
	p := build(t, version(t, "5"), message(version(t, "5"), `{"a":1.0,"b":-0,"c":123456789012345678901}`))
	if got := string(p.Content); got != `{"a":1.0,"b":0,"c":123456789012345678901}` {
		t.Errorf("content became %s", got)
	}
}

// spec: rooms/v3#event-ids, rooms/v4#event-ids
func TestEventIDEncoding(t *testing.T) {
	std, url := false, false
	for i := range 64 {
		content := fmt.Sprintf(`{"i":%d}`, i)
		v3, v4 := version(t, "3"), version(t, "4")
		a, b := build(t, v3, message(v3, content)), build(t, v4, message(v4, content))
		if strings.NewReplacer("+", "-", "/", "_").Replace(string(a.ID)) != string(b.ID) {
			t.Errorf("v3 has %s, v4 has %s", a.ID, b.ID)
		}
		std = std || strings.ContainsAny(string(a.ID), "+/")
		url = url || strings.ContainsAny(string(b.ID), "-_")
		if strings.ContainsAny(string(a.ID), "-_=") || strings.ContainsAny(string(b.ID), "+/=") {
			t.Errorf("v3 has %s, v4 has %s", a.ID, b.ID)
		}
	}
	if !std || !url {
		t.Error("no id showed the difference")
	}
}

// msc: 4291
//
// CVE-2025-54315: nobody can make a second create event for a room.
func TestRoomIDIsTheCreateEvent(t *testing.T) {
	v := version(t, "12")
	p := build(t, v, event.Proto{Type: event.TypeCreate, StateKey: ptr(""), Sender: alice, Content: jsontext.Value(`{"room_version":"12"}`), Depth: 1, OriginServerTS: 1})
	if p.Room != id.Room("!"+p.ID[1:]) || strings.Contains(string(p.JSON), "room_id") {
		t.Errorf("room %s, event %s: %s", p.Room, p.ID, p.JSON)
	}
	if string(p.JSON[:20]) != `{"auth_events":[],"c` {
		t.Errorf("no auth_events are not an empty list: %s", p.JSON)
	}
	trusted, err := event.ParseTrusted(v, p.ID, p.JSON)
	if err != nil || trusted.Room != p.Room {
		t.Errorf("read back: room %s, %v", trusted.Room, err)
	}
	// A room_id that should not be there stays for the authorisation rules to see.
	p, err = event.Parse(v, raw(v, map[string]string{"type": `"m.room.create"`, "state_key": `""`}))
	if err != nil || p.Room != "!room:example.org" {
		t.Errorf("room %s, %v", p.Room, err)
	}
}

// spec: rooms/v1#event-format
func TestReferencesInOldVersionsHaveHashes(t *testing.T) {
	for _, name := range []string{"1", "2"} {
		v := version(t, name)
		first := build(t, v, message(v, `{"n":1}`))
		proto := message(v, `{"n":2}`)
		proto.EventID, proto.PrevEvents, proto.AuthEvents = "$second:example.org", []event.Ref{first.Ref()}, nil
		second := build(t, v, proto)
		hash := first.ReferenceHash()
		if r := first.Ref(); r.ID != "$opaque:example.org" || r.Hash != hash {
			t.Errorf("reference %v", r)
		}
		if !strings.Contains(string(second.JSON), `"prev_events":[["$opaque:example.org",{"sha256":"`) || second.PrevEvents[0] != first.ID {
			t.Errorf("%s", second.JSON)
		}
	}
}

func TestNextDepth(t *testing.T) {
	const max53, max63 = 1<<53 - 1, 1<<63 - 1
	for _, tt := range []struct {
		version string
		prev    []int64
		want    int64
	}{
		{"1", nil, 1}, {"12", []int64{3, 7, 5}, 8},
		{"1", []int64{max63}, max63}, {"1", []int64{max53}, max53 + 1}, {"5", []int64{max63 - 1}, max63},
		{"6", []int64{max53}, max53}, {"12", []int64{max63}, max53},
	} {
		if got := event.NextDepth(version(t, tt.version), tt.prev...); got != tt.want {
			t.Errorf("v%s after %v: %d, want %d", tt.version, tt.prev, got, tt.want)
		}
	}
	v := version(t, "12")
	proto := message(v, `{}`)
	proto.Depth = max63
	if p := build(t, v, proto); p.Depth != max53 {
		t.Errorf("built with depth %d", p.Depth)
	}
}

func FuzzParse(f *testing.F) {
	for _, v := range roomversion.All() {
		f.Add(v.Number, raw(v, nil))
		f.Add(v.Number, raw(v, map[string]string{"type": `"m.room.member"`, "state_key": `"@bob:other.org"`, "content": `{"membership":"invite","third_party_invite":{"signed":{}}}`}))
		f.Add(v.Number, raw(v, map[string]string{"type": `"m.room.create"`, "room_id": ""}))
	}
	all := roomversion.All()
	f.Fuzz(func(t *testing.T, number int, in []byte) {
		v := all[uint(number)%uint(len(all))]
		_, _ = event.ParseTrusted(v, "$x", in) // may fail, must not panic
		p, err := event.Parse(v, in)
		if err != nil {
			return
		}
		again, err := event.Parse(v, p.JSON)
		if err != nil || again.ID != p.ID || string(again.JSON) != string(p.JSON) {
			t.Fatalf("%s parses as %v, %v", p.JSON, again, err)
		}
		r, err := p.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		if again, err := event.Parse(v, r.JSON); err != nil || again.ID != p.ID {
			t.Fatalf("%s redacted is %s (%v)", p.JSON, r.JSON, err)
		}
		if twice, err := r.Redacted(); err != nil || string(twice.JSON) != string(r.JSON) {
			t.Fatalf("%s redacted again is %v (%v)", r.JSON, twice, err)
		}
		p.CheckContentHash()
		p.SigningServers()
		for _, s := range p.Signatures() {
			_ = p.VerifySignature(s.Server, s.Key, public)
		}
		o := event.ClientOptions{Now: 1, Unsigned: event.AppendStringMember(nil, "membership", "join")}
		for _, js := range [][]byte{event.AppendClient(nil, p, o), event.AppendStripped(nil, p), event.AppendFederation(nil, p, o.Unsigned)} {
			if !jsontext.Value(js).IsValid() {
				t.Fatalf("not JSON: %s", js)
			}
		}
	})
}
