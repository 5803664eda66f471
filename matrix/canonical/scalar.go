package canonical

import (
	"bytes"
	"math"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// plain marks the bytes that a string holds as they are: printable ASCII but " and \.
var plain = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\'
	}
	return t
}()

// string reads a string and writes it with the shortest escapes.
func (s *scanner) string() error {
	s.out = append(s.out, '"')
	s.pos++
	for {
		run := s.pos
		for s.pos < len(s.src) && plain[s.src[s.pos]] {
			s.pos++
		}
		s.out = append(s.out, s.src[run:s.pos]...)
		if s.pos >= len(s.src) {
			return s.fail("a string has no end")
		}
		switch c := s.src[s.pos]; {
		case c == '"':
			s.pos++
			s.out = append(s.out, '"')
			return nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		case c < 0x20:
			return s.fail("a string has a control character that is not escaped")
		default:
			_, n := utf8.DecodeRune(s.src[s.pos:])
			if n == 1 {
				return s.fail("a string is not UTF-8")
			}
			s.out = append(s.out, s.src[s.pos:s.pos+n]...)
			s.pos += n
		}
	}
}

func (s *scanner) escape() error {
	if s.pos+1 >= len(s.src) {
		return s.fail("a string has no end")
	}
	c := s.src[s.pos+1]
	switch c {
	case '"', '\\', 'b', 'f', 'n', 'r', 't':
		s.out = append(s.out, '\\', c)
		s.pos += 2
		return nil
	case '/':
		s.out = append(s.out, '/')
		s.pos += 2
		return nil
	case 'u':
	default:
		return s.fail("a string has an unknown escape")
	}
	r, ok := hex4(s.src[s.pos:])
	if !ok {
		return s.fail("a string has a bad \\u escape")
	}
	if utf16.IsSurrogate(r) {
		low, ok := hex4(s.src[s.pos+6:])
		if r = utf16.DecodeRune(r, low); !ok || r == utf8.RuneError {
			return s.fail("a string has half a surrogate pair")
		}
		s.pos += 6
	}
	s.pos += 6
	s.out = appendRune(s.out, r)
	return nil
}

// hex4 reads \uXXXX at the start of b.
func hex4(b []byte) (rune, bool) {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return 0, false
	}
	var r rune
	for _, c := range b[2:6] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// appendRune writes one character of a string, escaped if it must be.
// spec: appendices#grammar
func appendRune(dst []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(dst, '\\', byte(r))
	case '\b':
		return append(dst, `\b`...)
	case '\t':
		return append(dst, `\t`...)
	case '\n':
		return append(dst, `\n`...)
	case '\f':
		return append(dst, `\f`...)
	case '\r':
		return append(dst, `\r`...)
	}
	if r < 0x20 {
		const hex = "0123456789abcdef"
		return append(dst, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
	}
	return utf8.AppendRune(dst, r)
}

// AppendString appends s as a canonical JSON string. Bytes of s that are not
// UTF-8 become U+FFFD.
func AppendString[T ~string](dst []byte, s T) []byte {
	dst = append(dst, '"')
	for i := 0; i < len(s); {
		run := i
		for i < len(s) && plain[s[i]] {
			i++
		}
		dst = append(dst, s[run:i]...)
		if i == len(s) {
			break
		}
		r, n := utf8.DecodeRuneInString(string(s[i:]))
		dst = appendRune(dst, r)
		i += n
	}
	return append(dst, '"')
}

// unescape appends the characters that a canonical string stands for, given
// what is between its quotes.
func unescape(dst, b []byte) []byte {
	for {
		i := bytes.IndexByte(b, '\\')
		if i < 0 {
			return append(dst, b...)
		}
		dst = append(dst, b[:i]...)
		var c byte
		c, b = unescapeByte(b[i:])
		dst = append(dst, c)
	}
}

// unescapeByte takes the next byte off what is between a canonical string's
// quotes. Every escape of canonical JSON stands for one byte.
func unescapeByte(b []byte) (byte, []byte) {
	if b[0] != '\\' || len(b) < 2 {
		return b[0], b[1:]
	}
	c, rest := b[1], b[2:]
	switch c {
	case 'b':
		c = '\b'
	case 't':
		c = '\t'
	case 'n':
		c = '\n'
	case 'f':
		c = '\f'
	case 'r':
		c = '\r'
	case 'u':
		if r, ok := hex4(b); ok {
			c, rest = byte(r), b[6:]
		}
	}
	return c, rest
}

// number reads a number and writes it as Options.Strict says.
func (s *scanner) number() error {
	start := s.pos
	if s.peek() == '-' {
		s.pos++
	}
	if s.peek() == '0' {
		s.pos++
	} else if !s.digits() {
		return s.fail("a number has no digits")
	}
	fraction, exponent := false, false
	if s.peek() == '.' {
		s.pos++
		if fraction = s.digits(); !fraction {
			return s.fail("a number has no digits after its point")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.pos++
		if c := s.peek(); c == '+' || c == '-' {
			s.pos++
		}
		if exponent = s.digits(); !exponent {
			return s.fail("a number has no digits in its exponent")
		}
	}
	text := s.src[start:s.pos]
	switch {
	case s.strict && (fraction || exponent):
		return s.fail("a number is not an integer")
	case fraction || exponent:
		return s.float(text, exponent)
	case string(text) == "-0":
		s.out = append(s.out, '0')
	case s.strict && !inRange(text):
		return s.fail("an integer is outside ±(2^53-1)")
	default:
		s.out = append(s.out, text...)
	}
	return nil
}

func (s *scanner) digits() bool {
	start := s.pos
	for c := s.peek(); c >= '0' && c <= '9'; c = s.peek() {
		s.pos++
	}
	return s.pos > start
}

func inRange(integer []byte) bool {
	if integer[0] == '-' {
		integer = integer[1:]
	}
	const max = "9007199254740991"
	return len(integer) < len(max) || len(integer) == len(max) && string(integer) <= max
}

// float writes a number that canonical JSON cannot hold; see Options.Strict.
func (s *scanner) float(text []byte, exponent bool) error {
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return s.fail("a number is too large")
	}
	size := math.Abs(f)
	switch {
	case exponent && f == math.Trunc(f) && size <= MaxInt:
		s.out = strconv.AppendInt(s.out, int64(f), 10)
	case size != 0 && (size < 1e-4 || size >= 1e16):
		s.out = strconv.AppendFloat(s.out, f, 'e', -1, 64)
	default:
		start := len(s.out)
		s.out = strconv.AppendFloat(s.out, f, 'f', -1, 64)
		if bytes.IndexByte(s.out[start:], '.') < 0 {
			s.out = append(s.out, ".0"...)
		}
	}
	return nil
}
