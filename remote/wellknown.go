package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/matrix/id"
	"hearth/outgoing"
)

// delegation is what is known of a host's /.well-known/matrix/server.
type delegation struct {
	to       id.Server // empty: it delegates to nobody
	fetched  time.Time // when the other side last answered
	expires  time.Time
	failures int // attempts in a row that got no answer
}

// spec: server-server-api#resolving-server-names 3
const (
	wellKnownSize    = 51_200
	wellKnownTime    = 10 * time.Second
	defaultWellKnown = 24 * time.Hour
	minWellKnown     = 5 * time.Minute
	maxWellKnown     = 48 * time.Hour
	maxFailureTime   = time.Hour
)

// delegate is the server that a host's well-known names, or empty. Whatever is
// wrong with it means that there is none.
func (c *Client) delegate(ctx context.Context, host string) id.Server {
	known, ok := c.wellKnown.GetIfPresent(host)
	if ok && c.now().Before(known.expires) {
		return known.to
	}
	fresh := c.fetchWellKnown(ctx, host)
	if fresh.fetched.IsZero() {
		fresh = fresh.after(known, c.now())
	}
	c.wellKnown.Set(host, fresh)
	return fresh.to
}

// after is what to believe when a host has not answered: what it said before,
// for as long as that may be kept at most, and to ask less and less often.
func (w *delegation) after(known *delegation, now time.Time) *delegation {
	next := &delegation{failures: 1}
	if known != nil {
		next.failures = known.failures + 1
		if now.Sub(known.fetched) < maxWellKnown {
			next.to, next.fetched = known.to, known.fetched
		}
	}
	wait := time.Minute << min(next.failures, 10)
	next.expires = now.Add(min(wait, maxFailureTime))
	return next
}

// fetchWellKnown asks a host. A zero time of fetching says that it did not answer.
func (c *Client) fetchWellKnown(ctx context.Context, host string) *delegation {
	now := c.now()
	resp, err := c.web.Get(ctx, "https://"+host+"/.well-known/matrix/server", nil)
	if err != nil {
		return &delegation{}
	}
	defer closeBody(resp)
	switch {
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusRequestTimeout:
		return &delegation{} // it does not say that there is none
	}
	w := &delegation{fetched: now, expires: now.Add(maxFailureTime)}
	if resp.StatusCode != http.StatusOK {
		return w
	}
	body, err := io.ReadAll(outgoing.Limit(resp.Body, wellKnownSize))
	if err != nil {
		if errors.Is(err, outgoing.ErrTooLarge) {
			return w
		}
		return &delegation{}
	}
	if w.to, err = parseWellKnown(body); err == nil {
		w.expires = now.Add(cacheTime(resp.Header, now))
	}
	return w
}

// parseWellKnown reads the answer. spec: server-server-api#getwell-knownmatrixserver
func parseWellKnown(body []byte) (id.Server, error) {
	var doc struct {
		Server string `json:"m.server"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return "", fmt.Errorf("well-known: %w", err)
	}
	return id.ParseServer(doc.Server)
}

// cacheTime is how long an answer may be kept, from its headers and within bounds.
func cacheTime(h http.Header, now time.Time) time.Duration {
	keep := defaultWellKnown
	if v := h.Get("Expires"); v != "" {
		keep = 0 // what cannot be read has expired
		if t, err := http.ParseTime(v); err == nil {
			keep = t.Sub(now)
		}
	}
	for _, directive := range strings.Split(strings.Join(h.Values("Cache-Control"), ","), ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(directive), "=")
		switch strings.ToLower(name) {
		case "no-store", "no-cache":
			return minWellKnown
		case "max-age":
			if n, err := strconv.ParseInt(strings.Trim(value, `"`), 10, 64); err == nil {
				keep = time.Duration(min(max(n, 0), int64(maxWellKnown/time.Second))) * time.Second
			}
		}
	}
	return min(max(keep, minWellKnown), maxWellKnown)
}
