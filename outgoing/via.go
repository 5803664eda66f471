package outgoing

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// Via says where a request goes when that is not what its URL says.
type Via struct {
	Addresses  []string // host:port, tried in order
	ServerName string   // a name or an address, for which the certificate must be
}

type viaKey struct{}

// DoVia sends one request to the machine that via names; the URL's host is only
// what the request calls it. Redirects are not followed, and the time is bounded
// by the request's context alone. The caller closes the answer's body.
func (c *Client) DoVia(r *http.Request, via Via) (*http.Response, error) {
	if err := c.check(r.URL); err != nil {
		return nil, err
	}
	r = r.WithContext(context.WithValue(r.Context(), viaKey{}, via))
	u := *r.URL
	if r.Host == "" {
		r.Host = u.Host
	}
	u.Host = via.pool()
	r.URL = &u
	if c.userAgent != "" && r.Header.Get("User-Agent") == "" {
		r.Header.Set("User-Agent", c.userAgent)
	}
	return c.transport.RoundTrip(r)
}

// pool names what may share a connection: requests with equal via. The
// transport finds connections by the host of the URL.
func (v Via) pool() string {
	sum := sha256.Sum256([]byte(v.ServerName + "\n" + strings.Join(v.Addresses, "\n")))
	return hex.EncodeToString(sum[:16]) + ".invalid"
}

// dialTLS connects and proves who the other side is. The transport hands over
// the values of the context of a request, and every request that may get this
// connection has the same via.
func (c *Client) dialTLS(ctx context.Context, network, address string) (net.Conn, error) {
	via, ok := ctx.Value(viaKey{}).(Via)
	if !ok {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		via = Via{[]string{address}, host}
	}
	errs := []error{}
	for _, a := range via.Addresses {
		conn, err := c.handshake(ctx, network, a, via.ServerName)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (c *Client) handshake(ctx context.Context, network, address, serverName string) (net.Conn, error) {
	raw, err := c.dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	conf := c.tls.Clone()
	conf.ServerName = serverName
	conn := tls.Client(raw, conf)
	ctx, cancel := context.WithTimeout(ctx, tlsTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return conn, nil
}
