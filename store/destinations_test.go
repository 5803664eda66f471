package store_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"hearth/store"
	"hearth/store/storetest"
)

func TestDestinations(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		slow := store.Destination{Server: 3, Sent: 70, Attempt: 75}
		dead := store.Destination{Server: 2, Sent: 50, RetryIntervalMS: 10, RetryAfterTS: 20, FailingSinceTS: 30}
		check := func(want int64, wantAny bool, rows ...store.Destination) {
			t.Helper()
			err := s.View(t.Context(), func(tx *store.Tx) error {
				got, err := tx.Destinations.List()
				if diff := cmp.Diff(rows, got); diff != "" {
					t.Errorf("rows: %s", diff)
				}
				if least, any, err := tx.Destinations.LeastSent(); least != want || any != wantAny || err != nil {
					t.Errorf("least sent: %d %t %v", least, any, err)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		check(0, false)
		update(t, s, func(tx *store.Tx) error { return tx.Destinations.Set(slow) })
		update(t, s, func(tx *store.Tx) error { return tx.Destinations.Set(dead) })
		check(50, true, dead, slow)
		slow.Sent = 80
		update(t, s, func(tx *store.Tx) error { return tx.Destinations.Set(slow) })
		update(t, s, func(tx *store.Tx) error { return tx.Destinations.Delete(2) })
		check(80, true, slow)
	})
}

func TestOutgoingItemsAndTheirAges(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			set, err := tx.Outgoing.Set([]store.ServerNID{1, 2})
			for _, i := range []store.OutgoingItem{{Position: 5, Room: 1, Event: 9, Set: set}, {Position: 6, EDU: []byte("{}"), Set: set}, {Position: 7, Room: 1, Event: 10, Set: set}} {
				if err == nil {
					err = tx.Outgoing.Insert(i)
				}
			}
			for ts, position := range map[int64]int64{100: 4, 200: 6, 300: 7} {
				if err == nil {
					err = tx.Outgoing.SetAge(ts, position)
				}
			}
			return err
		})
		age := func(tx *store.Tx, ts, want int64, known bool) {
			t.Helper()
			if p, ok, err := tx.Outgoing.PositionAt(ts); p != want || ok != known || err != nil {
				t.Errorf("at %d: %d %t %v", ts, p, ok, err)
			}
		}
		update(t, s, func(tx *store.Tx) error {
			age(tx, 99, 0, false)
			age(tx, 250, 6, true)
			if err := tx.Outgoing.ForgetAges(250); err != nil {
				return err
			}
			age(tx, 150, 0, false)
			age(tx, 250, 6, true)
			if first, any, err := tx.Outgoing.First(); first != 5 || !any || err != nil {
				t.Errorf("first: %d %t %v", first, any, err)
			}
			if err := tx.Outgoing.DeleteEvents(6); err != nil {
				return err
			}
			if edu, ok, err := tx.Outgoing.EDU(6); string(edu) != "{}" || !ok || err != nil {
				t.Errorf("EDU: %q %t %v", edu, ok, err)
			}
			places, err := tx.Outgoing.Places(0, 100, 10)
			if len(places) != 2 || places[0].Position != 6 || places[1].Event != 10 {
				t.Errorf("places: %+v", places)
			}
			return err
		})
	})
}
