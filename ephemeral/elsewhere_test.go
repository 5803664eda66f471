package ephemeral_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/store"
)

const dora = id.User("@dora:hs1.example")

// meet makes a user of another server a member of a room.
func (w *world) meet(r id.Room, u id.User) {
	w.t.Helper()
	w.must(w.store.Update(w.t.Context(), func(tx *store.Tx) error {
		room, _, err := tx.Rooms.Find(r)
		if err != nil {
			return err
		}
		nid, err := tx.IDs.User(u)
		if err != nil {
			return err
		}
		return tx.Members.Set(store.Member{Room: room, User: nid, Membership: store.Join, Event: 1, Position: tx.NextPosition()})
	}))
}

func TestOtherServersHearOfLocalTyping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.share(alice)
		w.meet(r, dora)
		typing := ephemeral.NewTyping(w.store, w.hub)
		var told []string
		typing.Changed = func(room store.RoomNID, user id.User, is bool) { told = append(told, fmt.Sprint(string(user)+" ", is)) }
		expect := func(what string, want ...string) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(told, want) {
				t.Errorf("%s: told %v, want %v", what, told, want)
			}
			told = nil
		}
		w.must(typing.Set(t.Context(), alice, r, true, 0))
		expect("begins", "@alice:localhost true")
		time.Sleep(20 * time.Second)
		w.must(typing.Set(t.Context(), alice, r, true, 0))
		expect("goes on")
		time.Sleep(20 * time.Second)
		w.must(typing.Set(t.Context(), alice, r, true, 0))
		expect("goes on for long", "@alice:localhost true")
		time.Sleep(time.Minute)
		expect("stops by itself", "@alice:localhost false")
		w.must(typing.Set(t.Context(), alice, r, false, 0))
		expect("does not type")
		w.must(typing.Receive(t.Context(), dora, r, true))
		if users, _ := typing.In(w.roomNID(r)); !slices.Equal(users, []id.User{dora}) {
			t.Errorf("%v type", users)
		}
		time.Sleep(2 * time.Minute)
		expect("a user of another server")
		if users, _ := typing.In(w.roomNID(r)); len(users) != 0 {
			t.Errorf("%v type, though nothing was heard again", users)
		}
	})
}

func TestOtherServersHearOfPublicReceipts(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice, bob)
	e := w.say(r, alice, "", "")
	receipts := ephemeral.NewReceipts(w.store)
	var told []string
	receipts.Changed = func(room store.RoomNID, user id.User, x ephemeral.Receipt, ts int64) {
		told = append(told, fmt.Sprint(string(user)+" "+x.Type+" "+x.Thread+" ", ts > 0))
	}
	for range 2 { // the second moves nothing
		w.must(receipts.Send(t.Context(), bob, r, ephemeral.Receipt{Type: ephemeral.Read, Event: e, Thread: "main"},
			ephemeral.Receipt{Type: ephemeral.ReadPrivate, Event: e}, ephemeral.Receipt{Type: ephemeral.FullyRead, Event: e}))
	}
	if want := []string{"@bob:localhost m.read main true"}; fmt.Sprint(told) != fmt.Sprint(want) {
		t.Errorf("told %q, want %q", told, want)
	}
}

// Where three servers are in a room, a receipt may overtake the event that was read.
func TestAReceiptThatOvertakesItsEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r, other := w.share(alice), w.share(alice)
		w.meet(r, dora)
		w.meet(other, dora)
		receipts := ephemeral.NewReceipts(w.store)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- receipts.Follow(ctx, w.hub) }()
		defer func() { stop(); w.must(<-ended) }()
		arrives := func(r id.Room, e id.Event) {
			t.Helper()
			w.must(w.store.Update(ctx, func(tx *store.Tx) error {
				nid, err := tx.Events.ReserveNIDs(1)
				if err != nil {
					return err
				}
				typ, err := tx.IDs.Type("m.room.message")
				if err != nil {
					return err
				}
				return tx.Events.Insert(store.Event{NID: nid, Room: w.roomNID(r), Position: tx.NextPosition(), ID: e, Sender: w.nid(alice), Type: typ, JSON: []byte(`{}`)})
			}))
			synctest.Wait()
		}
		read := func(r id.Room) (e id.Event) {
			w.view(func(tx *store.Tx) error {
				all, err := tx.Receipts.InRoom(w.roomNID(r), w.nid(alice), 0, 1<<60)
				if len(all) == 1 {
					e = all[0].Event
				}
				return err
			})
			return e
		}
		receive := func(r id.Room, e id.Event, thread string) {
			w.must(receipts.Receive(ctx, r, []ephemeral.Received{{User: dora, Event: e, Thread: thread, TS: 1}}))
		}
		receive(r, "$one", "")
		arrives(r, "$another")
		if got := read(r); got != "" {
			t.Errorf("dora has read %s", got)
		}
		if arrives(r, "$one"); read(r) != "$one" {
			t.Errorf("dora has read %q, not what her receipt came before", read(r))
		}
		receive(r, "$late", "")
		time.Sleep(2 * time.Minute)
		if arrives(r, "$late"); read(r) != "$one" {
			t.Errorf("a receipt waited for two minutes: %s", read(r))
		}
		// However many are invented in one room, those of others wait.
		receive(other, "$two", "")
		for i := range 1000 {
			receive(r, "$invented", fmt.Sprint("$thread", i))
		}
		if arrives(other, "$two"); read(other) != "$two" {
			t.Errorf("a receipt was pushed out by others of another room")
		}
	})
}

// A server that invents rooms and users who have read something there holds up nobody who writes.
func TestReceiptsOfNobodyDoNotWaitForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.share(alice)
		e := w.say(r, alice, "", "")
		w.meet(r, dora)
		var read []ephemeral.Received
		for i := range 500 {
			read = append(read, ephemeral.Received{User: id.User(fmt.Sprintf("@invented%d:hs1.example", i)), Event: e, TS: 1})
		}
		holds, release := make(chan struct{}), make(chan struct{})
		held := w.store.Enqueue(func(*store.Tx) error {
			close(holds)
			<-release
			return nil
		})
		<-holds
		receipts := ephemeral.NewReceipts(w.store)
		w.must(receipts.Receive(t.Context(), r, read))
		w.must(receipts.Receive(t.Context(), "!unknown:hs1.example", read))
		close(release)
		w.must(held.Wait(t.Context()))
		w.must(receipts.Receive(t.Context(), r, append(read, ephemeral.Received{User: dora, Event: e, TS: 1})))
		if got := w.shown(r, alice, 0); len(got) != 1 {
			t.Errorf("shown %s", got)
		}
	})
}

func TestPresenceOfOtherServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		r := w.share(alice)
		w.meet(r, dora)
		p := ephemeral.NewPresence(w.store, w.hub, true)
		told := 0
		p.Changed = func(user id.User, _ store.UserNID, s ephemeral.Status) {
			if user != alice || s.Presence == "" {
				t.Errorf("told of %s: %v", user, s)
			}
			told++
		}
		w.must(p.Receive(t.Context(), dora, ephemeral.Online, "hi", 10*time.Second, true))
		if got := w.status(p, alice, dora); got != `{"presence":"online","last_active_ago":10000,"currently_active":true,"status_msg":"hi"}` {
			t.Errorf("dora is %s", got)
		}
		time.Sleep(29 * time.Minute)
		if got := w.status(p, alice, dora); got != `{"presence":"online","last_active_ago":1750000,"currently_active":true,"status_msg":"hi"}` {
			t.Errorf("then dora is %s", got)
		}
		time.Sleep(2 * time.Minute)
		if got := w.status(p, alice, dora); got != `{"presence":"offline","last_active_ago":1870000,"status_msg":"hi"}` {
			t.Errorf("when nothing is heard of her, dora is %s", got)
		}
		w.must(p.Receive(t.Context(), "@stranger:hs1.example", ephemeral.Online, "", 0, true))
		if told != 0 {
			t.Error("other servers are told of their own users")
		}

		// While alice is online and does something, others hear of it now and then.
		for range 121 {
			w.syncs(p, alice, "A", ephemeral.Online, 30*time.Second)
		}
		if told < 4 || told > 6 {
			t.Errorf("told %d times in an hour", told)
		}
	})
}

// While the members of a room are fetched that was joined by way of another server, any user of
// a server in it may be one, and may have read events of before.
func TestWhoMayBeInARoomTypesAndReads(t *testing.T) {
	w := newWorld(t)
	r := w.share(alice)
	typing, receipts := ephemeral.NewTyping(w.store, w.hub), ephemeral.NewReceipts(w.store)
	try := func() (typed, read bool) {
		typed = typing.Receive(t.Context(), dora, r, true) == nil
		w.must(receipts.Receive(t.Context(), r, []ephemeral.Received{{User: dora, Event: "$before", TS: 1}}))
		w.view(func(tx *store.Tx) error {
			all, err := tx.Receipts.InRoom(w.roomNID(r), w.nid(alice), 0, 1<<60)
			read = len(all) == 1 && all[0].Event == "$before"
			return err
		})
		return typed, read
	}
	if typed, read := try(); typed || read {
		t.Errorf("a stranger types %t, reads %t", typed, read)
	}
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
		nid, err := tx.IDs.Server(dora.Server())
		if err != nil {
			return err
		}
		if err := tx.RoomServers.Tell(w.roomNID(r), nid); err != nil {
			return err
		}
		return tx.Rooms.SetPartial(w.roomNID(r), store.Partial{Version: 1, Join: 1, Via: dora.Server()})
	}))
	if typed, read := try(); !typed || !read {
		t.Errorf("a possible member types %t, reads %t", typed, read)
	}
}
