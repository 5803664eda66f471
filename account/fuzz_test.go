package account

import (
	"strings"
	"testing"
)

// A hash that was accepted asks for no more memory or time than we allow.
func FuzzParseHash(f *testing.F) {
	for _, seed := range []string{"", "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "$2b$12$abc", "$argon2id$v=19$m=-1,t=1,p=256$$"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseHash(s)
		if err == nil && (p.memory == 0 || p.memory > maxHashKiB || p.time == 0 || p.time > maxHashTime || p.threads == 0 || len(p.key) < 16) {
			t.Errorf("%q: %+v", s, p)
		}
	})
}

// Readings of a phone number are digits, few and not empty.
func FuzzPhoneNumbers(f *testing.F) {
	f.Add("GB", "07700 900123")
	f.Add("US", "+1 202 555 0123")
	f.Add("RU", "8")
	f.Add("", "00")
	f.Add("AC", "00")
	f.Fuzz(func(t *testing.T, country, phone string) {
		list := msisdns(country, phone)
		if len(list) > 3 {
			t.Errorf("%q %q: %v", country, phone, list)
		}
		for _, n := range list {
			if n == "" || strings.Trim(n, "0123456789") != "" {
				t.Errorf("%q %q: %v", country, phone, list)
			}
		}
	})
}
