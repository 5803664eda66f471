package stream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

const (
	alice = int64(1)
	bob   = int64(2)
	room  = int64(7)
)

func roomChange(position int64, users ...int64) Commit {
	return Commit{Position: position, Changes: []Change{{Kind: Room, Position: position, Room: room, Users: users}}}
}

func TestSinceListsWhatChangedForOneUser(t *testing.T) {
	h := NewHub(10)
	since := h.Now()
	if _, known := h.Since(alice, since); !known {
		t.Fatal("a feed that starts now does not know of now")
	}
	h.Publish(roomChange(11, alice))()
	c, known := h.Since(alice, since)
	if !known || !c.Any() || len(c.Rooms) != 1 || c.Rooms[0].Room != room || c.Now.Durable != 11 {
		t.Errorf("alice sees %+v, %v", c, known)
	}
	if c, _ := h.Since(alice, c.Now); c.Any() || len(c.Rooms) != 0 {
		t.Errorf("after it alice sees %+v, want nothing", c)
	}
	if c, _ := h.Since(bob, h.Now()); c.Any() {
		t.Errorf("bob sees %+v, want nothing", c)
	}
}

func TestSinceAdmitsWhatItDoesNotRemember(t *testing.T) {
	h := NewHub(10)
	h.Since(alice, h.Now())
	if _, known := h.Since(alice, Position{9, h.Now().Volatile}); known {
		t.Error("it claims to know what came before its feed")
	}
	if _, known := h.Since(alice, Position{10, 5}); known {
		t.Error("it claims to know the volatile changes of an earlier process")
	}
}

func TestVolatileChangesHaveACounterOfTheirOwn(t *testing.T) {
	h := NewHub(10)
	since := h.Now()
	h.Since(alice, since)
	h.PublishVolatile(Typing, room, []int64{alice})
	c, _ := h.Since(alice, since)
	if !c.Kinds[Typing] || c.Now.Durable != 10 || c.Now.Volatile <= since.Volatile {
		t.Errorf("alice sees %+v", c)
	}
}

// A commit is there to be read before its writer is answered, and wakes others only after.
func TestPublishShowsAtOnceAndWakesWhenTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		since := h.Now()
		woken := false
		go func() { woken = h.Wait(t.Context(), alice, since) }()
		synctest.Wait()
		wake := h.Publish(roomChange(11, alice))
		synctest.Wait()
		if woken {
			t.Error("the waiter woke before its time")
		}
		if c, _ := h.Since(alice, since); !c.Any() {
			t.Error("the commit is not to be seen yet")
		}
		wake()
		synctest.Wait()
		if !woken {
			t.Error("the waiter sleeps on")
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		go h.Publish(roomChange(11, bob))()
		if h.Wait(ctx, alice, h.Now()) {
			t.Error("alice was woken by a change for bob")
		}
	})
}

func TestReachWaitsForAPosition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(10)
		if !h.Reach(t.Context(), 10) {
			t.Error("a position of the past is not reached")
		}
		go func() {
			time.Sleep(time.Second) // of the bubble's clock
			h.Publish(roomChange(12, bob))()
		}()
		if !h.Reach(t.Context(), 12) {
			t.Error("12 is not reached")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if h.Reach(ctx, 13) {
			t.Error("13 is reached")
		}
	})
}
