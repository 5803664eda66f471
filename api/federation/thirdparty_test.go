package federation_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

// spec: server-server-api#third-party-invites
func TestAThirdPartyInviteIsExchanged(t *testing.T) {
	p := newPair(t)
	name := p.createRoom(object{"preset": "private_chat", "room_version": "11"})
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := base64.RawStdEncoding.EncodeToString(public)
	p.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+escaped(name)+"/state/m.room.third_party_invite/token1",
		object{"display_name": "b...", "public_key": key, "key_validity_url": "https://id.example/valid", "public_keys": []any{object{"public_key": key}}})
	proof := func(user, token string, by ed25519.PrivateKey) jsontext.Value {
		signed, err := signing.Sign([]byte(fmt.Sprintf(`{"mxid":%q,"token":%q}`, user, token)), "id.example", "ed25519:0", by)
		if err != nil {
			t.Fatal(err)
		}
		return signed
	}
	partial := func(signed jsontext.Value) object {
		return object{"type": "m.room.member", "room_id": name, "sender": p.alice.User, "state_key": p.bob.User, "content": object{
			"membership": "invite", "displayname": "evil", "third_party_invite": object{"display_name": "b...", "signed": signed}}}
	}
	path := prefix + "exchange_third_party_invite/" + escaped(name)
	_, stranger, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.wantError(403, "M_FORBIDDEN", "PUT", path, partial(proof(p.bob.User, "token1", stranger)))
	p.wantError(403, "M_FORBIDDEN", "PUT", path, partial(proof(p.bob.User, "token2", private)))
	p.wantError(400, "M_INVALID_PARAM", "PUT", path, partial(proof(p.alice.User, "token1", private)))
	// CVE-2020-26257: the room of the path is the event's.
	p.wantError(400, "M_INVALID_PARAM", "PUT", prefix+"exchange_third_party_invite/!other:elsewhere.example", partial(proof(p.bob.User, "token1", private)))
	for what, change := range map[string]func(object){
		"a join":               func(o object) { o["content"].(object)["membership"] = "join" },
		"another type":         func(o object) { o["type"] = "m.room.power_levels" },
		"a sender who is away": func(o object) { o["sender"] = p.bob.User },
	} {
		body := partial(proof(p.bob.User, "token1", private))
		change(body)
		if status, answer := p.ask("PUT", path, body); status != 400 || answer["errcode"] != "M_INVALID_PARAM" {
			t.Errorf("%s: %d %v", what, status, answer)
		}
	}
	p.mustAsk("PUT", path, partial(proof(p.bob.User, "token1", private)))
	sync := p.bob.MustDo("GET", "/_matrix/client/v3/sync", nil)
	if sync["rooms"].(object)["invite"].(object)[string(name)] == nil {
		t.Errorf("bob sees %v", sync["rooms"])
	}
	member := p.alice.MustDo("GET", "/_matrix/client/v3/rooms/"+escaped(name)+"/state/m.room.member/"+escaped(p.bob.User), nil)
	if member["membership"] != "invite" || member["displayname"] != nil || member["third_party_invite"] == nil {
		t.Errorf("%v", member)
	}

	// An identity server tells bob's server of another such invite; it asks ours.
	p.alice.MustDo("POST", "/_matrix/client/v3/rooms/"+escaped(name)+"/kick", object{"user_id": p.bob.User})
	var signed jsontext.Value = proof(p.bob.User, "token1", private)
	body, err := json.Marshal(object{"medium": "email", "address": "bob@example.org", "mxid": p.bob.User, "invites": []any{
		object{"medium": "email", "address": "bob@example.org", "mxid": p.bob.User, "room_id": "!unknown:elsewhere.invalid", "sender": "@x:elsewhere.invalid", "signed": signed},
		object{"medium": "email", "address": "bob@example.org", "mxid": p.bob.User, "room_id": name, "sender": p.alice.User, "signed": signed},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if w := p.away.Raw(t.Context(), "PUT", prefix+"3pid/onbind", "", string(body)); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	member = p.alice.MustDo("GET", "/_matrix/client/v3/rooms/"+escaped(name)+"/state/m.room.member/"+escaped(p.bob.User), nil)
	if member["membership"] != "invite" {
		t.Errorf("%v", member)
	}
	// Identity servers do not tell bob's server how the address is shown, so that it cannot tell ours.
	if invite := member["third_party_invite"].(object); invite["display_name"] != "b..." {
		t.Errorf("the invite is to %q", invite["display_name"])
	}
}

// A third-party invite is not signed by the server of its sender. What says to be one, and is none any more
// once it is redacted because of its content hash, must be signed as any other event.
func TestNobodyInvitesInTheNameOfAnother(t *testing.T) {
	p := newPair(t)
	for _, v := range roomversion.All() {
		name := p.createRoom(object{"preset": "private_chat", "room_version": v.ID, "invite": []any{p.bob.User}, "power_level_content_override": object{"invite": 100}})
		p.bobJoins(name)
		_, proto := p.proto(name, "")
		mallory := "@mallory:" + string(p.away.Name())
		proto.Type, proto.Sender, proto.StateKey, proto.Content = event.TypeMember, id.User(p.alice.User), &mallory, jsontext.Value(`{"membership":"invite"}`)
		proto.AuthEvents = nil
		for tuple, e := range p.state(name) {
			switch {
			case tuple.Type == event.TypeCreate && v.RoomIDIsCreateEventID:
			case tuple.Type == event.TypeCreate, tuple.Type == event.TypePowerLevels, tuple.Type == event.TypeJoinRules, tuple == event.StateTuple{Type: event.TypeMember, Key: p.alice.User}:
				proto.AuthEvents = append(proto.AuthEvents, event.Ref{ID: e})
			}
		}
		for i, inserted := range []string{`"x"`, `{}`, `{"signed":{"mxid":"@mallory:localhost"}}`, `null`} {
			if v.EventID == roomversion.EventIDField {
				proto.EventID = id.Event(fmt.Sprintf("$forged%d:%s", i, p.away.Name()))
			}
			forged := strings.Replace(string(p.build(p.away, v, proto).JSON), `"membership":"invite"`, `"membership":"invite","third_party_invite":`+inserted, 1)
			p.mustAsk("PUT", prefix+fmt.Sprintf("send/forged-%s-%d", v.ID, i), transaction(p.away, []byte(forged)))
			members := p.alice.MustDo("GET", "/_matrix/client/v3/rooms/"+escaped(name)+"/members?membership=invite", nil)
			if invited := members["chunk"].([]any); len(invited) > 0 {
				t.Fatalf("version %s, %s: invited is %v", v.ID, inserted, invited)
			}
		}
	}
}

// state is the state of a room, as alice sees it.
func (p *pair) state(name id.Room) map[event.StateTuple]id.Event {
	p.t.Helper()
	var list []struct {
		ID   id.Event `json:"event_id"`
		Type string   `json:"type"`
		Key  string   `json:"state_key"`
	}
	if err := json.Unmarshal(p.here.Raw(p.t.Context(), "GET", "/_matrix/client/v3/rooms/"+escaped(name)+"/state", p.alice.Token, "").Body.Bytes(), &list); err != nil {
		p.t.Fatal(err)
	}
	state := map[event.StateTuple]id.Event{}
	for _, e := range list {
		state[event.StateTuple{Type: e.Type, Key: e.Key}] = e.ID
	}
	return state
}
