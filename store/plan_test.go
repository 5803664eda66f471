package store

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
)

// TestLocalMembersAreFoundByIndex: rooms have few local members and many others, so
// that a query for the local ones that goes through all of them costs as much as
// the room is large.
func TestLocalMembersAreFoundByIndex(t *testing.T) {
	s, err := Open(context.Background(), Options{SQLite: filepath.Join(t.TempDir(), "homeserver.db"), Server: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(t.Context(), func(tx *Tx) error {
		for query, want := range map[string]string{
			localJoined: "room_members_local", localOfRoom: "room_members_local", sharingLocal: "room_members_local",
			observers: "room_members_local", sharesAnyRoom: "room_members_local",
			serverSharesRoom: "room_members_of_user",
		} {
			args := make([]any, strings.Count(query, "$"))
			for i := range args {
				args[i] = 1
			}
			steps, err := list(tx, func(r scanner) (step string, err error) {
				var id, parent, unused int
				err = r.Scan(&id, &parent, &unused, &step)
				return step, err
			}, "EXPLAIN QUERY PLAN "+sqlite.only(query), args...)
			if err != nil {
				return err
			}
			if plan := strings.Join(steps, "\n"); !strings.Contains(plan, want) {
				t.Errorf("%s\nis\n%s", query, plan)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
