package clientsync_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"hearth/clientsync"
	"hearth/matrix/id"
	"hearth/room"
)

// crowd makes a room with some more members, and returns them.
func (s *server) crowd(r id.Room, n int) (users []id.User) {
	s.t.Helper()
	for i := range n {
		u := id.User(fmt.Sprintf("@user%d:localhost", i))
		users = append(users, u)
		s.join(r, u)
	}
	return users
}

func sorted(words string) string {
	list := strings.Fields(words)
	slices.Sort(list)
	return strings.Join(list, " ")
}

const lazyShort = `{"room":{"state":{"lazy_load_members":true},"timeline":{"limit":2}}}`

// spec: client-server-api#lazy-loading-room-members
func TestLazyLoadingSendsMembersThatAreNeeded(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.name(r, alice, "Named")
	users := s.crowd(r, 5)
	s.say(r, users[3], "one")
	s.say(r, users[4], "two")
	j := s.sync(alice, "", withFilter(lazyShort)).Rooms.Join[r]
	s.want("members", sorted(members(j.State.Events)), "alice:join user3:join user4:join")
	if got := j.state(); !strings.Contains(got, "create") || !strings.Contains(got, "name:Named") {
		t.Errorf("state %q", got)
	}
	after := s.sync(alice, "", withFilter(lazyShort), stateAfter).Rooms.Join[r]
	s.want("members of state_after", sorted(members(after.StateAfter.Events)), "alice:join user3:join user4:join")
}

func TestRedundantMembersAreLeftOut(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.name(r, alice, "Named")
	users := s.crowd(r, 3)
	s.say(r, alice, "one", "two")
	a := s.sync(alice, "", withFilter(lazyShort))
	s.say(r, users[0], "hello")
	b := s.sync(alice, a.NextBatch, withFilter(lazyShort))
	s.want("new sender", b.Rooms.Join[r].state(), "user0:join")
	lost := s.sync(alice, a.NextBatch, withFilter(lazyShort))
	s.want("new sender, the answer was lost", lost.Rooms.Join[r].state(), "user0:join")
	s.say(r, users[0], "again")
	c := s.sync(alice, b.NextBatch, withFilter(lazyShort))
	s.want("known sender", c.Rooms.Join[r].state(), "")
	s.want("timeline", c.Rooms.Join[r].timeline(), "again")
	s.say(r, users[0], "once more")
	const redundant = `{"room":{"state":{"lazy_load_members":true,"include_redundant_members":true}}}`
	d := s.sync(alice, c.NextBatch, withFilter(redundant))
	s.want("redundant members asked for", d.Rooms.Join[r].state(), "user0:join")
	other := s.sync(alice, c.NextBatch, withFilter(lazyShort), func(q *clientsync.Request) { q.Device = "OTHER" })
	s.want("another device", other.Rooms.Join[r].state(), "user0:join")
	s.restart()
	s.want("after a restart", s.sync(alice, c.NextBatch, withFilter(lazyShort)).Rooms.Join[r].state(), "user0:join")
}

func TestLazyLoadingSendsAllMemberChangesOfAGap(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.name(r, alice, "Named")
	users := s.crowd(r, 3)
	a := s.sync(alice, "", withFilter(lazyShort))
	s.leave(r, users[0])
	s.join(r, bob)
	s.say(r, alice, "one", "two", "three")
	b := s.sync(alice, a.NextBatch, withFilter(lazyShort))
	j := b.Rooms.Join[r]
	s.want("members", sorted(members(j.State.Events)), "bob:join user0:leave")
	if !j.Timeline.Limited {
		t.Error("not limited")
	}
	// Those of the timeline itself are in it.
	s.join(r, charlie)
	c := s.sync(alice, b.NextBatch, withFilter(lazyShort))
	s.want("timeline", c.Rooms.Join[r].timeline(), "charlie:join")
	s.want("state", c.Rooms.Join[r].state(), "")
	s.say(r, charlie, "hello")
	d := s.sync(alice, c.NextBatch, withFilter(lazyShort))
	s.want("state when the new one speaks", d.Rooms.Join[r].state(), "")
	s.leave(r, charlie)
	e := s.sync(alice, d.NextBatch, withFilter(lazyShort), stateAfter)
	s.want("state_after of a leave", e.Rooms.Join[r].stateAfter(), "charlie:leave")
}

// The sender of a message must be known, also where a filter keeps their join out of the timeline.
func TestLazyLoadingWithoutMembersInTheTimeline(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.name(r, alice, "Named")
	const messages = `{"room":{"state":{"lazy_load_members":true},"timeline":{"types":["m.room.message"]}}}`
	s.join(r, bob)
	s.say(r, bob, "hello")
	a := s.sync(alice, "", withFilter(messages))
	s.want("members", sorted(members(a.Rooms.Join[r].State.Events)), "alice:join bob:join")
	s.join(r, charlie)
	s.say(r, charlie, "hello")
	b := s.sync(alice, a.NextBatch, withFilter(messages))
	s.want("members", members(b.Rooms.Join[r].State.Events), "charlie:join")
}

func TestSummary(t *testing.T) {
	s := newServer(t)
	r := s.create(room.Creation{Creator: alice, Preset: "public_chat"})
	users := s.crowd(r, 6)
	s.say(r, alice, "one", "two")
	a := s.sync(alice, "", withFilter(lazyShort))
	j := a.Rooms.Join[r]
	if j.Summary == nil || *j.Summary.Joined != 7 || *j.Summary.Invited != 0 || !slices.Equal(j.Summary.Heroes, users[:5]) {
		t.Errorf("%s", a.raw)
	}
	s.want("members", sorted(members(j.State.Events)), "alice:join user0:join user1:join user2:join user3:join user4:join")
	s.say(r, alice, "three")
	b := s.sync(alice, a.NextBatch, withFilter(lazyShort))
	if b.Rooms.Join[r].Summary != nil {
		t.Errorf("nobody came or left, but: %s", b.raw)
	}
	s.invite(r, alice, bob)
	s.leave(r, users[0])
	c := s.sync(alice, b.NextBatch, withFilter(lazyShort))
	if j := c.Rooms.Join[r]; j.Summary == nil || *j.Summary.Joined != 6 || *j.Summary.Invited != 1 || !slices.Equal(j.Summary.Heroes, users[1:6]) {
		t.Errorf("%s", c.raw)
	}
	s.name(r, alice, "Named")
	s.leave(r, users[1])
	d := s.sync(alice, c.NextBatch, withFilter(lazyShort))
	if j := d.Rooms.Join[r]; j.Summary == nil || *j.Summary.Joined != 5 || j.Summary.Heroes != nil {
		t.Errorf("%s", d.raw)
	}
}

func TestThoseWhoLeftNameTheRoomWhenNobodyElseIsThere(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	s.leave(r, bob)
	j := s.sync(alice, "").Rooms.Join[r]
	if j.Summary == nil || !slices.Equal(j.Summary.Heroes, []id.User{bob}) || *j.Summary.Joined != 1 {
		t.Errorf("%+v", j.Summary)
	}
}
