package store_test

import (
	"context"
	"errors"
	"testing"

	"hearth/matrix/event"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

func TestUpdateIsAllOrNothing(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		ctx := t.Context()
		refused := errors.New("refused")
		err := s.Update(ctx, func(tx *store.Tx) error {
			if _, err := tx.IDs.User("@alice:localhost"); err != nil {
				return err
			}
			return refused
		})
		if !errors.Is(err, refused) {
			t.Fatalf("got %v, want the function's own error", err)
		}
		if err := s.View(ctx, func(tx *store.Tx) error {
			if _, ok, err := tx.IDs.FindUser("@alice:localhost"); ok || err != nil {
				t.Errorf("a refused write left a user behind (%v)", err)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
}

// A caller that goes on while its function still runs would share variables with it.
func TestAWriteUnderWayIsAwaitedWhenItsRequestIsGone(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		ctx, gone := context.WithCancel(t.Context())
		n := 0
		err := s.Update(ctx, func(tx *store.Tx) error {
			gone()
			n++
			_, err := tx.IDs.Server("one.example")
			n++
			return err
		})
		if err != nil || n != 2 {
			t.Errorf("returned %v at step %d", err, n)
		}
		if err := s.Update(ctx, func(*store.Tx) error { n++; return nil }); !errors.Is(err, context.Canceled) || n != 2 {
			t.Errorf("a request that is gone writes: %v", err)
		}
	})
}

func TestPanicReachesTheCallerAndHurtsNobodyElse(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_ = s.Update(t.Context(), func(*store.Tx) error { panic("boom") })
		}()
		if err := s.Update(t.Context(), func(tx *store.Tx) error {
			_, err := tx.IDs.User("@bob:localhost")
			return err
		}); err != nil {
			t.Errorf("the next write failed: %v", err)
		}
	})
}

func TestStateKeysAreInjective(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		tuples := []event.StateTuple{
			{Type: event.TypeMember, Key: "@alice:localhost"}, {Type: event.TypeMember, Key: "@bob:elsewhere"},
			{Type: event.TypeName}, {Type: event.TypeName, Key: "x"}, {Type: "a", Key: "b:c"}, {Type: "a:b", Key: "c"},
		}
		seen := map[store.StateKey]event.StateTuple{}
		for _, k := range tuples {
			var key store.StateKey
			if err := s.Update(t.Context(), func(tx *store.Tx) (err error) { key, err = tx.IDs.StateKey(k); return }); err != nil {
				t.Fatal(err)
			}
			if other, taken := seen[key]; taken {
				t.Errorf("%v and %v share a key", k, other)
			}
			seen[key] = k
			if err := s.View(t.Context(), func(tx *store.Tx) error {
				back, err := tx.IDs.StateTuple(key)
				if back != k {
					t.Errorf("%v came back as %v", k, back)
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestPositionsAreCommitOrder(t *testing.T) {
	var commits []stream.Commit
	storetest.EachWith(t, func(c stream.Commit) func() { commits = append(commits, c); return func() {} }, func(t *testing.T, s *store.Store) {
		commits = nil
		for range 3 {
			if err := s.Update(t.Context(), func(tx *store.Tx) error {
				tx.NextPosition()
				tx.Touch(stream.Account, 0, 7)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
		}
		_ = s.Update(t.Context(), func(tx *store.Tx) error { tx.NextPosition(); return errors.New("no") })
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if len(commits) == 0 || commits[len(commits)-1].Position != 3 {
			t.Errorf("published %v, want the last position to be 3", commits)
		}
	})
}
