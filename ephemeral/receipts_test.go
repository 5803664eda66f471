package ephemeral_test

import (
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

// shown is what a sync of viewer reads of a room's receipts.
func (w *world) shown(r id.Room, viewer id.User, after int64) (texts []string) {
	w.t.Helper()
	room, nid := w.roomNID(r), w.nid(viewer)
	w.view(func(tx *store.Tx) error {
		receipts, err := tx.Receipts.InRoom(room, nid, after, 1<<60)
		for _, x := range receipts {
			u, err := tx.IDs.UserID(x.User)
			if err != nil {
				return err
			}
			if x.TS == 0 || x.EventPosition == 0 {
				w.t.Errorf("no time or place in %+v", x)
			}
			texts = append(texts, fmt.Sprintf("%s %s private=%v thread=%q", u, x.Event, x.Private, x.Thread))
		}
		return err
	})
	return texts
}

func TestReceiptsReachTheRoomAndPrivateOnesNobodyElse(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	e := w.say(r, alice, "", "")
	receipts := ephemeral.NewReceipts(w.store)
	since := w.hub.Now()
	for _, u := range []id.User{alice, bob} { // begin the hub's memory
		w.hub.Since(w.nid(u), since)
	}
	w.must(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.ReadPrivate, Event: e}))
	if c, _ := w.hub.Since(w.nid(alice), since); c.Any() {
		t.Error("a private receipt wakes others")
	}
	if c, _ := w.hub.Since(w.nid(bob), since); !c.Kinds[stream.Receipt] {
		t.Error("a private receipt does not wake its sender's devices")
	}
	w.must(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.Read, Event: e}))
	if c, _ := w.hub.Since(w.nid(alice), since); !c.Kinds[stream.Receipt] || len(c.Rooms) != 1 {
		t.Error("a receipt wakes nobody")
	}
	public := fmt.Sprintf(`@bob:localhost %s private=false thread=""`, e)
	if diff := cmp.Diff([]string{public}, w.shown(r, alice, 0)); diff != "" {
		t.Error(diff)
	}
	private := fmt.Sprintf(`@bob:localhost %s private=true thread=""`, e)
	if diff := cmp.Diff([]string{private, public}, w.shown(r, bob, 0)); diff != "" {
		t.Error(diff)
	}
	if got := w.shown(r, alice, w.hub.Now().Durable); len(got) != 0 {
		t.Errorf("shown again: %s", got)
	}
}

func TestReceiptsNeverMoveBack(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	first, second := w.say(r, alice, "", ""), w.say(r, alice, "", "")
	receipts := ephemeral.NewReceipts(w.store)
	for _, typ := range []string{ephemeral.Read, ephemeral.ReadPrivate, ephemeral.FullyRead} {
		w.must(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: typ, Event: second}))
	}
	before := w.hub.Now().Durable
	for _, typ := range []string{ephemeral.Read, ephemeral.ReadPrivate, ephemeral.FullyRead} {
		for _, e := range []id.Event{first, second} {
			w.must(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: typ, Event: e}))
		}
	}
	if now := w.hub.Now().Durable; now != before {
		t.Error("something changed")
	}
	w.view(func(tx *store.Tx) error {
		content, ok, err := tx.AccountData.GetRoom(bob, r, "m.fully_read")
		if want := fmt.Sprintf(`{"event_id":%q}`, second); !ok || string(content) != want {
			t.Errorf("the read marker is %s", content)
		}
		return err
	})
}

func TestReceiptsOfThreads(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	root := w.say(r, alice, "", "")
	inThread := w.say(r, alice, "m.thread", root)
	edit := w.say(r, alice, "m.replace", inThread)
	onRoot := w.say(r, alice, "m.annotation", root)
	gone := w.say(r, alice, "m.thread", root)
	_, err := w.rooms.Redact(t.Context(), r, room.Proposal{Sender: alice, Redacts: gone, Type: "m.room.redaction", Content: jsontext.Value(`{}`)})
	w.must(err)
	receipts := ephemeral.NewReceipts(w.store)
	for _, c := range []struct {
		event  id.Event
		thread string
		taken  bool
	}{
		{root, "main", true},
		{root, string(root), true}, // clients read a thread from its root on
		{inThread, string(root), true},
		{edit, string(root), true},
		{onRoot, "main", true},
		{gone, string(root), true},
		{inThread, "main", false},
		{edit, "main", false},
		{onRoot, string(root), true}, // shown in both
		{onRoot, string(inThread), false},
		{root, "nonsense", false},
	} {
		err := receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.Read, Event: c.event, Thread: c.thread})
		if c.taken && err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if !c.taken {
			w.refused(err, 400, "M_INVALID_PARAM")
		}
	}
	w.refused(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.FullyRead, Event: root, Thread: "main"}), 400, "M_INVALID_PARAM")
}

// TestReceiptsAreForMembersAndEventsOfTheRoom is CVE-2023-42453.
func TestReceiptsAreForMembersAndEventsOfTheRoom(t *testing.T) {
	w := newWorld(t)
	r, other := w.share(alice, bob), w.share(alice)
	here, elsewhere := w.say(r, alice, "", ""), w.say(other, alice, "", "")
	receipts := ephemeral.NewReceipts(w.store)
	for _, typ := range []string{ephemeral.Read, ephemeral.ReadPrivate, ephemeral.FullyRead} {
		w.refused(receipts.Send(t.Context(), charlie, r, ephemeral.Receipt{Type: typ, Event: here}), 403, "M_FORBIDDEN")
		w.refused(receipts.Send(t.Context(), bob, other, ephemeral.Receipt{Type: typ, Event: elsewhere}), 403, "M_FORBIDDEN")
		w.refused(receipts.Send(t.Context(), bob, "!none:x", ephemeral.Receipt{Type: typ, Event: here}), 403, "M_FORBIDDEN")
		w.refused(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: typ, Event: elsewhere}), 404, "M_NOT_FOUND")
		w.refused(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: typ, Event: "$none"}), 404, "M_NOT_FOUND")
	}
	w.refused(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: "m.other", Event: here}), 400, "M_INVALID_PARAM")
	w.must(w.rooms.Leave(t.Context(), room.Change{Room: r, Sender: bob}))
	w.refused(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.Read, Event: here}), 403, "M_FORBIDDEN")
}

func TestReceiptsOnPostgres(t *testing.T) {
	w := (&world{t: t, hub: stream.NewHub(0)}).on(storetest.OpenPostgres(t, nil))
	r := w.share(alice, bob)
	e := w.say(r, alice, "", "")
	w.must(ephemeral.NewReceipts(w.store).Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.Read, Event: e, Thread: "main"}, ephemeral.Receipt{Type: ephemeral.FullyRead, Event: e}))
	if got := w.shown(r, alice, 0); len(got) != 1 {
		t.Errorf("shown %s", got)
	}
}
