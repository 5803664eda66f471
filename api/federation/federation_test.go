package federation

import (
	"net/http/httptest"
	"testing"

	"github.com/go-json-experiment/json"

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
