package remote

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"hearth/store/storetest"
)

// alone makes a client whose connections are made by a function, to be run under a fake clock.
func alone(t *testing.T, dial func(context.Context) (net.Conn, error)) *Client {
	return aloneWith(t, func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) })
}

// aloneWith is alone for a function that is told the address.
func aloneWith(t *testing.T, dial func(context.Context, string) (net.Conn, error)) *Client {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return New(storetest.Open(t, nil), Options{Server: "a.example", KeyID: "ed25519:1", Key: key,
		Dial:      func(ctx context.Context, _, address string) (net.Conn, error) { return dial(ctx, address) },
		LookupSRV: func(context.Context, string, string, string) (string, []*net.SRV, error) { return "", nil, nil }})
}

// Most who ask have less patience than a request has time: what they wait for is known
// to be silent all the same, else each of them would find out anew.
func TestASilentServerIsLeftAloneThoughNobodyWaitsForLong(t *testing.T) {
	for name, patience := range map[string]time.Duration{"the caller's": 10 * time.Second, "the request's": time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := alone(t, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
				defer c.Close()
				ask := func() (took time.Duration, err error) {
					ctx, cancel := context.WithTimeout(t.Context(), patience)
					defer cancel()
					start := time.Now()
					_, err = c.QueryProfile(ctx, "b.example", "@bob:b.example", "")
					return time.Since(start), err
				}
				var waited time.Duration
				began := time.Now()
				for range 60 { // somebody asks each second
					took, err := ask()
					if err == nil {
						t.Fatal("it answered")
					}
					waited += took
					time.Sleep(time.Second)
				}
				if all := time.Since(began); waited > all/2+time.Second {
					t.Errorf("in %v those who asked waited for %v", all, waited)
				}
				time.Sleep(time.Minute) // what looks for the server ends by itself
			})
		})
	}
}

// Who is not heard out has not shown that a server is silent.
func TestAServerIsNotSilentForThoseWhoDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(t, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
		defer c.Close()
		for range 5 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := c.QueryProfile(ctx, "b.example", "@bob:b.example", ""); errors.Is(err, ErrDown) {
				t.Error(err)
			}
			cancel()
		}
		time.Sleep(time.Minute)
	})
}
