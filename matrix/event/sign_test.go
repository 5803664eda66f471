package event_test

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"testing"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// replace replaces the last occurrence of old, so that auth_events and
// prev_events stay as they are.
func replace(t testing.TB, js []byte, old, with string) []byte {
	t.Helper()
	i := bytes.LastIndex(js, []byte(old))
	if i < 0 {
		t.Fatalf("%s has no %s", js, old)
	}
	return slices.Concat(js[:i], []byte(with), js[i+len(old):])
}

// spec: server-server-api#validating-hashes-and-signatures-on-received-events
func TestSigningServers(t *testing.T) {
	const thirdParty = `{"membership":"invite","third_party_invite":{"signed":{}}}`
	restricted := func(membership string) string {
		return `{"membership":"` + membership + `","join_authorised_via_users_server":"@bob:other.org"}`
	}
	for _, tt := range []struct {
		name, versions, typ, content, eventID string
		want                                  []id.Server
	}{
		{"message", "1 2", "m.room.message", `{}`, "$x:example.org", []id.Server{"example.org"}},
		{"message", "3 12", "m.room.message", `{}`, "", []id.Server{"example.org"}},
		{"event id of another server", "1 2", "m.room.message", `{}`, "$x:third.org:8448", []id.Server{"example.org", "third.org:8448"}},
		{"event_id key means nothing", "3 12", "m.room.message", `{}`, "$x:third.org", []id.Server{"example.org"}},
		{"third-party invite", "1", event.TypeMember, thirdParty, "$x:third.org", []id.Server{"third.org"}},
		{"third-party invite", "3 12", event.TypeMember, thirdParty, "", nil},
		{"third_party_invite on a join", "3 12", event.TypeMember, strings.Replace(thirdParty, "invite", "join", 1), "", []id.Server{"example.org"}},
		{"third_party_invite on a message", "12", "m.room.message", thirdParty, "", []id.Server{"example.org"}},
		{"restricted join", "8 9 12", event.TypeMember, restricted("join"), "", []id.Server{"example.org", "other.org"}},
		{"restricted join where there are none", "7", event.TypeMember, restricted("join"), "", []id.Server{"example.org"}},
		{"rule 4.2 is for every membership", "8 12", event.TypeMember, restricted("leave"), "", []id.Server{"example.org", "other.org"}},
		{"authorised by nobody", "8", event.TypeMember, `{"membership":"join","join_authorised_via_users_server":7}`, "", []id.Server{"example.org", ""}},
	} {
		for _, name := range strings.Fields(tt.versions) {
			v := version(t, name)
			members := map[string]string{"type": `"` + tt.typ + `"`, "content": tt.content}
			if tt.eventID != "" {
				members["event_id"] = `"` + tt.eventID + `"`
			}
			p, err := event.Parse(v, raw(v, members))
			if err != nil {
				t.Fatal(err)
			}
			if got := p.SigningServers(); !slices.Equal(got, tt.want) {
				t.Errorf("%s, v%s: %q, want %q", tt.name, name, got, tt.want)
			}
		}
	}
}

func TestAddSignature(t *testing.T) {
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("o", 32)))
	each(t, func(t *testing.T, v *roomVersion) {
		p := build(t, v, message(v, `{"body":"x"}`))
		before := string(p.JSON)
		q, err := p.AddSignature("other.org", "ed25519:1", other)
		if err != nil {
			t.Fatal(err)
		}
		if string(p.JSON) != before {
			t.Error("the original changed")
		}
		if q.ID != p.ID || !q.CheckContentHash() {
			t.Errorf("it became %s: %s", q.ID, q.JSON)
		}
		want := []event.Signature{{Server: server, Key: keyID}, {Server: "other.org", Key: "ed25519:1"}}
		if got := q.Signatures(); !slices.Equal(got, want) {
			t.Errorf("signatures %v, want %v", got, want)
		}
		if err := q.VerifySignature(server, keyID, public); err != nil {
			t.Error(err)
		}
		if err := q.VerifySignature("other.org", "ed25519:1", other.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
		again, err := p.WithSignatureOf(q, "other.org", "ed25519:1")
		if err != nil || string(again.JSON) != string(q.JSON) {
			t.Errorf("taking the signature over: %v\n%s\n%s", err, again.JSON, q.JSON)
		}
		if _, err := p.WithSignatureOf(p, "other.org", "ed25519:1"); err == nil {
			t.Error("a signature that is not there was taken over")
		}
	})
}

func TestSignaturesSkipsWhatIsNone(t *testing.T) {
	v := version(t, "12")
	p, err := event.Parse(v, raw(v, map[string]string{"signatures": `{"a.org":{"ed25519:1":"x","rsa:1":"y","ed25519:2":7},"b.org":[],"c.org":{}}`}))
	if err != nil {
		t.Fatal(err)
	}
	if got := p.Signatures(); !slices.Equal(got, []event.Signature{{Server: "a.org", Key: "ed25519:1"}}) {
		t.Errorf("signatures %v", got)
	}
	if got := p.SignatureKeys("b.org"); got != nil {
		t.Errorf("b.org has %v", got)
	}
}

func BenchmarkReceive(b *testing.B) {
	v, _ := roomversion.Get("12")
	p := build(b, v, benchMessage(v))
	in := event.AppendFederation(nil, p, []byte(`"age":12`))
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(in)))
		for b.Loop() {
			if _, err := event.Parse(v, in); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse+hash+verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p, err := event.Parse(v, in)
			if err != nil {
				b.Fatal(err)
			}
			if err := p.VerifySignature(server, keyID, public); err != nil || !p.CheckContentHash() {
				b.Fatal(err)
			}
		}
	})
	b.Run("trusted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := event.ParseTrusted(v, p.ID, p.JSON); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("build", func(b *testing.B) {
		b.ReportAllocs()
		proto := benchMessage(v)
		for b.Loop() {
			build(b, v, proto)
		}
	})
	b.Run("redact", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := p.Redacted(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkAppendClient(b *testing.B) {
	v, _ := roomversion.Get("12")
	p := build(b, v, benchMessage(v))
	dst := make([]byte, 0, 4096)
	unsigned := event.AppendStringMember(nil, "membership", "join")
	b.ReportAllocs()
	for b.Loop() {
		dst = event.AppendClient(dst[:0], p, event.ClientOptions{OmitRoomID: true, Now: 1700000001000, Unsigned: unsigned})
	}
	b.SetBytes(int64(len(dst)))
}

// benchMessage makes an event of about 1 KB.
func benchMessage(v *roomVersion) event.Proto {
	text := strings.Repeat("Grüße, some more words. ", 8)
	return message(v, fmt.Sprintf(`{"msgtype":"m.text","body":"%s","format":"org.matrix.custom.html","formatted_body":"<b>%s</b>","m.mentions":{}}`, text, text))
}
