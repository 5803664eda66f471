package outgoing

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestPrivateAddressesAreRefused(t *testing.T) {
	rules := Rules{Deny: Private}
	for _, a := range []string{
		"127.0.0.1", "127.9.9.9", "10.1.2.3", "172.31.0.1", "192.168.1.1", "169.254.169.254", "100.100.0.1", "0.0.0.0",
		"224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1",
		"::ffff:127.0.0.1", "::ffff:10.0.0.1", // IPv4 written as IPv6
		"::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::80ff:fffe", // or tunnelled in it
	} {
		if rules.Permits(netip.MustParseAddr(a)) {
			t.Errorf("%s is permitted", a)
		}
	}
	for _, a := range []string{"1.1.1.1", "172.32.0.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:8.8.8.8"} {
		if !rules.Permits(netip.MustParseAddr(a)) {
			t.Errorf("%s is refused", a)
		}
	}
}

func TestAllowIsAnExceptionFromDeny(t *testing.T) {
	deny, err := ParsePrefixes([]string{"10.0.0.0/8", " ::1 "})
	if err != nil {
		t.Fatal(err)
	}
	allow, err := ParsePrefixes([]string{"10.1.1.1"})
	if err != nil {
		t.Fatal(err)
	}
	rules := Rules{deny, allow}
	for a, want := range map[string]bool{"10.1.1.1": true, "::ffff:10.1.1.1": true, "10.1.1.2": false, "::1": false, "127.0.0.1": true} {
		if got := rules.Permits(netip.MustParseAddr(a)); got != want {
			t.Errorf("%s: %v", a, got)
		}
	}
	if _, err := ParsePrefixes([]string{"localhost"}); err == nil || !strings.Contains(err.Error(), `"localhost"`) {
		t.Errorf("a name as range: %v", err)
	}
}

func TestRulesHoldForNamesAndRedirects(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/away" {
			// Another loopback address, which the rules below do not allow.
			http.Redirect(w, r, strings.Replace("http://"+r.Host+"/", "127.0.0.1", "127.0.0.2", 1), http.StatusFound)
		}
	}))
	defer srv.Close()
	strict := New(Options{Rules: Rules{Deny: Private}, Redirects: 3})
	for _, url := range []string{srv.URL, strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)} {
		if _, err := strict.Get(t.Context(), url, nil); !errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", url, err)
		}
	}
	lax := New(Options{Rules: Rules{Deny: Private, Allow: mustPrefixes("127.0.0.1")}, Redirects: 3})
	resp, err := lax.Get(t.Context(), srv.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if _, err := lax.Get(t.Context(), srv.URL+"/away", nil); !errors.Is(err, ErrDenied) {
		t.Errorf("redirect to a refused address: %v", err)
	}
}

func TestRedirectsAreBounded(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/once":
			http.Redirect(w, r, "/end", http.StatusFound)
		case "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case "/file":
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		}
	}))
	defer srv.Close()
	c := New(Options{Redirects: 1})
	defer c.Close()
	resp, err := c.Get(t.Context(), srv.URL+"/once", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	for _, path := range []string{"/loop", "/file"} {
		if _, err := c.Get(t.Context(), srv.URL+path, nil); err == nil {
			t.Errorf("%s was followed", path)
		}
	}
	if _, err := c.Get(t.Context(), "file:///etc/passwd", nil); err == nil {
		t.Error("a file was read")
	}
}

func TestTimeoutCoversTheBody(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(200)
		http.NewResponseController(w).Flush()
		<-r.Context().Done() // a stream that never ends
	}))
	defer srv.Close()
	c := New(Options{Timeout: 50 * time.Millisecond})
	resp, err := c.Get(t.Context(), srv.URL, nil)
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("read to the end of a stream that has none")
	}
}

func TestLimit(t *testing.T) {
	for _, test := range []struct {
		text string
		n    int64
		want string
		err  error
	}{
		{"abc", 3, "abc", nil},
		{"abcd", 3, "abc", ErrTooLarge},
		{"", 0, "", nil},
		{"a", 0, "", ErrTooLarge},
	} {
		got, err := io.ReadAll(Limit(strings.NewReader(test.text), test.n))
		if string(got) != test.want || err != test.err {
			t.Errorf("%v: got %q, %v", test, got, err)
		}
	}
}
