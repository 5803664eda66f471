package remote

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/outgoing"
)

// request is one request to another server.
type request struct {
	method string
	path   string // escaped, see fedPath
	query  url.Values
	body   []byte        // JSON; nil: none
	limit  int64         // of the answer's body; 0: maxAnswer
	within time.Duration // until the answer begins, and unless it is streamed, ends; 0: usualTime
	stream bool          // the answer may take long, but not stand still
	open   bool          // not signed: everybody may ask for it
	insist bool          // also of a server that seems down
	pause  time.Duration // longest time that a server that seems down is left alone; 0: as long as usual
	self   bool          // may be for this server's own name, under which others answer some paths
	made   bool          // its body is an event that this server has made, for a client perhaps
	once   bool          // sending it twice is not the same as sending it once

	header string // Authorization, see sign
}

const (
	usualTime  = 30 * time.Second
	slowTime   = 2 * time.Minute
	standstill = 30 * time.Second
	maxAnswer  = 1 << 20
	maxList    = 10 << 20 // an answer that lists users' keys or rooms
	maxEvents  = 32 << 20 // an answer that lists events or their ids

	// A streamed answer that comes slower than slowest, in bytes a second, uses up the
	// patience with it; what comes faster brings some back, up to as much as there was.
	slowest        = 8 << 10
	streamPatience = time.Minute
)

// fedPath is the path of an endpoint, each part of which is escaped.
func fedPath(prefix string, parts ...string) string {
	var b strings.Builder
	b.WriteString("/_matrix/federation/" + prefix)
	for _, p := range parts {
		b.WriteString("/" + url.PathEscape(p))
	}
	return b.String()
}

func (rq *request) uri() string {
	if len(rq.query) == 0 {
		return rq.path
	}
	return rq.path + "?" + rq.query.Encode()
}

// ask sends a request and decodes its answer.
func (c *Client) ask(ctx context.Context, to id.Server, rq request, into any) error {
	resp, err := c.send(ctx, to, &rq)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return &Error{Server: to, Err: err}
	}
	if err := json.Unmarshal(body, into); err != nil {
		return badAnswer(to, err)
	}
	return nil
}

// badAnswer is the error of an answer that is not what the specification says.
func badAnswer(server id.Server, err error) error {
	return &Error{Server: server, Status: http.StatusOK, Err: errcode.New(http.StatusBadGateway, "M_BAD_JSON", "the answer of %s makes no sense: %v", server, err)}
}

// send sends a request; the answer's status is 200 and its body is bounded. What
// can be repeated without harm is tried once more when the connection fails.
func (c *Client) send(ctx context.Context, to id.Server, rq *request) (*http.Response, error) {
	if to == c.options.Server && !rq.self {
		return nil, errors.New("a server does not ask itself")
	}
	if !c.permits(to) {
		return nil, errcode.Forbidden("this server does not federate with %s", to)
	}
	if _, err := id.ParseServer(string(to)); err != nil {
		return nil, errcode.InvalidParam("%v", err)
	}
	if !rq.insist && c.leftAlone(to, rq.pause) {
		return nil, &Error{Server: to, Err: ErrDown}
	}
	if err := c.sign(to, rq); err != nil {
		return nil, fmt.Errorf("sign request to %s: %w", to, err)
	}
	start := c.now()
	resp, err := c.attempt(ctx, to, rq)
	if err != nil && !rq.once && isBrief(err) && pause(ctx, 250*time.Millisecond) {
		c.forget(to)
		resp, err = c.attempt(ctx, to, rq)
	}
	switch {
	case err == nil:
		c.Up(to)
		return resp, nil
	case ctx.Err() != nil:
		if took := c.now().Sub(start); rq.isSilence(err, took) {
			c.failed(to, took)
		}
		return nil, fmt.Errorf("ask %s: %w", to, context.Cause(ctx))
	case Unreachable(err):
		c.forget(to)
		c.failed(to, c.now().Sub(start))
	default:
		c.reached(to)
	}
	return nil, err
}

// patience is how long a server must have been silent for that to count where whoever
// asked waits no longer. Many have less patience than a request has time.
const patience = 8 * time.Second

// isSilence says whether a request that nobody waits for any more shows that the server
// cannot be reached. To what it may take long for, a server that took the connection may
// well be about to answer.
func (rq *request) isSilence(err error, took time.Duration) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status == 0 && took >= patience && (!e.connected || rq.within <= usualTime)
}

func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// isBrief says whether a failure may be over a moment later: a connection that
// broke, of a server that restarts.
func isBrief(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Status != 0 {
		return false
	}
	return errors.Is(e.Err, syscall.ECONNRESET) || errors.Is(e.Err, syscall.ECONNREFUSED) || errors.Is(e.Err, syscall.EPIPE) ||
		errors.Is(e.Err, io.EOF) || errors.Is(e.Err, io.ErrUnexpectedEOF) || errors.Is(e.Err, net.ErrClosed)
}

// errLate is why a request was given up.
var errLate = errors.New("there was no answer in time")

// attempt sends a request once.
func (c *Client) attempt(ctx context.Context, to id.Server, rq *request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	within := rq.within
	if within == 0 {
		within = usualTime
	}
	timer := time.AfterFunc(within, func() { cancel(errLate) })
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	resp, err := c.exchange(traced, to, rq)
	if err != nil {
		timer.Stop()
		if errors.Is(context.Cause(ctx), errLate) {
			err = errLate
		}
		cancel(nil)
		return nil, &Error{Server: to, Err: err, connected: connected.Load()}
	}
	limit := rq.limit
	if limit == 0 {
		limit = maxAnswer
	}
	resp.Body = &answerBody{
		ctx: ctx, body: resp.Body, limited: outgoing.Limit(resp.Body, limit), timer: timer, cancel: cancel,
		stream: rq.stream, patience: streamPatience,
	}
	if resp.StatusCode != http.StatusOK {
		defer closeBody(resp)
		failure := answerError(to, resp)
		failure.made = rq.made
		return nil, failure
	}
	return resp, nil
}

// exchange finds the server and sends it the request.
func (c *Client) exchange(ctx context.Context, to id.Server, rq *request) (*http.Response, error) {
	dest, err := c.discover(ctx, to)
	if err != nil {
		return nil, err
	}
	r, err := newRequest(ctx, dest, rq)
	if err != nil {
		return nil, err
	}
	return c.http.DoVia(r, dest.via)
}

func newRequest(ctx context.Context, dest *destination, rq *request) (*http.Request, error) {
	uri := rq.uri()
	r, err := http.NewRequestWithContext(ctx, rq.method, "https://"+dest.host+uri, nil)
	if err != nil {
		return nil, err
	}
	if rq.body != nil {
		r.Body = io.NopCloser(bytes.NewReader(rq.body))
		r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(rq.body)), nil }
		r.ContentLength = int64(len(rq.body))
		r.Header.Set("Content-Type", "application/json")
	}
	if !rq.once {
		// Not sent: it tells the transport that it may send again what was sent
		// into a connection that the other side had closed.
		r.Header["X-Idempotency-Key"] = []string{}
	}
	if !rq.open {
		r.Header.Set("Authorization", rq.header)
	}
	return r, nil
}

// sign makes the Authorization header of a request.
// spec: server-server-api#request-authentication
func (c *Client) sign(to id.Server, rq *request) error {
	if rq.open {
		return nil
	}
	u, err := url.ParseRequestURI(rq.uri()) // what the transport will make of it
	if err != nil {
		return err
	}
	msg, err := appendSigned(nil, signed{method: rq.method, uri: u.RequestURI(), origin: c.options.Server, destination: to, content: rq.body})
	if err != nil {
		return err
	}
	sig := signing.EncodeBase64(ed25519.Sign(c.options.Key, msg))
	rq.header = fmt.Sprintf(`X-Matrix origin="%s",destination="%s",key="%s",sig="%s"`, c.options.Server, to, c.options.KeyID, sig)
	return nil
}

// signed is what the signature of a request covers.
type signed struct {
	method, uri         string
	origin, destination id.Server // no destination: left out, as older servers do
	content             []byte    // JSON; nil: none
}

// appendSigned appends the canonical JSON of it. Numbers that canonical JSON
// does not allow are kept: requests carry events of old room versions.
func appendSigned(dst []byte, s signed) ([]byte, error) {
	dst = append(dst, '{')
	if s.content != nil {
		var err error
		dst = append(dst, `"content":`...)
		if dst, err = canonical.Append(dst, s.content, canonical.Options{}); err != nil {
			return nil, err
		}
		dst = append(dst, ',')
	}
	if s.destination != "" {
		dst = append(canonical.AppendString(append(dst, `"destination":`...), s.destination), ',')
	}
	dst = canonical.AppendString(append(dst, `"method":`...), s.method)
	dst = canonical.AppendString(append(dst, `,"origin":`...), s.origin)
	dst = canonical.AppendString(append(dst, `,"uri":`...), s.uri)
	return append(dst, '}'), nil
}

// answerBody is the bounded body of an answer. Reading ends when the request's
// time is over, or when a streamed answer stands still or comes by the drop; what its
// reader does between reads takes none of that time.
type answerBody struct {
	ctx      context.Context
	body     io.ReadCloser
	limited  io.Reader
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	stream   bool
	patience time.Duration // with a streamed answer that is slow
}

func (b *answerBody) Read(p []byte) (int, error) {
	var start time.Time
	if b.stream {
		start = time.Now()
		b.timer.Reset(min(standstill, b.patience))
	}
	n, err := b.limited.Read(p)
	if b.stream {
		b.timer.Stop()
		b.patience += time.Duration(n)*time.Second/slowest - time.Since(start)
		b.patience = min(max(b.patience, 0), streamPatience)
	}
	if err != nil && errors.Is(context.Cause(b.ctx), errLate) {
		err = errLate
	}
	return n, err
}

func (b *answerBody) Close() error {
	b.timer.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}
