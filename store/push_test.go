package store_test

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

func TestPushRulesAreStoredWithAPosition(t *testing.T) {
	var commits []stream.Commit
	storetest.EachWith(t, func(c stream.Commit) func() { commits = append(commits, c); return func() {} }, func(t *testing.T, s *store.Store) {
		commits = nil
		var first, second int64
		update(t, s, func(tx *store.Tx) (err error) {
			first, err = tx.Push.SetRules("@alice:localhost", []byte(`{"a":1}`))
			return
		})
		update(t, s, func(tx *store.Tx) (err error) {
			second, err = tx.Push.SetRules("@alice:localhost", []byte(`{"a":2}`))
			return
		})
		view(t, s, func(tx *store.Tx) error {
			got, ok, err := tx.Push.Rules("@alice:localhost")
			if want := (store.StoredRules{JSON: []byte(`{"a":2}`), Position: second}); !ok || err != nil || cmp.Diff(want, got) != "" || second <= first {
				t.Errorf("rules are %s at %d, %v, %v", got.JSON, got.Position, ok, err)
			}
			_, ok, err = tx.Push.Rules("@bob:localhost")
			if ok || err != nil {
				t.Errorf("bob has rules: %v, %v", ok, err)
			}
			return nil
		})
		if len(commits) != 2 || commits[1].Changes[0].Kind != stream.Account || commits[1].Changes[0].Position != second {
			t.Errorf("the hub heard %+v", commits)
		}
	})
}

func TestPushers(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		pusher := func(u id.User, device id.Device, key string) store.Pusher {
			return store.Pusher{User: u, Device: device, PushKey: key, AppID: "app", Kind: "http", Lang: "en", Data: jsontext.Value(`{"url":"u"}`), Enabled: true, SetMS: 5, TokenID: 7}
		}
		keys := func(u id.User) (keys []string) {
			view(t, s, func(tx *store.Tx) error {
				all, err := tx.Push.Pushers(u)
				for _, p := range all {
					keys = append(keys, p.PushKey+" "+p.Lang)
				}
				return err
			})
			return keys
		}
		want := func(u id.User, want ...string) {
			t.Helper()
			if diff := cmp.Diff(want, keys(u)); diff != "" {
				t.Errorf("pushers of %s: %s", u, diff)
			}
		}
		update(t, s, func(tx *store.Tx) error {
			changed := pusher("@alice:localhost", "A", "k1")
			changed.Lang = "de"
			for _, p := range []store.Pusher{
				pusher("@alice:localhost", "A", "k1"), pusher("@alice:localhost", "B", "k2"), pusher("@alice:localhost", "", "k3"),
				pusher("@bob:localhost", "A", "k1"), changed,
			} {
				if err := tx.Push.SetPusher(p); err != nil {
					return err
				}
			}
			return nil
		})
		want("@alice:localhost", "k1 de", "k2 en", "k3 en")
		view(t, s, func(tx *store.Tx) error {
			all, err := tx.Push.Pushers("@bob:localhost")
			if diff := cmp.Diff([]store.Pusher{pusher("@bob:localhost", "A", "k1")}, all); diff != "" || err != nil {
				t.Errorf("%v %s", err, diff)
			}
			return nil
		})
		update(t, s, func(tx *store.Tx) error { return tx.Push.DeletePushersOn("@alice:localhost", []id.Device{"B", "C"}) })
		want("@alice:localhost", "k1 de", "k3 en")
		update(t, s, func(tx *store.Tx) error { return tx.Push.DeleteOtherPushers("@alice:localhost", "app", "k1") })
		want("@bob:localhost")
		update(t, s, func(tx *store.Tx) error { return tx.Push.DeletePusher("@alice:localhost", "app", "k1") })
		want("@alice:localhost", "k3 en")
		update(t, s, func(tx *store.Tx) error { return tx.Push.DeleteAll("@alice:localhost") })
		want("@alice:localhost")
	})
}

func TestWhatCountingNeeds(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		var alice store.UserNID
		rooms := make([]store.RoomNID, 3)
		update(t, s, func(tx *store.Tx) (err error) {
			if alice, err = tx.IDs.User("@alice:localhost"); err != nil {
				return err
			}
			for i, name := range []id.Room{"!quiet:localhost", "!busy:localhost", "!left:localhost"} {
				if rooms[i], err = tx.Rooms.Insert(name, "@alice:localhost", "12"); err != nil {
					return err
				}
				m := store.Member{Room: rooms[i], User: alice, Membership: store.Join, Position: int64(i + 1), Local: true}
				if i == 2 {
					m.Membership = store.Leave
				}
				if err := tx.Members.Set(m); err != nil {
					return err
				}
				if err := tx.Rooms.Advance(store.Room{NID: rooms[i], LastPosition: int64(10 * (i + 1))}); err != nil {
					return err
				}
			}
			for nid, relType := range []string{"m.thread", "m.reference", "m.thread"} {
				err := tx.Relations.Insert(store.Relation{Event: int64(nid + 1), Room: rooms[0], Target: "$root", RelType: relType, Position: int64(nid + 5)})
				if err != nil {
					return err
				}
			}
			for _, position := range []int64{7, 8} {
				if err := tx.Followers.SetPosition("f", position); err != nil {
					return err
				}
				if err := tx.Push.SetTally(alice, rooms[0], []byte{1, byte(position)}); err != nil {
					return err
				}
			}
			return nil
		})
		view(t, s, func(tx *store.Tx) error {
			joined, err := tx.Push.RoomsByActivity(alice)
			want := []store.JoinedRoom{{Room: rooms[1], JoinPosition: 2, LastPosition: 20}, {Room: rooms[0], JoinPosition: 1, LastPosition: 10}}
			if diff := cmp.Diff(want, joined); diff != "" || err != nil {
				t.Errorf("%v %s", err, diff)
			}
			relations, err := tx.Relations.Between(rooms[0], 5, 7)
			if err != nil || len(relations) != 2 || relations[0].Position != 6 || relations[1].Position != 7 {
				t.Errorf("%v %+v", err, relations)
			}
			if position, ok, err := tx.Followers.Position("f"); position != 8 || !ok || err != nil {
				t.Errorf("follower: %d %v %v", position, ok, err)
			}
			if _, ok, err := tx.Followers.Position("g"); ok || err != nil {
				t.Errorf("unknown follower: %v %v", ok, err)
			}
			if tally, ok, err := tx.Push.Tally(alice, rooms[0]); !ok || err != nil || cmp.Diff([]byte{1, 8}, tally) != "" {
				t.Errorf("tally: %v %v %v", tally, ok, err)
			}
			_, ok, err := tx.Push.Tally(alice, rooms[1])
			if ok {
				t.Error("a tally of another room was found")
			}
			return err
		})
	})
}
