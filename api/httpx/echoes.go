package httpx

import (
	"context"
	"sync"
	"time"

	"hearth/matrix/id"
)

// Echoes sees to it that a device has the answer to what it sends before the same comes back to it
// by /sync: a client that gets the echo first has to guess that it is its own, which some get wrong
// (matrix-js-sdk, of a message in a thread: it shows it as not sent).
type Echoes struct {
	mu      sync.Mutex
	flights map[sender]map[chan struct{}]bool
}

type sender struct {
	user   id.User
	device id.Device
}

// echoTime bounds how long a device waits for what it is told: a request may wait for other servers.
const echoTime = 50 * time.Millisecond

// begin notes that a device sends something; done must be called when it has the answer.
func (e *Echoes) begin(c Caller) (done func()) {
	key, flight := sender{c.User, c.Device}, make(chan struct{})
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.flights == nil {
		e.flights = map[sender]map[chan struct{}]bool{}
	}
	if e.flights[key] == nil {
		e.flights[key] = map[chan struct{}]bool{}
	}
	e.flights[key][flight] = true
	return func() {
		close(flight)
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.flights[key], flight)
		if len(e.flights[key]) == 0 {
			delete(e.flights, key)
		}
	}
}

// Wait waits a moment for the answers to what the device is sending now.
func (e *Echoes) Wait(ctx context.Context, c Caller) {
	if e == nil {
		return
	}
	e.mu.Lock()
	var flights []chan struct{}
	for f := range e.flights[sender{c.User, c.Device}] {
		flights = append(flights, f)
	}
	e.mu.Unlock()
	if len(flights) == 0 {
		return
	}
	late := time.NewTimer(echoTime)
	defer late.Stop()
	for _, f := range flights {
		select {
		case <-f:
		case <-late.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
