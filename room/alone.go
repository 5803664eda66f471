package room

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// alone is what goes on for users who may have stopped waiting for it: their clients, and
// the proxies before them, give up sooner than other servers do.
type alone struct {
	mu      sync.Mutex
	ended   bool
	cancels map[*context.Context]context.CancelFunc
	running sync.WaitGroup
}

// begin makes a context that does not end with ctx, but after some time or when Attend
// does. end must be called when what it is for is over.
func (a *alone) begin(ctx context.Context, within time.Duration) (_ context.Context, end func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended {
		cancel()
		return ctx, cancel
	}
	if a.cancels == nil {
		a.cancels = map[*context.Context]context.CancelFunc{}
	}
	key := &ctx
	a.cancels[key] = cancel
	a.running.Add(1)
	return ctx, func() {
		cancel()
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.cancels, key)
		a.running.Done()
	}
}

// enterTime bounds how long other servers are asked to let somebody into a room: they may have to
// tell the state of a very large one.
const enterTime = 10 * time.Minute

// entrance is somebody on their way into a room.
type entrance struct {
	room id.Room
	user id.User
}

// goOnAlone has a user enter a room by way of other servers, which goes on if ctx ends: once such a
// server has taken a join, they are in the room there. What they ask of that room meanwhile waits.
func (e *Engine) goOnAlone(ctx context.Context, c Change, enter func(context.Context) error) error {
	unlock, err := e.entering.lock(ctx, entrance{c.Room, c.Target})
	if err != nil {
		return err
	}
	entering, end := e.alone.begin(ctx, enterTime)
	if entering.Err() != nil {
		unlock()
		end()
		return errcode.New(503, "M_UNKNOWN", "this server is stopping")
	}
	done := make(chan error, 1)
	e.alone.running.Go(func() {
		defer end()
		defer unlock()
		done <- safely(entering, enter)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// safely makes an error of a panic: beside a request nothing else keeps it from ending the program.
func safely(ctx context.Context, fn func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			slog.ErrorContext(ctx, "panic", "panic", p, "stack", string(debug.Stack()))
		}
	}()
	return fn(ctx)
}

// Attend waits for ctx to end, and then ends what goes on though nobody waits for it.
func (e *Engine) Attend(ctx context.Context) error {
	<-ctx.Done()
	e.alone.mu.Lock()
	e.alone.ended = true
	for _, cancel := range e.alone.cancels {
		cancel()
	}
	e.alone.mu.Unlock()
	e.alone.running.Wait()
	return nil
}
