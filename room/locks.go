package room

import (
	"context"
	"sync"
)

// locks let one at a time do something with a room, say.
type locks[K comparable] struct {
	mu   sync.Mutex
	held map[K]chan struct{}
}

// lock waits for what key names and takes it, until the function returned is called.
func (l *locks[K]) lock(ctx context.Context, key K) (unlock func(), err error) {
	for {
		l.mu.Lock()
		held := l.held[key]
		if held == nil {
			if l.held == nil {
				l.held = map[K]chan struct{}{}
			}
			mine := make(chan struct{})
			l.held[key] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.held, key)
				l.mu.Unlock()
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// isHeld says whether somebody has what key names.
func (l *locks[K]) isHeld(key K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.held[key] != nil
}
