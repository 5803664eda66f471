package remote_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

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
	f.sender = remote.NewSender(f.store, remote.SenderOptions{Server: storetest.Server, Send: f.take, Reach: f.reach, MissedKeys: missedKeys,
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
	if e, ok := errors.AsType[*errcode.Error](err); ok && (e.Code == "M_TOO_LARGE" || e.Code == "M_CHOKES") && !strings.Contains(string(body), "poison") {
		err = nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	d.ok = err == nil
	f.got[to] = append(f.got[to], d)
	return nil, err
}

// missedKeys tells of all changes but those of one user.
func missedKeys(_ *store.Tx, c store.DeviceListChange, _ store.ServerNID) ([]byte, error) {
	if c.User == unseen {
		return nil, nil
	}
	return remote.AppendEDU(nil, "m.missed", jsontext.Value(fmt.Sprintf("%d%s", c.User, c.Device))), nil
}

const unseen store.UserNID = 1000

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
