package remote

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store/storetest"
)

// world is a network of servers on loopback, with a name service and an
// authority of its own.
type world struct {
	t     testing.TB
	ca    *x509.Certificate
	caKey *ecdsa.PrivateKey
	roots *x509.CertPool

	mu      sync.Mutex
	places  map[string]string // host:port as the world knows it -> listener
	records map[string][]*net.SRV
	dials   []string
}

func newWorld(t testing.TB) *world {
	w := &world{t: t, roots: x509.NewCertPool(), places: map[string]string{}, records: map[string][]*net.SRV{}}
	w.caKey = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, w.caKey.Public(), w.caKey)
	if err != nil {
		t.Fatal(err)
	}
	if w.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	w.roots.AddCert(w.ca)
	return w
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// certificate is one for a name or an address.
func (w *world) certificate(name string) tls.Certificate {
	key := newKey(w.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a server"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, w.ca, key.Public(), w.caKey)
	if err != nil {
		w.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve puts a handler at a place such as example.org:8448, with a certificate for a name.
func (w *world) serve(place, certified string, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{w.certificate(certified)}}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.StartTLS()
	w.t.Cleanup(s.Close)
	w.mu.Lock()
	w.places[place] = s.Listener.Addr().String()
	w.mu.Unlock()
	return s
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dials = append(w.dials, address)
	to, ok := w.places[address]
	w.mu.Unlock()
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: &net.DNSError{Err: "no such host", Name: address, IsNotFound: true}}
	}
	return (&net.Dialer{}).DialContext(ctx, network, to)
}

func (w *world) lookupSRV(_ context.Context, service, proto, name string) (string, []*net.SRV, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	key := "_" + service + "._" + proto + "." + name
	if list, ok := w.records[key]; ok {
		return key, list, nil
	}
	return "", nil, &net.DNSError{Err: "no such host", Name: key, IsNotFound: true}
}

// peer is a homeserver as far as this package makes one.
type peer struct {
	*Client
	key    ed25519.PrivateKey
	mu     sync.Mutex
	asked  []string // method and path of each request, in order
	handle map[string]http.HandlerFunc
}

// client makes a client that lives in the world.
func (w *world) client(name id.Server, change ...func(*Options)) *peer {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		w.t.Fatal(err)
	}
	o := Options{Server: name, KeyID: "ed25519:1", Key: key, CAs: w.roots, Dial: w.dial, LookupSRV: w.lookupSRV}
	for _, c := range change {
		c(&o)
	}
	p := &peer{Client: New(storetest.Open(w.t, nil), o), key: o.Key, handle: map[string]http.HandlerFunc{}}
	w.t.Cleanup(p.Close)
	return p
}

// peer makes a client that is also a server at its port 8448: it publishes its keys,
// verifies who asks, and answers what handle has.
func (w *world) peer(name id.Server, change ...func(*Options)) *peer {
	p := w.client(name, change...)
	host, port := name.Split()
	if port == "" {
		port = "8448"
	}
	w.serve(net.JoinHostPort(host, port), host, p.ServeHTTP)
	return p
}

func (p *peer) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.RequestURI)
	h := p.handle[r.Method+" "+r.URL.Path]
	p.mu.Unlock()
	if r.URL.Path == "/_matrix/key/v2/server" {
		doc, err := p.Keys.ServerKeys()
		if err != nil {
			panic(err)
		}
		rw.Write(doc)
		return
	}
	body, _ := io.ReadAll(r.Body)
	origin, err := p.AuthenticateRequest(r.Context(), r, body)
	if err != nil {
		refuse(rw, err)
		return
	}
	if h == nil {
		refuse(rw, errcode.Unrecognized("no such endpoint"))
		return
	}
	r.Header.Set("Test-Origin", string(origin))
	r.Header.Set("Test-Body", string(body))
	h(rw, r)
}

func refuse(rw http.ResponseWriter, err error) {
	e, ok := err.(*errcode.Error)
	if !ok {
		e = errcode.New(500, "M_UNKNOWN", "%v", err)
	}
	rw.WriteHeader(e.Status)
	fmt.Fprintf(rw, `{"errcode":%q,"error":%q}`, e.Code, e.Message)
}

// requests lists what a peer was asked, but for its keys.
func (p *peer) requests() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.asked {
		if a != "GET /_matrix/key/v2/server" {
			list = append(list, a)
		}
	}
	return list
}

func answer(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }
}

func TestRequestsAreSignedForTheirReceiver(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example:1234")
	var origin, body string
	b.handle["PUT /_matrix/federation/v1/send/1 2"] = func(rw http.ResponseWriter, r *http.Request) {
		origin, body = r.Header.Get("Test-Origin"), r.Header.Get("Test-Body")
		io.WriteString(rw, `{"pdus":{"$good":{},"$bad":{"error":"no"}}}`)
	}
	refused, err := a.SendTransaction(t.Context(), "b.example:1234", "1 2", []byte(`{"pdus":[{"n":1.50}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if origin != "a.example" || body != `{"pdus":[{"n":1.50}]}` {
		t.Errorf("came from %q: %s", origin, body)
	}
	if len(refused) != 1 || refused["$bad"] != "no" {
		t.Errorf("refused: %v", refused)
	}
	// The status says that it has arrived, whatever else is said.
	for body, want := range map[string]int{
		`{}`: 0, `[]`: 0, `{"pdus":[]}`: 0, `{"pdus":{"$a":"oops","$b":[],"$c":{"error":{"code":1}},"$bad": { "error" : "no" }}}`: 1,
	} {
		b.handle["PUT /_matrix/federation/v1/send/1 2"] = answer(body)
		refused, err := a.SendTransaction(t.Context(), "b.example:1234", "1 2", []byte(`{"pdus":[]}`))
		if err != nil || len(refused) != want {
			t.Errorf("%s: %v, %v", body, refused, err)
		}
	}
	// A user id in the path, with letters that must be escaped once.
	b.handle["GET /_matrix/federation/v1/user/devices/@a/b:b.example:1234"] = answer(`{"user_id":"@a/b:b.example:1234","stream_id":5,"devices":[]}`)
	if d, err := a.GetUserDevices(t.Context(), "b.example:1234", "@a/b:b.example:1234"); err != nil || d.StreamID != 5 {
		t.Error(d, err)
	}
}
