package clientsync_test

import (
	"bytes"
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/clientsync"
)

// waitingSync is a sync under way.
type waitingSync struct {
	answer answer
	err    error
	done   bool
}

func (s *server) start(ctx context.Context, r clientsync.Request) *waitingSync {
	w := &waitingSync{}
	go func() {
		var out bytes.Buffer
		if w.err = s.syncer.Sync(ctx, r, &out); w.err == nil {
			w.err = json.Unmarshal(out.Bytes(), &w.answer)
		}
		w.done = true
	}()
	synctest.Wait()
	return w
}

func TestWaitingEndsWithNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		r, other := s.publicRoom(alice), s.publicRoom(charlie)
		s.join(r, bob)
		since := s.sync(bob, "").NextBatch
		began := time.Now()
		w := s.start(t.Context(), request(bob, since, waiting(30*time.Second)))
		s.say(other, charlie, "elsewhere")
		synctest.Wait()
		if w.done {
			t.Fatalf("news for others ended it: %+v", w.answer)
		}
		s.say(r, alice, "hello")
		synctest.Wait()
		if !w.done || w.err != nil {
			t.Fatalf("it waits on, %v", w.err)
		}
		s.want("timeline", w.answer.Rooms.Join[r].timeline(), "hello")
		if took := time.Since(began); took != 0 {
			t.Errorf("it took %s", took)
		}
	})
}

func TestWaitingEndsAtItsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.publicRoom(alice)
		since := s.sync(alice, "").NextBatch
		began := time.Now()
		a := s.sync(alice, since, waiting(30*time.Second))
		if took := time.Since(began); took != 30*time.Second {
			t.Errorf("it took %s", took)
		}
		if len(a.Rooms.Join) != 0 || a.NextBatch == "" {
			t.Errorf("%s", a.raw)
		}
	})
}

// What the client does not want to hear, or what is for another device of the
// same user, is no reason to answer.
func TestWaitingGoesOnPastWhatIsNotForTheClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		r := s.publicRoom(alice)
		since := s.sync(alice, "").NextBatch
		w := s.start(t.Context(), request(alice, since, waiting(30*time.Second), withFilter(`{"room":{"timeline":{"not_types":["m.room.message"]}}}`)))
		s.toDevice(alice, "OTHER", "not this")
		s.say(r, alice, "filtered")
		synctest.Wait()
		if w.done {
			t.Fatalf("it ended: %+v, %v", w.answer, w.err)
		}
		s.toDevice(alice, "DEVICE", "this")
		synctest.Wait()
		if !w.done {
			t.Fatal("it waits on")
		}
		s.want("to_device", bodies(w.answer.ToDevice.Events), "this")
	})
}

func TestWaitingEndsWhenTheClientGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.publicRoom(alice)
		since := s.sync(alice, "").NextBatch
		ctx, cancel := context.WithCancel(t.Context())
		w := s.start(ctx, request(alice, since, waiting(30*time.Second)))
		cancel()
		synctest.Wait()
		if !w.done || !errors.Is(w.err, context.Canceled) {
			t.Errorf("done %v, %v", w.done, w.err)
		}
	})
}

// A server that stops answers those who wait.
func TestWaitingEndsWhenTheServerStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		s.publicRoom(alice)
		since := s.sync(alice, "").NextBatch
		w := s.start(t.Context(), request(alice, since, waiting(30*time.Second)))
		s.hub.Release()
		synctest.Wait()
		if !w.done || w.err != nil || w.answer.NextBatch == "" {
			t.Errorf("done %v, %v, %+v", w.done, w.err, w.answer)
		}
	})
}

// The rest of many to-device messages comes at once, not after the timeout.
func TestNoWaitingForTheRestOfToDeviceMessages(t *testing.T) {
	s := newServer(t)
	since := s.sync(bob, "").NextBatch
	many := make([]string, 150)
	for i := range many {
		many[i] = "x"
	}
	s.toDevice(bob, "DEVICE", many...)
	a := s.sync(bob, since, waiting(time.Hour))
	b := s.sync(bob, a.NextBatch, waiting(time.Hour))
	if len(a.ToDevice.Events) != 100 || len(b.ToDevice.Events) != 50 {
		t.Errorf("%d, then %d", len(a.ToDevice.Events), len(b.ToDevice.Events))
	}
}
