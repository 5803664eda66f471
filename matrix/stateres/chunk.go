package stateres

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// A chunk is a run of nodes as it is stored: a version byte, the index of its
// first node, the number of nodes, then each node as varints:
//
//	nid (from the node before), flags, key, number of edges, edges
//
// The first edge counts down from the node itself, each other from the one after
// it. Most numbers thus fit one or two bytes.
const chunkVersion = 1

// EncodeChunk encodes the nodes from one index up to, not including, another.
func (g *Graph) EncodeChunk(from, to Index) []byte {
	out := []byte{chunkVersion}
	out = binary.AppendUvarint(out, uint64(from))
	out = binary.AppendUvarint(out, uint64(to-from))
	last := int64(0)
	for i := from; i < to; i++ {
		out = binary.AppendVarint(out, g.nids[i]-last)
		last = g.nids[i]
		out = append(out, g.flags[i])
		out = binary.AppendUvarint(out, uint64(g.keys[i]))
		auth := g.Auth(i)
		out = binary.AppendUvarint(out, uint64(len(auth)))
		below := i
		for n := len(auth) - 1; n >= 0; n-- {
			out = binary.AppendUvarint(out, uint64(below-auth[n]))
			below = auth[n]
		}
	}
	return out
}

// DecodeChunk appends the nodes of a chunk, which must be the next one. If it
// returns an error, the graph is as it was.
func (g *Graph) DecodeChunk(chunk []byte) error {
	nodes, edges := g.Len(), len(g.edges)
	if err := g.decode(chunk); err != nil {
		g.nids, g.keys, g.flags, g.starts = g.nids[:nodes], g.keys[:nodes], g.flags[:nodes], g.starts[:nodes]
		g.edges = g.edges[:edges]
		return err
	}
	return nil
}

func (g *Graph) decode(chunk []byte) error {
	d := decoder{rest: chunk}
	if v := d.byte(); !d.bad && v != chunkVersion {
		return fmt.Errorf("%w: chunk version %d", ErrMalformed, v)
	}
	first, count := d.uint(), d.uint()
	if d.bad || first != uint64(g.Len()) || count > uint64(len(d.rest)) {
		return fmt.Errorf("%w: a chunk that does not follow", ErrMalformed)
	}
	g.grow(int(min(count, uint64(len(d.rest)/minNodeSize))))
	last := int64(0)
	var auth []Index
	for range count {
		n := Node{NID: last + d.int()}
		last = n.NID
		flags := d.byte()
		n.Kind, n.Rejected = Kind(flags&^flagRejected), flags&flagRejected != 0
		key := d.uint()
		n.Key = Key(key)
		auth = d.edges(auth[:0], Index(g.Len()))
		n.Auth = auth
		if d.bad || uint64(n.Key) != key {
			return fmt.Errorf("%w: a chunk that is cut or damaged", ErrMalformed)
		}
		if _, err := g.Append(n); err != nil {
			return err
		}
	}
	if len(d.rest) > 0 {
		return fmt.Errorf("%w: a chunk with more than its nodes", ErrMalformed)
	}
	return nil
}

// minNodeSize is the length of the shortest node: one byte for each of its parts.
const minNodeSize = 4

func (g *Graph) grow(n int) {
	g.nids, g.keys = slices.Grow(g.nids, n), slices.Grow(g.keys, n)
	g.flags, g.starts = slices.Grow(g.flags, n), slices.Grow(g.starts, n)
}

// A decoder reads varints until something is wrong; from then on it gives zeros.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) fail() {
	d.rest, d.bad = nil, true
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.fail()
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.rest)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

// edges reads the auth events of the node at an index.
func (d *decoder) edges(auth []Index, at Index) []Index {
	count := d.uint()
	if count > uint64(len(d.rest)) {
		d.fail()
		return nil
	}
	below := at
	for range count {
		step := d.uint()
		if step == 0 || step > uint64(below) {
			d.fail()
			return nil
		}
		below -= Index(step)
		auth = append(auth, below)
	}
	return auth
}
