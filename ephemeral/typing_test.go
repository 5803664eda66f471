package ephemeral_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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
		expect := func(want ...id.User) {
			t.Helper()
			synctest.Wait()
			users, _ := typing.In(nid)
			if diff := cmp.Diff(want, users, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("at %s: %s", time.Now().Format(time.TimeOnly), diff)
			}
		}
		expect()
		w.must(typing.Set(t.Context(), bob, r, true, 10*time.Second))
		w.must(typing.Set(t.Context(), alice, r, true, 0))
		expect(alice, bob)
		time.Sleep(9 * time.Second)
		w.must(typing.Set(t.Context(), bob, r, true, 10*time.Second)) // renewed
		time.Sleep(9 * time.Second)
		expect(alice, bob)
		time.Sleep(2 * time.Second)
		expect(alice)
		w.must(typing.Set(t.Context(), alice, r, false, 0))
		expect()
		w.must(typing.Set(t.Context(), bob, r, true, 24*time.Hour))
		time.Sleep(3 * time.Minute)
		expect()
	})
}

func TestTypingIsToldToMembersWhenItChanges(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	w.share(charlie)
	nid := w.roomNID(r)
	typing := ephemeral.NewTyping(w.store, w.hub)
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
	if _, changed := typing.In(nid); changed <= now.Volatile {
		t.Error("who asks does not see that it changed")
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
	if _, changed := typing.In(nid); changed <= now.Volatile {
		t.Error("who asks does not see that it changed")
	}
}

func TestTypingIsForMembers(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	typing := ephemeral.NewTyping(w.store, w.hub)
	w.refused(typing.Set(t.Context(), charlie, r, true, 0), 403, "M_FORBIDDEN")
	w.refused(typing.Set(t.Context(), bob, "!none:x", true, 0), 403, "M_FORBIDDEN")
	w.refused(typing.Set(t.Context(), bob, r, true, -1), 400, "M_INVALID_PARAM")
	w.must(w.rooms.Leave(t.Context(), room.Change{Room: r, Sender: bob}))
	w.refused(typing.Set(t.Context(), bob, r, true, 0), 403, "M_FORBIDDEN")
}
