package spec

import (
	"strings"
	"testing"
)

func TestResponsesAreHeldToTheirSchemas(t *testing.T) {
	if !Available() {
		t.Skip("skipped: HEARTH_SPEC_DIR names no specification")
	}
	for _, test := range []struct {
		method, path string
		status       int
		body         string
		wrong        string // part of the complaint; empty: none
	}{
		{"GET", "/_matrix/client/versions", 200, `{"versions":["v1.1"]}`, ""},
		{"GET", "/_matrix/client/versions", 200, `{"versions":"v1.1"}`, "got string, want array"},
		{"GET", "/_matrix/client/versions", 200, `{}`, "missing property 'versions'"},
		{"GET", "/_matrix/client/v3/profile/@alice:localhost/displayname?x=y", 404, `{"errcode":"M_NOT_FOUND","error":"no"}`, ""},
		{"GET", "/_matrix/client/v3/profile/@alice:localhost/displayname", 404, `{"error":"no"}`, "errcode"},
		{"GET", "/_matrix/client/v3/account/whoami", 418, `{}`, "without errcode"},
		{"GET", "/_matrix/client/v3/account/whoami", 200, `{"user_id":"alice"}`, "does not match pattern"},
		{"GET", "/_matrix/client/v3/account/whoami", 200, `nope`, "not JSON"},
		{"GET", "/_matrix/client/v3/account/whoami", 299, `{}`, "no such status"},
		{"GET", "/_matrix/client/unstable/org.example/thing", 200, `nope`, ""},
		{"GET", "/_matrix/federation/v1/version", 200, `{"server":[]}`, "got array, want object"},
	} {
		err := Validate(test.method, test.path, test.status, []byte(test.body))
		if (err == nil) != (test.wrong == "") || err != nil && !strings.Contains(err.Error(), test.wrong) {
			t.Errorf("%s %s %d %s: %v", test.method, test.path, test.status, test.body, err)
		}
	}
}
