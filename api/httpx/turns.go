package httpx

import (
	"context"
	"sync"

	"hearth/matrix/errcode"
)

// Turns lets one key, such as another homeserver, have only so much done at a time, and
// makes the rest of it wait: whoever asks too much holds up nobody else.
type Turns struct {
	atOnce  int
	waiting int

	mu     sync.Mutex
	queues map[string]*turnQueue
}

type turnQueue struct {
	turns   chan struct{}
	present int // who has a turn or waits for one
}

// NewTurns lets each key have so many turns at once, and so many more wait; without
// any at once nothing is limited.
func NewTurns(atOnce, waiting int) *Turns {
	return &Turns{atOnce: atOnce, waiting: waiting, queues: map[string]*turnQueue{}}
}

// Take waits for a turn, which lasts until done is called. It refuses with
// M_LIMIT_EXCEEDED when too many are waiting already.
// spec: client-server-api#rate-limiting
func (t *Turns) Take(ctx context.Context, key string) (done func(), err error) {
	if t == nil || t.atOnce <= 0 {
		return func() {}, nil
	}
	q := t.enter(key)
	if q == nil {
		return nil, errcode.LimitExceeded(1000)
	}
	select {
	case q.turns <- struct{}{}:
		return func() { <-q.turns; t.leave(key, q) }, nil
	case <-ctx.Done():
		t.leave(key, q)
		return nil, ctx.Err()
	}
}

// crowd is the requests of those who need not say who they are, of which there are only so
// many at a time: by network, see share.
type crowd struct {
	mu       sync.Mutex
	requests share
}

const maxFew = 32

// enter refuses with M_LIMIT_EXCEEDED when there are too many.
// spec: client-server-api#rate-limiting
func (c *crowd) enter(network string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.requests.has(network, 1) {
		return errcode.LimitExceeded(1000)
	}
	c.requests.add(network, 1)
	return nil
}

func (c *crowd) leave(network string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests.add(network, -1)
}

func (t *Turns) enter(key string) *turnQueue {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.queues[key]
	if q == nil {
		q = &turnQueue{turns: make(chan struct{}, t.atOnce)}
		t.queues[key] = q
	}
	if q.present >= t.atOnce+t.waiting {
		return nil
	}
	q.present++
	return q
}

func (t *Turns) leave(key string, q *turnQueue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q.present--; q.present == 0 {
		delete(t.queues, key)
	}
}
