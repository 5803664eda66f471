package store_test

import (
	"testing"

	"hearth/store"
	"hearth/store/storetest"
)

func TestServerKeys(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			for _, k := range []store.ServerKey{{ID: "ed25519:1", Public: []byte{1}, ValidUntil: 5}, {ID: "ed25519:2", Public: []byte{2}}, {ID: "ed25519:1", Public: []byte{3}, ValidUntil: 1 << 50, Expired: 7}} {
				if err := tx.ServerKeys.Set("a.example", k); err != nil {
					return err
				}
			}
			if err := tx.ServerKeys.Delete("a.example", "ed25519:2"); err != nil {
				return err
			}
			if err := tx.ServerKeys.SetDocument("a.example", 5, []byte("{}")); err != nil {
				return err
			}
			return tx.ServerKeys.SetDocument("a.example", 6, []byte(`{"a":1}`))
		})
		if err != nil {
			t.Fatal(err)
		}
		err = s.View(t.Context(), func(tx *store.Tx) error {
			keys, err := tx.ServerKeys.List("a.example")
			if err != nil {
				return err
			}
			if len(keys) != 1 || keys[0].ID != "ed25519:1" || string(keys[0].Public) != "\x03" || keys[0].ValidUntil != 1<<50 || keys[0].Expired != 7 {
				t.Errorf("keys %+v", keys)
			}
			if doc, ok, err := tx.ServerKeys.FindDocument("a.example"); err != nil || !ok || string(doc) != `{"a":1}` {
				t.Errorf("document %s, %v, %v", doc, ok, err)
			}
			if _, ok, err := tx.ServerKeys.FindDocument("b.example"); err != nil || ok {
				t.Error(ok, err)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
}
