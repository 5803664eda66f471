package push

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"

	"hearth/matrix/id"
	"hearth/store"
)

// place is a room of a user.
type place struct {
	user store.UserNID
	room store.RoomNID
}

// tally is what a user has been notified about in a room and has not read. A tally
// that is in the cache does not change; counting goes on with a copy.
type tally struct {
	joined  int64  // position of the join with which it began
	upTo    int64  // events up to this position are counted
	ignored uint64 // digest of whom the user ignored
	unsaved int    // events that were evaluated since it was stored
	threads map[id.Event][]mark
}

// mark is one event that notified: its position, and whether as a highlight.
type mark int64

func markOf(position int64, highlight bool) mark {
	m := mark(position << 1)
	if highlight {
		m |= 1
	}
	return m
}

func (m mark) position() int64 { return int64(m >> 1) }
func (m mark) highlight() bool { return m&1 == 1 }

func (t *tally) weight() uint32 {
	n := 200
	for thread, marks := range t.threads {
		n += 100 + len(thread) + 8*cap(marks)
	}
	return uint32(n)
}

// reading is how far a user has read a room, by their receipts.
type reading struct {
	all     int64 // everything up to here
	threads map[id.Event]int64
}

func (r *reading) of(thread id.Event) int64 { return max(r.all, r.threads[thread]) }

// without is the tally less what is read.
func (t *tally) without(r *reading) *tally {
	c := *t
	c.threads = make(map[id.Event][]mark, len(t.threads))
	for thread, marks := range t.threads {
		if left := marks[firstAfter(marks, r.of(thread)):]; len(left) > 0 {
			c.threads[thread] = slices.Clip(left) // so that to append makes a copy
		}
	}
	return &c
}

// firstAfter is the index of the first mark after a position.
func firstAfter(marks []mark, position int64) int {
	i, _ := slices.BinarySearch(marks, mark(position<<1|1)+1)
	return i
}

// add counts an event; positions must grow within a thread.
func (t *tally) add(thread id.Event, m mark) { t.threads[thread] = append(t.threads[thread], m) }

// clear makes a thread read as a whole.
func (t *tally) clear(thread id.Event) { delete(t.threads, thread) }

// remove takes one event back.
func (t *tally) remove(position int64) {
	for thread, marks := range t.threads {
		if i := firstAfter(marks, position-1); i < len(marks) && marks[i].position() == position {
			if marks = slices.Delete(slices.Clone(marks), i, i+1); len(marks) > 0 {
				t.threads[thread] = marks
			} else {
				delete(t.threads, thread)
			}
			return
		}
	}
}

// Count is a number of notifications.
type Count struct{ Notify, Highlight int }

// Counts are the unread notifications of a room: those of the main timeline and
// those of its threads, by their roots. Threads without any are left out.
type Counts struct {
	Main    Count
	Threads map[id.Event]Count
}

// Total is for those who do not ask for threads.
func (c Counts) Total() Count {
	sum := c.Main
	for _, t := range c.Threads {
		sum.Notify += t.Notify
		sum.Highlight += t.Highlight
	}
	return sum
}

// counts is the tally's sum up to a position, which may be behind what it has counted.
func (t *tally) counts(upTo int64) Counts {
	var c Counts
	for thread, marks := range t.threads {
		if upTo < t.upTo {
			marks = marks[:firstAfter(marks, upTo)]
		}
		n := Count{Notify: len(marks)}
		for _, m := range marks {
			if m.highlight() {
				n.Highlight++
			}
		}
		switch {
		case n.Notify == 0:
		case thread == "":
			c.Main = n
		default:
			if c.Threads == nil {
				c.Threads = map[id.Event]Count{}
			}
			c.Threads[thread] = n
		}
	}
	return c
}

// tallyFormat begins what append writes. A tally of another format is counted anew.
const tallyFormat = 1

// append writes the tally for the store: marks as differences, in variable length.
func (t *tally) append(b []byte) []byte {
	b = append(b, tallyFormat)
	b = binary.AppendVarint(b, t.joined)
	b = binary.AppendVarint(b, t.upTo)
	b = binary.AppendVarint(b, int64(t.ignored))
	for _, thread := range slices.Sorted(maps.Keys(t.threads)) {
		marks := t.threads[thread]
		b = binary.AppendUvarint(b, uint64(len(thread)))
		b = append(b, thread...)
		b = binary.AppendUvarint(b, uint64(len(marks)))
		last := mark(0)
		for _, m := range marks {
			b = binary.AppendVarint(b, int64(m-last))
			last = m
		}
	}
	return b
}

var errTally = errors.New("a stored tally is damaged")

// parseTally reads what append wrote; false: in another format.
func parseTally(b []byte) (*tally, bool, error) {
	if len(b) == 0 || b[0] != tallyFormat {
		return nil, false, nil
	}
	r := tallyReader{rest: b[1:]}
	t := &tally{joined: r.varint(), upTo: r.varint(), ignored: uint64(r.varint()), threads: map[id.Event][]mark{}}
	for len(r.rest) > 0 {
		thread := id.Event(r.bytes())
		n := r.length()
		marks := make([]mark, n)
		last := mark(0)
		for i := range marks {
			last += mark(r.varint())
			marks[i] = last
		}
		t.threads[thread] = marks
	}
	if r.bad {
		return nil, false, errTally
	}
	return t, true, nil
}

type tallyReader struct {
	rest []byte
	bad  bool
}

func (r *tallyReader) varint() int64 {
	v, n := binary.Varint(r.rest)
	r.skip(n)
	return v
}

// length reads the length of what follows, which has a byte at least for each of it.
func (r *tallyReader) length() int {
	v, n := binary.Uvarint(r.rest)
	r.skip(n)
	if v > uint64(len(r.rest)) {
		r.rest, r.bad = nil, true
		return 0
	}
	return int(v)
}

func (r *tallyReader) bytes() []byte {
	n := r.length()
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *tallyReader) skip(n int) {
	if n <= 0 {
		r.rest, r.bad = nil, true
		return
	}
	r.rest = r.rest[n:]
}
