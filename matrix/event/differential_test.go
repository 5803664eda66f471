package event_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	gmsl "github.com/matrix-org/gomatrixserverlib"
	gmslspec "github.com/matrix-org/gomatrixserverlib/spec"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

// generator makes events of every type that redaction treats in its own way,
// the same ones in every run.
type generator struct {
	*rand.Rand
	keys   []string
	floats bool // where the room version has them
}

func newGenerator(seed uint64) generator {
	return generator{rand.New(rand.NewPCG(seed, 1)), generatedKeys, true}
}

var generatedTypes = []string{
	event.TypeCreate, event.TypeMember, event.TypePowerLevels, event.TypeJoinRules, event.TypeThirdPartyInvite, event.TypeHistoryVisibility,
	event.TypeAliases, event.TypeRedaction, event.TypeName, "m.room.message", "org.example.\"quoted\"", "ünï\ncode",
}

var generatedKeys = []string{
	"membership", "join_authorised_via_users_server", "creator", "m.federate", "join_rule", "allow", "ban", "events", "events_default", "invite",
	"kick", "notifications", "redact", "state_default", "users", "users_default", "aliases", "history_visibility", "body", "reason",
	"é", "｡", "😀", "a/b", "a b", "<&>", "\u2028", "",
}

// escapedKeys need escapes in JSON.
var escapedKeys = []string{"a\"b", "a\\b", "sp\tace"}

func (g generator) value(depth int, floats bool) []byte {
	switch n := g.IntN(10); {
	case n == 0 && depth > 0:
		b := []byte{'['}
		for i := range g.IntN(4) {
			if i > 0 {
				b = append(b, ',')
			}
			b = append(b, g.value(depth-1, floats)...)
		}
		return append(b, ']')
	case n <= 2 && depth > 0:
		return g.object(depth-1, floats)
	case n == 3:
		return []byte([]string{"true", "false", "null"}[g.IntN(3)])
	case n == 4 && floats:
		return []byte([]string{"1.5", "-0.25", "1e+16", "0.0001", "12345.678"}[g.IntN(5)])
	case n <= 6:
		return fmt.Appendf(nil, "%d", g.Int64N(canonical.MaxInt)*(1-2*int64(g.IntN(2)))>>g.IntN(53))
	}
	return canonical.AppendString(nil, []string{"", "join", "invite", "x", "Grüße 😀", "a\"b\\c/d", "\b\f\n\r\t\x01\x1f\x7f", "<script>&amp;", "\u2028\u2029\ufffd"}[g.IntN(9)])
}

func (g generator) object(depth int, floats bool) []byte {
	var b []byte
	for _, i := range g.Perm(len(g.keys))[:g.IntN(8)] {
		b = event.AppendMember(b, g.keys[i], g.value(depth, floats))
	}
	return slices.Concat([]byte("{"), b, []byte("}"))
}

func (g generator) proto(v *roomversion.Version) event.Proto {
	ref := func() event.Ref {
		r := event.Ref{}
		for i := range r.Hash {
			r.Hash[i] = byte(g.Uint32())
		}
		r.ID = id.Event(fmt.Sprintf("$%x", r.Hash[:16]))
		if v.EventRefsArePairs {
			r.ID += ":other.org"
		}
		return r
	}
	p := event.Proto{
		Room: "!room:example.org", Type: generatedTypes[g.IntN(len(generatedTypes))], Sender: alice,
		Content: g.object(3, g.floats && !v.StrictCanonicalJSON), Depth: g.Int64N(1000), OriginServerTS: g.Int64N(2e12),
	}
	for range g.IntN(4) {
		p.PrevEvents, p.AuthEvents = append(p.PrevEvents, ref()), append(p.AuthEvents, ref())
	}
	if g.IntN(2) == 0 || p.Type == event.TypeCreate {
		p.StateKey = ptr([]string{"", "@bob:other.org", "kéy"}[g.IntN(3)])
	}
	if p.Type == event.TypeRedaction {
		p.Redacts = ref().ID
	}
	if v.EventID == roomversion.EventIDField {
		p.EventID = id.Event(fmt.Sprintf("$%d:example.org", g.Uint64()))
	}
	if v.RoomIDIsCreateEventID {
		p.Room = "!Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"
		if p.Type == event.TypeCreate {
			p.Room, p.StateKey = "", ptr("")
		}
	}
	return p
}

func gmslVersion(t testing.TB, v *roomversion.Version) gmsl.IRoomVersion {
	t.Helper()
	g, err := gmsl.GetRoomVersion(gmsl.RoomVersion(v.ID))
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// What Hearth builds, gomatrixserverlib takes as whole, names, redacts and
// countersigns alike.
func TestGomatrixserverlibAgreesOnOurEvents(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		g, other := newGenerator(uint64(v.Number)), gmslVersion(t, v)
		g.floats = false // see TestGomatrixserverlibDisagrees
		for range 40 {
			p := build(t, v, g.proto(v))
			q, err := other.NewEventFromUntrustedJSON(event.AppendFederation(nil, p, []byte(`"age":1`)))
			if err != nil {
				t.Fatalf("%s: %v", p.JSON, err)
			}
			if q.Redacted() || string(q.JSON()) != string(p.JSON) || q.EventID() != string(p.ID) {
				t.Fatalf("they have %s (redacted: %t) %s\nwe have %s %s", q.EventID(), q.Redacted(), q.JSON(), p.ID, p.JSON)
			}
			if room := q.RoomID(); room.String() != string(p.Room) {
				t.Fatalf("they have room %s, we have %s", room.String(), p.Room)
			}
			signed, err := p.AddSignature("other.org", "ed25519:2", private)
			if err != nil {
				t.Fatal(err)
			}
			q = q.Sign("other.org", "ed25519:2", private)
			if string(q.JSON()) != string(signed.JSON) {
				t.Fatalf("they sign %s\nwe sign %s", q.JSON(), signed.JSON)
			}
			r, err := signed.Redacted()
			if err != nil {
				t.Fatal(err)
			}
			if q.Redact(); string(q.JSON()) != string(r.JSON) || q.EventID() != string(r.ID) {
				t.Fatalf("they redact to %s %s\nwe redact to %s %s", q.EventID(), q.JSON(), r.ID, r.JSON)
			}
		}
	})
}

// What gomatrixserverlib builds, Hearth takes as whole and names alike.
func TestGomatrixserverlibAgreesOnItsEvents(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		g, other := newGenerator(100+uint64(v.Number)), gmslVersion(t, v)
		g.floats = false
		for range 15 {
			proto := g.proto(v)
			ids := func(refs []event.Ref) []string {
				s := []string{}
				for _, r := range refs {
					s = append(s, string(r.ID))
				}
				return s
			}
			eb := other.NewEventBuilderFromProtoEvent(&gmsl.ProtoEvent{
				SenderID: string(proto.Sender), RoomID: string(proto.Room), Type: proto.Type, StateKey: proto.StateKey, Depth: proto.Depth,
				Content: gmslspec.RawJSON(proto.Content), Redacts: string(proto.Redacts),
				PrevEvents: ids(proto.PrevEvents), AuthEvents: ids(proto.AuthEvents),
			})
			q, err := eb.Build(time.UnixMilli(proto.OriginServerTS), gmslspec.ServerName(server), gmsl.KeyID(keyID), private)
			if err != nil {
				t.Fatal(err)
			}
			p, err := event.Parse(v, q.JSON())
			if err != nil {
				t.Fatalf("%s: %v", q.JSON(), err)
			}
			if string(p.ID) != q.EventID() || !p.CheckContentHash() {
				t.Fatalf("we have %s (whole: %t), they have %s", p.ID, p.CheckContentHash(), q.EventID())
			}
			if err := p.VerifySignature(server, keyID, public); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Where gomatrixserverlib differs, and the words of the specification that
// Hearth follows.
func TestGomatrixserverlibDisagrees(t *testing.T) {
	for _, tt := range []struct {
		name, version string
		members       map[string]string
	}{
		// rooms/v11#redactions: m.room.member "Additionally, it allows the signed
		// key of the third_party_invite key". It drops the whole key, and so
		// computes another event id.
		{"third_party_invite.signed", "11", map[string]string{"type": `"m.room.member"`, "content": `{"membership":"invite","third_party_invite":{"signed":{}}}`}},
		// appendices#canonical-json, of versions 1 to 5: "integers might not be in
		// the range specified above", "Servers SHOULD be capable of handling JSON
		// which is considered invalid". It reads them as float64 when redacting.
		{"large integers that redaction keeps", "5", map[string]string{"type": `"m.room.power_levels"`, "content": `{"ban":9007199254740993}`}},
		// server-server-api#calculating-the-reference-hash-for-an-event, rooms/v11#redactions:
		// event_id is among the keys that stay. It removes event_id first.
		{"event_id where it has no meaning", "11", map[string]string{"event_id": `"$x"`}},
	} {
		v := version(t, tt.version)
		p, err := event.Parse(v, raw(v, tt.members))
		if err != nil {
			t.Fatal(err)
		}
		q, err := gmslVersion(t, v).NewEventFromUntrustedJSON(raw(v, tt.members))
		if err != nil {
			t.Fatal(err)
		}
		if q.EventID() == string(p.ID) {
			t.Errorf("%s: no disagreement any more", tt.name)
		}
	}
	// appendices#examples: {"a": -0} becomes {"a":0}. It refuses -0 as input,
	// while Synapse and the example take it for 0.
	v := version(t, "12")
	members := map[string]string{"content": `{"a":-0}`, "room_id": `"!Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"`}
	if p, err := event.Parse(v, raw(v, members)); err != nil || string(p.Content) != `{"a":0}` {
		t.Errorf("-0: %v", err)
	}
	if _, err := gmslVersion(t, v).NewEventFromUntrustedJSON(raw(v, members)); err == nil {
		t.Error("-0: no disagreement any more")
	}
	// appendices#grammar: a backslash in a key is escaped. It writes such keys
	// without escapes, which is not even JSON.
	if out, err := gmsl.CanonicalJSON([]byte(`{"a\\b":"\\"}`)); err != nil || string(out) != `{"a\b":"\\"}` {
		t.Errorf("escaped keys: no disagreement any more: %s, %v", out, err)
	}
	// rooms/v1#canonical-json: events may have floats. It takes -0.25 for 0.25,
	// because it drops the sign of what begins with -0.
	if out, err := gmsl.CanonicalJSON([]byte(`[-0.25]`)); err != nil || string(out) != `[0.25]` {
		t.Errorf("-0.25: no disagreement any more: %s, %v", out, err)
	}
	// server-server-api#calculating-the-content-hash-for-an-event removes
	// "unsigned, signatures, and hashes properties", no others. It also removes
	// age_ts, outlier and destinations, so it finds the hash of this event wrong.
	signed := build(t, v, event.Proto{Room: id.Room(strings.Trim(members["room_id"], `"`)), Type: "x", Sender: alice, Content: jsontext.Value(`{"a":1}`)})
	withKey := replace(t, signed.JSON, `"depth":`, `"age_ts":1,"depth":`)
	p, err := event.Parse(v, withKey)
	if err != nil || p.CheckContentHash() {
		t.Errorf("age_ts is not covered by the content hash (%v)", err)
	}
	if q, err := gmslVersion(t, v).NewEventFromUntrustedJSON(withKey); err != nil || q.Redacted() {
		t.Errorf("age_ts: no disagreement any more (%v)", err)
	}
}

// Canonical JSON alone, of input in any order and spelling.
func TestGomatrixserverlibAgreesOnCanonicalJSON(t *testing.T) {
	g := newGenerator(7)
	for range 150 {
		in := g.object(4, false)
		ours, err := canonical.Append(nil, in, canonical.Options{Strict: true})
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := gmsl.CanonicalJSON(in)
		if err != nil || string(ours) != string(theirs) {
			t.Fatalf("%s\nours   %s\ntheirs %s (%v)", in, ours, theirs, err)
		}
		signed, err := gmsl.SignJSON("other.org", gmsl.KeyID(keyID), private, in)
		if err != nil {
			t.Fatal(err)
		}
		checkSigned(t, in, signed)
	}
}

// checkSigned compares their signed form of in with ours.
func checkSigned(t testing.TB, in, theirs []byte) {
	t.Helper()
	ours, err := signing.Sign(in, "other.org", keyID, private)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.Verify(theirs, "other.org", keyID, public); err != nil {
		t.Fatalf("%s: %v", theirs, err)
	}
	if theirs, err := canonical.Append(nil, theirs, canonical.Options{}); err != nil || string(theirs) != string(ours) {
		t.Fatalf("ours   %s\ntheirs %s (%v)", ours, theirs, err)
	}
}
