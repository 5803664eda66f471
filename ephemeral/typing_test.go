package ephemeral_test

import (
	"testing"
	"testing/synctest"
	"time"

	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/stream"
)

func TestTypingEndsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.share(alice, bob)
		nid := w.roomNID(r)
		typing := ephemeral.NewTyping(w.store, w.hub)
		t.Cleanup(typing.Close)
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := string(typing.Content(nid)); got != want {
				t.Errorf("after %s: %s, want %s", time.Now().Format(time.TimeOnly), got, want)
			}
		}
		expect(`{"user_ids":[]}`)
		w.must(typing.Set(t.Context(), bob, r, true, 10*time.Second))
		w.must(typing.Set(t.Context(), alice, r, true, 0))
		expect(`{"user_ids":["@alice:localhost","@bob:localhost"]}`)
		time.Sleep(9 * time.Second)
		w.must(typing.Set(t.Context(), bob, r, true, 10*time.Second)) // renewed
		time.Sleep(9 * time.Second)
		expect(`{"user_ids":["@alice:localhost","@bob:localhost"]}`)
		time.Sleep(2 * time.Second)
		expect(`{"user_ids":["@alice:localhost"]}`)
		w.must(typing.Set(t.Context(), alice, r, false, 0))
		expect(`{"user_ids":[]}`)
		w.must(typing.Set(t.Context(), bob, r, true, 24*time.Hour))
		time.Sleep(3 * time.Minute)
		expect(`{"user_ids":[]}`)
	})
}

func TestTypingIsToldToMembersWhenItChanges(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	w.share(charlie)
	nid := w.roomNID(r)
	typing := ephemeral.NewTyping(w.store, w.hub)
	t.Cleanup(typing.Close)
	now := w.hub.Now()
	for _, u := range []id.User{bob, charlie} { // begin the hub's memory
		w.hub.Since(w.nid(u), now)
	}
	news := func(u id.User) bool {
		c, known := w.hub.Since(w.nid(u), now)
		if !known {
			t.Fatal("the hub forgot")
		}
		for _, x := range c.Rooms {
			if x.Room == nid && x.Last[stream.Typing] > now.Volatile {
				return true
			}
		}
		return false
	}
	w.must(typing.Set(t.Context(), alice, r, true, time.Minute))
	if !news(bob) || news(charlie) {
		t.Error("bob must hear of it, charlie not")
	}
	if got := typing.Changed(now.Volatile); len(got) != 1 || got[0] != nid {
		t.Errorf("changed rooms are %v", got)
	}
	now = w.hub.Now()
	w.must(typing.Set(t.Context(), alice, r, true, time.Minute))
	if news(bob) {
		t.Error("renewing is no news")
	}
	w.must(typing.Set(t.Context(), alice, r, false, 0))
	if !news(bob) {
		t.Error("stopping is news")
	}
	if got := typing.Changed(now.Volatile); len(got) != 1 {
		t.Errorf("changed rooms are %v", got)
	}
}

func TestTypingIsForMembers(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	typing := ephemeral.NewTyping(w.store, w.hub)
	t.Cleanup(typing.Close)
	w.refused(typing.Set(t.Context(), charlie, r, true, 0), 403, "M_FORBIDDEN")
	w.refused(typing.Set(t.Context(), bob, "!none:x", true, 0), 403, "M_FORBIDDEN")
	w.refused(typing.Set(t.Context(), bob, r, true, -1), 400, "M_INVALID_PARAM")
	w.must(w.rooms.Leave(t.Context(), room.Change{Room: r, Sender: bob}))
	w.refused(typing.Set(t.Context(), bob, r, true, 0), 403, "M_FORBIDDEN")
}
