package event_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// One event per type, and what redaction leaves of its content from which
// version on. spec: rooms/v1#redactions … rooms/v11#redactions
func TestRedactedContent(t *testing.T) {
	const (
		member = `{"membership":"join","displayname":"Alice","join_authorised_via_users_server":"@bob:other.org","third_party_invite":{"display_name":"A","signed":{"mxid":"@a:b","token":"t"}}}`
		levels = `{"ban":1,"events":{"x":1},"events_default":2,"invite":3,"kick":4,"notifications":{"room":5},"redact":6,"state_default":7,"users":{},"users_default":8}`
	)
	for _, tt := range []struct {
		name, typ, content string
		from               map[int]string // by version number
	}{
		{"member", event.TypeMember, member, map[int]string{
			1:  `{"membership":"join"}`,
			9:  `{"join_authorised_via_users_server":"@bob:other.org","membership":"join"}`,
			11: `{"join_authorised_via_users_server":"@bob:other.org","membership":"join","third_party_invite":{"signed":{"mxid":"@a:b","token":"t"}}}`,
		}},
		// "The third_party_invite key of m.room.member events is no longer
		// redacted, but will only contain the signed key after redaction."
		{"third-party invite without signed", event.TypeMember, `{"membership":"invite","third_party_invite":{"display_name":"A"}}`, map[int]string{
			1: `{"membership":"invite"}`, 11: `{"membership":"invite","third_party_invite":{}}`,
		}},
		{"third-party invite that is no object", event.TypeMember, `{"membership":"invite","third_party_invite":"x"}`, map[int]string{1: `{"membership":"invite"}`}},
		{"create", event.TypeCreate, `{"creator":"@alice:example.org","m.federate":false,"predecessor":{},"x":1}`, map[int]string{
			1: `{"creator":"@alice:example.org"}`, 11: `{"creator":"@alice:example.org","m.federate":false,"predecessor":{},"x":1}`,
		}},
		{"join rules", event.TypeJoinRules, `{"join_rule":"restricted","allow":[{}],"x":1}`, map[int]string{
			1: `{"join_rule":"restricted"}`, 8: `{"allow":[{}],"join_rule":"restricted"}`,
		}},
		{"power levels", event.TypePowerLevels, levels, map[int]string{
			1:  `{"ban":1,"events":{"x":1},"events_default":2,"kick":4,"redact":6,"state_default":7,"users":{},"users_default":8}`,
			11: `{"ban":1,"events":{"x":1},"events_default":2,"invite":3,"kick":4,"redact":6,"state_default":7,"users":{},"users_default":8}`,
		}},
		{"aliases", event.TypeAliases, `{"aliases":["#a:b"],"x":1}`, map[int]string{1: `{"aliases":["#a:b"]}`, 6: `{}`}},
		{"history visibility", event.TypeHistoryVisibility, `{"history_visibility":"shared","x":1}`, map[int]string{1: `{"history_visibility":"shared"}`}},
		{"redaction", event.TypeRedaction, `{"redacts":"$x","reason":"spam"}`, map[int]string{1: `{}`, 11: `{"redacts":"$x"}`}},
		{"name", event.TypeName, `{"name":"x","membership":"join"}`, map[int]string{1: `{}`}},
		{"message", "m.room.message", `{"body":"x"}`, map[int]string{1: `{}`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := ""
			each(t, func(t *testing.T, v *roomVersion) {
				if w, ok := tt.from[v.Number]; ok {
					want = w
				}
				p, err := event.Parse(v, raw(v, map[string]string{"type": `"` + tt.typ + `"`, "content": tt.content}))
				if err != nil {
					t.Fatal(err)
				}
				r, err := p.Redacted()
				if err != nil || string(r.Content) != want {
					t.Errorf("got %s, %v\nwant %s", r.Content, err, want)
				}
			})
		})
	}
}

func TestRedactedKeys(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		p, err := event.Parse(v, raw(v, map[string]string{
			"type": `"m.room.redaction"`, "state_key": `"s"`, "redacts": `"$x"`, "origin": `"o"`, "membership": `"join"`,
			"prev_state": `[]`, "age_ts": `1`, "org.example": `{}`, "unsigned": `{"age":1}`}))
		if err != nil {
			t.Fatal(err)
		}
		r, err := p.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"auth_events", "content", "depth", "hashes", "origin_server_ts", "prev_events", "room_id", "sender", "signatures", "state_key", "type"}
		if v.Number < 3 {
			want = append(want, "event_id")
		}
		if v.Number < 11 {
			want = append(want, "membership", "origin", "prev_state")
		}
		slices.Sort(want)
		if got := topKeys(t, r.JSON); !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func topKeys(t testing.TB, js []byte) []string {
	t.Helper()
	var keys []string
	d := jsontext.NewDecoder(bytes.NewReader(js))
	if _, err := d.ReadToken(); err != nil {
		t.Fatal(err)
	}
	for d.PeekKind() != '}' {
		k, err := d.ReadToken()
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, k.String())
		if err := d.SkipValue(); err != nil {
			t.Fatal(err)
		}
	}
	return keys
}

// spec: rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func TestRedactsIsReadWhereTheVersionKeepsIt(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		p, err := event.Parse(v, raw(v, map[string]string{"type": `"m.room.redaction"`, "redacts": `"$top:x"`, "content": `{"redacts":"$content:x"}`}))
		if err != nil {
			t.Fatal(err)
		}
		want := id.Event("$top:x")
		if v.Number >= 11 {
			want = "$content:x"
		}
		if p.Redacts != want {
			t.Errorf("redacts %s, want %s", p.Redacts, want)
		}
		proto := message(v, `{"reason":"spam"}`)
		proto.Type, proto.Redacts = event.TypeRedaction, "$target"
		if p := build(t, v, proto); p.Redacts != "$target" {
			t.Errorf("built %s", p.JSON)
		}
	})
}

// Each part that the content hash covers; what it does not cover may change.
func TestContentHash(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		p := build(t, v, message(v, `{"body":"x"}`))
		for _, tt := range []struct {
			old, new string
			want     bool
		}{
			{`"body":"x"`, `"body":"y"`, false},
			{`"depth":7`, `"depth":8`, false},
			{`"type":`, `"org.example":1,"type":`, false},
			{`"signatures":{`, `"signatures":{"a.org":{},`, true},
			{`"signatures":{`, `"unsigned":{"age":1},"signatures":{`, true},
			{`"hashes":{`, `"hashes":{"md5":"x",`, true},
			{`"sha256":"`, `"sha256":"A`, false},
			{`"sha256":`, `"sha512":`, false},
		} {
			q, err := event.Parse(v, replace(t, p.JSON, tt.old, tt.new))
			if err != nil {
				t.Fatal(err)
			}
			if got := q.CheckContentHash(); got != tt.want {
				t.Errorf("%s for %s: %t, want %t", tt.new, tt.old, got, tt.want)
			}
		}
	})
}
