package clientsync_test

import (
	"context"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// elsewhere is other servers, as far as events of theirs must be signed.
type elsewhere struct{ room.Network }

func (elsewhere) VerifyEvents(_ context.Context, _ id.Server, events []*event.PDU) []error {
	return make([]error, len(events))
}

// What lies on a branch from before the timeline is in the state too, for those who do
// not look for it in the timeline.
func TestStateOnABranchFromBeforeTheTimeline(t *testing.T) {
	s := newServer(t)
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	s.rooms = room.New(s.store, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: key, Network: elsewhere{},
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	s.configure(s.options)
	r := s.publicRoom(alice)
	s.say(r, alice, "one")
	var branch *event.PDU
	s.ok(s.rooms.Look(t.Context(), r, alice, "", func(tx *store.Tx, v *room.View) error {
		h, err := s.rooms.Messages(tx, v, room.Page{Back: true, Limit: 10})
		if err != nil {
			return err
		}
		one := h.Events[0].PDU
		name := event.Proto{Room: r, Type: "m.room.name", StateKey: new(string), Sender: alice, Content: jsontext.Value(`{"name":"Branch"}`),
			OriginServerTS: one.OriginServerTS, Depth: one.Depth + 1, PrevEvents: []event.Ref{one.Ref()}}
		for _, ev := range h.Events {
			if slices.Contains(one.AuthEvents, ev.ID) {
				name.AuthEvents = append(name.AuthEvents, ev.PDU.Ref())
			}
		}
		branch, err = event.Build(one.Version, name, storetest.Server, "ed25519:1", key)
		return err
	}))
	s.say(r, alice, "two", "three")
	for _, err := range s.rooms.Receive(t.Context(), "elsewhere.example", r, []jsontext.Value{branch.JSON}) {
		s.ok(err)
	}
	s.set(r, alice, "filtered", "", `{}`)
	j := s.sync(alice, "", withFilter(`{"room":{"timeline":{"limit":1,"not_types":["filtered"]}}}`)).Rooms.Join[r]
	s.want("timeline", j.timeline(), "name:Branch")
	if !strings.Contains(j.state(), "name:Branch") {
		t.Errorf("state %q", j.state())
	}
	j = s.sync(alice, "", withFilter(`{"room":{"timeline":{"limit":5}}}`)).Rooms.Join[r]
	if strings.Contains(j.state(), "name:Branch") {
		t.Errorf("the timeline begins before the branch, but state %q", j.state())
	}
}
