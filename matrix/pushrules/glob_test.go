package pushrules

import (
	"strings"
	"testing"
)

func TestGlobMatchesWholeValues(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"lunc?*", []string{"Lunch plans", "LUNCH"}, []string{" lunch", "lunc", ""}},
		{"m.room.member", []string{"m.room.member"}, []string{"m.room.members", "mxroom.member", ""}},
		{"", []string{""}, []string{"a"}},
		{"*", []string{"", "a", "日本"}, nil},
		{"**", []string{"", "a"}, nil},
		{"?", []string{"a", "é", "日"}, []string{"", "ab"}},
		{"*?", []string{"a", "ab"}, []string{""}},
		{"a*b*c", []string{"abc", "aXbXc", "abbcc"}, []string{"acb", "ab", "bc"}},
		{"a*a", []string{"aa", "aba"}, []string{"a"}},
		{"ab*ba", []string{"abba", "ab-ba"}, []string{"aba"}},
		{"*a?c*", []string{"abc", "xxaYcxx", "aabc", "a日c"}, []string{"ac", "abbc"}},
		{"É*", []string{"école", "ÉCOLE"}, []string{"ecole"}},
		{"!a:*.example.org", []string{"!a:x.example.org"}, []string{"!a:example.org"}},
	}
	for _, test := range tests {
		g := compileGlob(test.pattern)
		for _, s := range test.yes {
			if !g.matches(fold(s)) {
				t.Errorf("%q does not match %q", test.pattern, s)
			}
		}
		for _, s := range test.no {
			if g.matches(fold(s)) {
				t.Errorf("%q matches %q", test.pattern, s)
			}
		}
	}
}

func TestGlobMatchesWordsOfTheBody(t *testing.T) {
	tests := []struct {
		pattern string
		yes, no []string
	}{
		{"ex*ple", []string{"An example event.", "exple", "An exciting triple-whammy"}, []string{"An exampled event", "texple"}},
		{"cake", []string{"cake", "Cake!", "(CAKE)", "cheesecake cake", "日cake本"}, []string{"cakes", "cheesecake", "cake_", "cake1", ""}},
		{"cake*lie", []string{"the cake is a lie", "cakelie"}, []string{"the cake is a lier"}},
		{"@room", []string{"@room", "hi @room!", "hi,@room"}, []string{"x@room", "@rooms"}},
		{"?a", []string{"ba", "x ba y", " a b", "-a"}, []string{"a", "bba"}},
		{"a-a", []string{"a-a-ab", "xa-a-a"}, []string{"a-ab", "xa-a"}},
		{"a?a", []string{"a-a-ab", "xa-a-a", "aba"}, []string{"a-ab", "xaxa"}},
		{"foo*", []string{"foo", "foobar"}, []string{"afoo"}},
		{"*foo", []string{"foo", "barfoo"}, []string{"fooa"}},
		{"*", []string{"", "x"}, nil},
		{"", []string{"", "-"}, []string{"x"}},
		{"naïve", []string{"so NAÏVE."}, []string{"naive"}},
	}
	for _, test := range tests {
		g := compileGlob(test.pattern)
		for _, s := range test.yes {
			if !g.matchesWords(fold(s)) {
				t.Errorf("%q does not match in %q", test.pattern, s)
			}
		}
		for _, s := range test.no {
			if g.matchesWords(fold(s)) {
				t.Errorf("%q matches in %q", test.pattern, s)
			}
		}
	}
}

// plainMatch is the definition of a glob, as slow as it is simple.
func plainMatch(pattern, text []rune) bool {
	fits := make([]bool, len(text)+1)
	fits[0] = true
	for _, p := range pattern {
		next := make([]bool, len(text)+1)
		for i := range next {
			switch {
			case p == '*':
				next[i] = fits[i] || i > 0 && next[i-1]
			case i > 0 && (p == '?' || p == text[i-1]):
				next[i] = fits[i-1]
			}
		}
		fits = next
	}
	return fits[len(text)]
}

func plainMatchWords(pattern []rune, text string) bool {
	for start := range len(text) + 1 {
		for end := start; end <= len(text); end++ {
			if boundaryBefore(text, start) && boundaryAfter(text, end) && strings.ToValidUTF8(text[start:end], "") == text[start:end] &&
				plainMatch(pattern, []rune(text[start:end])) {
				return true
			}
		}
	}
	return false
}

func FuzzGlob(f *testing.F) {
	for _, seed := range [][2]string{
		{"ex*ple", "An exciting triple-whammy"}, {"a?a*b", "aba ab"}, {"a-a", "a-a-ab"}, {"*?é", "日é é"},
		{"?", " "}, {"a?", "a-a-b"}, {"a*?b", "a b b"}, {strings.Repeat("?", 70), strings.Repeat("x", 70)},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, text string) {
		pattern, text = strings.ToValidUTF8(pattern, ""), strings.ToValidUTF8(text, "")
		if len(pattern) > 100 || len(text) > 60 {
			return
		}
		g, p := compileGlob(pattern), []rune(fold(pattern))
		text = fold(text)
		if got, want := g.matches(text), plainMatch(p, []rune(text)); got != want {
			t.Errorf("%q matches %q: %v, want %v", pattern, text, got, want)
		}
		if got, want := g.matchesWords(text), plainMatchWords(p, text); got != want {
			t.Errorf("%q matches words of %q: %v, want %v", pattern, text, got, want)
		}
	})
}

// The worst patterns for the longest body must stay cheap per byte.
func BenchmarkGlobHostile(b *testing.B) {
	body := strings.Repeat("a-", 32<<10)
	for name, pattern := range map[string]string{
		"stars":    strings.Repeat("a*", 500) + "b",
		"periodic": strings.Repeat("a-", 500) + "b",
		"overlap":  "-" + strings.Repeat("a-", 500),
		"wild":     strings.Repeat("a?", 500) + "b",
	} {
		g := compileGlob(pattern)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				g.matchesWords(body)
			}
		})
	}
}
