package event

import (
	"crypto/ed25519"
	"encoding/base64"
	"testing"

	"hearth/matrix/canonical"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

func vectorKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	seed, err := base64.RawStdEncoding.DecodeString("YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1")
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(seed)
}

// The events of the vectors lack keys that every real event has, so they go
// through the hash and the signature alone.
// spec: appendices#event-signing
func TestSpecEventSigning(t *testing.T) {
	for _, tt := range []struct{ name, event, hash, signature string }{
		{"minimal",
			`{"room_id":"!x:domain","sender":"@a:domain","origin":"domain","origin_server_ts":1000000,"signatures":{},"hashes":{},
			"type":"X","content":{},"prev_events":[],"auth_events":[],"depth":3,"unsigned":{"age_ts":1000000}}`,
			"5jM4wQpv6lnBo7CLIghJuHdW+s2CMBJPUOGOC89ncos",
			"KxwGjPSDEtvnFgU00fwFz+l6d2pJM6XBIaMEn81SXPTRl16AqLAYqfIReFGZlHi5KLjAWbOoMszkwsQma+lYAg"},
		{"redactable content",
			`{"content":{"body":"Here is the message content"},"event_id":"$0:domain","origin":"domain","origin_server_ts":1000000,
			"type":"m.room.message","room_id":"!r:domain","sender":"@u:domain","signatures":{},"unsigned":{"age_ts":1000000}}`,
			"onLKD1bGljeBWQhWZ1kaP9SorVmRQNdN5aM2JYU2n/g",
			"Wm+VzmOUOz08Ds+0NTWb1d4CZrVsJSikkeRxh6aCcUwu6pNC78FunoD7KNWzqFn241eYHYMGCA5McEiVPdhzBA"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			js, err := canonical.Append(nil, []byte(tt.event), canonical.Options{Drop: []string{"unsigned", "hashes"}})
			if err != nil {
				t.Fatal(err)
			}
			hash := contentHash(js)
			if got := signing.EncodeBase64(hash[:]); got != tt.hash {
				t.Errorf("content hash %s, want %s", got, tt.hash)
			}
			js = appendMember(js[:len(js)-1], []byte("hashes"), []byte(`{"sha256":"`+tt.hash+`"}`))
			js, err = canonical.Append(nil, append(js, '}'), canonical.Options{})
			if err != nil {
				t.Fatal(err)
			}
			v, _ := roomversion.Get("1")
			p := PDU{Version: v, Type: "X", JSON: js}
			if got := signing.EncodeBase64(ed25519.Sign(vectorKey(t), p.appendSigned(nil))); got != tt.signature {
				t.Errorf("signature %s, want %s", got, tt.signature)
			}
		})
	}
}
