package remote

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// spec: server-server-api#request-authentication
func TestParseXMatrix(t *testing.T) {
	want := xMatrix{"origin.hs.example.com", "destination.hs.example.com", "ed25519:key1", "ABCDEF"}
	for _, header := range []string{
		`X-Matrix origin="origin.hs.example.com",destination="destination.hs.example.com",key="ed25519:key1",sig="ABCDEF"`,
		`x-matrix    ORIGIN="origin.hs.example.com" , Destination="destination.hs.example.com"` + "\t,\t" + `key="ed25519:key1",sig="ABCDEF"`,
		`X-Matrix sig=ABCDEF,key=ed25519:key1,destination=destination.hs.example.com,origin=origin.hs.example.com`,
		`X-Matrix origin="origin\.hs.example.com",destination="destination.hs.example.com",key="ed25519\:key1",sig="ABCDEF",`,
		`X-Matrix origin="origin.hs.example.com",new="a \"quoted\", thing",destination="destination.hs.example.com",key="ed25519:key1",sig="ABCDEF"`,
	} {
		if got, err := parseXMatrix(header); err != nil || got != want {
			t.Errorf("%s: %+v, %v", header, got, err)
		}
	}
	if got, err := parseXMatrix(`X-Matrix origin="[2001:db8::1]:99",key="ed25519:a",sig="x+/="`); err != nil || got.origin != "[2001:db8::1]:99" || got.destination != "" || got.signature != "x+/=" {
		t.Errorf("without destination: %+v, %v", got, err)
	}
	for _, header := range []string{
		`X-Matrix`, `X-Matrix `, `X-Matrix origin`, `X-Matrix origin=`, `X-Matrix ="x"`,
		`X-Matrix origin="a.example",key="ed25519:a"`,
		`X-Matrix origin="a.example",sig="x"`,
		`X-Matrix key="ed25519:a",sig="x"`,
		`X-Matrix origin="a.example",key="rsa:a",sig="x"`,
		`X-Matrix origin="not a name",key="ed25519:a",sig="x"`,
		`X-Matrix origin="a.example",destination="",key="ed25519:a",sig="x"`,
		`X-Matrix origin="a.example",origin="b.example",key="ed25519:a",sig="x"`,
		`X-Matrix origin="a.example" key="ed25519:a" sig="x"`,
		`X-Matrix origin="a.example",key="ed25519:a",sig="x`,
		`X-Matrix origin="a.example",key="ed25519:a",sig="x\`,
		`X-Matrix origin=a/b,key="ed25519:a",sig="x"`,
		`X-Matrix origin="a.example",key="ed25519:a",sig="` + strings.Repeat("x", maxAuthorization) + `"`,
	} {
		if got, err := parseXMatrix(header); err == nil {
			t.Errorf("%.80s was taken: %+v", header, got)
		}
	}
}

func FuzzXMatrix(f *testing.F) {
	f.Add(`X-Matrix origin="a.example",destination="b.example",key="ed25519:key1",sig="ABCDEF"`)
	f.Add(`X-Matrix origin=a.example:1,key=ed25519:key1,sig=AB , x="\""`)
	f.Add(`X-Matrix ,`)
	f.Fuzz(func(t *testing.T, header string) {
		h, err := parseXMatrix(header)
		if err != nil {
			return
		}
		if _, err := id.ParseServer(string(h.origin)); err != nil || h.signature == "" || h.key.Algorithm() != "ed25519" {
			t.Errorf("%+v", h)
		}
	})
}

// signedRequest makes a request from one server to another as the specification has it.
func signedRequest(t testing.TB, from *peer, s signed, body string) *http.Request {
	t.Helper()
	if body != "" {
		s.content = []byte(body)
	}
	msg, err := appendSigned(nil, s)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(s.method, s.uri, strings.NewReader(body))
	header := `X-Matrix origin="` + string(s.origin) + `",`
	if s.destination != "" {
		header += `destination="` + string(s.destination) + `",`
	}
	r.Header.Set("Authorization", header+`key="ed25519:1",sig="`+signing.EncodeBase64(ed25519.Sign(from.key, msg))+`"`)
	return r
}

func TestAuthenticateRequest(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	const uri = "/_matrix/federation/v1/x%2Fy?a=b%20c&d"
	good := signed{method: "PUT", uri: uri, origin: "a.example", destination: "b.example"}
	for _, test := range []struct {
		name   string
		signed signed
		body   string
		change func(r *http.Request) (body string)
		status int // 0: it is accepted
	}{
		{name: "as it should be", signed: good, body: `{"b":1.50,"a":[1e3,"ü"]}`},
		{name: "without a body", signed: signed{method: "GET", uri: uri, origin: "a.example", destination: "b.example"}},
		{name: "without destination", signed: signed{method: "PUT", uri: uri, origin: "a.example"}, body: `{}`},
		{name: "body in another order", signed: good, body: `{"a":1,"b":2}`, change: func(*http.Request) string { return `{ "b": 2, "a": 1 }` }},
		{name: "two headers", signed: good, body: `{}`, change: func(r *http.Request) string {
			r.Header.Add("Authorization", `X-Matrix origin="a.example",destination="b.example",key="ed25519:unknown",sig="AAAA"`)
			return `{}`
		}},
		{name: "for another server", signed: signed{method: "PUT", uri: uri, origin: "a.example", destination: "c.example"}, body: `{}`, status: 401},
		{name: "another body", signed: good, body: `{"a":1}`, change: func(*http.Request) string { return `{"a":2}` }, status: 401},
		{name: "another method", signed: good, body: `{}`, change: func(r *http.Request) string { r.Method = "POST"; return `{}` }, status: 401},
		{name: "another path", signed: good, body: `{}`, change: func(r *http.Request) string { r.RequestURI = "/_matrix/federation/v1/x/y?a=b%20c&d"; return `{}` }, status: 401},
		{name: "another query", signed: good, body: `{}`, change: func(r *http.Request) string { r.RequestURI += "&e"; return `{}` }, status: 401},
		{name: "in our own name", signed: signed{method: "PUT", uri: uri, origin: "b.example", destination: "b.example"}, body: `{}`, status: 401},
		{name: "in the name of one who does not exist", signed: signed{method: "PUT", uri: uri, origin: "none.example", destination: "b.example"}, body: `{}`, status: 401},
		{name: "no JSON", signed: good, body: `{}`, change: func(*http.Request) string { return `{"a":1,"a":2}` }, status: 400},
		{name: "no header", signed: good, body: `{}`, change: func(r *http.Request) string { r.Header.Del("Authorization"); return `{}` }, status: 401},
		{name: "a client's token", signed: good, body: `{}`, change: func(r *http.Request) string { r.Header.Set("Authorization", "Bearer x"); return `{}` }, status: 401},
		{name: "headers that differ", signed: good, body: `{}`, change: func(r *http.Request) string {
			r.Header.Add("Authorization", `X-Matrix origin="c.example",destination="b.example",key="ed25519:1",sig="AAAA"`)
			return `{}`
		}, status: 401},
		{name: "two headers, one false", signed: good, body: `{}`, change: func(r *http.Request) string {
			r.Header.Add("Authorization", `X-Matrix origin="a.example",destination="b.example",key="ed25519:1",sig="AAAA"`)
			return `{}`
		}, status: 401},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := signedRequest(t, a, test.signed, test.body)
			body := test.body
			if test.change != nil {
				body = test.change(r)
			}
			origin, err := b.AuthenticateRequest(t.Context(), r, []byte(body))
			if test.status == 0 {
				if err != nil || origin != "a.example" {
					t.Error(origin, err)
				}
				return
			}
			if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Status != test.status {
				t.Errorf("%v, not %d", err, test.status)
			}
		})
	}
}

// A caller that hangs up is no failure of this server.
func TestCallerThatGoesAway(t *testing.T) {
	w := newWorld(t)
	a, b := w.client("a.example"), w.peer("b.example")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := signedRequest(t, a, signed{method: "GET", uri: "/x", origin: "a.example", destination: "b.example"}, "")
	if _, err := b.AuthenticateRequest(ctx, r, nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Whoever names servers that take connections and say nothing, as many as he likes, keeps
// out none of those that are known here.
func TestStrangersKeepOutNobody(t *testing.T) {
	w := newWorld(t)
	end := make(chan struct{})
	defer close(end)
	hanging := make(chan struct{}, 1000)
	dial := func(ctx context.Context, network, address string) (net.Conn, error) {
		if strings.HasPrefix(address, "hangs") {
			hanging <- struct{}{}
			<-end
			return nil, io.EOF
		}
		return w.dial(ctx, network, address)
	}
	a := w.peer("a.example")
	b := w.client("b.example", func(o *Options) { o.Dial = dial })
	get := func(origin id.Server) signed {
		return signed{method: "GET", uri: "/x", origin: origin, destination: "b.example"}
	}
	if err := b.Keys.refresh(t.Context(), "a.example", "a.example", forEvents); err != nil {
		t.Fatal(err)
	}
	strange, stop := context.WithCancel(t.Context())
	defer stop()
	for i := range 2 * maxStrangeFetches {
		name := id.Server(fmt.Sprintf("hangs%d.example:1", i))
		go func() { _, _ = b.AuthenticateRequest(strange, signedRequest(t, a, get(name), ""), nil) }()
	}
	for range maxStrangeFetches {
		<-hanging
	}
	b.Keys.sets.Set("a.example", keySet{"ed25519:1": {public: publicOf(a.key), validUntil: 1}}) // out of date
	ctx, cancel := context.WithTimeout(t.Context(), keyTime/2)
	defer cancel()
	if _, err := b.AuthenticateRequest(ctx, signedRequest(t, a, get("a.example"), ""), nil); err != nil {
		t.Error(err)
	}
}

func TestOnlyPermittedServersMayAsk(t *testing.T) {
	w := newWorld(t)
	a, c := w.peer("a.example"), w.peer("c.example")
	b := w.peer("b.example", func(o *Options) { o.Permit = func(s id.Server) bool { return s == "c.example" } })
	s := signed{method: "GET", uri: "/x", origin: "a.example", destination: "b.example"}
	_, err := b.AuthenticateRequest(t.Context(), signedRequest(t, a, s, ""), nil)
	if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Status != 403 {
		t.Error(err)
	}
	s.origin = "c.example"
	if _, err := b.AuthenticateRequest(t.Context(), signedRequest(t, c, s, ""), nil); err != nil {
		t.Error(err)
	}
	if _, err := b.GetVersion(t.Context(), "a.example"); err == nil || len(a.requests()) > 0 {
		t.Errorf("a server that is not permitted was asked: %v", err)
	}
}

func TestOldKeysDoNotSignRequests(t *testing.T) {
	w := newWorld(t)
	old := w.client("a.example")
	// The server has a new key now, and says since when the old one is out of use.
	w.peer("a.example", func(o *Options) {
		o.KeyID = "ed25519:2"
		o.OldKeys = []OldKey{{ID: "ed25519:1", Public: publicOf(old.key), Expired: time.Now().Add(time.Hour).UnixMilli()}}
	})
	b := w.peer("b.example")
	s := signed{method: "GET", uri: "/x", origin: "a.example", destination: "b.example"}
	if _, err := b.AuthenticateRequest(t.Context(), signedRequest(t, old, s, ""), nil); err == nil {
		t.Error("accepted")
	}
}

func TestAServerWithANewKeyIsUnderstoodAtOnce(t *testing.T) {
	w := newWorld(t)
	b := w.peer("b.example")
	s := signed{method: "GET", uri: "/x", origin: "a.example:1", destination: "b.example"}
	for _, keyID := range []id.Key{"ed25519:1", "ed25519:1", "ed25519:1"} { // the same name for three keys
		a := w.peer("a.example:1", func(o *Options) { o.KeyID = keyID })
		b.http.Close() // the connection to the one before
		if origin, err := b.AuthenticateRequest(t.Context(), signedRequest(t, a, s, ""), nil); err != nil || origin != "a.example:1" {
			t.Error(err)
		}
	}
}

func TestKeysAreNotFetchedForEachBadSignature(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	s := signed{method: "GET", uri: "/x", origin: "a.example", destination: "b.example"}
	for range 50 {
		r := signedRequest(t, a, s, "")
		r.RequestURI = "/y"
		if _, err := b.AuthenticateRequest(t.Context(), r, nil); err == nil {
			t.Fatal("accepted")
		}
	}
	if n := len(a.asked); n > fetchBurst+1 {
		t.Errorf("its keys were fetched %d times", n)
	}
}

func TestAServerThatSeemedDownIsUpOnceItAsks(t *testing.T) {
	w := newWorld(t)
	b := w.peer("b.example")
	for range 5 {
		b.failed("a.example", 0)
		b.down.servers["a.example"] = downState{failures: b.down.servers["a.example"].failures}
	}
	b.failed("a.example", 0)
	a := w.peer("a.example")
	s := signed{method: "GET", uri: "/x", origin: "a.example", destination: "b.example"}
	if _, err := b.AuthenticateRequest(context.WithoutCancel(t.Context()), signedRequest(t, a, s, ""), nil); err != nil {
		t.Fatal(err)
	}
	if _, down := b.Down("a.example"); down {
		t.Error("it still counts as down")
	}
}

func BenchmarkAuthenticateRequest(b *testing.B) {
	w := newWorld(b)
	from, to := w.peer("a.example"), w.peer("b.example")
	body := `{"pdus":[` + strings.Repeat(`{"type":"m.room.message","content":{"body":"hello"},"depth":5},`, 49) + `{}]}`
	r := signedRequest(b, from, signed{method: "PUT", uri: "/_matrix/federation/v1/send/1", origin: "a.example", destination: "b.example"}, body)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := to.AuthenticateRequest(b.Context(), r, []byte(body)); err != nil {
			b.Fatal(err)
		}
	}
}
