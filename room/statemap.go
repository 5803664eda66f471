package room

import (
	"slices"

	"hearth/store"
)

// StateMap is the state of a room: state key to event. It is immutable; Set
// returns a new one that shares all pages but one, so a change in a room of
// 50,000 members copies some kilobytes, and old states cost next to nothing.
type StateMap struct {
	pages []*page // in order of keys, none empty
	n     int
}

type page []store.StateEntry // in order of keys

// pageSize is the number of entries above which a page is split.
const pageSize = 256

// newStateMap takes entries in order of keys.
func newStateMap(entries []store.StateEntry) *StateMap {
	m := &StateMap{n: len(entries)}
	for chunk := range slices.Chunk(entries, pageSize/2) {
		p := page(slices.Clone(chunk))
		m.pages = append(m.pages, &p)
	}
	return m
}

// Len is the number of entries.
func (m *StateMap) Len() int { return m.n }

// Get finds a key's event.
func (m *StateMap) Get(key store.StateKey) (store.EventNID, bool) {
	if p := m.pageOf(key); p >= 0 {
		if i, ok := find(*m.pages[p], key); ok {
			return (*m.pages[p])[i].Event, true
		}
	}
	return 0, false
}

// All calls fn for each entry in order of keys until it returns false.
func (m *StateMap) All(fn func(store.StateKey, store.EventNID) bool) {
	for _, p := range m.pages {
		for _, e := range *p {
			if !fn(e.Key, e.Event) {
				return
			}
		}
	}
}

// Set returns the map with a key changed or added.
func (m *StateMap) Set(key store.StateKey, event store.EventNID) *StateMap {
	entry := store.StateEntry{Key: key, Event: event}
	if len(m.pages) == 0 {
		return &StateMap{pages: []*page{{entry}}, n: 1}
	}
	at := max(0, m.pageOf(key))
	old := *m.pages[at]
	i, found := find(old, key)
	if found && old[i] == entry {
		return m
	}
	c := &StateMap{pages: slices.Clone(m.pages), n: m.n}
	if found {
		fresh := slices.Clone(old)
		fresh[i] = entry
		c.pages[at] = &fresh
		return c
	}
	c.n++
	fresh := make(page, 0, len(old)+1)
	fresh = append(append(append(fresh, old[:i]...), entry), old[i:]...)
	if len(fresh) <= pageSize {
		c.pages[at] = &fresh
		return c
	}
	left, right := fresh[:len(fresh)/2:len(fresh)/2], fresh[len(fresh)/2:]
	c.pages[at] = &left
	c.pages = slices.Insert(c.pages, at+1, &right)
	return c
}

// Without returns the map without a key.
func (m *StateMap) Without(key store.StateKey) *StateMap {
	at := m.pageOf(key)
	if at < 0 {
		return m
	}
	old := *m.pages[at]
	i, found := find(old, key)
	if !found {
		return m
	}
	c := &StateMap{pages: slices.Clone(m.pages), n: m.n - 1}
	if len(old) == 1 {
		c.pages = slices.Delete(c.pages, at, at+1)
		return c
	}
	fresh := slices.Delete(slices.Clone(old), i, i+1)
	c.pages[at] = &fresh
	return c
}

// With returns the map with some entries changed; event 0 takes one away.
func (m *StateMap) With(changes []store.StateEntry) *StateMap {
	for _, c := range changes {
		if c.Event == 0 {
			m = m.Without(c.Key)
		} else {
			m = m.Set(c.Key, c.Event)
		}
	}
	return m
}

// Diff lists the entries of other that this map has not, or has differently;
// event 0: other has no such entry. Pages that both share are not looked at.
func (m *StateMap) Diff(other *StateMap) (changes []store.StateEntry) {
	if m == other {
		return nil
	}
	a, b := cursor{pages: m.pages}, cursor{pages: other.pages}
	for {
		a.skipShared(&b)
		x, moreA := a.entry()
		y, moreB := b.entry()
		switch {
		case !moreA && !moreB:
			return changes
		case !moreB || moreA && x.Key < y.Key:
			changes = append(changes, store.StateEntry{Key: x.Key})
			a.next()
		case !moreA || y.Key < x.Key:
			changes = append(changes, y)
			b.next()
		default:
			if x.Event != y.Event {
				changes = append(changes, y)
			}
			a.next()
			b.next()
		}
	}
}

// cursor walks over the entries of a map.
type cursor struct {
	pages []*page
	i     int
}

func (c *cursor) entry() (store.StateEntry, bool) {
	if len(c.pages) == 0 {
		return store.StateEntry{}, false
	}
	return (*c.pages[0])[c.i], true
}

func (c *cursor) next() {
	if c.i++; c.i == len(*c.pages[0]) {
		c.pages, c.i = c.pages[1:], 0
	}
}

// skipShared moves both on while they are at the start of one and the same page.
func (c *cursor) skipShared(o *cursor) {
	for c.i == 0 && o.i == 0 && len(c.pages) > 0 && len(o.pages) > 0 && c.pages[0] == o.pages[0] {
		c.pages, o.pages = c.pages[1:], o.pages[1:]
	}
}

// pageOf is the last page whose first key is not above key; -1: key is below all.
func (m *StateMap) pageOf(key store.StateKey) int {
	i, found := slices.BinarySearchFunc(m.pages, key, func(p *page, k store.StateKey) int {
		return compareKeys((*p)[0].Key, k)
	})
	if found {
		return i
	}
	return i - 1
}

func find(p page, key store.StateKey) (int, bool) {
	return slices.BinarySearchFunc(p, key, func(e store.StateEntry, k store.StateKey) int { return compareKeys(e.Key, k) })
}

func compareKeys(a, b store.StateKey) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
