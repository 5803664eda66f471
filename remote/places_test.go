package remote

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// eventsBy makes an event of each of so many servers, with names that begin alike.
func eventsBy(t *testing.T, prefix string, n int) (events []*event.PDU) {
	for i := range n {
		events = append(events, eventBy(t, "11", id.Server(fmt.Sprint(prefix, i, ".example:1")), "ed25519:1", key(1), 1))
	}
	return events
}

// Servers that take connections and say nothing, of which some other server hands over events,
// hold up that one alone.
func TestWhoHandsOverEventsHoldsUpItselfAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hanging atomic.Int32
		asked := make(chan time.Time, 100)
		c := aloneWith(t, func(ctx context.Context, address string) (net.Conn, error) {
			if address == "a0.example:1" {
				asked <- time.Now()
				return nil, io.EOF
			}
			hanging.Add(1)
			defer hanging.Add(-1)
			ctx, cancel := context.WithTimeout(ctx, keyTime)
			defer cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		})
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		for room := range 4 { // of one transaction
			events := eventsBy(t, fmt.Sprintf("hangs-%d-", room), 100)
			go c.VerifyEvents(ctx, "evil.example", events)
		}
		synctest.Wait()
		if n := hanging.Load(); n != maxFetches/2 {
			t.Errorf("the keys of %d servers are fetched at once for one that handed over events", n)
		}
		start := time.Now()
		c.VerifyEvents(t.Context(), "honest.example", eventsBy(t, "a", 1))
		if len(asked) == 0 || (<-asked).After(start) {
			t.Errorf("the keys of a server were not asked for at once, but took %v", time.Since(start))
		}
		cancel()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := hanging.Load(); n != 0 || len(c.Keys.underWay) != 0 {
			t.Errorf("%d fetches go on", n)
		}
	})
}

// However long a place is waited for, the fetch has all of its time then.
func TestAFetchHasItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := alone(t, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
		defer c.Close()
		places := c.Keys.fetches[occasion{ours: true}]
		for i := range maxFetches {
			if err := places.take(t.Context(), id.Server(fmt.Sprint("s", i))); err != nil {
				t.Fatal(err)
			}
		}
		const waits = 2*keyTime - time.Second
		time.AfterFunc(waits, func() { places.give("s0") })
		start := time.Now()
		c.VerifyEvents(t.Context(), "from.example", eventsBy(t, "late", 1))
		if had := time.Since(start) - waits; had < keyTime {
			t.Errorf("a fetch that waited for its place had %v", had)
		}
		synctest.Wait()
	})
}

// When nobody waits for them, nothing is fetched.
func TestNothingIsFetchedOnceTheTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		c := alone(t, func(ctx context.Context) (net.Conn, error) {
			dials.Add(1)
			return nil, io.EOF
		})
		defer c.Close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for _, err := range c.VerifyEvents(ctx, "evil.example", eventsBy(t, "s", 200)) {
			if err == nil {
				t.Error("verified")
			}
		}
		if _, err := c.discover(ctx, "s.example"); err == nil {
			t.Error("found")
		}
		time.Sleep(time.Minute)
		if n := dials.Load(); n != 0 {
			t.Errorf("%d connections were made", n)
		}
	})
}

// Whoever makes up servers cannot have as many of them connected to as it likes.
func TestMadeUpServersAreAskedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dials atomic.Int32
		c := alone(t, func(ctx context.Context) (net.Conn, error) {
			dials.Add(1)
			return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
		})
		defer c.Close()
		events := eventsBy(t, "s", maxNamed+1000)
		done := make(chan []error)
		go func() { done <- c.VerifyEvents(t.Context(), "evil.example", events) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := dials.Load(); n > namedAtOnce+10*namedEach+1 {
			t.Errorf("%d servers were connected to in ten seconds", n)
		}
		// Others that hand over events need not wait for that.
		before := dials.Load()
		start := time.Now()
		c.VerifyEvents(t.Context(), "honest.example", eventsBy(t, "a", 10))
		if dials.Load() < before+10 || time.Since(start) > time.Second {
			t.Errorf("the keys of others' servers took %v", time.Since(start))
		}
		errs := <-done
		if n := dials.Load() - 10; n != maxNamed {
			t.Errorf("%d servers were connected to for one list of events", n)
		}
		for i, err := range errs {
			if err == nil {
				t.Errorf("event %d is verified", i)
			}
		}
	})
}

// Nor do notaries have to look for all of them.
func TestNotariesAreAskedSlowlyForMadeUpServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var queries atomic.Int32
		c, end := hostile(t, func(rw http.ResponseWriter, _ *http.Request) {
			queries.Add(1)
			io.WriteString(rw, `{"server_keys":[]}`)
		})
		defer end()
		c.options.KeyServers = []KeyServer{{Name: enemy}}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for _, err := range c.VerifyEvents(ctx, "evil.example", eventsBy(t, "s", maxNamed+1000)) {
			if err == nil {
				t.Error("verified")
			}
		}
		if n := queries.Load(); n < namedAtOnce/batchSize || n > (namedAtOnce+10*namedEach)/batchSize {
			t.Errorf("a notary was asked %d times in ten seconds", n)
		}
	})
}

func TestPlacesAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlaces(8)
		var had []id.Server
		take := func(who id.Server, n int) {
			for range n {
				go func() {
					if p.take(t.Context(), who) == nil {
						p.mu.Lock()
						had = append(had, who)
						p.mu.Unlock()
					}
				}()
			}
			synctest.Wait()
		}
		take("a", 10)
		take("b", 10)
		take("c", 10)
		if p.taken["a"] != 4 || p.taken["b"] != 2 || p.taken["c"] != 1 {
			t.Errorf("taken: %v", p.taken)
		}
		take("d", 1)
		had = nil
		if take("e", 1); len(had) > 0 {
			t.Error("there are more places than there should be")
		}
		if p.give("a"); p.taken["a"] != 3 {
			t.Error("not given back")
		}
		if synctest.Wait(); !slices.Equal(had, []id.Server{"e"}) {
			t.Errorf("a place went to %v, where somebody had none", had)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := p.take(ctx, "f"); err == nil {
			t.Error("who waits no longer got a place")
		}
		p.waiting = nil
		for who, n := range map[id.Server]int{"a": 3, "b": 2, "c": 1, "d": 1, "e": 1} {
			for range n {
				p.give(who)
			}
		}
		if p.free != 8 || len(p.taken) != 0 {
			t.Errorf("%d are free, taken are %v", p.free, p.taken)
		}
	})
}
