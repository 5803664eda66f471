package room_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// What went wrong in other servers, each by the name of docs/lessons.md.

// syn 1.2.1: to redact the create event downgraded the room, and redactions that redact
// each other never ended.
func TestSyn1_2_1_RedactionsDoNoHarm(t *testing.T) {
	for _, version := range []string{"1", "3", "10", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), version)
			levels := fmt.Sprintf(`{"users":{%q:100,%q:100}}`, alice, remoteCharlie)
			if p.v.PrivilegedCreators {
				levels = fmt.Sprintf(`{"users":{%q:100}}`, remoteCharlie)
			}
			p.local("m.room.power_levels", levels)
			h, _, err := p.e.Head(t.Context(), p.room)
			p.must(err)
			redact := func(target id.Event, name string, prev id.Event) *event.PDU {
				proto := event.Proto{Room: p.room, Type: event.TypeRedaction, Sender: remoteCharlie, Redacts: target, OriginServerTS: 1_800_000_000_000,
					Content: jsontext.Value(fmt.Sprintf(`{"redacts":%q}`, target)), Depth: p.events[prev].Depth + 1, PrevEvents: []event.Ref{p.events[prev].Ref()}}
				for _, tuple := range []event.StateTuple{{Type: event.TypeCreate}, {Type: event.TypePowerLevels}, {Type: event.TypeMember, Key: string(remoteCharlie)}} {
					if tuple.Type != event.TypeCreate || p.v.CreateInAuthEvents {
						proto.AuthEvents = append(proto.AuthEvents, p.after[prev][tuple].Ref())
					}
				}
				if p.v.EventID == roomversion.EventIDField {
					proto.EventID = id.Event(name)
				}
				pdu, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
				p.must(err)
				p.know(pdu)
				return pdu
			}
			one := redact(h.Create.ID, "$one:elsewhere.example", p.newest())
			p.deliver(one)
			if p.v.EventID == roomversion.EventIDField {
				// Only where ids are chosen can two name each other.
				two := redact("$three:elsewhere.example", "$two:elsewhere.example", one.ID)
				three := redact("$two:elsewhere.example", "$three:elsewhere.example", two.ID)
				self := redact("$self:elsewhere.example", "$self:elsewhere.example", three.ID)
				p.deliver(two, three, self)
			}
			// A server that knows nothing in memory goes on.
			fresh := *p
			fresh.e = room.New(p.s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: p})
			fresh.text("still here")
			fresh.wantShown("still here")
			h, _, err = fresh.e.Head(t.Context(), p.room)
			p.must(err)
			if h.Version.ID != version || h.Levels.UserLevel(alice) < 100 {
				t.Errorf("version %s, alice has %d", h.Version.ID, h.Levels.UserLevel(alice))
			}
		})
	}
}

// syn 1.7.1, MSC4307: auth events of another room were accepted, by which its members
// took over this one.
func TestSyn1_7_1_AuthEventsOfAnotherRoom(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		// Charlie rules another room, which is known here.
		other, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: p.v.ID, Preset: "public_chat"})
		p.must(err)
		second := p.inRoom(other)
		second.deliver(second.member(remoteCharlie, "join", second.newest()))
		levels := second.local("m.room.power_levels", fmt.Sprintf(`{"users":{%q:99}}`, remoteCharlie))
		root := p.newest()
		proto := event.Proto{Room: p.room, Type: "m.room.name", StateKey: new(string), Sender: remoteCharlie, Content: jsontext.Value(`{"name":"mine"}`),
			OriginServerTS: 1_800_000_000_000, Depth: p.events[root].Depth + 1, PrevEvents: []event.Ref{p.events[root].Ref()}}
		if p.v.CreateInAuthEvents {
			proto.AuthEvents = append(proto.AuthEvents, p.after[root][event.StateTuple{Type: event.TypeCreate}].Ref())
		}
		proto.AuthEvents = append(proto.AuthEvents, second.events[levels].Ref(), p.after[root][event.StateTuple{Type: event.TypeMember, Key: string(remoteCharlie)}].Ref())
		if p.v.EventID == roomversion.EventIDField {
			proto.EventID = "$mine:elsewhere.example"
		}
		coup, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
		p.must(err)
		p.know(coup)
		wantCode(t, p.send(coup)[coup.ID], "M_FORBIDDEN")
		p.want("m.room.name", "", "")
		p.wantExtremities(root)
		p.wantFlags(coup.ID, store.Rejected)
		p.mergesBranches()
	})
}

// inRoom is the same server in another room. Its events have other ids, where they are chosen.
func (p *peer) inRoom(name id.Room) *peer {
	second := *p
	second.room, second.events, second.after = name, map[id.Event]*event.PDU{}, map[id.Event]map[event.StateTuple]*event.PDU{}
	for i := range 100 {
		second.events[id.Event(fmt.Sprint(i))] = nil
	}
	second.learn()
	return &second
}

// mergesBranches makes a state that has to be resolved, which takes the auth graph.
func (p *peer) mergesBranches() {
	p.t.Helper()
	root := p.newest()
	p.local("m.room.topic", `{"topic":"of this branch"}`)
	p.deliver(p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"displayname":"of that branch","membership":"join"}`, root))
	p.want("m.room.topic", "", `{"topic":"of this branch"}`)
	p.want(event.TypeMember, string(remoteCharlie), `{"displayname":"of that branch","membership":"join"}`)
	p.text("merged")
}

// wantFlags checks what the server remembers of an event.
func (p *peer) wantFlags(name id.Event, want store.EventFlags) {
	p.t.Helper()
	p.must(p.s.View(p.t.Context(), func(tx *store.Tx) error {
		row, ok, err := tx.Events.Know(name)
		if err == nil && (!ok || row.Flags&^(store.Stateless|store.Guessed) != want) {
			p.t.Errorf("%s is known (%t) with flags %b, want %b", name, ok, row.Flags, want)
		}
		return err
	}))
}

// wantUnknown checks that the server could not judge an event.
func (p *peer) wantUnknown(name id.Event) {
	p.t.Helper()
	p.must(p.s.View(p.t.Context(), func(tx *store.Tx) error {
		row, ok, err := tx.Events.Know(name)
		if ok && row.Flags&store.Outlier == 0 {
			p.t.Errorf("%s is part of the history, with flags %b", name, row.Flags)
		}
		return err
	}))
}

// syn 1.15.2: a server could have the state replaced by a small part of it, by telling
// only that of an event which nobody else knows.
func TestSyn1_15_2_NobodyResetsTheStateToAPartOfIt(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		p.local("m.room.name", `{"name":"a room"}`)
		p.local("m.room.topic", `{"topic":"a topic"}`)
		kept := p.state("m.room.power_levels", "")
		lost := p.say("lost", p.newest())
		last := p.say("last", lost.ID)
		p.hides[lost.ID] = true
		for tuple, pdu := range p.after[lost.ID] {
			if tuple.Type == event.TypeCreate || tuple.Key == string(remoteCharlie) {
				p.claims = append(p.claims, pdu.ID)
			}
		}
		p.send(last)
		p.want("m.room.name", "", `{"name":"a room"}`)
		p.want("m.room.topic", "", `{"topic":"a topic"}`)
		p.want("m.room.power_levels", "", kept)
		p.text("still here")
	})
}

// CVE-2022-39200: what get_missing_events returned was not verified. Whatever way an
// event comes, it is verified in the same place.
func TestCVE_2022_39200_EventsOfEverySourceAreVerified(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		missing := p.say("forged and missing", p.newest())
		p.forged[missing.ID] = true
		p.send(p.say("after it", missing.ID))
		// In a state, and in its auth chain.
		rename := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"membership":"join","displayname":"Forged"}`, p.newest())
		p.forged[rename.ID], p.hides[rename.ID] = true, true
		p.send(p.say("with a forged state", rename.ID))
		if slices.Contains(p.shown(), "forged and missing") {
			t.Errorf("%q", p.shown())
		}
		if strings.Contains(p.state(event.TypeMember, string(remoteCharlie)), "Forged") {
			t.Error(p.state(event.TypeMember, string(remoteCharlie)))
		}
		p.must(p.s.View(t.Context(), func(tx *store.Tx) error {
			for name := range p.forged {
				if _, ok, err := tx.Events.Know(name); ok || err != nil {
					t.Errorf("%s is kept: %v", name, err)
				}
			}
			return nil
		}))
	})
}

// CVE-2025-30355: numbers that were let in could not be sent on, so that a server was cut
// off from all others. What comes in goes out.
func TestCVE_2025_30355_WhatComesInGoesOut(t *testing.T) {
	for _, v := range roomversion.All() {
		t.Run("version "+v.ID, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), v.ID)
			for i, number := range []string{"9007199254740991", "9007199254740992", "-9007199254740992", "9223372036854775807", "9223372036854775808", "1e300", "1.5", "-0"} {
				for _, where := range []string{"depth", "origin_server_ts", "content"} {
					good := p.say(fmt.Sprintf("number %d", i), p.newest())
					js := string(good.JSON)
					switch where {
					case "content":
						js = strings.Replace(js, `"msgtype"`, `"a":`+number+`,"msgtype"`, 1)
					default:
						at := strings.Index(js, `"`+where+`":`) + len(where) + 3
						end := at + strings.IndexAny(js[at:], ",}")
						js = js[:at] + number + js[end:]
					}
					p.e.Receive(t.Context(), elsewhere, p.room, []jsontext.Value{jsontext.Value(js)})
					p.learn()
				}
			}
			p.learn()
			last := p.text("the last")
			raws, err := p.e.ServeBackfill(t.Context(), elsewhere, p.room, []id.Event{last}, 100)
			p.must(err)
			p.parsed(raws) // other servers can read them all
			for _, ev := range timeline(t, p.s, p.e, p.room) {
				if raw := jsontext.Value(event.AppendClient(nil, ev.PDU, event.ClientOptions{})); !raw.IsValid() {
					t.Errorf("clients get %s", raw)
				}
			}
		})
	}
}

// CVE-2026-24471, tuw 1.4.9: templates of other servers were signed as they came. Of a
// template nothing decides what our user signs.
func TestCVE_2026_24471_TemplatesDecideNothing(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	var seen *event.PDU
	p.template = func(m store.Membership, _ id.Room, _ id.User) room.Template {
		return room.Template{RoomVersion: "11", Event: jsontext.Value(`{"type":"m.room.power_levels","state_key":"","sender":"@bob:localhost",
			"room_id":"!victim:localhost","content":{"membership":"ban","users":{"@charlie:elsewhere.example":100},"join_authorised_via_users_server":"@c:elsewhere.example"},
			"origin_server_ts":5,"redacts":"$x","hashes":{"sha256":"x"},"signatures":{},"unsigned":{"a":1},"depth":7,"prev_events":[],"auth_events":[]}`)}
	}
	p.welcome = func(join *event.PDU, _ func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
		seen = join
		return room.JoinAnswer{}, nil
	}
	if err := p.e.Join(t.Context(), room.Change{Room: "!other:elsewhere.example", Sender: bob, Via: []id.Server{elsewhere}}); err == nil {
		t.Error("bob is in a room of which nobody told anything")
	}
	if seen == nil {
		t.Fatal("no join was handed in")
	}
	if seen.Type != event.TypeMember || *seen.StateKey != string(bob) || seen.Sender != bob || seen.Room != "!other:elsewhere.example" || seen.Redacts != "" ||
		string(seen.Content) != `{"join_authorised_via_users_server":"@c:elsewhere.example","membership":"join"}` || seen.OriginServerTS == 5 {
		t.Errorf("bob signed %s", seen.JSON)
	}
}

// con 0.5.4: events in the answer to a join were taken as they came.
func TestCon0_5_4_EvilEventsInTheAnswerToAJoin(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		// The room is made on a server of its own, by the peer, and joined from here.
		away := newPeer(t, storetest.Open(t, nil), p.v.ID)
		at := away.newest()
		fake := away.set(remoteCharlie, "m.room.power_levels", fmt.Sprintf(`{"users":{%q:100}}`, remoteCharlie), at)
		forged := away.build(alice, "m.room.topic", new(string), `{"topic":"forged"}`, at)
		other := p.events[p.newest()]
		said := away.say("no state", at)
		p.template = func(store.Membership, id.Room, id.User) room.Template {
			template, err := away.e.MakeJoin(t.Context(), room.Approach{Origin: "third.example", Room: away.room, User: "@x:third.example", Versions: []string{p.v.ID}})
			p.must(err)
			return template
		}
		p.forged[forged.ID] = true
		p.welcome = func(_ *event.PDU, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
			for _, pdu := range away.after[at] {
				if pdu.Type != event.TypePowerLevels {
					p.must(each(room.InState, pdu.JSON))
				}
				p.must(each(room.InAuthChain, pdu.JSON))
			}
			for _, evil := range []jsontext.Value{fake.JSON, forged.JSON, other.JSON, said.JSON, jsontext.Value(`{}`), jsontext.Value(`7`), jsontext.Value(`{"type":[]}`)} {
				p.must(each(room.InState, evil))
				p.must(each(room.InAuthChain, evil))
			}
			return room.JoinAnswer{}, nil
		}
		p.e = room.New(p.s, room.Options{Server: "third.example", KeyID: "ed25519:1", Key: p.key, Network: p,
			Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
		p.must(p.e.Join(t.Context(), room.Change{Room: away.room, Sender: "@x:third.example", Via: []id.Server{storetest.Server}}))
		p.room = away.room
		if got := p.state("m.room.power_levels", ""); strings.Contains(got, `"`+string(remoteCharlie)+`":100`) {
			t.Errorf("charlie made themself %s", got)
		}
		p.want("m.room.topic", "", "")
		p.wantShown()
	})
}

// con#1747: an event that was rejected must stay so, apart from those that are only
// soft-failed, or servers part ways.
func TestCon1747_RejectedEventsStayRejected(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.newest()
		coup := p.set(remoteCharlie, "m.room.power_levels", fmt.Sprintf(`{"users":{%q:100}}`, remoteCharlie), root)
		p.send(coup)
		p.wantFlags(coup.ID, store.Rejected)
		// After a restart too, and when it comes once more.
		fresh := *p
		fresh.e = room.New(p.s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: p})
		fresh.send(coup)
		fresh.wantFlags(coup.ID, store.Rejected)
		next := fresh.set(remoteCharlie, "m.room.name", `{"name":"mine"}`, coup.ID)
		wantCode(t, fresh.send(next)[next.ID], "M_FORBIDDEN")
		fresh.wantFlags(next.ID, store.Rejected)
		// What merely follows it is judged by what was before.
		key := string(remoteCharlie)
		proto := event.Proto{Room: p.room, Type: event.TypeMember, StateKey: &key, Sender: remoteCharlie, Content: jsontext.Value(`{"displayname":"Charlie","membership":"join"}`),
			OriginServerTS: 1_800_000_000_000, Depth: coup.Depth + 1, PrevEvents: []event.Ref{coup.Ref()}}
		for _, tuple := range []event.StateTuple{{Type: event.TypeCreate}, {Type: event.TypePowerLevels}, {Type: event.TypeJoinRules}, {Type: event.TypeMember, Key: key}} {
			if tuple.Type != event.TypeCreate || p.v.CreateInAuthEvents {
				proto.AuthEvents = append(proto.AuthEvents, p.after[root][tuple].Ref())
			}
		}
		if p.v.EventID == roomversion.EventIDField {
			proto.EventID = "$rename:elsewhere.example"
		}
		rename, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
		p.must(err)
		p.know(rename)
		p.deliver(rename)
		p.want(event.TypeMember, key, `{"displayname":"Charlie","membership":"join"}`)
	})
}

// tuw 1.9.0: a message among the auth events of an event stopped a server.
func TestTuw1_9_0_AMessageAmongTheAuthEvents(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		said := p.say("hello", p.newest())
		p.deliver(said)
		good := p.say("good", said.ID)
		evil := p.citing(said, p.proto(remoteCharlie, "m.room.message", nil, `{"body":"evil"}`, said.ID))
		topic := p.citing(said, p.proto(remoteCharlie, "m.room.topic", ptr(""), `{"topic":"evil"}`, said.ID))
		results := p.send(evil, topic, good)
		wantCode(t, results[evil.ID], "M_FORBIDDEN")
		wantCode(t, results[topic.ID], "M_FORBIDDEN")
		p.wantShown("hello", "good")
		p.mergesBranches()
	})
}

// The same in history that is fetched.
func TestAMessageAmongTheAuthEventsOfAnOlderEvent(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		bob := p.member(remoteBob, "join", p.newest())
		said := p.say("hello", bob.ID)
		p.deliver(bob, said)
		evil := p.citing(said, p.proto(remoteCharlie, "m.room.topic", ptr(""), `{"topic":"evil"}`, said.ID))
		p.after[evil.ID] = p.after[said.ID]
		between := p.say("between", evil.ID)
		p.hides[between.ID] = true
		refused := p.say("soft-failed", between.ID)
		p.must(p.e.Ban(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteCharlie}))
		p.deliver(p.build(remoteBob, "m.room.message", nil, `{"msgtype":"m.text","body":"news"}`, refused.ID))
		_, err := p.e.ReadMessages(t.Context(), room.Reader{User: alice}, p.room, room.Page{Back: true, Limit: 100})
		p.must(err)
		p.wantFlags(evil.ID, store.Rejected)
		p.must(p.e.Unban(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteCharlie}))
		p.learn()
		p.deliver(p.member(remoteCharlie, "join", p.newest()))
		p.mergesBranches()
	})
}

// tuw 1.9.0: an auth chain that lacked events was kept for ever. What could not be had
// is asked for again.
func TestTuw1_9_0_AuthEventsThatWereMissingAreAskedForAgain(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		rename := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteCharlie)), `{"displayname":"Charlie","membership":"join"}`, p.newest())
		said := p.say("hello", rename.ID)
		p.hides[rename.ID] = true
		p.claims = []id.Event{}
		known := p.events[rename.ID]
		delete(p.events, rename.ID) // nobody has it just now
		p.send(said)
		p.wantShown()
		p.events[rename.ID], p.claims, p.hides = known, nil, map[id.Event]bool{}
		p.deliver(said)
		p.wantShown("hello")
		p.want(event.TypeMember, string(remoteCharlie), `{"displayname":"Charlie","membership":"join"}`)
	})
}

// tuw 1.9.0: a join and a transaction took the locks of two rooms in opposite order,
// and the server stood still.
func TestTuw1_9_0_JoinsAndTransactionsDoNotWaitForEachOther(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	other, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: "11", Preset: "public_chat"})
	p.must(err)
	second := p.inRoom(other)
	second.deliver(second.member(remoteCharlie, "join", second.newest()))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var work []func() error
	for i := range 8 {
		for _, q := range []*peer{p, second} {
			template, err := q.e.MakeJoin(ctx, q.approach(id.User(fmt.Sprintf("@u%d:elsewhere.example", i))))
			p.must(err)
			in := q.handIn(q.complete(template, nil))
			pdu := q.say(fmt.Sprint(i), q.newest())
			work = append(work, func() error { _, err := q.e.SendJoin(ctx, in, false); return err },
				func() error { return q.e.Receive(ctx, elsewhere, q.room, []jsontext.Value{pdu.JSON})[pdu.ID] },
				func() error {
					return q.e.Join(ctx, room.Change{Room: q.room, Sender: id.User(fmt.Sprintf("@v%d:localhost", i))})
				})
		}
	}
	var wg sync.WaitGroup
	for _, do := range work {
		wg.Go(func() {
			if err := do(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}
