package remote

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hearth/matrix/event"
	"hearth/matrix/id"
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
