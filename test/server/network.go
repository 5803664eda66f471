package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/config"
	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/test/spec"
)

// Network is servers that reach each other over TLS on loopback. They are named by
// address and port, and trust an authority of the network's own.
type Network struct {
	t           testing.TB
	authority   *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string
	certificate tls.Certificate
}

// NewNetwork makes a network without servers.
func NewNetwork(t testing.TB) *Network {
	t.Helper()
	n := &Network{t: t, file: filepath.Join(t.TempDir(), "authority.pem")}
	n.key = n.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := n.sign(template, template, n.key)
	var err error
	if n.authority, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(n.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	key := n.newKey()
	n.certificate = tls.Certificate{PrivateKey: key, Certificate: [][]byte{n.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "servers of a test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, n.authority, key)}}
	return n
}

func (n *Network) newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		n.t.Fatal(err)
	}
	return key
}

func (n *Network) sign(template, parent *x509.Certificate, of *ecdsa.PrivateKey) []byte {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, of.Public(), n.key)
	if err != nil {
		n.t.Fatal(err)
	}
	return der
}

// Start starts one more server, as the function Start does.
func (n *Network) Start(change ...func(*config.Config)) *Server {
	n.t.Helper()
	var router atomic.Pointer[http.Handler]
	listener := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := router.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		http.Error(w, "not started yet", http.StatusServiceUnavailable)
	}))
	listener.TLS = &tls.Config{Certificates: []tls.Certificate{n.certificate}}
	listener.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	listener.StartTLS()
	name := id.Server(listener.Listener.Addr().String())
	s := Start(n.t, append([]func(*config.Config){func(cfg *config.Config) {
		cfg.ServerName = name
		cfg.PublicBaseURL = fmt.Sprintf("https://%s/", name)
		cfg.FederationCAs = []string{n.file}
		cfg.FederationIPRangeDeny = []config.IPRange{}
		cfg.TrustedKeyServers, cfg.FederationDomainWhitelist = nil, nil
	}}, change...)...)
	n.t.Cleanup(listener.Close) // before the server
	h := http.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if own, ok := s.own.Load(r.Method + " " + r.URL.Path); ok {
			own.(http.HandlerFunc)(w, r)
			return
		}
		if around := s.around.Load(); around != nil {
			(*around)(w, r, s.Router)
			return
		}
		s.Router.ServeHTTP(w, r)
	}))
	router.Store(&h)
	return s
}

// StartPair starts two servers on a network of their own.
func StartPair(t testing.TB, change ...func(*config.Config)) (a, b *Server) {
	t.Helper()
	n := NewNetwork(t)
	return n.Start(change...), n.Start(change...)
}

// Serve answers an endpoint for other servers of the network that Hearth does not have,
// or differently than it does.
func (s *Server) Serve(method, path string, h http.HandlerFunc) { s.own.Store(method+" "+path, h) }

// Around has a function answer what other servers of the network ask, by way of the server itself
// or not.
func (s *Server) Around(fn func(w http.ResponseWriter, r *http.Request, server http.Handler)) {
	s.around.Store(&fn)
}

// SigningKey is the key that the server signs with.
func (s *Server) SigningKey() config.SigningKey {
	s.t.Helper()
	key, err := config.LoadSigningKey(s.Config.SigningKeyPath)
	if err != nil {
		s.t.Fatal(err)
	}
	return key
}

// Name is the server's name.
func (s *Server) Name() id.Server { return s.Config.ServerName }

// Ask sends a request of another server, signed by it, and returns status and body of
// the response, which is checked against the specification.
func (s *Server) Ask(from *Server, method, path string, body any) (int, []byte) {
	s.t.Helper()
	var content []byte
	switch b := body.(type) {
	case nil:
	case []byte:
		content = b
	default:
		var err error
		if content, err = json.Marshal(b, json.Deterministic(true)); err != nil {
			s.t.Fatal(err)
		}
	}
	w := s.ask(from, method, path, content)
	// Of invites the specification describes events as they were in the first room versions.
	if w.Header().Get("Content-Type") == "application/json" && !strings.Contains(path, "/invite/") {
		spec.Check(s.t, method, path, w.Code, w.Body.Bytes())
	}
	return w.Code, w.Body.Bytes()
}

// AskRaw is Ask for answers that are no JSON.
func (s *Server) AskRaw(from *Server, method, path string) *httptest.ResponseRecorder {
	s.t.Helper()
	return s.ask(from, method, path, nil)
}

func (s *Server) ask(from *Server, method, path string, content []byte) *httptest.ResponseRecorder {
	s.t.Helper()
	r := httptest.NewRequestWithContext(s.t.Context(), method, path, bytes.NewReader(content))
	r.Header.Set("Authorization", from.authorization(s.Name(), method, path, content))
	w := httptest.NewRecorder()
	s.Router.ServeHTTP(w, r)
	return w
}

// authorization signs a request. spec: server-server-api#request-authentication
func (s *Server) authorization(to id.Server, method, path string, content []byte) string {
	s.t.Helper()
	key, err := config.LoadSigningKey(s.Config.SigningKeyPath)
	if err != nil {
		s.t.Fatal(err)
	}
	request := []byte(fmt.Sprintf(`{"method":%q,"uri":%q,"origin":%q,"destination":%q}`, method, path, s.Name(), to))
	if content != nil {
		request = append(append(append(request[:len(request)-1], `,"content":`...), content...), '}')
	}
	signed, err := signing.Sign(request, s.Name(), key.ID, key.Private)
	if err != nil {
		s.t.Fatal(err)
	}
	signature, _ := canonical.GetString(canonical.Get(canonical.Get(signed, "signatures"), string(s.Name())), string(key.ID))
	return fmt.Sprintf(`X-Matrix origin=%q,destination=%q,key=%q,sig=%q`, s.Name(), to, key.ID, signature)
}

// AskJSON is Ask for answers that are one JSON object.
func (s *Server) AskJSON(from *Server, method, path string, body any) (int, Object) {
	s.t.Helper()
	status, answer := s.Ask(from, method, path, body)
	var object Object
	if err := json.Unmarshal(answer, &object); err != nil {
		s.t.Fatalf("%s %s: %d: %v in %s", method, path, status, err, answer)
	}
	return status, object
}
