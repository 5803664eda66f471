package clientsync_test

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/clientsync"
	"hearth/matrix/id"
)

// throng lets so many users join that the room's state takes several writes.
func (s *server) throng(r id.Room) (users []id.User) {
	s.t.Helper()
	for i := range 520 {
		users = append(users, id.User(fmt.Sprintf("@%03d%s:localhost", i, strings.Repeat("x", 180))))
	}
	for _, u := range users {
		s.join(r, u)
	}
	return users
}

// pausing is a client that takes the first piece of an answer and then waits.
type pausing struct {
	bytes.Buffer
	pause  func()
	pieces int
}

func (p *pausing) Write(b []byte) (int, error) {
	if p.pieces++; p.pieces == 1 {
		p.pause()
	}
	return p.Buffer.Write(b)
}

func (p *pausing) answer(t *testing.T) (a answer) {
	t.Helper()
	if err := json.Unmarshal(p.Bytes(), &a); err != nil {
		t.Fatal(err)
	}
	return a
}

func TestLargeStateIsOfOneMoment(t *testing.T) {
	for _, c := range []struct {
		name   string
		first  bool
		change []func(*clientsync.Request)
	}{
		{name: "first", first: true},
		{name: "after joining"},
		{"full state", false, []func(*clientsync.Request){fullState}},
		{"state after", true, []func(*clientsync.Request){stateAfter}},
		{"state after by both names", true, []func(*clientsync.Request){stateAfter, func(r *clientsync.Request) { r.StateAfterUnstable = true }}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newServer(t)
			r, other := s.publicRoom(alice), s.publicRoom(alice)
			users := s.throng(r)
			since := ""
			if !c.first {
				s.join(other, bob)
				since = s.sync(bob, "").NextBatch
			}
			s.join(r, bob)
			s.join(other, bob)
			out := pausing{pause: func() {
				s.leave(r, users[0])
				s.leave(r, users[519])
				s.join(r, charlie)
				s.name(r, alice, "a new name")
			}}
			s.ok(s.syncer.Sync(t.Context(), request(bob, since, c.change...), &out))
			if out.pieces < 2 {
				t.Fatalf("the answer of %d bytes came in one piece", out.Len())
			}
			a := out.answer(t)
			told := a.Rooms.Join[r]
			state := told.State
			for _, after := range []*events{told.StateAfter, told.StateAfterUnstable} {
				if after != nil {
					state = after
				}
			}
			memberships := map[string]any{}
			for _, e := range append(state.Events, told.Timeline.Events...) {
				if e.Type == "m.room.member" {
					memberships[*e.StateKey] = e.Content["membership"]
				}
				if e.Type == "m.room.name" {
					t.Error("the name of later is shown")
				}
			}
			for _, u := range users {
				if m := memberships[string(u)]; m != "join" {
					t.Errorf("%s is shown as %v", u, m)
				}
			}
			if m, ok := memberships[string(charlie)]; ok {
				t.Errorf("charlie, who came later, is shown as %v", m)
			}
			if _, ok := a.Rooms.Join[other]; !ok && c.first {
				t.Error("the other room is not shown")
			}
			// What happened meanwhile is told next.
			next := s.sync(bob, a.NextBatch)
			s.want("next", members(next.Rooms.Join[r].Timeline.Events),
				fmt.Sprintf("%s:leave %s:leave charlie:join", users[0].Localpart(), users[519].Localpart()))
		})
	}
}

func TestSlowClientsKeepNobodyFromTheStore(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.throng(r)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var begun, ended sync.WaitGroup
	goOn := make(chan struct{})
	for range 4*runtime.GOMAXPROCS(0) + 4 { // more than there are connections
		begun.Add(1)
		ended.Go(func() {
			here := sync.OnceFunc(begun.Done)
			defer here() // also where it fails
			out := pausing{pause: func() {
				here()
				select {
				case <-goOn:
				case <-ctx.Done():
					t.Error("nobody else got on")
				}
			}}
			if err := s.syncer.Sync(ctx, request(alice, ""), &out); err != nil {
				t.Error(err)
			}
			if len(out.answer(t).Rooms.Join[r].State.Events) < 500 {
				t.Error("the state is not whole")
			}
		})
	}
	begun.Wait()
	s.say(r, alice, "hello")
	s.sync(alice, s.hub.Now().String())
	close(goOn)
	ended.Wait()
}
