// Package api_test compares the route tables with the list of the operations
// that the specification has (spec-operations.tsv), and writes what is served
// to docs/spec-coverage.md.
package api_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"hearth/api/client"
	"hearth/api/federation"
	"hearth/api/httpx"
	"hearth/api/media"
)

var update = flag.Bool("update", false, "rewrite docs/spec-coverage.md")

// tables are all routes that the program mounts.
func tables() (list []httpx.Route) {
	list = append(list, (&client.API{}).Routes()...)
	list = append(list, (&media.API{}).Routes()...)
	return append(list, (&federation.API{}).Routes()...)
}

// absent says why an operation is not served, by a part of its path.
var absent = []struct{ part, why string }{
	{"/_matrix/federation/", "federation: next"},
	{"/_matrix/app/", "called by us"},
	{"/auth_metadata", "OAuth 2.0: later"},
	{"/sso/", "single sign-on: later"},
	{"/voip/", "calls: later"},
	{"/admin/", "administration: later"},
}

type operation struct {
	api, method, path, name, auth string
	deprecated                    bool
}

func operations(t *testing.T) (list []operation) {
	t.Helper()
	b, err := os.ReadFile("spec-operations.tsv")
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		f := strings.Split(line, "\t")
		if len(f) != 8 {
			t.Fatalf("line %d has %d fields", i+1, len(f))
		}
		if i > 0 {
			list = append(list, operation{f[0], f[1], f[2], f[3], f[6], f[5] == "yes"})
		}
	}
	return list
}

var wildcard = regexp.MustCompile(`\{[^}]*\}`)

// shape is a path without the names of its parts.
func shape(method, path string) string {
	path = strings.TrimSuffix(path, "{$}")
	return method + " " + wildcard.ReplaceAllString(path, "{}")
}

func served() map[string]httpx.Route {
	m := map[string]httpx.Route{}
	for _, rt := range tables() {
		for _, path := range rt.Paths() {
			m[shape(rt.Method, path)] = rt
		}
	}
	return m
}

func TestRoutesFollowTheSpecification(t *testing.T) {
	routes := served()
	names := map[string][]string{} // two operations may share a path
	for _, op := range operations(t) {
		names[shape(op.method, op.path)] = append(names[shape(op.method, op.path)], strings.TrimPrefix(op.name, "prose:"))
	}
	for _, op := range operations(t) {
		rt, ok := routes[shape(op.method, op.path)]
		if !ok {
			continue
		}
		want := names[shape(op.method, op.path)]
		isAlias := shape(op.method, op.path) != shape(rt.Method, rt.Path)
		if !isAlias && !slices.ContainsFunc(want, func(n string) bool { return base(n) == base(rt.Name) }) {
			t.Errorf("%s %s is served by %s; the operation is %s", op.method, op.path, rt.Name, want)
		}
		open := rt.Auth == httpx.None || rt.Auth == httpx.Optional
		if op.auth == "accessToken" && open || op.auth == "none" && !open && op.name != "getCapabilities" {
			t.Errorf("%s %s: access is %s, the specification says %s", op.method, op.path, rt.Auth, op.auth)
		}
		if (op.auth == "signedRequest") != (rt.Auth == httpx.Server) {
			t.Errorf("%s %s: access is %s, the specification says %s", op.method, op.path, rt.Auth, op.auth)
		}
	}
}

// base is a name without what tells twins apart that one function serves.
func base(name string) string {
	return strings.NewReplacer("Authed", "", "OverrideName", "", "WithKey", "").Replace(name)
}

func coverage(t *testing.T) string {
	routes := served()
	var b strings.Builder
	done, total := map[string]int{}, map[string]int{}
	api := ""
	for _, op := range operations(t) {
		if op.api != api {
			api = op.api
			fmt.Fprintf(&b, "\n## %s\n\n| | operation | |\n|---|---|---|\n", api)
		}
		total[api]++
		state, note := " ", ""
		if _, ok := routes[shape(op.method, op.path)]; ok {
			state = "✓"
			done[api]++
		} else {
			for _, a := range absent {
				if strings.Contains(op.path, a.part) {
					note = a.why
					break
				}
			}
		}
		if op.deprecated {
			note = strings.TrimPrefix(note+"; deprecated", "; ")
		}
		fmt.Fprintf(&b, "| %s | `%s %s` | %s |\n", state, op.method, op.path, note)
	}
	head := "# Which endpoints of the specification are served\n\nGenerated from the route tables and api/spec-operations.tsv (Matrix v1.19).\n\n"
	for _, api := range []string{"client-server", "server-server", "application-service"} {
		head += fmt.Sprintf("- %s: %d of %d\n", api, done[api], total[api])
	}
	return head + b.String()
}

func TestCoverageIsCurrent(t *testing.T) {
	const path = "../docs/spec-coverage.md"
	want := coverage(t)
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		t.Errorf("docs/spec-coverage.md is not current (%v): run make generate", err)
	}
}
