package stream

import (
	"testing"
	"testing/synctest"
)

func TestReleaseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub(1)
		changed := make(chan bool)
		go func() { changed <- h.Wait(t.Context(), 1, h.Now()) }()
		synctest.Wait()
		h.Release()
		if <-changed {
			t.Error("nothing changed")
		}
		if h.Wait(t.Context(), 1, h.Now()) {
			t.Error("nothing changed, later")
		}
	})
}
