package pushrules

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// glob is a compiled glob-style pattern. Matching takes time linear in the text,
// whatever the pattern: patterns come from users, texts from anywhere.
// spec: appendices#glob-style-matching
type glob struct {
	segments []segment // what stands between the stars; one more than there are stars
}

// compileGlob takes the pattern as the user wrote it; texts must be folded.
func compileGlob(pattern string) glob {
	var g glob
	for part := range strings.SplitSeq(fold(pattern), "*") {
		g.segments = append(g.segments, compileSegment(part))
	}
	return g
}

// matches says whether the whole text matches.
func (g glob) matches(text string) bool {
	first, last := &g.segments[0], &g.segments[len(g.segments)-1]
	from, ok := first.prefix(text)
	if !ok {
		return false
	}
	if len(g.segments) == 1 {
		return from == len(text)
	}
	for i := 1; i < len(g.segments)-1; i++ {
		if from, ok = g.segments[i].find(text, from, anywhere); !ok {
			return false
		}
	}
	start, ok := last.suffix(text)
	return ok && start >= from
}

// matchesWords says whether some part of the text matches that starts and ends at
// a word boundary.
// spec: client-server-api#conditions-1 event_match
func (g glob) matchesWords(text string) bool {
	last := len(g.segments) - 1
	if last == 0 {
		_, ok := g.segments[0].find(text, 0, func(start, end int) bool {
			return boundaryBefore(text, start) && boundaryAfter(text, end)
		})
		return ok
	}
	// The leftmost place for each segment leaves most room for those after it.
	from, ok := g.segments[0].find(text, 0, func(start, _ int) bool { return boundaryBefore(text, start) })
	if !ok {
		return false
	}
	for i := 1; i < last; i++ {
		if from, ok = g.segments[i].find(text, from, anywhere); !ok {
			return false
		}
	}
	_, ok = g.segments[last].find(text, from, func(_, end int) bool { return boundaryAfter(text, end) })
	return ok
}

func anywhere(int, int) bool { return true }

func boundaryBefore(text string, at int) bool { return at == 0 || !isWord(text[at-1]) }
func boundaryAfter(text string, at int) bool  { return at == len(text) || !isWord(text[at]) }

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

// segment is a part of a pattern without stars: literal text, or text with question marks.
type segment struct {
	literal string
	failure []int     // of Knuth, Morris and Pratt, for a literal longer than one byte
	wild    *wildcard // set instead of literal if there are question marks
}

func compileSegment(text string) segment {
	if strings.IndexByte(text, '?') >= 0 {
		return segment{wild: compileWildcard(text)}
	}
	return segment{literal: text, failure: failures(text)}
}

// prefix says where the segment ends if the text starts with it.
func (s *segment) prefix(text string) (end int, ok bool) {
	if s.wild == nil {
		return len(s.literal), strings.HasPrefix(text, s.literal)
	}
	for _, want := range s.wild.runes {
		r, size := utf8.DecodeRuneInString(text[end:])
		if size == 0 || want != '?' && want != r {
			return 0, false
		}
		end += size
	}
	return end, true
}

// suffix says where the segment starts if the text ends with it.
func (s *segment) suffix(text string) (start int, ok bool) {
	if s.wild == nil {
		return len(text) - len(s.literal), strings.HasSuffix(text, s.literal)
	}
	start = len(text)
	for i := len(s.wild.runes) - 1; i >= 0; i-- {
		r, size := utf8.DecodeLastRuneInString(text[:start])
		if want := s.wild.runes[i]; size == 0 || want != '?' && want != r {
			return 0, false
		}
		start -= size
	}
	return start, true
}

// find returns the end of the leftmost occurrence at or after from that accept takes.
func (s *segment) find(text string, from int, accept func(start, end int) bool) (end int, ok bool) {
	switch {
	case s.wild != nil:
		return s.wild.find(text, from, accept)
	case s.literal == "":
		for at := from; at <= len(text); at++ {
			if accept(at, at) {
				return at, true
			}
		}
		return 0, false
	default:
		return findLiteral(text, from, s.literal, s.failure, accept)
	}
}

// findLiteral is the search of Knuth, Morris and Pratt: occurrences that are not
// accepted and overlap cost nothing extra. The library's search, much faster,
// skips to the first one.
func findLiteral(text string, from int, literal string, failure []int, accept func(start, end int) bool) (int, bool) {
	first := strings.Index(text[from:], literal)
	if first < 0 {
		return 0, false
	}
	matched := 0
	for i := from + first; i < len(text); i++ {
		for matched > 0 && literal[matched] != text[i] {
			matched = failure[matched-1]
		}
		if literal[matched] == text[i] {
			matched++
		}
		if matched == len(literal) {
			if accept(i+1-matched, i+1) {
				return i + 1, true
			}
			matched = failure[matched-1]
		}
	}
	return 0, false
}

// failures gives for each prefix of s the length of its longest proper border.
func failures(s string) []int {
	f := make([]int, len(s))
	for i, border := 1, 0; i < len(s); i++ {
		for border > 0 && s[border] != s[i] {
			border = f[border-1]
		}
		if s[border] == s[i] {
			border++
		}
		f[i] = border
	}
	return f
}

// wildcard finds text with question marks by the bit-parallel shift-and method:
// bit i of the state is set while the last i+1 characters match the first i+1 of
// the pattern.
type wildcard struct {
	runes []rune
	masks map[rune][]uint64 // bits of the places where a character may stand
	any   []uint64          // bits of the question marks alone
}

func compileWildcard(text string) *wildcard {
	w := &wildcard{runes: []rune(text), masks: map[rune][]uint64{}}
	words := (len(w.runes) + 63) / 64
	w.any = make([]uint64, words)
	for i, r := range w.runes {
		if r == '?' {
			w.any[i/64] |= 1 << (i % 64)
		}
	}
	for i, r := range w.runes {
		if r == '?' {
			continue
		}
		if w.masks[r] == nil {
			w.masks[r] = append([]uint64(nil), w.any...)
		}
		w.masks[r][i/64] |= 1 << (i % 64)
	}
	return w
}

func (w *wildcard) find(text string, from int, accept func(start, end int) bool) (int, bool) {
	state := make([]uint64, len(w.any))
	starts := make([]int, len(w.runes)) // a ring: where the latest characters begin
	last := len(w.runes) - 1
	for n, end := 0, from; end < len(text); n++ {
		r, size := utf8.DecodeRuneInString(text[end:])
		starts[n%len(starts)] = end
		end += size
		mask, ok := w.masks[r]
		if !ok {
			mask = w.any
		}
		carry := uint64(1)
		for i := range state {
			next := state[i] >> 63
			state[i] = (state[i]<<1 | carry) & mask[i]
			carry = next
		}
		if state[last/64]>>(last%64)&1 == 1 && accept(starts[(n+1)%len(starts)], end) {
			return end, true
		}
	}
	return 0, false
}

// fold makes texts comparable without regard to case. Characters outside ASCII
// never fold into it, since that would move word boundaries.
func fold(s string) string {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf || c >= 'A' && c <= 'Z' {
			return strings.Map(foldRune, s)
		}
	}
	return s
}

func foldRune(r rune) rune {
	if lower := unicode.ToLower(r); lower >= utf8.RuneSelf || r < utf8.RuneSelf {
		return lower
	}
	return r
}
