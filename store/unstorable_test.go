package store_test

import (
	"fmt"
	"testing"

	"hearth/store"
	"hearth/store/storetest"
)

func TestOnlyWhatIsWrittenIsUnstorable(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		write := func(nid store.EventNID) error {
			return s.Update(t.Context(), func(tx *store.Tx) error {
				return tx.Events.Insert(store.Event{NID: nid, Room: 1, Position: tx.NextPosition(), ID: "$a", Sender: 1, Type: 1, JSON: []byte(`{}`)})
			})
		}
		if err := write(1); err != nil || store.Unstorable(err) {
			t.Errorf("what is stored: %v", err)
		}
		if err := write(1); !store.Unstorable(fmt.Errorf("write: %w", err)) {
			t.Errorf("what is there: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := write(3); err == nil || store.Unstorable(err) {
			t.Errorf("a closed store: %v", err)
		}
	})
}
