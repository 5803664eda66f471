package httpx

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// What a device sends comes back to it after the answer; others do not wait.
func TestEchoesComeAfterTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		sent, answer := make(chan struct{}), make(chan struct{})
		s.Mount(Handle("PUT /_matrix/client/v3/slow", User, NoLimit, func(context.Context, Caller, struct{}) (struct{}, error) {
			close(sent)
			<-answer
			return struct{}{}, nil
		}).ComesBack())
		alice := Caller{User: "@alice:x"}
		waits := func(c Caller) time.Duration {
			start := time.Now()
			s.Echoes.Wait(t.Context(), c)
			return time.Since(start)
		}
		if took := waits(alice); took != 0 {
			t.Errorf("who sends nothing waits %v", took)
		}
		go call(s, "PUT", "/_matrix/client/v3/slow?access_token=alice", "{}")
		<-sent
		if took := waits(Caller{User: "@bob:x"}); took != 0 {
			t.Errorf("another user waits %v", took)
		}
		if took := waits(alice); took != echoTime {
			t.Errorf("a request that takes long is waited for %v", took)
		}
		go func() {
			time.Sleep(10 * time.Millisecond)
			close(answer)
		}()
		if took := waits(alice); took != 10*time.Millisecond {
			t.Errorf("the echo comes %v after the request, the answer after 10ms", took)
		}
		synctest.Wait()
		if len(s.Echoes.flights) != 0 {
			t.Error("what was answered is still waited for")
		}
	})
}
