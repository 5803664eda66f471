// Package outgoing is the one HTTP dialer: whatever Hearth asks of the world
// goes through a Client, which refuses addresses by rule, follows few
// redirects, and bounds time and size.
//
// It knows nothing of Matrix: what is asked and what the answer means is the
// caller's. Start at New; address rules are in rules.go.
package outgoing

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"
)

// Options of a client. The zero value asks anybody, follows no redirect and waits for ever.
type Options struct {
	Rules     Rules
	Redirects int           // how many are followed; the next one is an error
	Timeout   time.Duration // of a whole exchange, the body included
	UserAgent string
	// Permit, if set, is asked about each URL, redirects too.
	Permit func(*url.URL) error
	// Connections bounds those that stay open to one host, and AllConnections
	// those to all hosts together; 0: two and 64.
	Connections, AllConnections int
	// TLS has the authorities that are trusted and the oldest version; nil: those
	// of the system.
	TLS *tls.Config
	// Dial, if set, makes connections instead, and has the Rules to itself.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client asks other machines. Any goroutine may use it.
type Client struct {
	http      *http.Client
	transport *http.Transport
	userAgent string
	permit    func(*url.URL) error
	tls       *tls.Config
	dial      func(ctx context.Context, network, address string) (net.Conn, error)
}

const (
	dialTime   = 10 * time.Second
	tlsTime    = 10 * time.Second
	headerSize = 64 << 10
)

// New makes a client. No proxy of the environment is used: behind one, address rules would mean nothing.
func New(o Options) *Client {
	if o.Connections == 0 {
		o.Connections = 2
	}
	if o.AllConnections == 0 {
		o.AllConnections = 64
	}
	c := &Client{userAgent: o.UserAgent, permit: o.Permit, dial: o.Dial, tls: o.TLS.Clone()}
	if c.dial == nil {
		dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second, Control: o.Rules.control}
		c.dial = dialer.DialContext
	}
	if c.tls == nil {
		c.tls = &tls.Config{}
	}
	c.tls.NextProtos = []string{"h2", "http/1.1"}
	c.transport = &http.Transport{
		DialContext:            c.dial,
		DialTLSContext:         c.dialTLS,
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        time.Minute,
		MaxIdleConnsPerHost:    o.Connections,
		MaxIdleConns:           o.AllConnections,
		MaxResponseHeaderBytes: headerSize,
		// A peer that went away without a word is noticed.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 10 * time.Second},
	}
	c.http = &http.Client{Transport: c.transport, Timeout: o.Timeout, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > o.Redirects {
			return fmt.Errorf("more than %d redirects", o.Redirects)
		}
		return c.check(r.URL)
	}}
	return c
}

func (c *Client) check(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" {
		return fmt.Errorf("%s URLs are not fetched", u.Scheme)
	}
	if c.permit != nil {
		return c.permit(u)
	}
	return nil
}

// Do sends a request. The caller closes the answer's body and bounds how much of it is read, see Limit.
func (c *Client) Do(r *http.Request) (*http.Response, error) {
	if err := c.check(r.URL); err != nil {
		return nil, err
	}
	if c.userAgent != "" && r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", c.userAgent)
	}
	return c.http.Do(r)
}

// Get asks for a URL.
func (c *Client) Get(ctx context.Context, url string, header http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		r.Header[k] = v
	}
	return c.Do(r)
}

// Close ends idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// control runs for each address that is about to be connected to, after the
// name was resolved: a name that changes its address between a check and the
// connection gains nothing, and redirects are checked too.
func (rl Rules) control(_, address string, _ syscall.RawConn) error {
	host, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("address %q: %w", address, err)
	}
	if !rl.Permits(host.Addr()) {
		return fmt.Errorf("%w: %s", ErrDenied, host.Addr())
	}
	return nil
}

// ErrDenied is in the error of a request to an address that the rules refuse.
var ErrDenied = errors.New("requests to this address are not allowed")

// ErrTooLarge is what a reader made by Limit ends with.
var ErrTooLarge = errors.New("the answer is too large")

// Limit reads at most n bytes of an answer; where there are more, reading ends in ErrTooLarge.
func Limit(r io.Reader, n int64) io.Reader { return &limited{r, n} }

type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if int64(n) > l.left {
		n = int(l.left)
		err = ErrTooLarge
	}
	l.left -= int64(n)
	return n, err
}
