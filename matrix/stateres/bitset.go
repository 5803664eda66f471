package stateres

import "math/bits"

// A bitset is a set of events of a graph.
type bitset []uint64

func newBitset(n int) bitset { return make(bitset, (n+63)/64) }

func (b bitset) set(i Index)      { b[i/64] |= 1 << (i % 64) }
func (b bitset) has(i Index) bool { return b[i/64]&(1<<(i%64)) != 0 }
func (b bitset) clear()           { clear(b) }

func (b bitset) union(o bitset) {
	for i, w := range o {
		b[i] |= w
	}
}

func (b bitset) intersect(o bitset) {
	for i, w := range o {
		b[i] &= w
	}
}

func (b bitset) subtract(o bitset) {
	for i, w := range o {
		b[i] &^= w
	}
}

// lowest is the first event; ok is false if there is none.
func (b bitset) lowest() (i Index, ok bool) {
	for n, w := range b {
		if w != 0 {
			return Index(n*64 + bits.TrailingZeros64(w)), true
		}
	}
	return 0, false
}

// list is the set as an ascending list.
func (b bitset) list() []Index {
	n := 0
	for _, w := range b {
		n += bits.OnesCount64(w)
	}
	out := make([]Index, 0, n)
	for n, w := range b {
		for ; w != 0; w &= w - 1 {
			out = append(out, Index(n*64+bits.TrailingZeros64(w)))
		}
	}
	return out
}

// descend adds everything that the members cite, directly or not, down to an
// index. Auth events come before what cites them, so one sweep does.
func (b bitset) descend(g *Graph, downTo Index) {
	for n := len(b) - 1; n >= int(downTo/64); n-- {
		// Events of the same word may be added while it is swept.
		for seen := uint64(0); b[n]&^seen != 0; {
			top := uint64(1) << (63 - bits.LeadingZeros64(b[n]&^seen))
			seen |= top
			for _, a := range g.Auth(Index(n*64 + bits.TrailingZeros64(top))) {
				b.set(a)
			}
		}
	}
}

// ascend adds everything from an index on that cites a member, directly or not.
func (b bitset) ascend(g *Graph, from, to Index) {
	for i := from; i <= to; i++ {
		for _, a := range g.Auth(i) {
			if b.has(a) {
				b.set(i)
				break
			}
		}
	}
}
