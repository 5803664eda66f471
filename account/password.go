package account

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"runtime/debug"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"

	"hearth/matrix/errcode"
)

// Passwords says how passwords are used, what they must be like and how they are hashed.
type Passwords struct {
	// NoLogin closes login with passwords; NoReauth also closes their use in
	// interactive authentication.
	NoLogin, NoReauth bool
	Pepper            string // mixed into every password, as Synapse does

	MinLength                                   int
	WantDigit, WantSymbol, WantLower, WantUpper bool

	MemoryKiB uint32 // argon2id; 0: 19 MiB
	Time      uint32 // 0: 2
	Threads   uint8  // 0: 1
}

const (
	// maxPassword bounds the work of normalising a password.
	maxPassword = 512
	// concurrentHashes bounds the memory and cores that logins take.
	concurrentHashes = 2
	saltLength       = 16
	keyLength        = 32
	// Bounds on what a hash in the database may ask of us.
	maxHashKiB  = 1 << 20
	maxHashTime = 100
)

// sweepAfter is how long after the last hash its memory goes back to the
// system: each takes MemoryKiB that the collector would keep for minutes, which
// on a small box is half of all that Hearth uses.
const sweepAfter = 2 * time.Second

type hasher struct {
	o     Passwords
	slots chan struct{}
	sweep *time.Timer
}

func newHasher(o Passwords) hasher {
	if o.MemoryKiB == 0 {
		o.MemoryKiB = 19 << 10
	}
	o.Time, o.Threads = max(o.Time, 1), max(o.Threads, 1)
	sweep := time.AfterFunc(sweepAfter, debug.FreeOSMemory)
	sweep.Stop() // until there is something to sweep
	return hasher{o, make(chan struct{}, concurrentHashes), sweep}
}

// normal makes the same password of the same characters, however typed.
func (h hasher) normal(password string) []byte {
	return []byte(norm.NFKC.String(password) + h.o.Pepper)
}

func (h hasher) take(ctx context.Context) error {
	select {
	case h.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (h hasher) give() {
	<-h.slots
	h.sweep.Reset(sweepAfter)
}

// hash makes a PHC string by argon2id.
func (h hasher) hash(ctx context.Context, password string) (string, error) {
	if err := h.take(ctx); err != nil {
		return "", err
	}
	defer h.give()
	salt := make([]byte, saltLength)
	rand.Read(salt) // never fails
	key := argon2.IDKey(h.normal(password), salt, h.o.Time, h.o.MemoryKiB, h.o.Threads, keyLength)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.o.MemoryKiB, h.o.Time, h.o.Threads, b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// check says whether a password is the one of a hash. An empty hash fits no
// password; checking it takes as long as checking any other.
func (h hasher) check(ctx context.Context, hash, password string) (bool, error) {
	if len(password) > maxPassword {
		return false, nil
	}
	if err := h.take(ctx); err != nil {
		return false, err
	}
	defer h.give()
	if strings.HasPrefix(hash, "$2") {
		return h.checkBcrypt(hash, password), nil
	}
	p, err := parseHash(hash)
	if hash == "" {
		p = argonHash{h.o.MemoryKiB, h.o.Time, h.o.Threads, make([]byte, saltLength), make([]byte, keyLength)}
	} else if err != nil {
		return false, err
	}
	key := argon2.IDKey(h.normal(password), p.salt, p.time, p.memory, p.threads, uint32(len(p.key)))
	return subtle.ConstantTimeCompare(key, p.key) == 1 && hash != "", nil
}

// checkBcrypt checks hashes that come from Synapse. bcrypt knows the first 72 bytes only.
func (h hasher) checkBcrypt(hash, password string) bool {
	p := h.normal(password)
	return bcrypt.CompareHashAndPassword([]byte(hash), p[:min(len(p), 72)]) == nil
}

// isCurrent says whether a hash is one that hash would make now.
func (h hasher) isCurrent(hash string) bool {
	p, err := parseHash(hash)
	return err == nil && p.memory == h.o.MemoryKiB && p.time == h.o.Time && p.threads == h.o.Threads
}

type argonHash struct {
	memory, time uint32
	threads      uint8
	salt, key    []byte
}

func parseHash(s string) (p argonHash, err error) {
	fields := strings.Split(s, "$")
	var version int
	if len(fields) != 6 || fields[0] != "" || fields[1] != "argon2id" {
		return p, fmt.Errorf("password hash is of an unknown kind")
	}
	if _, err = fmt.Sscanf(fields[2], "v=%d", &version); err != nil || version != argon2.Version {
		return p, fmt.Errorf("password hash is of an unknown version")
	}
	if _, err = fmt.Sscanf(fields[3], "m=%d,t=%d,p=%d", &p.memory, &p.time, &p.threads); err != nil {
		return p, fmt.Errorf("password hash: %w", err)
	}
	if p.memory == 0 || p.memory > maxHashKiB || p.time == 0 || p.time > maxHashTime || p.threads == 0 {
		return p, fmt.Errorf("password hash has parameters out of range")
	}
	if p.salt, err = base64.RawStdEncoding.DecodeString(fields[4]); err == nil {
		p.key, err = base64.RawStdEncoding.DecodeString(fields[5])
	}
	if err == nil && (len(p.key) < 16 || len(p.key) > 1024) {
		err = fmt.Errorf("key of %d bytes", len(p.key))
	}
	if err != nil {
		err = fmt.Errorf("password hash: %w", err)
	}
	return p, err
}

// CheckPasswordPolicy refuses passwords that are too weak.
// spec: client-server-api#password-management
func (a *Accounts) CheckPasswordPolicy(password string) error {
	o := a.o.Passwords
	if len(password) > maxPassword {
		return errcode.InvalidParam("the password is longer than %d bytes", maxPassword)
	}
	weak := func(format string, args ...any) error {
		return errcode.New(http.StatusBadRequest, "M_WEAK_PASSWORD", format, args...)
	}
	isSymbol := func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	switch {
	case password == "":
		return weak("the password is empty")
	case utf8.RuneCountInString(password) < o.MinLength:
		return weak("the password must have at least %d characters", o.MinLength)
	case o.WantDigit && !strings.ContainsFunc(password, unicode.IsDigit):
		return weak("the password must have a digit")
	case o.WantSymbol && !strings.ContainsFunc(password, isSymbol):
		return weak("the password must have a character that is neither a letter nor a digit")
	case o.WantLower && !strings.ContainsFunc(password, unicode.IsLower):
		return weak("the password must have a small letter")
	case o.WantUpper && !strings.ContainsFunc(password, unicode.IsUpper):
		return weak("the password must have a capital letter")
	}
	return nil
}

// HashPassword checks the policy and makes what users.password_hash holds.
func (a *Accounts) HashPassword(ctx context.Context, password string) (string, error) {
	if err := a.CheckPasswordPolicy(password); err != nil {
		return "", err
	}
	return a.hashes.hash(ctx, password)
}
