package remote

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/store"
)

// inStore says whether anything of a server's keys is kept on disk.
func (p *peer) inStore(t *testing.T, server id.Server) (some bool) {
	t.Helper()
	err := p.Keys.store.View(t.Context(), func(tx *store.Tx) error {
		keys, err := tx.ServerKeys.List(server)
		if err != nil {
			return err
		}
		_, document, err := tx.ServerKeys.FindDocument(server)
		some = len(keys) > 0 || document
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return some
}

// Who has a wildcard domain has as many servers as he likes. Unless they are in rooms here or have
// signed events, nothing is kept of them.
func TestStrangersKeysAreNotWritten(t *testing.T) {
	w := newWorld(t)
	a, b, n := w.peer("a.example"), w.peer("b.example"), w.peer("n.example", func(o *Options) { o.KeyServers = []KeyServer{{Name: "notary.example"}} })
	n.handle["GET /_matrix/federation/v1/version"] = answer(`{"server":{"name":"x"}}`)
	call := func(from *peer) {
		t.Helper()
		for range 2 {
			if _, err := from.SendTransaction(t.Context(), "n.example", "1", []byte(`{}`)); err == nil || !strings.Contains(err.Error(), "M_UNRECOGNIZED") {
				t.Fatal(err)
			}
		}
	}
	call(a)
	if n.inStore(t, "a.example") {
		t.Error("the keys of a stranger who asked something are kept")
	}
	if len(a.asked) != 1 {
		t.Errorf("the keys of a stranger were fetched %d times", len(a.asked))
	}
	if docs, err := n.Keys.QueryKeys(t.Context(), KeyQuery{"a.example": {}, "b.example": {}}); err != nil || len(docs) != 2 {
		t.Fatal(docs, err)
	}
	if n.inStore(t, "b.example") || len(b.asked) != 1 {
		t.Errorf("the keys of a server of which a stranger asked are kept, or were fetched %d times", len(b.asked))
	}

	// What an event was signed with is kept, however its keys came.
	p := eventBy(t, "11", "a.example", "ed25519:1", a.key, time.Now().UnixMilli())
	if errs := n.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); errs[0] != nil {
		t.Fatal(errs)
	}
	if !n.inStore(t, "a.example") || len(a.asked) != 1 {
		t.Errorf("the keys of who signed an event are not kept, or were fetched %d times", len(a.asked))
	}
	delete(w.places, "a.example:8448")
	again := New(n.Keys.store, n.options)
	defer again.Close()
	if errs := again.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); errs[0] != nil {
		t.Error(errs)
	}

	// So is what servers in rooms here sign their requests with.
	err := n.Keys.store.Update(t.Context(), func(tx *store.Tx) error {
		nid, err := tx.IDs.Server("b.example")
		if err != nil {
			return err
		}
		r, err := tx.Rooms.Insert("!r:b.example", "@bob:b.example", "11")
		if err != nil {
			return err
		}
		return tx.RoomServers.Add(r, nid, 1)
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Keys.strangers.forget("b.example")
	if call(b); !n.inStore(t, "b.example") {
		t.Error("the keys of a server in a room are not kept")
	}
}

// Whoever asks about servers of his own, with large documents, does not make this server work
// on large answers.
func TestAnswersOfTheNotaryAreBounded(t *testing.T) {
	w := newWorld(t)
	n := w.client("n.example")
	// One that is met has as many keys, or whatever else, as it likes; servers as they are have few.
	for name, size := range map[id.Server]int{"large.example:1": 50 << 10, "usual.example:1": 5 << 10} {
		s := w.client(name)
		doc, err := signing.Sign([]byte(fmt.Sprintf(`{"server_name":%q,"valid_until_ts":%d,"old_verify_keys":{},"verify_keys":{"ed25519:1":{"key":%q}},"x":%q}`,
			name, time.Now().Add(time.Hour).UnixMilli(), signing.EncodeBase64(publicOf(s.key)), strings.Repeat("x", size))), name, "ed25519:1", s.key)
		if err != nil {
			t.Fatal(err)
		}
		host, _ := name.Split()
		w.serve(string(name), host, answer(string(doc)))
		want := 0
		if size <= largestUsual {
			want = 1
		}
		query := func() {
			t.Helper()
			if docs, err := n.Keys.QueryKeys(t.Context(), KeyQuery{name: {}}); err != nil || len(docs) != want {
				t.Errorf("%s: %d documents, %v", name, len(docs), err)
			}
		}
		query()
		if n.Keys.strangers.find(name) != nil != (want == 1) {
			t.Errorf("%s: what was fetched for a stranger is not what is kept", name)
		}
		p := eventBy(t, "11", name, "ed25519:1", s.key, time.Now().UnixMilli())
		if errs := n.VerifyEvents(t.Context(), "from.example", []*event.PDU{p}); errs[0] != nil {
			t.Errorf("%s: %v", name, errs)
		}
		query()
	}
}

// Servers that say nothing hold up neither the documents of others nor this server.
func TestTheNotaryAnswersInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(t, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
		defer c.Close()
		c.Keys.strangers.add(&keyDocument{server: "zz.example:1", json: []byte(`{"server_name":"zz.example:1"}`)}, true)
		query := KeyQuery{"zz.example:1": {}}
		for i := range 80 {
			query[id.Server(fmt.Sprintf("hangs%d.example:1", i))] = nil
		}
		start := time.Now()
		docs, err := c.Keys.QueryKeys(t.Context(), query)
		if took := time.Since(start); err != nil || len(docs) != 1 || took > 30*time.Second {
			t.Errorf("%d documents after %v, %v", len(docs), took, err)
		}
		time.Sleep(time.Minute) // what is under way ends by itself
	})
}

func TestStrangersInMemoryAreBounded(t *testing.T) {
	k := newWorld(t).client("a.example").Keys
	for i := range 1000 {
		k.strangers.add(&keyDocument{server: id.Server(fmt.Sprintf("s%d.example", i)), json: make([]byte, 100<<10)}, true)
	}
	if n := len(k.strangers.documents); n == 0 || n*(100<<10) > strangersInMemory {
		t.Errorf("%d documents are kept", n)
	}
	if k.strangers.find("s0.example") != nil || k.strangers.find("s999.example") == nil {
		t.Error("not the oldest were dropped")
	}
}
