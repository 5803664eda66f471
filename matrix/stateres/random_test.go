package stateres

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// A tangle is a room that several servers write to without hearing of each
// other in time.
type tangle struct {
	*testRoom
	rand   *rand.Rand
	ts     int64
	states []state // after each event, message or not
	heads  []int   // of states
}

var tangleUsers = []string{"@alice:a", "@bob:b", "@charlie:c", "@dora:a", "@eve:b"}

func newTangle(t testing.TB, version string, seed uint64) *tangle {
	g := &tangle{testRoom: newTestRoom(t, version), rand: rand.New(rand.NewPCG(seed, 1)), ts: 1000}
	s := state{}
	start := func(name, typ, key, content string) {
		g.ts += 10
		ev := stateEvent(name, typ, key, "@alice:a", content, g.ts)
		for _, last := range g.events {
			ev.PrevEvents = []id.Event{last.ID}
		}
		s = s.after(g.add(ev, s))
	}
	start("create", event.TypeCreate, "", `{"creator":"@alice:a","room_version":"`+version+`"}`)
	start("alice", event.TypeMember, "@alice:a", `{"membership":"join"}`)
	start("levels", event.TypePowerLevels, "", g.levels())
	start("rules", event.TypeJoinRules, "", `{"join_rule":"public"}`)
	g.states, g.heads = []state{s}, []int{0}
	return g
}

// levels makes power levels that name no creator of a version that forbids it.
func (g *tangle) levels() string {
	users := ""
	if !g.version.PrivilegedCreators {
		users = `"@alice:a":100,`
	}
	return fmt.Sprintf(`{"events":{"m.room.topic":%d},"invite":0,"state_default":50,"users":{%s"@bob:b":%d,"@charlie:c":%d}}`,
		25*g.rand.IntN(3), users, 50*g.rand.IntN(3), 25*g.rand.IntN(3))
}

// step has somebody send an event after some of the latest, if it is allowed.
func (g *tangle) step(n int) {
	parents := g.parents()
	var branches []state
	for _, p := range parents {
		branches = append(branches, g.states[p])
	}
	before := g.mustResolve(branches...)
	ev := g.draft(n)
	ev.Version, ev.Room = g.version, g.room()
	if g.check(ev, before) != nil {
		return
	}
	g.rejected[ev.ID] = g.rand.IntN(20) == 0
	g.add(ev, before)
	after := before
	if !g.rejected[ev.ID] || g.rand.IntN(2) == 0 {
		after = before.after(ev)
	}
	g.states = append(g.states, after)
	g.heads = slices.DeleteFunc(g.heads, func(h int) bool { return slices.Contains(parents, h) && g.rand.IntN(3) > 0 })
	g.heads = append(g.heads, len(g.states)-1)
	if len(g.heads) > 4 {
		g.heads = g.heads[1:]
	}
}

func (g *tangle) parents() []int {
	n := min(1+g.rand.IntN(3)*g.rand.IntN(2), len(g.heads))
	var out []int
	for _, p := range g.rand.Perm(len(g.heads))[:n] {
		out = append(out, g.heads[p])
	}
	return out
}

func (g *tangle) draft(n int) *event.PDU {
	user := func() string { return tangleUsers[g.rand.IntN(len(tangleUsers))] }
	sender, target := user(), user()
	g.ts += int64(g.rand.IntN(30)) - 8
	name := fmt.Sprintf("%02x-%d", g.rand.IntN(256), n)
	switch g.rand.IntN(9) {
	case 0, 1:
		return stateEvent(name, event.TypeMember, sender, sender, `{"membership":"join"}`, g.ts)
	case 2:
		return stateEvent(name, event.TypeMember, target, sender, `{"membership":"ban"}`, g.ts)
	case 3:
		return stateEvent(name, event.TypeMember, target, sender, `{"membership":"leave"}`, g.ts)
	case 4:
		return stateEvent(name, event.TypeMember, target, sender, `{"membership":"invite"}`, g.ts)
	case 5:
		return stateEvent(name, event.TypePowerLevels, "", sender, g.levels(), g.ts)
	case 6:
		rule := []string{"public", "invite", "knock"}[g.rand.IntN(3)]
		if !g.version.Knock {
			rule = "public"
		}
		return stateEvent(name, event.TypeJoinRules, "", sender, `{"join_rule":"`+rule+`"}`, g.ts)
	case 7:
		return stateEvent(name, event.TypeTopic, "", sender, `{"topic":"t"}`, g.ts)
	default:
		return stateEvent(name, event.TypeName, "", sender, `{"name":"n"}`, g.ts)
	}
}

// merges gives groups of states that a server could have to resolve.
func (g *tangle) merges(yield func([]state) bool) {
	for range 12 {
		var group []state
		for range 2 + g.rand.IntN(3) {
			group = append(group, g.states[g.rand.IntN(len(g.states))])
		}
		if !yield(group) {
			return
		}
	}
}

// Tangled rooms end as the specification says, read as naively as can be.
func TestResolveAgreesWithTheSpecification(t *testing.T) {
	rooms := 6
	if testing.Short() {
		rooms = 3
	}
	for _, v := range roomversion.All() {
		if v.StateRes == roomversion.StateResV1 {
			continue
		}
		disputes := 0
		for seed := range uint64(rooms) {
			g := newTangle(t, v.ID, seed)
			for n := range 60 {
				g.step(n)
			}
			for group := range g.merges {
				got, want := g.mustResolve(group...), oracle{g.testRoom}.resolve(group...)
				if !maps.Equal(got, want) {
					t.Fatalf("version %s, seed %d: resolved\n%s\nbut the specification says\n%s\nfor\n%s\nin\n%s", v.ID, seed, got, want, group, g)
				}
				if !maps.Equal(group[0], group[1]) {
					disputes++
				}
			}
		}
		if disputes == 0 {
			t.Errorf("version %s: no rooms were in dispute", v.ID)
		}
	}
}
