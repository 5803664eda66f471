package room

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/maypok86/otter/v2"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// CheckACL refuses a server that the room's access control list keeps out. Rooms
// that are not known here keep nobody out.
// spec: server-server-api#server-access-control-lists-acls
func (e *Engine) CheckACL(ctx context.Context, room id.Room, server id.Server) error {
	h, ok, err := e.Head(ctx, room)
	if err != nil || !ok {
		return err
	}
	return e.checkACL(ctx, h, server)
}

func (e *Engine) checkACL(ctx context.Context, h *Head, server id.Server) error {
	var pdu *event.PDU
	err := e.store.View(ctx, func(tx *store.Tx) error {
		ev, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: event.TypeServerACL})
		if ok {
			pdu = ev.PDU
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("read server ACL of %s: %w", h.ID, err)
	}
	if pdu == nil || e.acls.of(pdu).allows(server) {
		return nil
	}
	return errcode.Forbidden("your server is not allowed in this room")
}

// aclCache holds the compiled lists of the rooms in use.
type aclCache struct{ lists *otter.Cache[id.Event, *acl] }

// aclCacheBytes bounds it. A list weighs at most some three times what its event does.
const aclCacheBytes = 8 << 20

func newACLCache() aclCache {
	return aclCache{otter.Must(&otter.Options[id.Event, *acl]{
		MaximumWeight: aclCacheBytes,
		Weigher:       func(_ id.Event, a *acl) uint32 { return uint32(4096 + 3*len(a.event.JSON)) },
	})}
}

func (c aclCache) of(pdu *event.PDU) *acl {
	a, ok := c.lists.GetIfPresent(pdu.ID)
	if !ok || a.event != pdu { // a redaction leaves an event its id
		a = compileACL(pdu)
		c.lists.Set(pdu.ID, a)
	}
	return a
}

// acl is a compiled m.room.server_acl. What it decided of servers is remembered, so
// that a list made to be slow is slow once for each.
// spec: client-server-api#mroomserver_acl
type acl struct {
	event       *event.PDU
	noLiterals  bool // servers named by their IP address are kept out
	allow, deny globs

	mu      sync.Mutex
	decided map[string]bool
}

// maxDecided bounds what is remembered.
const maxDecided = 1000

func compileACL(pdu *event.PDU) *acl {
	return &acl{
		event:      pdu,
		noLiterals: string(pdu.ContentValue("allow_ip_literals")) == "false",
		allow:      compileGlobs(pdu.ContentValue("allow")),
		deny:       compileGlobs(pdu.ContentValue("deny")),
		decided:    map[string]bool{},
	}
}

func (a *acl) allows(server id.Server) bool {
	host := strings.ToLower(hostOf(server))
	a.mu.Lock()
	defer a.mu.Unlock()
	allowed, known := a.decided[host]
	if !known {
		if len(a.decided) >= maxDecided {
			clear(a.decided)
		}
		allowed = a.decide(host)
		a.decided[host] = allowed
	}
	return allowed
}

func (a *acl) decide(host string) bool {
	switch {
	case a.noLiterals && isLiteral(host):
		return false
	case a.deny.match(host):
		return false
	}
	return a.allow.match(host)
}

// hostOf is a server's name without the port.
func hostOf(server id.Server) string {
	s := string(server)
	if strings.HasPrefix(s, "[") {
		if end := strings.IndexByte(s, ']'); end > 0 {
			return s[:end+1]
		}
	}
	host, _, _ := strings.Cut(s, ":")
	return host
}

func isLiteral(host string) bool {
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil
}

// globs are patterns of names of servers or users, in lower case.
type globs struct {
	plain    map[string]bool // those without wildcards
	patterns []string
}

// compileGlobs reads a list of patterns. What is no string, or too long to be the
// name of a server, matches nothing.
func compileGlobs(list []byte) globs {
	if len(list) == 0 || list[0] != '[' {
		return globs{}
	}
	var patterns []string
	for c := canonical.Walk(list); c.Next(); {
		if p, ok := canonical.String(c.Value); ok {
			patterns = append(patterns, p)
		}
	}
	return globsOf(patterns)
}

func globsOf(patterns []string) globs {
	g := globs{plain: map[string]bool{}}
	for _, p := range patterns {
		p = squeeze(strings.ToLower(p))
		switch {
		case len(p)-strings.Count(p, "*") > id.MaxLength:
		case strings.ContainsAny(p, "*?"):
			g.patterns = append(g.patterns, p)
		default:
			g.plain[p] = true
		}
	}
	return g
}

// squeeze makes one star of several in a row.
func squeeze(p string) string {
	for strings.Contains(p, "**") {
		p = strings.ReplaceAll(p, "**", "*")
	}
	return p
}

func (g globs) match(name string) bool {
	if g.plain[name] {
		return true
	}
	for _, p := range g.patterns {
		if matchGlob(p, name) {
			return true
		}
	}
	return false
}

// matchGlob matches without recursion: where a piece after a star does not fit,
// only the last star takes one more character. That is at most the product of both
// lengths, each of which is bounded.
// spec: appendices#glob-style-matching
func matchGlob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}
