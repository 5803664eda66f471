package room_test

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

const remoteBob = id.User("@bob:elsewhere.example")

// approach asks to be let in, as a server does that knows all room versions.
func (p *peer) approach(user id.User) room.Approach {
	a := room.Approach{Origin: user.Server(), Room: p.room, User: user}
	for _, v := range roomversion.All() {
		a.Versions = append(a.Versions, v.ID)
	}
	return a
}

// complete makes an event of a template, as another server does.
func (p *peer) complete(t room.Template, change func(*event.Proto)) *event.PDU {
	p.t.Helper()
	var told struct {
		Room       id.Room          `json:"room_id"`
		Sender     id.User          `json:"sender"`
		Type       string           `json:"type"`
		Key        *string          `json:"state_key"`
		Content    jsontext.Value   `json:"content"`
		Depth      int64            `json:"depth"`
		PrevEvents []jsontext.Value `json:"prev_events"`
		AuthEvents []jsontext.Value `json:"auth_events"`
		Origin     id.Server        `json:"origin"`
		TS         int64            `json:"origin_server_ts"`
	}
	p.must(json.Unmarshal(t.Event, &told))
	if told.Origin != storetest.Server || told.TS == 0 || t.RoomVersion != p.v.ID {
		p.t.Errorf("template %s of version %s", t.Event, t.RoomVersion)
	}
	proto := event.Proto{
		Room: told.Room, Sender: told.Sender, Type: told.Type, StateKey: told.Key, Content: told.Content, Depth: told.Depth,
		PrevEvents: p.refs(told.PrevEvents), AuthEvents: p.refs(told.AuthEvents), OriginServerTS: told.TS + 1,
	}
	if p.v.EventID == roomversion.EventIDField {
		proto.EventID = id.Event(fmt.Sprintf("$made%d:%s", len(p.events), elsewhere))
	}
	if change != nil {
		change(&proto)
	}
	pdu, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
	p.must(err)
	return pdu
}

func (p *peer) refs(raws []jsontext.Value) (refs []event.Ref) {
	p.t.Helper()
	p.learn()
	for _, raw := range raws {
		var name id.Event
		if p.v.EventRefsArePairs {
			var pair []jsontext.Value
			p.must(json.Unmarshal(raw, &pair))
			p.must(json.Unmarshal(pair[0], &name))
		} else {
			p.must(json.Unmarshal(raw, &name))
		}
		if p.events[name] == nil {
			p.t.Fatalf("the template refers to %s, which nobody has seen", name)
		}
		refs = append(refs, p.events[name].Ref())
	}
	return refs
}

func (p *peer) handIn(pdu *event.PDU) room.HandIn {
	return room.HandIn{Origin: elsewhere, Room: p.room, Event: pdu.ID, Raw: pdu.JSON}
}

func (p *peer) names(list room.EventList) []id.Event {
	p.t.Helper()
	ids, err := list.IDs(p.t.Context())
	p.must(err)
	i := 0
	p.must(list.Each(p.t.Context(), func(raw jsontext.Value) error {
		pdu, err := event.Parse(p.v, raw)
		if err != nil || pdu.ID != ids[i] {
			return fmt.Errorf("event %d is %s, not %s: %w", i, raw, ids[i], err)
		}
		i++
		return nil
	}))
	if i != len(ids) {
		p.t.Errorf("%d events with %d ids", i, len(ids))
	}
	slices.Sort(ids)
	return ids
}

// closed checks that a state and its auth chain lack no auth event.
func (p *peer) closed(a room.StateAnswer) {
	p.t.Helper()
	all := append(p.names(a.State), p.names(a.AuthChain)...)
	for _, name := range all {
		for _, auth := range p.events[name].AuthEvents {
			if !slices.Contains(all, auth) {
				p.t.Errorf("%s of %s is missing", auth, name)
			}
		}
	}
}

func TestAUserOfAnotherServerJoinsLeavesAndKnocks(t *testing.T) {
	for _, v := range roomversion.All() {
		t.Run("version "+v.ID, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), v.ID)
			template, err := p.e.MakeJoin(t.Context(), p.approach(remoteBob))
			p.must(err)
			join := p.complete(template, nil)
			before := p.newest()
			welcome, err := p.e.SendJoin(t.Context(), p.handIn(join), false)
			p.must(err)
			p.learn()
			p.want(event.TypeMember, string(remoteBob), `{"membership":"join"}`)
			if string(welcome.Event) != string(join.JSON) || welcome.MembersOmitted {
				t.Errorf("%+v", welcome)
			}
			var want []id.Event
			for _, pdu := range p.after[before] {
				want = append(want, pdu.ID)
			}
			slices.Sort(want)
			if got := p.names(welcome.State); !slices.Equal(got, want) {
				t.Errorf("state %v, want that before the join, %v", got, want)
			}
			p.closed(welcome.StateAnswer)

			// Whoever is asked again says the same.
			again, err := p.e.SendJoin(t.Context(), p.handIn(join), false)
			p.must(err)
			if !slices.Equal(p.names(again.State), want) {
				t.Errorf("a second time the state is %v", p.names(again.State))
			}

			template, err = p.e.MakeLeave(t.Context(), p.approach(remoteBob))
			p.must(err)
			p.must(p.e.SendLeave(t.Context(), p.handIn(p.complete(template, nil))))
			p.want(event.TypeMember, string(remoteBob), `{"membership":"leave"}`)

			_, err = p.e.MakeKnock(t.Context(), p.approach(remoteBob))
			wantCode(t, deniedAsForbidden(err), "M_FORBIDDEN") // the room is public, nobody knocks
			if !v.Knock {
				return
			}
			p.local("m.room.join_rules", `{"join_rule":"knock"}`)
			template, err = p.e.MakeKnock(t.Context(), p.approach(remoteBob))
			p.must(err)
			state, err := p.e.SendKnock(t.Context(), p.handIn(p.complete(template, nil)))
			p.must(err)
			p.want(event.TypeMember, string(remoteBob), `{"membership":"knock"}`)
			if create, err := event.Parse(v, state[0]); err != nil || create.Type != event.TypeCreate || create.Room != p.room {
				t.Errorf("the state begins with %s: %v", state[0], err)
			}
		})
	}
}

func TestOmittingMembers(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	join := func(user id.User) room.Welcome {
		template, err := p.e.MakeJoin(t.Context(), p.approach(user))
		p.must(err)
		welcome, err := p.e.SendJoin(t.Context(), p.handIn(p.complete(template, nil)), true)
		p.must(err)
		p.learn()
		return welcome
	}
	keys := func(list room.EventList) (keys []string) {
		for _, name := range p.names(list) {
			keys = append(keys, p.events[name].Type+"|"+*p.events[name].StateKey)
		}
		slices.Sort(keys)
		return keys
	}
	for i := range 8 {
		join(id.User(fmt.Sprintf("@u%d:elsewhere.example", i)))
	}
	welcome := join(remoteBob)
	if !welcome.MembersOmitted || !slices.Equal(welcome.Servers, []id.Server{elsewhere, storetest.Server}) {
		t.Errorf("omitted %t, servers %v", welcome.MembersOmitted, welcome.Servers)
	}
	want := []string{"m.room.create|", "m.room.history_visibility|", "m.room.join_rules|", "m.room.member|" + string(alice), "m.room.member|" + string(remoteCharlie), "m.room.member|@u0:elsewhere.example", "m.room.member|@u1:elsewhere.example", "m.room.member|@u2:elsewhere.example", "m.room.power_levels|"}
	slices.Sort(want)
	if got := keys(welcome.State); !slices.Equal(got, want) {
		t.Errorf("a room without a name is told as %v, want %v", got, want)
	}
	if got := keys(welcome.AuthChain); len(got) > 0 {
		t.Errorf("what is in the state is in the auth chain too: %v", got)
	}
	p.local("m.room.name", `{"name":"A room"}`)
	welcome = join("@late:elsewhere.example")
	if got := keys(welcome.State); slices.ContainsFunc(got, func(k string) bool { return strings.HasPrefix(k, "m.room.member|") }) {
		t.Errorf("a room with a name is told as %v", got)
	}
	if got := keys(welcome.AuthChain); !slices.Equal(got, []string{"m.room.member|" + string(alice)}) {
		t.Errorf("auth chain %v", got)
	}
	p.closed(welcome.StateAnswer)
}

// CVE-2019-18835, CVE-2020-26257, and the signing of anything at all by several
// servers in December 2025: what is handed in is what the endpoint is for, of the room,
// the event id and the server that the request names.
func TestWhatIsHandedInIsWhatTheEndpointIsFor(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "10")
	charlie, dora := string(remoteCharlie), "@dora:elsewhere.example"
	template, err := p.e.MakeLeave(t.Context(), p.approach(remoteCharlie))
	p.must(err)
	for what, test := range map[string]struct {
		change func(*event.Proto)
		in     func(*room.HandIn)
	}{
		"a message":                      {change: func(e *event.Proto) { e.Type, e.StateKey = "m.room.message", nil }},
		"a member event without a key":   {change: func(e *event.Proto) { e.StateKey = nil }},
		"another type of state":          {change: func(e *event.Proto) { e.Type = "m.room.topic" }},
		"a join":                         {change: func(e *event.Proto) { e.Content = jsontext.Value(`{"membership":"join"}`) }},
		"an invite":                      {change: func(e *event.Proto) { e.Content = jsontext.Value(`{"membership":"invite"}`) }},
		"a membership that is no string": {change: func(e *event.Proto) { e.Content = jsontext.Value(`{"membership":["leave"]}`) }},
		"a kick":                         {change: func(e *event.Proto) { e.StateKey = &dora }},
		"a leave of a user here":         {change: func(e *event.Proto) { key := string(alice); e.Sender, e.StateKey = alice, &key }},
		"an event of another room":       {change: func(e *event.Proto) { e.Room = "!other:elsewhere.example" }},
		"the path of another event":      {in: func(in *room.HandIn) { in.Event = "$other" }},
		"a leave of a third server":      {in: func(in *room.HandIn) { in.Origin = "third.example" }},
		"no event at all":                {in: func(in *room.HandIn) { in.Raw = jsontext.Value(`{}`) }},
		"unknown events before it":       {change: func(e *event.Proto) { e.PrevEvents[0].ID = "$nobody-has-seen-this-event-00000000000000000" }},
	} {
		t.Run(what, func(t *testing.T) {
			pdu := p.complete(template, test.change)
			p.know(pdu)
			in := p.handIn(pdu)
			if test.in != nil {
				test.in(&in)
			}
			err := p.e.SendLeave(t.Context(), in)
			if code := codeOf(err); code != "M_INVALID_PARAM" && code != "M_BAD_JSON" {
				t.Errorf("%v", err)
			}
			p.want(event.TypeMember, charlie, `{"membership":"join"}`)
		})
	}
	forged := p.complete(template, nil)
	p.forged[forged.ID] = true
	wantCode(t, p.e.SendLeave(t.Context(), p.handIn(forged)), "M_INVALID_PARAM")
	_, err = p.e.SendJoin(t.Context(), p.handIn(p.complete(template, nil)), false)
	wantCode(t, err, "M_INVALID_PARAM")
}

func TestWhoIsNotLetIn(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	// A template for one user, completed for another who is banned.
	template, err := p.e.MakeJoin(t.Context(), p.approach("@dora:elsewhere.example"))
	p.must(err)
	p.must(p.e.Ban(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteBob}))
	_, err = p.e.MakeJoin(t.Context(), p.approach(remoteBob))
	wantCode(t, deniedAsForbidden(err), "M_FORBIDDEN")
	join := p.complete(template, func(e *event.Proto) { key := string(remoteBob); e.Sender, e.StateKey = remoteBob, &key })
	_, err = p.e.SendJoin(t.Context(), p.handIn(join), false)
	wantCode(t, deniedAsForbidden(err), "M_FORBIDDEN")
	p.want(event.TypeMember, string(remoteBob), `{"membership":"ban"}`)

	a := p.approach("@dora:elsewhere.example")
	a.Versions = []string{"1", "10"}
	_, err = p.e.MakeJoin(t.Context(), a)
	wantCode(t, err, "M_INCOMPATIBLE_ROOM_VERSION")
	if e := err.(*errcode.Error); e.Extra["room_version"] != "11" || e.Status != 400 {
		t.Errorf("%+v", e)
	}
	a = p.approach("@dora:elsewhere.example")
	a.Room = "!unknown:elsewhere.example"
	_, err = p.e.MakeJoin(t.Context(), a)
	wantCode(t, err, "M_NOT_FOUND")
	a = p.approach("@dora:elsewhere.example")
	a.Origin = "third.example"
	_, err = p.e.MakeJoin(t.Context(), a)
	wantCode(t, err, "M_FORBIDDEN")

	p.local("m.room.server_acl", `{"allow":["*"],"deny":["ELSEWHERE.*"]}`)
	_, err = p.e.MakeJoin(t.Context(), p.approach("@dora:elsewhere.example"))
	wantCode(t, err, "M_FORBIDDEN")
	wantCode(t, p.e.SendLeave(t.Context(), p.handIn(p.member(remoteCharlie, "leave", p.newest()))), "M_FORBIDDEN")

	// Nobody here is in the room any more: it is for others to let people in.
	p.local("m.room.server_acl", `{"allow":["*"]}`)
	p.must(p.e.Leave(t.Context(), room.Change{Room: p.room, Sender: alice}))
	_, err = p.e.MakeJoin(t.Context(), p.approach("@dora:elsewhere.example"))
	wantCode(t, err, "M_NOT_FOUND")
}

// spec: server-server-api#restricted-rooms
func TestRestrictedRooms(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "10")
	inner := p.room
	space, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: "10", Preset: "public_chat"})
	p.must(err)
	restrict := func(rooms ...id.Room) {
		allow := []map[string]any{{"type": "m.other"}}
		for _, r := range rooms {
			allow = append(allow, map[string]any{"type": "m.room_membership", "room_id": r})
		}
		rules, err := json.Marshal(map[string]any{"join_rule": "restricted", "allow": allow})
		p.must(err)
		p.local("m.room.join_rules", string(rules))
	}
	try := func() error { _, err := p.e.MakeJoin(t.Context(), p.approach(remoteBob)); return err }
	restrict()
	wantCode(t, try(), "M_FORBIDDEN")
	restrict("!unknown:elsewhere.example")
	wantCode(t, try(), "M_UNABLE_TO_AUTHORISE_JOIN")
	restrict(space)
	wantCode(t, try(), "M_FORBIDDEN")
	// What one condition says nothing of may satisfy another, which other servers can tell.
	restrict("!unknown:elsewhere.example", space)
	wantCode(t, try(), "M_UNABLE_TO_AUTHORISE_JOIN")

	// Bob joins the space.
	p.room = space
	template, err := p.e.MakeJoin(t.Context(), p.approach(remoteBob))
	p.must(err)
	_, err = p.e.SendJoin(t.Context(), p.handIn(p.complete(template, nil)), false)
	p.must(err)
	p.room = inner

	template, err = p.e.MakeJoin(t.Context(), p.approach(remoteBob))
	p.must(err)
	join := p.complete(template, nil)
	if via := join.ContentString("join_authorised_via_users_server"); via != string(alice) {
		t.Errorf("the template names %q", via)
	}
	unnamed := p.complete(template, func(e *event.Proto) { e.Content = jsontext.Value(`{"membership":"join"}`) })
	_, err = p.e.SendJoin(t.Context(), p.handIn(unnamed), false)
	wantCode(t, deniedAsForbidden(err), "M_FORBIDDEN")
	// Somebody else completes the template.
	charlie := string("@dora:elsewhere.example")
	stolen := p.complete(template, func(e *event.Proto) { e.Sender, e.StateKey = id.User(charlie), &charlie })
	_, err = p.e.SendJoin(t.Context(), p.handIn(stolen), false)
	wantCode(t, err, "M_UNABLE_TO_AUTHORISE_JOIN")
	welcome, err := p.e.SendJoin(t.Context(), p.handIn(join), true)
	p.must(err)
	signed, err := event.Parse(p.v, welcome.Event)
	p.must(err)
	if keys := signed.SignatureKeys(storetest.Server); len(keys) != 1 || len(signed.SignatureKeys(elsewhere)) != 1 || signed.ID != join.ID {
		t.Errorf("signatures of %v on %s", keys, signed.ID)
	}

	// Who may not invite cannot vouch for others.
	p.local("m.room.power_levels", `{"users":{"@alice:localhost":50},"invite":60,"state_default":0}`)
	template, err = p.e.MakeLeave(t.Context(), p.approach(remoteBob))
	p.must(err)
	p.must(p.e.SendLeave(t.Context(), p.handIn(p.complete(template, nil))))
	wantCode(t, try(), "M_UNABLE_TO_GRANT_JOIN")

	// Who has left the space satisfies nothing any more.
	p.room = space
	template, err = p.e.MakeLeave(t.Context(), p.approach(remoteBob))
	p.must(err)
	p.must(p.e.SendLeave(t.Context(), p.handIn(p.complete(template, nil))))
	p.room = inner
	restrict(space)
	wantCode(t, try(), "M_FORBIDDEN")
}

// careless is the guest's network, in which some server returns joins otherwise than it should. There
// all signatures count that are there.
type careless struct {
	*guest
	returns map[id.Server]func(sent *event.PDU) jsontext.Value
}

func (c careless) VerifyEvents(_ context.Context, _ id.Server, events []*event.PDU) []error {
	errs := make([]error, len(events))
	for i, p := range events {
		for _, s := range p.SigningServers() {
			if len(p.SignatureKeys(s)) == 0 {
				errs[i] = fmt.Errorf("%s did not sign", s)
			}
		}
	}
	return errs
}

func (c careless) SendJoin(ctx context.Context, to id.Server, join *event.PDU, omit bool, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
	a, err := c.guest.SendJoin(ctx, to, join, omit, each)
	if returns := c.returns[to]; returns != nil {
		a.Event = returns(join)
	}
	return a, err
}

// A join that somebody authorises is one by the signature of their server only: whoever returns it
// without has not let anybody in, and the next server is asked.
// spec: server-server-api#restricted-rooms
func TestAJoinThatNobodyVouchesForIsNone(t *testing.T) {
	for what, returns := range map[string]func(*event.PDU) jsontext.Value{
		"not returned":          func(*event.PDU) jsontext.Value { return nil },
		"returned as it was":    func(sent *event.PDU) jsontext.Value { return sent.JSON },
		"returned as something": func(*event.PDU) jsontext.Value { return jsontext.Value(`{}`) },
	} {
		t.Run(what, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), "12")
			space, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: "12", Preset: "public_chat"})
			p.must(err)
			p.local(event.TypeJoinRules, fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, space))
			g := p.guest()
			g.whole = true
			g.must(g.e.Join(t.Context(), room.Change{Room: space, Sender: guestBob, Via: []id.Server{storetest.Server}}))
			g.rests()
			g.e = room.New(g.s, room.Options{
				Server: guestServer, KeyID: "ed25519:1", Key: g.key, Network: careless{g, map[id.Server]func(*event.PDU) jsontext.Value{elsewhere: returns}}, TempDir: t.TempDir(),
				Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
			})
			join := func(via ...id.Server) error {
				return g.e.Join(t.Context(), room.Change{Room: g.room, Sender: guestBob, Via: via})
			}
			wantCode(t, join(elsewhere), "M_UNKNOWN")
			if rooms, err := g.e.Joined(t.Context(), guestBob); err != nil || slices.Contains(rooms, g.room) {
				t.Errorf("bob is in %v, %v", rooms, err)
			}
			g.must(join(elsewhere, storetest.Server))
			h, _, err := g.e.Head(t.Context(), g.room)
			g.must(err)
			g.must(g.s.View(t.Context(), func(tx *store.Tx) error {
				ev, _, err := g.e.StateEvent(tx, h, event.StateTuple{Type: event.TypeMember, Key: string(guestBob)})
				if err == nil && (ev.PDU.Membership() != event.MembershipJoin || careless{}.VerifyEvents(t.Context(), guestServer, []*event.PDU{ev.PDU})[0] != nil) {
					t.Errorf("bob is in the room by %s", ev.PDU.JSON)
				}
				return err
			}))
		})
	}
}

// Of a room with a partial state most members are unknown: who is not known to be one of them is not
// refused for that.
// spec: server-server-api#restricted-rooms
func TestMembersOfAnAllowedRoomWithAPartialStateAreNotRefused(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.join(guestBob)
		inner, err := g.e.Create(t.Context(), room.Creation{Creator: guestBob, Version: "11"})
		g.must(err)
		_, err = g.e.Send(t.Context(), inner, room.Proposal{Sender: guestBob, Type: event.TypeJoinRules, StateKey: new(string),
			Content: jsontext.Value(fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, g.room))})
		g.must(err)
		try := func(user id.User) error {
			_, err := g.e.MakeJoin(t.Context(), room.Approach{Origin: user.Server(), Room: inner, User: user, Versions: []string{"11"}})
			return err
		}
		wantCode(t, try(remoteBob), "M_UNABLE_TO_AUTHORISE_JOIN")
		wantCode(t, try("@nobody:elsewhere.example"), "M_UNABLE_TO_AUTHORISE_JOIN")
		left := g.member("@nobody:elsewhere.example", "leave", g.member("@nobody:elsewhere.example", "join", g.newest()).ID)
		g.receive(left)
		wantCode(t, try("@nobody:elsewhere.example"), "M_FORBIDDEN")
		g.complete()
		g.must(try(remoteBob))
		wantCode(t, try("@dora:elsewhere.example"), "M_FORBIDDEN")
	})
}

// Where nobody here may invite, whoever may join a restricted room does so by way of a server of
// somebody who may, which clients need not name.
// spec: server-server-api#restricted-rooms
func TestARestrictedRoomIsJoinedByWayOfThoseWhoMayInvite(t *testing.T) {
	for _, version := range []string{"8", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			p := newPeer(t, storetest.Open(t, nil), version)
			space, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: version, Preset: "public_chat"})
			p.must(err)
			p.deliver(p.member(remoteBob, "join", p.newest()))
			g := p.guest()
			g.whole = true
			g.join(guestBob)
			g.must(g.e.Join(t.Context(), room.Change{Room: space, Sender: guestAlice, Via: []id.Server{storetest.Server}}))
			levels := fmt.Sprintf(`{"users":{%q:100,"@gone:gone.example":50},"invite":50}`, alice)
			if p.v.PrivilegedCreators {
				levels = `{"users":{"@gone:gone.example":50},"invite":50}`
			}
			g.receive(g.events[p.local(event.TypePowerLevels, levels)])
			g.receive(g.events[p.local(event.TypeJoinRules, fmt.Sprintf(`{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":%q}]}`, space))])
			var asked []id.Server
			g.slowly(func(_ context.Context, what string, server id.Server) error {
				if what == "make" {
					asked = append(asked, server)
				}
				return nil
			})
			g.must(g.e.Join(t.Context(), room.Change{Room: g.room, Sender: guestAlice}))
			if !slices.Equal(asked, []id.Server{storetest.Server}) {
				t.Errorf("asked were %v", asked)
			}
			g.want(event.TypeMember, string(guestAlice), fmt.Sprintf(`{"join_authorised_via_users_server":%q,"membership":"join"}`, alice))
			if rooms, err := g.e.Joined(t.Context(), guestAlice); err != nil || !slices.Contains(rooms, g.room) {
				t.Errorf("alice is in %v, %v", rooms, err)
			}

			// Nobody else may invite either once she has left.
			g.must(g.e.Leave(t.Context(), room.Change{Room: g.room, Sender: guestAlice}))
			left := g.build(alice, event.TypeMember, ptr(string(alice)), `{"membership":"leave"}`, g.newest())
			g.receive(left)
			wantCode(t, g.e.Join(t.Context(), room.Change{Room: g.room, Sender: guestAlice}), "M_UNABLE_TO_GRANT_JOIN")
			if len(asked) != 1 {
				t.Errorf("asked were %v", asked)
			}
		})
	}
}

func codeOf(err error) string {
	if e := (*errcode.Error)(nil); errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// deniedAsForbidden is how a refusal by the rules reaches other servers.
func deniedAsForbidden(err error) error {
	if err != nil && strings.HasPrefix(err.Error(), "rule ") {
		return errcode.Forbidden("%s", err)
	}
	return err
}

// invitation is an invite of alice to a room that nobody here is in.
func (p *peer) invitation(change func(*event.Proto)) room.Invitation {
	p.t.Helper()
	create := event.Proto{Type: event.TypeCreate, StateKey: new(string), Sender: remoteCharlie, OriginServerTS: 1,
		Content: jsontext.Value(fmt.Sprintf(`{"creator":%q,"room_version":%q,"type":"m.space"}`, remoteCharlie, p.v.ID)), Depth: 1}
	if !p.v.RoomIDIsCreateEventID {
		create.Room = "!away:elsewhere.example"
	}
	if p.v.EventID == roomversion.EventIDField {
		create.EventID = "$create:elsewhere.example"
	}
	made, err := event.Build(p.v, create, elsewhere, "ed25519:1", p.key)
	p.must(err)
	p.know(made)
	key := string(alice)
	invite := event.Proto{Room: made.Room, Type: event.TypeMember, StateKey: &key, Sender: remoteCharlie, OriginServerTS: 2, Depth: 2,
		Content: jsontext.Value(`{"membership":"invite"}`), PrevEvents: []event.Ref{made.Ref()}}
	if p.v.EventID == roomversion.EventIDField {
		invite.EventID = id.Event(fmt.Sprintf("$invite%d:elsewhere.example", len(p.events)))
	}
	if change != nil {
		change(&invite)
	}
	pdu, err := event.Build(p.v, invite, elsewhere, "ed25519:1", p.key)
	p.must(err)
	p.know(pdu)
	return room.Invitation{
		HandIn:  room.HandIn{Origin: elsewhere, Room: made.Room, Event: pdu.ID, Raw: pdu.JSON},
		Version: p.v.ID, State: []jsontext.Value{made.JSON},
	}
}

// outside is what alice knows of a room that nobody here is in.
func (p *peer) outside(name id.Room) (m store.Membership, state []map[string]any) {
	p.t.Helper()
	p.must(p.s.View(p.t.Context(), func(tx *store.Tx) error {
		nid, _, err := tx.Rooms.Find(name)
		if err != nil {
			return err
		}
		user, _, err := tx.IDs.FindUser(alice)
		if err != nil {
			return err
		}
		member, ok, err := tx.Members.Get(nid, user)
		if err != nil || !ok {
			return err
		}
		m = member.Membership
		raw, ok, err := tx.Members.Stripped(nid, user)
		if err != nil || !ok {
			return err
		}
		return json.Unmarshal(raw, &state)
	}))
	return m, state
}

func TestAnInviteToAnUnknownRoomIsSignedAndShown(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		in := p.invitation(nil)
		raw, err := p.e.ReceiveInvite(t.Context(), in)
		p.must(err)
		signed, err := event.Parse(p.v, raw)
		p.must(err)
		if signed.ID != in.Event || len(signed.SignatureKeys(storetest.Server)) != 1 || len(signed.SignatureKeys(elsewhere)) != 1 {
			t.Errorf("%s", raw)
		}
		m, state := p.outside(in.Room)
		if m != store.Invite || len(state) != 2 {
			t.Fatalf("%v %v", m, state)
		}
		// msc: 4311
		if state[0]["type"] != "m.room.create" || state[0]["origin_server_ts"] == nil || state[1]["state_key"] != string(alice) {
			t.Errorf("%v", state)
		}
		// The same once more, and the room as others see it.
		_, err = p.e.ReceiveInvite(t.Context(), in)
		p.must(err)
		if h, ok, err := p.e.Head(t.Context(), in.Room); err != nil || !ok || h.Create != nil || len(h.Locals) > 0 {
			t.Errorf("%+v %t %v", h, ok, err)
		}
		_, err = p.e.ServeState(t.Context(), elsewhere, in.Room, in.Event)
		wantCode(t, err, "M_FORBIDDEN")
		_, err = p.e.MakeJoin(t.Context(), room.Approach{Origin: elsewhere, Room: in.Room, User: remoteBob, Versions: []string{p.v.ID}})
		wantCode(t, err, "M_NOT_FOUND")
	})
}

// December 2025: several servers signed whatever was handed to /invite. CVE-2020-26257:
// in the name of any room. (tuw 1.4.8)
func TestOnlyInvitesAreSigned(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		other, message := string(remoteBob), "m.room.message"
		for what, test := range map[string]struct {
			change func(*event.Proto)
			in     func(*room.Invitation)
			code   string
		}{
			"a message":                {change: func(e *event.Proto) { e.Type, e.StateKey = message, nil }},
			"power levels":             {change: func(e *event.Proto) { e.Type, e.StateKey = "m.room.power_levels", new(string) }},
			"no state":                 {change: func(e *event.Proto) { e.StateKey = nil }},
			"a join":                   {change: func(e *event.Proto) { e.Content = jsontext.Value(`{"membership":"join"}`) }},
			"no membership":            {change: func(e *event.Proto) { e.Content = jsontext.Value(`{}`) }},
			"of somebody elsewhere":    {change: func(e *event.Proto) { e.StateKey = &other }},
			"of nobody":                {change: func(e *event.Proto) { e.StateKey = new(string) }},
			"by a user of this server": {change: func(e *event.Proto) { e.Sender = bob }},
			"to another room":          {change: func(e *event.Proto) { e.Room = "!other:elsewhere.example" }},
			"under another id":         {in: func(in *room.Invitation) { in.Event = "$other" }},
			"by a third server":        {in: func(in *room.Invitation) { in.Origin = "third.example" }},
			"with altered content": {in: func(in *room.Invitation) {
				in.Raw = jsontext.Value(strings.Replace(string(in.Raw), `"membership":"invite"`, `"extra":1,"membership":"invite"`, 1))
			}},
			"that is forged":             {in: func(in *room.Invitation) { p.forged[in.Event] = true }},
			"of an unknown room version": {code: "M_INCOMPATIBLE_ROOM_VERSION", in: func(in *room.Invitation) { in.Version = "99" }},
			"that is no event":           {code: "M_BAD_JSON", in: func(in *room.Invitation) { in.Raw = jsontext.Value(`{"type":"m.room.member"}`) }},
		} {
			t.Run(what, func(t *testing.T) {
				in := p.invitation(test.change)
				if test.in != nil {
					test.in(&in)
				}
				if test.code == "" {
					test.code = "M_INVALID_PARAM"
				}
				_, err := p.e.ReceiveInvite(t.Context(), in)
				wantCode(t, err, test.code)
				if m, _ := p.outside(in.Room); m != 0 {
					t.Errorf("alice is invited: %v", m)
				}
			})
		}
	})
}

// Synapse 1.163 proposes events whose references mostly have no hashes.
func TestARoomIsJoinedByReferencesWithoutHashes(t *testing.T) {
	for _, version := range []string{"1", "2"} {
		t.Run(version, func(t *testing.T) {
			g := newPeer(t, storetest.Open(t, nil), version).guest()
			g.proposes = func(raw string) string {
				return regexp.MustCompile(`\{"sha256":"[^"]*"\}`).ReplaceAllString(raw, "{}")
			}
			g.join(guestBob)
			g.want(event.TypeMember, string(guestBob), `{"membership":"join"}`)
			all := timeline(t, g.peer.s, g.peer.e, g.room)
			// Its own hash is all that the join can tell.
			if join := string(all[len(all)-1].PDU.JSON); strings.Count(join, "sha256") != 1 || !strings.Contains(join, ",{}]") {
				t.Errorf("the join claims hashes that nobody told: %s", join)
			}
		})
	}
}

// CVE-2023-32323: an invite whose room state is huge blocked a server. CVE-2024-52815: one
// whose room state was malformed broke the sync of the invited user.
func TestTheStateOfAnInviteIsBoundedAndWellFormed(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "10")
	in := p.invitation(nil)
	in.State = append(in.State, jsontext.Value(`{"type":"m.room.topic","state_key":"","sender":"@charlie:elsewhere.example","content":{"topic":"`+strings.Repeat("x", 300<<10)+`"}}`))
	_, err := p.e.ReceiveInvite(t.Context(), in)
	wantCode(t, err, "M_INVALID_PARAM")
	in = p.invitation(nil)
	for range 100 {
		in.State = append(in.State, jsontext.Value(`{}`))
	}
	_, err = p.e.ReceiveInvite(t.Context(), in)
	wantCode(t, err, "M_INVALID_PARAM")

	in = p.invitation(nil)
	in.State = []jsontext.Value{
		jsontext.Value(`{"type":"m.room.name","state_key":"","sender":"@charlie:elsewhere.example","content":{"name":"Away"},"event_id":7,"evil":1}`),
		jsontext.Value(`{"type":"m.room.name","state_key":"","sender":"@charlie:elsewhere.example","content":{"name":"Again"}}`),
		jsontext.Value(`{"type":"m.room.topic","sender":"@charlie:elsewhere.example","content":{}}`),
		jsontext.Value(`{"type":"m.room.avatar","state_key":"","sender":"charlie","content":{}}`),
		jsontext.Value(`{"type":"m.room.encryption","state_key":"","sender":"@charlie:elsewhere.example","content":[]}`),
		jsontext.Value(`{"type":7}`), jsontext.Value(`"x"`), jsontext.Value(`null`), jsontext.Value(`[[]]`),
	}
	_, err = p.e.ReceiveInvite(t.Context(), in)
	p.must(err)
	_, state := p.outside(in.Room)
	if len(state) != 2 || state[0]["content"].(map[string]any)["name"] != "Away" || len(state[0]) != 4 {
		t.Errorf("%v", state)
	}
}

// msc: 4311
//
// MSC4311: an invite comes with the whole create event.
func TestRoomsNamedByTheirCreateEventProveIt(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "12")
	for what, change := range map[string]func(*room.Invitation){
		"without state": func(in *room.Invitation) { in.State = nil },
		"with stripped state": func(in *room.Invitation) {
			in.State[0] = jsontext.Value(`{"type":"m.room.create","state_key":"","sender":"@charlie:elsewhere.example","content":{}}`)
		},
		"with a create event of another room": func(in *room.Invitation) {
			in.State[0] = jsontext.Value(strings.Replace(string(in.State[0]), `"depth":1`, `"depth":2`, 1))
		},
		"with a forged one": func(in *room.Invitation) { p.forged[id.Event("$"+in.Room[1:])] = true },
	} {
		in := p.invitation(nil)
		change(&in)
		_, err := p.e.ReceiveInvite(t.Context(), in)
		if codeOf(err) != "M_INVALID_PARAM" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Synapse (up to 1.157) tells of a room of version 12 the create event as a whole, which proves the
// room, and all else as stripped state.
// spec: server-server-api#put_matrixfederationv2inviteroomideventid
func TestAnInviteThatTellsOnlyTheCreateEventAsAWhole(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "12")
	in := p.invitation(nil)
	in.State = append(in.State, jsontext.Value(`{"type":"m.room.name","state_key":"","sender":"@charlie:elsewhere.example","content":{"name":"Away"}}`))
	_, err := p.e.ReceiveInvite(t.Context(), in)
	p.must(err)
	m, state := p.outside(in.Room)
	if m != store.Invite || len(state) != 3 || state[1]["type"] != event.TypeName {
		t.Errorf("%v %v", m, state)
	}
}

// A server that is wrong about a room's version, or lies about it, must not keep out whoever is
// invited afterwards, nor make unreadable who was before.
func TestAnInviteOfAnotherVersionKeepsNobodyOut(t *testing.T) {
	for _, wrong := range []string{"1", "10"} {
		t.Run("version "+wrong, func(t *testing.T) {
			s := storetest.Open(t, nil)
			p := newPeer(t, s, "11")
			other, _ := roomversion.Get(wrong)
			lie := func(user id.User) {
				t.Helper()
				proto := event.Proto{Room: "!away:elsewhere.example", Type: event.TypeMember, StateKey: (*string)(&user), Sender: remoteBob, OriginServerTS: 1, Depth: 2,
					Content: jsontext.Value(`{"membership":"invite"}`), AuthEvents: []event.Ref{{ID: "$auth:elsewhere.example"}}}
				if other.EventID == roomversion.EventIDField {
					proto.EventID = id.Event("$" + user[1:])
				}
				lie, err := event.Build(other, proto, elsewhere, "ed25519:1", p.key)
				p.must(err)
				_, err = p.e.ReceiveInvite(t.Context(), room.Invitation{HandIn: room.HandIn{Origin: elsewhere, Room: lie.Room, Event: lie.ID, Raw: lie.JSON}, Version: wrong})
				p.must(err)
			}
			in := p.invitation(nil)
			lie(alice)
			_, err := p.e.ReceiveInvite(t.Context(), in)
			p.must(err)
			lie(bob)
			if m, state := p.outside(in.Room); m != store.Invite || len(state) != 2 {
				t.Errorf("%v %v", m, state)
			}
			restarted := newPeer(t, s, "11") // has no event in memory
			p.must(s.View(t.Context(), func(tx *store.Tx) error {
				nid, _, err := tx.Rooms.Find(in.Room)
				p.must(err)
				for _, user := range []id.User{alice, bob} {
					who, _, err := tx.IDs.FindUser(user)
					p.must(err)
					m, _, err := tx.Members.Get(nid, who)
					p.must(err)
					events, err := restarted.e.Events(tx, []store.EventNID{m.Event})
					if err != nil || events[0].PDU.Version.ID != map[id.User]string{alice: "11", bob: wrong}[user] {
						t.Errorf("the invite of %s: %v %v", user, events, err)
					}
				}
				return nil
			}))
			key := string(alice)
			end, err := event.Build(p.v, event.Proto{Room: in.Room, Type: event.TypeMember, StateKey: &key, Sender: remoteCharlie, OriginServerTS: 3, Depth: 3,
				Content: jsontext.Value(`{"membership":"leave"}`), AuthEvents: []event.Ref{p.events[in.Event].Ref()}}, elsewhere, "ed25519:1", p.key)
			p.must(err)
			for _, err := range p.e.Receive(t.Context(), elsewhere, in.Room, []jsontext.Value{end.JSON}) {
				p.must(err)
			}
			if m, _ := p.outside(in.Room); m != store.Leave {
				t.Errorf("the invite was taken back: %v", m)
			}
		})
	}
}

// spec: client-server-api#invite-permission
func TestWhoTakesNoInvites(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.must(p.s.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AccountData.Set(alice, "m.invite_permission_config", jsontext.Value(`{"default_action":"block"}`))
	}))
	_, err := p.e.ReceiveInvite(t.Context(), p.invitation(nil))
	wantCode(t, err, "M_INVITE_BLOCKED")
}

func TestAnInviteIsTakenBack(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	in := p.invitation(nil)
	_, err := p.e.ReceiveInvite(t.Context(), in)
	p.must(err)
	end := func(sender id.User, auth ...event.Ref) map[id.Event]error {
		key := string(alice)
		pdu, err := event.Build(p.v, event.Proto{Room: in.Room, Type: event.TypeMember, StateKey: &key, Sender: sender, OriginServerTS: 3, Depth: 3,
			Content: jsontext.Value(`{"membership":"leave"}`), AuthEvents: auth}, sender.Server(), "ed25519:1", p.key)
		p.must(err)
		return p.e.Receive(t.Context(), elsewhere, in.Room, []jsontext.Value{pdu.JSON})
	}
	// Who does not know the invite is not in the room.
	end(remoteBob)
	if m, _ := p.outside(in.Room); m != store.Invite {
		t.Errorf("%v", m)
	}
	// Whether somebody else may take it back cannot be known here.
	end(remoteBob, p.events[in.Event].Ref())
	if m, _ := p.outside(in.Room); m != store.Invite {
		t.Errorf("%v", m)
	}
	for _, err := range end(remoteCharlie, p.events[in.Event].Ref()) {
		p.must(err)
	}
	if m, _ := p.outside(in.Room); m != store.Leave {
		t.Errorf("%v", m)
	}
}
