package clientsync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/clientsync"
	"hearth/matrix/errcode"
)

func (s *server) events(r clientsync.EventsRequest) (clientsync.Chunk, string) {
	s.t.Helper()
	c, err := s.syncer.Events(context.Background(), r)
	s.ok(err)
	var words []string
	for _, raw := range c.Events {
		var e clientEvent
		s.ok(json.Unmarshal(raw, &e))
		if e.RoomID == "" {
			s.t.Errorf("%s names no room", e.ID)
		}
		words = append(words, e.String())
	}
	return c, strings.Join(words, " ")
}

func TestEventsOfAllRooms(t *testing.T) {
	s := newServer(t)
	a, b, other := s.publicRoom(alice), s.publicRoom(alice), s.publicRoom(charlie)
	s.join(a, bob)
	s.join(b, bob)
	c, got := s.events(clientsync.EventsRequest{User: bob})
	s.want("from now on", got, "")
	s.say(a, alice, "one")
	s.say(other, charlie, "elsewhere")
	s.say(b, alice, "two")
	s.say(a, alice, "three")
	c, got = s.events(clientsync.EventsRequest{User: bob, From: c.End})
	s.want("chunk", got, "one two three")
	for i := range 120 {
		s.say(a, alice, fmt.Sprint(i))
	}
	c, _ = s.events(clientsync.EventsRequest{User: bob, From: c.End})
	if len(c.Events) != 100 {
		t.Errorf("%d events at once", len(c.Events))
	}
	c, _ = s.events(clientsync.EventsRequest{User: bob, From: c.End})
	if len(c.Events) != 20 {
		t.Errorf("%d events after that", len(c.Events))
	}
}

func TestEventsWaitAlsoForRoomsThatAreOnlySeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t)
		r := s.publicRoom(alice)
		s.join(r, bob)
		s.set(r, alice, "m.room.history_visibility", "", `{"history_visibility":"world_readable"}`)
		for name, req := range map[string]clientsync.EventsRequest{
			"joined": {User: bob, Timeout: time.Minute},
			"seen":   {User: charlie, Guest: true, Room: r, Timeout: time.Minute},
		} {
			var got clientsync.Chunk
			var err error
			go func() { got, err = s.syncer.Events(t.Context(), req) }()
			synctest.Wait()
			s.say(r, alice, name)
			synctest.Wait()
			if err != nil || len(got.Events) != 1 || !strings.Contains(string(got.Events[0]), name) {
				t.Errorf("%s: %s, %v", name, got.Events, err)
			}
		}
	})
}

func TestEventsRefused(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	for name, tt := range map[string]struct {
		req  clientsync.EventsRequest
		code string
	}{
		"guest without a room": {clientsync.EventsRequest{User: charlie, Guest: true}, "M_MISSING_PARAM"},
		"room not to be seen":  {clientsync.EventsRequest{User: charlie, Room: r}, "M_FORBIDDEN"},
		"unknown room":         {clientsync.EventsRequest{User: charlie, Room: "!none:localhost"}, "M_FORBIDDEN"},
		"bad token":            {clientsync.EventsRequest{User: alice, From: "x"}, "M_INVALID_PARAM"},
	} {
		_, err := s.syncer.Events(context.Background(), tt.req)
		if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Code != tt.code {
			t.Errorf("%s: %v, want %s", name, err, tt.code)
		}
	}
}
