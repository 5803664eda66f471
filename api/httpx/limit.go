package httpx

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hearth/matrix/errcode"
)

// Limit is a kind of rate limit. Those that a route declares count by user, or
// by network where nobody is logged in; the others are taken by handlers with
// keys of their own.
type Limit int

const (
	NoLimit Limit = iota
	Message
	Registration
	RegistrationTokenValidity
	LoginAddress
	LoginAccount        // by account
	LoginFailedAttempts // by account; counts failures only
	JoinsLocal
	JoinsRemote
	JoinsPerRoom // by room
	InvitesPerRoom
	InvitesPerUser
	InvitesPerIssuer
	AdminRedaction
	ThirdPartyValidation
	MediaCreate
	Reports
	RoomCreation
	UserDirectory
	DelayedEvent
	limitKinds
)

// Rate is a limit's size: so many a second in the long run, so many at once.
type Rate struct {
	PerSecond float64
	Burst     int
}

// Limiter holds the buckets of all limits, the most recently used ones only.
type Limiter struct {
	rates [limitKinds]Rate

	mu       sync.Mutex
	now, old map[bucket]*rate.Limiter
}

type bucket struct {
	kind Limit
	key  string
}

// A generation of buckets is dropped when the one after it is full. A bucket
// that was not touched for that long has filled up again.
const bucketGeneration = 50_000

// NewLimiter makes a limiter; a kind that is absent or has no burst is not limited.
func NewLimiter(rates map[Limit]Rate) *Limiter {
	l := &Limiter{now: map[bucket]*rate.Limiter{}}
	for kind, r := range rates {
		l.rates[kind] = r
	}
	return l
}

// Take counts one action and refuses it with M_LIMIT_EXCEEDED when there were too many.
// spec: client-server-api#rate-limiting
func (l *Limiter) Take(kind Limit, key string) error {
	return l.reserve(kind, key, false)
}

// Check refuses like Take and counts nothing.
func (l *Limiter) Check(kind Limit, key string) error {
	return l.reserve(kind, key, true)
}

func (l *Limiter) reserve(kind Limit, key string, only bool) error {
	if l == nil || l.rates[kind].Burst <= 0 {
		return nil
	}
	b := l.bucket(kind, key)
	now := time.Now()
	res := b.ReserveN(now, 1)
	wait := res.DelayFrom(now)
	if only || wait > 0 {
		res.CancelAt(now)
	}
	if wait <= 0 {
		return nil
	}
	ms := int64(math.Ceil(float64(wait) / float64(time.Millisecond)))
	if wait == rate.InfDuration {
		ms = int64(time.Hour / time.Millisecond)
	}
	return errcode.LimitExceeded(ms)
}

func (l *Limiter) bucket(kind Limit, key string) *rate.Limiter {
	k := bucket{kind, key}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.now[k]
	if ok {
		return b
	}
	if b, ok = l.old[k]; !ok {
		r := l.rates[kind]
		b = rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)
	}
	if len(l.now) >= bucketGeneration {
		l.old, l.now = l.now, make(map[bucket]*rate.Limiter)
	}
	l.now[k] = b
	return b
}

func (rr *Router) limit(kind Limit, c Caller) error {
	if kind == NoLimit || c.Unlimited {
		return nil
	}
	key := string(c.User)
	if key == "" {
		key = c.Network()
	}
	return rr.Limits.Take(kind, key)
}
