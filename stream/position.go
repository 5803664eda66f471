package stream

import (
	"errors"
	"strconv"
	"strings"
)

// A token shown to clients is the version letter, the durable position and,
// where it matters, the volatile one: h123_456. The same form names a place in
// a room's timeline for /messages, where positions of backfilled events may be
// below zero. Another letter will mean another form.
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
	rest, ok := strings.CutPrefix(token, string(tokenVersion))
	if !ok {
		return Position{}, errToken
	}
	durable, volatile, both := strings.Cut(rest, "_")
	var p Position
	var err error
	if p.Durable, err = strconv.ParseInt(durable, 10, 64); err != nil {
		return Position{}, errToken
	}
	if both {
		if p.Volatile, err = strconv.ParseInt(volatile, 10, 64); err != nil {
			return Position{}, errToken
		}
	}
	if p.String() != token {
		return Position{}, errToken
	}
	return p, nil
}
