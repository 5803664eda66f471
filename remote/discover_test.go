package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hearth/matrix/id"
	"hearth/store"
)

// wellKnownAt serves a well-known document for a host.
func (w *world) wellKnownAt(host string, h http.HandlerFunc) {
	w.serve(net.JoinHostPort(host, "443"), host, func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/matrix/server" {
			rw.WriteHeader(http.StatusNotFound)
			return
		}
		h(rw, r)
	})
}

func srv(target string, port uint16) []*net.SRV { return []*net.SRV{{Target: target, Port: port}} }

// TestDiscovery goes through the steps of the specification: where a server is
// asked, under which Host, and for which name its certificate must be.
// spec: server-server-api#resolving-server-names
func TestDiscovery(t *testing.T) {
	for _, test := range []struct {
		name      string // of the step
		server    id.Server
		wellKnown map[string]string // host -> body
		records   map[string][]*net.SRV
		place     string // where the server listens
		certified string
		host      string // what it must be called
	}{
		{name: "1 IPv4", server: "192.0.2.1", place: "192.0.2.1:8448", certified: "192.0.2.1", host: "192.0.2.1"},
		{name: "1 IPv4 with port", server: "192.0.2.1:99", place: "192.0.2.1:99", certified: "192.0.2.1", host: "192.0.2.1:99"},
		{name: "1 IPv6", server: "[2001:db8::1]", place: "[2001:db8::1]:8448", certified: "2001:db8::1", host: "[2001:db8::1]"},
		{name: "1 IPv6 with port", server: "[2001:db8::1]:99", place: "[2001:db8::1]:99", certified: "2001:db8::1", host: "[2001:db8::1]:99"},
		{
			name: "2 explicit port", server: "example.org:443", place: "example.org:443", certified: "example.org", host: "example.org:443",
			// Neither is looked at.
			wellKnown: map[string]string{"example.org": `{"m.server":"other.example:1"}`},
			records:   map[string][]*net.SRV{"_matrix-fed._tcp.example.org": srv("other.example.", 1)},
		},
		{
			name: "3.1 delegated to an address", server: "example.org", wellKnown: map[string]string{"example.org": `{"m.server":"192.0.2.1"}`},
			place: "192.0.2.1:8448", certified: "192.0.2.1", host: "192.0.2.1",
		},
		{
			name: "3.1 with port", server: "example.org", wellKnown: map[string]string{"example.org": `{"m.server":"[2001:db8::1]:99"}`},
			place: "[2001:db8::1]:99", certified: "2001:db8::1", host: "[2001:db8::1]:99",
		},
		{
			name: "3.2 delegated to a port", server: "example.org", wellKnown: map[string]string{"example.org": `{"m.server":"m.example.org:443"}`},
			place: "m.example.org:443", certified: "m.example.org", host: "m.example.org:443",
		},
		{
			name: "3.3 delegated, SRV", server: "example.org", wellKnown: map[string]string{"example.org": `{"m.server":"m.example.org"}`},
			records: map[string][]*net.SRV{"_matrix-fed._tcp.m.example.org": srv("box.example.net.", 99), "_matrix._tcp.m.example.org": srv("no.example.", 1)},
			place:   "box.example.net:99", certified: "m.example.org", host: "m.example.org",
		},
		{
			name: "3.4 delegated, old SRV", server: "example.org", wellKnown: map[string]string{"example.org": `{"m.server":"m.example.org"}`},
			records: map[string][]*net.SRV{"_matrix._tcp.m.example.org": srv("box.example.net.", 99)},
			place:   "box.example.net:99", certified: "m.example.org", host: "m.example.org",
		},
		{
			name: "3.5 delegated", server: "example.org",
			// A delegate's own well-known is not asked for.
			wellKnown: map[string]string{"example.org": `{"m.server":"m.example.org"}`, "m.example.org": `{"m.server":"other.example:1"}`},
			place:     "m.example.org:8448", certified: "m.example.org", host: "m.example.org",
		},
		{
			name: "4 SRV", server: "example.org", records: map[string][]*net.SRV{"_matrix-fed._tcp.example.org": srv("box.example.net.", 99), "_matrix._tcp.example.org": srv("no.example.", 1)},
			place: "box.example.net:99", certified: "example.org", host: "example.org",
		},
		{
			name: "5 old SRV", server: "example.org", records: map[string][]*net.SRV{"_matrix._tcp.example.org": srv("box.example.net.", 99)},
			place: "box.example.net:99", certified: "example.org", host: "example.org",
		},
		{name: "6 nothing", server: "example.org", place: "example.org:8448", certified: "example.org", host: "example.org"},
		{name: "6 well-known without m.server", server: "example.org", wellKnown: map[string]string{"example.org": `{}`}, place: "example.org:8448", certified: "example.org", host: "example.org"},
		{name: "6 well-known that is no JSON", server: "example.org", wellKnown: map[string]string{"example.org": `<html>`}, place: "example.org:8448", certified: "example.org", host: "example.org"},
		{name: "6 well-known with nonsense", server: "example.org", wellKnown: map[string]string{"example.org": `{"m.server":"https://m.example.org"}`}, place: "example.org:8448", certified: "example.org", host: "example.org"},
		{
			name: "6 well-known that is too large", server: "example.org", place: "example.org:8448", certified: "example.org", host: "example.org",
			wellKnown: map[string]string{"example.org": `{"m.server":"m.example.org","x":"` + strings.Repeat("x", wellKnownSize) + `"}`},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			w.records = test.records
			for host, body := range test.wellKnown {
				w.wellKnownAt(host, answer(body))
			}
			var called string
			w.serve(test.place, test.certified, func(rw http.ResponseWriter, r *http.Request) {
				called = r.Host
				io.WriteString(rw, `{"server":{"name":"X","version":"1"}}`)
			})
			v, err := w.client("me.example").GetVersion(t.Context(), test.server)
			if err != nil || v.Name != "X" {
				t.Fatal(v, err)
			}
			if called != test.host {
				t.Errorf("the Host header is %q, not %q", called, test.host)
			}
		})
	}
}

func TestCertificatesAreVerified(t *testing.T) {
	w := newWorld(t)
	w.records["_matrix-fed._tcp.example.org"] = srv("box.example.net.", 99)
	// The target of an SRV record must have the name that was asked for.
	w.serve("box.example.net:99", "box.example.net", answer(`{}`))
	w.serve("192.0.2.1:8448", "192.0.2.2", answer(`{}`))
	other := newWorld(t)
	w.places["stranger.example:8448"] = other.serve("stranger.example:8448", "stranger.example", answer(`{}`)).Listener.Addr().String()
	c := w.client("me.example")
	for _, server := range []id.Server{"example.org", "192.0.2.1", "stranger.example"} {
		if _, err := c.GetVersion(t.Context(), server); !Unreachable(err) {
			t.Errorf("%s: %v", server, err)
		}
	}
}

func TestSRVTargetsAreTriedInOrder(t *testing.T) {
	w := newWorld(t)
	w.records["_matrix-fed._tcp.example.org"] = []*net.SRV{{Target: "gone.example.", Port: 1}, {Target: "box.example.", Port: 2}}
	w.serve("box.example:2", "example.org", answer(`{"server":{"name":"X"}}`))
	if v, err := w.client("me.example").GetVersion(t.Context(), "example.org"); err != nil || v.Name != "X" {
		t.Error(v, err)
	}
}

func TestSRVThatSaysThereIsNoServer(t *testing.T) {
	w := newWorld(t)
	w.records["_matrix-fed._tcp.example.org"] = srv(".", 0)
	w.serve("example.org:8448", "example.org", answer(`{"server":{"name":"X"}}`))
	if _, err := w.client("me.example").GetVersion(t.Context(), "example.org"); !Unreachable(err) {
		t.Error(err)
	}
}

func TestNameServerThatFailsHidesNobodyForLong(t *testing.T) {
	w := newWorld(t)
	w.serve("example.org:8448", "example.org", answer(`{"server":{"name":"X"}}`))
	c := w.client("me.example", func(o *Options) {
		o.LookupSRV = func(context.Context, string, string, string) (string, []*net.SRV, error) {
			return "", nil, errors.New("server misbehaving")
		}
	})
	if v, err := c.GetVersion(t.Context(), "example.org"); err != nil || v.Name != "X" {
		t.Fatal(v, err)
	}
	if d, err := c.discover(t.Context(), "example.org"); err != nil || d.expires.After(time.Now().Add(uncertainTime)) {
		t.Error(d, err)
	}
}

func TestWellKnownFollowsRedirectsButNotAway(t *testing.T) {
	w := newWorld(t)
	w.wellKnownAt("example.org", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "https://www.example.org/.well-known/matrix/server", http.StatusMovedPermanently)
	})
	w.wellKnownAt("www.example.org", answer(`{"m.server":"m.example.org:1"}`))
	w.wellKnownAt("loop.example", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, r.URL.Path, http.StatusFound)
	})
	w.wellKnownAt("plain.example", func(rw http.ResponseWriter, r *http.Request) {
		http.Redirect(rw, r, "http://plain.example/.well-known/matrix/server", http.StatusFound)
	})
	c := w.client("me.example")
	for host, want := range map[string]id.Server{"example.org": "m.example.org:1", "loop.example": "", "plain.example": ""} {
		if got := c.delegate(t.Context(), host); got != want {
			t.Errorf("%s is delegated to %q", host, got)
		}
	}
	if slices.Contains(w.dials, "plain.example:80") {
		t.Error("a redirect led out of TLS")
	}
}

// TestWellKnownIsKept has a host answer in turn, and a clock that is moved on.
func TestWellKnownIsKept(t *testing.T) {
	w := newWorld(t)
	asked, status, body := 0, 200, `{"m.server":"a.example:1"}`
	w.wellKnownAt("example.org", func(rw http.ResponseWriter, r *http.Request) {
		asked++
		rw.Header().Set("Cache-Control", "public, max-age=3600")
		rw.WriteHeader(status)
		io.WriteString(rw, body)
	})
	c := w.client("me.example")
	now := time.Now()
	c.now = func() time.Time { return now }
	for i, step := range []struct {
		later  time.Duration
		status int
		body   string
		want   id.Server
		asked  int
	}{
		{0, 200, `{"m.server":"a.example:1"}`, "a.example:1", 1},
		{59 * time.Minute, 200, `{"m.server":"b.example:1"}`, "a.example:1", 1}, // it said an hour
		{2 * time.Minute, 200, `{"m.server":"b.example:1"}`, "b.example:1", 2},
		{2 * time.Hour, 503, "", "b.example:1", 3},                              // while it fails, what it said holds
		{time.Minute, 200, `{"m.server":"c.example:1"}`, "b.example:1", 3},      // and it is let alone
		{2 * time.Minute, 503, "", "b.example:1", 4},                            // but for a while only
		{3 * time.Minute, 503, "", "b.example:1", 4},                            // longer each time
		{48 * time.Hour, 503, "", "", 5},                                        // not for ever
		{2 * time.Hour, 404, "", "", 6},                                         // that is an answer
		{2 * time.Hour, 200, `{"m.server":"d.example:1"}`, "d.example:1", 7},    //
		{61 * time.Minute, 200, `{"m.server":"bad name"}`, "", 8},               // whatever is wrong means none
		{61 * time.Minute, 200, `{"m.server":"e.example:1"}`, "e.example:1", 9}, //
		{61 * time.Minute, 429, "", "e.example:1", 10},                          // asked too often is no answer
	} {
		now = now.Add(step.later)
		status, body = step.status, step.body
		if got := c.delegate(t.Context(), "example.org"); got != step.want || asked != step.asked {
			t.Errorf("step %d: delegated to %q after %d questions, not %q after %d", i, got, asked, step.want, step.asked)
		}
	}
}

func TestCacheTime(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		header http.Header
		want   time.Duration
	}{
		{http.Header{}, 24 * time.Hour},
		{http.Header{"Cache-Control": {"max-age=7200"}}, 2 * time.Hour},
		{http.Header{"Cache-Control": {"public", `Max-Age="7200"`}}, 2 * time.Hour},
		{http.Header{"Cache-Control": {"max-age=1"}}, minWellKnown},
		{http.Header{"Cache-Control": {"max-age=-5"}}, minWellKnown},
		{http.Header{"Cache-Control": {"max-age=99999999999999999"}}, 48 * time.Hour},
		{http.Header{"Cache-Control": {"max-age=x"}}, 24 * time.Hour},
		{http.Header{"Cache-Control": {"no-store, max-age=7200"}}, minWellKnown},
		{http.Header{"Expires": {now.Add(3 * time.Hour).Format(http.TimeFormat)}}, 3 * time.Hour},
		{http.Header{"Expires": {now.Add(300 * time.Hour).Format(http.TimeFormat)}}, 48 * time.Hour},
		{http.Header{"Expires": {"0"}}, minWellKnown},
		{http.Header{"Expires": {"0"}, "Cache-Control": {"max-age=7200"}}, 2 * time.Hour},
	} {
		if got := cacheTime(test.header, now); got != test.want {
			t.Errorf("%v: %v, not %v", test.header, got, test.want)
		}
	}
}

func TestServersThatAreDownAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	c := w.peer("me.example")
	now := time.Now()
	c.now = func() time.Time { return now }
	alive := 0
	c.Alive = func(id.Server) { alive++ }
	fails := func(when string, wantSent bool) {
		t.Helper()
		w.dials = nil
		_, err := c.QueryProfile(t.Context(), "b.example", "@u:b.example", "")
		if !Unreachable(err) || errors.Is(err, ErrDown) == wantSent || len(w.dials) > 0 != wantSent {
			t.Errorf("%s: %v after connections to %v", when, err, w.dials)
		}
	}
	fails("first", true)
	fails("at once", false)
	now = now.Add(1100 * time.Millisecond)
	fails("after a second", true)
	now = now.Add(1100 * time.Millisecond)
	fails("a second after the second failure", false)
	for range 30 {
		until, _ := c.Down("b.example")
		if until.Sub(now) > time.Hour {
			t.Fatalf("left alone for %v", until.Sub(now))
		}
		now = until.Add(time.Millisecond)
		c.failed("b.example", 0)
	}
	fails("after many failures", false)
	now = now.Add(2 * time.Minute)
	fails("still within the hour", false)
	// What a person wants of this very server is tried all the same.
	template := func(m store.Membership) error {
		_, err := c.MakeMembership(t.Context(), "b.example", m, "!r:b.example", "@u:me.example", nil)
		return err
	}
	for what, ask := range map[string]func() error{
		"a room's name": func() error { _, _, err := c.QueryDirectory(t.Context(), "b.example", "#r:b.example"); return err },
		"a join":        func() error { return template(store.Join) },
		"a knock":       func() error { return template(store.Knock) },
		"public rooms":  func() error { _, err := c.GetPublicRooms(t.Context(), "b.example", PublicRoomsQuery{}); return err },
	} {
		w.dials = nil
		if err := ask(); !Unreachable(err) || errors.Is(err, ErrDown) || len(w.dials) == 0 {
			t.Errorf("%s was not asked for: %v", what, err)
		}
		w.dials = nil
		if err := ask(); !errors.Is(err, ErrDown) || len(w.dials) > 0 {
			t.Errorf("%s was asked for again at once: %v", what, err)
		}
		now = now.Add(askedPause)
	}
	if err := template(store.Leave); !errors.Is(err, ErrDown) {
		t.Errorf("a leave waits for a server that is gone: %v", err)
	}
	// What clients show they ask for by the dozen.
	now = now.Add(shownPause - 2*time.Minute)
	fails("within ten minutes", false)
	now = now.Add(2 * time.Minute)
	fails("after ten minutes", true)
	if _, err := c.SendInvite(t.Context(), "b.example", eventBy(t, "11", "me.example", "ed25519:1", c.key, 1), nil); !errors.Is(err, ErrDown) {
		t.Errorf("a moment later an invite was sent: %v", err)
	}
	// It comes up, and says so.
	w.peer("b.example").handle["GET /_matrix/federation/v1/query/profile"] = answer(`{"displayname":"B"}`)
	c.Up("b.example")
	if p, err := c.QueryProfile(t.Context(), "b.example", "@u:b.example", ""); err != nil || string(p["displayname"]) != `"B"` {
		t.Error(p, err)
	}
	if alive != 2 {
		t.Errorf("told %d times that it is alive", alive)
	}
}

func TestRefusedAnswersAreNoReasonToLeaveAServerAlone(t *testing.T) {
	w := newWorld(t)
	c, b := w.peer("a.example"), w.peer("b.example")
	c.Alive = func(id.Server) { t.Error("a refusal counts as a sign of life") } // it may be of whoever has its name now
	b.handle["GET /_matrix/federation/v1/query/profile"] = func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(500)
		io.WriteString(rw, `{"errcode":"M_UNKNOWN","error":"oops"}`)
	}
	for range 3 {
		_, err := c.QueryProfile(t.Context(), "b.example", "@u:b.example", "")
		if e, ok := errors.AsType[*Error](err); !ok || e.Status != 500 || Unreachable(err) {
			t.Error(err)
		}
	}
	// A proxy before a server that is gone.
	b.handle["GET /_matrix/federation/v1/query/profile"] = func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(502) }
	if _, err := c.QueryProfile(t.Context(), "b.example", "@u:b.example", ""); !Unreachable(err) {
		t.Error(err)
	}
	if _, down := c.Down("b.example"); !down {
		t.Error("it does not count as down")
	}
}

func TestWhatCannotBeSignedIsNoFaultOfTheReceiver(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	_, err := a.SendTransaction(t.Context(), "b.example", "1", []byte(`{"pdus":[}`))
	if _, down := a.Down("b.example"); err == nil || Unreachable(err) || down || len(b.asked) > 0 {
		t.Errorf("%v; down %v; asked %v", err, down, b.asked)
	}
}

func FuzzWellKnown(f *testing.F) {
	f.Add([]byte(`{"m.server":"a.example:1"}`))
	f.Add([]byte(`{"m.server":"[::1]:1","x":[1.5e99]}`))
	f.Add([]byte(`{"m.server":1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := parseWellKnown(body)
		if (err == nil) == (s == "") {
			t.Errorf("%q, %v", s, err)
		}
		if err == nil {
			host, port := s.Split()
			if host == "" || strings.ContainsAny(host+port, "/@?# []") {
				t.Errorf("%q is split into %q and %q", s, host, port)
			}
		}
	})
}
