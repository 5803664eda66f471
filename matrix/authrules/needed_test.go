package authrules

import (
	"crypto/ed25519"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

func TestNeeded(t *testing.T) {
	key := func(s string) *string { return &s }
	tests := []struct {
		name  string
		draft Draft
		want  string // besides the create event, where that is listed
	}{
		{"a message", Draft{Type: "m.room.message", Sender: "@bob:b"}, "power_levels, member @bob:b"},
		{"a topic", Draft{Type: event.TypeTopic, StateKey: key(""), Sender: "@bob:b"}, "power_levels, member @bob:b"},
		{"a member event that is no state", Draft{Type: event.TypeMember, Sender: "@bob:b"}, "power_levels, member @bob:b"},
		{"a join", Draft{Type: event.TypeMember, StateKey: key("@bob:b"), Sender: "@bob:b", Content: []byte(`{"membership":"join"}`)}, "power_levels, member @bob:b, join_rules"},
		{"a knock", Draft{Type: event.TypeMember, StateKey: key("@bob:b"), Sender: "@bob:b", Content: []byte(`{"membership":"knock"}`)}, "power_levels, member @bob:b, join_rules"},
		{"a kick", Draft{Type: event.TypeMember, StateKey: key("@zoe:z"), Sender: "@bob:b", Content: []byte(`{"membership":"leave"}`)}, "power_levels, member @bob:b, member @zoe:z"},
		{"an invitation", Draft{Type: event.TypeMember, StateKey: key("@zoe:z"), Sender: "@bob:b", Content: []byte(`{"membership":"invite"}`)}, "power_levels, member @bob:b, member @zoe:z, join_rules"},
		{"an invitation of a third party", Draft{Type: event.TypeMember, StateKey: key("@zoe:z"), Sender: "@bob:b", Content: []byte(`{"membership":"invite","third_party_invite":{"signed":{"token":"abc"}}}`)}, "power_levels, member @bob:b, member @zoe:z, join_rules, third_party_invite abc"},
		{"an invitation with half of a third party invite", Draft{Type: event.TypeMember, StateKey: key("@zoe:z"), Sender: "@bob:b", Content: []byte(`{"membership":"invite","third_party_invite":{"signed":{"token":5}}}`)}, "power_levels, member @bob:b, member @zoe:z, join_rules"},
		{"the create event", Draft{Type: event.TypeCreate, StateKey: key(""), Sender: "@bob:b"}, "-"},
	}
	for _, tt := range tests {
		for _, v := range roomversion.All() {
			want := tt.want
			if want == "-" {
				want = ""
			} else if v.CreateInAuthEvents {
				want = "create, " + want
			}
			if got := tuples(Needed(v, tt.draft)); got != want {
				t.Errorf("%s, version %s: %s, want %s", tt.name, v.ID, got, want)
			}
		}
	}
	restricted := Draft{Type: event.TypeMember, StateKey: key("@bob:b"), Sender: "@bob:b", Content: []byte(`{"join_authorised_via_users_server":"@alice:a","membership":"join"}`)}
	for _, v := range roomversion.All() {
		if got := strings.HasSuffix(tuples(Needed(v, restricted)), ", member @alice:a"); got != v.RestrictedJoins {
			t.Errorf("version %s: the authorising user is needed: %v", v.ID, got)
		}
	}
}

func tuples(list []event.StateTuple) string {
	var out []string
	for _, t := range list {
		out = append(out, strings.TrimSpace(strings.TrimPrefix(t.Type, "m.room.")+" "+t.Key))
	}
	return strings.Join(out, ", ")
}

// The rules about the auth_events list.
func TestCheckAuthEvents(t *testing.T) {
	member := event.StateTuple{Type: event.TypeMember, Key: "@bob:b"}
	levels := event.StateTuple{Type: event.TypePowerLevels}
	create := event.StateTuple{Type: event.TypeCreate}
	tests := []struct {
		name   string
		change func(r *room, list []AuthEvent) []AuthEvent
		want   verdicts
	}{
		{"just what is needed", nil, "1-12:ok"},
		{"less than what is needed", func(r *room, list []AuthEvent) []AuthEvent { return list[:1] }, "1-12:ok"},
		{"the same twice", func(r *room, list []AuthEvent) []AuthEvent { return append(list, list[0]) }, "1-11:2.1 12:3.1"},
		{"two of one kind", func(r *room, list []AuthEvent) []AuthEvent {
			other := r.event("alice", event.TypePowerLevels, "", `{}`)
			return append(list, AuthEvent{PDU: other})
		}, "1-11:2.1 12:3.1"},
		{"MSC4304: the create event, which version 12 forbids", func(r *room, list []AuthEvent) []AuthEvent {
			if r.version.CreateInAuthEvents {
				return list
			}
			return append(list, AuthEvent{PDU: r.state[create]})
		}, "1-11:ok 12:3.2"},
		{"one too many", func(r *room, list []AuthEvent) []AuthEvent {
			return append(list, AuthEvent{PDU: r.state[event.StateTuple{Type: event.TypeJoinRules}]})
		}, "1-11:2.2 12:3.2"},
		{"tuw 1.9.0: a message among the auth events", func(r *room, list []AuthEvent) []AuthEvent {
			return append(list, AuthEvent{PDU: r.message("alice", "m.room.message", `{}`)})
		}, "1-11:2.2 12:3.2"},
		{"CVE-2022-39374: a rejected one", func(r *room, list []AuthEvent) []AuthEvent {
			list[0].Rejected = true
			return list
		}, "1-11:2.3 12:3.3"},
		{"no create event", func(r *room, list []AuthEvent) []AuthEvent {
			return slices.DeleteFunc(list, func(a AuthEvent) bool { return a.Type == event.TypeCreate })
		}, "1-11:2.4 12:ok"},
		{"MSC4307: one of another room", func(r *room, list []AuthEvent) []AuthEvent {
			other := *list[1].PDU
			other.Room = "!other:a"
			list[1].PDU = &other
			return list
		}, "1-11:2.5 12:3.4"},
	}
	for _, tt := range tests {
		for _, v := range roomversion.All() {
			want, _ := tt.want.of(t, v.Number)
			r := newRoom(t, v.ID)
			var list []AuthEvent
			if v.CreateInAuthEvents {
				list = append(list, AuthEvent{PDU: r.state[create]})
			}
			list = append(list, AuthEvent{PDU: r.state[levels]}, AuthEvent{PDU: r.state[member]})
			if tt.change != nil {
				list = tt.change(r, list)
			}
			if got := ruleOf(t, CheckAuthEvents(r.message("bob", "m.room.message", `{}`), list)); got != want {
				t.Errorf("%s, version %s: got %s, want %s", tt.name, v.ID, got, want)
			}
		}
	}
}

// Invitations that redeem one by e-mail.
func TestThirdPartyInvites(t *testing.T) {
	key := func(seed string) ed25519.PrivateKey {
		return ed25519.NewKeyFromSeed([]byte(strings.Repeat(seed, ed25519.SeedSize)))
	}
	encode := base64.RawStdEncoding.EncodeToString
	public := func(k ed25519.PrivateKey) string { return encode(k.Public().(ed25519.PublicKey)) }
	good, other, wrong := key("a"), key("b"), key("c")
	const message = `{"mxid":"@zoe:z","token":"abc"}`
	signed := func(k ed25519.PrivateKey, message string) string {
		signature := encode(ed25519.Sign(k, []byte(message)))
		return strings.TrimSuffix(message, `,"token":"abc"}`) + `,"signatures":{"is":{"ed25519:0":"` + signature + `"}},"token":"abc"}`
	}
	tests := []struct {
		name   string
		offer  string // content of the third party invite
		invite string // third_party_invite of the invitation
		sender string
		room   func(r *room)
		want   verdicts
	}{
		{"signed by the only key", `{"public_key":"` + public(good) + `"}`, `{"signed":` + signed(good, message) + `}`, "bob", nil, "1-12:ok"},
		{"signed by one key of several", `{"public_key":"` + public(other) + `","public_keys":[{"public_key":"` + public(other) + `"},{"public_key":"` + public(good) + `"}]}`, `{"signed":` + signed(good, message) + `}`, "bob", nil, "1-12:ok"},
		{"keys among damaged ones", `{"public_key":5,"public_keys":[7,{},{"public_key":"!"},{"public_key":"` + public(good) + `"}]}`, `{"signed":` + signed(good, message) + `}`, "bob", nil, "1-12:ok"},
		{"one who was banned since", `{"public_key":"` + public(good) + `"}`, `{"signed":` + signed(good, message) + `}`, "bob", func(r *room) { r.put("alice", event.TypeMember, "@zoe:z", `{"membership":"ban"}`) }, "1-5:5.3.1.1 6-7:4.3.1.1 8-11:4.4.1.1 12:5.4.1.1"},
		{"nothing signed", `{"public_key":"` + public(good) + `"}`, `{}`, "bob", nil, "1-5:5.3.1.2 6-7:4.3.1.2 8-11:4.4.1.2 12:5.4.1.2"},
		{"no token", `{"public_key":"` + public(good) + `"}`, `{"signed":{"mxid":"@zoe:z"}}`, "bob", nil, "1-5:5.3.1.3 6-7:4.3.1.3 8-11:4.4.1.3 12:5.4.1.3"},
		{"no user id", `{"public_key":"` + public(good) + `"}`, `{"signed":{"token":"abc"}}`, "bob", nil, "1-5:5.3.1.3 6-7:4.3.1.3 8-11:4.4.1.3 12:5.4.1.3"},
		{"signed for somebody else", `{"public_key":"` + public(good) + `"}`, `{"signed":` + signed(good, strings.Replace(message, "zoe", "joe", 1)) + `}`, "bob", nil, "1-5:5.3.1.4 6-7:4.3.1.4 8-11:4.4.1.4 12:5.4.1.4"},
		{"another token", `{"public_key":"` + public(good) + `"}`, `{"signed":{"mxid":"@zoe:z","token":"xyz"}}`, "bob", nil, "1-5:5.3.1.5 6-7:4.3.1.5 8-11:4.4.1.5 12:5.4.1.5"},
		{"sent by another", `{"public_key":"` + public(good) + `"}`, `{"signed":` + signed(good, message) + `}`, "alice", nil, "1-5:5.3.1.6 6-7:4.3.1.6 8-11:4.4.1.6 12:5.4.1.6"},
		{"signed by another key", `{"public_key":"` + public(good) + `"}`, `{"signed":` + signed(wrong, message) + `}`, "bob", nil, "1-5:5.3.1.8 6-7:4.3.1.8 8-11:4.4.1.8 12:5.4.1.8"},
		{"not signed", `{"public_key":"` + public(good) + `"}`, `{"signed":` + message + `}`, "bob", nil, "1-5:5.3.1.8 6-7:4.3.1.8 8-11:4.4.1.8 12:5.4.1.8"},
		{"an offer without keys", `{}`, `{"signed":` + signed(good, message) + `}`, "bob", nil, "1-5:5.3.1.8 6-7:4.3.1.8 8-11:4.4.1.8 12:5.4.1.8"},
	}
	for _, tt := range tests {
		for _, v := range roomversion.All() {
			want, _ := tt.want.of(t, v.Number)
			r := newRoom(t, v.ID)
			// Whoever redeems an invitation need not be in the room any more.
			r.put("bob", event.TypeMember, "@bob:b", `{"membership":"leave"}`)
			r.put("bob", event.TypeThirdPartyInvite, "abc", tt.offer)
			if tt.room != nil {
				tt.room(r)
			}
			ev := r.event(tt.sender, event.TypeMember, "@zoe:z", `{"membership":"invite","third_party_invite":`+tt.invite+`}`)
			if got := ruleOf(t, r.check(ev)); got != want {
				t.Errorf("%s, version %s: got %s, want %s", tt.name, v.ID, got, want)
			}
		}
	}
}

// A hostile invite with very many signatures and keys is given up on.
func TestThirdPartyInviteBoundsItsWork(t *testing.T) {
	keys := make([]ed25519.PublicKey, 600)
	for i := range keys {
		keys[i] = make(ed25519.PublicKey, ed25519.PublicKeySize)
	}
	signature := base64.RawStdEncoding.EncodeToString(make([]byte, ed25519.SignatureSize))
	signed := `{"mxid":"@zoe:z","signatures":{"is":{` + strings.TrimSuffix(strings.Repeat(`"ed25519:0":"`+signature+`",`, 500), ",") + `}},"token":"abc"}`
	if isSigned([]byte(signed), keys) {
		t.Error("a signature of zeros is valid")
	}
}

func TestJoinAuthorisedVia(t *testing.T) {
	for _, v := range roomversion.All() {
		r := newRoom(t, v.ID)
		ev := r.event("zoe", event.TypeMember, "@zoe:z", `{"join_authorised_via_users_server":"@bob:b","membership":"join"}`)
		got, ok := JoinAuthorisedVia(ev)
		if ok != v.RestrictedJoins || ok && got != id.User("@bob:b") {
			t.Errorf("version %s: %s, %v", v.ID, got, ok)
		}
		if _, ok := JoinAuthorisedVia(r.message("zoe", "m.x", string(ev.Content))); ok {
			t.Errorf("version %s: a message is let in", v.ID)
		}
	}
}
