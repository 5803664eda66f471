//go:build goolm && interop

package mautrix_test

import (
	"crypto/rand"
	"os"
	"strings"
	"testing"
)

// Two running homeservers, see test/interop:
//
//	go test -tags goolm,interop ./test/mautrix -run BetweenServers
func TestEncryptedMessagesGoBetweenServers(t *testing.T) {
	here, there := os.Getenv("HEARTH_INTEROP_A"), os.Getenv("HEARTH_INTEROP_B")
	if here == "" || there == "" {
		t.Skip("skipped: HEARTH_INTEROP_A and HEARTH_INTEROP_B are not set")
	}
	for name, urls := range map[string][2]string{"A to B": {here, there}, "B to A": {there, here}} {
		t.Run(name, func(t *testing.T) {
			alice, bob := registerNew(t, urls[0], "alice"), registerNew(t, urls[1], "bob")
			room := encryptedRoom(alice, bob)
			alice.send(room, "hello bob")
			bob.reads("hello bob")
			bob.send(room, "hello alice")
			alice.reads("hello alice")
		})
	}
}

// registerNew makes an account of a name that nobody else has.
func registerNew(t *testing.T, url, name string) *device {
	t.Helper()
	return register(t, url, name+"-"+strings.ToLower(rand.Text()[:8]))
}
