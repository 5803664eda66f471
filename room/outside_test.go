package room_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

// invitesAlice has charlie invite alice of the guest's server, in which nobody is in the room.
func (g *guest) invitesAlice() *event.PDU {
	g.t.Helper()
	levels := fmt.Sprintf(`{"users":{%q:100,%q:50}}`, alice, remoteCharlie)
	if g.v.PrivilegedCreators {
		levels = fmt.Sprintf(`{"users":{%q:50}}`, remoteCharlie)
	}
	g.local("m.room.power_levels", levels)
	create := g.after[g.newest()][event.StateTuple{Type: event.TypeCreate}]
	invite := g.build(remoteCharlie, event.TypeMember, ptr(string(guestAlice)), `{"membership":"invite"}`, g.newest())
	_, err := g.e.ReceiveInvite(g.t.Context(), room.Invitation{
		HandIn:  room.HandIn{Origin: elsewhere, Room: g.room, Event: invite.ID, Raw: g.raw(invite.ID)},
		Version: g.v.ID, State: []jsontext.Value{g.raw(create.ID)},
	})
	g.must(err)
	return invite
}

// wantAlice wants alice of the guest's server to see her membership so, and to be told if it has changed.
func (g *guest) wantAlice(want store.Membership) {
	g.t.Helper()
	g.mu.Lock()
	changes, was := g.changes, g.was
	g.was = want
	g.mu.Unlock()
	g.must(g.s.View(g.t.Context(), func(tx *store.Tx) error {
		user, _, err := tx.IDs.FindUser(guestAlice)
		if err != nil {
			return err
		}
		news := func(c stream.Change) bool { return c.Position > g.since && slices.Contains(c.Users, user) }
		if want != was && !slices.ContainsFunc(changes, news) {
			g.t.Errorf("alice is not told that her membership is %v", want)
		}
		g.since, err = tx.ReadPosition()
		return err
	}))
	rooms, err := g.e.RoomsOf(g.t.Context(), guestAlice, want)
	g.must(err)
	if len(rooms) != 1 || rooms[0] != g.room {
		g.t.Errorf("alice's rooms of membership %v are %v", want, rooms)
	}
}

// An invite from outside is kept without its auth events. When somebody joins the room it becomes
// an event like others, before anything rests on it.
func TestAnInviteFromOutsideBecomesPartOfTheRoom(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.deliver(g.invitesAlice())
		joined := g.join(guestBob)
		kick := g.build(remoteCharlie, event.TypeMember, ptr(string(guestAlice)), `{"membership":"leave"}`, joined)
		beside := g.set(remoteCharlie, "m.room.topic", `{"topic":"beside"}`, joined)
		both := g.say("both", beside.ID, kick.ID)
		g.receive(kick, beside, both)
		for _, ev := range []*event.PDU{kick, beside, both} {
			if !g.shows(ev.ID) {
				t.Errorf("%s by %s is not shown", ev.Type, ev.Sender)
			}
		}
		g.complete()
		g.wantState(both.ID)
	})
}

// Whoever was invited from outside can refuse that too while the state of the room, which somebody
// else here has joined, does not tell of the invite yet.
func TestAnInviteFromOutsideIsRefusedWhileTheStateIsPartial(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		g.deliver(g.invitesAlice())
		g.join(guestBob)
		g.wantAlice(store.Invite)
		g.must(g.e.Leave(t.Context(), room.Change{Room: g.room, Sender: guestAlice}))
		g.wantAlice(store.Leave)
		g.want(event.TypeMember, string(guestAlice), `{"membership":"leave"}`)
		g.learn()
		g.complete()
		g.wantAlice(store.Leave)
	})
}

// An invite that becomes known as part of the history does not end by that, though
// a partial state does not tell of it.
func TestAnInviteFromOutsideStaysWhileTheStateIsPartial(t *testing.T) {
	eachPartial(t, func(t *testing.T, g *guest) {
		invite := g.invitesAlice()
		g.deliver(invite)
		g.join(guestBob)
		g.receive(invite)
		g.wantAlice(store.Invite)
		storetest.Check(t, g.s)
		g.complete()
		g.wantAlice(store.Invite)
	})
}

// An invite from outside that proves not to hold in the room is not shown any longer.
func TestAnInviteFromOutsideThatDoesNotHoldEnds(t *testing.T) {
	kicked := func(g *guest) (invite *event.PDU) {
		invite = g.invitesAlice()
		g.must(g.peer.e.Kick(g.t.Context(), room.Change{Room: g.room, Sender: alice, Target: remoteCharlie}))
		g.learn()
		g.deliver(invite)
		g.join(guestBob)
		g.wantAlice(store.Invite)
		return invite
	}
	t.Run("when it arrives", func(t *testing.T) {
		eachPartial(t, func(t *testing.T, g *guest) {
			invite := kicked(g)
			g.complete()
			g.wantAlice(store.Invite) // for all that is known the servers in the room may not have it yet
			g.receive(invite)
			g.wantAlice(store.Leave)
		})
	})
	t.Run("when the state becomes whole", func(t *testing.T) {
		eachPartial(t, func(t *testing.T, g *guest) {
			g.receive(kicked(g))
			g.complete()
			g.wantAlice(store.Leave)
		})
	})
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("when all join anew, by a whole state: %t", whole), func(t *testing.T) {
			eachPartial(t, func(t *testing.T, g *guest) {
				invite := kicked(g)
				g.receive(invite)
				g.deliver(g.leave(guestBob))
				g.whole = whole
				g.join(guestBob)
				g.complete()
				want := store.Leave
				if g.v.StateRes == roomversion.StateResV1 {
					want = store.Invite // the leave ties it into the room, and what is in one branch only is not judged
				}
				g.wantAlice(want)
			})
		})
	}
}

// shown is the state of the room that alice of the guest's server is shown, by type, with her own membership.
func (g *guest) shown() map[string]string {
	g.t.Helper()
	shown := map[string]string{}
	g.must(g.s.View(g.t.Context(), func(tx *store.Tx) error {
		nid, _, err := tx.Rooms.Find(g.room)
		if err != nil {
			return err
		}
		user, _, err := tx.IDs.FindUser(guestAlice)
		if err != nil {
			return err
		}
		raw, _, err := tx.Members.Stripped(nid, user)
		if err != nil {
			return err
		}
		var state []struct {
			Type    string         `json:"type"`
			Key     string         `json:"state_key"`
			Content jsontext.Value `json:"content"`
		}
		if err := json.Unmarshal(raw, &state); err != nil {
			return err
		}
		for _, s := range state {
			shown[s.Type+s.Key] += string(s.Content)
		}
		return nil
	}))
	return shown
}

// A server that has taken a knock has it in its room, whatever else it says: the knock is here, to be
// taken back, and its user sees what is right of the state that goes with the answer.
// spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func TestAKnockIsKeptWithoutWhatIsWrongInItsAnswer(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		for what, list := range map[string]func(g *guest, state []jsontext.Value) []jsontext.Value{
			"some entries are wrong": func(g *guest, state []jsontext.Value) []jsontext.Value {
				g.learn()
				away := newPeer(t, storetest.Open(t, nil), version)
				forged := g.set(remoteCharlie, event.TypeTopic, `{"topic":"forged"}`, g.newest())
				g.forged[forged.ID] = true
				return append([]jsontext.Value{
					g.raw(forged.ID), g.raw(g.say("no state", g.newest()).ID), away.raw(away.local(event.TypeAvatar, `{"url":"mxc://of/another-room"}`)),
					jsontext.Value(`{}`), jsontext.Value(`7`), jsontext.Value(`{"type":"m.room.avatar","state_key":"","sender":"@charlie:elsewhere.example","content":[]}`),
				}, state...)
			},
			"too much is told": func(g *guest, state []jsontext.Value) []jsontext.Value {
				for i := range 100 {
					state = append(state, jsontext.Value(fmt.Sprintf(`{"type":"m.room.pinned_events","state_key":"%d","sender":%q,"content":{"x":%q}}`, i, remoteCharlie, strings.Repeat("x", 50<<10))))
				}
				return state
			},
			"nothing is told": func(*guest, []jsontext.Value) []jsontext.Value { return nil },
		} {
			t.Run("version "+version+", "+what, func(t *testing.T) {
				p := newPeer(t, storetest.Open(t, nil), version)
				p.local(event.TypeJoinRules, `{"join_rule":"knock"}`)
				p.local(event.TypeName, `{"name":"n"}`)
				g := p.guest()
				knocks := 0
				g.tells = func(state []jsontext.Value) []jsontext.Value { knocks++; return list(g, state) }
				g.must(g.e.Knock(t.Context(), room.Change{Room: g.room, Sender: guestAlice, Via: []id.Server{storetest.Server, elsewhere}}))
				g.wantAlice(store.Knock)
				shown := g.shown()
				if want := map[bool]string{true: `{"name":"n"}`}[what != "nothing is told"]; shown[event.TypeName] != want || shown[event.TypeTopic] != "" || shown[event.TypeAvatar] != "" {
					t.Errorf("alice is shown %v", shown)
				}
				if size := len(fmt.Sprint(shown)); size > 300<<10 {
					t.Errorf("alice is shown %d bytes", size)
				}
				if knocks != 1 {
					t.Errorf("%d servers were knocked at", knocks)
				}
				g.must(g.e.Leave(t.Context(), room.Change{Room: g.room, Sender: guestAlice}))
				g.wantAlice(store.Leave)
				if what != "nothing is told" { // else nobody is known to tell
					g.want(event.TypeMember, string(guestAlice), `{"membership":"leave"}`)
				}
			})
		}
	}
}

// Clients decline what another device has declined, and repeat what they had no answer to: who has left
// already stays so, also where only this server knows that they were at the door.
func TestWhoRefusesAnInviteTwiceHasRefusedIt(t *testing.T) {
	for what, come := range map[string]func(g *guest){
		"an invite": func(g *guest) { g.deliver(g.invitesAlice()) },
		"an invite, while others cannot be asked": func(g *guest) {
			g.invitesAlice()
			g.slowly(func(context.Context, string, id.Server) error { return errors.New("there is nobody") })
		},
		"an invite to a room that somebody here is in": func(g *guest) {
			g.deliver(g.invitesAlice())
			g.join(guestBob)
		},
		"an invite that proved not to hold": func(g *guest) {
			invite := g.invitesAlice()
			g.must(g.peer.e.Kick(g.t.Context(), room.Change{Room: g.room, Sender: alice, Target: remoteCharlie}))
			g.learn()
			g.deliver(invite)
			g.join(guestBob)
			g.complete()
			g.receive(invite)
			g.wantAlice(store.Leave)
		},
		"a knock": func(g *guest) {
			g.local(event.TypeJoinRules, `{"join_rule":"knock"}`)
			g.must(g.e.Knock(g.t.Context(), room.Change{Room: g.room, Sender: guestAlice, Via: []id.Server{storetest.Server}}))
		},
	} {
		t.Run(what, func(t *testing.T) {
			for _, version := range []string{"7", "11", "12"} {
				t.Run("version "+version, func(t *testing.T) {
					p := newPeer(t, storetest.Open(t, nil), version)
					p.local(event.TypeName, `{"name":"n"}`)
					g := p.guest()
					come(g)
					for range 2 {
						g.must(g.e.Leave(t.Context(), room.Change{Room: g.room, Sender: guestAlice}))
						g.wantAlice(store.Leave)
					}
				})
			}
		})
	}
}
