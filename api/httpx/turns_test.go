package httpx

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

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

// What anybody may ask, and takes work, is done for so many at a time, and for some network not
// for all of them.
func TestFewAreAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		var working atomic.Int32
		release := make(chan struct{})
		s.Mount(Handle("GET /few", None, NoLimit, func(context.Context, Caller, struct{}) (struct{}, error) {
			working.Add(1)
			defer working.Add(-1)
			<-release
			return struct{}{}, nil
		}).FewAtOnce())
		codes := make(chan int, 2000)
		ask := func(network int) {
			go func() { codes <- askFrom(s, fmt.Sprintf("[2001:db8:0:%x::1]:1", network), "GET", "/few", nil, 0).Code }()
		}
		for range 100 {
			ask(0)
		}
		synctest.Wait()
		if n := working.Load(); n != maxFew/2 {
			t.Errorf("%d requests of one network are worked on at once", n)
		}
		ask(1)
		synctest.Wait()
		if n := working.Load(); n != maxFew/2+1 {
			t.Error("another network has to wait for the first")
		}
		for i := range 1000 {
			ask(i)
		}
		synctest.Wait()
		most := working.Load()
		if most > maxFew {
			t.Errorf("%d requests are worked on at once", most)
		}
		close(release)
		synctest.Wait()
		for len(codes) > 0 {
			if code := <-codes; code == 200 {
				most--
			} else if code != 429 {
				t.Errorf("answered with %d", code)
			}
		}
		if most != 0 || s.few.requests.total != 0 || len(s.few.requests.of) != 0 {
			t.Errorf("%d that were worked on have no answer, %d still count", most, s.few.requests.total)
		}
	})
}

// Nor can who asked take as long as he likes for reading the answer.
func TestFewAreNotAnsweredForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		s.Mount(Handle("GET /few", None, NoLimit, func(context.Context, Caller, struct{}) (string, error) {
			return strings.Repeat("x", 1<<20), nil
		}).FewAtOnce())
		client, server := net.Pipe()
		srv := &http.Server{Handler: s}
		go srv.Serve(&oneConn{conn: server, closed: make(chan struct{})})
		if _, err := io.WriteString(client, "GET /few HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for buf := make([]byte, writePiece); ; time.Sleep(writeTime / 2) {
			if _, err := io.ReadFull(client, buf); err != nil {
				break
			}
		}
		took := time.Since(start)
		srv.Close()
		client.Close()
		synctest.Wait()
		if took > 2*writeTime || s.few.requests.total != 0 {
			t.Errorf("the answer was read for %v", took)
		}
	})
}

// uploads are bodies that are on their way and never end.
type uploads struct {
	t     *testing.T
	s     *testServer
	codes chan int
	open  []*io.PipeWriter
}

// begin sends all of a body but its end, and says how many bodies were refused so far.
func (u *uploads) begin(addr, method, url string, n int) (refused int) {
	pr, pw := io.Pipe()
	u.open = append(u.open, pw)
	go func() { u.codes <- askFrom(u.s, addr, method, url, pr, int64(n)).Code }()
	go func() { _, _ = io.WriteString(pw, strings.Repeat(" ", n-1)) }() // nobody reads what is refused
	synctest.Wait()
	for len(u.codes) > 0 {
		if code := <-u.codes; code != 429 {
			u.t.Errorf("a body for which there is no room was answered with %d", code)
		}
		refused++
	}
	return refused
}

func (u *uploads) end() {
	for _, pw := range u.open {
		pw.Close()
	}
	synctest.Wait()
	for _, b := range []*bodies{u.s.ofUsers, u.s.ofStrangers} {
		if b.first.total+b.rest.total != 0 || len(b.first.of)+len(b.rest.of) != 0 {
			u.t.Errorf("%d bytes of bodies that are gone still count", b.first.total+b.rest.total)
		}
	}
}

// However many bodies are on their way, they take bounded memory, and those of one user
// leave room for the others'.
func TestBodiesTakeBoundedMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const url = "/_matrix/client/v3/profile/@bob:x?access_token="
		s := newTestServer()
		u := &uploads{t: t, s: s, codes: make(chan int, 100)}
		refused := 0
		for range 10 {
			refused += u.begin("192.0.2.1:1", "POST", url+"alice", 3<<20)
		}
		if refused != 8 { // of 4 MiB each, two fit in half of 16 MiB
			t.Errorf("%d of 10 large bodies of one user were refused", refused)
		}
		if u.begin("192.0.2.2:1", "POST", url+"alice", 3<<20) != 1 {
			t.Error("another address of the same user has room of its own")
		}
		if u.begin("192.0.2.1:1", "POST", url+"bridge", 3<<20) != 0 {
			t.Error("another user found no room")
		}
		if code := askFrom(s, "192.0.2.1:1", "POST", url+"alice", strings.NewReader("{}"), 2).Code; code != 200 {
			t.Errorf("a small body found no room: %d", code)
		}
		u.end()
	})
}

// Those who hold back the end of what they send, from as many addresses as one has, keep out
// neither the users nor, by large bodies, the small ones of others; and from few addresses not
// all large ones.
func TestWhoHoldsBackBodiesKeepsOutNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const large, send = 16 << 20, "/_matrix/federation/v1/send/1"
		s := newTestServer()
		s.AuthenticateServer = func(context.Context, *http.Request, []byte) (Caller, error) { return Caller{Server: "a"}, nil }
		s.Mount(Handle("PUT /_matrix/federation/v1/send/{txnId}", Server, NoLimit, func(context.Context, Caller, struct{}) (struct{}, error) {
			return struct{}{}, nil
		}).WithMaxBody(large))
		u := &uploads{t: t, s: s, codes: make(chan int, 1000)}
		if u.begin("[2001:db8::1]:1", "PUT", send, large) != 0 {
			t.Error("a transaction of the largest size is refused")
		}
		for range 3 {
			u.begin("[2001:db8::1]:1", "PUT", send, large)
			u.begin("[2001:db8:0:1::1]:1", "PUT", send, large)
		}
		ask := func(addr, method, url string, n int) int {
			return askFrom(s, addr, method, url, strings.NewReader("{"+strings.Repeat(" ", n-2)+"}"), int64(n)).Code
		}
		if code := ask("192.0.2.1:1", "PUT", send, 5<<20); code != 200 {
			t.Errorf("a large transaction from a third address is answered with %d", code)
		}
		if code := ask("[2001:db8::2]:1", "PUT", send, 32<<10); code != 200 {
			t.Errorf("a small one from the first network is answered with %d", code)
		}
		for i := range 40 {
			u.begin(fmt.Sprintf("[2001:db8:0:%x::1]:1", i), "PUT", send, large)
			for range 16 {
				u.begin(fmt.Sprintf("[2001:db8:0:%x::1]:1", i), "PUT", send, 64<<10)
			}
		}
		if n := s.ofStrangers.first.total + s.ofStrangers.rest.total; n > maxFirstOfStrangers+maxRestOfStrangers {
			t.Errorf("they take %d bytes", n)
		}
		for _, n := range []int{100, 4 << 20} {
			if code := ask("192.0.2.2:1", "POST", "/_matrix/client/v3/profile/@bob:x?access_token=alice", n); code != 200 {
				t.Errorf("what a user sends is answered with %d", code)
			}
		}
		u.end()
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
