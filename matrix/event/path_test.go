package event

import (
	"slices"
	"testing"
)

func TestPropertyPath(t *testing.T) {
	for path, want := range map[string][]string{
		`type`:                            {"type"},
		`content.body`:                    {"content", "body"},
		`content.m\.relates_to.rel_type`:  {"content", "m.relates_to", "rel_type"},
		`content.m\\foo`:                  {"content", `m\foo`},
		`content.m\x`:                     {"content", `m\x`},
		`content.`:                        {"content", ""},
		`content.m\.`:                     {"content", "m."},
		`content\`:                        {`content\`},
		``:                                {""},
		`content.m\\.user`:                {"content", `m\`, "user"},
		`content.org\.example\.a\\b.c\.d`: {"content", `org.example.a\b`, "c.d"},
	} {
		if got := PropertyPath(path); !slices.Equal(got, want) {
			t.Errorf("PropertyPath(%q) = %q, want %q", path, got, want)
		}
	}
}
