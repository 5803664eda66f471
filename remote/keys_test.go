package remote

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
	"hearth/store"
	"hearth/store/storetest"
)

func TestKeyValidity(t *testing.T) {
	current, old := verifyKey{validUntil: 1000}, verifyKey{validUntil: 1000, expired: 500}
	for _, test := range []struct {
		key    verifyKey
		ts     int64
		strict bool
		want   bool
	}{
		{current, 1000, true, true},
		{current, 1001, true, false},
		{current, 1001, false, true}, // up to room version 4
		{old, 499, true, true},
		{old, 500, true, false},
		{old, 499, false, true},
		{old, 500, false, false},
	} {
		if got := test.key.validAt(test.ts, test.strict); got != test.want {
			t.Errorf("%+v at %d, strict %v: %v", test.key, test.ts, test.strict, got)
		}
	}
}

// document is one of keys, signed by some of them.
func document(t testing.TB, server id.Server, verify, old map[id.Key]ed25519.PrivateKey, validUntil int64, signers ...id.Key) []byte {
	t.Helper()
	p := publishedKeys{Server: server, VerifyKeys: map[id.Key]publishedKey{}, OldVerifyKeys: map[id.Key]publishedKey{}, ValidUntil: validUntil}
	for k, v := range verify {
		p.VerifyKeys[k] = publishedKey{Key: signing.EncodeBase64(publicOf(v))}
	}
	for k, v := range old {
		p.OldVerifyKeys[k] = publishedKey{Key: signing.EncodeBase64(publicOf(v)), Expired: 5000}
	}
	doc, err := json.Marshal(p)
	for _, s := range signers {
		if err == nil {
			doc, err = signing.Sign(doc, server, s, verify[s])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func key(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed([]byte(strings.Repeat(string(rune('a'+n)), ed25519.SeedSize)))
}

// spec: server-server-api#publishing-keys
func TestParseKeyDocument(t *testing.T) {
	now := time.UnixMilli(1_000_000)
	week := now.Add(maxValidity).UnixMilli()
	two := map[id.Key]ed25519.PrivateKey{"ed25519:1": key(1), "ed25519:2": key(2)}
	old := map[id.Key]ed25519.PrivateKey{"ed25519:0": key(0)}
	d, err := parseKeyDocument(document(t, "a.example", two, old, 2_000_000, "ed25519:1"), now)
	if err != nil {
		t.Fatal(err)
	}
	want := map[id.Key]verifyKey{
		"ed25519:0": {publicOf(key(0)), 2_000_000, 5000},
		"ed25519:1": {publicOf(key(1)), 2_000_000, 0},
		// The second has not signed, so who published this need not have it.
	}
	if d.server != "a.example" || !maps.EqualFunc(d.keys, want, func(a, b verifyKey) bool {
		return a.public.Equal(b.public) && a.validUntil == b.validUntil && a.expired == b.expired
	}) {
		t.Errorf("%+v", d)
	}
	if d, err = parseKeyDocument(document(t, "a.example", two, nil, 1<<52, "ed25519:1", "ed25519:2"), now); err != nil || len(d.keys) != 2 || d.keys["ed25519:1"].validUntil != week {
		t.Errorf("valid for longer than a week: %+v, %v", d, err)
	}
	good := string(document(t, "a.example", two, nil, 2_000_000, "ed25519:1"))
	for name, doc := range map[string]string{
		"not signed":      string(document(t, "a.example", two, nil, 2_000_000)),
		"changed":         strings.Replace(good, "2000000", "2000001", 1),
		"of another name": strings.Replace(good, `"server_name":"a.example"`, `"server_name":"b.example"`, 1),
		"no name":         `{"verify_keys":{}}`,
		"bad name":        strings.ReplaceAll(good, "a.example", "a example"),
		"no JSON":         `{`,
		"not an object":   `[]`,
	} {
		if d, err := parseKeyDocument([]byte(doc), now); err == nil {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

// CVE-2026-24044: many servers had a signing key that everybody knew. What it signs
// proves nothing, whether the key is published now or was kept before.
func TestCVE_2026_24044_KnownPrivateKeysDoNotCount(t *testing.T) {
	const leaked = "l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og"
	public, err := signing.DecodeBase64(leaked)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(document(t, "a.example", map[id.Key]ed25519.PrivateKey{"ed25519:1": key(1)}, map[id.Key]ed25519.PrivateKey{"ed25519:0": key(0)}, 2_000_000))
	old := signing.EncodeBase64(key(0).Public().(ed25519.PublicKey))
	unsigned := strings.Replace(doc, old, leaked, 1)
	if unsigned == doc {
		t.Fatalf("%s is not in %s", old, doc)
	}
	signed, err := signing.Sign([]byte(unsigned), id.Server("a.example"), "ed25519:1", key(1))
	if err != nil {
		t.Fatal(err)
	}
	d, err := parseKeyDocument(signed, time.UnixMilli(1_000_000))
	if err != nil || len(d.keys) != 1 || d.keys["ed25519:0"].public != nil {
		t.Errorf("%+v, %v", d, err)
	}
	c := newWorld(t).client("me.example")
	err = c.Keys.store.Update(t.Context(), func(tx *store.Tx) error {
		return tx.ServerKeys.Set("b.example", store.ServerKey{ID: "ed25519:1", Public: public, ValidUntil: 1 << 50})
	})
	if err != nil {
		t.Fatal(err)
	}
	if known, err := c.Keys.known(t.Context(), []id.Server{"b.example"}, forEvents); err != nil || len(known["b.example"]) > 0 {
		t.Errorf("%v %v", known, err)
	}
}

func FuzzKeyDocument(f *testing.F) {
	f.Add(document(f, "a.example", map[id.Key]ed25519.PrivateKey{"ed25519:1": key(1)}, map[id.Key]ed25519.PrivateKey{"ed25519:0": key(0)}, 2_000_000, "ed25519:1"))
	f.Add([]byte(`{"server_name":"a","verify_keys":{"ed25519:":{"key":""}},"valid_until_ts":-1}`))
	now := time.UnixMilli(1_000_000)
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := parseKeyDocument(raw, now)
		if err != nil {
			return
		}
		for keyID, k := range d.keys {
			if len(k.public) != ed25519.PublicKeySize || keyID.Algorithm() != signing.Algorithm || k.validUntil > now.Add(maxValidity).UnixMilli() {
				t.Errorf("%s: %+v", keyID, k)
			}
		}
	})
}

// Of what a notary says of others' keys, only those are kept that were asked for and are
// signed by their servers and by it.
func FuzzNotaryAnswer(f *testing.F) {
	notary := KeyServer{Name: "notary.example", Keys: map[id.Key]ed25519.PublicKey{"ed25519:n": key(9).Public().(ed25519.PublicKey)}}
	good := document(f, "a.example", map[id.Key]ed25519.PrivateKey{"ed25519:1": key(1)}, map[id.Key]ed25519.PrivateKey{"ed25519:0": key(0)}, 1<<50, "ed25519:1")
	attested, err := signing.Sign(good, notary.Name, "ed25519:n", key(9))
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"server_keys":[` + string(attested) + `]}`))
	f.Add([]byte(`{"server_keys":[` + string(good) + `,7,{},{"server_name":"a.example","verify_keys":{"ed25519:x":{}}}]}`))
	c := newWorld(f).client("me.example")
	f.Fuzz(func(t *testing.T, body []byte) {
		var answer keyAnswer
		if json.Unmarshal(body, &answer) != nil {
			return
		}
		c.Keys.takeAttested(t.Context(), notary, KeyQuery{"a.example": {}}, answer.Documents, forEvents)
		known, err := c.Keys.known(t.Context(), []id.Server{"a.example", "b.example", "me.example"}, forEvents)
		if err != nil || len(known["b.example"]) > 0 || len(known["me.example"]) != 1 {
			t.Errorf("%v %v", known, err)
		}
		for keyID, k := range known["a.example"] {
			if keyID != "ed25519:1" && keyID != "ed25519:0" || len(k.public) != ed25519.PublicKeySize {
				t.Errorf("%s: %v was never signed by the notary", keyID, k)
			}
		}
	})
}

// eventBy builds an event that is signed by a server with a key.
func eventBy(t testing.TB, version string, server id.Server, keyID id.Key, private ed25519.PrivateKey, ts int64) *event.PDU {
	t.Helper()
	v, ok := roomversion.Get(version)
	if !ok {
		t.Fatal(version)
	}
	js := fmt.Sprintf(`{"type":"m.room.message","room_id":"!r:%s","sender":"@u:%s","content":{"body":"x"},"origin_server_ts":%d,"depth":1,"prev_events":[],"auth_events":[],"hashes":{"sha256":"x"},"signatures":{}`, server, server, ts)
	if v.EventID == roomversion.EventIDField {
		js += fmt.Sprintf(`,"event_id":"$e:%s"`, server)
	}
	p, err := event.Parse(v, []byte(js+"}"))
	if err == nil {
		p, err = p.AddSignature(server, keyID, private)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVerifyEvents(t *testing.T) {
	w := newWorld(t)
	b := w.peer("b.example")
	oldKey := key(9)
	a := w.peer("a.example", func(o *Options) {
		o.OldKeys = []OldKey{{ID: "ed25519:old", Public: publicOf(oldKey), Expired: time.Now().Add(-time.Hour).UnixMilli()}}
		o.FurtherKeys = map[id.Key]ed25519.PrivateKey{"ed25519:2": key(7)}
	})
	now := time.Now().UnixMilli()
	late := time.Now().Add(30 * 24 * time.Hour).UnixMilli()
	for _, test := range []struct {
		name string
		p    *event.PDU
		want error // nil: good
	}{
		{"good", eventBy(t, "11", "a.example", "ed25519:1", a.key, now), nil},
		{"by a further key", eventBy(t, "11", "a.example", "ed25519:2", key(7), now), nil},
		{"our own", eventBy(t, "11", "b.example", "ed25519:1", b.key, now), nil},
		{"by another key of that name", eventBy(t, "11", "a.example", "ed25519:1", key(3), now), signing.ErrInvalid},
		{"our own, by another key", eventBy(t, "11", "b.example", "ed25519:1", key(3), now), signing.ErrInvalid},
		{"by an unknown key", eventBy(t, "11", "a.example", "ed25519:x", a.key, now), errNoKey},
		{"by an old key, in its time", eventBy(t, "11", "a.example", "ed25519:old", oldKey, now-2*3_600_000), nil},
		{"by an old key, later", eventBy(t, "11", "a.example", "ed25519:old", oldKey, now), errNoKey},
		{"longer than the key is published for", eventBy(t, "5", "a.example", "ed25519:1", a.key, late), errNoKey},
		{"the same before version 5", eventBy(t, "4", "a.example", "ed25519:1", a.key, late), nil},
		{"version 1", eventBy(t, "1", "a.example", "ed25519:1", a.key, now), nil},
		{"of a server that is not there", eventBy(t, "11", "c.example", "ed25519:1", key(3), now), errNoKey},
	} {
		// Together they must come out as one by one.
		errs := b.VerifyEvents(t.Context(), "from.example", []*event.PDU{eventBy(t, "11", "b.example", "ed25519:1", b.key, now), test.p})
		if errs[0] != nil || !errors.Is(errs[1], test.want) || test.want == nil && errs[1] != nil {
			t.Errorf("%s: %v", test.name, errs)
		}
	}
	v, _ := roomversion.Get("11")
	unsigned, err := event.Parse(v, []byte(`{"type":"m","room_id":"!r:a.example","sender":"@u:a.example","content":{},"origin_server_ts":1,"depth":1,"prev_events":[],"auth_events":[],"hashes":{"sha256":"x"},"signatures":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	if errs := b.VerifyEvents(t.Context(), "from.example", []*event.PDU{unsigned}); !errors.Is(errs[0], signing.ErrMissing) {
		t.Error(errs)
	}
}

func TestKeysOutliveTheirServerAndARestart(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	p := eventBy(t, "11", "a.example", "ed25519:1", a.key, time.Now().UnixMilli())
	if errs := b.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); errs[0] != nil {
		t.Fatal(errs)
	}
	delete(w.places, "a.example:8448")
	again := New(b.Keys.store, b.options)
	defer again.Close()
	if errs := again.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); errs[0] != nil {
		t.Error(errs)
	}
}

func TestVerifyJSON(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	doc, err := signing.Sign([]byte(`{"x":1}`), "a.example", "ed25519:1", a.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.VerifyJSON(t.Context(), "a.example", doc, time.Now().UnixMilli()); err != nil {
		t.Error(err)
	}
	if err := b.VerifyJSON(t.Context(), "a.example", []byte(strings.Replace(string(doc), `"x":1`, `"x":2`, 1)), time.Now().UnixMilli()); !errors.Is(err, signing.ErrInvalid) {
		t.Error(err)
	}
	if err := b.VerifyJSON(t.Context(), "c.example", doc, time.Now().UnixMilli()); !errors.Is(err, signing.ErrMissing) {
		t.Error(err)
	}
}

// notary serves the key endpoints of a peer as a notary.
func (w *world) notary(name id.Server) *peer {
	p := w.client(name)
	w.serve(string(name)+":8448", string(name), func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_matrix/key/v2/query" {
			p.ServeHTTP(rw, r)
			return
		}
		p.mu.Lock()
		p.asked = append(p.asked, "query")
		p.mu.Unlock()
		var req struct {
			ServerKeys KeyQuery `json:"server_keys"`
		}
		if err := json.UnmarshalRead(r.Body, &req); err != nil {
			panic(err)
		}
		docs, err := p.Keys.QueryKeys(r.Context(), req.ServerKeys)
		if err != nil {
			panic(err)
		}
		if err := json.MarshalWrite(rw, keyAnswer{docs}); err != nil {
			panic(err)
		}
	})
	return p
}

// spec: server-server-api#querying-keys-through-another-server
func TestNotaryKnowsTheKeysOfServersThatAreGone(t *testing.T) {
	w := newWorld(t)
	notary := w.notary("notary.example")
	for _, pinned := range []bool{true, false} {
		a := w.peer("a.example")
		notary.Keys.sets.InvalidateAll()
		if err := notary.Keys.fetch(t.Context(), "a.example", forCaller); err != nil {
			t.Fatal(err)
		}
		delete(w.places, "a.example:8448")
		notary.http.Close()
		trusted := KeyServer{Name: "notary.example"}
		if pinned {
			trusted.Keys = map[id.Key]ed25519.PublicKey{"ed25519:1": publicOf(notary.key)}
		}
		p := eventBy(t, "11", "a.example", "ed25519:1", a.key, time.Now().UnixMilli())
		b := w.client("b.example", func(o *Options) { o.KeyServers = []KeyServer{trusted} })
		if errs := b.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); errs[0] != nil {
			t.Errorf("pinned %v: %v", pinned, errs)
		}
		// A notary with another key than the one that is trusted says nothing.
		c := w.client("c.example", func(o *Options) {
			o.KeyServers = []KeyServer{{Name: "notary.example", Keys: map[id.Key]ed25519.PublicKey{"ed25519:1": publicOf(key(7))}}}
		})
		if errs := c.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); !errors.Is(errs[0], errNoKey) {
			t.Errorf("pinned %v: %v", pinned, errs)
		}
	}
}

func TestNotaryIsAskedFirstForMany(t *testing.T) {
	w := newWorld(t)
	notary := w.notary("notary.example")
	b := w.client("b.example", func(o *Options) { o.KeyServers = []KeyServer{{Name: "notary.example"}} })
	var events []*event.PDU
	var peers []*peer
	for i := range 10 {
		name := id.Server(fmt.Sprintf("s%d.example", i))
		a := w.peer(name)
		peers = append(peers, a)
		events = append(events, eventBy(t, "11", name, "ed25519:1", a.key, time.Now().UnixMilli()))
	}
	for i, err := range b.VerifyEvents(t.Context(), "from.example", events) {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	queries := 0
	for _, a := range notary.asked {
		if a == "query" {
			queries++
		}
	}
	if queries != 1 {
		t.Errorf("the notary was asked %d times", queries)
	}
	for i, a := range peers {
		if len(a.asked) != 1 { // by the notary
			t.Errorf("server %d was asked %v", i, a.asked)
		}
	}
}

// stale serves a notary that only has what it was once told, and notes what it is asked.
func (w *world) stale(documents ...[]byte) (notary *peer, asked *[]KeyQuery) {
	notary, asked = w.client("notary.example"), &[]KeyQuery{}
	w.serve("notary.example:8448", "notary.example", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_matrix/key/v2/query" {
			notary.ServeHTTP(rw, r)
			return
		}
		var req struct {
			ServerKeys KeyQuery `json:"server_keys"`
		}
		if err := json.UnmarshalRead(r.Body, &req); err != nil {
			panic(err)
		}
		*asked = append(*asked, req.ServerKeys)
		answer := keyAnswer{Documents: []jsontext.Value{}}
		for _, d := range documents {
			signed, err := signing.Sign(d, id.Server("notary.example"), "ed25519:1", notary.key)
			if err != nil {
				panic(err)
			}
			answer.Documents = append(answer.Documents, signed)
		}
		if err := json.MarshalWrite(rw, answer); err != nil {
			panic(err)
		}
	})
	return notary, asked
}

// A notary that knows less than the servers themselves is not the last word, and is told
// what is needed. spec: rooms/v5#signing-key-validity-period
func TestNotaryWithOldKeysIsNotTheLastWord(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UnixMilli()
	var events []*event.PDU
	var old [][]byte
	for i := range 5 {
		name := id.Server(fmt.Sprintf("s%d.example", i))
		a := w.peer(name)
		old = append(old, document(t, name, map[id.Key]ed25519.PrivateKey{"ed25519:1": a.key}, nil, now-3_600_000, "ed25519:1"))
		events = append(events, eventBy(t, "11", name, "ed25519:1", a.key, now))
	}
	_, asked := w.stale(old...)
	b := w.client("b.example", func(o *Options) { o.KeyServers = []KeyServer{{Name: "notary.example"}} })
	for i, err := range b.VerifyEvents(t.Context(), "from.example", events) {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if len(*asked) != 1 || (*asked)[0]["s0.example"]["ed25519:1"].MinimumValidUntil != now {
		t.Errorf("the notary was asked %v", *asked)
	}
}

// A server that was set up anew does not publish the keys that it had before.
func TestNotaryKnowsKeysThatAreNoLongerPublished(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UnixMilli()
	w.peer("a.example")
	before := document(t, "a.example", map[id.Key]ed25519.PrivateKey{"ed25519:before": key(4)}, nil, now-3_600_000, "ed25519:before")
	_, asked := w.stale(before)
	b := w.client("b.example", func(o *Options) { o.KeyServers = []KeyServer{{Name: "notary.example"}} })
	if errs := b.VerifyEvents(t.Context(), "from.example", []*event.PDU{eventBy(t, "11", "a.example", "ed25519:before", key(4), now-7_200_000)}); errs[0] != nil {
		t.Error(errs)
	}
	// For others it is the newest that is told.
	delete(w.places, "a.example:8448")
	b.http.Close()
	docs, err := b.Keys.QueryKeys(t.Context(), KeyQuery{"a.example": {}})
	if err != nil || len(docs) != 1 || !strings.Contains(string(docs[0]), `"ed25519:1":{"key"`) {
		t.Errorf("%s %v", docs, err)
	}
	// Bad signatures do not make us ask again and again.
	for range 50 {
		b.VerifyEvents(t.Context(), "from.example", []*event.PDU{eventBy(t, "11", "a.example", "ed25519:none", key(4), now)})
	}
	if len(*asked) > 10 {
		t.Errorf("the notary was asked %d times", len(*asked))
	}
}

func TestNotaryDoesNotReplaceKeys(t *testing.T) {
	now := time.Now().UnixMilli()
	known := keySet{"ed25519:1": {publicOf(key(1)), now, 0}, "ed25519:2": {publicOf(key(2)), now, 0}}
	doc := &keyDocument{keys: keySet{
		"ed25519:1": {publicOf(key(5)), now + 1, 0}, // another key by the same name
		"ed25519:2": {publicOf(key(2)), now + 1, 0}, // the same for longer
		"ed25519:3": {publicOf(key(3)), now - 9, 0},
	}}
	// What a server says is out of use does not come back by a document from before.
	revoked := keySet{"ed25519:2": {publicOf(key(2)), now, now - 5}}
	if set := merge(revoked, doc, false); set["ed25519:2"].expired != now-5 {
		t.Errorf("a revoked key is back: %+v", set["ed25519:2"])
	}
	for direct, want := range map[bool]ed25519.PrivateKey{true: key(5), false: key(1)} {
		set := merge(known, doc, direct)
		if len(set) != 3 || !set["ed25519:1"].public.Equal(publicOf(want)) || set["ed25519:2"].validUntil != now+1 {
			t.Errorf("direct %v: %v", direct, set)
		}
	}
	many := keySet{}
	for i := range maxKeys {
		many[id.Key(fmt.Sprint("ed25519:k", i))] = verifyKey{publicOf(key(1)), int64(i), 0}
	}
	set := merge(many, doc, true)
	if _, kept := set["ed25519:3"]; len(set) != maxKeys || !kept {
		t.Errorf("%d keys are kept, the newest: %v", len(set), kept)
	}
}

// A hostile server has any number of names, and keys with long ones.
func TestKeysInMemoryAreBounded(t *testing.T) {
	k := newWorld(t).client("a.example").Keys
	set := keySet{}
	for i := range maxPublished {
		set[id.Key(fmt.Sprint("ed25519:", strings.Repeat("x", 500), i))] = verifyKey{public: publicOf(key(1))}
	}
	for i := range 2000 {
		k.sets.Set(id.Server(fmt.Sprintf("s%d.example", i)), set)
	}
	k.sets.CleanUp()
	kept := 0
	for range k.sets.All() {
		kept++
	}
	if kept*maxPublished*500 > 2*keysInMemory {
		t.Errorf("%d servers with %d keys each are kept", kept, maxPublished)
	}
}

func TestQueryKeys(t *testing.T) {
	w := newWorld(t)
	a, n := w.peer("a.example"), w.peer("n.example")
	b := w.peer("b.example")
	query := func(q KeyQuery) []jsontext.Value {
		t.Helper()
		docs, err := n.Keys.QueryKeys(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		return docs
	}
	docs := query(KeyQuery{"a.example": {}, "b.example": {"ed25519:1": {}}, "none.example": {}, "n.example": {}})
	if len(docs) != 3 {
		t.Fatalf("%d documents", len(docs))
	}
	for i, origin := range []*peer{a, b} {
		if err := signing.Verify(docs[i], origin.options.Server, "ed25519:1", publicOf(origin.key)); err != nil {
			t.Error(err)
		}
		if err := signing.Verify(docs[i], "n.example", "ed25519:1", publicOf(n.key)); err != nil {
			t.Error(err)
		}
	}
	asked := len(a.asked)
	query(KeyQuery{"a.example": {"ed25519:1": {}}})
	if len(a.asked) != asked {
		t.Error("what was new enough was fetched again")
	}
	query(KeyQuery{"a.example": {"ed25519:1": {MinimumValidUntil: time.Now().Add(48 * time.Hour).UnixMilli()}}})
	if len(a.asked) != asked+1 {
		t.Error("what was too old was not fetched again")
	}
	query(KeyQuery{"a.example": {"ed25519:other": {}}})
	if len(a.asked) != asked+2 {
		t.Error("an unknown key was not looked for")
	}
	delete(w.places, "a.example:8448")
	n.http.Close()
	if docs := query(KeyQuery{"a.example": {"": {MinimumValidUntil: 1 << 50}}}); len(docs) != 1 {
		t.Errorf("of a server that is gone there are %d documents", len(docs))
	}
	if _, err := n.Keys.QueryKeys(t.Context(), func() KeyQuery {
		q := KeyQuery{}
		for i := range maxQueried + 1 {
			q[id.Server(fmt.Sprint("s", i))] = nil
		}
		return q
	}()); err == nil {
		t.Error("as many servers as one likes can be asked for")
	}
}

func BenchmarkVerifyEvents(b *testing.B) {
	private := key(1)
	c := New(storetest.Open(b, nil), Options{Server: "a.example", KeyID: "ed25519:1", Key: private})
	defer c.Close()
	var events []*event.PDU
	for i := range 1000 {
		events = append(events, eventBy(b, "11", "a.example", "ed25519:1", private, int64(i)))
	}
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range c.VerifyEvents(b.Context(), "from.example", events) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
