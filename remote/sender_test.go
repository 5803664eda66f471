package remote_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

// federation is a server with its sender, and others that take transactions.
type federation struct {
	t     *testing.T
	path  string
	store *store.Store
	hub   *stream.Hub

	sender *remote.Sender
	stop   func()

	mu     sync.Mutex
	down   map[id.Server]error
	got    map[id.Server][]delivery
	asked  int                                     // how often it was asked whether a server is there
	during func(ctx context.Context, to id.Server) // called while a transaction is under way
	slow   bool                                    // followers of the store are not woken
	wakes  []func()                                // what would wake them
	rooms  map[string]store.RoomNID
	last   map[string]store.EventNID
}

type delivery struct {
	id      string // empty: it was only asked whether it is there
	ok      bool
	content []string // bodies of messages and names of EDUs
}

var errDown = errors.New("no route to host")

func newFederation(t *testing.T) *federation {
	f := &federation{t: t, path: filepath.Join(t.TempDir(), "homeserver.db"), down: map[id.Server]error{},
		got: map[id.Server][]delivery{}, rooms: map[string]store.RoomNID{}, last: map[string]store.EventNID{}}
	f.open()
	return f
}

func (f *federation) open() {
	var hub *stream.Hub
	s, err := store.Open(context.Background(), store.Options{SQLite: f.path, Server: storetest.Server,
		Published: func(c stream.Commit) func() { return f.wake(hub.Publish(c)) }})
	f.must(err)
	hub = stream.NewHub(s.Position())
	f.store, f.hub = s, hub
	f.run()
}

// wake is what wakes followers after a commit, or nothing while they are slow.
func (f *federation) wake(fn func()) func() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.slow {
		return fn
	}
	f.wakes = append(f.wakes, fn)
	return func() {}
}

func (f *federation) setSlow(slow bool) {
	f.mu.Lock()
	wakes := f.wakes
	f.slow, f.wakes = slow, nil
	f.mu.Unlock()
	for _, wake := range wakes {
		wake()
	}
}

// run starts the sender.
func (f *federation) run() {
	f.sender = remote.NewSender(f.store, remote.SenderOptions{Server: storetest.Server, Send: f.take, Reach: f.reach,
		Allow: func(s id.Server) bool { return s != "blocked.example" }})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- f.sender.Run(ctx, f.hub) }()
	f.stop = func() {
		cancel()
		f.must(<-ended)
	}
	synctest.Wait()
}

// close stops everything in good order.
func (f *federation) close() {
	f.stop()
	f.must(f.store.Close())
}

func (f *federation) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// take is the network and the other servers.
func (f *federation) take(ctx context.Context, to id.Server, txnID string, body []byte) (map[id.Event]string, error) {
	var txn struct {
		Origin id.Server        `json:"origin"`
		TS     int64            `json:"origin_server_ts"`
		PDUs   []jsontext.Value `json:"pdus"`
		EDUs   []struct {
			Type    string         `json:"edu_type"`
			Content jsontext.Value `json:"content"`
		} `json:"edus"`
	}
	if err := json.Unmarshal(body, &txn); err != nil || txn.Origin != storetest.Server || len(txn.PDUs) > 50 || len(txn.EDUs) > 100 {
		f.t.Errorf("a bad transaction to %s: %v: %.200s", to, err, body)
	}
	d := delivery{id: txnID}
	for _, p := range txn.PDUs {
		var pdu struct {
			Content struct{ Body string }
		}
		f.must(json.Unmarshal(p, &pdu, json.MatchCaseInsensitiveNames(true)))
		d.content = append(d.content, pdu.Content.Body)
	}
	for _, e := range txn.EDUs {
		d.content = append(d.content, strings.TrimPrefix(e.Type, "m.")+string(e.Content))
	}
	f.mu.Lock()
	during, err := f.during, f.down[to]
	f.mu.Unlock()
	if during != nil {
		during(ctx, to)
	}
	if err == nil {
		err = ctx.Err()
	}
	if e, ok := errors.AsType[*errcode.Error](err); ok && (e.Status == 413 || e.Code == "M_CHOKES") && !strings.Contains(string(body), "poison") {
		err = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d.ok = err == nil
	f.got[to] = append(f.got[to], d)
	return nil, err
}

func (f *federation) reach(_ context.Context, to id.Server) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.got[to] = append(f.got[to], delivery{})
	return f.down[to]
}

func (f *federation) setDown(server id.Server, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down[server] = err
}

func (f *federation) setDuring(fn func(context.Context, id.Server)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.during = fn
}

// received is what a server has accepted since the last time.
func (f *federation) received(server id.Server) (content []string) {
	f.t.Helper()
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range f.got[server] {
		if d.ok {
			content = append(content, d.content...)
		}
	}
	f.got[server] = nil
	return content
}

func (f *federation) expect(server id.Server, want ...string) {
	f.t.Helper()
	if diff := cmp.Diff(want, f.received(server)); diff != "" {
		f.t.Errorf("%s received (-want +got):\n%s", server, diff)
	}
}

// attempts is the transactions that a server was offered since the last time.
func (f *federation) attempts(server id.Server) []delivery {
	synctest.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	got := f.got[server]
	f.got[server] = nil
	return got
}

func (f *federation) update(fn func(*store.Tx) error) {
	f.t.Helper()
	f.must(f.store.Update(context.Background(), fn))
}

// nids of servers, in order, this one among them.
func (f *federation) nids(servers ...id.Server) (nids []store.ServerNID) {
	f.t.Helper()
	f.update(func(tx *store.Tx) error {
		nids = nil
		for _, s := range append(servers, storetest.Server) {
			nid, err := tx.IDs.Server(s)
			if err != nil {
				return err
			}
			nids = append(nids, nid)
		}
		slices.Sort(nids)
		return nil
	})
	return nids
}

func (f *federation) join(room string, servers ...id.Server) {
	nids := f.nids(servers...)
	f.update(func(tx *store.Tx) error {
		nid, err := f.room(tx, room)
		for _, s := range nids {
			if err == nil {
				err = tx.RoomServers.Add(nid, s, 1)
			}
		}
		return err
	})
}

func (f *federation) room(tx *store.Tx, room string) (store.RoomNID, error) {
	if nid, ok := f.rooms[room]; ok {
		return nid, nil
	}
	nid, err := tx.Rooms.Insert(id.Room("!"+room+":localhost"), "@alice:localhost", "11")
	f.rooms[room] = nid
	return nid, err
}

// say puts a message into a room for the servers in it.
func (f *federation) say(room string, bodies ...string) {
	f.t.Helper()
	f.update(func(tx *store.Tx) error {
		for _, body := range bodies {
			if err := f.insert(tx, room, body); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f *federation) insert(tx *store.Tx, room, body string) error {
	roomNID, err := f.room(tx, room)
	if err != nil {
		return err
	}
	nid, err := tx.Events.ReserveNIDs(1)
	if err != nil {
		return err
	}
	sender, err := tx.IDs.User("@alice:localhost")
	if err != nil {
		return err
	}
	typ, err := tx.IDs.Type("m.room.message")
	if err != nil {
		return err
	}
	at := tx.NextPosition()
	err = tx.Events.Insert(store.Event{NID: nid, Room: roomNID, Position: at, ID: id.Event(fmt.Sprintf("$%d:localhost", nid)), Sender: sender, Type: typ,
		JSON: fmt.Appendf(nil, `{"content":{"body":%q},"type":"m.room.message"}`, body)})
	if err != nil {
		return err
	}
	r, _, err := tx.Rooms.GetNID(roomNID)
	if err != nil {
		return err
	}
	r.Extremities, r.LastPosition = []store.EventNID{nid}, at
	if err := tx.Rooms.Advance(r); err != nil {
		return err
	}
	servers, err := tx.RoomServers.OfRoom(roomNID)
	if err != nil {
		return err
	}
	set, err := tx.Outgoing.Set(servers)
	if err != nil {
		return err
	}
	f.last[room] = nid
	return tx.Outgoing.Insert(store.OutgoingItem{Position: at, Room: roomNID, Event: nid, Set: set})
}

// tell queues an EDU that must not be lost.
func (f *federation) tell(typ, content string, servers ...id.Server) {
	f.t.Helper()
	nids := f.nids(servers...)
	f.update(func(tx *store.Tx) error {
		set, err := tx.Outgoing.Set(nids)
		if err != nil {
			return err
		}
		return tx.Outgoing.Insert(store.OutgoingItem{Position: tx.NextPosition(), EDU: remote.AppendEDU(nil, typ, jsontext.Value(content)), Set: set})
	})
}

func (f *federation) rows() (rows []store.Destination) {
	f.must(f.store.View(context.Background(), func(tx *store.Tx) (err error) {
		rows, err = tx.Destinations.List()
		return err
	}))
	return rows
}

func (f *federation) items() (n int) {
	f.must(f.store.View(context.Background(), func(tx *store.Tx) (err error) {
		items, err := tx.Outgoing.Places(0, 1<<60, 1e6)
		n = len(items)
		return err
	}))
	return n
}

func numbered(prefix string, n int) (all []string) {
	for i := range n {
		all = append(all, fmt.Sprintf("%s%d", prefix, i))
	}
	return all
}

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

// CVE-2023-32323: one event blocked all that was to be sent to a server.
func TestAnEventThatIsTooLargeIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.say("a", "one", strings.Repeat("x", 70_000), "two")
		f.expect(hs1, "one", "two")
		f.say("a", strings.Repeat("x", 70_000))
		f.expect(hs1)
		f.say("a", "three")
		f.expect(hs1, "three")
	})
}

func TestAnItemThatIsRefusedBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errcode.New(413, "M_TOO_LARGE", "too large"))
		f.say("a", "one", "two", "three", "poison", "four", "five")
		f.expect(hs1, "one", "two", "three", "four", "five")
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it counts as failing: %+v", rows)
		}
	})
}

var errChokes = errcode.New(500, "M_CHOKES", "internal error") // on what has poison in it

// A server that answers 500 to one item gets all others, but that one only given up after a while.
func TestAnItemThatAServerChokesOnBlocksNothingForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errChokes)
		f.say("a", numbered("before ", 40)...)
		f.say("a", "poison")
		f.say("a", numbered("after ", 40)...)
		time.Sleep(30 * time.Minute)
		f.expect(hs1, numbered("before ", 40)...)
		time.Sleep(2 * time.Hour)
		f.expect(hs1, numbered("after ", 40)...)
		f.say("a", numbered("then ", 60)...)
		time.Sleep(time.Second)
		if got := f.attempts(hs1); len(got) != 2 || len(got[0].content) != 50 {
			t.Errorf("it still gets little at a time: %d transactions", len(got))
		}
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it counts as failing: %+v", rows)
		}
	})
}

// The same where the item is among the newest of many rooms.
func TestAHeadThatAServerChokesOnBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.setDown(hs1, errDown)
		want := []string{}
		for i := range 9 {
			name := fmt.Sprint("room", i)
			f.join(name, hs1)
			f.say(name, numbered("missed ", 70)...)
			if i == 5 {
				f.say(name, "poison")
				continue
			}
			f.say(name, name)
			want = append(want, name)
		}
		time.Sleep(time.Minute)
		f.attempts(hs1)
		f.setDown(hs1, errChokes)
		time.Sleep(4 * time.Hour)
		heads := slices.DeleteFunc(f.received(hs1), func(body string) bool { return strings.HasPrefix(body, "missed") }) // of the first attempt
		if diff := cmp.Diff(want, heads); diff != "" {
			t.Error(diff)
		}
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it counts as failing: %+v", rows)
		}
	})
}

// A server that answers 500 to everything is in trouble, and loses nothing.
func TestAServerInTroubleLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errcode.New(500, "M_UNKNOWN", "Internal server error"))
		all := numbered("n", 60)
		f.say("a", all...)
		time.Sleep(36 * time.Hour)
		if n := len(f.attempts(hs1)); n > 40 {
			t.Errorf("%d attempts in a day and a half", n)
		}
		f.setDown(hs1, nil)
		time.Sleep(10 * time.Hour)
		f.expect(hs1, all...)
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

func TestVolatileEDUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2)
		everyone := f.nids(hs1, hs2, "blocked.example")
		queue := func(typ, key, content string, patience time.Duration) {
			t.Helper()
			f.must(f.sender.Queue(context.Background(), remote.EDU{Type: typ, Key: key, Content: jsontext.Value(content), Patience: patience}, everyone))
		}
		queue("m.typing", "alice", `{"typing":true}`, 0)
		f.expect(hs1, `typing{"typing":true}`)
		queue("m.typing", "alice", `{"typing":false}`, 0)
		queue("m.typing", "alice", `{"typing":false}`, 0)
		if got := f.attempts(hs1); len(got) == 2 && got[0].id == got[1].id {
			t.Error("the same news twice are two transactions")
		}

		// The newest of a key wins; receipts go together.
		queue("m.presence", "alice", `{"n":1}`, time.Minute)
		queue("m.presence", "alice", `{"n":2}`, time.Minute)
		queue("m.receipt", "1", `{"!a":{"m.read":{"@alice:localhost":1}}}`, time.Minute)
		queue("m.receipt", "2", `{"!a":{"m.read":{"@bob:localhost":1}},"!b":{"m.read":{"@alice:localhost":1}}}`, time.Minute)
		queue("m.receipt", "3", `{"!a":{"m.read":{"@bob:localhost":"thread"}}}`, time.Minute)
		f.expect(hs1)
		time.Sleep(time.Minute)
		f.expect(hs1, `presence{"n":2}`, `receipt{"!a":{"m.read":{"@alice:localhost":1,"@bob:localhost":1}},"!b":{"m.read":{"@alice:localhost":1}}}`,
			`receipt{"!a":{"m.read":{"@bob:localhost":"thread"}}}`)

		// So does who is online.
		queue("m.presence", "alice", `{"push":[{"user_id":"@alice:localhost"}]}`, time.Minute)
		queue("m.presence", "bob", `{"push":[{"user_id":"@bob:localhost"}]}`, time.Minute)
		time.Sleep(time.Minute)
		f.expect(hs1, `presence{"push":[{"user_id":"@alice:localhost"},{"user_id":"@bob:localhost"}]}`)

		// Company ends patience.
		queue("m.presence", "alice", `{"n":3}`, time.Minute)
		f.say("a", "one")
		f.expect(hs1, "one", `presence{"n":3}`)

		// Who does not answer misses it.
		f.setDown(hs1, errDown)
		f.say("a", "two")
		f.attempts(hs1)
		queue("m.typing", "alice", `{"typing":true}`, 0)
		f.setDown(hs1, nil)
		time.Sleep(time.Hour)
		f.expect(hs1, "two")
		f.expect("blocked.example")
		f.expect(storetest.Server)
	})
}

// TestVolatileEDUsComeAfterTheEvents: they may be about a member whose join is among those.
func TestVolatileEDUsComeAfterTheEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		to := f.nids(hs1)
		typing := func(n int) {
			t.Helper()
			f.must(f.sender.Queue(context.Background(), remote.EDU{Type: "m.typing", Key: "alice", Content: jsontext.Value(fmt.Sprint(n))}, to))
		}
		f.setSlow(true)
		f.say("a", "one")
		typing(1)
		f.expect(hs1)
		f.setSlow(false)
		f.expect(hs1, "one", "typing1")

		// More than go into one transaction.
		begun, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		f.setDuring(func(context.Context, id.Server) { once.Do(func() { close(begun); <-goOn }) })
		f.say("a", "two")
		<-begun
		many := numbered("a", 120)
		f.say("a", many...)
		typing(2)
		close(goOn)
		f.expect(hs1, append(append([]string{"two"}, many...), "typing2")...)
	})
}

func TestVolatileEDUsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		to := f.nids(hs1)
		for i := range 2000 {
			key := fmt.Sprint(i % 700)
			f.must(f.sender.Queue(context.Background(), remote.EDU{Type: "m.x", Key: key, Content: jsontext.Value(fmt.Sprint(i)), Patience: time.Minute}, to))
		}
		time.Sleep(2 * time.Minute)
		got := f.received(hs1)
		if len(got) != 500 || got[499] != "x1999" || got[0] != "x1500" {
			t.Errorf("%d arrived, the first %s, the last %s", len(got), got[0], got[len(got)-1])
		}
	})
}
