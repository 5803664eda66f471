package stateres

import (
	"fmt"
	"testing"

	"hearth/matrix/event"
)

// bigRoom has many members, and a fork: on each side some join, and moderators
// act against each other.
func bigRoom(t testing.TB, version string, members int) (*testRoom, []state) {
	r := newTestRoom(t, version)
	var s state
	ts := int64(0)
	send := func(s state, name, typ, key, sender, content string) state {
		ts++
		ev := stateEvent(name, typ, key, sender, content, ts)
		if typ == event.TypeMember && name == "alice" {
			ev.PrevEvents = append(ev.PrevEvents, "$create")
		}
		r.add(ev, s)
		if s == nil {
			s = state{}
		}
		s[ev.Tuple()] = ev.ID
		return s
	}
	alice := "@alice:a"
	levels := func(extra string) string {
		users := `"@alice:a":100,`
		if r.version.PrivilegedCreators {
			users = ""
		}
		return `{"users":{` + users + `"@user1:b":50` + extra + `}}`
	}
	s = send(s, "create", event.TypeCreate, "", alice, `{"creator":"@alice:a"}`)
	s = send(s, "alice", event.TypeMember, alice, alice, `{"membership":"join"}`)
	s = send(s, "levels", event.TypePowerLevels, "", alice, levels(""))
	s = send(s, "rules", event.TypeJoinRules, "", alice, `{"join_rule":"public"}`)
	for i := range members {
		user := fmt.Sprintf("@user%d:b", i)
		s = send(s, fmt.Sprintf("join%d", i), event.TypeMember, user, user, `{"membership":"join"}`)
		if i%10 == 0 {
			s = send(s, fmt.Sprintf("rename%d", i), event.TypeMember, user, user, `{"displayname":"x","membership":"join"}`)
		}
	}
	branches := []state{s, s.after(r.event("$create"))}
	for n, b := range branches {
		for i := range 40 {
			user := fmt.Sprintf("@late%d-%d:c", n, i)
			b = send(b, fmt.Sprintf("late%d-%d", n, i), event.TypeMember, user, user, `{"membership":"join"}`)
		}
		b = send(b, fmt.Sprintf("topic%d", n), event.TypeTopic, "", "@user1:b", `{"topic":"t"}`)
		b = send(b, fmt.Sprintf("kick%d", n), event.TypeMember, "@user2:b", "@user1:b", `{"membership":"leave"}`)
		b = send(b, fmt.Sprintf("levels%d", n), event.TypePowerLevels, "", alice, levels(fmt.Sprintf(`,"@user%d:b":50`, 3+n)))
		branches[n] = b
	}
	return r, branches
}

func BenchmarkResolve50kMembers(b *testing.B) {
	for _, version := range []string{"1", "11", "12"} {
		b.Run("v"+version, func(b *testing.B) {
			r, branches := bigRoom(b, version, 50_000)
			sets := []Set{r.set(branches[0]), r.set(branches[1])}
			b.ReportAllocs()
			loads := 0
			for b.Loop() {
				c, err := Find(r.version, r.graph, sets)
				if err != nil {
					b.Fatal(err)
				}
				loaded := make([]*event.PDU, 0, len(c.Events()))
				for _, i := range c.Events() {
					loaded = append(loaded, r.events[i])
				}
				lookups, err := c.Lookups(loaded)
				if err != nil {
					b.Fatal(err)
				}
				entries := make(map[event.StateTuple]*event.PDU, len(lookups))
				for _, t := range lookups {
					if i, ok := r.graph.Find(c.Unconflicted(), r.keys[t]); ok {
						entries[t] = r.events[i]
					}
				}
				res, err := c.Resolve(loaded, entries)
				if err != nil {
					b.Fatal(err)
				}
				if len(res.State()) < 50_000 {
					b.Fatal("members are missing")
				}
				loads = len(loaded) + len(entries)
			}
			b.ReportMetric(float64(loads), "bodies")
		})
	}
}

func BenchmarkDecodeChunk50kMembers(b *testing.B) {
	r, _ := bigRoom(b, "11", 50_000)
	chunk := r.graph.EncodeChunk(0, Index(r.graph.Len()))
	b.ReportAllocs()
	for b.Loop() {
		var g Graph
		if err := g.DecodeChunk(chunk); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(chunk))/float64(r.graph.Len()), "bytes/event")
}
