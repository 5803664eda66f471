package stateres

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// What a room resolves to depends on its events alone: not on the order of the
// branches, nor on the order in which a server got to know the events.
func TestResultIsIndependentOfOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		v := rapid.SampledFrom(roomversion.All()).Draw(rt, "version")
		g := newTangle(t, v.ID, rapid.Uint64().Draw(rt, "seed"))
		for n := range 25 {
			g.step(n)
		}
		other := g.renumbered()
		for group := range g.merges {
			want := g.mustResolve(group...)
			g.rand.Shuffle(len(group), func(i, j int) { group[i], group[j] = group[j], group[i] })
			if got := g.mustResolve(append(group, group[0])...); !maps.Equal(got, want) {
				rt.Fatalf("in another order the branches resolve to\n%s\nand not\n%s", got, want)
			}
			if got := other.mustResolve(group...); !maps.Equal(got, want) {
				rt.Fatalf("numbered in another order the events resolve to\n%s\nand not\n%s", got, want)
			}
		}
	})
}

// renumbered is the same room on a server that heard of its events in another order.
func (g *tangle) renumbered() *testRoom {
	r := newTestRoom(g.t, g.version.ID)
	r.rejected = g.rejected
	random := rand.New(rand.NewPCG(7, 7))
	left := slices.Clone(g.events)
	for len(left) > 0 {
		i := random.IntN(len(left))
		ev := *left[i]
		known := func(a id.Event) bool { _, ok := r.at[a]; return ok }
		if slices.ContainsFunc(ev.AuthEvents, func(a id.Event) bool { return !known(a) }) {
			continue
		}
		r.insert(&ev)
		left = slices.Delete(left, i, i+1)
	}
	return r
}

func TestOneStateResolvesToItself(t *testing.T) {
	g := newTangle(t, "12", 3)
	for n := range 40 {
		g.step(n)
	}
	for _, s := range g.states {
		if got := g.mustResolve(s, s, s); !maps.Equal(got, s) {
			t.Fatalf("got\n%s\nwant\n%s", got, s)
		}
	}
}

// den#3629: a room without a create event is an error, neither an empty state nor
// a crash.
//
// den#3629: it was a panic.
func TestMissingCreateIsAnError(t *testing.T) {
	for _, v := range roomversion.All() {
		g := newTangle(t, v.ID, 5)
		for n := range 40 {
			g.step(n)
		}
		a, b := maps.Clone(g.states[0]), maps.Clone(g.states[len(g.states)-1])
		delete(a, event.StateTuple{Type: event.TypeCreate})
		delete(b, event.StateTuple{Type: event.TypeCreate})
		if got, err := g.resolve(a, b); !errors.Is(err, ErrNoCreate) {
			t.Errorf("version %s: %v, %v", v.ID, got, err)
		}
		if _, err := Find(g.version, g.graph, nil); !errors.Is(err, ErrNoCreate) {
			t.Errorf("version %s, no states: %v", v.ID, err)
		}
	}
}

// A caller who could not load what was asked for learns so.
func TestMissingBodiesAreErrors(t *testing.T) {
	r, branches := bigRoom(t, "12", 3)
	c, err := Find(r.version, r.graph, []Set{r.set(branches[0]), r.set(branches[1])})
	if err != nil || c.None() {
		t.Fatalf("%v, %v", c, err)
	}
	all := make([]*event.PDU, len(c.Events()))
	for n, i := range c.Events() {
		all[n] = r.events[i]
	}
	message := *all[0]
	message.StateKey = nil
	tests := map[string][]*event.PDU{
		"too few":       all[1:],
		"a missing one": append([]*event.PDU{nil}, all[1:]...),
		"a message":     append([]*event.PDU{&message}, all[1:]...),
	}
	for name, bodies := range tests {
		if _, err := c.Lookups(bodies); err == nil {
			t.Errorf("%s: looking up went well", name)
		}
		if _, err := c.Resolve(bodies, nil); err == nil {
			t.Errorf("%s: resolving went well", name)
		}
	}
	if _, err := c.Resolve(all, nil); !errors.Is(err, ErrNoCreate) {
		t.Errorf("without the create event: %v", err)
	}
}

func TestSetsOfAnotherRoomAreErrors(t *testing.T) {
	r, branches := bigRoom(t, "11", 3)
	good := r.set(branches[0])
	for name, bad := range map[string]Set{
		"unsorted": {good[1], good[0]},
		"twice":    {good[0], good[0]},
		"unknown":  {Index(r.graph.Len())},
	} {
		if _, err := Find(r.version, r.graph, []Set{good, bad}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of a big room only what is in dispute is loaded.
func TestUnconflictedMembersAreNotLoaded(t *testing.T) {
	for _, version := range []string{"1", "2", "11", "12"} {
		r, branches := bigRoom(t, version, 2000)
		c, err := Find(r.version, r.graph, []Set{r.set(branches[0]), r.set(branches[1])})
		if err != nil {
			t.Fatal(err)
		}
		if n := len(c.Events()); n == 0 || n > 120 {
			t.Errorf("version %s: %d events of %d are to be loaded", version, n, r.graph.Len())
		}
	}
}

// CVE-2022-39374: rejected events do not help to authorise others. Here Bob's join
// was rejected; where the state lacks him, it does not count.
func TestRejectedAuthEventsAreNotUsed(t *testing.T) {
	for _, rejected := range []bool{false, true} {
		r := newTestRoom(t, "11")
		send := func(s state, name, typ, key, sender, content string) state {
			ev := stateEvent(name, typ, key, sender, content, int64(len(r.events)))
			if name == "alice" {
				ev.PrevEvents = []id.Event{"$create"}
			}
			return s.after(r.add(ev, s))
		}
		s := send(nil, "create", event.TypeCreate, "", "@alice:a", `{}`)
		s = send(s, "alice", event.TypeMember, "@alice:a", "@alice:a", `{"membership":"join"}`)
		s = send(s, "levels", event.TypePowerLevels, "", "@alice:a", `{"state_default":0,"users":{"@alice:a":100}}`)
		s = send(s, "rules", event.TypeJoinRules, "", "@alice:a", `{"join_rule":"public"}`)
		r.rejected["$bob"] = rejected
		withBob := send(s, "bob", event.TypeMember, "@bob:b", "@bob:b", `{"membership":"join"}`)
		// Both branches rest on him, so he is not in dispute.
		name := send(withBob, "name", event.TypeName, "", "@bob:b", `{"name":"n"}`)
		topic := send(name, "topic", event.TypeTopic, "", "@bob:b", `{"topic":"t"}`)
		tuple := event.StateTuple{Type: event.TypeMember, Key: "@bob:b"}
		delete(name, tuple)
		delete(topic, tuple)
		got := r.mustResolve(name, topic)
		if _, ok := got[event.StateTuple{Type: event.TypeTopic}]; ok == rejected {
			t.Errorf("Bob's join rejected: %v; his topic stands: %v", rejected, ok)
		}
	}
}

// A graph with more paths than anybody can count is no more work than another.
//
// gmsl, CVE-2024-31208: the work is linear in the edges of the graph.
func TestSubgraphIsNotPathEnumerating(t *testing.T) {
	var g Graph
	add := func(auth ...Index) Index {
		i, err := g.Append(Node{NID: int64(g.Len()) + 1, Key: Key(g.Len()), Auth: auth})
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	bottom := add()
	outside := add()
	at := add(bottom, outside)
	for range 20_000 {
		at = add(add(at), add(at))
	}
	top := add(at)
	beyond := add(top)
	sub := conflictedSubgraph(&g, []Index{bottom, top})
	if !sub.has(bottom) || !sub.has(at) || !sub.has(top) || sub.has(outside) || sub.has(beyond) {
		t.Error("the subgraph is not what lies between the two conflicted events")
	}
	if n := len(sub.list()); n != g.Len()-2 {
		t.Errorf("%d events of %d lie between", n, g.Len())
	}
}

// CVE-2018-10657: depth is what a sender claims. From version 2 on it decides nothing.
func TestDepthDecidesNothing(t *testing.T) {
	for _, v := range roomversion.All()[1:] {
		g := newTangle(t, v.ID, 11)
		for n := range 40 {
			g.step(n)
		}
		for group := range g.merges {
			want := g.mustResolve(group...)
			for _, ev := range g.events {
				ev.Depth = 1<<62 - ev.Depth
			}
			if got := g.mustResolve(group...); !maps.Equal(got, want) {
				t.Fatalf("version %s: another depth gives\n%s\nand not\n%s", v.ID, got, want)
			}
		}
	}
}

func TestWithReplacesEntries(t *testing.T) {
	r, branches := bigRoom(t, "11", 5)
	a, b := branches[0], branches[1]
	want := maps.Clone(a)
	maps.Copy(want, b)
	if got := r.state(r.graph.With(r.set(a), r.set(b))); !maps.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestTieBreaks(t *testing.T) {
	tests := []struct {
		name       string
		tsA, tsB   int64
		idA, idB   string
		wantSecond string // what comes last stays
	}{
		{"the later one is applied on top", 5, 6, "x", "a", "a"},
		{"of the same time, that with the greater id", 5, 5, "x", "a", "x"},
	}
	for _, tt := range tests {
		r, _ := bigRoom(t, "11", 2)
		s := r.state(r.set(state{}))
		for _, name := range []string{"create", "alice", "levels", "rules"} {
			s = s.after(r.event(id.Event("$" + name)))
		}
		a := s.after(r.add(stateEvent(tt.idA, event.TypeTopic, "", "@alice:a", `{}`, tt.tsA), s))
		b := s.after(r.add(stateEvent(tt.idB, event.TypeTopic, "", "@alice:a", `{}`, tt.tsB), s))
		got := r.mustResolve(a, b)[event.StateTuple{Type: event.TypeTopic}]
		if strings.TrimPrefix(string(got), "$") != tt.wantSecond {
			t.Errorf("%s: got %s", tt.name, got)
		}
	}
}
