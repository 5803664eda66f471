package event_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

const (
	alice  = id.User("@alice:example.org")
	bob    = id.User("@bob:other.org")
	server = id.Server("example.org")
	keyID  = id.Key("ed25519:a_1")
)

var (
	private = ed25519.NewKeyFromSeed([]byte(strings.Repeat("s", 32)))
	public  = private.Public().(ed25519.PublicKey)
)

type roomVersion = roomversion.Version

func version(t testing.TB, name string) *roomversion.Version {
	t.Helper()
	v, ok := roomversion.Get(name)
	if !ok {
		t.Fatalf("no room version %s", name)
	}
	return v
}

func ptr[T any](v T) *T { return &v }

// message is a message that is right for any version.
func message(v *roomversion.Version, content string) event.Proto {
	p := event.Proto{
		Room: "!room:example.org", Type: "m.room.message", Sender: alice, Content: jsontext.Value(content), Depth: 7, OriginServerTS: 1700000000000,
		PrevEvents: []event.Ref{{ID: "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", Hash: [32]byte{1}}},
		AuthEvents: []event.Ref{{ID: "$aqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", Hash: [32]byte{2}}, {ID: "$b"}},
	}
	if v.EventID == roomversion.EventIDField {
		p.EventID = "$opaque:example.org"
	}
	return p
}

func build(t testing.TB, v *roomversion.Version, p event.Proto) *event.PDU {
	t.Helper()
	pdu, err := event.Build(v, p, server, keyID, private)
	if err != nil {
		t.Fatalf("version %s: %v", v.ID, err)
	}
	return pdu
}

// each runs a test in every room version.
func each(t *testing.T, f func(t *testing.T, v *roomversion.Version)) {
	for _, v := range roomversion.All() {
		t.Run("v"+v.ID, func(t *testing.T) { f(t, v) })
	}
}

func TestBuiltEventsParse(t *testing.T) {
	each(t, func(t *testing.T, v *roomversion.Version) {
		proto := message(v, `{"z":{"y":1,"b":[true,null]},"body":"h\u00e9\/\n"}`)
		proto.Type, proto.StateKey = `x."quoted"`, ptr("käy\n")
		p := build(t, v, proto)
		again, err := event.Parse(v, event.AppendFederation(nil, p, []byte(`"age":12`)))
		if err != nil {
			t.Fatal(err)
		}
		if string(again.JSON) != string(p.JSON) || again.ID != p.ID {
			t.Errorf("it came back as %s %s, was %s %s", again.ID, again.JSON, p.ID, p.JSON)
		}
		trusted, err := event.ParseTrusted(v, p.ID, p.JSON)
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []*event.PDU{p, again, trusted} {
			if q.Type != proto.Type || *q.StateKey != *proto.StateKey || q.Sender != alice || q.Room != proto.Room || q.ID != p.ID ||
				q.Depth != 7 || q.OriginServerTS != 1700000000000 || len(q.PrevEvents) != 1 || len(q.AuthEvents) != 2 ||
				q.AuthEvents[1] != "$b" || string(q.Content) != `{"body":"hé/\n","z":{"b":[true,null],"y":1}}` {
				t.Errorf("wrong header: %+v", q)
			}
			if !q.CheckContentHash() {
				t.Error("the content hash is wrong")
			}
			if err := q.VerifySignature(server, keyID, public); err != nil {
				t.Error(err)
			}
		}
		if hashed := p.ID.Server() == ""; hashed && len(p.ID) != 44 {
			t.Errorf("event id %s", p.ID)
		}
	})
}

func TestRedactedKeepsIDAndSignature(t *testing.T) {
	each(t, func(t *testing.T, v *roomversion.Version) {
		p := build(t, v, message(v, `{"body":"secret"}`))
		r, err := p.Redacted()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(r.JSON), "secret") || r.CheckContentHash() {
			t.Errorf("the content is still there: %s", r.JSON)
		}
		if err := r.VerifySignature(server, keyID, public); err != nil {
			t.Error(err)
		}
		again, err := event.Parse(v, r.JSON)
		if err != nil || again.ID != p.ID || r.ID != p.ID {
			t.Errorf("its id is %s and %s, was %s (%v)", r.ID, again.ID, p.ID, err)
		}
	})
}

func TestVerifySignature(t *testing.T) {
	each(t, func(t *testing.T, v *roomversion.Version) {
		p := build(t, v, message(v, `{}`))
		bad, err := event.Parse(v, []byte(strings.Replace(string(p.JSON), `"depth":7`, `"depth":8`, 1)))
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range []struct {
			p      *event.PDU
			server id.Server
			key    id.Key
			want   error
		}{
			{p, server, keyID, nil},
			{p, "other.org", keyID, signing.ErrMissing},
			{p, server, "ed25519:b", signing.ErrMissing},
			{bad, server, keyID, signing.ErrInvalid},
		} {
			if err := tt.p.VerifySignature(tt.server, tt.key, public); !errors.Is(err, tt.want) {
				t.Errorf("%s %s: got %v, want %v", tt.server, tt.key, err, tt.want)
			}
		}
	})
}

// code is the Matrix error code of err.
func code(err error) string {
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return e.Code
	}
	return fmt.Sprintf("%v", err)
}
