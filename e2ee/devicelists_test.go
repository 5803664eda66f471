package e2ee_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/e2ee"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

func (w *world) lists(u id.User, after int64) e2ee.DeviceLists {
	w.t.Helper()
	lists, err := w.GetKeysChanges(w.t.Context(), u, after)
	w.must(err)
	return lists
}

func (w *world) leave(r id.Room, u id.User) {
	w.t.Helper()
	w.must(w.rooms.Leave(w.t.Context(), room.Change{Room: r, Sender: u}))
}

func (w *world) join(r id.Room, u id.User) {
	w.t.Helper()
	w.must(w.rooms.Join(w.t.Context(), room.Change{Room: r, Sender: u}))
}

// TestDeviceListsOfASync tells what alice sees when something happens after her last sync.
func TestDeviceListsOfASync(t *testing.T) {
	none := []id.User{}
	for _, c := range []struct {
		what    string
		before  func(w *world) id.Room
		happens func(w *world, r id.Room)
		changed []id.User
		left    []id.User
	}{
		{"a friend has new keys", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.publish(bob, "bob") }, []id.User{bob}, none},
		{"a stranger has new keys", func(w *world) id.Room { return "" },
			func(w *world, r id.Room) { w.publish(bob, "bob") }, none, none},
		{"she has new keys herself", func(w *world) id.Room { return "" },
			func(w *world, r id.Room) { w.publish(alice, "alice") }, []id.User{alice}, none},
		{"a friend has cross-signing keys", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.crossSign(bob, "b") }, []id.User{bob}, none},
		{"the same keys are uploaded again", func(w *world) id.Room { w.publish(bob, "bob"); return w.share(alice, bob) },
			func(w *world, r id.Room) { w.publish(bob, "bob") }, none, none},
		{"somebody joins her room", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.join(r, charlie) }, []id.User{charlie}, none},
		{"a friend joins another room of hers", func(w *world) id.Room { w.share(alice, bob); return w.share(alice) },
			func(w *world, r id.Room) { w.join(r, bob) }, none, none},
		{"she joins a room", func(w *world) id.Room { return w.share(bob, charlie) },
			func(w *world, r id.Room) { w.join(r, alice) }, []id.User{alice, bob, charlie}, none},
		{"she joins a room where nobody is new to her", func(w *world) id.Room { w.share(alice, bob); return w.share(bob) },
			func(w *world, r id.Room) { w.join(r, alice) }, none, none},
		{"a friend leaves the only room", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.leave(r, bob) }, none, []id.User{bob}},
		{"a friend leaves one of two rooms", func(w *world) id.Room { w.share(bob, alice); return w.share(alice, bob) },
			func(w *world, r id.Room) { w.leave(r, bob) }, none, none},
		{"she leaves", func(w *world) id.Room { return w.share(alice, bob, charlie) },
			func(w *world, r id.Room) { w.leave(r, alice) }, none, []id.User{bob, charlie}},
		{"she leaves one of two rooms", func(w *world) id.Room { w.share(bob, alice); return w.share(alice, bob, charlie) },
			func(w *world, r id.Room) { w.leave(r, alice) }, none, []id.User{charlie}},
		{"both leave", func(w *world) id.Room { return w.share(charlie, alice, bob) },
			func(w *world, r id.Room) { w.leave(r, alice); w.leave(r, bob) }, none, []id.User{bob, charlie}},
		{"a friend is kicked", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) {
				w.must(w.rooms.Kick(w.t.Context(), room.Change{Room: r, Sender: alice, Target: bob}))
			}, none, []id.User{bob}},
		{"a friend leaves and returns", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.leave(r, bob); w.join(r, bob) }, []id.User{bob}, none},
		{"she leaves and returns", func(w *world) id.Room { return w.share(bob, alice) },
			func(w *world, r id.Room) { w.leave(r, alice); w.join(r, alice) }, []id.User{alice, bob}, none},
		{"somebody comes and goes", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.join(r, charlie); w.leave(r, charlie) }, none, none},
		{"somebody refuses her invitation", func(w *world) id.Room { return w.share(alice) },
			func(w *world, r id.Room) {
				w.must(w.rooms.Invite(w.t.Context(), room.Change{Room: r, Sender: alice, Target: bob}))
				w.leave(r, bob)
			}, none, none},
		{"a friend leaves and makes new keys", func(w *world) id.Room { return w.share(alice, bob) },
			func(w *world, r id.Room) { w.leave(r, bob); w.publish(bob, "bob") }, none, []id.User{bob}},
	} {
		t.Run(c.what, func(t *testing.T) {
			w := newWorld(t)
			r := c.before(w)
			since := w.position()
			c.happens(w, r)
			got := w.lists(alice, since)
			if diff := cmp.Diff(e2ee.DeviceLists{Changed: c.changed, Left: c.left}, got); diff != "" {
				t.Error(diff)
			}
			if again := w.lists(alice, w.position()); len(again.Changed)+len(again.Left) != 0 {
				t.Errorf("told again: %+v", again)
			}
			if r == "" {
				return
			}
			w.view(func(tx *store.Tx) error {
				nid, _, err := tx.Rooms.Find(r)
				if err != nil {
					return err
				}
				hinted, err := e2ee.GetDeviceLists(tx, w.nid(alice), since, []store.RoomNID{nid})
				if diff := cmp.Diff(got, hinted); diff != "" {
					t.Errorf("with the room named: %s", diff)
				}
				return err
			})
		})
	}
}

// TestSigningAnotherUserIsSeenByTheSignerOnly: her other devices hear of it, nobody else.
func TestSigningAnotherUserIsSeenByTheSignerOnly(t *testing.T) {
	w := newWorld(t)
	w.share(alice, bob, charlie)
	_, _, user := w.crossSign(alice, "a")
	master, _, _ := w.crossSign(bob, "b")
	since := w.position()
	object := w.sign(string(w.crossKey(bob, "master", master, nil)), alice, public(user), user)
	failures, err := w.UploadSignatures(t.Context(), alice, map[id.User]map[string]jsontext.Value{bob: {public(master): object}})
	w.must(err)
	if len(failures) != 0 {
		t.Fatal(failures)
	}
	for u, want := range map[id.User][]id.User{alice: {bob}, bob: {}, charlie: {}} {
		if diff := cmp.Diff(want, w.lists(u, since).Changed); diff != "" {
			t.Errorf("%s: %s", u, diff)
		}
		if told := w.heard[stream.DeviceList][w.nid(u)] > since; told != (u == alice) {
			t.Errorf("%s was told: %v", u, told)
		}
	}
}

func TestDeviceListsOnPostgres(t *testing.T) {
	w := newWorldOn(t, storetest.OpenPostgres(t, nil), nil)
	r := w.share(alice, bob)
	since := w.position()
	w.publish(bob, "bob")
	w.join(r, charlie)
	if diff := cmp.Diff(e2ee.DeviceLists{Changed: []id.User{bob, charlie}, Left: []id.User{}}, w.lists(alice, since)); diff != "" {
		t.Error(diff)
	}
	since = w.position()
	w.leave(r, alice)
	if diff := cmp.Diff(e2ee.DeviceLists{Changed: []id.User{}, Left: []id.User{bob, charlie}}, w.lists(alice, since)); diff != "" {
		t.Error(diff)
	}
}
