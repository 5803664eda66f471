package config

import (
	"fmt"
	"math"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is written as in Synapse's file: 10s, 10m, 1h, 1d, 1w, 1y, or a
// number of milliseconds.
type Duration time.Duration

// Size is written as in Synapse's file: 512K, 50M, 1G, or a number.
type Size int64

// IPRange is a range of addresses such as 10.0.0.0/8, or one address.
type IPRange struct{ netip.Prefix }

func (r *IPRange) UnmarshalText(b []byte) (err error) {
	if r.Prefix, err = netip.ParsePrefix(string(b)); err == nil {
		r.Prefix = r.Masked()
		return nil
	}
	a, err := netip.ParseAddr(string(b))
	if err != nil {
		return fmt.Errorf("%q is neither an address nor a range such as 10.0.0.0/8", b)
	}
	r.Prefix = netip.PrefixFrom(a, a.BitLen())
	return nil
}

// Rate is a rate limit.
type Rate struct {
	PerSecond float64 `yaml:"per_second" doc:"How many a second in the long run."`
	Burst     int     `yaml:"burst_count" doc:"How many at once; 0 switches the limit off."`
}

// Pattern is a regular expression in the syntax of RE2.
type Pattern struct{ *regexp.Regexp }

func (p *Pattern) UnmarshalText(b []byte) (err error) {
	if p.Regexp, err = regexp.Compile(string(b)); err != nil {
		return fmt.Errorf("%q is not a regular expression in the syntax of RE2: %w", b, err)
	}
	return nil
}

var durationUnits = map[byte]time.Duration{
	's': time.Second, 'm': time.Minute, 'h': time.Hour,
	'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour, 'y': 365 * 24 * time.Hour,
}

var sizeUnits = map[byte]int64{'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}

func parseDuration(v any) (Duration, error) {
	if n, ok := integer(v); ok && n >= 0 && n <= math.MaxInt64/int64(time.Millisecond) {
		return Duration(n) * Duration(time.Millisecond), nil
	}
	if s, ok := v.(string); ok && s != "" {
		if unit, ok := durationUnits[s[len(s)-1]]; ok {
			if n, err := strconv.ParseInt(s[:len(s)-1], 10, 64); err == nil && n >= 0 && n <= math.MaxInt64/int64(unit) {
				return Duration(n) * Duration(unit), nil
			}
		}
	}
	return 0, fmt.Errorf("%s is not a duration; write 30s, 10m, 1h, 1d, 1w, 1y or milliseconds", show(v))
}

func parseSize(v any) (Size, error) {
	if n, ok := integer(v); ok && n >= 0 {
		return Size(n), nil
	}
	if s, ok := v.(string); ok {
		s = strings.ToUpper(strings.TrimSpace(s))
		digits := strings.TrimRight(s, "KMGTIB")
		factor := int64(1)
		if unit := s[len(digits):]; unit != "" {
			known := sizeUnits[unit[0]]
			if known == 0 || (unit[1:] != "" && unit[1:] != "B" && unit[1:] != "IB") {
				known = 0
			}
			factor = known
		}
		if n, err := strconv.ParseInt(digits, 10, 64); err == nil && factor > 0 && n >= 0 && n <= math.MaxInt64/factor {
			return Size(n * factor), nil
		}
	}
	return 0, fmt.Errorf("%s is not a size; write 512K, 50M, 1G or a number", show(v))
}

// String writes the duration with the largest unit that fits.
func (d Duration) String() string {
	for _, unit := range []byte("ywdhms") {
		if u := Duration(durationUnits[unit]); d != 0 && d%u == 0 {
			return strconv.FormatInt(int64(d/u), 10) + string(unit)
		}
	}
	return strconv.FormatInt(int64(d)/int64(time.Millisecond), 10)
}

func (s Size) String() string {
	for _, unit := range []byte("TGMK") {
		if u := Size(sizeUnits[unit]); s != 0 && s%u == 0 {
			return strconv.FormatInt(int64(s/u), 10) + string(unit)
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// integer takes the number types that the YAML reader makes.
func integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case uint64:
		return int64(n), n <= math.MaxInt64
	case int:
		return int64(n), true
	case float64:
		return int64(n), n == math.Trunc(n) && math.Abs(n) < 1<<53
	}
	return 0, false
}

func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "nothing"
	case string:
		return strconv.Quote(v)
	case map[string]any:
		return "a group of keys"
	case []any:
		return "a list"
	}
	return fmt.Sprint(v)
}
