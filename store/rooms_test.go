package store_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
)

// update and view fail the test on any error.
func update(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func view(t *testing.T, s *store.Store, fn func(*store.Tx) error) {
	t.Helper()
	if err := s.View(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func TestEventIDsComeBackAsTheyWere(t *testing.T) {
	ids := []id.Event{
		"$" + id.Event(strings.Repeat("A", 43)),                  // a hash, URL-safe
		"$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk",           // room version 3: standard base64
		"$143273582443PhrSn:example.org",                         // room version 1
		"$" + id.Event(strings.Repeat("x", 19)) + ":example.org", // 32 bytes of text
	}
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			room, err := tx.Rooms.Insert("!r:localhost", "@alice:localhost", "1")
			if err != nil {
				return err
			}
			first, err := tx.Events.ReserveNIDs(10)
			if err != nil {
				return err
			}
			for i, e := range ids {
				err := tx.Events.Insert(store.Event{NID: first + int64(i), Room: room, ID: e, Position: tx.NextPosition(), JSON: []byte("{}")})
				if err != nil {
					return err
				}
			}
			return nil
		})
		view(t, s, func(tx *store.Tx) error {
			for _, want := range ids {
				e, ok, err := tx.Events.GetID(want)
				if err != nil || !ok || e.ID != want {
					t.Errorf("%s came back as %q, %v, %v", want, e.ID, ok, err)
				}
			}
			return nil
		})
	})
}

func TestRoomTimelineStateAndMembers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var room store.RoomNID
		var alice, bob store.UserNID
		var name store.StateKey
		events := map[string]store.Event{}
		update(t, s, func(tx *store.Tx) (err error) {
			if room, err = tx.Rooms.Insert("!r:localhost", "@alice:localhost", "12"); err != nil {
				return err
			}
			if alice, err = tx.IDs.User("@alice:localhost"); err != nil {
				return err
			}
			if bob, err = tx.IDs.User("@bob:localhost"); err != nil {
				return err
			}
			if name, err = tx.IDs.StateKey(event.StateTuple{Type: event.TypeName}); err != nil {
				return err
			}
			typ, err := tx.IDs.Type(event.TypeName)
			if err != nil {
				return err
			}
			nid, err := tx.Events.ReserveNIDs(3)
			if err != nil {
				return err
			}
			for i, label := range []string{"a", "b", "c"} {
				e := store.Event{NID: nid + int64(i), Room: room, ID: id.Event("$" + label + ":x"), Position: tx.NextPosition(),
					Sender: alice, Type: typ, Key: name, IsState: label != "b", StateBefore: int64(i), TS: int64(100 * (i + 1)), JSON: []byte(`{"n":"` + label + `"}`)}
				if label == "c" {
					e.Txn = "DEV t1"
				}
				events[label] = e
				if err := tx.Events.Insert(e); err != nil {
					return err
				}
			}
			for _, c := range []struct {
				version int64
				e       store.EventNID
			}{{1, events["a"].NID}, {3, events["c"].NID}, {5, 0}} {
				if err := tx.State.Insert(room, name, c.version, c.e); err != nil {
					return err
				}
			}
			for _, u := range []store.UserNID{alice, bob} {
				if err := tx.Members.Set(store.Member{Room: room, User: u, Membership: store.Join, Event: 1, Position: 1, Local: true}); err != nil {
					return err
				}
			}
			if err := tx.Relations.Insert(store.Relation{Event: events["b"].NID, Room: room, Target: "$a:x", RelType: "m.thread", Type: typ, Sender: bob, Position: 2}); err != nil {
				return err
			}
			if err := tx.Members.SetStripped(room, bob, []byte(`[]`)); err != nil {
				return err
			}
			return tx.Transactions.Insert(store.Transaction{User: alice, Device: "DEV", Room: room, TxnID: "t1", Endpoint: "send"}, events["c"].NID, 1)
		})
		view(t, s, func(tx *store.Tx) error {
			c, ok, err := tx.Events.Get(events["c"].NID)
			if diff := cmp.Diff(events["c"], c); diff != "" || !ok || err != nil {
				t.Errorf("event c: %v %v\n%s", ok, err, diff)
			}
			down, err := tx.Events.TimelineDown(room, 0, 100, 2)
			if err != nil || len(down) != 2 || down[0].NID != events["c"].NID || down[1].NID != events["b"].NID {
				t.Errorf("timeline down: %v %v", down, err)
			}
			up, err := tx.Events.TimelineUp(room, 1, 100, 5)
			if err != nil || len(up) != 2 || up[0].NID != events["b"].NID {
				t.Errorf("timeline up: %v %v", up, err)
			}
			state, err := tx.Events.StateBetween(room, 0, 100)
			if err != nil || len(state) != 2 {
				t.Errorf("state between: %v %v", state, err)
			}
			all, err := tx.Events.After(1, 3, 10)
			if err != nil || len(all) != 2 {
				t.Errorf("events after: %v %v", all, err)
			}
			loaded, err := tx.Events.Load([]store.EventNID{events["a"].NID, events["b"].NID, 999})
			if err != nil || len(loaded) != 2 {
				t.Errorf("load: %v %v", loaded, err)
			}
			for version, want := range map[int64]store.EventNID{0: 0, 1: events["a"].NID, 2: events["a"].NID, 3: events["c"].NID, 5: 0} {
				got, ok, err := tx.State.At(room, name, version)
				if err != nil || got != want || ok != (want != 0) {
					t.Errorf("state at %d: %d %v %v, want %d", version, got, ok, err, want)
				}
				whole, err := tx.State.All(room, version)
				if err != nil || len(whole) != toInt(want != 0) {
					t.Errorf("whole state at %d: %v %v", version, whole, err)
				}
			}
			typ, _, err := tx.IDs.FindType(event.TypeName)
			if err != nil {
				return err
			}
			if of, err := tx.State.OfType(room, typ, 4); err != nil || len(of) != 1 || of[0].Event != events["c"].NID {
				t.Errorf("state of type: %v %v", of, err)
			}
			near, ok, err := tx.Events.NearestAfter(room, 150, 0)
			if err != nil || !ok || near.NID != events["b"].NID {
				t.Errorf("nearest after: %v %v %v", near, ok, err)
			}
			near, ok, err = tx.Events.NearestBefore(room, 150, 1<<62)
			if err != nil || !ok || near.NID != events["a"].NID {
				t.Errorf("nearest before: %v %v %v", near, ok, err)
			}
			joined, err := tx.Members.LocalJoined(room)
			if err != nil || !cmp.Equal(joined, []int64{alice, bob}) {
				t.Errorf("joined: %v %v", joined, err)
			}
			sharing, err := tx.Members.SharingLocal(alice)
			if err != nil || !cmp.Equal(sharing, []int64{alice, bob}) {
				t.Errorf("sharing: %v %v", sharing, err)
			}
			if shared, err := tx.Members.SharedRooms(alice, bob); err != nil || len(shared) != 1 {
				t.Errorf("shared rooms: %v %v", shared, err)
			}
			if share, err := tx.Members.ShareRoom(alice, bob); err != nil || !share {
				t.Errorf("share room: %v %v", share, err)
			}
			rel, err := tx.Relations.Down(room, "$a:x", "", 0, 100, 10)
			if err != nil || len(rel) != 1 || rel[0].RelType != "m.thread" || rel[0].Target != "$a:x" {
				t.Errorf("relations: %v %v", rel, err)
			}
			related, err := tx.Relations.Related(room, []id.Event{"$a:x", "$b:x"})
			if err != nil || !cmp.Equal(related, map[id.Event][]string{"$a:x": {"m.thread"}}) {
				t.Errorf("related: %v %v", related, err)
			}
			replier := rel[0].Sender
			for _, c := range []struct {
				participant store.UserNID
				without     []store.UserNID
				want        int
			}{{0, nil, 1}, {replier, nil, 1}, {1 << 40, nil, 0}, {0, []store.UserNID{replier}, 0}} {
				threads, err := tx.Relations.Threads(room, 100, c.participant, c.without, 10)
				if err != nil || len(threads) != c.want {
					t.Errorf("threads %+v: %v %v", c, threads, err)
				}
				all, own, err := tx.Relations.ThreadSize(room, "$a:x", replier, c.without)
				if want := int64(toInt(c.without == nil)); err != nil || all != want || own != want {
					t.Errorf("size of the thread %+v: %d, %d %v", c, all, own, err)
				}
			}
			if many, err := tx.Relations.OfMany(room, []id.Event{"$a:x", "$b:x"}, "m.thread", rel[0].Type, 10); err != nil || !cmp.Equal(many, rel) {
				t.Errorf("of many: %v %v, want %v", many, err, rel)
			}
			e, ok, err := tx.Transactions.Find(store.Transaction{User: alice, Device: "DEV", Room: room, TxnID: "t1", Endpoint: "send"})
			if err != nil || !ok || e != events["c"].NID {
				t.Errorf("transaction: %v %v %v", e, ok, err)
			}
			return nil
		})
	})
}

func TestAdvanceRefusesAStaleHead(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var r store.Room
		update(t, s, func(tx *store.Tx) error {
			if _, err := tx.Rooms.Insert("!r:localhost", "@alice:localhost", "12"); err != nil {
				return err
			}
			r, _, _ = tx.Rooms.Get("!r:localhost")
			r.Extremities = []store.EventNID{4, 5}
			return tx.Rooms.Advance(r)
		})
		err := s.Update(t.Context(), func(tx *store.Tx) error { return tx.Rooms.Advance(r) })
		if !errors.Is(err, store.ErrStaleHead) {
			t.Errorf("a second write set on the same head: %v, want ErrStaleHead", err)
		}
		view(t, s, func(tx *store.Tx) error {
			got, ok, err := tx.Rooms.GetNID(r.NID)
			if err != nil || !ok || got.Head != r.Head+1 || !cmp.Equal(got.Extremities, []int64{4, 5}) {
				t.Errorf("room is %+v, %v, %v", got, ok, err)
			}
			return nil
		})
	})
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
