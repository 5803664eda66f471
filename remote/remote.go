// Package remote is everything that Hearth asks and tells other homeservers: where they
// are (discovery), requests signed by this server, and the keys by which theirs
// and their events are verified.
//
// It decides nothing about rooms: what another server hands over is passed on
// unchecked, but for its size, and package room judges it. It must not know the
// endpoints of this server.
//
// Start at Client: discover.go finds a server, request.go talks to it, keys.go
// and verify.go are the key ring, xmatrix.go verifies who asks us. The other
// files have one method for each endpoint of other servers. Sender is how they are
// told what happens here.
// spec: server-server-api
package remote

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"hearth/matrix/id"
	"hearth/outgoing"
	"hearth/room"
	"hearth/store"
)

// Options of a client.
type Options struct {
	Server  id.Server
	KeyID   id.Key
	Key     ed25519.PrivateKey
	OldKeys []OldKey
	// FurtherKeys are published like Key and sign nothing but that.
	FurtherKeys map[id.Key]ed25519.PrivateKey

	UserAgent string
	// CAs are the authorities that certificates may come from; nil: the system's.
	CAs *x509.CertPool
	// MinTLS is the oldest TLS version that is spoken; 0: 1.2.
	MinTLS uint16
	// Rules say which addresses other servers may have.
	Rules outgoing.Rules
	// RedirectRules are for URLs that another server chooses freely, and whose
	// content is shown to people: where it keeps its files.
	RedirectRules outgoing.Rules
	// Permit says with whom this server federates; nil: with all.
	Permit func(id.Server) bool
	// KeyServers are asked for keys of servers that do not answer.
	KeyServers []KeyServer

	// Dial and LookupSRV replace the network's own.
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	LookupSRV func(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// OldKey is a key that this server no longer signs with.
type OldKey struct {
	ID      id.Key
	Public  ed25519.PublicKey
	Expired int64 // milliseconds
}

// KeyServer is a notary.
type KeyServer struct {
	Name id.Server
	Keys map[id.Key]ed25519.PublicKey // empty: it is asked for them
}

// Client talks to other homeservers. Any goroutine may use it.
type Client struct {
	Keys *Keys
	// Alive, if set before use, hears of each server that did what it was asked or
	// sent a request of its own. It must be quick.
	Alive func(id.Server)

	options   Options
	http      *outgoing.Client // requests to where discovery says
	web       *outgoing.Client // well-known documents
	files     *outgoing.Client // files that other servers keep elsewhere
	wellKnown *otter.Cache[string, *delegation]
	found     *otter.Cache[id.Server, *destination]
	flights   singleflight.Group
	down      downList
	now       func() time.Time
}

var _ room.Network = (*Client)(nil)

// cachedServers bounds each cache of what is known of other servers, in entries
// of some hundred bytes.
const cachedServers = 10_000

// New makes a client; keys are kept in s.
func New(s *store.Store, o Options) *Client {
	if o.MinTLS == 0 {
		o.MinTLS = tls.VersionTLS12
	}
	if o.LookupSRV == nil {
		o.LookupSRV = net.DefaultResolver.LookupSRV
	}
	conf := &tls.Config{RootCAs: o.CAs, MinVersion: o.MinTLS, ClientSessionCache: tls.NewLRUClientSessionCache(256)}
	c := &Client{
		options: o,
		now:     time.Now,
		http: outgoing.New(outgoing.Options{
			Rules: o.Rules, TLS: conf, Dial: o.Dial, UserAgent: o.UserAgent, Connections: 6, AllConnections: 256,
		}),
		web: outgoing.New(outgoing.Options{
			Rules: o.Rules, TLS: conf, Dial: o.Dial, UserAgent: o.UserAgent,
			Redirects: 5, Timeout: wellKnownTime, Permit: onlyHTTPS, Connections: 1,
		}),
		files: outgoing.New(outgoing.Options{
			Rules: o.RedirectRules, TLS: conf, Dial: o.Dial, UserAgent: o.UserAgent,
			Redirects: 5, Permit: onlyHTTPS,
		}),
		wellKnown: otter.Must(&otter.Options[string, *delegation]{MaximumSize: cachedServers}),
		found:     otter.Must(&otter.Options[id.Server, *destination]{MaximumSize: cachedServers}),
	}
	c.Keys = newKeys(c, s)
	return c
}

// Run waits for the end of the program, and then ends idle connections.
func (c *Client) Run(ctx context.Context) error {
	<-ctx.Done()
	c.Close()
	return nil
}

// Close ends idle connections.
func (c *Client) Close() {
	c.http.Close()
	c.web.Close()
	c.files.Close()
}

func (c *Client) permits(server id.Server) bool {
	return c.options.Permit == nil || c.options.Permit(server)
}

func onlyHTTPS(u *url.URL) error {
	if u.Scheme != "https" {
		return errors.New("only https URLs are fetched")
	}
	return nil
}

func closeBody(resp *http.Response) { _ = resp.Body.Close() } // nothing is lost by it
