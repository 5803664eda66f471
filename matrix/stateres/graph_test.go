package stateres

import (
	"bytes"
	"errors"
	"reflect"
	"testing"
)

// tuw 1.9.0: a chain that lacks events must not be kept.
func TestGraphRefusesWhatBreaksItsOrder(t *testing.T) {
	tests := []struct {
		name string
		node Node
	}{
		{"an auth event that comes later", Node{NID: 9, Auth: []Index{2}}},
		{"itself as auth event", Node{NID: 9, Auth: []Index{0, 1}}},
		{"a number that is not greater", Node{NID: 7}},
		{"an unknown kind", Node{NID: 9, Kind: kinds}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var g Graph
			if _, err := g.Append(Node{NID: 7}); err != nil {
				t.Fatal(err)
			}
			if _, err := g.Append(tt.node); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v", err)
			}
			if i, err := g.Append(Node{NID: 8, Auth: []Index{0, 0}}); err != nil || i != 1 || len(g.Auth(1)) != 1 {
				t.Errorf("a good event after it: %d, %v, auth events %v", i, err, g.Auth(1))
			}
		})
	}
}

func TestChunksRestoreTheGraph(t *testing.T) {
	g := newTangle(t, "11", 1)
	for n := range 60 {
		g.step(n)
	}
	length := Index(g.graph.Len())
	var back Graph
	for _, to := range []Index{1, 17, 17, length} {
		if err := back.DecodeChunk(g.graph.EncodeChunk(Index(back.Len()), to)); err != nil {
			t.Fatal(err)
		}
	}
	if !equalGraphs(&back, g.graph) {
		t.Error("the graph from its chunks is another one")
	}
	if err := back.DecodeChunk(g.graph.EncodeChunk(0, length)); !errors.Is(err, ErrMalformed) {
		t.Errorf("a chunk that does not follow: %v", err)
	}
	for i := range length {
		if nid := back.NID(i); nid != int64(i)+1 {
			t.Errorf("event %d has number %d", i, nid)
		}
		if at, ok := back.Lookup(int64(i) + 1); !ok || at != i {
			t.Errorf("number %d is found at %d, %v", i+1, at, ok)
		}
	}
	if _, ok := back.Lookup(int64(length) + 1); ok {
		t.Error("an event was found that is not there")
	}
}

func equalGraphs(a, b *Graph) bool {
	return reflect.DeepEqual(a.nids, b.nids) && bytes.Equal(a.flags, b.flags) && reflect.DeepEqual(a.keys, b.keys) &&
		reflect.DeepEqual(a.starts, b.starts) && len(a.edges) == len(b.edges) && (len(a.edges) == 0 || reflect.DeepEqual(a.edges, b.edges))
}

func FuzzDecodeChunk(f *testing.F) {
	g := newTangle(f, "11", 1)
	for n := range 20 {
		g.step(n)
	}
	whole := g.graph.EncodeChunk(0, Index(g.graph.Len()))
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Add([]byte{chunkVersion, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, chunk []byte) {
		var once, twice Graph
		if err := once.DecodeChunk(chunk); err != nil {
			if !errors.Is(err, ErrMalformed) || once.Len() != 0 || len(once.edges) != 0 {
				t.Fatalf("%v, and %d events stay", err, once.Len())
			}
			return
		}
		for i := range Index(once.Len()) {
			for _, a := range once.Auth(i) {
				if a >= i {
					t.Fatalf("event %d cites %d", i, a)
				}
			}
		}
		if err := twice.DecodeChunk(once.EncodeChunk(0, Index(once.Len()))); err != nil || !equalGraphs(&once, &twice) {
			t.Fatalf("encoded and decoded again it is another graph: %v", err)
		}
	})
}
