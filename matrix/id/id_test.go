package id_test

import (
	"strings"
	"testing"

	"hearth/matrix/id"
)

// spec: appendices#server-name
func TestParseServer(t *testing.T) {
	for _, s := range []string{
		"matrix.org", "matrix.org:8888", "1.2.3.4", "1.2.3.4:1234", "[1234:5678::abcd]", "[1234:5678::abcd]:5678", "[::1]:1", "[::ffff:1.2.3.4]",
		"localhost", "EXAMPLE.org", "a-b.c:1", "x.org:65535", strings.Repeat("a", 255),
	} {
		if got, err := id.ParseServer(s); err != nil || got != id.Server(s) {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{
		"", ":", ":8448", "x.org:", "x.org:0", "x.org:65536", "x.org:123456", "x.org:-1", "x.org:+1", "x.org:1a", "x.org:1:2", "x_y.org", "x y", "x/y", "ü.org",
		"[", "[]", "[::1", "[::1]x", "[::1]:", "[1.2.3.4]", "[fe80::1%eth0]", "::1", "x.org\n", "@x.org", strings.Repeat("a", 256),
	} {
		if got, err := id.ParseServer(s); err == nil {
			t.Errorf("%q was accepted as %q", s, got)
		}
	}
}

// spec: appendices#user-identifiers, appendices#historical-user-ids
func TestParseUser(t *testing.T) {
	for _, tt := range []struct{ in, localpart, server string }{
		{"@alice:example.org", "alice", "example.org"},
		{"@alice:example.org:8448", "alice", "example.org:8448"},
		{"@alice:[::1]:8448", "alice", "[::1]:8448"},
		{"@Alice Smith!:example.org", "Alice Smith!", "example.org"},
		{"@ünï\u0001:example.org", "ünï\u0001", "example.org"},
		{"@:example.org", "", "example.org"},
		{"@" + strings.Repeat("x", 242) + ":example.org", strings.Repeat("x", 242), "example.org"},
	} {
		u, err := id.ParseUser(tt.in)
		if err != nil || u.Localpart() != tt.localpart || string(u.Server()) != tt.server {
			t.Errorf("%q: %q at %q, %v", tt.in, u.Localpart(), u.Server(), err)
		}
		if id.MakeUser(tt.localpart, id.Server(tt.server)) != u {
			t.Errorf("%q is not put together again", tt.in)
		}
	}
	for _, s := range []string{
		"", "@", "@alice", "@alice:", "alice:example.org", "#alice:example.org", "@alice:bad host", "@al\x00ice:example.org", "@\xff:example.org",
		"@" + strings.Repeat("x", 243) + ":example.org", "@" + strings.Repeat("é", 122) + ":example.org",
	} {
		if u, err := id.ParseUser(s); err == nil {
			t.Errorf("%q was accepted as %q", s, u)
		}
	}
}

// spec: appendices#room-ids, appendices#event-ids, appendices#room-aliases
func TestParseRoomEventAlias(t *testing.T) {
	for _, s := range []string{"!opaque:example.org", "!Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", "!a b:example.org"} {
		if _, err := id.ParseRoom(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "!", "opaque:example.org", "#x:y", "!\x00", "!\xff", "!" + strings.Repeat("x", 255)} {
		if _, err := id.ParseRoom(s); err == nil {
			t.Errorf("room id %q was accepted", s)
		}
	}
	for _, s := range []string{"$opaque:example.org", "$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg", "$acR1l0raoZnm60CBwAVgqbZqoO/mYU81xysh1u7XcJk"} {
		if _, err := id.ParseEvent(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "$", "x", "!x:y", "$\xff", "$" + strings.Repeat("x", 255)} {
		if _, err := id.ParseEvent(s); err == nil {
			t.Errorf("event id %q was accepted", s)
		}
	}
	for _, s := range []string{"#room:example.org", "#ünï code:example.org:1", "#:example.org"} {
		if _, err := id.ParseAlias(s); err != nil {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{"", "#", "#room", "#room:", "@room:example.org", "#\x00:example.org", "#" + strings.Repeat("x", 243) + ":example.org"} {
		if _, err := id.ParseAlias(s); err == nil {
			t.Errorf("alias %q was accepted", s)
		}
	}
}

func TestServerPart(t *testing.T) {
	for _, tt := range []struct {
		got  id.Server
		want id.Server
	}{
		{id.Room("!x:example.org:80").Server(), "example.org:80"},
		{id.Room("!hash").Server(), ""},
		{id.Event("$x:example.org").Server(), "example.org"},
		{id.Event("$hash").Server(), ""},
		{id.Alias("#x:[::1]").Server(), "[::1]"},
		{id.User("").Server(), ""},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
	if l := id.Alias("#x:y").Localpart(); l != "x" {
		t.Errorf("the alias has localpart %q", l)
	}
	if l := id.User("").Localpart() + id.Alias("").Localpart(); l != "" {
		t.Errorf("nothing has localpart %q", l)
	}
	if k := id.Key("ed25519:a_1"); k.Algorithm() != "ed25519" || k.Identifier() != "a_1" {
		t.Errorf("key %s: %s, %s", k, k.Algorithm(), k.Identifier())
	}
}

func TestValidLocalpart(t *testing.T) {
	for s, want := range map[string]bool{
		"alice": true, "a.b_c=d-e/f+9": true, "": false, "Alice": false, "a b": false, "é": false, "a:b": false, "a@b": false, "a\x00": false,
	} {
		if got := id.ValidLocalpart(s); got != want {
			t.Errorf("%q: %t", s, got)
		}
	}
}

func TestUnmarshalText(t *testing.T) {
	var (
		u id.User
		r id.Room
		a id.Alias
		e id.Event
		s id.Server
	)
	for _, tt := range []struct {
		v         interface{ UnmarshalText([]byte) error }
		good, bad string
	}{
		{&u, "@alice:example.org", "alice"}, {&r, "!x", "x"}, {&a, "#x:example.org", "x"}, {&e, "$x", "x"}, {&s, "example.org", "x y"},
	} {
		if err := tt.v.UnmarshalText([]byte(tt.good)); err != nil {
			t.Errorf("%s: %v", tt.good, err)
		}
		if err := tt.v.UnmarshalText([]byte(tt.bad)); err == nil {
			t.Errorf("%s was accepted", tt.bad)
		}
	}
}

func FuzzIDs(f *testing.F) {
	for _, s := range []string{"@alice:example.org", "!x:[::1]:80", "#x:y", "$hash", "example.org:8448", "[::", "@:", "[::1%x]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if u, err := id.ParseUser(s); err == nil {
			if id.MakeUser(u.Localpart(), u.Server()) != u {
				t.Errorf("%q has parts %q and %q", u, u.Localpart(), u.Server())
			}
			if _, err := id.ParseServer(string(u.Server())); err != nil {
				t.Errorf("%q: %v", u, err)
			}
		}
		if r, err := id.ParseRoom(s); err == nil && len(r) > id.MaxLength {
			t.Errorf("%q is too long", r)
		}
		_, _ = id.ParseEvent(s)
		_, _ = id.ParseAlias(s)
	})
}
