package signing_test

import (
	"crypto/ed25519"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// What can be signed is JSON afterwards, with a signature that is valid, and those that
// were there before.
func FuzzSign(f *testing.F) {
	for _, seed := range []string{`{}`, `{"a":1,"unsigned":{"b":[1.5,null]}}`, `{"signatures":{"a.example":{"ed25519:1":"x","other:1":7},"b.example":{"ed25519:1":"y"}}}`,
		`{"signatures":[]}`, `{"signatures":{"a.example":7}}`, `{"signatures":{"a.example":{"ed25519:2":"AA"}},"unsigned":7}`, `[]`, `{"a":1e400}`, "{\"\u2028\":\"\\ud800\"}"} {
		f.Add([]byte(seed))
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	public := key.Public().(ed25519.PublicKey)
	f.Fuzz(func(t *testing.T, object []byte) {
		_ = signing.Verify(object, id.Server("a.example"), "ed25519:1", public) // must not panic
		_, _ = signing.DecodeBase64(string(object))
		before := signing.KeyIDs(object, id.Server("a.example"))
		signed, err := signing.Sign(object, id.Server("a.example"), "ed25519:1", key)
		if err != nil {
			return
		}
		if !jsontext.Value(signed).IsValid() {
			t.Fatalf("%s becomes %s", object, signed)
		}
		if err := signing.Verify(signed, id.Server("a.example"), "ed25519:1", public); err != nil {
			t.Fatalf("%s: %v", signed, err)
		}
		after := map[id.Key]bool{}
		for _, k := range signing.KeyIDs(signed, id.Server("a.example")) {
			after[k] = true
		}
		for _, k := range before {
			if !after[k] {
				t.Errorf("%s lost the signature with %s", signed, k)
			}
		}
	})
}
