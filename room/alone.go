package room

import (
	"context"
	"sync"
	"time"
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
