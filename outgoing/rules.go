package outgoing

import (
	"fmt"
	"net/netip"
	"strings"
)

// Rules say to which addresses connections may be made. The zero value permits all.
type Rules struct {
	Deny  []netip.Prefix
	Allow []netip.Prefix // exceptions from Deny
}

// Private are the addresses that outsiders must not make a server reach: of
// this machine, of local networks and of no machine at all. They are Synapse's
// default for ip_range_blacklist, and a few more of the IANA registries.
var Private = mustPrefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
	"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4",
	"::/128", "::1/128", "100::/64", "2001:db8::/32", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

// ParsePrefixes reads address ranges as an operator writes them: 10.0.0.0/8, or one address.
func ParsePrefixes(list []string) ([]netip.Prefix, error) {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		s = strings.TrimSpace(s)
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
			continue
		}
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%q is neither an address nor a range such as 10.0.0.0/8", s)
		}
		out = append(out, netip.PrefixFrom(a, a.BitLen()))
	}
	return out, nil
}

func mustPrefixes(list ...string) []netip.Prefix {
	out, err := ParsePrefixes(list)
	if err != nil {
		panic(err)
	}
	return out
}

// Permits says whether a connection to an address may be made. An IPv6 address
// that only wraps an IPv4 one is judged by what it leads to.
func (rl Rules) Permits(a netip.Addr) bool {
	a = a.WithZone("").Unmap()
	if within(rl.Allow, a) {
		return true
	}
	if within(rl.Deny, a) {
		return false
	}
	if inner, ok := wrapped(a); ok {
		return rl.Permits(inner)
	}
	return true
}

func within(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48")
	compatible = netip.MustParsePrefix("::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// wrapped is the IPv4 address that an IPv6 one is translated or tunnelled to.
func wrapped(a netip.Addr) (netip.Addr, bool) {
	b := a.As16()
	switch {
	case !a.Is6():
	case nat64.Contains(a), localNAT64.Contains(a), compatible.Contains(a):
		return netip.AddrFrom4([4]byte(b[12:16])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(a):
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	return netip.Addr{}, false
}
