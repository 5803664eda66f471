package stateres

import (
	"fmt"
	"maps"
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// In rooms of version 1 gomatrixserverlib comes to the same states. Its rules let
// users leave twice and lift bans more easily (see authrules): merges in which that could
// matter are left out.
func TestV1AgreesWithGomatrixserverlib(t *testing.T) {
	disputes := 0
	for seed := range uint64(20) {
		g := newTangle(t, "1", seed)
		for n := range 60 {
			g.step(n)
		}
		for group := range g.merges {
			if g.hasSeveralDepartures(group) {
				continue
			}
			got, want := g.mustResolve(group...), resolveByGMSL(t, g.testRoom, group)
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d: resolved\n%s\nbut gomatrixserverlib says\n%s\nfor\n%s\nin\n%s", seed, got, want, group, g)
			}
			if !maps.Equal(group[0], group[1]) {
				disputes++
			}
		}
	}
	if disputes < 50 {
		t.Errorf("only %d merges had to be resolved", disputes)
	}
}

// hasSeveralDepartures says whether somebody left in one state and did so again, or
// is banned, in another.
func (r *testRoom) hasSeveralDepartures(states []state) bool {
	gone := map[event.StateTuple]id.Event{}
	for _, s := range states {
		for k, v := range s {
			if m := r.event(v).Membership(); m != event.MembershipLeave && m != event.MembershipBan {
				continue
			}
			if other, ok := gone[k]; ok && other != v {
				return true
			}
			gone[k] = v
		}
	}
	return false
}

func resolveByGMSL(t *testing.T, r *testRoom, states []state) state {
	values := map[event.StateTuple]map[string]gmsl.PDU{}
	for _, s := range states {
		for k, v := range s {
			if values[k] == nil {
				values[k] = map[string]gmsl.PDU{}
			}
			if values[k][string(v)] == nil {
				values[k][string(v)] = gmslEvent(t, r.event(v))
			}
		}
	}
	out := state{}
	var conflicted, agreed []gmsl.PDU
	for k, events := range values {
		for _, e := range events {
			if len(events) > 1 {
				conflicted = append(conflicted, e)
			} else {
				agreed = append(agreed, e)
				out[k] = r.event(id.Event(e.EventID())).ID
			}
		}
	}
	for _, e := range gmsl.ResolveStateConflicts(conflicted, agreed, func(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
		return spec.NewUserID(string(sender), true)
	}) {
		ev := r.event(id.Event(e.EventID()))
		out[ev.Tuple()] = ev.ID
	}
	return out
}

func gmslEvent(t *testing.T, ev *event.PDU) gmsl.PDU {
	t.Helper()
	prev := ""
	for _, p := range ev.PrevEvents {
		prev = fmt.Sprintf(`[%q,{}]`, p)
	}
	js := fmt.Sprintf(`{"auth_events":[],"content":%s,"depth":%d,"event_id":%q,"hashes":{},"origin_server_ts":%d,"prev_events":[%s],"room_id":%q,"sender":%q,"signatures":{},"state_key":%q,"type":%q}`,
		ev.Content, ev.Depth, ev.ID, ev.OriginServerTS, prev, ev.Room, ev.Sender, *ev.StateKey, ev.Type)
	p, err := gmsl.MustGetRoomVersion("1").NewEventFromTrustedJSON([]byte(js), false)
	if err != nil {
		t.Fatalf("%s: %v", js, err)
	}
	return p
}
