package store_test

import (
	"slices"
	"testing"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
)

// JSON strings can have NUL, and addresses of requests what is not UTF-8; PostgreSQL's text has
// neither. Texts come back as they were, and no two are taken for the same.
func TestAnyTextIsKept(t *testing.T) {
	texts := []string{"", "a", "a\x00", "\x00a", "a\xff", "\xff", "\xffa", "\ue000", "\ue000\ue000", "\ue000\ue100", "a\ue000\x00", "\ue100", "�", "é"}
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		keys := map[store.StateKey]string{}
		update(t, s, func(tx *store.Tx) error {
			for _, text := range texts {
				key, err := tx.IDs.StateKey(event.StateTuple{Type: "t", Key: text})
				if err != nil {
					return err
				}
				if other, taken := keys[key]; taken {
					t.Errorf("%q is taken for %q", text, other)
				}
				keys[key] = text
				if _, err := tx.Devices.Insert(aliceUser, store.Device{ID: id.Device(text), DisplayName: text}); err != nil {
					return err
				}
			}
			return nil
		})
		update(t, s, func(tx *store.Tx) error {
			devices, err := tx.Devices.List(aliceUser)
			if err != nil {
				return err
			}
			var got []string
			for _, d := range devices {
				if got = append(got, string(d.ID)); d.DisplayName != string(d.ID) {
					t.Errorf("device %q is called %q", d.ID, d.DisplayName)
				}
			}
			if want := slices.Sorted(slices.Values(texts)); !slices.Equal(slices.Sorted(slices.Values(got)), want) {
				t.Errorf("devices %q", got)
			}
			valid := []id.Device{"a\x00", "é", "\ue000"}
			gone, err := tx.Devices.Delete(aliceUser, valid)
			if slices.Sort(gone); !slices.Equal(gone, valid[:len(gone)]) || len(gone) != len(valid) {
				t.Errorf("deleted %q", gone)
			}
			return err
		})
	})
}
