package room_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

const (
	elsewhere     = id.Server("elsewhere.example")
	remoteCharlie = id.User("@charlie:elsewhere.example")
)

// peer is another server, as far as a test lets it be one: it builds events on any
// part of the history, and answers from what it has built.
type peer struct {
	t      *testing.T
	e      *room.Engine
	s      *store.Store
	v      *roomversion.Version
	room   id.Room
	key    ed25519.PrivateKey
	events map[id.Event]*event.PDU
	// after is the state after events, as this server sees it.
	after map[id.Event]entries
	// hides are events that it does not hand out as missing ones, nor by name unless they are state.
	hides map[id.Event]bool
	// refuses are events that it has rejected, and hands out by name only.
	refuses map[id.Event]bool
	// forged are events whose signatures are not valid.
	forged map[id.Event]bool
	// asked is what it was asked for. An engine asks from several goroutines: mu guards it, and what a guest notes.
	mu    *sync.Mutex
	asked []string
	// policy is what it says to being asked, as the policy server, to sign an event.
	policy func(*event.PDU) (map[id.Server]map[id.Key]string, error)
	// template and welcome are what it answers to who wants to join by way of it.
	template func(store.Membership, id.Room, id.User) room.Template
	welcome  func(join *event.PDU, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error)
	// claims is what it says of every state, instead of the truth.
	claims []id.Event
	// states says at which event a server tells the state that another asks for; nil: at that.
	states func(from id.Server, at id.Event) (id.Event, error)
	// down are events that it cannot hand out just now, for some trouble of its own.
	down map[id.Event]bool
	// seemDown are servers that could not be reached lately.
	seemDown map[id.Server]bool
	// liar is a server that answers with other events than those it is asked for.
	liar id.Server
	// oracle resolves the states of branches; nil: the peer has none that compete.
	oracle *oracle
}

// emptyPeer is a server without a room or an engine.
func emptyPeer(t *testing.T, version string) *peer {
	v, _ := roomversion.Get(version)
	return &peer{t: t, v: v, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), mu: new(sync.Mutex),
		events: map[id.Event]*event.PDU{}, after: map[id.Event]entries{}, hides: map[id.Event]bool{}, forged: map[id.Event]bool{}}
}

func newPeer(t *testing.T, s *store.Store, version string) *peer {
	t.Helper()
	p := emptyPeer(t, version)
	p.s = s
	p.e = room.New(s, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: p,
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
	t.Cleanup(func() { storetest.Check(t, s) })
	var err error
	p.room, err = p.e.Create(t.Context(), room.Creation{Creator: alice, Version: version, Preset: "public_chat"})
	p.must(err)
	p.learn()
	p.deliver(p.member(remoteCharlie, "join", p.newest()))
	return p
}

func (p *peer) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// learn takes over what the server has in its timeline.
func (p *peer) learn() {
	p.t.Helper()
	for _, ev := range timeline(p.t, p.s, p.e, p.room) {
		p.know(ev.PDU)
	}
}

func (p *peer) know(pdu *event.PDU) {
	if p.events[pdu.ID] != nil {
		return
	}
	p.events[pdu.ID] = pdu
	state := maps.Clone(p.meet(pdu.PrevEvents))
	if pdu.IsState() && (p.oracle == nil || !p.oracle.rejected[pdu.ID]) {
		state[pdu.Tuple()] = pdu
	}
	p.after[pdu.ID] = state
}

// meet is the state after several events.
func (p *peer) meet(names []id.Event) entries {
	if p.oracle != nil && len(names) > 0 {
		var sets []entries
		for _, name := range names {
			sets = append(sets, p.after[name])
		}
		return p.oracle.resolve(sets)
	}
	state := entries{}
	for _, name := range names {
		maps.Copy(state, p.after[name])
	}
	return state
}

func (p *peer) newest() id.Event {
	all := timeline(p.t, p.s, p.e, p.room)
	return all[len(all)-1].ID
}

// build makes an event after others, which the peer knows from then on.
func (p *peer) build(sender id.User, typ string, key *string, content string, prev ...id.Event) *event.PDU {
	p.t.Helper()
	return p.made(p.proto(sender, typ, key, content, prev...))
}

// proto is what build makes an event of.
func (p *peer) proto(sender id.User, typ string, key *string, content string, prev ...id.Event) event.Proto {
	proto := event.Proto{Room: p.room, Type: typ, StateKey: key, Sender: sender, Content: jsontext.Value(content), OriginServerTS: 1_700_000_000_000 + int64(len(p.events))}
	state := p.meet(prev)
	var depths []int64
	for _, name := range prev {
		proto.PrevEvents = append(proto.PrevEvents, p.events[name].Ref())
		depths = append(depths, p.events[name].Depth)
	}
	proto.Depth = event.NextDepth(p.v, depths...)
	for _, t := range authrules.Needed(p.v, authrules.Draft{Type: typ, StateKey: key, Sender: sender, Content: proto.Content}) {
		if a := state[t]; a != nil {
			proto.AuthEvents = append(proto.AuthEvents, a.Ref())
		}
	}
	if p.v.EventID == roomversion.EventIDField {
		proto.EventID = id.Event(fmt.Sprintf("$%d:%s", len(p.events), elsewhere))
	}
	return proto
}

// made makes an event that need not be as it should, which the peer knows from then on.
func (p *peer) made(proto event.Proto) *event.PDU {
	p.t.Helper()
	pdu, err := event.Build(p.v, proto, proto.Sender.Server(), "ed25519:1", p.key)
	p.must(err)
	p.know(pdu)
	return pdu
}

// citing makes an event that has one more among its auth events.
func (p *peer) citing(auth *event.PDU, proto event.Proto) *event.PDU {
	p.t.Helper()
	proto.AuthEvents = append([]event.Ref{auth.Ref()}, proto.AuthEvents...)
	return p.made(proto)
}

func (p *peer) say(body string, prev ...id.Event) *event.PDU {
	p.t.Helper()
	return p.build(remoteCharlie, "m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body), prev...)
}

func (p *peer) set(sender id.User, typ, content string, prev ...id.Event) *event.PDU {
	p.t.Helper()
	key := ""
	return p.build(sender, typ, &key, content, prev...)
}

func (p *peer) member(user id.User, membership string, prev ...id.Event) *event.PDU {
	p.t.Helper()
	key := string(user)
	return p.build(user, event.TypeMember, &key, fmt.Sprintf(`{"membership":%q}`, membership), prev...)
}

// deliver sends events to the server and wants them to be taken.
func (p *peer) deliver(pdus ...*event.PDU) {
	p.t.Helper()
	for name, err := range p.send(pdus...) {
		if err != nil {
			p.t.Fatalf("%s: %v", name, err)
		}
	}
}

func (p *peer) send(pdus ...*event.PDU) map[id.Event]error {
	raws := make([]jsontext.Value, len(pdus))
	for i, pdu := range pdus {
		raws[i] = jsontext.Value(event.AppendFederation(nil, pdu, nil))
	}
	return p.e.Receive(p.t.Context(), elsewhere, p.room, raws)
}

// local sends as alice, who is on the server.
func (p *peer) local(typ, content string) id.Event {
	p.t.Helper()
	proposal := room.Proposal{Sender: alice, Type: typ, Content: jsontext.Value(content)}
	if typ != "m.room.message" {
		key := ""
		proposal.StateKey = &key
	}
	ev, err := p.e.Send(p.t.Context(), p.room, proposal)
	p.must(err)
	p.learn()
	return ev
}

func (p *peer) state(typ, key string) (content string) {
	p.t.Helper()
	p.must(p.s.View(p.t.Context(), func(tx *store.Tx) error {
		row, _, err := tx.Rooms.Get(p.room)
		if err != nil {
			return err
		}
		ev, err := p.e.StateNow(tx, row, event.StateTuple{Type: typ, Key: key})
		if err == nil && ev != nil {
			content = string(ev.PDU.Content)
		}
		return err
	}))
	return content
}

func (p *peer) want(typ, key, content string) {
	p.t.Helper()
	if got := p.state(typ, key); got != content {
		p.t.Errorf("%s of the current state is %s, want %s", typ, got, content)
	}
}

// shown are the bodies of the timeline's messages.
func (p *peer) shown() (bodies []string) {
	p.t.Helper()
	for _, ev := range timeline(p.t, p.s, p.e, p.room) {
		if ev.PDU.Type == "m.room.message" {
			bodies = append(bodies, ev.PDU.ContentString("body"))
		}
	}
	return bodies
}

func (p *peer) wantShown(bodies ...string) {
	p.t.Helper()
	if got := p.shown(); !slices.Equal(got, bodies) {
		p.t.Errorf("the timeline shows %q, want %q", got, bodies)
	}
}

func (p *peer) extremities() []id.Event {
	p.t.Helper()
	h, _, err := p.e.Head(p.t.Context(), p.room)
	p.must(err)
	var names []id.Event
	p.must(p.s.View(p.t.Context(), func(tx *store.Tx) error {
		events, err := p.e.Events(tx, h.Extremities)
		for _, ev := range events {
			names = append(names, ev.ID)
		}
		return err
	}))
	slices.Sort(names)
	return names
}

func (p *peer) wantExtremities(names ...id.Event) {
	p.t.Helper()
	slices.Sort(names)
	if got := p.extremities(); !slices.Equal(got, names) {
		p.t.Errorf("the extremities are %v, want %v", got, names)
	}
}

func (p *peer) raw(name id.Event) jsontext.Value {
	return jsontext.Value(event.AppendFederation(nil, p.events[name], nil))
}

// The peer's side of the network.

func (p *peer) VerifyEvents(_ context.Context, _ id.Server, events []*event.PDU) []error {
	errs := make([]error, len(events))
	for i, pdu := range events {
		if p.forged[pdu.ID] {
			errs[i] = fmt.Errorf("forged")
		}
	}
	return errs
}

func (p *peer) noteAsked(what string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
}

func (p *peer) GetMissingEvents(_ context.Context, _ id.Server, _ id.Room, q room.MissingEvents) (list []jsontext.Value, err error) {
	p.noteAsked("missing")
	seen := map[id.Event]bool{}
	var found []id.Event
	for queue := slices.Clone(q.Latest); len(queue) > 0 && len(found) < q.Limit; queue = queue[1:] {
		for _, prev := range p.events[queue[0]].PrevEvents {
			if !seen[prev] && p.events[prev] != nil && !p.hides[prev] && !slices.Contains(q.Earliest, prev) {
				seen[prev] = true
				queue = append(queue, prev)
				if !p.refuses[prev] {
					found = append(found, prev)
				}
			}
		}
	}
	for _, name := range found {
		list = append(list, p.raw(name))
	}
	return list, nil
}

func (p *peer) Backfill(_ context.Context, _ id.Server, _ id.Room, before []id.Event, limit int) (list []jsontext.Value, err error) {
	for queue := slices.Clone(before); len(queue) > 0 && len(list) < limit; queue = queue[1:] {
		if pdu := p.events[queue[0]]; pdu != nil {
			queue = append(queue, pdu.PrevEvents...)
			if !p.refuses[pdu.ID] {
				list = append(list, p.raw(pdu.ID))
			}
		}
	}
	return list, nil
}

func (p *peer) GetEvent(_ context.Context, from id.Server, name id.Event) (jsontext.Value, error) {
	if from == p.liar {
		return p.raw(p.newest()), nil
	}
	if p.down[name] {
		return nil, errcode.New(504, "M_UNKNOWN", "it takes too long")
	}
	if pdu := p.events[name]; pdu == nil || p.hides[name] && !pdu.IsState() {
		return nil, errcode.NotFound("no such event")
	}
	return p.raw(name), nil
}

func (p *peer) GetEventAuth(_ context.Context, _ id.Server, _ id.Room, name id.Event) (list []jsontext.Value, err error) {
	for _, pdu := range p.chain(p.events[name]) {
		list = append(list, p.raw(pdu.ID))
	}
	return list, nil
}

func (p *peer) chain(of ...*event.PDU) (list []*event.PDU) {
	seen := map[id.Event]bool{}
	for queue := of; len(queue) > 0; queue = queue[1:] {
		for _, name := range queue[0].AuthEvents {
			if pdu := p.events[name]; !seen[name] && pdu != nil {
				seen[name] = true
				list, queue = append(list, pdu), append(queue, pdu)
			}
		}
	}
	return list
}

func (p *peer) before(name id.Event) entries {
	return p.meet(p.events[name].PrevEvents)
}

func (p *peer) GetRoomStateIDs(_ context.Context, from id.Server, _ id.Room, at id.Event) (state, chain []id.Event, err error) {
	p.noteAsked("state_ids")
	if p.states != nil {
		if at, err = p.states(from, at); err != nil {
			return nil, nil, err
		}
	}
	if p.claims != nil {
		return p.claims, nil, nil
	}
	for _, pdu := range p.before(at) {
		state = append(state, pdu.ID)
		for _, a := range p.chain(pdu) {
			chain = append(chain, a.ID)
		}
	}
	return state, chain, nil
}

func (p *peer) GetRoomState(_ context.Context, _ id.Server, _ id.Room, at id.Event, each func(room.StatePart, jsontext.Value) error) error {
	for _, pdu := range p.before(at) {
		if err := each(room.InState, p.raw(pdu.ID)); err != nil {
			return err
		}
		for _, a := range p.chain(pdu) {
			if err := each(room.InAuthChain, p.raw(a.ID)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *peer) TimestampToEvent(context.Context, id.Server, id.Room, int64, bool) (id.Event, int64, error) {
	return "", 0, errcode.NotFound("not asked for here")
}

func (p *peer) Down(server id.Server) (time.Time, bool) { return time.Time{}, p.seemDown[server] }

func (p *peer) MakeMembership(_ context.Context, _ id.Server, m store.Membership, name id.Room, user id.User, _ []string) (room.Template, error) {
	if p.template != nil {
		return p.template(m, name, user), nil
	}
	return room.Template{}, errcode.NotFound("not asked for here")
}

func (p *peer) SendJoin(_ context.Context, _ id.Server, join *event.PDU, _ bool, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
	if p.welcome != nil {
		return p.welcome(join, each)
	}
	return room.JoinAnswer{}, errcode.NotFound("not asked for here")
}

func (p *peer) SendKnock(context.Context, id.Server, *event.PDU) (jsontext.Value, error) {
	return nil, errcode.NotFound("not asked for here")
}

func (p *peer) SendLeave(context.Context, id.Server, *event.PDU) error {
	return errcode.NotFound("not asked for here")
}

func (p *peer) SendInvite(context.Context, id.Server, *event.PDU, jsontext.Value) (jsontext.Value, error) {
	return nil, errcode.NotFound("not asked for here")
}

func (p *peer) SignByPolicyServer(_ context.Context, _ id.Server, pdu *event.PDU) (map[id.Server]map[id.Key]string, error) {
	p.noteAsked("policy")
	if p.policy == nil {
		return nil, errcode.NotFound("not asked for here")
	}
	return p.policy(pdu)
}

func (p *peer) ExchangeThirdPartyInvite(context.Context, id.Server, id.Room, jsontext.Value) error {
	return errcode.NotFound("not asked for here")
}

// each runs a test in a room version of each way to resolve states.
func eachResolution(t *testing.T, fn func(t *testing.T, p *peer)) {
	for _, version := range []string{"1", "6", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) { fn(t, newPeer(t, storetest.Open(t, nil), version)) })
	}
}

func TestBranchesMeet(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		levels := fmt.Sprintf(`{"users":{%q:100,%q:50}}`, alice, remoteCharlie)
		if p.v.PrivilegedCreators {
			levels = fmt.Sprintf(`{"users":{%q:50}}`, remoteCharlie)
		}
		root := p.local("m.room.power_levels", levels)
		name := p.local("m.room.name", `{"name":"from here"}`)
		topic := p.set(remoteCharlie, "m.room.topic", `{"topic":"from elsewhere"}`, root)
		said := p.say("on the branch", topic.ID)
		p.deliver(topic, said)
		p.wantExtremities(name, said.ID)
		p.want("m.room.name", "", `{"name":"from here"}`)
		p.want("m.room.topic", "", `{"topic":"from elsewhere"}`)

		merge := p.local("m.room.message", `{"msgtype":"m.text","body":"both"}`)
		p.wantExtremities(merge)
		after := p.say("after both", merge)
		p.deliver(after)
		p.wantExtremities(after.ID)
		p.wantShown("on the branch", "both", "after both")
	})
}

func TestCompetingChangesHaveOneOutcome(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		levels := fmt.Sprintf(`{"users":{%q:100,%q:50}}`, alice, remoteCharlie)
		if p.v.PrivilegedCreators {
			levels = fmt.Sprintf(`{"users":{%q:50}}`, remoteCharlie)
		}
		root := p.local("m.room.power_levels", levels)
		p.local("m.room.topic", `{"topic":"here"}`)
		older := p.set(remoteCharlie, "m.room.topic", `{"topic":"elsewhere"}`, root)
		p.deliver(older)
		outcome := p.state("m.room.topic", "")
		// A server that knows nothing in memory sees the same.
		fresh := *p
		fresh.e = room.New(p.s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: p})
		fresh.want("m.room.topic", "", outcome)
		if len(p.extremities()) != 2 {
			t.Errorf("%v", p.extremities())
		}
	})
}

// tuw 1.9.0: what only the current state does not allow is soft-failed, and not rejected.
func TestEventsOfTheBannedAreSoftFailed(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.newest()
		p.must(p.e.Ban(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteCharlie}))
		ban := p.newest()
		late := p.say("before I heard of it", root)
		if err := p.send(late)[late.ID]; err != nil {
			t.Errorf("a soft failure is not told: %v", err)
		}
		p.wantShown()
		p.wantExtremities(ban)
		// What comes after it, and after the ban, is judged by itself.
		p.learn()
		p.local("m.room.message", `{"msgtype":"m.text","body":"peace"}`)
		p.wantShown("peace")
	})
}

func TestEventsThatWereNeverAllowedAreRejected(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.newest()
		coup := p.set(remoteCharlie, "m.room.power_levels", fmt.Sprintf(`{"users":{%q:100}}`, remoteCharlie), root)
		code := p.send(coup)[coup.ID]
		wantCode(t, code, "M_FORBIDDEN")
		p.wantExtremities(root)
		// An event that is authorised by a rejected one is rejected too.
		next := p.set(remoteCharlie, "m.room.topic", `{"topic":"mine"}`, coup.ID)
		wantCode(t, p.send(next)[next.ID], "M_FORBIDDEN")
		p.want("m.room.topic", "", "")
	})
}

// con#1711: it did.
func TestOneBadEventDoesNotConcernTheOthers(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.newest()
		forged, good := p.say("forged", root), p.say("good", root)
		p.forged[forged.ID] = true
		results := p.send(forged, good)
		wantCode(t, results[forged.ID], "M_FORBIDDEN")
		if results[good.ID] != nil {
			t.Error(results[good.ID])
		}
		p.wantShown("good")
	})
}

// con#1711: several events of a room in one transaction have an order.
func TestMissingEventsAreFetchedAndInOrder(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		one := p.say("one", p.newest())
		two := p.say("two", one.ID)
		three := p.say("three", two.ID)
		four := p.say("four", three.ID)
		p.deliver(four, three) // in the wrong order
		p.wantShown("one", "two", "three", "four")
		p.wantExtremities(four.ID)
	})
}

// lost is an event that nobody lists, a rename after it, and the last.
func (p *peer) lost() (lost, rename, last *event.PDU) {
	p.t.Helper()
	lost = p.say("lost", p.newest())
	rename = p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"membership":"join","displayname":"Charlie"}`, lost.ID)
	last = p.say("last", rename.ID)
	p.hides[lost.ID] = true
	return lost, rename, last
}

func TestAGapIsBridgedByTheStateOfAnotherServer(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		start := p.newest()
		lost, rename, last := p.lost()
		p.deliver(last)
		p.wantShown("last")
		p.want(event.TypeMember, string(remoteCharlie), `{"displayname":"Charlie","membership":"join"}`)
		p.wantExtremities(start, last.ID)
		// What was missing comes late: it is no news, but tells what came after what.
		p.deliver(lost, rename)
		p.wantExtremities(last.ID)
		merge := p.local("m.room.message", `{"msgtype":"m.text","body":"on"}`)
		p.wantExtremities(merge)
	})
}

// Where nobody knows the state after what is missing, whoever made what comes after it knows which state that met.
func TestAGapIsBridgedByTheStateThatTheNextEventMet(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		lost, _, last := p.lost()
		p.states = func(_ id.Server, at id.Event) (id.Event, error) {
			if at == lost.ID {
				return at, errcode.NotFound("the state there is not known here")
			}
			return at, nil
		}
		p.deliver(last)
		p.wantShown("last")
		p.want(event.TypeMember, string(remoteCharlie), `{"displayname":"Charlie","membership":"join"}`)
	})
}

// That goes for what is sent unasked, too, if what came before it is handed over.
func TestWhatCameBeforeNeedNotBeJudged(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		lost := p.say("lost", p.newest())
		between := p.say("between", lost.ID)
		last := p.say("last", between.ID)
		p.hides[lost.ID] = true
		p.states = func(_ id.Server, at id.Event) (id.Event, error) {
			if at != last.ID {
				return at, errcode.NotFound("the state there is not known here")
			}
			return at, nil
		}
		p.deliver(last)
		p.wantShown("last")
	})
}

// What a server sends unasked it has to explain: the state before it is not for that
// server alone to say.
func TestAnEventIsLeftWhoseServerKeepsBackWhatCameBefore(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		start := p.newest()
		kept := p.say("kept back", start)
		last := p.say("last", kept.ID)
		p.hides[kept.ID] = true
		p.asked = nil
		p.deliver(last)
		p.wantShown()
		p.wantExtremities(start)
		if !slices.Equal(p.asked, []string{"missing"}) {
			t.Errorf("the server was asked for %v", p.asked)
		}
		p.hides[kept.ID] = false
		p.deliver(p.say("more", last.ID))
		p.wantShown("kept back", "last", "more")
	})
}

// A chain of auth events with a hole in it is none, and nothing after the hole counts.
func TestStateWithAHoleInItsAuthChainIsNotTaken(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		start := p.newest()
		at := start
		var names []*event.PDU
		for _, name := range []string{"A", "B", "C", "D"} {
			names = append(names, p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), fmt.Sprintf(`{"membership":"join","displayname":%q}`, name), at))
			at = names[len(names)-1].ID
		}
		unseen := p.say("unseen", at)
		before := p.say("before", unseen.ID)
		last := p.say("last", before.ID)
		other := p.say("on another branch", start)
		p.hides[unseen.ID] = true
		delete(p.events, names[1].ID) // B cannot be had
		p.asked = nil
		p.deliver(last)
		if !slices.Contains(p.asked, "state_ids") {
			t.Errorf("the state was not asked for: %v", p.asked)
		}
		p.deliver(other)
		p.wantShown("on another branch")
		p.want(event.TypeMember, string(remoteCharlie), `{"membership":"join"}`)
	})
}

func TestARedactionMayComeBeforeItsTarget(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		target := p.say("secret", p.newest())
		content := fmt.Sprintf(`{"redacts":%q}`, target.ID)
		redaction := p.redact(target, content)
		p.deliver(redaction)
		p.deliver(target)
		for _, ev := range timeline(t, p.s, p.e, p.room) {
			if ev.ID == target.ID && (ev.RedactedBy == 0 || ev.PDU.ContentString("body") != "") {
				t.Errorf("%+v", ev)
			}
		}
	})
}

// Moderators need not wait until their server knows what they heard of elsewhere.
func TestModeratorsRedactWhatIsNotKnownHere(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		p.must(p.e.Join(t.Context(), room.Change{Room: p.room, Sender: bob}))
		p.learn()
		target := p.say("secret", p.newest())
		if _, err := p.e.Redact(t.Context(), p.room, room.Proposal{Sender: bob, Redacts: target.ID, Content: jsontext.Value(`{}`)}); codeOf(err) != "M_NOT_FOUND" {
			t.Errorf("bob, who may redact his own events only: %v", err)
		}
		_, err := p.e.Redact(t.Context(), p.room, room.Proposal{Sender: alice, Redacts: target.ID, Content: jsontext.Value(`{}`)})
		p.must(err)
		p.deliver(target)
		p.wantShown("")
	})
}

// redact builds a redaction on the event before its target's.
func (p *peer) redact(target *event.PDU, content string) *event.PDU {
	p.t.Helper()
	proto := event.Proto{Room: p.room, Type: event.TypeRedaction, Sender: remoteCharlie, Content: jsontext.Value(content), Redacts: target.ID,
		OriginServerTS: 1_800_000_000_000, Depth: target.Depth}
	for _, name := range target.PrevEvents {
		proto.PrevEvents = append(proto.PrevEvents, p.events[name].Ref())
	}
	for _, name := range target.AuthEvents {
		proto.AuthEvents = append(proto.AuthEvents, p.events[name].Ref())
	}
	if p.v.EventID == roomversion.EventIDField {
		proto.EventID = id.Event(fmt.Sprintf("$redaction:%s", elsewhere))
	}
	pdu, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
	p.must(err)
	p.know(pdu)
	return pdu
}

func ptr[T any](v T) *T { return &v }
