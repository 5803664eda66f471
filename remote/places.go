package remote

import (
	"context"
	"slices"
	"sync"

	"hearth/matrix/id"
)

// places bound what is done at a time, and share it out by who makes it necessary: nobody has
// more of them than are left for all others, and of those who wait the one comes first that has
// the fewest. Who makes very much necessary, or what takes long, holds up itself.
type places struct {
	mu      sync.Mutex
	free    int
	taken   map[id.Server]int
	waiting []*waiter // in order
}

type waiter struct {
	who   id.Server
	taken chan struct{} // closed when it has its place
}

func newPlaces(n int) *places { return &places{free: n, taken: map[id.Server]int{}} }

// take waits for a place, which is to be given back.
func (p *places) take(ctx context.Context, who id.Server) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	w := &waiter{who, make(chan struct{})}
	p.mu.Lock()
	p.waiting = append(p.waiting, w)
	p.fill()
	p.mu.Unlock()
	select {
	case <-w.taken:
		return nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	i := slices.Index(p.waiting, w)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 { // it came in the same moment
		p.give(who)
	}
	return ctx.Err()
}

func (p *places) give(who id.Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free++
	if p.taken[who]--; p.taken[who] == 0 {
		delete(p.taken, who)
	}
	p.fill()
}

// fill gives places to those who wait. The caller holds the lock.
func (p *places) fill() {
	for len(p.waiting) > 0 {
		next := 0
		for i, w := range p.waiting {
			if p.taken[w.who] < p.taken[p.waiting[next].who] {
				next = i
			}
		}
		w := p.waiting[next]
		if p.taken[w.who] >= p.free {
			return
		}
		p.free--
		p.taken[w.who]++
		p.waiting = slices.Delete(p.waiting, next, next+1)
		close(w.taken)
	}
}
