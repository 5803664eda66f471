package federation

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/remote"
	"hearth/room"
	"hearth/store/storetest"
)

// fuzzed is a server that takes transactions. All events are signed by its own key, as
// far as they are signed: then they reach what is behind the check of signatures.
type fuzzed struct {
	*eduWorld
	key      ed25519.PrivateKey
	versions []*roomversion.Version
}

func newFuzzed(f *testing.F) *fuzzed {
	w := &fuzzed{eduWorld: newEDUWorld(f), key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), versions: roomversion.All()}
	client := remote.New(w.store, remote.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: w.key, Permit: func(id.Server) bool { return false }})
	f.Cleanup(client.Close)
	w.Rooms = room.New(w.store, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: w.key, Network: client,
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	return w
}

// newRoom makes a room, and returns what stands for its parts in the texts of a test.
func (w *fuzzed) newRoom(t *testing.T, version string) (id.Room, *strings.Replacer) {
	name, err := w.Rooms.Create(t.Context(), room.Creation{Creator: eduAlice, Version: version, Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	said, err := w.Rooms.Send(t.Context(), name, room.Proposal{Sender: eduAlice, Type: "m.room.message", Content: jsontext.Value(`{"body":"x","msgtype":"m.text"}`)})
	if err != nil {
		t.Fatal(err)
	}
	parts := []string{"ROOM", string(name), "PREV", string(said)}
	state, err := w.Rooms.ServeState(t.Context(), storetest.Server, name, said)
	if err != nil {
		t.Fatal(err)
	}
	v, _ := roomversion.Get(version)
	err = state.State.Each(t.Context(), func(raw jsontext.Value) error {
		p, err := event.Parse(v, raw)
		if err == nil {
			parts = append(parts, map[string]string{event.TypeCreate: "CREATE", event.TypePowerLevels: "LEVELS", event.TypeJoinRules: "RULES", event.TypeMember: "MEMBER"}[p.Type]+"_ID", string(p.ID))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name, strings.NewReplacer(parts...)
}

// sealed makes an event with valid hash and signature of what a text says.
func (w *fuzzed) sealed(v *roomversion.Version, raw jsontext.Value) jsontext.Value {
	p, err := event.Parse(v, raw)
	if err != nil {
		return raw
	}
	proto := event.Proto{Room: p.Room, Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Content: p.Content, Redacts: p.Redacts, Depth: p.Depth, OriginServerTS: p.OriginServerTS}
	if v.EventID == roomversion.EventIDField {
		proto.EventID = p.ID
	}
	for _, name := range p.PrevEvents {
		proto.PrevEvents = append(proto.PrevEvents, event.Ref{ID: name})
	}
	for _, name := range p.AuthEvents {
		proto.AuthEvents = append(proto.AuthEvents, event.Ref{ID: name})
	}
	built, err := event.Build(v, proto, storetest.Server, "ed25519:1", w.key)
	if err != nil {
		return raw
	}
	return built.JSON
}

// No PDU, however it is made, is more than refused, and the room goes on after it.
func FuzzReceivePDU(f *testing.F) {
	const auth = `"auth_events":["CREATE_ID","LEVELS_ID","MEMBER_ID"],"prev_events":["PREV"],"depth":9,"hashes":{"sha256":"x"},"signatures":{},"room_id":"ROOM","origin_server_ts":1`
	for i, seed := range []string{
		`{"type":"m.room.message","sender":"@alice:localhost","content":{"body":"x"},` + auth + `}`,
		`{"type":"m.room.power_levels","state_key":"","sender":"@alice:localhost","content":{"users":{"@alice:localhost":100},"events":{"m.x":"1"}},` + auth + `}`,
		`{"type":"m.room.member","state_key":"@alice:localhost","sender":"@alice:localhost","content":{"membership":"join","displayname":7},` + auth + `}`,
		`{"type":"m.room.member","state_key":"@bob:localhost","sender":"@alice:localhost","content":{"membership":"invite","third_party_invite":{"signed":{}}},` + auth + `}`,
		`{"type":"m.room.redaction","redacts":"PREV","sender":"@alice:localhost","content":{"redacts":"PREV"},` + auth + `}`,
		`{"type":"m.room.server_acl","state_key":"","sender":"@alice:localhost","content":{"allow":["*"],"deny":[{}]},` + auth + `}`,
		`{"type":"m.room.policy","state_key":"","sender":"@alice:localhost","content":{"via":"localhost","public_keys":{"ed25519":"AA"}},` + auth + `}`,
		`{"type":"m.room.create","state_key":"","sender":"@alice:localhost","content":{"room_version":{}},` + auth + `}`,
		`{"type":"m.room.message","sender":"@alice:localhost","content":{"m.relates_to":{"rel_type":"m.thread","event_id":"PREV","key":[]}},` + auth + `}`,
		`{"type":"m.room.topic","state_key":"","sender":"@alice:localhost","content":{},` + strings.Replace(auth, `"CREATE_ID"`, `"PREV"`, 1) + `}`,
		`{"type":"m.room.topic","state_key":"","sender":"@alice:localhost","content":{},` + strings.Replace(auth, `["PREV"]`, `["MEMBER_ID","$unknown"]`, 1) + `}`,
	} {
		f.Add(uint8(i), true, seed)
		f.Add(uint8(11), false, seed)
		f.Add(uint8(0), true, strings.NewReplacer(`"CREATE_ID"`, `["CREATE_ID",{"sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"}]`, `"LEVELS_ID"`, `["LEVELS_ID",{}]`,
			`"MEMBER_ID"`, `["MEMBER_ID",{"sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"}]`, `["PREV"]`, `[["PREV",{"sha256":"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"}]]`,
			`{"type"`, `{"event_id":"$new:localhost","type"`).Replace(seed))
	}
	w := newFuzzed(f)
	f.Fuzz(func(t *testing.T, version uint8, seal bool, text string) {
		v := w.versions[int(version)%len(w.versions)]
		name, parts := w.newRoom(t, v.ID)
		raw := jsontext.Value(parts.Replace(text))
		if !raw.IsValid() {
			return
		}
		if seal {
			raw = w.sealed(v, raw)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for event, err := range w.Rooms.Receive(ctx, eduOrigin, name, []jsontext.Value{raw, raw}) {
			if refused := (*errcode.Error)(nil); err != nil && (!errors.As(err, &refused) || refused.Status >= 500) {
				t.Errorf("%s is not refused, but fails: %v", event, err)
			}
		}
		// Whoever is still in the room may go on, unless the room's rules have changed.
		_, err := w.Rooms.Send(ctx, name, room.Proposal{Sender: eduAlice, Type: "m.room.message", Content: jsontext.Value(`{"body":"on","msgtype":"m.text"}`)})
		if err != nil && !isRefusal(err) {
			t.Errorf("after it nothing can be said: %v", err)
		}
		if _, _, err := w.Rooms.Head(ctx, name); err != nil {
			t.Error(err)
		}
	})
}

// isRefusal says whether an error is the outcome of rules, and no failure.
func isRefusal(err error) bool {
	refused := (*errcode.Error)(nil)
	return errors.As(err, &refused) && refused.Status != 500 || strings.HasPrefix(err.Error(), "rule ")
}

// No body of a transaction is a failure of this server.
func FuzzTransaction(f *testing.F) {
	for _, seed := range []string{
		`{"origin":"hs1.example","origin_server_ts":1,"pdus":[{"room_id":"!a:localhost"},7,{},[]],"edus":[{"edu_type":"m.typing","content":{}},null]}`,
		`{"pdus":[]}`, `{"pdus":{}}`, `{"edus":[{"edu_type":"m.receipt","content":{"!a:localhost":{"m.read":{"@bob:hs1.example":{"event_ids":["$a"],"data":{"ts":1}}}}}}]}`,
		`{"pdus":[{"room_id":"!a:localhost","type":"m.room.member","state_key":"@alice:localhost","sender":"@bob:hs1.example","content":{"membership":"leave"},"auth_events":["$x"],"prev_events":[],"depth":1,"origin_server_ts":1,"hashes":{"sha256":"x"},"signatures":{}}]}`,
	} {
		f.Add([]byte(seed))
	}
	w := newFuzzed(f)
	n := 0
	f.Fuzz(func(t *testing.T, body []byte) {
		var request sendTransactionRequest
		if json.Unmarshal(body, &request) != nil {
			return // httpx answers that
		}
		n++
		request.Txn = fmt.Sprint(n)
		answer, err := w.sendTransaction(t.Context(), httpx.Caller{Server: eduOrigin}, request)
		if err != nil && !isRefusal(err) {
			t.Error(err)
		}
		for name, result := range answer.PDUs {
			if result.Error == "Internal server error" {
				t.Errorf("%s: %s", name, result.Error)
			}
		}
	})
}
