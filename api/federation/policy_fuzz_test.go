package federation

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/room"
	"hearth/store/storetest"
)

// Whatever a policy server is shown, it answers, and signs nothing in which it could not
// look for what it does not want.
func FuzzPolicySign(f *testing.F) {
	const rest = `"sender":"@bob:hs1.example","room_id":"ROOM","auth_events":[],"prev_events":[],"depth":9,"hashes":{"sha256":"x"},"signatures":{},"origin_server_ts":1}`
	for _, seed := range []string{
		`{"type":"m.room.message","content":{"body":"x"},` + rest, `{"type":"m.room.message","content":{"body":"spam"},` + rest,
		`{"type":"m.room.message","content":{"body":7,"m.new_content":[],"m.mentions":{"user_ids":{}}},` + rest,
		`{"type":"m.room.message","content":{"m.new_content":{"formatted_body":"spam"},"m.mentions":[]},` + rest,
		`{"type":"m.room.member","state_key":"@bob:hs1.example","content":{"membership":"leave"},` + rest,
		`{"type":"m.room.policy","state_key":"","content":{},` + rest, `{"room_id":"ROOM"}`, `{"room_id":7}`, `[]`, `null`,
	} {
		f.Add(true, seed)
		f.Add(false, seed)
	}
	w := newFuzzed(f)
	w.Rooms = room.New(w.store, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: w.key,
		PolicyServer: &room.PolicyServer{Key: w.key, DenyText: []*regexp.Regexp{regexp.MustCompile("spam")}, MaxMentions: 1},
		Profile:      func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	name, err := w.Rooms.Create(f.Context(), room.Creation{Creator: eduAlice, Version: "11", Preset: "public_chat"})
	if err != nil {
		f.Fatal(err)
	}
	key := ""
	_, err = w.Rooms.Send(f.Context(), name, room.Proposal{Sender: eduAlice, Type: event.TypePolicy, StateKey: &key, Content: jsontext.Value(fmt.Sprintf(
		`{"via":%q,"public_keys":{"ed25519":%q}}`, storetest.Server, signing.EncodeBase64(w.key.Public().(ed25519.PublicKey))))})
	if err != nil {
		f.Fatal(err)
	}
	h, _, err := w.Rooms.Head(f.Context(), name)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, seal bool, text string) {
		raw := jsontext.Value(strings.ReplaceAll(text, "ROOM", string(name)))
		if !raw.IsValid() {
			return // httpx answers that
		}
		if seal {
			raw = w.sealed(h.Version, raw)
		}
		answer, err := w.askPolicyServerToSign(t.Context(), httpx.Caller{Server: eduOrigin}, askPolicyServerToSignRequest{Event: raw})
		if err != nil {
			if !isRefusal(err) {
				t.Errorf("%s is not refused, but fails: %v", raw, err)
			}
			return
		}
		p, err := event.Parse(h.Version, raw)
		if err != nil || !p.CheckContentHash() || strings.Contains(p.ContentString("body"), "spam") {
			t.Fatalf("%s is signed", raw)
		}
		sig, err := signing.DecodeBase64(answer[storetest.Server]["ed25519:policy_server"])
		if err == nil {
			p, err = p.WithSignature(storetest.Server, "ed25519:policy_server", sig)
		}
		if err == nil {
			err = p.VerifySignature(storetest.Server, "ed25519:policy_server", w.key.Public().(ed25519.PublicKey))
		}
		if err != nil {
			t.Errorf("%s: %v", raw, err)
		}
	})
}
