package store_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const aliceUser = id.User("@alice:localhost")

func TestUsersKeepWhatTheirRowSays(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			for _, want := range []bool{true, false} {
				made, err := tx.Users.Insert(store.User{Name: aliceUser, PasswordHash: "h", CreatedS: 5})
				if err != nil || made != want {
					t.Errorf("insert: %v %v", made, err)
				}
			}
			for _, err := range []error{tx.Users.SetAdmin(aliceUser, true), tx.Users.SetLocked(aliceUser, true), tx.Users.SetSuspended(aliceUser, true)} {
				if err != nil {
					return err
				}
			}
			u, ok, err := tx.Users.Get(aliceUser)
			want := store.User{Name: aliceUser, PasswordHash: "h", CreatedS: 5, Admin: true, Locked: true, Suspended: true}
			if !ok || u != want {
				t.Errorf("got %+v %v", u, err)
			}
			folded, err := tx.Users.GetAnyCase("@alice:localhost")
			if len(folded) != 1 {
				t.Errorf("any case: %v %v", folded, err)
			}
			if err := tx.Users.SetDeactivated(aliceUser, true); err != nil {
				return err
			}
			u, _, err = tx.Users.Get(aliceUser)
			if !u.Deactivated || u.PasswordHash != "" {
				t.Errorf("deactivated: %+v", u)
			}
			return err
		})
	})
}

func TestThreePIDsBelongToOneAccount(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			p := store.ThreePID{Medium: "email", Address: "a@example.org", ValidatedAt: 1, AddedAt: 2}
			for _, step := range []struct {
				user id.User
				want bool
			}{{aliceUser, true}, {"@bob:localhost", false}, {aliceUser, true}} {
				if ok, err := tx.Users.InsertThreePID(step.user, p); ok != step.want {
					t.Errorf("%s: %v %v", step.user, ok, err)
				}
			}
			owner, _, err := tx.Users.FindByThreePID("email", "a@example.org")
			if owner != aliceUser {
				t.Errorf("owner %s %v", owner, err)
			}
			return err
		})
	})
}

// An operator's sqlite3 program writes to the live file, and it counts at once.
func TestAnOperatorMakesAnAdminWithSQL(t *testing.T) {
	path := filepath.Join(t.TempDir(), "homeserver.db")
	s, err := store.Open(context.Background(), store.Options{SQLite: path, Server: "localhost"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	update(t, s, func(tx *store.Tx) error {
		if _, err := tx.Users.Insert(store.User{Name: aliceUser}); err != nil {
			return err
		}
		_, err := tx.Tokens.InsertAccess("secret", store.AccessToken{User: store.User{Name: aliceUser}, Device: "D"})
		return err
	})
	isAdmin := func() (admin bool) {
		err := s.View(context.Background(), func(tx *store.Tx) error {
			a, ok, err := tx.Tokens.FindAccess("secret")
			if !ok {
				t.Errorf("token not found: %v", err)
			}
			admin = a.User.Admin
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if isAdmin() {
		t.Fatal("admin before")
	}
	operator, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	var name string
	if err := operator.QueryRow(`select name from users`).Scan(&name); err != nil || name != string(aliceUser) {
		t.Errorf("select name: %q %v", name, err)
	}
	if _, err := operator.Exec(`UPDATE users SET admin=1 WHERE name='@alice:localhost'`); err != nil {
		t.Fatal(err)
	}
	if !isAdmin() {
		t.Error("no admin afterwards")
	}
	var token string
	if err := operator.QueryRow(`SELECT token FROM access_tokens`).Scan(&token); err != nil || token == "secret" {
		t.Errorf("the token itself is stored: %q %v", token, err)
	}
}

func TestTokensOfADeviceGoTogether(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			user := store.User{Name: aliceUser}
			if _, err := tx.Users.Insert(user); err != nil {
				return err
			}
			for _, d := range []id.Device{"A", "B"} {
				refresh, err := tx.Tokens.InsertRefresh("r"+string(d), store.RefreshToken{User: aliceUser, Device: d})
				if err != nil {
					return err
				}
				if _, err := tx.Tokens.InsertAccess("a"+string(d), store.AccessToken{User: user, Device: d, RefreshID: refresh}); err != nil {
					return err
				}
			}
			gone, err := tx.Tokens.DeleteOfDevices(aliceUser, []id.Device{"A", "X"})
			if err != nil || len(gone) != 1 {
				t.Errorf("gone %v %v", gone, err)
			}
			for token, want := range map[string]bool{"aA": false, "aB": true} {
				if _, ok, err := tx.Tokens.FindAccess(token); ok != want {
					t.Errorf("%s: %v %v", token, ok, err)
				}
			}
			b, _, err := tx.Tokens.FindAccess("aB")
			if err != nil {
				return err
			}
			if gone, err := tx.Tokens.DeleteAll(aliceUser, b.ID); len(gone) != 0 {
				t.Errorf("but one: %v %v", gone, err)
			}
			if _, ok, err := tx.Tokens.FindRefresh("rB"); !ok {
				t.Errorf("the kept session lost its refresh token: %v", err)
			}
			if gone, err := tx.Tokens.DeleteAll(aliceUser, 0); len(gone) != 1 || gone[0] != b.ID {
				t.Errorf("all: %v %v", gone, err)
			}
			if _, ok, err := tx.Tokens.FindRefresh("rB"); ok {
				t.Errorf("refresh token left: %v", err)
			}
			return nil
		})
	})
}

func TestLoginTokensWorkOnce(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			if err := tx.Tokens.InsertLogin("l", aliceUser, 0, 100); err != nil {
				return err
			}
			for _, want := range []bool{true, false} {
				if u, ok, err := tx.Tokens.TakeLogin("l", 50); ok != want {
					t.Errorf("%s %v %v", u, ok, err)
				}
			}
			if err := tx.Tokens.InsertLogin("late", aliceUser, 0, 100); err != nil {
				return err
			}
			if _, ok, err := tx.Tokens.TakeLogin("late", 100); ok {
				t.Errorf("expired token taken %v", err)
			}
			return nil
		})
	})
}

func TestRegistrationTokensCount(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			two := int64(2)
			if _, err := tx.Registration.InsertToken(store.RegistrationToken{Token: "x", UsesAllowed: &two, ExpiryMS: 100}); err != nil {
				return err
			}
			for i, step := range []struct {
				now  int64
				want bool
			}{{100, false}, {1, true}, {1, true}, {1, false}} {
				if ok, err := tx.Registration.UseToken("x", step.now); ok != step.want {
					t.Errorf("step %d: %v %v", i, ok, err)
				}
			}
			v, _, err := tx.Registration.GetToken("x")
			if v.Completed != 2 || *v.UsesAllowed != 2 {
				t.Errorf("%+v", v)
			}
			return err
		})
	})
}

func TestAccountDataTellsTheHub(t *testing.T) {
	var commits []stream.Commit
	storetest.EachWith(t, func(c stream.Commit) func() {
		commits = append(commits, c)
		return func() {}
	}, func(t *testing.T, s *store.Store) {
		commits = nil
		var nid store.UserNID
		update(t, s, func(tx *store.Tx) (err error) { nid, err = tx.IDs.User(aliceUser); return })
		update(t, s, func(tx *store.Tx) error { return tx.AccountData.Set(aliceUser, "m.direct", jsontext.Value(`{"b":1}`)) })
		update(t, s, func(tx *store.Tx) error {
			return tx.AccountData.SetRoom(aliceUser, "!r:localhost", "m.tag", jsontext.Value(`{"tags":{}}`))
		})
		var kinds []stream.Kind
		for _, c := range commits {
			for _, ch := range c.Changes {
				if !slices.Equal(ch.Users, []int64{nid}) {
					t.Errorf("told of %v", ch.Users)
				}
				kinds = append(kinds, ch.Kind)
			}
		}
		if !slices.Equal(kinds, []stream.Kind{stream.Account, stream.RoomAccount}) {
			t.Errorf("kinds %v", kinds)
		}
		err := s.View(context.Background(), func(tx *store.Tx) error {
			all, err := tx.AccountData.List(aliceUser, 0)
			if len(all) != 1 || string(all[0].Content) != `{"b":1}` {
				t.Errorf("%v %v", all, err)
			}
			rooms, err := tx.AccountData.ListRooms(aliceUser, all[0].Position)
			if len(rooms) != 1 || rooms[0].Room != "!r:localhost" {
				t.Errorf("%v %v", rooms, err)
			}
			later, err := tx.AccountData.ListRoom(aliceUser, "!r:localhost", rooms[0].Position)
			if len(later) != 0 {
				t.Errorf("%v", later)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestTheSameFilterHasTheSameID(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		update(t, s, func(tx *store.Tx) error {
			var ids []string
			for _, f := range []string{`{}`, `{"room":{}}`, `{}`} {
				n, err := tx.AccountData.InsertFilter(aliceUser, jsontext.Value(f))
				if err != nil {
					return err
				}
				ids = append(ids, n)
			}
			if !slices.Equal(ids, []string{"0", "1", "0"}) {
				t.Errorf("%v", ids)
			}
			if f, ok, err := tx.AccountData.GetFilter(aliceUser, "1"); !ok || string(f) != `{"room":{}}` {
				t.Errorf("%s %v", f, err)
			}
			_, ok, err := tx.AccountData.GetFilter("@bob:localhost", "0")
			if ok {
				t.Error("somebody else's filter")
			}
			return err
		})
	})
}
