package remote

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// check is one server's signatures on one thing.
type check struct {
	server id.Server
	keys   []id.Key
	ts     int64 // when it was signed, in milliseconds
	strict bool  // how long keys were published for counts
	// current: keys that the server no longer uses do not count.
	current bool
	verify  func(keyID id.Key, public ed25519.PublicKey) error
}

// errNoKey says that none of the keys of a signature is known to have been valid.
var errNoKey = errors.New("none of the keys is known to have been valid")

// isVerdict says whether err is about a signature, and not about this server.
func isVerdict(err error) bool {
	return errors.Is(err, errNoKey) || errors.Is(err, signing.ErrMissing) || errors.Is(err, signing.ErrInvalid)
}

// run verifies with what is known of the server's keys. Signatures by unknown
// keys and keys that were not valid are skipped; all others must be good.
// spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (c *check) run(set keySet) error {
	if len(c.keys) == 0 {
		return fmt.Errorf("signature of %s: %w", c.server, signing.ErrMissing)
	}
	good := false
	for _, keyID := range c.keys {
		key, ok := set[keyID]
		if !ok || !key.validAt(c.ts, c.strict) || c.current && key.expired != 0 {
			continue
		}
		if err := c.verify(keyID, key.public); err != nil {
			return fmt.Errorf("signature: %w", err)
		}
		good = true
	}
	if !good {
		return fmt.Errorf("signature of %s with %v: %w", c.server, c.keys, errNoKey)
	}
	return nil
}

// verifyAll runs checks with the keys that are known, and those that fail once
// more with keys fetched anew: a server may have made itself other keys. The
// error of each is nil if it is good.
func (k *Keys) verifyAll(ctx context.Context, checks []check, why purpose) []error {
	errs := make([]error, len(checks))
	todo := make([]int, len(checks))
	for i := range checks {
		todo[i] = i
	}
	sets, err := k.known(ctx, serversOf(checks, todo))
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	runAll(checks, todo, sets, errs)
	todo = todo[:0]
	for i, err := range errs {
		if err != nil && len(checks[i].keys) > 0 && checks[i].server != k.client.options.Server {
			todo = append(todo, i)
		}
	}
	if len(todo) == 0 {
		return errs
	}
	failures := k.refreshAll(ctx, serversOf(checks, todo), why)
	if sets, err = k.known(ctx, serversOf(checks, todo)); err != nil {
		return errs
	}
	runAll(checks, todo, sets, errs)
	for _, i := range todo {
		if failure := failures[checks[i].server]; errs[i] != nil && failure != nil {
			errs[i] = fmt.Errorf("%w (fetching keys: %v)", errs[i], failure)
		}
	}
	return errs
}

// serversOf lists whose keys some of the checks need, each once.
func serversOf(checks []check, which []int) (servers []id.Server) {
	seen := map[id.Server]bool{}
	for _, i := range which {
		if s := checks[i].server; !seen[s] {
			seen[s] = true
			servers = append(servers, s)
		}
	}
	return servers
}

// runAll runs some of the checks on all processors.
func runAll(checks []check, which []int, sets map[id.Server]keySet, errs []error) {
	workers := min(runtime.GOMAXPROCS(0), (len(which)+7)/8)
	if workers <= 1 {
		for _, i := range which {
			errs[i] = checks[i].run(sets[checks[i].server])
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for n := next.Add(1) - 1; n < int64(len(which)); n = next.Add(1) - 1 {
				i := which[n]
				errs[i] = checks[i].run(sets[checks[i].server])
			}
		})
	}
	wg.Wait()
}

// refreshAll fetches the keys of servers side by side. Where there are many,
// notaries are asked first: that is one request instead of one for each.
func (k *Keys) refreshAll(ctx context.Context, servers []id.Server, why purpose) map[id.Server]error {
	failures := map[id.Server]error{}
	if len(servers) >= manyServers && len(k.client.options.KeyServers) > 0 {
		before, err := k.known(ctx, servers)
		if err == nil && k.askNotaries(ctx, servers) == nil {
			servers = k.unchanged(ctx, servers, before)
		}
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(maxFetches)
	for _, s := range servers {
		group.Go(func() error {
			if err := k.refresh(ctx, s, why); err != nil {
				mu.Lock()
				failures[s] = err
				mu.Unlock()
			}
			return nil
		})
	}
	_ = group.Wait() // errors are in failures
	return failures
}

// manyServers is from how many servers on notaries are asked first.
const manyServers = 4

// VerifyEvents checks the signatures of events. See room.Network.
func (c *Client) VerifyEvents(ctx context.Context, events []*event.PDU) []error {
	var checks []check
	first := make([]int, len(events)+1) // where each event's checks begin
	for i, p := range events {
		for _, server := range p.SigningServers() {
			checks = append(checks, check{
				server: server, keys: p.SignatureKeys(server), ts: p.OriginServerTS, strict: p.Version.EnforceKeyValidity,
				verify: func(keyID id.Key, public ed25519.PublicKey) error { return p.VerifySignature(server, keyID, public) },
			})
		}
		first[i+1] = len(checks)
	}
	results := c.Keys.verifyAll(ctx, checks, forEvents)
	errs := make([]error, len(events))
	for i := range events {
		errs[i] = errors.Join(results[first[i]:first[i+1]]...)
	}
	return errs
}

// VerifyJSON checks that a server signed a JSON object, with a key that was
// valid at a time in milliseconds.
// spec: appendices#checking-for-a-signature
func (c *Client) VerifyJSON(ctx context.Context, server id.Server, object []byte, ts int64) error {
	whole, err := canonical.Append(nil, object, canonical.Options{})
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	msg, err := signing.Bytes(whole)
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	signatures := canonical.Get(whole, "signatures")
	one := check{
		server: server, keys: signing.KeyIDsIn(canonical.Get(signatures, string(server))), ts: ts, strict: true,
		verify: func(keyID id.Key, public ed25519.PublicKey) error {
			return signing.Check(signatures, server, keyID, public, msg)
		},
	}
	return c.Keys.verifyAll(ctx, []check{one}, forEvents)[0]
}
