package federation

import (
	"crypto/ed25519"
	"encoding/base64"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
)

func get(t *testing.T, a *API, path string, into any) int {
	t.Helper()
	var rr httpx.Router
	rr.Mount(a.Routes()...)
	w := httptest.NewRecorder()
	rr.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
		t.Fatalf("%s: %v in %s", path, err, w.Body)
	}
	return w.Code
}

// spec: server-server-api#publishing-keys
func TestServerKeysAreSignedByThemselves(t *testing.T) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	a := &API{ServerName: "example.org", KeyID: "ed25519:a_1", Key: private}
	var doc map[string]jsontext.Value
	if code := get(t, a, "/_matrix/key/v2/server", &doc); code != 200 {
		t.Fatal(code)
	}
	var signatures map[string]map[string]string
	var keys map[string]map[string]string
	var until int64
	for key, into := range map[string]any{"signatures": &signatures, "verify_keys": &keys, "valid_until_ts": &until} {
		if err := json.Unmarshal(doc[key], into); err != nil {
			t.Fatal(key, err)
		}
	}
	if keys["ed25519:a_1"]["key"] != base64.RawStdEncoding.EncodeToString(public) {
		t.Errorf("keys %v", keys)
	}
	if until <= time.Now().UnixMilli() {
		t.Errorf("valid until %d", until)
	}
	delete(doc, "signatures")
	signed, err := canonicalJSON(doc)
	if err != nil {
		t.Fatal(err)
	}
	sig, err := base64.RawStdEncoding.DecodeString(signatures["example.org"]["ed25519:a_1"])
	if err != nil || !ed25519.Verify(public, signed, sig) {
		t.Errorf("the signature is wrong: %v", err)
	}
}

func TestDelegation(t *testing.T) {
	for _, test := range []struct{ base, want string }{
		{"https://matrix.example.org/", "matrix.example.org:443"},
		{"https://matrix.example.org:8443/", "matrix.example.org:8443"},
		{"https://[2001:db8::1]/", "[2001:db8::1]:443"},
		{"http://localhost:8008/", ""},
		{"", ""},
	} {
		var doc map[string]string
		code := get(t, &API{Delegate: test.base}, "/.well-known/matrix/server", &doc)
		if doc["m.server"] != test.want || (code == 200) != (test.want != "") {
			t.Errorf("%s: %d %v", test.base, code, doc)
		}
	}
}

func TestVersion(t *testing.T) {
	var doc map[string]map[string]string
	if code := get(t, &API{Version: "0.1.0"}, "/_matrix/federation/v1/version", &doc); code != 200 || doc["server"]["name"] != "Hearth" || doc["server"]["version"] != "0.1.0" {
		t.Errorf("%d %v", code, doc)
	}
}
