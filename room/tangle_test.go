package room_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

var (
	tangleSeed  = flag.Uint64("tangle.seed", 8, "first seed of TestATangleHasOneOutcome")
	tangleSeeds = flag.Uint64("tangle.seeds", 1, "seeds of TestATangleHasOneOutcome for each room version")
)

// tangle is a room of another server whose users write to it without hearing of each other
// in time. It knows what the state is everywhere in it.
type tangle struct {
	*peer
	*rand.Rand
	admin       id.User
	mods, users []id.User
	heads       []id.Event
	made        []*event.PDU // in an order that a server may have seen them in
	start, sent int
}

func newTangle(t *testing.T, version string, seed uint64) *tangle {
	p := emptyPeer(t, version)
	p.oracle = &oracle{version: p.v, events: p.events, rejected: map[id.Event]bool{}}
	if !p.v.RoomIDIsCreateEventID {
		p.room = "!tangle:elsewhere.example"
	}
	g := &tangle{peer: p, Rand: rand.New(rand.NewPCG(seed, uint64(p.v.Number))), admin: remoteCharlie}
	for i := range 2 {
		g.mods = append(g.mods, id.User(fmt.Sprintf("@mod%d:elsewhere.example", i)))
	}
	for i := range 5 {
		g.users = append(g.users, id.User(fmt.Sprintf("@user%d:elsewhere.example", i)))
	}
	create := p.set(g.admin, event.TypeCreate, fmt.Sprintf(`{"creator":%q,"room_version":%q}`, g.admin, version))
	p.room, p.oracle.create = create.Room, create
	g.linear(create)
	g.linear(p.member(g.admin, "join", create.ID))
	users := map[id.User]int{g.mods[0]: 50, g.mods[1]: 50}
	if !p.v.PrivilegedCreators {
		users[g.admin] = 100
	}
	levels := g.json(map[string]any{"users": users, "events": map[string]any{"slot": 0, event.TypePowerLevels: 50}})
	g.linear(p.set(g.admin, event.TypePowerLevels, levels, g.heads...))
	g.linear(p.set(g.admin, event.TypeJoinRules, `{"join_rule":"public"}`, g.heads...))
	for _, u := range slices.Concat(g.mods, g.users) {
		g.linear(p.member(u, "join", g.heads...))
	}
	return g
}

func (g *tangle) json(v any) string {
	raw, err := json.Marshal(v, json.Deterministic(true))
	g.must(err)
	return string(raw)
}

// linear adds an event after all.
func (g *tangle) linear(pdu *event.PDU) {
	g.made, g.heads = append(g.made, pdu), []id.Event{pdu.ID}
}

// step has somebody do something after some of the latest events. Now and then it is
// something that is not allowed.
func (g *tangle) step() {
	prev := g.parents()
	state := g.meet(prev)
	cites := state
	if g.IntN(12) == 0 { // by a state that is not the one before the event
		cites = g.after[g.made[g.IntN(len(g.made))].ID]
	}
	sender, typ, key, content := g.draft(state)
	proto := event.Proto{Room: g.room, Type: typ, StateKey: key, Sender: sender, Content: jsontext.Value(content), OriginServerTS: 1_700_000_000_000 + g.Int64N(1000)}
	var depths []int64
	for _, name := range prev {
		proto.PrevEvents = append(proto.PrevEvents, g.events[name].Ref())
		depths = append(depths, g.events[name].Depth)
	}
	proto.Depth = event.NextDepth(g.v, depths...)
	var auth []authrules.AuthEvent
	by := entries{}
	for _, t := range authrules.Needed(g.v, authrules.Draft{Type: typ, StateKey: key, Sender: sender, Content: proto.Content}) {
		if a := cites[t]; a != nil {
			proto.AuthEvents = append(proto.AuthEvents, a.Ref())
			auth = append(auth, authrules.AuthEvent{PDU: a})
			by[t] = a
		}
	}
	g.sent++
	if g.v.EventID == roomversion.EventIDField {
		proto.EventID = id.Event(fmt.Sprintf("$tangle%d:%s", g.sent, elsewhere))
	}
	pdu, err := event.Build(g.v, proto, sender.Server(), "ed25519:1", g.key)
	g.must(err)
	if authrules.CheckAuthEvents(pdu, auth) != nil || !g.oracle.allowed(pdu, by) || !g.oracle.allowed(pdu, state) {
		if g.IntN(6) > 0 {
			return
		}
		g.oracle.rejected[pdu.ID] = true
	}
	g.know(pdu)
	g.made = append(g.made, pdu)
	g.heads = slices.DeleteFunc(g.heads, func(h id.Event) bool { return slices.Contains(prev, h) && g.IntN(3) > 0 })
	g.heads = append(g.heads, pdu.ID)
	if len(g.heads) > 7 {
		g.heads = slices.Delete(g.heads, 0, 1)
	}
}

func (g *tangle) parents() []id.Event {
	prev := slices.Clone(g.heads)
	g.Shuffle(len(prev), func(i, j int) { prev[i], prev[j] = prev[j], prev[i] })
	prev = prev[:min(len(prev), 1+g.IntN(2)*g.IntN(4))]
	if g.IntN(15) == 0 { // nothing from before the servers joined: some branch could shut them out
		if old := g.made[max(g.start, len(g.made)-1-g.IntN(30))].ID; !slices.Contains(prev, old) {
			prev = append(prev, old)
		}
	}
	return prev
}

func pickOf[T any](g *tangle, from ...T) T { return from[g.IntN(len(from))] }

// draft is what somebody does; whether they may is for others to say.
func (g *tangle) draft(state entries) (sender id.User, typ string, key *string, content string) {
	boss, user, n := pickOf(g, append(g.mods, g.admin)...), pickOf(g, append(g.users, g.mods...)...), g.IntN(1000)
	member := func(by id.User, membership, more string) (id.User, string, *string, string) {
		return by, event.TypeMember, ptr(string(user)), fmt.Sprintf(`{"membership":%q,"reason":"%d"%s}`, membership, n, more)
	}
	switch g.IntN(12) {
	case 0:
		return boss, "m.room.topic", ptr(""), fmt.Sprintf(`{"topic":"%d"}`, n)
	case 1:
		return user, "slot", ptr(fmt.Sprint(g.IntN(3))), fmt.Sprintf(`{"value":"%d"}`, n)
	case 2, 3:
		return g.levels(state, boss)
	case 4:
		return member(boss, "leave", "")
	case 5:
		return member(boss, pickOf(g, "ban", "invite"), "")
	case 6, 7:
		return member(user, "join", pickOf(g, "", "", fmt.Sprintf(`,"join_authorised_via_users_server":%q`, g.admin)))
	case 8:
		return member(user, pickOf(g, "leave", "leave", "knock"), "")
	case 9:
		rule := pickOf(g, "public", "public", "invite", "knock", "restricted")
		return pickOf(g, boss, g.admin), event.TypeJoinRules, ptr(""), fmt.Sprintf(`{"join_rule":%q}`, rule)
	}
	return user, "m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, n)
}

// levels changes somebody's power.
func (g *tangle) levels(state entries, boss id.User) (id.User, string, *string, string) {
	old := state[event.StateTuple{Type: event.TypePowerLevels}]
	if old == nil { // a merge may refuse all of them
		old = g.made[2]
	}
	var content map[string]any
	g.must(json.Unmarshal(old.Content, &content))
	users := content["users"].(map[string]any)
	if of := pickOf(g, append(g.users, g.mods...)...); g.IntN(4) == 0 {
		delete(users, string(of))
	} else {
		users[string(of)] = pickOf(g, 0, 25, 49, 50, 60)
	}
	for u, level := range users {
		if f, ok := level.(float64); ok {
			users[u] = int(f)
		}
	}
	return boss, event.TypePowerLevels, ptr(""), g.json(content)
}

// merge ties all loose ends together, by one whom nobody can put out.
func (g *tangle) merge() id.Event {
	loose := maps.Clone(g.events)
	for _, pdu := range g.events {
		for _, prev := range pdu.PrevEvents {
			delete(loose, prev)
		}
	}
	tips := slices.Sorted(maps.Keys(loose))
	for len(tips) > 1 || g.events[tips[0]].Sender != g.admin || g.events[tips[0]].IsState() {
		some := tips[:min(len(tips), 10)]
		pdu := g.build(g.admin, "m.room.message", nil, `{"msgtype":"m.text","body":"merge"}`, some...)
		g.made = append(g.made, pdu)
		tips = append(tips[len(some):], pdu.ID)
	}
	return tips[0]
}

// The other server's side of a join.

func (g *tangle) MakeMembership(_ context.Context, _ id.Server, m store.Membership, _ id.Room, user id.User, _ []string) (room.Template, error) {
	key := string(user)
	proto := event.Proto{Room: g.room, Type: event.TypeMember, Sender: user, StateKey: &key, Content: jsontext.Value(fmt.Sprintf(`{"membership":%q}`, m)),
		PrevEvents: []event.Ref{g.events[g.heads[0]].Ref()}, Depth: g.events[g.heads[0]].Depth + 1, OriginServerTS: 1}
	for _, t := range authrules.Needed(g.v, authrules.Draft{Type: proto.Type, StateKey: &key, Sender: user, Content: proto.Content}) {
		if a := g.after[g.heads[0]][t]; a != nil {
			proto.AuthEvents = append(proto.AuthEvents, a.Ref())
		}
	}
	raw, err := proto.AppendTemplate(nil, g.v)
	return room.Template{RoomVersion: g.v.ID, Event: raw}, err
}

func (g *tangle) SendJoin(ctx context.Context, to id.Server, join *event.PDU, _ bool, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
	g.know(join)
	g.linear(join)
	return room.JoinAnswer{Event: g.raw(join.ID), Origin: to}, g.GetRoomState(ctx, to, g.room, join.ID, each)
}

// witness is a server that somebody of joins the room before it becomes a tangle.
func (g *tangle) witness(n int) *room.Engine {
	server := id.Server(fmt.Sprintf("witness%d.example", n))
	s := storetest.Open(g.t, nil)
	g.t.Cleanup(func() { storetest.Check(g.t, s) })
	e := room.New(s, room.Options{Server: server, KeyID: "ed25519:1", Key: g.key, Network: g, EventCacheBytes: 100 << 10,
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	g.must(e.Join(g.t.Context(), room.Change{Room: g.room, Sender: id.User("@alice:" + string(server)), Via: []id.Server{elsewhere}}))
	g.s = s
	return e
}

// tell sends to a server all events since it joined, in batches, and not quite in order.
func (g *tangle) tell(e *room.Engine) {
	order := slices.Clone(g.made[slices.IndexFunc(g.made, func(pdu *event.PDU) bool { return pdu.Sender.Server() == e.Server() }):])
	window := 1 + g.IntN(12)
	for at := 0; at+window <= len(order); at += 1 + g.IntN(window) {
		part := order[at : at+window]
		g.Shuffle(window, func(i, j int) { part[i], part[j] = part[j], part[i] })
	}
	for len(order) > 0 {
		batch := order[:min(len(order), 1+g.IntN(20))]
		order = order[len(batch):]
		raws := make([]jsontext.Value, len(batch))
		for i, pdu := range batch {
			raws[i] = g.raw(pdu.ID)
		}
		for name, err := range e.Receive(g.t.Context(), elsewhere, g.room, raws) {
			if err != nil && !g.oracle.rejected[name] {
				g.t.Errorf("%s was refused: %v", g.describe(g.events[name]), err)
			}
		}
	}
}

func (g *tangle) describe(pdu *event.PDU) string {
	if pdu == nil {
		return "nothing"
	}
	if !pdu.IsState() {
		return fmt.Sprintf("%s (%s by %s)", pdu.ID, pdu.Type, pdu.Sender)
	}
	return fmt.Sprintf("%s (%s %q by %s: %s)", pdu.ID, pdu.Type, *pdu.StateKey, pdu.Sender, pdu.Content)
}

// stateOf is the current state as a server sees it.
func stateOf(t *testing.T, s *store.Store, e *room.Engine, name id.Room) entries {
	t.Helper()
	h, ok, err := e.Head(t.Context(), name)
	if err != nil || !ok {
		t.Fatalf("head of %s: %t, %v", name, ok, err)
	}
	var nids []store.EventNID
	h.State.All(func(_ store.StateKey, nid store.EventNID) bool { nids = append(nids, nid); return true })
	state := entries{}
	err = s.View(t.Context(), func(tx *store.Tx) error {
		events, err := e.Events(tx, nids)
		for _, ev := range events {
			state[ev.PDU.Tuple()] = ev.PDU
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// Whatever a room's users do at the same time, and in whatever order and parts servers hear of
// it: in the end all see the same state, and it is the one that the specification says. More
// seeds than usual: go test ./room -run Tangle -tangle.seed 100 -tangle.seeds 50
// spec: server-server-api#room-state-resolution
func TestATangleHasOneOutcome(t *testing.T) {
	for _, version := range []string{"2", "6", "10", "11", "12"} {
		for seed := *tangleSeed; seed < *tangleSeed+*tangleSeeds; seed++ {
			t.Run(fmt.Sprintf("version %s, seed %d", version, seed), func(t *testing.T) {
				g := newTangle(t, version, seed)
				var engines []*room.Engine
				var stores []*store.Store
				for n := range 2 {
					engines = append(engines, g.witness(n))
					stores = append(stores, g.s)
				}
				g.start = len(g.made) - 1
				for range 150 {
					g.step()
				}
				last := g.merge()
				for n, e := range engines {
					g.tell(e)
					g.wantStates(e)
					for what, state := range map[string]entries{
						"in memory": stateOf(t, stores[n], e, g.room),
						"stored":    stateOf(t, stores[n], room.New(stores[n], room.Options{Server: e.Server()}), g.room),
					} {
						g.compare(state, g.after[last], fmt.Sprintf("server %d, %s", n, what))
					}
				}
			})
		}
	}
}

// wantStates compares what a server says of the state before each event.
func (g *tangle) wantStates(e *room.Engine) {
	g.t.Helper()
	for _, pdu := range g.made[g.start+1:] {
		if g.oracle.rejected[pdu.ID] {
			continue
		}
		answer, err := e.ServeState(g.t.Context(), elsewhere, g.room, pdu.ID)
		g.must(err)
		names, err := answer.State.IDs(g.t.Context())
		g.must(err)
		got := entries{}
		for _, name := range names {
			got[g.events[name].Tuple()] = g.events[name]
		}
		if g.compare(got, g.before(pdu.ID), "the state before "+g.describe(pdu)); g.t.Failed() {
			return
		}
	}
}

func (g *tangle) compare(got, want entries, what string) {
	g.t.Helper()
	for key := range want {
		if got[key] == nil || got[key].ID != want[key].ID {
			g.t.Errorf("%s: %v is %s, want %s", what, key, g.describe(got[key]), g.describe(want[key]))
		}
	}
	for key, pdu := range got {
		if want[key] == nil {
			g.t.Errorf("%s: %v is %s, want nothing", what, key, g.describe(pdu))
		}
	}
}
