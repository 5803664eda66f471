//go:build goexperiment.jsonv2

// mautrix-go's package exists with this experiment only:
// GOEXPERIMENT=jsonv2 go test ./matrix/event

package event_test

import (
	"encoding/base64"
	"encoding/json/v2"
	"testing"
	"time"

	mid "maunium.net/go/mautrix/id"

	"maunium.net/go/mautrix/federation/pdu"

	"hearth/matrix/event"
	"hearth/matrix/roomversion"
)

// mautrixPDU reads an event with mautrix-go.
func mautrixPDU(t testing.TB, v *roomVersion, js []byte) (pdu.AnyPDU, func() any) {
	t.Helper()
	rv := mid.RoomVersion(v.ID)
	if v.EventID == roomversion.EventIDField {
		p := new(pdu.RoomV1PDU)
		if err := json.Unmarshal(js, p); err != nil {
			t.Fatal(err)
		}
		return p, func() any { return p.Redact(rv) }
	}
	p := new(pdu.PDU)
	if err := json.Unmarshal(js, p); err != nil {
		t.Fatal(err)
	}
	return p, func() any { return p.Redact(rv) }
}

func TestMautrixAgreesOnOurEvents(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		g := newGenerator(200 + uint64(v.Number))
		g.keys = append(g.keys, escapedKeys...)
		g.floats = false // see TestMautrixDisagrees
		rv := mid.RoomVersion(v.ID)
		for range 60 {
			proto := g.proto(v)
			if v.Number < 11 {
				proto.Redacts = "" // see TestMautrixDisagrees
			}
			p := build(t, v, proto)
			q, redact := mautrixPDU(t, v, event.AppendFederation(nil, p, []byte(`"age":1`)))
			if got, err := q.GetEventID(rv); err != nil || string(got) != string(p.ID) {
				t.Fatalf("they have %s, we have %s (%v) of %s", got, p.ID, err, p.JSON)
			}
			if got, err := q.GetReferenceHash(rv); err != nil || got != p.ReferenceHash() {
				t.Fatalf("another reference hash of %s (%v)", p.JSON, err)
			}
			if !q.VerifyContentHash() {
				t.Fatalf("they find the content hash of %s wrong", p.JSON)
			}
			getKey := func(string, mid.KeyID, time.Time) (mid.SigningKey, time.Time, error) {
				return mid.SigningKey(base64.RawStdEncoding.EncodeToString(public)), time.UnixMilli(1 << 50), nil
			}
			if err := q.VerifySignature(rv, string(server), getKey); err != nil {
				t.Fatalf("%s: %v", p.JSON, err)
			}
			if err := q.Sign(rv, "other.org", "ed25519:2", private); err != nil {
				t.Fatal(err)
			}
			signed, err := p.AddSignature("other.org", "ed25519:2", private)
			if err != nil {
				t.Fatal(err)
			}
			checkSame(t, v, q, signed)
			r, err := signed.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			checkSame(t, v, redact(), r)
		}
	})
}

// checkSame compares their event, unsigned aside, with ours.
func checkSame(t testing.TB, v *roomVersion, theirs any, ours *event.PDU) {
	t.Helper()
	js, err := json.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	p, err := event.Parse(v, js)
	if err != nil || string(p.JSON) != string(ours.JSON) {
		t.Fatalf("they have %s (%v)\nwe have %s", js, err, ours.JSON)
	}
}

// Where mautrix-go differs, and the words of the specification that Hearth follows.
func TestMautrixDisagrees(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		members       map[string]string
	}{
		// rooms/v1#redactions … rooms/v10#redactions: "the server must strip off any
		// keys not in the following list", which has no redacts. It keeps redacts of
		// m.room.redaction.
		{"redacts at the top level", "10", map[string]string{"type": `"m.room.redaction"`, "redacts": `"$x"`}},
		// rooms/v11#event-format: "The third_party_invite key of m.room.member events
		// is no longer redacted, but will only contain the signed key". It drops
		// the key if it has no signed; Synapse keeps it.
		{"third_party_invite without signed", "11", map[string]string{"type": `"m.room.member"`, "content": `{"membership":"invite","third_party_invite":{}}`}},
	} {
		v := version(t, tt.version)
		p, err := event.Parse(v, raw(v, tt.members))
		if err != nil {
			t.Fatal(err)
		}
		q, _ := mautrixPDU(t, v, raw(v, tt.members))
		if got, err := q.GetEventID(mid.RoomVersion(v.ID)); err != nil || string(got) == string(p.ID) {
			t.Errorf("%s: no disagreement any more: %s, %v", tt.name, got, err)
		}
	}
	// rooms/v1#canonical-json: "Servers MUST NOT strictly enforce the JSON format".
	// It does, so it cannot hash what has floats or large integers.
	v := version(t, "5")
	for _, content := range []string{`{"ban":1.5}`, `{"ban":9007199254740993}`} {
		members := map[string]string{"type": `"m.room.power_levels"`, "content": content}
		q, _ := mautrixPDU(t, v, raw(v, members))
		if got, err := q.GetEventID(mid.RoomVersion(v.ID)); err == nil {
			t.Errorf("%s: no disagreement any more: %s", content, got)
		}
	}
}
