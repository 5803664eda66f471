package httpx

import (
	"io"
	"net/netip"
	"slices"
	"sync"

	"hearth/matrix/errcode"
)

// Request bodies are read whole, and mostly before it is known who sends them: a signature of
// another server covers the body. So all of them together must not take more memory than a
// small machine has, which is these four. Whoever is known by a token has a part of it that
// nobody else can fill, and so has the beginning of each body, which most have no more than.
const (
	maxFirstOfUsers, maxRestOfUsers         = 4 << 20, 16 << 20
	maxFirstOfStrangers, maxRestOfStrangers = 8 << 20, 36 << 20

	beginning = 64 << 10
	firstBody = 4 << 10 // what a body of unknown length gets first
	knownBody = 1 << 20 // a body is believed to be as long as it says, up to this
)

// bodies counts the memory that is held by request bodies, by whose they are: users, or
// networks of those who are not known yet.
type bodies struct {
	mu          sync.Mutex
	first, rest share
}

// share is something, such as memory, of which nobody has more than is left for all others.
type share struct {
	most, total int64
	of          map[string]int64
}

func newBodies(first, rest int64) *bodies {
	return &bodies{first: newShare(first), rest: newShare(rest)}
}

func newShare(most int64) share { return share{most: most, of: map[string]int64{}} }

// take counts n bytes more of a body, and refuses with M_LIMIT_EXCEEDED what there is no room
// for now.
func (b *bodies) take(who string, held, n int64) error {
	first := min(held+n, beginning) - min(held, beginning)
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.first.has(who, first) || !b.rest.has(who, n-first) {
		return errcode.LimitExceeded(1000)
	}
	b.first.add(who, first)
	b.rest.add(who, n-first)
	return nil
}

// give counts that a body is gone.
func (b *bodies) give(who string, held int64) {
	first := min(held, beginning)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.first.add(who, -first)
	b.rest.add(who, first-held)
}

func (s *share) has(who string, n int64) bool {
	others := s.total - s.of[who]
	return n == 0 || 2*(s.of[who]+n) <= s.most-others
}

func (s *share) add(who string, n int64) {
	s.total += n
	if s.of[who] += n; s.of[who] == 0 {
		delete(s.of, who)
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
			if err := rq.bodies.take(rq.whose, rq.held, size); err != nil {
				return nil, err
			}
			rq.held += size
			body = slices.Grow(body, int(size))
			if size = rq.held; rq.route.maxBody > 0 { // it doubles
				size = min(size, max(rq.route.maxBody+1-rq.held, 1))
			}
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
