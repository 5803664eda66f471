package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"
)

// Runner starts everything that runs beside requests. A loop that fails or
// panics is told to the log and started again: followers resume from their
// saved position.
type Runner struct {
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup
	log  *slog.Logger
}

// NewRunner makes a runner that writes to log.
func NewRunner(log *slog.Logger) *Runner {
	ctx, stop := context.WithCancel(context.Background())
	return &Runner{ctx: ctx, stop: stop, log: log}
}

// Start runs loop until it returns nil or the runner stops.
func (r *Runner) Start(name string, loop func(ctx context.Context) error) {
	r.wg.Go(func() {
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			err := r.once(loop)
			if err == nil || r.ctx.Err() != nil {
				return
			}
			r.log.Error("background loop failed", "loop", name, "error", err, "again_in", wait)
			select {
			case <-time.After(wait):
			case <-r.ctx.Done():
				return
			}
		}
	})
}

func (r *Runner) once(loop func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return loop(r.ctx)
}

// Close stops all loops and waits for them.
func (r *Runner) Close() {
	r.stop()
	r.wg.Wait()
}
