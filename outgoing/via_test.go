package outgoing

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// tlsServer answers with the Host that it was called by.
func tlsServer(t *testing.T) (*httptest.Server, *tls.Config) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.Host+" "+r.Proto)
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate()) // for example.com and 127.0.0.1
	return s, &tls.Config{RootCAs: pool}
}

func ask(t *testing.T, c *Client, url string, via Via) (string, error) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := c.DoVia(r, via)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

func TestViaGoesElsewhereAndChecksTheName(t *testing.T) {
	s, conf := tlsServer(t)
	addr := s.Listener.Addr().String()
	dials := 0
	c := New(Options{TLS: conf, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		dials++
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}})
	defer c.Close()
	for range 3 {
		got, err := ask(t, c, "https://called.example/x", Via{Addresses: []string{"127.0.0.1:1", addr}, ServerName: "example.com"})
		if err != nil || got != "called.example HTTP/2.0" {
			t.Fatal(got, err)
		}
	}
	if dials != 2 { // the first address refuses
		t.Errorf("%d connections for three requests", dials)
	}
	if got, err := ask(t, c, "https://called.example/x", Via{Addresses: []string{addr}, ServerName: "127.0.0.1"}); err != nil {
		t.Error(got, err)
	}
	if _, err := ask(t, c, "https://example.com/x", Via{Addresses: []string{addr}, ServerName: "other.example"}); err == nil || !strings.Contains(err.Error(), "other.example") {
		t.Errorf("a certificate for another name: %v", err)
	}
	if _, err := ask(t, New(Options{}), "https://example.com/x", Via{Addresses: []string{addr}, ServerName: "example.com"}); err == nil {
		t.Error("a certificate of nobody we know")
	}
}

func TestViaObeysTheRules(t *testing.T) {
	s, conf := tlsServer(t)
	c := New(Options{TLS: conf, Rules: Rules{Deny: Private}})
	if _, err := ask(t, c, "https://example.com/x", Via{Addresses: []string{s.Listener.Addr().String()}, ServerName: "example.com"}); err == nil || !strings.Contains(err.Error(), ErrDenied.Error()) {
		t.Error(err)
	}
}
