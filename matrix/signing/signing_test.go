package signing_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"testing"

	"hearth/matrix/id"
	"hearth/matrix/signing"
)

func key(t testing.TB, seed string) ed25519.PrivateKey {
	t.Helper()
	b, err := base64.RawStdEncoding.DecodeString(seed)
	if err != nil {
		t.Fatal(err)
	}
	return ed25519.NewKeyFromSeed(b)
}

const seed = "YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1"

// spec: appendices#json-signing
func TestSpecVectors(t *testing.T) {
	k := key(t, seed)
	for _, tt := range []struct{ in, want string }{
		{`{}`, `{"signatures":{"domain":{"ed25519:1":"K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ"}}}`},
		{`{"one": 1, "two": "Two"}`, `{"one":1,"signatures":{"domain":{"ed25519:1":"KqmLSbO39/Bzb0QIYE82zqLwsA+PDzYIpIRA2sRQ4sL53+sN6/fpNSoqE7BP7vBZhG6kYdD13EIMJpvhJI+6Bw"}},"two":"Two"}`},
	} {
		got, err := signing.Sign([]byte(tt.in), "domain", "ed25519:1", k)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: %v\n got %s\nwant %s", tt.in, err, got, tt.want)
		}
		if err := signing.Verify(got, "domain", "ed25519:1", k.Public().(ed25519.PublicKey)); err != nil {
			t.Error(err)
		}
	}
}

func TestSignKeepsOtherSignaturesAndUnsigned(t *testing.T) {
	k := key(t, seed)
	in := `{"a":1.5,"signatures":{"z.org":{"ed25519:z":"c2ln"},"domain":{"ed25519:0":"c2ln"}},"unsigned":{"age":3}}`
	got, err := signing.Sign([]byte(in), "domain", "ed25519:1", k)
	if err != nil {
		t.Fatal(err)
	}
	if err := signing.Verify(got, "domain", "ed25519:1", k.Public().(ed25519.PublicKey)); err != nil {
		t.Error(err)
	}
	if ids := signing.KeyIDs(got, "domain"); len(ids) != 2 || ids[0] != "ed25519:0" || ids[1] != "ed25519:1" {
		t.Errorf("domain has signed with %v", ids)
	}
	if ids := signing.KeyIDs(got, "z.org"); len(ids) != 1 {
		t.Errorf("z.org has signed with %v", ids)
	}
	again, err := signing.Sign(got, "domain", "ed25519:1", k)
	if err != nil || string(again) != string(got) {
		t.Errorf("signing twice: %v\n%s\n%s", err, got, again)
	}
}

func TestVerify(t *testing.T) {
	k := key(t, seed)
	pub := k.Public().(ed25519.PublicKey)
	const user = `@alice"\:example.org`
	good, err := signing.Sign([]byte(`{"a":1}`), user, "ed25519:DEV", k)
	if err != nil {
		t.Fatal(err)
	}
	const sig = "K8280/U9SSy9IVtjBuVeLr+HpOB4BQFWbg+UZaADMtTdGYI7Geitb76LTrr5QV/7Xg4ahLwYGYZzuHGZKM5ZAQ" // of {}
	for _, tt := range []struct {
		name, object, entity string
		key                  id.Key
		pub                  ed25519.PublicKey
		want                 error
	}{
		{"good", string(good), user, "ed25519:DEV", pub, nil},
		{"padded", `{"signatures":{"d":{"ed25519:1":"` + sig + `=="}}}`, "d", "ed25519:1", pub, nil},
		{"unsigned is not covered", `{"unsigned":{"x":1},"signatures":{"d":{"ed25519:1":"` + sig + `"}}}`, "d", "ed25519:1", pub, nil},
		{"changed", `{"x":1,"signatures":{"d":{"ed25519:1":"` + sig + `"}}}`, "d", "ed25519:1", pub, signing.ErrInvalid},
		{"other entity", string(good), "@bob:example.org", "ed25519:DEV", pub, signing.ErrMissing},
		{"other key id", string(good), user, "ed25519:OTHER", pub, signing.ErrMissing},
		{"other key", string(good), user, "ed25519:DEV", key(t, "ZJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1").Public().(ed25519.PublicKey), signing.ErrInvalid},
		{"key of wrong length", string(good), user, "ed25519:DEV", pub[:31], signing.ErrInvalid},
		{"no signatures", `{}`, "d", "ed25519:1", pub, signing.ErrMissing},
		{"signatures are no object", `{"signatures":[]}`, "d", "ed25519:1", pub, signing.ErrMissing},
		{"signature is no string", `{"signatures":{"d":{"ed25519:1":1}}}`, "d", "ed25519:1", pub, signing.ErrMissing},
		{"signature is no base64", `{"signatures":{"d":{"ed25519:1":"!"}}}`, "d", "ed25519:1", pub, signing.ErrInvalid},
		{"unknown algorithm", `{"signatures":{"d":{"rsa:1":"` + sig + `"}}}`, "d", "rsa:1", pub, signing.ErrInvalid},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := signing.Verify([]byte(tt.object), tt.entity, tt.key, tt.pub); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	for _, in := range []string{``, `[]`, `"x"`, `{"a":1,"a":1}`} {
		if err := signing.Verify([]byte(in), "d", "ed25519:1", pub); err == nil {
			t.Errorf("%q verifies", in)
		}
		if _, err := signing.Sign([]byte(in), "d", "ed25519:1", k); err == nil {
			t.Errorf("%q was signed", in)
		}
	}
}

func TestDecodeBase64(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""}, {"Zg", "f"}, {"Zg==", "f"}, {"Zm8", "fo"}, {"Zm8=", "fo"}, {"Zm9vYmFy", "foobar"}, {"--__", "\xfb\xef\xff"}, {"++//", "\xfb\xef\xff"},
	} {
		if got, err := signing.DecodeBase64(tt.in); err != nil || string(got) != tt.want {
			t.Errorf("%q: got %q, %v", tt.in, got, err)
		}
	}
	for _, in := range []string{"Z", "+_", "a b"} {
		if got, err := signing.DecodeBase64(in); err == nil {
			t.Errorf("%q decodes to %q", in, got)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	k := key(b, seed)
	object, _ := signing.Sign([]byte(`{"user_id":"@alice:example.org","device_id":"JLAFKJWSCS","algorithms":["m.olm.v1.curve25519-aes-sha2","m.megolm.v1.aes-sha2"],"keys":{"curve25519:JLAFKJWSCS":"3C5BFWi2Y8MaVvjM8M22DBmh24PmgR0nPvJOIArzgyI","ed25519:JLAFKJWSCS":"lEuiRJBit0IG6nUf5pUzWTUEsRVVe/HJkoKuEww9ULI"}}`), "@alice:example.org", "ed25519:JLAFKJWSCS", k)
	b.ReportAllocs()
	for b.Loop() {
		if err := signing.Verify(object, "@alice:example.org", "ed25519:JLAFKJWSCS", k.Public().(ed25519.PublicKey)); err != nil {
			b.Fatal(err)
		}
	}
}
