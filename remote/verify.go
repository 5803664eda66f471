package remote

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

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
// error of each is nil if it is good. by is who makes them necessary, see refresh.
//
// Servers are asked for their own keys, and notaries for those that are still
// wanted then: of servers that are gone, or do not publish them any more. Where
// many servers are to be asked, notaries come first: that is one request instead
// of one for each.
func (k *Keys) verifyAll(ctx context.Context, by id.Server, checks []check, why purpose) []error {
	errs := make([]error, len(checks))
	todo := make([]int, len(checks))
	for i := range checks {
		todo[i] = i
	}
	todo, err := k.runKnown(ctx, checks, todo, errs, why)
	if err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	todo = slices.DeleteFunc(todo, func(i int) bool {
		return len(checks[i].keys) == 0 || checks[i].server == k.client.options.Server
	})
	if named := serversOf(checks, todo); len(named) > maxNamed {
		beyond := map[id.Server]bool{}
		for _, s := range named[maxNamed:] {
			beyond[s] = true
		}
		todo = slices.DeleteFunc(todo, func(i int) bool { return beyond[checks[i].server] })
	}
	notariesFirst := len(k.client.options.KeyServers) > 0 && len(serversOf(checks, todo)) >= manyServers
	if notariesFirst {
		k.askNotaries(ctx, by, wanted(checks, todo, k.client.now()), why)
		if todo, err = k.runKnown(ctx, checks, todo, errs, why); err != nil {
			return errs
		}
	}
	if len(todo) == 0 {
		return errs
	}
	failures := k.refreshAll(ctx, by, serversOf(checks, todo), why)
	if todo, err = k.runKnown(ctx, checks, todo, errs, why); err != nil {
		return errs
	}
	if !notariesFirst {
		unknown := slices.DeleteFunc(slices.Clone(todo), func(i int) bool {
			failure := failures[checks[i].server]
			// What a server uses now, nobody knows better than it does.
			return !errors.Is(errs[i], errNoKey) || errors.Is(failure, errFetchedLately) || checks[i].current && failure == nil
		})
		if k.askNotaries(ctx, by, wanted(checks, unknown, k.client.now()), why) {
			if todo, err = k.runKnown(ctx, checks, todo, errs, why); err != nil {
				return errs
			}
		}
	}
	for _, i := range todo {
		if failure := failures[checks[i].server]; failure != nil {
			errs[i] = fmt.Errorf("%w (fetching keys: %v)", errs[i], failure)
		}
	}
	return errs
}

// manyServers is from how many servers on notaries are asked first.
const manyServers = 4

// runKnown runs some of the checks with the keys that are known now, and lists those that fail.
func (k *Keys) runKnown(ctx context.Context, checks []check, which []int, errs []error, why purpose) (failed []int, err error) {
	if len(which) == 0 {
		return nil, nil
	}
	sets, err := k.known(ctx, serversOf(checks, which), why)
	if err != nil {
		return nil, err
	}
	runAll(checks, which, sets, errs)
	for _, i := range which {
		if errs[i] != nil {
			failed = append(failed, i)
		}
	}
	return failed, nil
}

// maxWanted bounds the keys of one server that a notary is asked for.
const maxWanted = 20

// wanted is what a notary is asked so that some of the checks succeed: it may have to
// ask the server anew for that.
// spec: rooms/v5#signing-key-validity-period
func wanted(checks []check, which []int, now time.Time) KeyQuery {
	query := KeyQuery{}
	for _, i := range which {
		c := &checks[i]
		keys := query[c.server]
		if keys == nil {
			keys = map[id.Key]KeyCriteria{}
			query[c.server] = keys
		}
		for _, keyID := range c.keys {
			want, there := keys[keyID]
			if !there && len(keys) == maxWanted {
				break
			}
			if c.strict { // nothing is valid for longer than that
				want.MinimumValidUntil = max(want.MinimumValidUntil, min(c.ts, now.Add(maxValidity).UnixMilli()))
			}
			keys[keyID] = want
		}
	}
	return query
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

// refreshAll fetches the keys of servers side by side.
func (k *Keys) refreshAll(ctx context.Context, by id.Server, servers []id.Server, why purpose) map[id.Server]error {
	failures := map[id.Server]error{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(fetchesOfOne)
	for _, s := range servers {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := k.refresh(ctx, s, by, why); err != nil {
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

// VerifyEvents checks the signatures of events. See room.Network.
func (c *Client) VerifyEvents(ctx context.Context, from id.Server, events []*event.PDU) []error {
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
	results := c.Keys.verifyAll(ctx, from, checks, forEvents)
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
	return c.Keys.verifyAll(ctx, server, []check{one}, forEvents)[0]
}
