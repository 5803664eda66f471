package stream

import (
	"errors"
	"strconv"
	"strings"
)

// A token shown to clients is the version letter, the durable position and,
// where it matters, the volatile one: h123_456. The same form names a place in
// a room's timeline for /messages, where positions of backfilled events may be
// below zero. After ~ comes how far to-device messages were delivered, if that
// is less far. Another letter will mean another form.
// spec: client-server-api#syncing
const tokenVersion = 'h'

// errToken does not repeat the token: it comes from outside.
var errToken = errors.New("not a token of this server")

// String writes the position as a token.
func (p Position) String() string {
	b := make([]byte, 0, 40)
	b = append(b, tokenVersion)
	b = strconv.AppendInt(b, p.Durable, 10)
	if p.Volatile != 0 {
		b = append(b, '_')
		b = strconv.AppendInt(b, p.Volatile, 10)
	}
	return string(b)
}

// ParsePosition reads a token that String wrote, and no other spelling of it.
func ParsePosition(token string) (Position, error) {
	t, err := ParseToken(token)
	return t.Position, err
}

// Token is a token of /sync. To-device messages are delivered some at a time,
// so they may be behind everything else.
type Token struct {
	Position
	ToDevice int64 // position up to which to-device messages were delivered
}

// String writes the token.
func (t Token) String() string {
	if t.ToDevice == t.Durable {
		return t.Position.String()
	}
	return t.Position.String() + "~" + strconv.FormatInt(t.ToDevice, 10)
}

// ParseToken reads a token that String wrote, and no other spelling of it.
func ParseToken(token string) (Token, error) {
	var t Token
	rest, ok := strings.CutPrefix(token, string(tokenVersion))
	if !ok {
		return Token{}, errToken
	}
	rest, behind, isBehind := strings.Cut(rest, "~")
	durable, volatile, both := strings.Cut(rest, "_")
	var err error
	if t.Durable, err = strconv.ParseInt(durable, 10, 64); err != nil {
		return Token{}, errToken
	}
	if both {
		if t.Volatile, err = strconv.ParseInt(volatile, 10, 64); err != nil {
			return Token{}, errToken
		}
	}
	t.ToDevice = t.Durable
	if isBehind {
		if t.ToDevice, err = strconv.ParseInt(behind, 10, 64); err != nil {
			return Token{}, errToken
		}
	}
	if t.String() != token {
		return Token{}, errToken
	}
	return t, nil
}
