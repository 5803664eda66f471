package remote

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// xMatrix is an Authorization header of a request between servers.
type xMatrix struct {
	origin, destination id.Server
	key                 id.Key
	signature           string
}

const (
	maxAuthorization  = 4096 // bytes of a header
	maxAuthorizations = 8    // a server signs once with each of its keys
)

// AuthenticateRequest finds out which server sent a request. body is the whole
// body. Every failure that is the request's own is an *errcode.Error.
// spec: server-server-api#request-authentication
func (c *Client) AuthenticateRequest(ctx context.Context, r *http.Request, body []byte) (id.Server, error) {
	headers, err := authorizations(r.Header.Values("Authorization"))
	if err != nil {
		return "", errcode.Unauthorized("Authorization: %v", err)
	}
	origin := headers[0].origin
	switch {
	case origin == c.options.Server:
		return "", errcode.Unauthorized("a request in this server's own name comes from somebody else")
	case headers[0].destination != "" && headers[0].destination != c.options.Server:
		return "", errcode.Unauthorized("the request is for %s, and this is %s", headers[0].destination, c.options.Server)
	case !c.permits(origin):
		return "", errcode.Forbidden("this server does not federate with %s", origin)
	}
	msg, err := appendSigned(nil, signed{
		method: r.Method, uri: target(r), origin: origin, destination: headers[0].destination, content: content(body),
	})
	if err != nil {
		return "", errcode.NotJSON("the request body is not valid JSON: %v", err)
	}
	one := check{server: origin, ts: c.now().UnixMilli(), strict: true, current: true}
	signatures := map[id.Key]string{}
	for _, h := range headers {
		one.keys = append(one.keys, h.key)
		signatures[h.key] = h.signature
	}
	one.verify = func(keyID id.Key, public ed25519.PublicKey) error {
		sig, err := signing.DecodeBase64(signatures[keyID])
		if err != nil || !ed25519.Verify(public, msg, sig) {
			return signing.ErrInvalid
		}
		return nil
	}
	if err := c.Keys.verifyAll(ctx, origin, []check{one}, forCaller)[0]; err != nil {
		if ctx.Err() != nil {
			return "", fmt.Errorf("authenticate %s: %w", origin, context.Cause(ctx))
		}
		if !isVerdict(err) {
			return "", fmt.Errorf("authenticate %s: %w", origin, err)
		}
		// Why its keys could not be fetched would tell a stranger about this network.
		slog.DebugContext(ctx, "a request was refused", "server", origin, "error", err)
		return "", errcode.Unauthorized("the request is not signed with a key of %s that is known here", origin)
	}
	c.Up(origin)
	return origin, nil
}

// target is what was asked for, as it was sent.
func target(r *http.Request) string {
	if strings.HasPrefix(r.RequestURI, "/") {
		return r.RequestURI
	}
	return r.URL.RequestURI()
}

func content(body []byte) []byte {
	if len(body) == 0 {
		return nil
	}
	return body
}

// authorizations reads the headers of a request, which must agree but for their keys.
func authorizations(values []string) (headers []xMatrix, err error) {
	for _, v := range values {
		if scheme, _, _ := strings.Cut(v, " "); !strings.EqualFold(scheme, "X-Matrix") {
			continue
		}
		if len(headers) == maxAuthorizations {
			return nil, errors.New("there are too many")
		}
		h, err := parseXMatrix(v)
		if err != nil {
			return nil, err
		}
		if len(headers) > 0 && (h.origin != headers[0].origin || h.destination != headers[0].destination) {
			return nil, errors.New("the headers contradict each other")
		}
		headers = append(headers, h)
	}
	if len(headers) == 0 {
		return nil, errors.New("there is no X-Matrix signature")
	}
	return headers, nil
}

// parseXMatrix reads `X-Matrix origin="…",key="…",sig="…"`, with what older
// servers do: colons in values that are not quoted.
func parseXMatrix(header string) (h xMatrix, err error) {
	if len(header) > maxAuthorization {
		return h, errors.New("it is too long")
	}
	_, rest, _ := strings.Cut(header, " ")
	params := map[string]string{}
	for rest = strings.TrimLeft(rest, " "); ; {
		var name, value string
		if name, value, rest, err = parameter(rest); err != nil {
			return h, err
		}
		if _, twice := params[name]; twice {
			return h, fmt.Errorf("%s is there twice", name)
		}
		params[name] = value
		rest = strings.TrimLeft(rest, " \t")
		if rest == "" {
			break
		}
		if rest[0] != ',' {
			return h, errors.New("a comma is missing")
		}
		rest = strings.TrimLeft(rest, ", \t")
		if rest == "" {
			break
		}
	}
	return fromParams(params)
}

func fromParams(params map[string]string) (h xMatrix, err error) {
	for _, name := range []string{"origin", "key", "sig"} {
		if params[name] == "" {
			return h, fmt.Errorf("%s is missing", name)
		}
	}
	if h.origin, err = id.ParseServer(params["origin"]); err != nil {
		return h, fmt.Errorf("origin: %w", err)
	}
	if d, ok := params["destination"]; ok {
		if h.destination, err = id.ParseServer(d); err != nil {
			return h, fmt.Errorf("destination: %w", err)
		}
	}
	h.key, h.signature = id.Key(params["key"]), params["sig"]
	if h.key.Algorithm() != signing.Algorithm {
		return h, fmt.Errorf("keys of the algorithm %q are not known", h.key.Algorithm())
	}
	return h, nil
}

// parameter reads one name=value from the front of s. The name comes in small letters.
func parameter(s string) (name, value, rest string, err error) {
	n := tokenLength(s, "")
	if n == 0 {
		return "", "", "", errors.New("a name is missing")
	}
	name = strings.ToLower(s[:n])
	s, ok := strings.CutPrefix(s[n:], "=")
	if !ok {
		return "", "", "", fmt.Errorf("%s has no value", name)
	}
	if strings.HasPrefix(s, `"`) {
		value, rest, err = quoted(s[1:])
		return name, value, rest, err
	}
	n = tokenLength(s, ":")
	return name, s[:n], s[n:], nil
}

func quoted(s string) (value, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			return b.String(), s[i+1:], nil
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errors.New("a quote is not closed")
}

// tokenLength counts the bytes at the front of s that are of a token (RFC 9110,
// section 5.6.2) or of more.
func tokenLength(s, more string) int {
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0, strings.IndexByte(more, c) >= 0:
		default:
			return i
		}
	}
	return len(s)
}
