package httpx

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
)

type requestKey struct{}

// requestInfo is the only value that travels in a request's context.
type requestInfo struct {
	id uint64
	ip string
}

var lastRequest atomic.Uint64

func withRequest(ctx context.Context, ip string) context.Context {
	return context.WithValue(ctx, requestKey{}, requestInfo{lastRequest.Add(1), ip})
}

// RequestID names a request in logs.
func RequestID(ctx context.Context) string {
	info, _ := ctx.Value(requestKey{}).(requestInfo)
	return strconv.FormatUint(info.id, 36)
}

// ClientIP is the address of the client, also behind a trusted proxy.
func ClientIP(ctx context.Context) string {
	info, _ := ctx.Value(requestKey{}).(requestInfo)
	return info.ip
}

func addressOf(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return a.Unmap().WithZone("").String()
	}
	return host
}

func forwardedFor(r *http.Request) string {
	values := r.Header.Values("X-Forwarded-For")
	if len(values) > 0 {
		last := values[len(values)-1]
		last = strings.TrimSpace(last[strings.LastIndexByte(last, ',')+1:])
		if a, err := netip.ParseAddr(strings.Trim(last, "[]")); err == nil {
			return a.Unmap().WithZone("").String()
		}
	}
	return addressOf(r.RemoteAddr)
}
