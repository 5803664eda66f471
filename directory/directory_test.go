package directory_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/directory"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

const (
	alice   = id.User("@alice:localhost")
	bob     = id.User("@bob:localhost")
	charlie = id.User("@charlie:localhost")
)

// script is a server under test.
type script struct {
	*testing.T
	s     *store.Store
	rooms *room.Engine
	d     *directory.Directory
	sent  int64
}

func newScript(t *testing.T, s *store.Store) *script {
	rooms := room.New(s, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
	return &script{T: t, s: s, rooms: rooms, d: directory.New(s, rooms, directory.Options{})}
}

func (s *script) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

func (s *script) create(c room.Creation) id.Room {
	s.Helper()
	if c.Creator == "" {
		c.Creator = alice
	}
	name, err := s.rooms.Create(s.Context(), c)
	s.must(err)
	return name
}

func (s *script) join(user id.User, rooms ...id.Room) {
	s.Helper()
	for _, r := range rooms {
		s.must(s.rooms.Join(s.Context(), room.Change{Room: r, Sender: user}))
	}
}

func (s *script) invite(user id.User, r id.Room) {
	s.Helper()
	s.must(s.rooms.Invite(s.Context(), room.Change{Room: r, Sender: alice, Target: user}))
}

func (s *script) set(r id.Room, typ, key, content string) {
	s.Helper()
	s.sent++ // what is sent later is later, however fast the machine: children of spaces are in order of time
	_, err := s.rooms.Send(s.Context(), r, room.Proposal{Sender: alice, Type: typ, StateKey: &key, Content: jsontext.Value(content), Timestamp: s.sent})
	s.must(err)
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if e := (*errcode.Error)(nil); !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func state(typ, content string) room.InitialState {
	return room.InitialState{Type: typ, Content: jsontext.Value(content)}
}

func TestPublicRoomsInPagesBothWays(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st)
		big := s.create(room.Creation{Public: true, Name: "Big"})
		s.join(bob, big)
		want := []string{"Big"}
		for _, name := range []string{"A", "B", "C", "D"} {
			s.create(room.Creation{Public: true, Name: name})
			want = append(want, name)
		}
		s.create(room.Creation{Preset: "public_chat", Name: "not listed"})
		var got []string
		q := directory.PublicQuery{Limit: 2}
		for range 10 {
			page, err := s.d.PublicRooms(t.Context(), q)
			s.must(err)
			if page.Total != 5 {
				t.Errorf("total %d", page.Total)
			}
			for _, r := range page.Chunk {
				got = append(got, r.Name)
			}
			if len(got) == 2 && page.Prev != "" {
				t.Error("there is something before the first page")
			}
			if page.Next == "" {
				if !slices.Equal(got, want) {
					t.Errorf("forward: %v", got)
				}
				back, err := s.d.PublicRooms(t.Context(), directory.PublicQuery{Limit: 2, Since: page.Prev})
				s.must(err)
				if len(back.Chunk) != 2 || back.Chunk[0].Name != "B" || back.Chunk[1].Name != "C" || back.Next == "" || back.Prev == "" {
					t.Errorf("back: %+v", back)
				}
				return
			}
			q.Since = page.Next
		}
		t.Error("the list does not end")
	})
}

// spec: client-server-api#put_matrixclientv3directorylistappservicenetworkidroomid
func TestRoomsOfNetworks(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st)
		s.d = directory.New(st, s.rooms, directory.Options{Services: []string{"irc", "irc|other"}})
		both := s.create(room.Creation{Public: true, Name: "Both"})
		s.join(bob, both)
		rooms := map[string]id.Room{"Both": both, "Public": s.create(room.Creation{Public: true, Name: "Public"})}
		for _, name := range []string{"A", "B", "C", "Other", "Gone"} {
			rooms[name] = s.create(room.Creation{Preset: "public_chat", Name: name})
		}
		list := func(service, network, name string, listed bool) {
			t.Helper()
			s.must(s.d.SetListedIn(t.Context(), service, network, rooms[name], listed))
		}
		for _, name := range []string{"Both", "A", "B", "C", "C"} {
			list("irc", "libera", name, true)
		}
		list("irc", "oftc", "Other", true)
		list("gone", "libera", "Gone", true) // of a service that is no longer registered
		list("irc", "libera", "Other", true)
		list("irc", "libera", "Other", false)
		list("irc", "libera", "Public", false) // is not there
		check := func(q directory.PublicQuery, want string) {
			t.Helper()
			var got []string
			q.Limit = 2
			for range 10 {
				page, err := s.d.PublicRooms(t.Context(), q)
				s.must(err)
				if n := int64(len(strings.Fields(want))); page.Total != n {
					t.Errorf("%+v: total %d, want %d", q, page.Total, n)
				}
				for _, r := range page.Chunk {
					got = append(got, r.Name)
				}
				if page.Next == "" {
					break
				}
				q.Since = page.Next
			}
			if strings.Join(got, " ") != want {
				t.Errorf("%+v: %v, want %s", q, got, want)
			}
		}
		check(directory.PublicQuery{}, "Both Public")
		check(directory.PublicQuery{Network: "irc|libera"}, "Both A B C")
		check(directory.PublicQuery{Network: "irc|oftc"}, "Other")
		check(directory.PublicQuery{AllNetworks: true}, "Both Public A B C Other")
		for _, none := range []string{"irc", "irc|", "irc|lib", "libera", "gone|libera", "irc|other|libera"} {
			check(directory.PublicQuery{Network: none}, "")
		}
		page, err := s.d.PublicRooms(t.Context(), directory.PublicQuery{Network: "irc|libera", Limit: 2})
		s.must(err)
		page, err = s.d.PublicRooms(t.Context(), directory.PublicQuery{Network: "irc|libera", Limit: 2, Since: page.Next})
		s.must(err)
		if page, err = s.d.PublicRooms(t.Context(), directory.PublicQuery{Network: "irc|libera", Limit: 2, Since: page.Prev}); err != nil || len(page.Chunk) != 2 || page.Chunk[0].Name != "Both" {
			t.Errorf("back: %+v %v", page, err)
		}
		wantCode(t, s.d.SetListedIn(t.Context(), "irc", "libera", "!nowhere:localhost", true), "M_NOT_FOUND")
		wantCode(t, s.d.SetListedIn(t.Context(), "irc", strings.Repeat("x", 256), both, true), "M_INVALID_PARAM")
	})
}

func TestPublicRoomsByFilter(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil))
	s.create(room.Creation{Public: true, Name: "Un Nom Français", Topic: "Wombles", Alias: "#first:localhost"})
	s.create(room.Creation{Public: true, Name: "A space", CreationContent: jsontext.Value(`{"type":"m.space"}`)})
	space := "m.space"
	for _, c := range []struct {
		q    directory.PublicQuery
		want string
	}{
		{directory.PublicQuery{Term: "FRANÇAIS"}, "Un Nom Français"},
		{directory.PublicQuery{Term: "wombles"}, "Un Nom Français"},
		{directory.PublicQuery{Term: "#first"}, "Un Nom Français"},
		{directory.PublicQuery{Term: "nothing"}, ""},
		{directory.PublicQuery{Types: []*string{&space}}, "A space"},
		{directory.PublicQuery{Types: []*string{nil}}, "Un Nom Français"},
		{directory.PublicQuery{Types: []*string{nil, &space}}, "Un Nom Français, A space"},
		{directory.PublicQuery{Types: []*string{}}, ""},
		{directory.PublicQuery{Network: "irc"}, ""},
	} {
		c.q.Limit = 10
		page, err := s.d.PublicRooms(t.Context(), c.q)
		s.must(err)
		var got []string
		for _, r := range page.Chunk {
			got = append(got, r.Name)
		}
		if strings.Join(got, ", ") != c.want {
			t.Errorf("%+v: %v, want %s", c.q, got, c.want)
		}
	}
	for _, since := range []string{"x", "n", "n1~!nowhere:localhost", "nx~!a:b"} {
		_, err := s.d.PublicRooms(t.Context(), directory.PublicQuery{Limit: 1, Since: since})
		wantCode(t, err, "M_INVALID_PARAM")
	}
}

func TestSummaryTellsOnlyWhatOneMayKnow(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil))
	space := s.create(room.Creation{Preset: "public_chat", CreationContent: jsontext.Value(`{"type":"m.space"}`)})
	restricted := s.create(room.Creation{Preset: "public_chat", Version: "8", Name: "R", Topic: "T", InitialState: []room.InitialState{
		state(event.TypeJoinRules, `{"join_rule":"restricted","allow":[{"type":"m.room_membership","room_id":"`+string(space)+`"},{"type":"other"}]}`),
		state(event.TypeEncryption, `{"algorithm":"m.megolm.v1.aes-sha2"}`),
	}})
	private := s.create(room.Creation{})
	got, err := s.d.Summary(t.Context(), restricted, alice, nil)
	s.must(err)
	if got.JoinRule != "restricted" || !slices.Equal(got.AllowedRooms, []id.Room{space}) || got.Membership != "join" || got.Version != "8" ||
		got.Encryption != "m.megolm.v1.aes-sha2" || got.Name != "R" || got.Topic != "T" || got.Joined != 1 || got.WorldReadable || got.GuestCanJoin {
		t.Errorf("summary: %+v", got)
	}
	for _, c := range []struct {
		user id.User
		room id.Room
		ok   bool
	}{{bob, restricted, false}, {bob, private, false}, {bob, space, true}, {"", space, true}, {"", private, false}, {bob, "!nowhere:localhost", false}} {
		_, err := s.d.Summary(t.Context(), c.room, c.user, nil)
		if c.ok != (err == nil) {
			t.Errorf("%q of %s: %v", c.user, c.room, err)
		}
		if !c.ok {
			wantCode(t, err, "M_NOT_FOUND")
		}
	}
	s.join(bob, space)
	s.invite(bob, private)
	for _, r := range []id.Room{restricted, private} {
		if _, err := s.d.Summary(t.Context(), r, bob, nil); err != nil {
			t.Errorf("bob, who may join %s: %v", r, err)
		}
	}
	s.set(restricted, event.TypeName, "", `{"name":"other"}`)
	if got, err = s.d.Summary(t.Context(), restricted, alice, nil); err != nil || got.Name != "other" {
		t.Errorf("after a change: %+v %v", got, err)
	}
}

// tree makes
//
//	root ── R1 (suggested), SS1 ── SS2 ── R3, R4 (private)
//	     └─ R2 (suggested) ── R5, which is no child: R2 is no space
func (s *script) tree() map[string]id.Room {
	rooms := map[string]id.Room{}
	for _, name := range []string{"root", "R1", "SS1", "R2", "SS2", "R3", "R4", "R5"} {
		c := room.Creation{Name: name, Preset: "public_chat"}
		if name == "root" || name[0] == 'S' {
			c.CreationContent = jsontext.Value(`{"type":"m.space"}`)
		}
		if name == "R4" {
			c.Preset, c.Creator = "private_chat", charlie
		}
		rooms[name] = s.create(c)
	}
	link := func(parent, child, more string) {
		s.set(rooms[parent], event.TypeSpaceChild, string(rooms[child]), `{"via":["localhost"]`+more+`}`)
	}
	link("root", "R1", `,"suggested":true`)
	link("root", "SS1", "")
	link("root", "R2", `,"suggested":true`)
	link("R2", "R5", "")
	link("SS1", "SS2", "")
	link("SS2", "root", "") // a loop
	link("SS2", "R3", "")
	link("SS2", "R4", "")
	return rooms
}

func (s *script) hierarchy(user id.User, q directory.HierarchyQuery) (got, next string) {
	s.Helper()
	page, err := s.d.Hierarchy(s.Context(), user, q)
	s.must(err)
	var list []string
	for _, r := range page.Rooms {
		list = append(list, r.Name)
	}
	return strings.Join(list, " "), page.Next
}

func TestHierarchyIsWalkedDepthFirst(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st)
		rooms := s.tree()
		q := directory.HierarchyQuery{Root: rooms["root"], MaxDepth: -1, Limit: 50}
		if got, next := s.hierarchy(alice, q); got != "root R1 SS1 SS2 R3 R2" || next != "" {
			t.Errorf("all: %s, next %q", got, next)
		}
		if got, _ := s.hierarchy(charlie, q); got != "root R1 SS1 SS2 R3 R4 R2" {
			t.Errorf("for who is in R4: %s", got)
		}
		shallow := q
		shallow.MaxDepth = 1
		if got, _ := s.hierarchy(alice, shallow); got != "root R1 SS1 R2" {
			t.Errorf("one deep: %s", got)
		}
		suggested := q
		suggested.SuggestedOnly = true
		if got, _ := s.hierarchy(alice, suggested); got != "root R1 R2" {
			t.Errorf("suggested: %s", got)
		}
		q.Limit = 4
		got, next := s.hierarchy(alice, q)
		if got != "root R1 SS1 SS2" || next == "" {
			t.Errorf("first page: %s, next %q", got, next)
		}
		q.From = next
		if got, next := s.hierarchy(alice, q); got != "R3 R2" || next != "" {
			t.Errorf("second page: %s, next %q", got, next)
		}
		q.SuggestedOnly = true
		_, err := s.d.Hierarchy(t.Context(), alice, q)
		wantCode(t, err, "M_INVALID_PARAM")

		s.set(rooms["root"], event.TypeSpaceChild, string(rooms["SS1"]), `{}`)
		if got, _ := s.hierarchy(alice, directory.HierarchyQuery{Root: rooms["root"], MaxDepth: -1, Limit: 50}); got != "root R1 R2" {
			t.Errorf("without SS1: %s", got)
		}
		_, err = s.d.Hierarchy(t.Context(), bob, directory.HierarchyQuery{Root: rooms["R4"], Limit: 1})
		wantCode(t, err, "M_FORBIDDEN")
	})
}

func TestChildrenComeInOrder(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil))
	root := s.create(room.Creation{Name: "root", CreationContent: jsontext.Value(`{"type":"m.space"}`)})
	for name, link := range map[string]string{
		"1": `{"via":["x"],"order":" "}`, "2": `{"via":["x"],"order":"aaaa"}`, "3": `{"via":["x"],"order":"b"}`,
		"none": `{"order":"a"}`, "not via": `{"via":"x"}`,
	} {
		s.set(root, event.TypeSpaceChild, string(s.create(room.Creation{Name: name})), link)
	}
	for name, link := range map[string]string{"4": `{"via":["x"],"order":5}`, "5": `{"via":["x"]}`, "6": `{"via":["x"],"order":"ü"}`} {
		key := string(s.create(room.Creation{Name: name}))
		_, err := s.rooms.Send(t.Context(), root, room.Proposal{Sender: alice, Type: event.TypeSpaceChild, StateKey: &key,
			Content: jsontext.Value(link), Timestamp: int64(name[0])})
		s.must(err)
	}
	if got, _ := s.hierarchy(alice, directory.HierarchyQuery{Root: root, MaxDepth: -1, Limit: 50}); got != "root 1 2 3 4 5 6" {
		t.Errorf("order: %s", got)
	}
	page, err := s.d.Hierarchy(t.Context(), alice, directory.HierarchyQuery{Root: root, MaxDepth: 0, Limit: 1})
	s.must(err)
	if n := len(page.Rooms[0].Children); n != 6 || !strings.Contains(string(page.Rooms[0].Children[0]), `"origin_server_ts":`) {
		t.Errorf("%d children: %s", n, page.Rooms[0].Children)
	}
}

func TestPeopleAreFoundWhereOneCouldMeetThem(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st)
		s.must(st.Update(t.Context(), func(tx *store.Tx) error {
			for u, name := range map[id.User]string{alice: "Ælice Wonder", bob: "", charlie: "Charlie Wonder"} {
				if _, err := tx.Users.Insert(store.User{Name: u}); err != nil {
					return err
				}
				if err := tx.Profiles.Set(u, store.Profile{DisplayName: name}); err != nil {
					return err
				}
			}
			return nil
		}))
		private := s.create(room.Creation{})
		search := func(who id.User, term string) string {
			t.Helper()
			found, err := s.d.SearchPeople(t.Context(), who, term, 10)
			s.must(err)
			var list []string
			for _, p := range found.Results {
				list = append(list, string(p.User))
			}
			return strings.Join(list, " ")
		}
		if got := search(bob, "alice"); got != "" {
			t.Errorf("bob, who has met nobody, finds %s", got)
		}
		s.invite(bob, private)
		s.join(bob, private)
		for term, want := range map[string]string{
			"ALICE": string(alice), "æLICE": string(alice), "@alice:localhost": string(alice), "wonder ælice": string(alice),
			"bob": string(bob), "charlie": "", " ": "", "elephant": "",
		} {
			if got := search(bob, term); got != want {
				t.Errorf("%q: %s, want %s", term, got, want)
			}
		}
		s.create(room.Creation{Creator: charlie, Preset: "public_chat"})
		if got := search(bob, "wonder"); got != string(alice)+" "+string(charlie) {
			t.Errorf("who is in a public room: %s", got)
		}
		found, err := s.d.SearchPeople(t.Context(), bob, "wonder", 1)
		if err != nil || len(found.Results) != 1 || !found.Limited {
			t.Errorf("limit 1: %+v %v", found, err)
		}
		for _, c := range []struct {
			o    directory.Options
			want string
		}{{directory.Options{HideUsers: true}, ""}, {directory.Options{AllUsers: true}, string(bob)}} {
			s.d = directory.New(st, s.rooms, c.o)
			if got := search(charlie, "bob"); got != c.want {
				t.Errorf("%+v: %s, want %s", c.o, got, c.want)
			}
		}
	})
}

func TestMutualRooms(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil))
	var shared []id.Room
	for range 3 {
		r := s.create(room.Creation{Preset: "public_chat"})
		s.join(bob, r)
		shared = append(shared, r)
	}
	s.create(room.Creation{Preset: "public_chat"})
	got, err := s.d.MutualRooms(t.Context(), alice, bob, "")
	if err != nil || !slices.Equal(got.Joined, shared) || got.Count != 3 || got.Next != "" {
		t.Errorf("%+v %v", got, err)
	}
	got, err = s.d.MutualRooms(t.Context(), alice, bob, string(shared[0]))
	if err != nil || !slices.Equal(got.Joined, shared[1:]) || got.Count != 3 {
		t.Errorf("second page: %+v %v", got, err)
	}
	if got, err = s.d.MutualRooms(t.Context(), alice, "@nobody:elsewhere", ""); err != nil || len(got.Joined) != 0 || got.Joined == nil {
		t.Errorf("nobody: %+v %v", got, err)
	}
	_, err = s.d.MutualRooms(t.Context(), alice, alice, "")
	wantCode(t, err, "M_INVALID_PARAM")
	_, err = s.d.MutualRooms(t.Context(), alice, bob, "x")
	wantCode(t, err, "M_INVALID_PARAM")
}

// A space names many rooms of servers that are long gone: they do not keep anybody from
// seeing the others.
func TestServersThatAreGoneDoNotHoldUpASpace(t *testing.T) {
	s := newScript(t, storetest.Open(t, nil))
	c := remote.New(s.s, remote.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() }})
	s.d = directory.New(s.s, s.rooms, directory.Options{Remote: c})
	space := s.create(room.Creation{CreationContent: jsontext.Value(`{"type":"m.space"}`)})
	for i := range 40 {
		gone := fmt.Sprintf("gone%d.example:8448", i)
		s.set(space, event.TypeSpaceChild, "!r:"+gone, `{"via":["`+gone+`"]}`)
	}
	s.set(space, event.TypeSpaceChild, string(s.create(room.Creation{})), `{"via":["localhost"]}`)
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		page, err := s.d.Hierarchy(t.Context(), alice, directory.HierarchyQuery{Root: space, MaxDepth: -1, Limit: 50})
		if took := time.Since(start); err != nil || took > 20*time.Second || len(page.Rooms) != 2 {
			t.Errorf("%d rooms after %v, %v", len(page.Rooms), took, err)
		}
		c.Close()
	})
}
