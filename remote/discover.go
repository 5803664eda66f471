package remote

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"hearth/matrix/id"
	"hearth/outgoing"
)

// destination is where requests to a server go.
type destination struct {
	via     outgoing.Via
	host    string // for the Host header
	expires time.Time
}

const (
	defaultPort = "8448"
	// The resolver does not tell how long SRV records hold.
	destinationTime = 5 * time.Minute
	// uncertainTime is for what was found while the name server did not answer.
	uncertainTime = 30 * time.Second
)

// discover finds a server, by the numbered steps of the specification.
// spec: server-server-api#resolving-server-names
func (c *Client) discover(ctx context.Context, server id.Server) (*destination, error) {
	if d, ok := c.found.GetIfPresent(server); ok && c.now().Before(d.expires) {
		return d, nil
	}
	d, err := shared(ctx, c, "discover "+string(server), func(ctx context.Context) (*destination, error) {
		return c.resolve(ctx, server)
	})
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", server, err)
	}
	return d, nil
}

// shared runs fn once for all who ask for the same at the same time, unless whoever asks has
// gone already. It is not cut short when one of them goes away, and bounds its time by itself.
func shared[T any](ctx context.Context, c *Client, what string, fn func(context.Context) (T, error)) (T, error) {
	var zero T
	if err := ctx.Err(); err != nil {
		return zero, err
	}
	done := c.flights.DoChan(what, func() (any, error) { return fn(context.WithoutCancel(ctx)) })
	select {
	case r := <-done:
		if r.Err != nil {
			return zero, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return zero, ctx.Err()
	}
}

func (c *Client) resolve(ctx context.Context, server id.Server) (*destination, error) {
	if d := explicit(server); d != nil { // steps 1 and 2
		d.expires = c.now().Add(destinationTime)
		c.found.Set(server, d)
		return d, nil
	}
	host, _ := server.Split()
	if delegate := c.delegate(ctx, host); delegate != "" { // step 3
		if d := explicit(delegate); d != nil { // 3.1 and 3.2
			d.expires = c.now().Add(destinationTime)
			c.found.Set(server, d)
			return d, nil
		}
		host = string(delegate) // 3.3 to 3.5 are steps 4 to 6 with another name
	}
	d, err := c.resolveSRV(ctx, host)
	if err != nil {
		return nil, err
	}
	c.found.Set(server, d)
	return d, nil
}

// explicit is the destination of a name that says by itself where it is; nil:
// of a host name without a port.
func explicit(server id.Server) *destination {
	host, port := server.Split()
	if port == "" {
		if _, err := netip.ParseAddr(host); err != nil {
			return nil
		}
		port = defaultPort
	}
	return &destination{via: outgoing.Via{Addresses: []string{net.JoinHostPort(host, port)}, ServerName: host}, host: string(server)}
}

// resolveSRV is steps 4 to 6: the certificate and the Host header stay those of
// the name that was looked up.
func (c *Client) resolveSRV(ctx context.Context, host string) (*destination, error) {
	d := &destination{via: outgoing.Via{ServerName: host}, host: host, expires: c.now().Add(destinationTime)}
	for _, service := range []string{"matrix-fed", "matrix"} {
		records, err := c.lookupSRV(ctx, service, host)
		if err != nil {
			// The next steps may find the server, but not for long.
			d.expires = c.now().Add(uncertainTime)
		}
		if len(records) == 0 {
			continue
		}
		if len(records) == 1 && records[0].Target == "." {
			return nil, fmt.Errorf("the SRV record of %s says that it has no Matrix server", host)
		}
		for _, r := range records {
			d.via.Addresses = append(d.via.Addresses, net.JoinHostPort(strings.TrimSuffix(r.Target, "."), strconv.Itoa(int(r.Port))))
		}
		return d, nil
	}
	d.via.Addresses = []string{net.JoinHostPort(host, defaultPort)}
	return d, nil
}

// srvTime bounds one question for SRV records.
const srvTime = 5 * time.Second

// maxTargets bounds how many machines of a server are tried.
const maxTargets = 6

func (c *Client) lookupSRV(ctx context.Context, service, host string) ([]*net.SRV, error) {
	ctx, cancel := context.WithTimeout(ctx, srvTime)
	defer cancel()
	_, records, err := c.options.LookupSRV(ctx, service, "tcp", host)
	if len(records) > maxTargets {
		records = records[:maxTargets]
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok && e.IsNotFound {
		err = nil
	}
	return records, err
}

// forget makes the next request look for the server anew. Its well-known is
// asked for again unless that was done lately.
func (c *Client) forget(server id.Server) {
	c.found.Invalidate(server)
	host, port := server.Split()
	if port != "" {
		return
	}
	if w, ok := c.wellKnown.GetIfPresent(host); ok && w.failures == 0 && c.now().Sub(w.fetched) > minWellKnown {
		old := *w
		old.expires = time.Time{}
		c.wellKnown.Set(host, &old)
	}
}
