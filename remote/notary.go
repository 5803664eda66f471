package remote

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/store"
)

// KeyQuery is what is asked of a notary: key ids of servers, each with the time
// until which it should at least be valid. No key ids: all keys; so does the
// empty id, which has a time too.
// spec: server-server-api#post_matrixkeyv2query
type KeyQuery map[id.Server]map[id.Key]KeyCriteria

// KeyCriteria belongs to one key.
type KeyCriteria struct {
	MinimumValidUntil int64 `json:"minimum_valid_until_ts,omitzero"` // 0: now
}

type keyAnswer struct {
	Documents []jsontext.Value `json:"server_keys"`
}

const (
	// keysValidFor is how long others may use our keys without asking again.
	keysValidFor = 24 * time.Hour
	// A notary asks at most maxQueried servers for one request, queryWorkers at a time. Who
	// waits for its answer waits for little longer than queryTime.
	queryTime    = 20 * time.Second
	maxQueried   = 100
	queryWorkers = 16
	batchSize    = 100
)

// ServerKeys is the document of this server's keys.
// spec: server-server-api#publishing-keys
func (k *Keys) ServerKeys() (jsontext.Value, error) {
	o := &k.client.options
	doc := publishedKeys{
		Server:        o.Server,
		VerifyKeys:    map[id.Key]publishedKey{o.KeyID: {Key: signing.EncodeBase64(publicOf(o.Key))}},
		OldVerifyKeys: map[id.Key]publishedKey{},
		ValidUntil:    k.client.now().Add(keysValidFor).UnixMilli(),
	}
	for keyID, further := range o.FurtherKeys {
		doc.VerifyKeys[keyID] = publishedKey{Key: signing.EncodeBase64(publicOf(further))}
	}
	for _, old := range o.OldKeys {
		doc.OldVerifyKeys[old.ID] = publishedKey{signing.EncodeBase64(old.Public), old.Expired}
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	for keyID, further := range o.FurtherKeys {
		if b, err = signing.Sign(b, o.Server, keyID, further); err != nil {
			return nil, err
		}
	}
	return signing.Sign(b, o.Server, o.KeyID, o.Key)
}

// QueryKeys answers as a notary: with the documents of servers' keys, signed by
// this server too. Of a server that does not answer it is what is known, if
// anything is.
// spec: server-server-api#querying-keys-through-another-server
func (k *Keys) QueryKeys(ctx context.Context, query KeyQuery) ([]jsontext.Value, error) {
	if len(query) > maxQueried {
		return nil, errcode.TooLarge("at most %d servers can be asked for at a time", maxQueried)
	}
	servers := slices.Sorted(maps.Keys(query))
	documents := make([]jsontext.Value, len(servers))
	asking, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(queryWorkers)
	for i, server := range servers {
		group.Go(func() (err error) {
			documents[i], err = k.attested(ctx, asking, server, query[server])
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(documents, func(d jsontext.Value) bool { return d == nil }), nil
}

// attested is the document of a server with our signature; nil: there is none, or it is
// larger than that of any server which does not want the answer to be large.
func (k *Keys) attested(ctx, asking context.Context, server id.Server, want map[id.Key]KeyCriteria) (jsontext.Value, error) {
	if server == k.client.options.Server {
		return k.ServerKeys()
	}
	doc, err := k.document(ctx, server)
	if err != nil {
		return nil, err
	}
	if !k.satisfies(doc, want) {
		// If it does not answer, what is known is better than nothing.
		if err := k.refresh(asking, server, server, forNotary); err == nil {
			if doc, err = k.document(ctx, server); err != nil {
				return nil, err
			}
		}
	}
	if doc == nil || len(doc) > largestUsual {
		return nil, nil
	}
	return signing.Sign(doc, k.client.options.Server, k.client.options.KeyID, k.client.options.Key)
}

func (k *Keys) document(ctx context.Context, server id.Server) (doc []byte, err error) {
	err = k.store.View(ctx, func(tx *store.Tx) (err error) {
		doc, _, err = tx.ServerKeys.FindDocument(server)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read keys of %s: %w", server, err)
	}
	if stranger := k.strangers.find(server); doc == nil && stranger != nil {
		doc = stranger.json
	}
	return doc, nil
}

// satisfies says whether a document is new enough for what is asked.
func (k *Keys) satisfies(doc []byte, want map[id.Key]KeyCriteria) bool {
	var p publishedKeys
	if doc == nil || json.Unmarshal(doc, &p) != nil {
		return false
	}
	now := k.client.now().UnixMilli()
	if len(want) == 0 {
		return p.ValidUntil >= now
	}
	for keyID, c := range want {
		if _, old := p.OldVerifyKeys[keyID]; old {
			continue
		}
		least := c.MinimumValidUntil
		if least == 0 {
			least = now
		}
		if _, ok := p.VerifyKeys[keyID]; !ok && keyID != "" || p.ValidUntil < least {
			return false
		}
	}
	return true
}

// askNotaries asks the key servers, one after the other, for those keys that none of the
// former knew, and says whether any came. Nobody is asked for the keys of a key server,
// nor too often for those of one server.
func (k *Keys) askNotaries(ctx context.Context, by id.Server, query KeyQuery, why purpose) (some bool) {
	notaries := k.client.options.KeyServers
	if len(notaries) == 0 {
		return false
	}
	for server := range query {
		isNotary := slices.ContainsFunc(notaries, func(n KeyServer) bool { return n.Name == server })
		if isNotary || !k.client.permits(server) || !k.mayFetch(server, true) {
			delete(query, server)
		}
	}
	for _, notary := range notaries {
		if len(query) == 0 {
			break
		}
		answered, err := k.askNotary(ctx, by, notary, query, why)
		if err != nil {
			slog.DebugContext(ctx, "a key server does not answer", "server", notary.Name, "error", err)
		}
		for _, server := range answered {
			some = true
			delete(query, server)
		}
	}
	return some
}

// askNotary asks a key server, and lists of whom it knew keys.
func (k *Keys) askNotary(ctx context.Context, by id.Server, notary KeyServer, query KeyQuery, why purpose) (answered []id.Server, err error) {
	for batch := range slices.Chunk(slices.Sorted(maps.Keys(query)), batchSize) {
		part := KeyQuery{}
		for _, s := range batch {
			part[s] = query[s]
		}
		body, err := json.Marshal(map[string]KeyQuery{"server_keys": part})
		if err != nil {
			return answered, err
		}
		if why == forEvents {
			if err := k.name(ctx, by, len(part)); err != nil {
				return answered, err
			}
		}
		var answer keyAnswer
		err = k.query(ctx, by, why, func() error {
			return k.client.ask(ctx, notary.Name, request{
				method: http.MethodPost, path: "/_matrix/key/v2/query", body: body, limit: maxEvents, within: 2 * keyTime, open: true,
			}, &answer)
		})
		if err != nil {
			return answered, err
		}
		answered = append(answered, k.takeAttested(ctx, notary, part, answer.Documents, why)...)
	}
	return answered, nil
}

// query asks a notary something when there is a place for it.
func (k *Keys) query(ctx context.Context, by id.Server, why purpose, ask func() error) error {
	places := k.queries[why == forEvents]
	if err := places.take(ctx, by); err != nil {
		return err
	}
	defer places.give(by)
	return ask()
}

// takeAttested keeps those documents of an answer that were asked for and are
// signed by the notary, and lists whose they are.
func (k *Keys) takeAttested(ctx context.Context, notary KeyServer, asked KeyQuery, documents []jsontext.Value, why purpose) (kept []id.Server) {
	for _, raw := range documents {
		doc, err := parseKeyDocument(raw, k.client.now())
		if err != nil || asked[doc.server] == nil {
			continue
		}
		if k.checkNotary(ctx, notary, doc.json) == nil && k.take(ctx, doc, false, why) == nil {
			kept = append(kept, doc.server)
		}
	}
	return kept
}

// checkNotary checks the signature of a notary on a document.
func (k *Keys) checkNotary(ctx context.Context, notary KeyServer, doc []byte) error {
	if len(notary.Keys) == 0 {
		return k.client.VerifyJSON(ctx, notary.Name, doc, k.client.now().UnixMilli())
	}
	msg, err := signing.Bytes(doc)
	if err != nil {
		return err
	}
	signatures := canonical.Get(doc, "signatures")
	for keyID, public := range notary.Keys {
		if signing.Check(signatures, notary.Name, keyID, public, msg) == nil {
			return nil
		}
	}
	return fmt.Errorf("signature of %s: %w", notary.Name, signing.ErrMissing)
}
