package e2ee_test

import (
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/e2ee"
	"hearth/matrix/id"
)

func backedUp(verified bool, index, forwarded int64) e2ee.BackedUpKey {
	return e2ee.BackedUpKey{FirstMessageIndex: &index, ForwardedCount: &forwarded, IsVerified: &verified,
		SessionData: jsontext.Value(fmt.Sprintf(`{"from":"%v %d %d"}`, verified, index, forwarded))}
}

func oneKey(r id.Room, session string, k e2ee.BackedUpKey) map[id.Room]e2ee.RoomKeys {
	return map[id.Room]e2ee.RoomKeys{r: {Sessions: map[string]e2ee.BackedUpKey{session: k}}}
}

func (w *world) backup() string {
	w.t.Helper()
	v, err := w.CreateBackup(w.t.Context(), alice, "m.megolm_backup.v1.curve25519-aes-sha2", jsontext.Value(`{"public_key":"abc"}`))
	w.must(err)
	return v
}

func TestTheBetterOfTwoBackedUpKeysStays(t *testing.T) {
	w := newWorld(t)
	v := w.backup()
	for i, c := range []struct {
		old, new e2ee.BackedUpKey
		replaces bool
	}{
		{backedUp(false, 10, 5), backedUp(true, 99, 99), true},
		{backedUp(true, 10, 5), backedUp(false, 0, 0), false},
		{backedUp(false, 10, 5), backedUp(false, 9, 99), true},
		{backedUp(false, 10, 5), backedUp(false, 11, 0), false},
		{backedUp(true, 10, 5), backedUp(true, 10, 4), true},
		{backedUp(true, 10, 5), backedUp(true, 10, 5), false},
		{backedUp(true, 10, 5), backedUp(true, 10, 6), false},
	} {
		session := fmt.Sprint(i)
		before, err := w.PutRoomKeys(t.Context(), alice, v, oneKey("!a:x", session, c.old))
		w.must(err)
		after, err := w.PutRoomKeys(t.Context(), alice, v, oneKey("!a:x", session, c.new))
		w.must(err)
		want := c.old
		if c.replaces {
			want = c.new
		}
		got, err := w.GetRoomKey(t.Context(), alice, v, "!a:x", session)
		w.must(err)
		if diff := cmp.Diff(text(t, want), text(t, got)); diff != "" {
			t.Errorf("case %d: %s", i, diff)
		}
		if (before.ETag != after.ETag) != c.replaces || before.Count != after.Count {
			t.Errorf("case %d: %+v became %+v", i, before, after)
		}
	}
}

func TestOnlyTheNewestBackupIsWritten(t *testing.T) {
	w := newWorld(t)
	_, err := w.PutRoomKeys(t.Context(), alice, "1", oneKey("!a:x", "s", backedUp(true, 0, 0)))
	w.refused(err, 404, "M_NOT_FOUND")
	first := w.backup()
	state, err := w.PutRoomKeys(t.Context(), alice, first, oneKey("!a:x", "s", backedUp(true, 0, 0)))
	w.must(err)
	if state.Count != 1 {
		t.Errorf("count is %d", state.Count)
	}
	second := w.backup()
	_, err = w.PutRoomKeys(t.Context(), alice, first, oneKey("!a:x", "t", backedUp(true, 0, 0)))
	if e := w.refused(err, 403, "M_WRONG_ROOM_KEYS_VERSION"); e.Extra["current_version"] != second {
		t.Errorf("current_version is %v", e.Extra)
	}
	old, err := w.GetBackup(t.Context(), alice, first)
	w.must(err)
	if old.Count != 1 || old.Version != first || string(old.AuthData) != `{"public_key":"abc"}` {
		t.Errorf("%+v", old)
	}
	for range 2 { // the second time is no error
		w.must(w.DeleteBackup(t.Context(), alice, second))
	}
	w.refused(w.DeleteBackup(t.Context(), alice, "77"), 404, "M_NOT_FOUND")
	_, err = w.GetBackup(t.Context(), alice, second)
	w.refused(err, 404, "M_NOT_FOUND")
	current, err := w.GetBackup(t.Context(), alice, "")
	w.must(err)
	if current.Version != first {
		t.Errorf("current is %s", current.Version)
	}
	if third := w.backup(); third == second {
		t.Error("the number of a deleted backup was given out again")
	}
	_, err = w.GetBackup(t.Context(), bob, first)
	w.refused(err, 404, "M_NOT_FOUND")
}

func TestBackupKeysByRoomAndDeletion(t *testing.T) {
	w := newWorld(t)
	v := w.backup()
	k := backedUp(true, 0, 0)
	_, err := w.PutRoomKeys(t.Context(), alice, v, map[id.Room]e2ee.RoomKeys{
		"!a:x": {Sessions: map[string]e2ee.BackedUpKey{"1": k, "2": k}}, "!b:x": {Sessions: map[string]e2ee.BackedUpKey{"1": k}}})
	w.must(err)
	count := func(r id.Room) (n int) {
		rooms, err := w.GetRoomKeys(t.Context(), alice, v, r)
		w.must(err)
		for _, keys := range rooms {
			n += len(keys.Sessions)
		}
		return n
	}
	if count("") != 3 || count("!a:x") != 2 || count("!c:x") != 0 {
		t.Errorf("%d, %d, %d keys", count(""), count("!a:x"), count("!c:x"))
	}
	_, err = w.GetRoomKey(t.Context(), alice, v, "!a:x", "9")
	w.refused(err, 404, "M_NOT_FOUND")
	for _, c := range []struct {
		room    id.Room
		session string
		left    int64
		moved   bool
	}{{"!a:x", "1", 2, true}, {"!a:x", "1", 2, false}, {"!a:x", "", 1, true}, {"", "", 0, true}} {
		before, err := w.GetBackup(t.Context(), alice, v)
		w.must(err)
		state, err := w.DeleteRoomKeys(t.Context(), alice, v, c.room, c.session)
		w.must(err)
		if state.Count != c.left || (state.ETag != before.ETag) != c.moved {
			t.Errorf("%+v: %+v", c, state)
		}
	}
}

func TestBackupRequestsAreChecked(t *testing.T) {
	w := newWorld(t)
	v := w.backup()
	for _, data := range []string{`"x"`, `[]`} {
		_, err := w.CreateBackup(t.Context(), alice, "a", jsontext.Value(data))
		w.refused(err, 400, "M_BAD_JSON")
	}
	_, err := w.CreateBackup(t.Context(), alice, "", jsontext.Value(`{}`))
	w.refused(err, 400, "M_INVALID_PARAM")
	w.refused(w.SetBackupAuthData(t.Context(), alice, v, "another", jsontext.Value(`{}`)), 400, "M_INVALID_PARAM")
	w.must(w.SetBackupAuthData(t.Context(), alice, v, "m.megolm_backup.v1.curve25519-aes-sha2", jsontext.Value(`{"new":1}`)))
	b, err := w.GetBackup(t.Context(), alice, v)
	w.must(err)
	if string(b.AuthData) != `{"new":1}` {
		t.Errorf("auth_data is %s", b.AuthData)
	}
	lacking, bad := backedUp(true, 0, 0), backedUp(true, -1, 0)
	lacking.IsVerified = nil
	for _, k := range []e2ee.BackedUpKey{lacking, bad, {}} {
		_, err := w.PutRoomKeys(t.Context(), alice, v, oneKey("!a:x", "s", k))
		w.refused(err, 400, "M_BAD_JSON")
	}
	_, err = w.PutRoomKeys(t.Context(), alice, v, oneKey("!a:x", "\x00", backedUp(true, 0, 0)))
	w.refused(err, 400, "M_INVALID_PARAM")
}
