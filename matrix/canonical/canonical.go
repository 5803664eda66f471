// Package canonical turns JSON into Matrix's canonical JSON, and walks JSON
// that is already canonical without decoding it.
//
// It owns what counts as well-formed JSON in signed objects: duplicate keys,
// lone surrogates, bad UTF-8 and, where asked, numbers. It must not know what
// an event is. Start at Append.
// spec: appendices#canonical-json
package canonical

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
)

// MaxDepth bounds how deeply objects and arrays may nest.
const MaxDepth = 1000

// MaxInt is the largest integer that canonical JSON allows; -MaxInt is the smallest.
const MaxInt = 1<<53 - 1

// Options say how Append treats its input.
type Options struct {
	// Strict refuses what canonical JSON cannot hold: numbers with a fraction or
	// an exponent, and integers outside ±MaxInt. Rooms of version 6 and later
	// demand it. spec: rooms/v6#canonical-json
	//
	// Without it such numbers are kept. Integers stay digit for digit. A number
	// with a fraction becomes the shortest text that reads back as the same
	// double, as Python's json module writes it, because that is what the servers
	// hash that wrote such events. An integer written with an exponent becomes a
	// plain integer, as the specification's example wants (1e10 is 10000000000).
	Strict bool
	// Drop names keys of the outermost object to leave out. Their values must be
	// JSON, but Strict is not applied to them.
	Drop []string
}

// Error says why and where input is not acceptable.
type Error struct {
	Offset int // in bytes
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("%s (at byte %d)", e.Reason, e.Offset) }

// Append appends the canonical form of src, which must hold exactly one JSON
// value, to dst. Every error is an *Error. src must not overlap dst's spare room.
func Append(dst, src []byte, o Options) ([]byte, error) {
	s := scanners.Get().(*scanner)
	defer s.free()
	s.src, s.pos, s.out, s.strict, s.drop = src, 0, dst, o.Strict, o.Drop
	s.space()
	if err := s.value(1); err != nil {
		return nil, err
	}
	s.space()
	if s.pos < len(src) {
		return nil, s.fail("there is something after the value")
	}
	return s.out, nil
}

var scanners = sync.Pool{New: func() any { return new(scanner) }}

// free gives s back for the next Append, with its workspace unless that grew large.
func (s *scanner) free() {
	const most = 1 << 16
	next := scanner{members: s.members[:0], scratch: s.scratch[:0]}
	if cap(s.members) > most/32 || cap(s.scratch) > most {
		next = scanner{}
	}
	*s = next
	scanners.Put(s)
}

// Valid says whether src is canonical JSON, byte for byte.
func Valid(src []byte) bool {
	out, err := Append(make([]byte, 0, len(src)), src, Options{Strict: true})
	return err == nil && bytes.Equal(out, src)
}

// member is where a member of the object being read lies in the output.
type member struct{ key, keyEnd, end int }

type scanner struct {
	src     []byte
	pos     int
	out     []byte
	strict  bool
	drop    []string
	members []member // of all open objects, innermost last
	scratch []byte   // for reordering members
}

func (s *scanner) fail(reason string) error { return &Error{s.pos, reason} }

func (s *scanner) space() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

// peek is the next byte, or 0 at the end (0 starts no JSON).
func (s *scanner) peek() byte {
	if s.pos < len(s.src) {
		return s.src[s.pos]
	}
	return 0
}

// value reads one value; depth is the depth of an object or array found here.
func (s *scanner) value(depth int) error {
	switch c := s.peek(); c {
	case '{':
		return s.object(depth)
	case '[':
		return s.array(depth)
	case '"':
		return s.string()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	case 0:
		if s.pos >= len(s.src) {
			return s.fail("the JSON ends too early")
		}
		return s.fail("a value was expected")
	default:
		if c == '-' || c >= '0' && c <= '9' {
			return s.number()
		}
		return s.fail("a value was expected")
	}
}

func (s *scanner) literal(word string) error {
	if !bytes.HasPrefix(s.src[s.pos:], []byte(word)) {
		return s.fail("a value was expected")
	}
	s.pos += len(word)
	s.out = append(s.out, word...)
	return nil
}

func (s *scanner) array(depth int) error {
	if depth > MaxDepth {
		return s.fail("the JSON is nested too deeply")
	}
	s.pos++
	s.out = append(s.out, '[')
	s.space()
	if s.peek() == ']' {
		s.pos++
		s.out = append(s.out, ']')
		return nil
	}
	for {
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.space()
		c := s.peek()
		if c != ',' && c != ']' {
			return s.fail("a comma or ] was expected")
		}
		s.pos++
		s.out = append(s.out, c)
		if c == ']' {
			return nil
		}
		s.space()
	}
}

func (s *scanner) object(depth int) error {
	if depth > MaxDepth {
		return s.fail("the JSON is nested too deeply")
	}
	s.pos++
	s.out = append(s.out, '{')
	base, start, sorted, dropped := len(s.members), len(s.out), true, uint64(0)
	s.space()
	if s.peek() == '}' {
		s.pos++
		s.out = append(s.out, '}')
		return nil
	}
	for {
		ordered, err := s.member(depth, base, start, &dropped)
		if err != nil {
			return err
		}
		sorted = sorted && ordered
		s.space()
		c := s.peek()
		if c != ',' && c != '}' {
			return s.fail("a comma or } was expected")
		}
		s.pos++
		if c == '}' {
			break
		}
		s.space()
	}
	if !sorted && !s.sort(base, start) {
		return s.fail("an object has the same key twice")
	}
	s.members = s.members[:base]
	s.out = append(s.out, '}')
	return nil
}

// member reads one key and value of the object whose members begin at
// s.members[base] and at s.out[start]. It says whether its key sorts after the
// key before it.
func (s *scanner) member(depth, base, start int, dropped *uint64) (ordered bool, err error) {
	if s.peek() != '"' {
		return false, s.fail("a key was expected")
	}
	before := len(s.out)
	if before > start {
		s.out = append(s.out, ',')
	}
	m := member{key: len(s.out)}
	if err := s.string(); err != nil {
		return false, err
	}
	m.keyEnd = len(s.out)
	s.space()
	if s.peek() != ':' {
		return false, s.fail("a colon was expected")
	}
	s.pos++
	s.out = append(s.out, ':')
	s.space()
	if depth == 1 && len(s.drop) > 0 {
		if i := s.dropIndex(s.out[m.key+1 : m.keyEnd-1]); i >= 0 {
			if *dropped&(1<<i) != 0 {
				return false, s.fail("an object has the same key twice")
			}
			*dropped |= 1 << i
			strict := s.strict
			s.strict = false
			err := s.value(depth + 1)
			s.strict, s.out = strict, s.out[:before]
			return true, err
		}
	}
	if err := s.value(depth + 1); err != nil {
		return false, err
	}
	m.end = len(s.out)
	ordered = true
	if len(s.members) > base {
		c := s.compare(s.members[len(s.members)-1], m)
		if c == 0 {
			return false, s.fail("an object has the same key twice")
		}
		ordered = c < 0
	}
	s.members = append(s.members, m)
	return ordered, nil
}

func (s *scanner) dropIndex(key []byte) int {
	for i, d := range s.drop {
		if string(key) == d {
			return i
		}
	}
	return -1
}

// compare orders keys by code point, which is the order of their UTF-8 bytes
// (not of their UTF-16 units, as RFC 8785 has it).
func (s *scanner) compare(a, b member) int {
	x, y := s.out[a.key+1:a.keyEnd-1], s.out[b.key+1:b.keyEnd-1]
	if bytes.IndexByte(x, '\\') < 0 && bytes.IndexByte(y, '\\') < 0 {
		return bytes.Compare(x, y)
	}
	for len(x) > 0 && len(y) > 0 {
		var c, d byte
		c, x = unescapeByte(x)
		d, y = unescapeByte(y)
		if c != d {
			return int(c) - int(d)
		}
	}
	return len(x) - len(y)
}

// sort puts the members from s.members[base] on, which lie in the output from
// start on, into order. It reports false when two keys are equal.
func (s *scanner) sort(base, start int) bool {
	ms := s.members[base:]
	slices.SortFunc(ms, s.compare)
	for i := 1; i < len(ms); i++ {
		if s.compare(ms[i-1], ms[i]) == 0 {
			return false
		}
	}
	s.scratch = append(s.scratch[:0], s.out[start:]...)
	s.out = s.out[:start]
	for i, m := range ms {
		if i > 0 {
			s.out = append(s.out, ',')
		}
		s.out = append(s.out, s.scratch[m.key-start:m.end-start]...)
	}
	return true
}
