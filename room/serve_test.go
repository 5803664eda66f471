package room_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// parsed reads events as another server gets them, and says which are whole.
func (p *peer) parsed(raws []jsontext.Value) (names []id.Event, bodies []string) {
	p.t.Helper()
	for _, raw := range raws {
		pdu, err := event.Parse(p.v, raw)
		p.must(err)
		names = append(names, pdu.ID)
		if pdu.Type == "m.room.message" {
			bodies = append(bodies, pdu.ContentString("body"))
		}
	}
	return names, bodies
}

func (p *peer) text(body string) id.Event {
	return p.local("m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))
}

// spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func TestMissingEventsAreShownAsTheHistoryVisibilityHasThem(t *testing.T) {
	for visibility, whole := range map[string]bool{"world_readable": true, "shared": true, "invited": false, "joined": false} {
		t.Run(visibility, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), "11")
			p.must(p.leave())
			p.local("m.room.history_visibility", fmt.Sprintf(`{"history_visibility":%q}`, visibility))
			secret := p.text("before")
			join := p.member(remoteBob, "join", p.newest())
			p.deliver(join)
			after := p.text("after")
			raws, err := p.e.ServeMissingEvents(t.Context(), elsewhere, p.room, room.MissingEvents{
				Earliest: []id.Event{p.events[secret].PrevEvents[0]}, Latest: []id.Event{after}, Limit: 10,
			})
			p.must(err)
			names, bodies := p.parsed(raws)
			if !slices.Equal(names, []id.Event{secret, join.ID}) {
				t.Fatalf("%v", names)
			}
			if want := map[bool]string{true: "before"}[whole]; bodies[0] != want {
				t.Errorf("the message is %q, want %q", bodies[0], want)
			}
			raw, err := p.e.ServeEvent(t.Context(), elsewhere, secret)
			p.must(err)
			if _, bodies := p.parsed([]jsontext.Value{raw}); bodies[0] != map[bool]string{true: "before"}[whole] {
				t.Errorf("alone it is %q", bodies[0])
			}
			raws, err = p.e.ServeBackfill(t.Context(), elsewhere, p.room, []id.Event{after}, 3)
			p.must(err)
			names, bodies = p.parsed(raws)
			if !slices.Equal(names, []id.Event{after, join.ID, secret}) || bodies[0] != "after" || (bodies[1] == "before") != whole {
				t.Errorf("backfill: %v %q", names, bodies)
			}
		})
	}
}

// leave makes charlie leave.
func (p *peer) leave() error {
	for _, err := range p.send(p.member(remoteCharlie, "leave", p.newest())) {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestAServerThatLeftSeesWhatItSawThen(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.local("m.room.history_visibility", `{"history_visibility":"joined"}`)
	seen := p.text("while in")
	p.must(p.leave())
	hidden := p.text("since")
	if _, err := p.e.ServeEvent(t.Context(), elsewhere, seen); err != nil {
		t.Error(err)
	}
	_, err := p.e.ServeEvent(t.Context(), elsewhere, hidden)
	wantCode(t, err, "M_NOT_FOUND")
	raws, err := p.e.ServeBackfill(t.Context(), elsewhere, p.room, []id.Event{hidden}, 100)
	p.must(err)
	names, _ := p.parsed(raws)
	if !slices.Contains(names, seen) || slices.Contains(names, hidden) {
		t.Errorf("%v", names)
	}
}

// CVE-2022-39335: event_auth was answered to servers that are not in the room. Others
// did the like with states and histories.
// con SEC26: nor the times of events.
func TestServersOutsideTheRoomReadNothing(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	at := p.text("hello")
	for what, err := range p.reads("third.example", p.room, at) {
		if code := codeOf(err); code != "M_FORBIDDEN" && code != "M_NOT_FOUND" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, err := range p.reads(elsewhere, p.room, at) {
		if err != nil {
			t.Errorf("%s, for a server in the room: %v", what, err)
		}
	}
	p.local("m.room.server_acl", `{"allow":["*"],"deny":["elsewhere.example"]}`)
	for what, err := range p.reads(elsewhere, p.room, at) {
		if codeOf(err) != "M_FORBIDDEN" {
			t.Errorf("%s, for a server that the ACL keeps out: %v", what, err)
		}
	}
}

// reads tries all ways of reading a room.
func (p *peer) reads(server id.Server, name id.Room, at id.Event) map[string]error {
	ctx := p.t.Context()
	errs := map[string]error{}
	_, errs["event"] = p.e.ServeEvent(ctx, server, at)
	_, errs["event_auth"] = p.e.ServeAuthChain(ctx, server, name, at)
	_, errs["state"] = p.e.ServeState(ctx, server, name, at)
	_, errs["backfill"] = p.e.ServeBackfill(ctx, server, name, []id.Event{at}, 10)
	_, errs["get_missing_events"] = p.e.ServeMissingEvents(ctx, server, name, room.MissingEvents{Latest: []id.Event{at}, Limit: 10})
	_, _, errs["timestamp_to_event"] = p.e.ServeTimestamp(ctx, server, name, 0, false)
	return errs
}

// con SEC26: /state, /state_ids and /event_auth of one room answered with
// another room where the event was of that.
func TestEventsOfOtherRoomsLeakNothing(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	other, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: "11"})
	p.must(err)
	secret, err := p.e.Send(t.Context(), other, message(alice, ""))
	p.must(err)
	errs := p.reads(elsewhere, p.room, secret)
	for _, what := range []string{"event", "event_auth", "state"} {
		wantCode(t, errs[what], "M_NOT_FOUND")
	}
	raws, err := p.e.ServeBackfill(t.Context(), elsewhere, p.room, []id.Event{secret}, 10)
	p.must(err)
	missing, err := p.e.ServeMissingEvents(t.Context(), elsewhere, p.room, room.MissingEvents{Latest: []id.Event{secret}, Limit: 10})
	p.must(err)
	if len(raws)+len(missing) > 0 {
		t.Errorf("%s %s", raws, missing)
	}
}

func TestStateAndAuthChainOfAnEvent(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		name := p.local("m.room.name", `{"name":"one"}`)
		at := p.text("hello")
		p.local("m.room.name", `{"name":"two"}`)
		answer, err := p.e.ServeState(t.Context(), elsewhere, p.room, at)
		p.must(err)
		var want []id.Event
		for _, pdu := range p.before(at) {
			want = append(want, pdu.ID)
		}
		slices.Sort(want)
		if got := p.names(answer.State); !slices.Equal(got, want) || !slices.Contains(got, name) {
			t.Errorf("state %v, want %v", got, want)
		}
		p.closed(answer)
		chain, err := p.e.ServeAuthChain(t.Context(), elsewhere, p.room, at)
		p.must(err)
		var wantChain []id.Event
		for _, pdu := range p.chain(p.events[at]) {
			wantChain = append(wantChain, pdu.ID)
		}
		slices.Sort(wantChain)
		if got := p.names(chain); !slices.Equal(got, wantChain) {
			t.Errorf("auth chain %v, want %v", got, wantChain)
		}
	})
}

func TestStateOfAnEventOnABranch(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	root := p.local("m.room.power_levels", fmt.Sprintf(`{"users":{%q:100,%q:50}}`, alice, remoteCharlie))
	p.local("m.room.name", `{"name":"from here"}`)
	topic := p.set(remoteCharlie, "m.room.topic", `{"topic":"from elsewhere"}`, root)
	said := p.say("on the branch", topic.ID)
	p.deliver(topic, said)
	answer, err := p.e.ServeState(t.Context(), elsewhere, p.room, said.ID)
	p.must(err)
	var want []id.Event
	for _, pdu := range p.before(said.ID) {
		want = append(want, pdu.ID)
	}
	slices.Sort(want)
	if got := p.names(answer.State); !slices.Equal(got, want) {
		t.Errorf("state %v, want %v", got, want)
	}
}

// CVE-2026-45076: a page full of rejected events ended the history for other servers.
func TestRejectedEventsDoNotEndTheHistory(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	first := p.text("first")
	at := first
	for i := range 30 {
		evil := p.set(remoteCharlie, "m.room.name", fmt.Sprintf(`{"name":"evil %d"}`, i), at)
		p.send(evil)
		at = evil.ID
	}
	last := p.say("after all", at)
	p.deliver(last)
	raws, err := p.e.ServeBackfill(t.Context(), elsewhere, p.room, []id.Event{last.ID}, 2)
	p.must(err)
	if names, _ := p.parsed(raws); !slices.Equal(names, []id.Event{last.ID, first}) {
		t.Errorf("%v, want %s and %s", names, last.ID, first)
	}
	raws, err = p.e.ServeMissingEvents(t.Context(), elsewhere, p.room, room.MissingEvents{Latest: []id.Event{last.ID}, Limit: 1})
	p.must(err)
	if names, _ := p.parsed(raws); !slices.Equal(names, []id.Event{first}) {
		t.Errorf("%v, want %s", names, first)
	}
	// By its name the event is to be had, or nobody could judge by himself what comes after it.
	raw, err := p.e.ServeEvent(t.Context(), elsewhere, at)
	p.must(err)
	if names, _ := p.parsed([]jsontext.Value{raw}); !slices.Equal(names, []id.Event{at}) {
		t.Errorf("%v, want %s", names, at)
	}
	_, err = p.e.ServeEvent(t.Context(), "third.example", at)
	wantCode(t, err, "M_NOT_FOUND")
}

// CVE-2018-10657: a depth of 2^63-1, which nothing can follow.
func TestDepthsAtTheLimit(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	proto := event.Proto{Room: p.room, Type: "m.room.message", Sender: remoteCharlie, Content: jsontext.Value(`{"body":"deep"}`), Depth: p.v.MaxDepth(), OriginServerTS: 5}
	for _, tuple := range []event.StateTuple{{Type: event.TypeCreate}, {Type: event.TypePowerLevels}, {Type: event.TypeMember, Key: string(remoteCharlie)}} {
		proto.AuthEvents = append(proto.AuthEvents, p.after[p.newest()][tuple].Ref())
	}
	proto.PrevEvents = []event.Ref{p.events[p.newest()].Ref()}
	deep, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
	p.must(err)
	p.know(deep)
	p.deliver(deep)
	next := p.text("after the deepest")
	raws, err := p.e.ServeBackfill(t.Context(), elsewhere, p.room, []id.Event{next}, 3)
	p.must(err)
	if names, _ := p.parsed(raws); len(names) != 3 || !slices.Contains(names, deep.ID) {
		t.Errorf("%v", names)
	}
	template, err := p.e.MakeJoin(t.Context(), p.approach(remoteBob))
	p.must(err)
	if join := p.complete(template, nil); join.Depth != p.v.MaxDepth() {
		t.Errorf("depth %d", join.Depth)
	}
}

// con 0.5.4: an event beside the history could be read for a moment.
func TestOutliersAreShownAsPartsOfAuthChainsOnly(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	in := p.invitation(nil)
	_, err := p.e.ReceiveInvite(t.Context(), in)
	p.must(err)
	p.must(p.s.View(t.Context(), func(tx *store.Tx) error {
		row, ok, err := tx.Events.GetID(in.Event)
		if err == nil && (!ok || row.Flags&store.Outlier == 0 || row.Position != 0) {
			t.Errorf("%+v", row)
		}
		return err
	}))
	_, err = p.e.ServeEvent(t.Context(), elsewhere, in.Event)
	wantCode(t, err, "M_NOT_FOUND")
}

func BenchmarkServeState(b *testing.B) {
	s := storetest.Open(b, nil)
	e := plainEngine(s)
	name, err := e.Create(b.Context(), room.Creation{Creator: alice, Version: "11", Preset: "public_chat"})
	if err != nil {
		b.Fatal(err)
	}
	for i := range 2000 {
		if err := e.Join(b.Context(), room.Change{Room: name, Sender: id.User(fmt.Sprintf("@u%d:localhost", i))}); err != nil {
			b.Fatal(err)
		}
	}
	at, err := e.Send(b.Context(), name, message(alice, ""))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		answer, err := e.ServeState(b.Context(), storetest.Server, name, at)
		if err == nil {
			_, err = answer.State.IDs(b.Context())
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
