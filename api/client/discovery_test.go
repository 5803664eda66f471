package client

import (
	"net/http/httptest"
	"slices"
	"testing"

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

func TestVersionsNameOldAndNew(t *testing.T) {
	var got getVersionsResponse
	if code := get(t, &API{}, "/_matrix/client/versions", &got); code != 200 {
		t.Fatal(code)
	}
	for _, v := range []string{"r0.6.1", "v1.1", "v1.11", "v1.19"} {
		if !slices.Contains(got.Versions, v) {
			t.Errorf("%s is missing", v)
		}
	}
}

func TestWellKnown(t *testing.T) {
	a := &API{Options: Options{BaseURL: "https://matrix.example.org/",
		WellKnown: map[string]jsontext.Value{"org.example.thing": jsontext.Value(`{"a":1}`)}}}
	var doc map[string]map[string]any
	if code := get(t, a, "/.well-known/matrix/client", &doc); code != 200 || doc["m.homeserver"]["base_url"] != "https://matrix.example.org/" || doc["org.example.thing"]["a"] != 1.0 {
		t.Errorf("%d %v", code, doc)
	}
	var errBody map[string]string
	if code := get(t, a, "/.well-known/matrix/support", &errBody); code != 404 || errBody["errcode"] != "M_NOT_FOUND" {
		t.Errorf("%d %v", code, errBody)
	}
	a.Options.Support = Support{Contacts: []Contact{{Email: "root@example.org", Role: "m.role.admin"}}}
	var support Support
	if code := get(t, a, "/.well-known/matrix/support", &support); code != 200 || len(support.Contacts) != 1 {
		t.Errorf("%d %v", code, support)
	}
}
