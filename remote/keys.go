package remote

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/store"
)

// Keys is the key ring: the keys of this server, and those of others, which are
// fetched when they are needed and kept.
// spec: server-server-api#retrieving-server-keys
type Keys struct {
	client  *Client
	store   *store.Store
	own     keySet
	sets    *otter.Cache[id.Server, keySet]
	limits  *otter.Cache[fetched, *rate.Limiter]
	named   *otter.Cache[id.Server, *rate.Limiter] // by who hands over events
	fetches map[occasion]*places                   // at a time
	queries map[bool]*places                       // of notaries at a time, by whether they are for events

	mu       sync.Mutex
	underWay map[id.Server]*fetching

	strangers strangers
}

// purpose is for whom keys are fetched.
type purpose uint8

const (
	forEvents purpose = iota
	forCaller         // who says that it sent a request: it is tried even if it seems down
	forNotary         // somebody asks this server as a notary
)

// occasion is what fetches of keys have places in common: strangers can name servers
// that take connections and say nothing, which must keep out nobody who is known.
type occasion struct{ known, ours bool }

// fetching is one fetch of a server's keys, for all who want them meanwhile.
type fetching struct {
	done chan struct{}
	err  error
}

// fetched is whose keys are fetched, and from where.
type fetched struct {
	server id.Server
	notary bool
}

// keySet is what is known of a server's keys. It is never changed.
type keySet map[id.Key]verifyKey

const (
	keyTime = 15 * time.Second
	// Whoever sends what is signed badly makes us fetch the keys of whom it
	// names: so often that a server which has new keys is understood at once, and
	// no more often.
	fetchEvery = 10 * time.Second
	fetchBurst = 6
	// Strangers can name servers that do not answer, as many as they like, and so can
	// whoever hands over events. fetchesOfOne are for one list of events.
	maxFetches, maxStrangeFetches, fetchesOfOne = 128, 32, 64
	// Whoever hands over events may name servers without end, to have them connected to: of
	// those that are not known here so many are asked for their keys at once, and then so many
	// each second. Of the largest rooms, with some ten thousand servers, a notary knows most.
	namedAtOnce, namedEach = 3000, 30
	// maxNamed bounds them for one list of events.
	maxNamed = 5000
	// maxQueries bounds what notaries are asked at a time.
	maxQueries = 32
	// maxKeys bounds what is kept of a server that has ever new keys.
	maxKeys = 500
	// keysInMemory bounds the keys of all servers in memory, in bytes.
	keysInMemory = 16 << 20
)

func newKeys(c *Client, s *store.Store) *Keys {
	k := &Keys{
		client: c, store: s,
		own:     keySet{c.options.KeyID: {public: publicOf(c.options.Key), validUntil: math.MaxInt64}},
		sets:    otter.Must(&otter.Options[id.Server, keySet]{MaximumWeight: keysInMemory, Weigher: weight}),
		limits:  otter.Must(&otter.Options[fetched, *rate.Limiter]{MaximumSize: cachedServers}),
		named:   otter.Must(&otter.Options[id.Server, *rate.Limiter]{MaximumSize: cachedServers}),
		queries: map[bool]*places{false: newPlaces(maxQueries), true: newPlaces(maxQueries)},
		fetches: map[occasion]*places{}, underWay: map[id.Server]*fetching{},
	}
	for _, known := range []bool{false, true} {
		k.fetches[occasion{known, true}] = newPlaces(maxFetches)
		k.fetches[occasion{known, false}] = newPlaces(maxStrangeFetches)
	}
	for keyID, further := range c.options.FurtherKeys {
		k.own[keyID] = verifyKey{public: publicOf(further), validUntil: math.MaxInt64}
	}
	for _, old := range c.options.OldKeys {
		k.own[old.ID] = verifyKey{public: old.Public, expired: old.Expired}
	}
	return k
}

// weight is about how many bytes the keys of a server take.
func weight(server id.Server, set keySet) uint32 {
	n := 200 + len(server)
	for keyID := range set {
		n += 120 + len(keyID)
	}
	return uint32(n)
}

func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	if len(key) != ed25519.PrivateKeySize {
		return nil
	}
	return key.Public().(ed25519.PublicKey)
}

// known is what is known of servers' keys without asking anybody.
func (k *Keys) known(ctx context.Context, servers []id.Server, why purpose) (map[id.Server]keySet, error) {
	sets := make(map[id.Server]keySet, len(servers))
	var stored []id.Server
	for _, s := range servers {
		if s == k.client.options.Server {
			sets[s] = k.own
		} else if set, ok := k.sets.GetIfPresent(s); ok {
			sets[s] = set
		} else {
			stored = append(stored, s)
		}
	}
	if err := k.readStored(ctx, stored, sets); err != nil {
		return nil, err
	}
	for s, set := range sets {
		if len(set) > 0 {
			continue
		}
		set, err := k.knownOfStranger(ctx, s, why)
		if err != nil {
			return nil, err
		}
		if set != nil {
			sets[s] = set
		}
	}
	return sets, nil
}

// readStored adds what the store has of servers' keys.
func (k *Keys) readStored(ctx context.Context, stored []id.Server, sets map[id.Server]keySet) error {
	if len(stored) == 0 {
		return nil
	}
	err := k.store.View(ctx, func(tx *store.Tx) error {
		for _, s := range stored {
			set, err := readKeys(tx, s)
			if err != nil {
				return err
			}
			sets[s] = set
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read keys: %w", err)
	}
	for _, s := range stored {
		k.sets.SetIfAbsent(s, sets[s])
	}
	return nil
}

func readKeys(tx *store.Tx, server id.Server) (keySet, error) {
	rows, err := tx.ServerKeys.List(server)
	set := make(keySet, len(rows))
	for _, r := range rows {
		if signing.PrivateKeyIsKnown(r.Public) {
			continue // kept before it was known to be
		}
		set[r.ID] = verifyKey{r.Public, r.ValidUntil, r.Expired}
	}
	return set, err
}

var errFetchedLately = errors.New("the keys have been fetched too often lately")

// refresh fetches the keys of a server from itself. by is who makes that necessary: for events,
// the server that handed them over, else that which the keys are of.
func (k *Keys) refresh(ctx context.Context, server, by id.Server, why purpose) error {
	if !k.client.permits(server) {
		return fmt.Errorf("this server does not federate with %s", server)
	}
	sets, err := k.known(ctx, []id.Server{server}, why)
	if err != nil {
		return err
	}
	f := k.join(server)
	if f == nil {
		if why != forCaller && k.client.leftAlone(server, 0) {
			return &Error{Server: server, Err: ErrDown}
		}
		if k.limit(server, false).Tokens() < 1 {
			return errFetchedLately
		}
		if why == forEvents && len(sets[server]) == 0 {
			if err := k.name(ctx, by, 1); err != nil {
				return err
			}
		}
		places := k.fetches[occasion{known: len(sets[server]) > 0, ours: why == forEvents}]
		waits, cancel := context.WithTimeout(ctx, 2*keyTime)
		defer cancel()
		if err := places.take(waits, by); err != nil {
			return err
		}
		f = k.begin(ctx, server, why, func() { places.give(by) })
	}
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// name counts that a server hands over events of so many others that are not known here, and
// waits where these are too many at once.
func (k *Keys) name(ctx context.Context, by id.Server, servers int) error {
	limiter, _ := k.named.ComputeIfAbsent(by, func() (*rate.Limiter, bool) {
		return rate.NewLimiter(namedEach, namedAtOnce), false
	})
	return limiter.WaitN(ctx, servers)
}

// join is the fetch of a server's keys that is under way.
func (k *Keys) join(server id.Server) *fetching {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.underWay[server]
}

// begin fetches the keys of a server, unless somebody else has begun meanwhile, and calls done
// when it needs its place no more. It is not cut short when nobody waits for it any more, and
// has its own time, however long its place was waited for.
func (k *Keys) begin(ctx context.Context, server id.Server, why purpose, done func()) *fetching {
	k.mu.Lock()
	defer k.mu.Unlock()
	if f := k.underWay[server]; f != nil {
		done()
		return f
	}
	f := &fetching{done: make(chan struct{})}
	k.underWay[server] = f
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*keyTime)
		defer cancel()
		f.err = errFetchedLately
		if k.mayFetch(server, false) {
			f.err = k.fetch(ctx, server, why)
		}
		k.mu.Lock()
		delete(k.underWay, server)
		k.mu.Unlock()
		close(f.done)
		done()
	}()
	return f
}

// mayFetch counts that the keys of a server are fetched, from itself or from a
// notary; false: that was done too often lately.
func (k *Keys) mayFetch(server id.Server, notary bool) bool { return k.limit(server, notary).Allow() }

func (k *Keys) limit(server id.Server, notary bool) *rate.Limiter {
	limiter, _ := k.limits.ComputeIfAbsent(fetched{server, notary}, func() (*rate.Limiter, bool) {
		return rate.NewLimiter(rate.Every(fetchEvery), fetchBurst), false
	})
	return limiter
}

// fetch asks a server for its own keys.
// spec: server-server-api#get_matrixkeyv2server
func (k *Keys) fetch(ctx context.Context, server id.Server, why purpose) error {
	resp, err := k.client.send(ctx, server, &request{
		method: http.MethodGet, path: "/_matrix/key/v2/server", limit: maxKeyDocument, within: keyTime, open: true, insist: why == forCaller,
	})
	if err != nil {
		return err
	}
	defer closeBody(resp)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return &Error{Server: server, Err: err}
	}
	doc, err := parseKeyDocument(body, k.client.now())
	if err != nil {
		return badAnswer(server, err)
	}
	if doc.server != server {
		return badAnswer(server, fmt.Errorf("it published keys of %s", doc.server))
	}
	return k.take(ctx, doc, true, why)
}

// keep saves what a document tells. Keys that the server no longer publishes
// stay, for events that were signed with them. direct: the server itself sent
// it; a notary may know something older, and replaces no key by another, nor makes
// one count again that is out of use.
func (k *Keys) keep(ctx context.Context, doc *keyDocument, direct bool) error {
	var set keySet
	err := k.store.Update(ctx, func(tx *store.Tx) error {
		known, err := readKeys(tx, doc.server)
		if err != nil {
			return err
		}
		set = merge(known, doc, direct)
		for keyID := range known {
			if _, kept := set[keyID]; !kept {
				if err := tx.ServerKeys.Delete(doc.server, keyID); err != nil {
					return err
				}
			}
		}
		for keyID, key := range set {
			err := tx.ServerKeys.Set(doc.server, store.ServerKey{ID: keyID, Public: key.public, ValidUntil: key.validUntil, Expired: key.expired})
			if err != nil {
				return err
			}
		}
		if !direct {
			if newer, err := hasNewer(tx, doc); newer || err != nil {
				return err
			}
		}
		return tx.ServerKeys.SetDocument(doc.server, doc.validUntil, doc.json)
	})
	if err != nil {
		return fmt.Errorf("save keys of %s: %w", doc.server, err)
	}
	k.sets.Set(doc.server, set)
	k.strangers.forget(doc.server)
	return nil
}

// hasNewer says whether there is a document already that is valid for longer.
func hasNewer(tx *store.Tx, doc *keyDocument) (bool, error) {
	kept, ok, err := tx.ServerKeys.FindDocument(doc.server)
	if err != nil || !ok {
		return false, err
	}
	var p publishedKeys
	return json.Unmarshal(kept, &p) == nil && p.ValidUntil > doc.validUntil, nil
}

// merge is what is known of a server's keys after one more document. Of too many
// those stay that were valid last.
func merge(known keySet, doc *keyDocument, direct bool) keySet {
	set := maps.Clone(known)
	for keyID, key := range doc.keys {
		old, ok := known[keyID]
		newer := key.public.Equal(old.public) && key.validUntil >= old.validUntil && (old.expired == 0 || key.expired != 0)
		if direct || !ok || newer {
			set[keyID] = key
		}
	}
	if len(set) > maxKeys {
		oldest := slices.SortedFunc(maps.Keys(set), func(a, b id.Key) int { return cmp.Compare(set[a].validUntil, set[b].validUntil) })
		for _, keyID := range oldest[:len(oldest)-maxKeys] {
			delete(set, keyID)
		}
	}
	return set
}
