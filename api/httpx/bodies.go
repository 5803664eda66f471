package httpx

import (
	"io"
	"net/netip"
	"slices"
	"sync"

	"hearth/matrix/errcode"
)

// Request bodies are read whole before it is known who sends them: a signature of another
// server covers the body. So all of them together must not take more memory than a
// small machine has, and those from one network not all of that.
const (
	maxBodies   = 64 << 20
	maxBodiesOf = maxBodies / 2
	firstBody   = 4 << 10 // what a body of unknown length gets first
	knownBody   = 1 << 20 // a body is believed to be as long as it says, up to this
)

// bodies counts the memory that is held by request bodies.
type bodies struct {
	mu    sync.Mutex
	total int64
	of    map[string]int64 // by network
}

// take refuses with M_LIMIT_EXCEEDED what there is no room for now.
func (b *bodies) take(network string, n int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.total+n > maxBodies || b.of[network]+n > maxBodiesOf {
		return errcode.LimitExceeded(1000)
	}
	if b.of == nil {
		b.of = map[string]int64{}
	}
	b.total += n
	b.of[network] += n
	return nil
}

func (b *bodies) give(network string, n int64) {
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= n
	if b.of[network] -= n; b.of[network] <= 0 {
		delete(b.of, network)
	}
}

// readAll reads a body into memory that is counted before it is used. Who announces
// much and sends little holds little.
func (rq *request) readAll(src io.Reader) (body []byte, err error) {
	size := int64(firstBody)
	if rq.r.ContentLength >= 0 {
		size = min(rq.r.ContentLength, knownBody) + 1 // one more, in which the end is found
	}
	for {
		if int64(len(body)) == rq.held {
			if err := rq.bodies.take(rq.network, size); err != nil {
				return nil, err
			}
			rq.held += size
			body = slices.Grow(body, int(size))
			size = rq.held // it doubles
		}
		n, err := src.Read(body[len(body):rq.held])
		body = body[:len(body)+n]
		if err == io.EOF {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// networkOf is what an address is counted under: one that has a whole network of the
// sixth version of the protocol has addresses without end.
func networkOf(ip string) string {
	a, err := netip.ParseAddr(ip)
	if err != nil || a.Is4() {
		return ip
	}
	p, err := a.Prefix(64)
	if err != nil {
		return ip
	}
	return p.Masked().String()
}
