package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
)

// users makes the nids of local users.
func users(t *testing.T, s *store.Store, names ...id.User) []store.UserNID {
	t.Helper()
	nids := make([]store.UserNID, len(names))
	update(t, s, func(tx *store.Tx) (err error) {
		for i, n := range names {
			if nids[i], err = tx.IDs.User(n); err != nil {
				return err
			}
		}
		return nil
	})
	return nids
}

func TestOneTimeKeysAreClaimedOnceInOrderOfUploads(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		alice := users(t, s, "@alice:localhost")[0]
		key := func(alg, kid string) store.OneTimeKey {
			return store.OneTimeKey{Algorithm: alg, ID: kid, Key: []byte(`"` + kid + `"`)}
		}
		update(t, s, func(tx *store.Tx) error {
			if err := tx.DeviceKeys.InsertOneTime(alice, "A", []store.OneTimeKey{key("x", "9"), key("y", "1")}); err != nil {
				return err
			}
			return tx.DeviceKeys.InsertOneTime(alice, "A", []store.OneTimeKey{key("x", "3"), key("x", "2")})
		})
		var got []string
		update(t, s, func(tx *store.Tx) error {
			counts, err := tx.DeviceKeys.CountOneTime(alice, "A")
			if diff := cmp.Diff(map[string]int64{"x": 3, "y": 1}, counts); err != nil || diff != "" {
				t.Errorf("counts: %v %s", err, diff)
			}
			for range 4 {
				k, ok, err := tx.DeviceKeys.ClaimOneTime(alice, "A", "x")
				if err != nil {
					return err
				}
				if ok {
					got = append(got, k.ID+string(k.Key))
				}
			}
			_, ok, err := tx.DeviceKeys.ClaimOneTime(alice, "B", "y")
			if ok {
				t.Error("another device's key was claimed")
			}
			return err
		})
		if diff := cmp.Diff([]string{`9"9"`, `2"2"`, `3"3"`}, got); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFallbackKeysAreMarkedUsedUntilReplaced(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		alice := users(t, s, "@alice:localhost")[0]
		steps := []struct {
			what   string
			set    string
			unused int
		}{{"new", "1", 1}, {"used", "", 0}, {"the same again", "1", 0}, {"another", "2", 1}}
		for _, step := range steps {
			update(t, s, func(tx *store.Tx) error {
				if step.set == "" {
					k, ok, err := tx.DeviceKeys.ClaimFallback(alice, "A", "x")
					if !ok || k.ID != "1" {
						t.Errorf("claimed %+v, %v", k, ok)
					}
					return err
				}
				return tx.DeviceKeys.SetFallback(alice, "A", store.OneTimeKey{Algorithm: "x", ID: step.set, Key: []byte(`"k"`)})
			})
			view(t, s, func(tx *store.Tx) error {
				unused, err := tx.DeviceKeys.UnusedFallbacks(alice, "A")
				if len(unused) != step.unused {
					t.Errorf("%s: unused are %v", step.what, unused)
				}
				return err
			})
		}
	})
}

func TestDeletingADeviceTakesItsKeys(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		alice := users(t, s, "@alice:localhost")[0]
		update(t, s, func(tx *store.Tx) error {
			for _, d := range []id.Device{"A", "B"} {
				if err := tx.DeviceKeys.Set(alice, d, []byte(`{"d":"`+d+`"}`)); err != nil {
					return err
				}
			}
			if err := tx.DeviceKeys.InsertOneTime(alice, "A", []store.OneTimeKey{{Algorithm: "x", ID: "1", Key: []byte("1")}}); err != nil {
				return err
			}
			had, err := tx.DeviceKeys.Delete(alice, "A")
			if !had {
				t.Error("the device had keys")
			}
			return err
		})
		view(t, s, func(tx *store.Tx) error {
			keys, err := tx.DeviceKeys.List(alice)
			if diff := cmp.Diff([]store.DeviceKey{{Device: "B", Keys: []byte(`{"d":"B"}`)}}, keys); diff != "" {
				t.Error(diff)
			}
			return err
		})
	})
}

func TestSignaturesAreSeenBySignerAndOwnerOnly(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		u := users(t, s, "@alice:localhost", "@bob:localhost", "@charlie:localhost")
		alice, bob, charlie := u[0], u[1], u[2]
		set := func(signer store.UserNID, sig string) (fresh bool) {
			update(t, s, func(tx *store.Tx) (err error) {
				fresh, err = tx.CrossSigning.SetSignature(store.KeySignature{Target: alice, TargetKey: "M", Signer: signer, SigningKey: "ed25519:k", Signature: sig})
				return err
			})
			return fresh
		}
		if !set(alice, "own") || !set(bob, "by bob") || set(bob, "by bob") || !set(bob, "by bob again") {
			t.Error("only new signatures are new")
		}
		for viewer, want := range map[store.UserNID][]string{alice: {"own"}, bob: {"own", "by bob again"}, charlie: {"own"}} {
			view(t, s, func(tx *store.Tx) error {
				sigs, err := tx.CrossSigning.Signatures(alice, viewer)
				var got []string
				for _, x := range sigs {
					got = append(got, x.Signature)
				}
				if diff := cmp.Diff(want, got); diff != "" {
					t.Errorf("viewer %d: %s", viewer, diff)
				}
				return err
			})
		}
	})
}

func TestToDeviceQueue(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		alice := users(t, s, "@alice:localhost")[0]
		update(t, s, func(tx *store.Tx) error {
			for _, e := range []string{"1", "2", "3"} {
				if err := tx.ToDevice.Insert(alice, "A", []byte(e)); err != nil {
					return err
				}
			}
			return tx.ToDevice.Insert(alice, "B", []byte("other"))
		})
		texts := func(after, upTo int64, limit int) (got string) {
			view(t, s, func(tx *store.Tx) error {
				msgs, err := tx.ToDevice.List(alice, "A", after, upTo, limit)
				for _, m := range msgs {
					got += string(m.Event)
				}
				return err
			})
			return got
		}
		if got := texts(0, 10, 2); got != "12" {
			t.Errorf("limited: %s", got)
		}
		if got := texts(1, 2, 10); got != "2" {
			t.Errorf("between: %s", got)
		}
		update(t, s, func(tx *store.Tx) error {
			return tx.ToDevice.DeleteUpTo(alice, "A", 2)
		})
		if got := texts(0, 10, 10); got != "3" {
			t.Errorf("after acknowledgement: %s", got)
		}
		update(t, s, func(tx *store.Tx) error {
			for i, want := range []bool{true, false} {
				if fresh, err := tx.ToDevice.InsertTransaction(alice, "A", "m.x", "t", 100); fresh != want || err != nil {
					t.Errorf("transaction %d: %v, %v", i, fresh, err)
				}
			}
			if err := tx.ToDevice.ExpireTransactions(101); err != nil {
				return err
			}
			fresh, err := tx.ToDevice.InsertTransaction(alice, "A", "m.x", "t", 200)
			if !fresh {
				t.Error("an expired transaction is remembered")
			}
			return err
		})
	})
}

func TestKeyBackupVersionsAndSessions(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		alice := users(t, s, "@alice:localhost")[0]
		update(t, s, func(tx *store.Tx) error {
			for want := int64(1); want <= 2; want++ {
				if v, err := tx.KeyBackup.Insert(alice, "alg", []byte(`{}`)); v != want || err != nil {
					t.Errorf("version %d, %v", v, err)
				}
			}
			for _, x := range []store.BackupSession{{Room: "!a:x", Session: "1", Data: []byte("{}")}, {Room: "!a:x", Session: "2", Data: []byte("{}")},
				{Room: "!b:x", Session: "1", Verified: true, FirstMessageIndex: 4, ForwardedCount: 5, Data: []byte(`{"b":1}`)}} {
				if err := tx.KeyBackup.SetSession(alice, 2, x); err != nil {
					return err
				}
			}
			return tx.KeyBackup.Advance(alice, 2, 3)
		})
		view(t, s, func(tx *store.Tx) error {
			cur, ok, err := tx.KeyBackup.Current(alice)
			if diff := cmp.Diff(store.BackupVersion{Version: 2, Algorithm: "alg", AuthData: []byte("{}"), ETag: 1, Count: 3}, cur); !ok || err != nil || diff != "" {
				t.Errorf("%v, %v: %s", ok, err, diff)
			}
			one, ok, err := tx.KeyBackup.GetSession(alice, 2, "!b:x", "1")
			want := store.BackupSession{Room: "!b:x", Session: "1", Verified: true, FirstMessageIndex: 4, ForwardedCount: 5, Data: []byte(`{"b":1}`)}
			if diff := cmp.Diff(want, one); !ok || err != nil || diff != "" {
				t.Errorf("%v, %v: %s", ok, err, diff)
			}
			for room, n := range map[id.Room]int{"": 3, "!a:x": 2, "!c:x": 0} {
				if got, err := tx.KeyBackup.Sessions(alice, 2, room); len(got) != n || err != nil {
					t.Errorf("room %q has %d, %v", room, len(got), err)
				}
			}
			return nil
		})
		update(t, s, func(tx *store.Tx) error {
			if n, err := tx.KeyBackup.DeleteSessions(alice, 2, "!a:x", "1"); n != 1 || err != nil {
				t.Errorf("deleted %d, %v", n, err)
			}
			return tx.KeyBackup.Delete(alice, 2)
		})
		view(t, s, func(tx *store.Tx) error {
			cur, _, err := tx.KeyBackup.Current(alice)
			if cur.Version != 1 || err != nil {
				t.Errorf("after deletion of 2 the current is %d, %v", cur.Version, err)
			}
			old, ok, err := tx.KeyBackup.Get(alice, 2)
			if !ok || !old.Deleted || err != nil {
				t.Errorf("deleted: %+v, %v, %v", old, ok, err)
			}
			left, err := tx.KeyBackup.Sessions(alice, 2, "")
			if len(left) != 0 {
				t.Errorf("keys are left: %v", left)
			}
			return err
		})
	})
}

func TestReceiptsAreDeltasAndPrivateOnesHidden(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		u := users(t, s, "@alice:localhost", "@bob:localhost")
		alice, bob := u[0], u[1]
		set := func(user store.UserNID, private bool, thread string, e id.Event) {
			update(t, s, func(tx *store.Tx) error {
				return tx.Receipts.Set(store.Receipt{Room: 1, User: user, Private: private, Thread: thread, Event: e, EventPosition: 7, TS: 5, Position: tx.NextPosition()})
			})
		}
		set(alice, false, "", "$1:x")
		set(alice, true, "", "$2:x")
		set(bob, false, "main", "$3:x")
		set(alice, false, "", "$4:x")
		events := func(viewer store.UserNID, after, upTo int64) (got []id.Event) {
			view(t, s, func(tx *store.Tx) error {
				rs, err := tx.Receipts.InRoom(1, viewer, after, upTo)
				for _, r := range rs {
					got = append(got, r.Event)
				}
				return err
			})
			return got
		}
		for _, c := range []struct {
			viewer      store.UserNID
			after, upTo int64
			want        []id.Event
		}{
			{alice, 0, 10, []id.Event{"$2:x", "$3:x", "$4:x"}},
			{bob, 0, 10, []id.Event{"$3:x", "$4:x"}},
			{bob, 3, 10, []id.Event{"$4:x"}},
			{bob, 0, 3, []id.Event{"$3:x"}},
		} {
			if diff := cmp.Diff(c.want, events(c.viewer, c.after, c.upTo)); diff != "" {
				t.Errorf("%+v: %s", c, diff)
			}
		}
		view(t, s, func(tx *store.Tx) error {
			r, ok, err := tx.Receipts.Get(1, bob, false, "main")
			want := store.Receipt{Room: 1, User: bob, Thread: "main", Event: "$3:x", EventPosition: 7, TS: 5, Position: 3}
			if diff := cmp.Diff(want, r); !ok || diff != "" {
				t.Errorf("%v %s", ok, diff)
			}
			mine, err2 := tx.Receipts.OfUser(1, alice)
			if len(mine) != 2 {
				t.Errorf("alice has %d receipts", len(mine))
			}
			if err == nil {
				err = err2
			}
			return err
		})
	})
}

func TestPresenceIsSaved(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		alice := users(t, s, "@alice:localhost")[0]
		want := store.PresenceState{User: alice, State: "offline", StatusMsg: "away", LastActiveTS: 9}
		update(t, s, func(tx *store.Tx) error {
			if err := tx.Presence.Set(store.PresenceState{User: alice, State: "online"}); err != nil {
				return err
			}
			return tx.Presence.Set(want)
		})
		view(t, s, func(tx *store.Tx) error {
			got, ok, err := tx.Presence.Get(alice)
			if diff := cmp.Diff(want, got); !ok || diff != "" {
				t.Errorf("%v %s", ok, diff)
			}
			return err
		})
	})
}

// TestDeviceListFacts covers what device_lists of a sync is made from.
func TestDeviceListFacts(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		u := users(t, s, "@alice:localhost", "@bob:localhost", "@charlie:localhost", "@dora:remote")
		alice, bob, charlie, dora := u[0], u[1], u[2], u[3]
		var room, other store.RoomNID
		update(t, s, func(tx *store.Tx) (err error) {
			if room, err = tx.Rooms.Insert("!a:x", "@alice:localhost", "12"); err != nil {
				return err
			}
			if other, err = tx.Rooms.Insert("!b:x", "@alice:localhost", "12"); err != nil {
				return err
			}
			typ, err := tx.IDs.Type(event.TypeMember)
			if err != nil {
				return err
			}
			for i, m := range []struct {
				room store.RoomNID
				user store.UserNID
				what store.Membership
			}{{room, alice, store.Join}, {room, bob, store.Join}, {room, dora, store.Join}, {other, charlie, store.Join}, {room, charlie, store.Leave}} {
				pos := tx.NextPosition()
				e := store.Event{NID: int64(i + 1), Room: m.room, Position: pos, ID: id.Event("$" + string(rune('a'+i)) + ":x"), Sender: m.user, Type: typ, Key: store.MemberKey(m.user), IsState: true, JSON: []byte("{}")}
				if err := tx.Events.Insert(e); err != nil {
					return err
				}
				if err := tx.Members.Set(store.Member{Room: m.room, User: m.user, Membership: m.what, Event: e.NID, Position: pos, Local: m.user != dora}); err != nil {
					return err
				}
				r, _, err := tx.Rooms.GetNID(m.room)
				if err != nil {
					return err
				}
				r.LastPosition = pos
				if err := tx.Rooms.Advance(r); err != nil {
					return err
				}
			}
			for _, who := range u { // positions 6 to 9
				if err := tx.DeviceLists.Set(who, "D", tx.NextPosition()); err != nil {
					return err
				}
			}
			return tx.DeviceLists.SetSigned(alice, charlie, tx.NextPosition())
		})
		view(t, s, func(tx *store.Tx) error {
			check := func(what string, got []int64, err error, want ...int64) {
				t.Helper()
				if diff := cmp.Diff(want, got); err != nil || diff != "" {
					t.Errorf("%s: %v %s", what, err, diff)
				}
			}
			got, err := tx.DeviceLists.Changed(bob, 0)
			check("changed for bob", got, err, alice, bob, dora)
			got, err = tx.DeviceLists.Changed(bob, 6)
			check("changed for bob later", got, err, bob, dora)
			got, err = tx.DeviceLists.Changed(alice, 9)
			check("signed by alice", got, err, charlie)
			got, err = tx.DeviceLists.Observers(dora)
			check("observers of dora", got, err, alice, bob)
			got, err = tx.DeviceLists.MembersChanged(room, 1)
			check("members changed", got, err, bob, charlie, dora)
			for since, want := range map[int64]bool{1: false, 2: true} {
				if ok, err := tx.DeviceLists.SharedSince(alice, bob, since); ok != want || err != nil {
					t.Errorf("shared since %d: %v, %v", since, ok, err)
				}
			}
			devices, err := tx.DeviceLists.Devices(7, 9, 10)
			if diff := cmp.Diff([]store.DeviceListChange{{User: charlie, Device: "D", Position: 8}, {User: dora, Device: "D", Position: 9}}, devices); diff != "" {
				t.Error(diff)
			}
			return err
		})
	})
}
