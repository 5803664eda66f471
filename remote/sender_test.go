package remote_test

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
)

const (
	hs1 = id.Server("hs1.example")
	hs2 = id.Server("hs2.example")
)

func TestEventsReachTheServersOfTheirRoomsInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2, "blocked.example")
		f.join("b", hs2)
		f.say("a", "one")
		f.say("b", "two")
		f.tell("m.direct_to_device", `{"message_id":"m"}`, hs1)
		synctest.Wait() // within a transaction events and EDUs have no order among each other
		f.say("a", "three")
		f.expect(hs1, "one", `direct_to_device{"message_id":"m"}`, "three")
		f.expect(hs2, "one", "two", "three")
		f.expect("blocked.example")
		f.expect(storetest.Server)
	})
}

func TestTransactionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		bodies := numbered("m", 120)
		f.say("a", bodies...)
		synctest.Wait()
		for _, d := range f.got[hs1][1:] {
			if len(d.content) > 50 {
				t.Errorf("a transaction with %d events", len(d.content))
			}
		}
		f.expect(hs1, bodies...)
	})
}

// senders counts the goroutines that the package has. Of all there are, others come and go as they like.
func senders() (n int) {
	stacks := make([]byte, 1<<20)
	for _, g := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		if strings.Contains(g, "hearth/remote.") {
			n++
		}
	}
	return n
}

func TestAServerThatIsDownGetsEverythingInOrderLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2)
		f.setDown(hs1, errDown)
		before := senders()
		f.say("a", "one")
		synctest.Wait() // so that the first attempt is with this alone
		f.tell("m.direct_to_device", `{"message_id":"m"}`, hs1)
		f.say("a", "two")
		synctest.Wait()
		if n := senders(); before == 0 || n > before {
			t.Errorf("a server that is down costs %d goroutines", n-before)
		}
		f.expect(hs1)
		f.expect(hs2, "one", "two")
		time.Sleep(5 * time.Minute)
		f.say("a", "three")
		f.attempts(hs1)
		f.setDown(hs1, nil)
		time.Sleep(20 * time.Minute)
		// Within a transaction events and EDUs have no order among each other.
		f.expect(hs1, "one", "two", "three", `direct_to_device{"message_id":"m"}`)
		f.expect(hs2, "three")
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("who has got everything has no row: %+v", rows)
		}
	})
}

func TestPausesGrowAndSurviveARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		f.join("a", hs1)
		f.setDown(hs1, errDown)
		f.say("a", "one")
		time.Sleep(24 * time.Hour)
		if n := len(f.attempts(hs1)); n < 10 || n > 20 {
			t.Errorf("%d attempts in a day", n)
		}
		rows := f.rows()
		if len(rows) != 1 || rows[0].RetryIntervalMS != (8*time.Hour).Milliseconds() || rows[0].FailingSinceTS == 0 {
			t.Errorf("noted: %+v", rows)
		}
		f.close()
		f.open()
		defer f.close()
		time.Sleep(time.Minute)
		if n := len(f.attempts(hs1)); n != 0 {
			t.Errorf("%d attempts right after a restart", n)
		}
		f.setDown(hs1, nil)
		time.Sleep(10 * time.Hour)
		f.expect(hs1, "one")
	})
}

// A clock that was once far ahead silences nobody for longer than the longest pause.
func TestPausesAreNotLongerThanTheLongest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		f.join("a", hs1)
		f.setDown(hs1, errDown)
		f.say("a", "one")
		synctest.Wait()
		f.stop()
		f.update(func(tx *store.Tx) error {
			row := store.Destination{Server: f.nidOf(tx, hs1), RetryIntervalMS: 10_000, RetryAfterTS: time.Now().AddDate(5, 0, 0).UnixMilli(), FailingSinceTS: 1}
			return tx.Destinations.Set(row)
		})
		f.setDown(hs1, nil)
		f.run()
		defer f.close()
		time.Sleep(9 * time.Hour)
		f.expect(hs1, "one")
	})
}

func (f *federation) nidOf(tx *store.Tx, server id.Server) store.ServerNID {
	nid, err := tx.IDs.Server(server)
	f.must(err)
	return nid
}

// For who has long been gone, nothing is read and no transaction is made.
func TestWhoHasLongBeenDownIsOnlyAskedWhetherItIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errDown)
		f.say("a", "one")
		count := func() (transactions, questions int) {
			for _, d := range f.attempts(hs1) {
				if d.id == "" {
					questions++
				} else {
					transactions++
				}
			}
			return transactions, questions
		}
		time.Sleep(5 * time.Minute)
		if transactions, questions := count(); transactions < 4 || questions != 0 {
			t.Errorf("%d attempts and %d questions at first", transactions, questions)
		}
		time.Sleep(30 * time.Minute)
		count()
		time.Sleep(48 * time.Hour)
		if transactions, questions := count(); transactions != 0 || questions < 5 || questions > 20 {
			t.Errorf("%d attempts and %d questions later", transactions, questions)
		}
		f.setDown(hs1, nil)
		time.Sleep(10 * time.Hour)
		f.expect(hs1, "one")
		f.say("a", "two")
		if transactions, questions := count(); transactions != 1 || questions != 0 {
			t.Errorf("%d transactions and %d questions when it answers", transactions, questions)
		}
	})
}

func TestAServerThatSendsSomethingIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errDown)
		f.say("a", "one")
		time.Sleep(24 * time.Hour)
		f.attempts(hs1)
		f.sender.Up("unknown.example")
		f.sender.Up(hs1)
		time.Sleep(2 * time.Minute)
		if n := len(f.attempts(hs1)); n != 1 {
			t.Errorf("%d attempts, want 1", n)
		}
		for range 100 { // it talks, but cannot be reached
			f.sender.Up(hs1)
			synctest.Wait()
		}
		if n := len(f.attempts(hs1)); n > 1 {
			t.Errorf("%d attempts: one each minute is enough", n)
		}
		f.setDown(hs1, nil)
		time.Sleep(2 * time.Minute)
		f.sender.Up(hs1)
		f.expect(hs1, "one")
	})
}

func TestAFailedTransactionIsSentAgainAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		f.join("a", hs1)
		f.setDown(hs1, errDown)
		f.say("a", "one", "two")
		first := f.attempts(hs1)
		f.say("a", "three")
		time.Sleep(time.Minute)
		f.close()
		f.setDown(hs1, nil)
		f.open()
		defer f.close()
		time.Sleep(20 * time.Minute)
		again := f.attempts(hs1)
		again = slices.DeleteFunc(again, func(d delivery) bool { return !d.ok })
		if len(first) != 1 || len(again) != 2 || first[0].id != again[0].id || !slices.Equal(first[0].content, again[0].content) {
			t.Errorf("first %v, then %v", first, again)
		}
		if again[0].id == again[1].id {
			t.Error("another transaction has the same id")
		}
	})
}

// A crash after a transaction was accepted and before that was noted.
func TestACrashRepeatsTheSameTransaction(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		f.join("a", hs1, hs2)
		var before []store.Destination
		var position int64
		f.say("a", "one")
		first := f.attempts(hs1)
		// What the store had at the crash: nothing of it noted.
		time.Sleep(time.Minute)
		before = f.rows()
		f.close()
		f.got = map[id.Server][]delivery{}
		s, err := store.Open(context.Background(), store.Options{SQLite: f.path, Server: storetest.Server})
		f.must(err)
		f.store = s
		f.update(func(tx *store.Tx) error { return tx.Followers.SetPosition("federation sender", position) })
		f.must(s.Close())
		f.open()
		defer f.close()
		again := f.attempts(hs1)
		if len(before) != 0 || len(again) != 1 || again[0].id != first[0].id {
			t.Errorf("first %v, then %v", first, again)
		}
	})
}

func TestWhatIsUnderWayAtAStopIsSentAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		f.join("a", hs1, hs2)
		f.setDuring(func(ctx context.Context, to id.Server) {
			if to == hs1 {
				<-ctx.Done()
			}
		})
		f.say("a", "one")
		synctest.Wait() // or one transaction has both
		f.say("a", "two")
		f.expect(hs2, "one", "two")
		f.close()
		if first := f.attempts(hs1); len(first) != 1 || first[0].ok || !slices.Equal(first[0].content, []string{"one"}) {
			t.Errorf("under way at the stop: %v", first)
		}
		f.setDuring(nil)
		f.open()
		defer f.close()
		f.expect(hs1, "one", "two")
		f.expect(hs2)
	})
}

func TestASlowServerGetsEverythingAndHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2)
		release := make(chan struct{})
		f.setDuring(func(_ context.Context, to id.Server) {
			if to == hs1 {
				<-release
			}
		})
		bodies := numbered("m", 450)
		for part := range slices.Chunk(bodies, 30) {
			f.say("a", part...)
			synctest.Wait()
		}
		f.expect(hs2, bodies...)
		time.Sleep(10 * time.Second)
		if rows := f.rows(); len(rows) != 1 || rows[0].FailingSinceTS != 0 {
			t.Errorf("a slow server has a row: %+v", rows)
		}
		close(release)
		f.expect(hs1, bodies...)
		time.Sleep(10 * time.Second)
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it has caught up: %+v", rows)
		}
		f.say("a", "last")
		f.expect(hs1, "last")
	})
}

// Hundreds of servers that take a connection and say nothing are what a large room is full of.
func TestServersThatHangHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		hanging := make([]id.Server, 400)
		for i := range hanging {
			hanging[i] = id.Server(fmt.Sprintf("hangs%d.example", i))
			f.setDown(hanging[i], errDown)
		}
		f.join("large", append(hanging, hs1)...)
		f.join("small", hs1)
		f.setDuring(func(ctx context.Context, to id.Server) {
			if strings.HasPrefix(string(to), "hangs") {
				pause := time.NewTimer(30 * time.Second)
				defer pause.Stop()
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
		})
		f.say("small", "first")
		f.expect(hs1, "first")
		f.say("large", "to all")
		time.Sleep(time.Second)
		f.expect(hs1, "to all")
		for i := range 120 { // they are tried again after 10 seconds, 20, 40 …
			f.say("small", fmt.Sprint(i))
			time.Sleep(time.Second)
			if got := f.received(hs1); len(got) != 1 {
				t.Fatalf("message %d: %q came within a second", i, got)
			}
		}
		// After a pause of this server's own all of them are due at once, and of nobody it is known
		// whether it answers.
		f.close()
		time.Sleep(24 * time.Hour)
		f.open()
		f.join("small", hs2)
		f.say("small", "after a restart")
		time.Sleep(time.Second)
		f.expect(hs2, "after a restart")
		f.expect(hs1, "after a restart")
	})
}

func TestAServerFarBehindGetsTheNewestEventsOfItsRooms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2)
		f.join("b", hs1)
		f.join("left", hs1)
		f.join("quiet", hs1)
		f.say("quiet", "known")
		f.expect(hs1, "known")
		f.setDown(hs1, errDown)
		f.tell("m.direct_to_device", `{"message_id":"1"}`, hs1)
		synctest.Wait() // so that the first attempt is with this alone
		f.tell("m.device_list_update", `{"user_id":"@alice:localhost","stream_id":1}`, hs1)
		f.tell("m.device_list_update", `{"user_id":"@bob:localhost","stream_id":2}`, hs1)
		f.say("left", "before", "kick")
		f.update(func(tx *store.Tx) error {
			hs, err := tx.IDs.Server(hs1)
			if err != nil {
				return err
			}
			return tx.RoomServers.Add(f.rooms["left"], hs, -1)
		})
		f.say("left", "secret")
		f.say("a", numbered("a", 600)...)
		f.say("b", numbered("b", 3)...)
		f.tell("m.device_list_update", `{"user_id":"@alice:localhost","stream_id":3}`, hs1)
		f.tell("m.direct_to_device", `{"message_id":"2"}`, hs1)
		time.Sleep(time.Hour)
		f.attempts(hs1)
		f.setDown(hs1, nil)
		time.Sleep(2 * time.Hour)
		got := f.received(hs1)
		want := []string{`direct_to_device{"message_id":"1"}`} // the transaction that failed, as it was
		want = append(want, "kick", "a599", "b2", `device_list_update{"user_id":"@bob:localhost","stream_id":2}`,
			`device_list_update{"user_id":"@alice:localhost","stream_id":3}`, `direct_to_device{"message_id":"2"}`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		f.say("a", "now")
		f.expect(hs1, "now")
	})
}

func TestOldItemsAreDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2)
		f.join("b", hs1)
		f.say("a", "one")
		f.expect(hs1, "one")
		time.Sleep(2 * time.Hour)
		if n := f.items(); n != 0 {
			t.Errorf("%d items are left that all have got", n)
		}
		f.setDown(hs1, errDown)
		f.say("a", "two", "three")
		f.say("b", "four")
		f.tell("m.direct_to_device", `{"message_id":"1"}`, hs1)
		time.Sleep(24 * time.Hour)
		if n := f.items(); n != 4 {
			t.Errorf("%d items wait, want 4", n)
		}
		time.Sleep(48 * time.Hour)
		if n := f.items(); n != 1 {
			t.Errorf("%d items wait after three days, want the message", n)
		}
		f.attempts(hs1)
		f.setDown(hs1, nil)
		time.Sleep(10 * time.Hour)
		f.expect(hs1, "three", "four", `direct_to_device{"message_id":"1"}`)

		f.setDown(hs1, errDown)
		f.tell("m.direct_to_device", `{"message_id":"2"}`, hs1)
		time.Sleep(32 * 24 * time.Hour)
		if n := f.items(); n != 0 {
			t.Errorf("%d items wait after a month", n)
		}
	})
}

// What changed while a server was away is told it though the EDUs of then are deleted.
func TestAServerThatWasAwayForLongHearsOfChangedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.join("quiet", hs1)
		change := func(user store.UserNID, device id.Device) {
			f.t.Helper()
			f.update(func(tx *store.Tx) error { return tx.DeviceLists.Set(user, device, tx.NextPosition()) })
		}
		change(1, "1") // it has heard of this
		f.say("a", "known")
		f.expect(hs1, "known")
		time.Sleep(time.Minute)
		f.setDown(hs1, errDown)
		f.say("quiet", "missed")
		want := []string{}
		for user := range store.UserNID(250) {
			change(2000+user, "")
			want = append(want, fmt.Sprint("missed", 2000+user))
		}
		for range 700 {
			change(unseen, "1")
		}
		change(3000, "7")
		change(3000, "8")
		want = append(want, "missed30007") // one is enough
		f.tell("m.device_list_update", `{"user_id":"@alice:localhost","stream_id":1}`, hs1)
		time.Sleep(32 * 24 * time.Hour)
		if n := f.items(); n != 0 {
			t.Fatalf("%d items wait after a month", n)
		}
		change(4000, "9")
		f.tell("m.device_list_update", `{"user_id":"@alice:localhost","stream_id":2}`, hs1)
		f.attempts(hs1)
		f.setDown(hs1, nil)
		n := 0
		f.setDuring(func(context.Context, id.Server) {
			if n++; n == 3 { // it is away again for a while in the midst of it
				f.setDown(hs1, errDown)
			}
		})
		time.Sleep(10 * time.Hour)
		f.setDown(hs1, nil)
		time.Sleep(12 * time.Hour)
		want = append([]string{"missed"}, append(want, `device_list_update{"user_id":"@alice:localhost","stream_id":2}`)...)
		f.expect(hs1, want...)
		f.say("a", "now")
		f.expect(hs1, "now")
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("who has got everything has no row: %+v", rows)
		}
	})
}

// The transaction that failed is not repeated when part of it is deleted, or that part would
// count as received.
func TestWhatIsLeftOfAnOldTransactionHidesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.join("b", hs1)
		time.Sleep(59 * time.Minute)
		release := make(chan struct{})
		f.setDuring(func(context.Context, id.Server) { <-release })
		f.say("a", "zero")
		synctest.Wait()
		f.say("b", "one")
		time.Sleep(90 * time.Second) // what is old is told apart by the hour
		f.say("a", "two")
		synctest.Wait() // both are in the next transaction
		f.setDown(hs1, errDown)
		close(release)
		f.expect(hs1, "zero")
		time.Sleep(48*time.Hour + 30*time.Minute)
		if n := f.items(); n != 1 {
			t.Fatalf("%d items wait, want one of the two", n)
		}
		f.setDown(hs1, nil)
		f.sender.Up(hs1)
		time.Sleep(time.Minute)
		f.expect(hs1, "one", "two")
	})
}
