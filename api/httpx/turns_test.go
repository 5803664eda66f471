package httpx

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"hearth/matrix/id"
)

// askFrom makes a request that comes from an address.
func askFrom(h http.Handler, addr, method, url string, body io.Reader, length int64, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, body)
	r.RemoteAddr, r.ContentLength = addr, length
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestAServerThatAsksTooMuchHoldsUpItselfAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		s.Servers = NewTurns(2, 1)
		s.AuthenticateServer = func(_ context.Context, r *http.Request, _ []byte) (Caller, error) {
			return Caller{Server: id.Server(r.Header.Get("X-Server"))}, nil
		}
		var working atomic.Int32
		release := make(chan struct{})
		s.Mount(Handle("GET /_matrix/federation/v1/slow", Server, NoLimit, func(ctx context.Context, _ Caller, _ struct{}) (struct{}, error) {
			working.Add(1)
			defer working.Add(-1)
			select {
			case <-release:
			case <-ctx.Done():
			}
			return struct{}{}, ctx.Err()
		}))
		codes := make(chan int, 10)
		ask := func(ctx context.Context, server string) {
			r := httptest.NewRequestWithContext(ctx, "GET", "/_matrix/federation/v1/slow", nil)
			r.Header.Set("X-Server", server)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			codes <- w.Code
		}
		ctx, cancel := context.WithCancel(t.Context())
		go ask(t.Context(), "a")
		go ask(t.Context(), "a")
		synctest.Wait()
		go ask(ctx, "a") // waits
		synctest.Wait()
		if n := working.Load(); n != 2 {
			t.Fatalf("%d requests of one server are worked on at once", n)
		}
		if ask(t.Context(), "a"); <-codes != 429 {
			t.Error("a server may have any number of requests waiting")
		}
		go ask(t.Context(), "b")
		synctest.Wait()
		if working.Load() != 3 {
			t.Error("a request of another server waits for those of the first")
		}
		cancel() // it gives up waiting, and somebody else may
		synctest.Wait()
		<-codes
		go ask(t.Context(), "a")
		synctest.Wait()
		close(release)
		synctest.Wait()
		for range 4 {
			if code := <-codes; code != 200 {
				t.Errorf("a request that had its turn was answered with %d", code)
			}
		}
		if len(s.Servers.queues) != 0 {
			t.Error("servers that ask nothing are remembered")
		}
	})
}

// Long answers, to a server that reads them slowly, hold up each other but not what else it
// asks, such as its transactions.
func TestLongAnswersHaveTurnsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		s.Servers = NewTurns(2, 100)
		s.AuthenticateServer = func(_ context.Context, r *http.Request, _ []byte) (Caller, error) {
			return Caller{Server: id.Server(r.Header.Get("X-Server"))}, nil
		}
		var downloads atomic.Int32
		release := make(chan struct{})
		s.Mount(
			Stream("GET /_matrix/federation/v1/file", Server, NoLimit, func(ctx context.Context, w http.ResponseWriter, _ Caller, _ struct{}) error {
				downloads.Add(1)
				<-release
				return nil
			}),
			Handle("PUT /_matrix/federation/v1/send", Server, NoLimit, func(context.Context, Caller, struct{}) (struct{}, error) {
				return struct{}{}, nil
			}))
		ask := func(method, path string) int {
			return askFrom(s, "192.0.2.1:1", method, "/_matrix/federation/v1/"+path, nil, 0, "X-Server", "a").Code
		}
		for range 3 {
			go ask("GET", "file")
		}
		synctest.Wait()
		if n := downloads.Load(); n != 2 {
			t.Errorf("%d files are sent to one server at once", n)
		}
		sent := make(chan int, 1)
		go func() { sent <- ask("PUT", "send") }()
		synctest.Wait()
		select {
		case code := <-sent:
			if code != 200 {
				t.Errorf("a transaction was answered with %d", code)
			}
		default:
			t.Error("a transaction waits for downloads")
		}
		close(release)
		synctest.Wait()
		if n := downloads.Load(); n != 3 || len(s.Servers.queues) != 0 {
			t.Errorf("%d files were sent, %d queues are left", n, len(s.Servers.queues))
		}
	})
}

// However many bodies are on their way, they take bounded memory, and those of one network
// leave room for the others'.
func TestBodiesTakeBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const url = "/_matrix/client/v3/profile/@bob:x?access_token=alice"
		s := newTestServer()
		codes := make(chan int, 100)
		var open []*io.PipeWriter
		upload := func(addr string) { // all but its end
			pr, pw := io.Pipe()
			open = append(open, pw)
			go func() { codes <- askFrom(s, addr, "POST", url, pr, 7<<20).Code }()
			go func() { _, _ = io.WriteString(pw, strings.Repeat(" ", 6<<20)) }() // nobody reads what is refused
			synctest.Wait()
		}
		refused := func() (n int) {
			for len(codes) > 0 {
				if code := <-codes; code != 429 {
					t.Errorf("a body for which there is no room was answered with %d", code)
				}
				n++
			}
			return n
		}
		for range 10 {
			upload("[2001:db8::1]:1")
		}
		if n := refused(); n != 7 { // of 8 MiB each, three fit in half of 64 MiB
			t.Errorf("%d of 10 large bodies of one network were refused", n)
		}
		if upload("[2001:db8::2:2]:1"); refused() != 1 {
			t.Error("another address of the same network has room of its own")
		}
		for _, addr := range []string{"192.0.2.1:1", "192.0.2.2:1"} {
			if upload(addr); refused() != 0 {
				t.Errorf("a body from %s found no room", addr)
			}
		}
		for range 10 {
			upload("192.0.2.3:1")
		}
		if n := refused(); n < 7 {
			t.Errorf("%d of 10 bodies were refused where half of all room was taken", n)
		}
		if code := askFrom(s, "192.0.2.4:1", "POST", url, strings.NewReader("{}"), 2).Code; code != 200 {
			t.Errorf("a small body found no room: %d", code)
		}
		for _, pw := range open {
			pw.Close()
		}
		synctest.Wait()
		if s.bodies.total != 0 || len(s.bodies.of) != 0 {
			t.Errorf("%d bytes of bodies that are gone still count", s.bodies.total)
		}
	})
}

// Who has a network of IPv6 has addresses without end.
func TestLimitsCountNetworks(t *testing.T) {
	s := newTestServer()
	for _, c := range []struct {
		addr string
		want int
	}{
		{"[2001:db8::1]:1", 200}, {"[2001:db8::2]:1", 200}, {"[2001:db8::3]:1", 429}, {"[2001:db8:0:1::1]:1", 200},
		{"192.0.2.1:1", 200}, {"192.0.2.1:2", 200}, {"192.0.2.1:3", 429}, {"192.0.2.2:1", 200},
	} {
		if w := askFrom(s, c.addr, "GET", "/_matrix/client/v3/open", nil, 0); w.Code != c.want {
			t.Errorf("%s: %d, want %d", c.addr, w.Code, c.want)
		}
	}
}
