package filter

import "strings"

// choice is a list of what is included and one of what is excluded, which wins.
// The zero choice allows all.
type choice[T comparable] struct {
	only map[T]bool // nil: all
	not  map[T]bool
}

func newChoice[T comparable](only, not []T) choice[T] {
	return choice[T]{set(only), set(not)}
}

// set keeps the difference between a list that is absent and one that is empty.
func set[T comparable](list []T) map[T]bool {
	if list == nil {
		return nil
	}
	s := make(map[T]bool, len(list))
	for _, v := range list {
		s[v] = true
	}
	return s
}

func (c choice[T]) allows(v T) bool {
	return (c.only == nil || c.only[v]) && !c.not[v]
}

// typeChoice is a choice of event types, where a star stands for any characters.
type typeChoice struct {
	only, not typeSet
}

func newTypeChoice(only, not []string) typeChoice {
	return typeChoice{newTypeSet(only), newTypeSet(not)}
}

func (c typeChoice) allows(typ string) bool {
	return (c.only.exact == nil || c.only.has(typ)) && !c.not.has(typ)
}

type typeSet struct {
	exact    map[string]bool // nil: the list is absent
	patterns [][]string      // what stands between the stars
}

func newTypeSet(types []string) typeSet {
	if types == nil {
		return typeSet{}
	}
	s := typeSet{exact: map[string]bool{}}
	for _, t := range types {
		if strings.IndexByte(t, '*') >= 0 {
			s.patterns = append(s.patterns, strings.Split(t, "*"))
		} else {
			s.exact[t] = true
		}
	}
	return s
}

func (s typeSet) has(typ string) bool {
	if s.exact[typ] {
		return true
	}
	for _, p := range s.patterns {
		if matchStars(p, typ) {
			return true
		}
	}
	return false
}

// matchStars matches the parts of a pattern between its stars in linear time: the
// leftmost place for each part leaves most room for the rest.
func matchStars(parts []string, text string) bool {
	first, last := parts[0], parts[len(parts)-1]
	text, ok := strings.CutPrefix(text, first)
	if !ok {
		return false
	}
	for _, part := range parts[1 : len(parts)-1] {
		_, rest, found := strings.Cut(text, part)
		if !found {
			return false
		}
		text = rest
	}
	return strings.HasSuffix(text, last)
}
