// Package js_test runs the tests beside it, which are clients made with
// matrix-js-sdk under Node, against a server of this tree.
package js_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestClients(t *testing.T) {
	if testing.Short() {
		t.Skip("skipped: takes a server and real clients; leave out -short")
	}
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			unavailable(t, tool+" is not installed")
		}
	}
	modules(t)
	// The library leaves timers behind, which would keep node alive.
	cmd := exec.CommandContext(t.Context(), "node", "--test", "--test-concurrency=1", "--test-force-exit")
	cmd.Env = append(os.Environ(), "HEARTH_BINARY="+binary(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("node --test: %v\n%s", err, out)
	}
}

// unavailable skips, or fails where everything must be there.
func unavailable(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("HEARTH_CI") != "" {
		t.Fatal(why)
	}
	t.Skip("skipped: " + why)
}

// modules wants what package-lock.json names. Only CI may download it unasked.
func modules(t *testing.T) {
	t.Helper()
	want, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	const stamp = "node_modules/.hearth-lock.json" // of what was installed
	have, err := os.ReadFile(stamp)
	if err == nil && bytes.Equal(have, want) {
		return
	}
	if os.Getenv("HEARTH_CI") == "" && os.Getenv("HEARTH_NPM") == "" {
		unavailable(t, "test/js/node_modules is not there or not current; HEARTH_NPM=1 lets npm install it")
	}
	if out, err := exec.CommandContext(t.Context(), "npm", "ci", "--no-audit", "--no-fund").CombinedOutput(); err != nil {
		unavailable(t, "npm ci: "+err.Error()+"\n"+string(out))
	}
	if err := os.WriteFile(stamp, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// binary is the program, of HEARTH_BINARY or built now.
func binary(t *testing.T) string {
	t.Helper()
	if path := os.Getenv("HEARTH_BINARY"); path != "" {
		return path
	}
	path := filepath.Join(t.TempDir(), "hearth")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "hearth/cmd/hearth").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}
