package httpx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type sendRequest struct {
	Room    id.Room        `path:"roomId"`
	Type    string         `path:"eventType"`
	TS      *int64         `query:"ts"`
	Flag    bool           `query:"flag"`
	Via     []id.Server    `query:"via"`
	Content jsontext.Value `body:"."`
}

type profileRequest struct {
	User   id.User        `path:"userId"`
	Name   string         `json:"displayname"`
	Friend id.User        `json:"friend,omitempty"`
	Auth   jsontext.Value `json:"auth,omitempty"`
}

type testServer struct {
	*Router
	log bytes.Buffer
}

func newTestServer() *testServer {
	s := &testServer{}
	s.Router = &Router{Log: slog.New(slog.NewTextHandler(&s.log, nil)), Limits: NewLimiter(map[Limit]Rate{Message: {0.2, 2}}),
		Authenticate: func(_ context.Context, token string, _ *http.Request) (Caller, error) {
			switch token {
			case "alice":
				return Caller{User: "@alice:x"}, nil
			case "guest":
				return Caller{User: "@1:x", Guest: true}, nil
			case "admin":
				return Caller{User: "@admin:x", Admin: true}, nil
			case "bridge":
				return Caller{User: "@bridge:x", AppService: "irc", Unlimited: true}, nil
			}
			return Caller{}, errcode.UnknownToken("unknown token").With("soft_logout", false)
		}}
	echo := func(_ context.Context, c Caller, r sendRequest) (map[string]any, error) {
		return map[string]any{"user": c.User, "room": r.Room, "type": r.Type, "ts": r.TS, "flag": r.Flag, "via": r.Via, "content": r.Content}, nil
	}
	fail := func(err error) func(context.Context, Caller, struct{}) (struct{}, error) {
		return func(context.Context, Caller, struct{}) (struct{}, error) { return struct{}{}, err }
	}
	s.Mount(
		Handle("PUT /_matrix/client/v3/rooms/{roomId}/send/{eventType}", Guest, NoLimit, echo).WithMaxBody(1000).
			Also("/_matrix/client/unstable/x.y/rooms/{roomId}/send/{eventType}"),
		Handle("POST /_matrix/client/v3/profile/{userId}", User, NoLimit, func(_ context.Context, _ Caller, r profileRequest) (profileRequest, error) { return r, nil }),
		Handle("GET /_matrix/client/v3/limited", Guest, Message, fail(nil)),
		Handle("GET /_matrix/client/v3/open", None, Message, fail(nil)),
		Handle("GET /_matrix/client/v3/optional", Optional, NoLimit, fail(nil)),
		Handle("GET /_matrix/client/v3/admin", Admin, NoLimit, fail(nil)),
		Handle("GET /_matrix/client/v3/bridge", Appservice, NoLimit, fail(nil)),
		Handle("GET /_matrix/client/v3/denied", None, NoLimit, fail(fmt.Errorf("send: %w", &authrules.Denied{Rule: "5.3.7", Reason: "sender is not joined"}))),
		Handle("GET /_matrix/client/v3/broken", None, NoLimit, fail(errors.New("disk on fire"))),
		Handle("GET /_matrix/client/v3/challenge", None, NoLimit, fail(&errcode.Error{Status: 401, Extra: map[string]any{"session": "s", "flows": []string{}}})),
		Handle("GET /_matrix/client/v3/slowdown", None, NoLimit, fail(errcode.LimitExceeded(1500))),
		Handle("GET /_matrix/client/v3/panic", None, NoLimit, func(context.Context, Caller, struct{}) (struct{}, error) { panic("boom") }),
		Handle("GET /_matrix/client/v3/state/{type}", None, NoLimit, fail(nil)),
		Handle("GET /_matrix/client/v3/gone", None, NoLimit, fail(context.Canceled)),
		Stream("PUT /_matrix/media/v3/upload", None, NoLimit, func(_ context.Context, w http.ResponseWriter, _ Caller, r struct {
			Body io.Reader `body:"stream"`
			Type string    `header:"Content-Type"`
		}) error {
			b, err := io.ReadAll(r.Body)
			fmt.Fprintf(w, "%s:%s", r.Type, b)
			return err
		}),
	)
	return s
}

func call(h http.Handler, method, url, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, url, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestRequestsAndErrors(t *testing.T) {
	const room = "/_matrix/client/v3/rooms/!r:x/send/m.x?access_token=alice"
	const profile = "/_matrix/client/v3/profile/@bob:x?access_token=alice"
	deep := strings.Repeat(`{"a":`, maxNesting) + "{}" + strings.Repeat("}", maxNesting)
	for _, test := range []struct {
		name, method, url, body string
		status                  int
		want                    string // part of the answer
	}{
		{"typed request", "PUT", room + "&ts=5&flag=true&via=a.example&via=b.example", `{"b":1,"a":2}`, 200,
			`{"content":{"b":1,"a":2},"flag":true,"room":"!r:x","ts":5,"type":"m.x","user":"@alice:x","via":["a.example","b.example"]}`},
		{"old prefix", "PUT", "/_matrix/client/r0/rooms/!r:x/send/m.x?access_token=alice", `{}`, 200, `"room":"!r:x"`},
		{"alias path", "PUT", "/_matrix/client/unstable/x.y/rooms/!r:x/send/m.x?access_token=alice", `{}`, 200, `"room":"!r:x"`},
		{"slash inside a segment", "PUT", "/_matrix/client/v3/rooms/!r%2Fs:x/send/a%2Fb%3F?access_token=alice", `{}`, 200, `"room":"!r/s:x","ts":null,"type":"a/b?"`},
		{"bad room id", "PUT", "/_matrix/client/v3/rooms/r:x/send/m.x?access_token=alice", `{}`, 400, "M_INVALID_PARAM"},
		{"bad query integer", "PUT", room + "&ts=1e3", `{}`, 400, "M_INVALID_PARAM"},
		{"bad query boolean", "PUT", room + "&flag=1", `{}`, 400, "M_INVALID_PARAM"},
		{"bad query list", "PUT", room + "&via=_", `{}`, 400, "M_INVALID_PARAM"},
		{"bad query escape", "PUT", room + "&ts=%zz", `{}`, 400, "M_INVALID_PARAM"},
		{"NUL in a path", "PUT", "/_matrix/client/v3/rooms/!r:x/send/%00?access_token=alice", `{}`, 400, "M_INVALID_PARAM"},
		{"bad UTF-8 in a path", "PUT", "/_matrix/client/v3/rooms/!r:x/send/%ff?access_token=alice", `{}`, 400, "M_INVALID_PARAM"},

		{"no JSON", "PUT", room, `{"a":`, 400, "M_NOT_JSON"},
		{"empty PUT", "PUT", room, ``, 400, "M_NOT_JSON"},
		{"two values", "PUT", room, `{}{}`, 400, "M_NOT_JSON"},
		{"bad UTF-8", "PUT", room, "{\"a\":\"\xff\"}", 400, "M_NOT_JSON"},
		{"repeated key", "PUT", room, `{"a":1,"a":2}`, 400, "M_BAD_JSON"},
		{"not an object", "PUT", room, `[]`, 400, "M_BAD_JSON"},
		{"nested deeply", "PUT", room, deep, 413, "M_TOO_LARGE"},
		{"nested deeply within the size", "POST", profile, deep, 400, "M_BAD_JSON"},
		{"too large", "PUT", room, `{"a":"` + strings.Repeat("x", 1000) + `"}`, 413, "M_TOO_LARGE"},

		{"body fields", "POST", profile, `{"displayname":"Bob","other":1}`, 200, `"displayname":"Bob"}`},
		{"a body cannot fill a path field", "POST", profile, `{"User":"@eve:x","userId":"@eve:x","displayname":"Bob"}`, 200, `"@bob:x"`},
		{"empty POST", "POST", profile, ``, 200, `"@bob:x"`},
		{"wrong type", "POST", profile, `{"displayname":5}`, 400, `{"errcode":"M_BAD_JSON","error":"displayname is`},
		{"bad id in a body", "POST", profile, `{"friend":"bob"}`, 400, "M_INVALID_PARAM"},
		{"NUL in a body", "POST", profile, `{"displayname":"a\u0000b"}`, 400, "M_INVALID_PARAM"},

		{"no token", "PUT", "/_matrix/client/v3/rooms/!r:x/send/m.x", `{}`, 401, "M_MISSING_TOKEN"},
		{"bad token", "PUT", "/_matrix/client/v3/rooms/!r:x/send/m.x?access_token=zz", `{}`, 401, `{"errcode":"M_UNKNOWN_TOKEN","error":"unknown token","soft_logout":false}`},
		{"guest where guests may", "PUT", "/_matrix/client/v3/rooms/!r:x/send/m.x?access_token=guest", `{}`, 200, `"@1:x"`},
		{"guest where guests may not", "POST", "/_matrix/client/v3/profile/@bob:x?access_token=guest", `{}`, 403, "M_GUEST_ACCESS_FORBIDDEN"},
		{"optional without token", "GET", "/_matrix/client/v3/optional", ``, 200, `{}`},
		{"optional with a bad token", "GET", "/_matrix/client/v3/optional?access_token=zz", ``, 401, "M_UNKNOWN_TOKEN"},
		{"no admin", "GET", "/_matrix/client/v3/admin?access_token=alice", ``, 403, "M_FORBIDDEN"},
		{"admin", "GET", "/_matrix/client/v3/admin?access_token=admin", ``, 200, `{}`},
		{"no bridge", "GET", "/_matrix/client/v3/bridge?access_token=alice", ``, 403, "M_FORBIDDEN"},
		{"bridge", "GET", "/_matrix/client/v3/bridge?access_token=bridge", ``, 200, `{}`},

		{"unknown endpoint", "GET", "/_matrix/client/v3/nothing", ``, 404, "M_UNRECOGNIZED"},
		{"wrong method", "DELETE", "/_matrix/client/v3/profile/@bob:x", ``, 405, "M_UNRECOGNIZED"},
		{"double slash", "GET", "/_matrix/client//v3/open", ``, 404, "M_UNRECOGNIZED"},
		{"dots", "GET", "/_matrix/client/v3/x/../open", ``, 404, "M_UNRECOGNIZED"},
		{"trailing slash", "GET", "/_matrix/client/v3/open/", ``, 404, "M_UNRECOGNIZED"},

		{"refused by the auth rules", "GET", "/_matrix/client/v3/denied", ``, 403, `{"errcode":"M_FORBIDDEN","error":"sender is not joined"}`},
		{"internal error", "GET", "/_matrix/client/v3/broken", ``, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`},
		{"panic", "GET", "/_matrix/client/v3/panic", ``, 500, `{"errcode":"M_UNKNOWN","error":"Internal server error"}`},
		{"interactive authentication", "GET", "/_matrix/client/v3/challenge", ``, 401, `{"flows":[],"session":"s"}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := call(newTestServer(), test.method, test.url, test.body)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.want) {
				t.Errorf("got %d %s, want %d %s", w.Code, w.Body, test.status, test.want)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json" {
				t.Errorf("content type %q", got)
			}
			if got := w.Header().Get("Access-Control-Allow-Origin"); got != "*" {
				t.Errorf("allowed origin %q", got)
			}
			if v := jsontext.Value(w.Body.Bytes()); !v.IsValid() {
				t.Errorf("answer is not JSON: %s", v)
			}
		})
	}
}

func TestBearerToken(t *testing.T) {
	s := newTestServer()
	if w := call(s, "GET", "/_matrix/client/v3/admin", "", "Authorization", "Bearer admin"); w.Code != 200 {
		t.Errorf("header: %d", w.Code)
	}
	if w := call(s, "GET", "/_matrix/client/v3/admin", "", "Authorization", "Basic admin"); w.Code != 401 {
		t.Errorf("other scheme: %d", w.Code)
	}
}

func TestOptionsNeedNoToken(t *testing.T) {
	for _, url := range []string{"/_matrix/client/v3/admin", "/_matrix/client/v3/nothing", "/.well-known/matrix/client"} {
		w := call(newTestServer(), "OPTIONS", url, "")
		if w.Code != 204 || !strings.Contains(w.Header().Get("Access-Control-Allow-Headers"), "Authorization") {
			t.Errorf("%s: %d %v", url, w.Code, w.Header())
		}
	}
	if w := call(newTestServer(), "GET", "/_synapse/admin/v1/x", ""); w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Error("the admin API is open to every web page")
	}
}

func TestWrongMethodNamesTheAllowedOnes(t *testing.T) {
	w := call(newTestServer(), "PATCH", "/_matrix/client/v3/profile/@bob:x", "")
	if got := w.Header().Get("Allow"); got != "POST" {
		t.Errorf("Allow: %q", got)
	}
}

func TestErrorsAreLoggedOnceAndNotShown(t *testing.T) {
	s := newTestServer()
	call(s, "GET", "/_matrix/client/v3/broken", "")
	if got := s.log.String(); strings.Count(got, "\n") != 1 || !strings.Contains(got, "disk on fire") || !strings.Contains(got, "/broken") {
		t.Errorf("log:\n%s", got)
	}
	s = newTestServer()
	call(s, "GET", "/_matrix/client/v3/denied", "")
	if !strings.Contains(s.log.String(), "rule=5.3.7") {
		t.Errorf("log:\n%s", s.log.String())
	}
}

func TestCancelledRequestIsSilent(t *testing.T) {
	s := newTestServer()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest("GET", "/_matrix/client/v3/gone", nil).WithContext(ctx))
	if w.Body.Len() != 0 || s.log.Len() != 0 {
		t.Errorf("wrote %q, logged %q", w.Body, s.log.String())
	}
}

func TestStreamedBody(t *testing.T) {
	w := call(newTestServer(), "PUT", "/_matrix/media/r0/upload", "abc", "Content-Type", "text/plain")
	if got := w.Body.String(); got != "text/plain:abc" {
		t.Errorf("got %q", got)
	}
}

// spec: client-server-api#rate-limiting
func TestRateLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		code := func(url, from string) int {
			r := httptest.NewRequest("GET", url, nil)
			r.RemoteAddr = from + ":999"
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code == 429 {
				var e struct {
					Code  string `json:"errcode"`
					Retry int64  `json:"retry_after_ms"`
				}
				if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil || e.Code != "M_LIMIT_EXCEEDED" || e.Retry != 5000 {
					t.Errorf("%s %v", w.Body, err)
				}
				if got := w.Header().Get("Retry-After"); got != "5" {
					t.Errorf("Retry-After: %q", got)
				}
			}
			return w.Code
		}
		const alice = "/_matrix/client/v3/limited?access_token=alice"
		for i, want := range []int{200, 200, 429, 429} {
			if got := code(alice, "1.1.1.1"); got != want {
				t.Errorf("request %d of alice: %d", i, got)
			}
		}
		if got := code("/_matrix/client/v3/limited?access_token=guest", "1.1.1.1"); got != 200 {
			t.Errorf("another user on the same address: %d", got)
		}
		for range 5 {
			if got := code("/_matrix/client/v3/limited?access_token=bridge", "1.1.1.1"); got != 200 {
				t.Errorf("exempt caller: %d", got)
			}
		}
		for i, want := range []int{200, 200, 429} {
			if got := code("/_matrix/client/v3/open", "2.2.2.2"); got != want {
				t.Errorf("request %d by address: %d", i, got)
			}
		}
		if got := code("/_matrix/client/v3/open", "3.3.3.3"); got != 200 {
			t.Errorf("another address: %d", got)
		}
		time.Sleep(5 * time.Second)
		if got := code(alice, "1.1.1.1"); got != 200 {
			t.Errorf("alice after waiting as told: %d", got)
		}
	})
}

func TestCheckDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(map[Limit]Rate{LoginFailedAttempts: {0.1, 1}})
		for range 3 {
			if err := l.Check(LoginFailedAttempts, "alice"); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Take(LoginFailedAttempts, "alice"); err != nil {
			t.Fatal(err)
		}
		if err := l.Check(LoginFailedAttempts, "alice"); err == nil {
			t.Error("the limit is used up")
		}
		if err := (*Limiter)(nil).Take(Message, "x"); err != nil {
			t.Error(err)
		}
	})
}

func TestLimiterForgetsOldBuckets(t *testing.T) {
	l := NewLimiter(map[Limit]Rate{Message: {1, 1}})
	for i := range 3 * bucketGeneration {
		_ = l.Take(Message, fmt.Sprint(i))
	}
	if n := len(l.now) + len(l.old); n > 2*bucketGeneration {
		t.Errorf("%d buckets", n)
	}
}

func TestClientAddress(t *testing.T) {
	for _, test := range []struct {
		remote, forwarded, direct, proxied string
	}{
		{"127.0.0.1:5", "", "127.0.0.1", "127.0.0.1"},
		{"127.0.0.1:5", "9.9.9.9, 1.2.3.4", "127.0.0.1", "1.2.3.4"},
		{"[::ffff:10.0.0.1]:5", "2001:db8::1", "10.0.0.1", "2001:db8::1"},
		{"127.0.0.1:5", "nonsense", "127.0.0.1", "127.0.0.1"},
	} {
		s := newTestServer()
		var got string
		s.Mount(Handle("GET /ip", None, NoLimit, func(_ context.Context, c Caller, _ struct{}) (struct{}, error) {
			got = c.IP
			return struct{}{}, nil
		}))
		for i, h := range []http.Handler{s, s.BehindProxy()} {
			r := httptest.NewRequest("GET", "/ip", nil)
			r.RemoteAddr = test.remote
			if test.forwarded != "" {
				r.Header.Set("X-Forwarded-For", test.forwarded)
			}
			h.ServeHTTP(httptest.NewRecorder(), r)
			if want := []string{test.direct, test.proxied}[i]; got != want {
				t.Errorf("%v: got %s, want %s", test, got, want)
			}
		}
	}
}

func TestHandlerNameIsTheOperation(t *testing.T) {
	rt := Handle("GET /x", None, NoLimit, (&operations{}).getVersions)
	if rt.Name != "getVersions" {
		t.Errorf("name %q", rt.Name)
	}
}

type operations struct{}

func (*operations) getVersions(context.Context, Caller, struct{}) (struct{}, error) {
	return struct{}{}, nil
}

// A body that is shorter than its Content-Length, over a real connection.
func TestBodyThatBreaksOff(t *testing.T) {
	srv := httptest.NewServer(newTestServer())
	defer srv.Close()
	pr, pw := io.Pipe()
	r, _ := http.NewRequest("PUT", srv.URL+"/_matrix/client/v3/rooms/!r:x/send/m.x?access_token=alice", pr)
	r.TransferEncoding = []string{"chunked"}
	go func() {
		fmt.Fprint(pw, `{"a":1`)
		pw.Close()
	}()
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 400 || !strings.Contains(string(b), "M_NOT_JSON") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

func FuzzBody(f *testing.F) {
	for _, seed := range []string{`{}`, `{"displayname":"x"}`, `[]`, `{"a":{"b":[1,2,{"c":null}]}}`, "\xff", `{"a":"\"}`} {
		f.Add(seed)
	}
	s := newTestServer()
	f.Fuzz(func(t *testing.T, body string) {
		w := call(s, "POST", "/_matrix/client/v3/profile/@bob:x?access_token=alice", body)
		if w.Code != 200 && w.Code != 400 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	})
}

func BenchmarkSend(b *testing.B) {
	s := newTestServer()
	b.ReportAllocs()
	for b.Loop() {
		call(s, "PUT", "/_matrix/client/v3/rooms/!r:x/send/m.x?access_token=alice", `{"body":"hello"}`)
	}
}

// A client that stops sending or reading gives its connection back.
func TestSlowClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newTestServer()
		s.Mount(Handle("GET /big", None, NoLimit, func(context.Context, Caller, struct{}) (string, error) { return strings.Repeat("x", 10<<20), nil }))
		for _, request := range []string{
			"PUT /_matrix/client/v3/rooms/!r:x/send/m.x?access_token=alice HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
			"PUT /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
			"GET /big HTTP/1.1\r\nHost: x\r\n\r\n",
		} {
			client, server := net.Pipe()
			l := &oneConn{conn: server, closed: make(chan struct{})}
			srv := &http.Server{Handler: s}
			done := make(chan struct{})
			srv.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateClosed {
					close(done)
				}
			}
			go srv.Serve(l)
			if _, err := io.WriteString(client, request); err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(request, "PUT") {
				go io.Copy(io.Discard, client) // the answer may be read
			}
			select {
			case <-done:
			case <-time.After(10 * time.Minute):
				t.Errorf("the connection is still open: %q", request)
			}
			srv.Close()
			client.Close()
			synctest.Wait()
		}
	})
}

// oneConn is a listener with one connection.
type oneConn struct {
	conn   net.Conn
	closed chan struct{}
	once   sync.Once
}

func (l *oneConn) Accept() (net.Conn, error) {
	if c := l.conn; c != nil {
		l.conn = nil
		return c, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}
func (l *oneConn) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

// A response that fails halfway must not look complete to the client.
func TestBrokenStreamIsCutOff(t *testing.T) {
	s := newTestServer()
	broken := func(end func() error) func(context.Context, http.ResponseWriter, Caller, struct{}) error {
		return func(_ context.Context, w http.ResponseWriter, _ Caller, _ struct{}) error {
			if _, err := io.WriteString(w, `{"rooms":{`); err != nil {
				return err
			}
			return end()
		}
	}
	s.Mount(Stream("GET /error", None, NoLimit, broken(func() error { return errors.New("disk on fire") })),
		Stream("GET /panic", None, NoLimit, broken(func() error { panic("boom") })))
	srv := httptest.NewServer(s)
	defer srv.Close()
	for _, path := range []string{"/error", "/panic"} {
		resp, err := srv.Client().Get(srv.URL + path)
		if err != nil {
			continue // nothing had been sent yet
		}
		if b, err := io.ReadAll(resp.Body); err == nil {
			t.Errorf("%s: the client takes %q for the whole answer", path, b)
		}
		resp.Body.Close()
	}
}
