package remote

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/store/storetest"
)

// A policy server that does not answer costs little time, and it is noticed soon that
// it does again: nothing can be said in its rooms meanwhile.
func TestAPolicyServerThatIsSlowIsBoundedInTime(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pdu := eventBy(t, "11", "a.example", "ed25519:1", key, 1)
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int64
		c := New(storetest.Open(t, nil), Options{Server: "a.example", KeyID: "ed25519:1", Key: key,
			Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				dials.Add(1)
				<-ctx.Done()
				return nil, ctx.Err()
			}})
		defer c.Close()
		ask := func(when string, within time.Duration, asked bool) {
			t.Helper()
			start, before := time.Now(), dials.Load()
			_, err := c.SignByPolicyServer(t.Context(), "b.example:8448", pdu)
			if took := time.Since(start); !Unreachable(err) || took > within || errors.Is(err, ErrDown) == asked || dials.Load() > before != asked {
				t.Errorf("%s: %v after %v", when, err, took)
			}
		}
		for range 8 {
			ask("first", 11*time.Second, true)
			ask("at once", 0, false)
			time.Sleep(policyPause + time.Second)
		}
		ask("in the end", 11*time.Second, true)
	})
}
