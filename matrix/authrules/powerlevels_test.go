package authrules

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// How a level may be written, by room version.
func TestLevelNotation(t *testing.T) {
	const bad = math.MinInt64 + 7
	tests := []struct {
		raw          string
		v1, v6, v10  int64
		v1IsTooLarge bool
	}{
		{raw: `50`, v1: 50, v6: 50, v10: 50},
		{raw: `-5`, v1: -5, v6: -5, v10: -5},
		{raw: `9007199254740991`, v1: 9007199254740991, v6: 9007199254740991, v10: 9007199254740991},
		{raw: `"50"`, v1: 50, v6: 50, v10: bad},
		{raw: `"00050"`, v1: 50, v6: 50, v10: bad},
		{raw: `" +2 "`, v1: 2, v6: 2, v10: bad},
		{raw: `"\t-2\n"`, v1: -2, v6: -2, v10: bad},
		{raw: "\"\u00a07\u2003\"", v1: 7, v6: 7, v10: bad}, // all that is white space
		{raw: `"99999999999999999999"`, v1: math.MaxInt64, v6: math.MaxInt64, v10: bad},
		// Python's int() takes this one, the specification's grammar does not.
		{raw: `"1_0"`, v1: bad, v6: bad, v10: bad},
		{raw: `"+ 2"`, v1: bad, v6: bad, v10: bad},
		{raw: `"+-2"`, v1: bad, v6: bad, v10: bad},
		{raw: `"1.5"`, v1: bad, v6: bad, v10: bad},
		{raw: `"1e3"`, v1: bad, v6: bad, v10: bad},
		{raw: `"0x10"`, v1: bad, v6: bad, v10: bad},
		{raw: `"٣"`, v1: bad, v6: bad, v10: bad},
		{raw: `""`, v1: bad, v6: bad, v10: bad},
		{raw: `" "`, v1: bad, v6: bad, v10: bad},
		{raw: `50.57`, v1: 50, v6: bad, v10: bad},
		{raw: `-0.9`, v1: 0, v6: bad, v10: bad},
		{raw: `5.114698E4`, v1: 51146, v6: bad, v10: bad},
		{raw: `1e300`, v1: math.MaxInt64, v6: bad, v10: bad},
		{raw: `-1e300`, v1: math.MinInt64, v6: bad, v10: bad},
		{raw: `1e400`, v1: bad, v6: bad, v10: bad, v1IsTooLarge: true},
		{raw: `true`, v1: bad, v6: bad, v10: bad},
		{raw: `null`, v1: bad, v6: bad, v10: bad},
		{raw: `{}`, v1: bad, v6: bad, v10: bad},
		{raw: `[5]`, v1: bad, v6: bad, v10: bad},
	}
	for _, tt := range tests {
		for _, v := range roomversion.All() {
			want := tt.v1
			switch {
			case v.IntegerPowerLevels:
				want = tt.v10
			case v.StrictCanonicalJSON:
				want = tt.v6
			}
			got, fault := parseLevel(v, []byte(tt.raw))
			if want == bad {
				if fault == levelFine {
					t.Errorf("version %s: %s is read as %d", v.ID, tt.raw, got)
				}
				if tt.v1IsTooLarge != (fault == levelTooLarge) && !v.StrictCanonicalJSON {
					t.Errorf("version %s: %s: fault %d", v.ID, tt.raw, fault)
				}
			} else if got != want || fault != levelFine {
				t.Errorf("version %s: %s is read as %d (fault %d), want %d", v.ID, tt.raw, got, fault, want)
			}
		}
	}
}

// CVE-2022-36009: other defaults gave people power.
func TestDefaultLevels(t *testing.T) {
	for _, v := range roomversion.All() {
		r := newRoom(t, v.ID)
		create := r.state[event.StateTuple{Type: event.TypeCreate}]
		for _, ev := range []*event.PDU{nil, r.event("alice", event.TypePowerLevels, "", `{}`)} {
			p, err := ParsePowerLevels(v, create, ev)
			if err != nil {
				t.Fatal(err)
			}
			got := []int64{p.EventLevel("m.x", false), p.EventLevel("m.x", true), p.Invite(), p.Kick(), p.Ban(), p.Redact(), p.Notification("room"), p.UserLevel("@bob:b")}
			if want := []int64{0, 50, 0, 50, 50, 50, 50, 0}; !slices.Equal(got, want) {
				t.Errorf("version %s: %v, want %v", v.ID, got, want)
			}
			wantCreator := int64(0)
			switch {
			case v.PrivilegedCreators:
				wantCreator = CreatorLevel
			case ev == nil:
				wantCreator = 100
			}
			if got := p.UserLevel("@alice:a"); got != wantCreator {
				t.Errorf("version %s: the creator has %d, want %d", v.ID, got, wantCreator)
			}
		}
	}
}

func TestPowerLevelsAreRead(t *testing.T) {
	for _, v := range roomversion.All() {
		r := newRoom(t, v.ID)
		// Keys in no order, spaces and escapes: what a client may send.
		ev := r.event("alice", event.TypePowerLevels, "", `{ "users" : {"@zoe:z":7,"@b\u006fb:b":50} , "users_default":3,
			"ban":60, "kick":61, "redact":62, "invite":63, "state_default":64, "events_default":65,
			"events":{"m.b":1,"m.a":2}, "notifications":{"room":66}, "x":{"users":{"@zoe:z":1}} }`)
		p, err := ParsePowerLevels(v, r.state[event.StateTuple{Type: event.TypeCreate}], ev)
		if err != nil {
			t.Fatal(err)
		}
		got := []int64{
			p.UserLevel("@zoe:z"), p.UserLevel("@bob:b"), p.UserLevel("@dora:d"), p.Ban(), p.Kick(), p.Redact(), p.Invite(),
			p.EventLevel("m.x", true), p.EventLevel("m.x", false), p.EventLevel("m.b", true), p.EventLevel("m.a", false), p.Notification("room"), p.Notification("x"),
		}
		if want := []int64{7, 50, 3, 60, 61, 62, 63, 64, 65, 1, 2, 66, 50}; !slices.Equal(got, want) {
			t.Errorf("version %s: %v, want %v", v.ID, got, want)
		}
	}
}

func TestUsersFromALevelOn(t *testing.T) {
	for _, v := range roomversion.All() {
		r := newRoom(t, v.ID)
		ev := r.event("alice", event.TypePowerLevels, "", `{"users":{"@zoe:z":7,"@bob:b":50,"@dora:d":0},"users_default":3}`)
		p, err := ParsePowerLevels(v, r.state[event.StateTuple{Type: event.TypeCreate}], ev)
		if err != nil {
			t.Fatal(err)
		}
		want := map[int64][]id.User{3: {"@alice:a", "@bob:b", "@zoe:z"}, 7: {"@bob:b", "@zoe:z"}, 51: nil}
		for level, users := range want {
			if v.PrivilegedCreators && level > 3 {
				users = append([]id.User{"@alice:a"}, users...)
			}
			if got, others := p.UsersFrom(level); !slices.Equal(got, users) || others != (level == 3) {
				t.Errorf("version %s: from %d on %v, others %t, want %v", v.ID, level, got, others, users)
			}
		}
	}
}

func TestCreators(t *testing.T) {
	for _, v := range roomversion.All() {
		r := newRoom(t, v.ID)
		create := r.put("alice", event.TypeCreate, "", `{"additional_creators":["@dora:d","@alice:a","@dora:d"],"creator":"@bob:b"}`)
		want := []id.User{"@alice:a"}
		switch {
		case v.CreatorInContent:
			want = []id.User{"@bob:b"}
		case v.PrivilegedCreators:
			want = []id.User{"@alice:a", "@dora:d"}
		}
		if got := Creators(create); !slices.Equal(got, want) {
			t.Errorf("version %s: %v, want %v", v.ID, got, want)
		}
	}
}

// A message does not pay for power levels that others have read already.
func TestCompiledLevelsAreUsed(t *testing.T) {
	r := newRoom(t, "11")
	s := StateOf(
		r.state[event.StateTuple{Type: event.TypeCreate}],
		r.state[event.StateTuple{Type: event.TypePowerLevels}],
		r.state[event.StateTuple{Type: event.TypeMember, Key: "@bob:b"}])
	var err error
	if s.Levels, err = ParsePowerLevels(r.version, s.Create, s.PowerLevels); err != nil {
		t.Fatal(err)
	}
	ev := r.message("bob", "m.room.message", `{"body":"hi"}`)
	if allocs := testing.AllocsPerRun(100, func() {
		if Check(ev, s) != nil {
			t.Error("the message is refused")
		}
	}); allocs > 0 {
		t.Errorf("%v allocations for a message", allocs)
	}
	s.Set(r.event("alice", event.TypePowerLevels, "", `{"events_default":99}`))
	if Check(ev, s) == nil {
		t.Error("levels of power levels that are not in force any more were used")
	}
}

func FuzzParsePowerLevels(f *testing.F) {
	f.Add(`{"users":{"@alice:a":100,"@bob:b":"50"},"events":{"m.x":1e3},"ban":" +2 "}`)
	f.Add(`{"notifications":{"room":50},"users_default":-1.5e-3,"kick":1e400,"invite":[{"a":"\"}"}]}`)
	f.Add(`{"users":{"@a:b":1,"@a:b":2}`)
	f.Add(`{"users":`)
	f.Fuzz(func(t *testing.T, raw string) {
		content, err := canonical.Append(nil, []byte(raw), canonical.Options{})
		if err != nil || content[0] != '{' {
			return
		}
		for _, v := range roomversion.All() {
			create := &event.PDU{Version: v, Type: event.TypeCreate, Sender: "@alice:a", Content: jsontext.Value(`{"creator":"@alice:a"}`)}
			ev := &event.PDU{Version: v, Type: event.TypePowerLevels, Sender: "@alice:a", Content: content}
			p, err := ParsePowerLevels(v, create, ev)
			if err != nil {
				if denied := (*Denied)(nil); !errors.As(err, &denied) {
					t.Fatalf("version %s: %v", v.ID, err)
				}
				continue
			}
			for _, l := range p.users {
				if _, err := id.ParseUser(l.name); err != nil {
					t.Fatalf("version %s: %v", v.ID, err)
				}
			}
			if !slices.IsSortedFunc(p.users, func(a, b level) int { return strings.Compare(a.name, b.name) }) {
				t.Fatalf("version %s: users cannot be looked up", v.ID)
			}
			if err := checkPowerLevels(ev, p); err != nil {
				t.Fatalf("version %s: levels may not stay as they are: %v", v.ID, err)
			}
		}
	})
}

func bigLevels(b testing.TB, users int) (*room, State) {
	r := newRoom(b, "11")
	var list strings.Builder
	for i := range users {
		fmt.Fprintf(&list, `,"@user%05d:b":%d`, i, i%100)
	}
	r.put("alice", event.TypePowerLevels, "", r.levels(`"@bob:b":50`+list.String(), `,"events":{"m.room.message":1,"m.room.name":50}`))
	return r, StateOf(
		r.state[event.StateTuple{Type: event.TypeCreate}],
		r.state[event.StateTuple{Type: event.TypePowerLevels}],
		r.state[event.StateTuple{Type: event.TypeMember, Key: "@bob:b"}])
}

func BenchmarkCheckMessage(b *testing.B) {
	r, s := bigLevels(b, 5000)
	var err error
	if s.Levels, err = ParsePowerLevels(r.version, s.Create, s.PowerLevels); err != nil {
		b.Fatal(err)
	}
	ev := r.message("bob", "m.room.message", `{"body":"hi"}`)
	b.ReportAllocs()
	for b.Loop() {
		if err := Check(ev, s); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParsePowerLevels5000Users(b *testing.B) {
	r, s := bigLevels(b, 5000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePowerLevels(r.version, s.Create, s.PowerLevels); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkNeeded(b *testing.B) {
	r := newRoom(b, "11")
	d := DraftOf(r.message("bob", "m.room.message", `{"body":"hi"}`))
	b.ReportAllocs()
	for b.Loop() {
		if len(Needed(r.version, d)) != 3 {
			b.Fatal("not three")
		}
	}
}
