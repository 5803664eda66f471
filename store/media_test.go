package store_test

import (
	"testing"

	"hearth/store"
	"hearth/store/storetest"
)

func TestMediaIDsAreFilledOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			if err := tx.Media.InsertPending("abc", "@alice:localhost", 100, true); err != nil {
				return err
			}
			m, ok, err := tx.Media.Find("", "abc")
			if !ok || m.Length != -1 || m.User != "@alice:localhost" || !m.Authenticated {
				t.Errorf("pending: %v %+v", ok, m)
			}
			if err != nil {
				return err
			}
			n, oldest, err := tx.Media.CountPending("@alice:localhost", 99)
			if n != 1 || oldest != 100 {
				t.Errorf("%d pending, oldest %d", n, oldest)
			}
			if err != nil {
				return err
			}
			for _, want := range []bool{true, false} {
				ok, err := tx.Media.Fill(store.MediaFile{ID: "abc", Type: "text/plain", Length: 5, Name: "a.txt", LastAccess: 200, SHA256: "ff"})
				if err != nil {
					return err
				}
				if ok != want {
					t.Errorf("fill: %v", ok)
				}
			}
			m, _, err = tx.Media.Find("", "abc")
			if m.Length != 5 || m.Name != "a.txt" || m.SHA256 != "ff" || m.Safe {
				t.Errorf("filled: %+v", m)
			}
			return err
		})
	})
}

func TestDeletingMediaTellsWhetherItsBytesAreNeeded(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			a := store.MediaFile{ID: "a", Length: 3, Created: 1, User: "@alice:localhost", SHA256: "ff"}
			b := store.MediaFile{Origin: "remote", ID: "a", Length: 3, Created: 2, SHA256: "ff", Authenticated: true}
			for _, m := range []store.MediaFile{a, b, b} {
				if err := tx.Media.Insert(m); err != nil {
					return err
				}
			}
			if got, ok, err := tx.Media.Find("remote", "a"); !ok || got.Origin != "remote" || !got.Authenticated || err != nil {
				t.Errorf("remote: %v %+v %v", ok, got, err)
			}
			for _, want := range []bool{true, false} {
				shared, err := tx.Media.Delete(a)
				if err != nil {
					return err
				}
				if shared != want {
					t.Errorf("shared: %v", shared)
				}
				a = b
			}
			return nil
		})
	})
}

func TestQuarantineSparesProtectedMedia(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			for _, name := range []string{"a", "b", "c"} {
				if err := tx.Media.Insert(store.MediaFile{ID: name, Length: 3, Created: 1, User: "@alice:localhost", SHA256: "ff"}); err != nil {
					return err
				}
			}
			if _, err := tx.Media.SetProtected("b", true); err != nil {
				return err
			}
			a, _, err := tx.Media.Find("", "a")
			if err != nil {
				return err
			}
			if n, err := tx.Media.SetQuarantine(a, "@admin:localhost"); n != 2 || err != nil {
				t.Errorf("quarantined %d, %v", n, err)
			}
			unused, err := tx.Media.ListUnusedLocal(10, 0, 10)
			if len(unused) != 0 {
				t.Errorf("to be removed: %+v", unused)
			}
			if err != nil {
				return err
			}
			files, total, err := tx.Media.ListOfUser("@alice:localhost", 2, 1)
			if len(files) != 2 || total != 3 {
				t.Errorf("%d of %d files", len(files), total)
			}
			if err != nil {
				return err
			}
			use, err := tx.Media.ListUse(10, 0)
			if len(use) != 1 || use[0] != (store.MediaUse{User: "@alice:localhost", Count: 3, Length: 9}) {
				t.Errorf("use: %+v", use)
			}
			return err
		})
	})
}
