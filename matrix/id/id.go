// Package id has Matrix's identifiers as Go types: users, rooms, aliases,
// events, servers, devices, keys. It parses and validates; it must not look
// anything up. Start at User and Room.
// spec: appendices#common-identifier-format
package id

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"
)

type (
	User   string // @localpart:server
	Room   string // !opaque:server, or !hash from room version 12 on
	Alias  string // #name:server
	Event  string // $opaque:server (room versions 1 and 2) or $hash
	Server string // hostname or IP literal, with an optional port; case-sensitive
	Device string // opaque
	Key    string // algorithm:identifier, such as ed25519:abc
)

// MaxLength bounds user, room, event and alias ids, in bytes.
// spec: appendices#user-identifiers
const MaxLength = 255

// ParseUser accepts what other servers may hold, historical ids too; ids made
// here must also pass ValidLocalpart.
// spec: appendices#historical-user-ids
func ParseUser(s string) (User, error) {
	if _, _, err := split(s, '@', "user"); err != nil {
		return "", err
	}
	return User(s), nil
}

func ParseAlias(s string) (Alias, error) {
	if _, _, err := split(s, '#', "alias"); err != nil {
		return "", err
	}
	return Alias(s), nil
}

// ParseRoom accepts both grammars: with a server name, and the hash alone.
// spec: appendices#room-ids
func ParseRoom(s string) (Room, error) {
	if err := opaque(s, '!', "room"); err != nil {
		return "", err
	}
	return Room(s), nil
}

func ParseEvent(s string) (Event, error) {
	if err := opaque(s, '$', "event"); err != nil {
		return "", err
	}
	return Event(s), nil
}

func ParseServer(s string) (Server, error) {
	if !validServer(s) {
		return "", fmt.Errorf("%q is not a server name", s)
	}
	return Server(s), nil
}

func (u User) Localpart() string { l, _, _ := strings.Cut(string(u[min(1, len(u)):]), ":"); return l }
func (u User) Server() Server    { return serverOf(string(u)) }
func (a Alias) Localpart() string {
	l, _, _ := strings.Cut(string(a[min(1, len(a)):]), ":")
	return l
}
func (a Alias) Server() Server { return serverOf(string(a)) }

// Server is the part after the colon, empty for ids of room version 12 and later.
func (r Room) Server() Server { return serverOf(string(r)) }

// Server is the part after the colon, empty from room version 3 on.
func (e Event) Server() Server { return serverOf(string(e)) }

// Algorithm and Identifier are the two halves of a key id.
func (k Key) Algorithm() string  { a, _, _ := strings.Cut(string(k), ":"); return a }
func (k Key) Identifier() string { _, i, _ := strings.Cut(string(k), ":"); return i }

// Split cuts a valid server name into its host, without the brackets of an IPv6
// address, and its port, which may be empty.
func (s Server) Split() (host, port string) {
	if h, rest, ok := strings.Cut(string(s), "]"); ok {
		return strings.TrimPrefix(h, "["), strings.TrimPrefix(rest, ":")
	}
	host, port, _ = strings.Cut(string(s), ":")
	return host, port
}

// MakeUser joins a localpart and a server name.
func MakeUser(localpart string, server Server) User {
	return User("@" + localpart + ":" + string(server))
}

func (u *User) UnmarshalText(b []byte) (err error)   { *u, err = ParseUser(string(b)); return }
func (r *Room) UnmarshalText(b []byte) (err error)   { *r, err = ParseRoom(string(b)); return }
func (a *Alias) UnmarshalText(b []byte) (err error)  { *a, err = ParseAlias(string(b)); return }
func (e *Event) UnmarshalText(b []byte) (err error)  { *e, err = ParseEvent(string(b)); return }
func (s *Server) UnmarshalText(b []byte) (err error) { *s, err = ParseServer(string(b)); return }

// ValidLocalpart says whether a new user of ours may have this localpart.
// spec: appendices#user-identifiers
func ValidLocalpart(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case strings.IndexByte("._=/+-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

func split(s string, sigil byte, what string) (local, server string, err error) {
	if err := opaque(s, sigil, what); err != nil {
		return "", "", err
	}
	local, server, ok := strings.Cut(s[1:], ":")
	if !ok || !validServer(server) {
		return "", "", fmt.Errorf("%s id %q has no valid server name", what, s)
	}
	return local, server, nil
}

func opaque(s string, sigil byte, what string) error {
	switch {
	case len(s) < 2 || s[0] != sigil:
		return fmt.Errorf("%q is not a %s id: it must start with %c", s, what, sigil)
	case len(s) > MaxLength:
		return fmt.Errorf("%s id is longer than %d bytes", what, MaxLength)
	case !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0:
		return fmt.Errorf("%s id has characters that are not allowed", what)
	}
	return nil
}

func serverOf(s string) Server {
	_, server, _ := strings.Cut(s, ":")
	return Server(server)
}

// spec: appendices#server-name
func validServer(s string) bool {
	if s == "" || len(s) > MaxLength {
		return false
	}
	host, port := s, ""
	if s[0] == '[' {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return false
		}
		addr, err := netip.ParseAddr(s[1:end])
		if err != nil || !addr.Is6() || addr.Zone() != "" {
			return false
		}
		rest := s[end+1:]
		if rest == "" {
			return true
		}
		if rest[0] != ':' {
			return false
		}
		return validPort(rest[1:])
	}
	if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port = s[:i], s[i+1:]
		if !validPort(port) {
			return false
		}
	}
	if host == "" {
		return false
	}
	for i := range len(host) {
		c := host[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}

func validPort(s string) bool {
	if s == "" || len(s) > 5 {
		return false
	}
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}
