package e2ee_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/e2ee"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const (
	dora  = id.User("@dora:hs1.example")
	emil  = id.User("@emil:hs2.example")
	other = id.Server("hs1.example")
)

// elsewhere is the other servers: what they say of their users.
type elsewhere struct {
	mu      sync.Mutex
	devices map[id.User]map[id.Device]jsontext.Value
	master  map[id.User]jsontext.Value
	stream  map[id.User]int64
	down    error
	during  func()
	asked   []string // what they were asked
}

func (e *elsewhere) note(format string, a ...any) error {
	e.mu.Lock()
	e.asked = append(e.asked, fmt.Sprintf(format, a...))
	during := e.during
	e.mu.Unlock()
	if during != nil {
		during()
	}
	return e.down
}

func (e *elsewhere) heard() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	asked := e.asked
	e.asked = nil
	return asked
}

func (e *elsewhere) remote() *e2ee.Remote {
	return &e2ee.Remote{
		QueryKeys: func(_ context.Context, to id.Server, users map[id.User][]id.Device) (e2ee.ServerQuery, error) {
			q := e2ee.ServerQuery{DeviceKeys: map[id.User]map[id.Device]jsontext.Value{}, MasterKeys: map[id.User]jsontext.Value{}}
			for u := range users {
				q.DeviceKeys[u] = e.devices[u]
				q.MasterKeys[u] = e.master[u]
			}
			q.DeviceKeys[alice] = map[id.Device]jsontext.Value{"FORGED": jsontext.Value(`{}`)}
			return q, e.note("query %s", to)
		},
		ClaimKeys: func(_ context.Context, to id.Server, claims map[id.User]map[id.Device]string) (map[id.User]map[id.Device]map[string]jsontext.Value, error) {
			k := map[string]jsontext.Value{"x:1": jsontext.Value(`"k"`)}
			return map[id.User]map[id.Device]map[string]jsontext.Value{dora: {"D": k, "FORGED": k}, alice: {"FORGED": k}}, e.note("claim %s", to)
		},
		GetDevices: func(_ context.Context, to id.Server, user id.User) (e2ee.UserDevices, error) {
			d := e2ee.UserDevices{User: user, StreamID: e.stream[user], MasterKey: e.master[user]}
			for name, keys := range e.devices[user] {
				d.Devices = append(d.Devices, e2ee.UserDevice{ID: name, Name: "Phone", Keys: keys})
			}
			return d, e.note("devices %s", user)
		},
	}
}

func newElsewhere() *elsewhere {
	return &elsewhere{devices: map[id.User]map[id.Device]jsontext.Value{}, master: map[id.User]jsontext.Value{}, stream: map[id.User]int64{}}
}

// meet makes a user of another server a member of a room.
func (w *world) meet(r id.Room, u id.User) {
	w.t.Helper()
	w.member(r, u, store.Join, 1)
}

func (w *world) part(r id.Room, u id.User) {
	w.t.Helper()
	w.member(r, u, store.Leave, -1)
}

// member writes down what happens when another server's event arrives.
func (w *world) member(r id.Room, u id.User, m store.Membership, count int64) {
	w.t.Helper()
	w.update(func(tx *store.Tx) error {
		roomNID, _, err := tx.Rooms.Find(r)
		if err != nil {
			return err
		}
		nid, err := tx.IDs.User(u)
		if err != nil {
			return err
		}
		server, err := tx.IDs.Server(u.Server())
		if err != nil {
			return err
		}
		typ, err := tx.IDs.Type("m.room.member")
		if err != nil {
			return err
		}
		e, err := tx.Events.ReserveNIDs(1)
		if err != nil {
			return err
		}
		at := tx.NextPosition()
		err = tx.Events.Insert(store.Event{NID: e, Room: roomNID, Position: at, ID: id.Event(fmt.Sprintf("$%d:remote", e)), Sender: nid, Type: typ,
			IsState: true, Key: store.MemberKey(nid), JSON: fmt.Appendf(nil, `{"content":{"membership":%q}}`, m)})
		if err != nil {
			return err
		}
		if err := tx.Members.Set(store.Member{Room: roomNID, User: nid, Membership: m, Event: e, Position: at}); err != nil {
			return err
		}
		return tx.RoomServers.Add(roomNID, server, count)
	})
}

// told is the EDUs for other servers since a position, each with its destinations.
func (w *world) told(after int64) (all []toldEDU) {
	w.t.Helper()
	w.view(func(tx *store.Tx) error {
		items, err := tx.Outgoing.After(after, 1<<60, 1000)
		for _, i := range items {
			if i.Event != 0 {
				continue
			}
			var e toldEDU
			if err := json.Unmarshal(i.EDU, &e); err != nil {
				return err
			}
			servers, err := tx.Outgoing.Destinations(i.Set)
			if err != nil {
				return err
			}
			for _, s := range servers {
				name, err := tx.IDs.ServerName(s)
				if err != nil {
					return err
				}
				e.to = append(e.to, name)
			}
			all = append(all, e)
		}
		return err
	})
	return all
}

type toldEDU struct {
	Type    string         `json:"edu_type"`
	Content jsontext.Value `json:"content"`
	to      []id.Server
}

func (w *world) update1(e toldEDU) (u e2ee.DeviceListUpdate) {
	w.t.Helper()
	w.must(json.Unmarshal(e.Content, &u))
	return u
}

func remoteKeys(u id.User, d id.Device, mark string) jsontext.Value {
	return jsontext.Value(fmt.Sprintf(`{"algorithms":[],"device_id":%q,"keys":{"ed25519:%[1]s":%[2]q},"signatures":{},"user_id":%[3]q}`, d, mark, u))
}

func (w *world) query(caller, user id.User) map[id.Device]jsontext.Value {
	w.t.Helper()
	r, err := w.QueryKeys(w.t.Context(), caller, map[id.User][]id.Device{user: {}}, 0)
	w.must(err)
	for server, f := range r.Failures {
		return map[id.Device]jsontext.Value{"failed": jsontext.Value(fmt.Sprintf("%q", string(server)+": "+f.Message))}
	}
	return r.DeviceKeys[user]
}

// However much other servers answer, a client gets no more than it can take, and is told
// of whom there was more.
func TestAnswersOfManyServersAreBounded(t *testing.T) {
	e := newElsewhere()
	w := newWorldOn(t, nil, e.remote())
	asked := map[id.User][]id.Device{}
	for i := range 60 {
		u := id.User(fmt.Sprintf("@dora:hs%d.example", i))
		asked[u] = []id.Device{}
		e.devices[u] = map[id.Device]jsontext.Value{}
		for n := range 100 {
			d := id.Device(fmt.Sprint(n))
			e.devices[u][d] = remoteKeys(u, d, strings.Repeat("x", 12_000))
		}
	}
	size := func() (n int) {
		r, err := w.QueryKeys(t.Context(), alice, asked, 0)
		w.must(err)
		for _, devices := range r.DeviceKeys {
			if len(devices) != 100 {
				t.Errorf("%d devices of a user are shown", len(devices))
			}
			for _, keys := range devices {
				n += len(keys)
			}
		}
		for u := range asked {
			_, failed := r.Failures[u.Server()]
			if _, shown := r.DeviceKeys[u]; shown == failed {
				t.Errorf("%s: shown: %t, failed: %t", u, shown, failed)
			}
		}
		return n
	}
	if n := size(); n < 20<<20 || n > 40<<20 {
		t.Errorf("the answer has %d MiB of keys", n>>20)
	}
	r := w.share(alice)
	for u := range asked {
		w.meet(r, u)
	}
	for range 3 { // now they are kept
		if n := size(); n < 20<<20 || n > 40<<20 {
			t.Errorf("the answer has %d MiB of keys, some from the store", n>>20)
		}
	}
}

// A server with thousands of users in one room answers for some at a time, and what it has
// answered is kept though it is not done in time.
func TestManyUsersOfAServerAreAskedForInParts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := map[id.User][]id.Device{}
		for i := range 1000 {
			asked[id.User(fmt.Sprintf("@dora%d:hs1.example", i))] = []id.Device{}
		}
		e := newElsewhere()
		remote := e.remote()
		query := remote.QueryKeys
		requests := 0
		remote.QueryKeys = func(ctx context.Context, to id.Server, users map[id.User][]id.Device) (e2ee.ServerQuery, error) {
			requests++
			if len(users) > 300 {
				return e2ee.ServerQuery{}, errcode.TooLarge("the answer is too large")
			}
			select {
			case <-time.After(4 * time.Second):
				return query(ctx, to, users)
			case <-ctx.Done():
				return e2ee.ServerQuery{}, ctx.Err()
			}
		}
		w := newWorldOn(t, nil, remote)
		r := w.share(alice)
		for u := range asked {
			e.devices[u] = map[id.Device]jsontext.Value{"D": remoteKeys(u, "D", "1")}
			w.meet(r, u)
		}
		look := func() (shown, failed int) {
			q, err := w.QueryKeys(t.Context(), alice, asked, 0)
			w.must(err)
			return len(q.DeviceKeys), len(q.Failures)
		}
		if shown, failed := look(); shown != 500 || failed != 1 {
			t.Errorf("in time there are the keys of %d users, and %d servers failed", shown, failed)
		}
		if shown, failed := look(); shown != 1000 || failed != 0 || requests != 5 {
			t.Errorf("then there are the keys of %d users, and %d servers failed, after %d requests", shown, failed, requests)
		}
	})
}

// Servers whose turn has not come when the time is over are not asked any more.
func TestQueriesEndWhenTheirTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asking := 0
		var mu sync.Mutex
		silent := func(ctx context.Context) error {
			mu.Lock()
			asking++
			mu.Unlock()
			<-ctx.Done()
			return ctx.Err()
		}
		w := newWorldOn(t, nil, &e2ee.Remote{
			QueryKeys: func(ctx context.Context, _ id.Server, _ map[id.User][]id.Device) (e2ee.ServerQuery, error) {
				return e2ee.ServerQuery{}, silent(ctx)
			},
			ClaimKeys: func(ctx context.Context, _ id.Server, _ map[id.User]map[id.Device]string) (map[id.User]map[id.Device]map[string]jsontext.Value, error) {
				return nil, silent(ctx)
			},
		})
		asked, claimed := map[id.User][]id.Device{}, map[id.User]map[id.Device]string{}
		for i := range 300 {
			u := id.User(fmt.Sprintf("@dora:hs%d.example", i))
			asked[u], claimed[u] = []id.Device{}, map[id.Device]string{"D": "x"}
		}
		start := time.Now()
		check := func(what string, failures map[id.Server]e2ee.Failure, err error) {
			t.Helper()
			w.must(err)
			if len(failures) != 300 || asking > 50 || time.Since(start) > 10*time.Second {
				t.Errorf("%s: %d servers were asked, %d failed, in %v", what, asking, len(failures), time.Since(start))
			}
			start, asking = time.Now(), 0
		}
		q, err := w.QueryKeys(t.Context(), alice, asked, 10_000)
		check("query", q.Failures, err)
		c, err := w.ClaimKeys(t.Context(), claimed, 10_000)
		check("claim", c.Failures, err)
	})
}

func TestMessagesForOtherServersAreQueued(t *testing.T) {
	w := newWorld(t)
	m := e2ee.Message{Sender: alice, Type: "m.x"}
	before := w.position()
	to := map[id.User]map[id.Device]jsontext.Value{
		bob:  {"bob": jsontext.Value(`{"n":0}`)},
		dora: {"D": jsontext.Value(`{"n":1}`), "*": jsontext.Value(`{"n":2}`)},
		emil: {"E": jsontext.Value(`{"n":3}`)},
	}
	for range 2 { // the second is the same request again
		w.must(w.SendToDevice(t.Context(), m, "alice", "txn", to))
	}
	got := w.told(before)
	if len(got) != 2 {
		t.Fatalf("%d EDUs: %v", len(got), got)
	}
	ids := map[string]bool{}
	for i, want := range []struct{ to, messages string }{
		{"hs1.example", `{"@dora:hs1.example":{"*":{"n":2},"D":{"n":1}}}`},
		{"hs2.example", `{"@emil:hs2.example":{"E":{"n":3}}}`},
	} {
		var d e2ee.DirectToDevice
		w.must(json.Unmarshal(got[i].Content, &d))
		if got[i].Type != "m.direct_to_device" || text(t, got[i].to) != fmt.Sprintf("[%q]", want.to) || text(t, d.Messages) != want.messages ||
			d.Sender != alice || d.Type != "m.x" || d.MessageID == "" || len(d.MessageID) > 32 {
			t.Errorf("EDU %d: %s to %v", i, got[i].Content, got[i].to)
		}
		ids[d.MessageID] = true
	}
	if len(ids) != 2 {
		t.Error("two messages have the same id")
	}

	before = w.position()
	big := jsontext.Value(`{"x":"` + strings.Repeat("x", 40_000) + `"}`)
	w.must(w.SendToDevice(t.Context(), m, "alice", "big", map[id.User]map[id.Device]jsontext.Value{dora: {"A": big, "B": big, "C": big}}))
	if got := w.told(before); len(got) != 3 {
		t.Errorf("large messages are in %d EDUs", len(got))
	}
}

// spec: server-server-api#device-management
func TestOtherServersHearOfChangedKeys(t *testing.T) {
	w := newWorld(t)
	before := w.position()
	w.publish(alice, "alice")
	if got := w.told(before); len(got) != 0 {
		t.Errorf("nobody sees alice, yet: %v", got)
	}
	r := w.share(alice)
	w.meet(r, dora)
	devices, err := w.DevicesForServer(t.Context(), alice)
	w.must(err)
	if len(devices.Devices) != 1 || devices.StreamID == 0 || devices.Devices[0].Name != "" {
		t.Fatalf("devices are %+v", devices)
	}
	w.device(alice, "SECOND")
	w.publish(alice, "SECOND")
	w.crossSign(alice, "x")
	w.update(func(tx *store.Tx) error {
		gone, err := tx.Devices.Delete(alice, []id.Device{"alice"})
		if err != nil {
			return err
		}
		return w.DevicesDeleted(tx, alice, gone)
	})
	w.publish(bob, "bob")
	got := w.told(before)
	if len(got) != 3 {
		t.Fatalf("%d EDUs: %v", len(got), got)
	}
	added, gone := w.update1(got[0]), w.update1(got[2])
	if diff := cmp.Diff([]int64{devices.StreamID}, added.PrevID); diff != "" {
		t.Error("the first update does not follow the whole list: " + diff)
	}
	if added.Device != "SECOND" || !strings.Contains(string(added.Keys), "curve25519:SECOND") || added.Deleted {
		t.Errorf("added: %+v", added)
	}
	if gone.Device != "alice" || !gone.Deleted || gone.Keys != nil || len(gone.PrevID) != 1 || gone.PrevID[0] != added.StreamID {
		t.Errorf("deleted: %+v", gone)
	}
	var cross e2ee.SigningKeyUpdate
	w.must(json.Unmarshal(got[1].Content, &cross))
	if got[1].Type != "m.signing_key_update" || cross.User != alice || !strings.Contains(string(cross.MasterKey), `"master"`) ||
		!strings.Contains(string(cross.SelfSigningKey), `"signatures"`) || strings.Contains(string(got[1].Content), "user_signing") {
		t.Errorf("cross-signing: %s", got[1].Content)
	}
	devices, err = w.DevicesForServer(t.Context(), alice)
	w.must(err)
	if devices.StreamID != gone.StreamID || devices.MasterKey == nil {
		t.Errorf("then devices are %+v", devices)
	}
}

// The name of a device may say more of its owner than is for strangers to know.
func TestOtherServersHearNamesOfDevicesOnlyIfTheyMay(t *testing.T) {
	for _, may := range []bool{false, true} {
		w := newWorld(t)
		w.NamesToServers = may
		w.publish(alice, "alice")
		before := w.position()
		w.meet(w.share(alice), dora)
		w.device(alice, "SECOND")
		w.publish(alice, "SECOND")
		w.update(func(tx *store.Tx) error { return w.DeviceChanged(tx, alice, "SECOND") })
		tell := map[string]any{"edus": w.told(before)}
		if len(w.told(before)) != 2 {
			t.Errorf("told %s", text(t, tell))
		}
		var err error
		tell["devices"], err = w.DevicesForServer(t.Context(), alice)
		w.must(err)
		tell["keys"], err = w.QueryForServer(t.Context(), map[id.User][]id.Device{alice: {}})
		w.must(err)
		for what, answer := range tell {
			if got := strings.Contains(text(t, answer), "Device of"); got != may {
				t.Errorf("may names be told: %t, but the %s are %s", may, what, text(t, answer))
			}
		}
		if got := text(t, w.query(bob, alice)); !strings.Contains(got, "Device of") {
			t.Errorf("users here do not see names of devices: %s", got)
		}
	}
}

func TestOtherServersAreToldOnlyOfUsersHere(t *testing.T) {
	e := newElsewhere()
	e.devices[dora] = map[id.Device]jsontext.Value{"D": remoteKeys(dora, "D", "1")}
	w := newWorldOn(t, nil, e.remote())
	w.publish(alice, "alice")
	w.meet(w.share(alice), dora)
	w.query(alice, dora)
	q, err := w.QueryForServer(t.Context(), map[id.User][]id.Device{alice: {}, dora: {}})
	w.must(err)
	if len(q.DeviceKeys[alice]) != 1 || len(q.DeviceKeys) != 1 {
		t.Errorf("told %v", q.DeviceKeys)
	}
	_, err = w.DevicesForServer(t.Context(), dora)
	w.refused(err, 404, "M_NOT_FOUND")
	c, err := w.ClaimForServer(t.Context(), map[id.User]map[id.Device]string{dora: {"D": "x"}, alice: {"alice": "x"}})
	w.must(err)
	if len(c.OneTimeKeys) != 0 {
		t.Errorf("claimed %v", c)
	}
}

func TestKeysOfUsersElsewhereAreKeptAndFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElsewhere()
		w := newWorldOn(t, nil, e.remote())
		e.devices[dora] = map[id.Device]jsontext.Value{"D": remoteKeys(dora, "D", "1"), "X": remoteKeys(alice, "X", "of somebody else")}
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			if err := w.FetchStale(ctx); err != nil {
				t.Error(err)
			}
		}()
		defer stop()
		expect := func(what, mark string, asked ...string) {
			t.Helper()
			synctest.Wait()
			got := w.query(alice, dora)
			if len(got) != 1 || !strings.Contains(string(got["D"]), fmt.Sprintf(`"ed25519:D":%q`, mark)) {
				t.Errorf("%s: keys are %s", what, text(t, got))
			}
			if diff := cmp.Diff(asked, e.heard()); diff != "" {
				t.Errorf("%s: asked (-want +got) %s", what, diff)
			}
		}
		expect("a stranger", "1", "query hs1.example")
		expect("a stranger", "1", "query hs1.example")
		r := w.share(alice, bob)
		w.meet(r, dora)
		expect("asked once", "1", "query hs1.example")
		expect("then known", "1")

		update := func(streamID int64, mark string, prev ...int64) {
			t.Helper()
			e.devices[dora] = map[id.Device]jsontext.Value{"D": remoteKeys(dora, "D", mark)}
			e.stream[dora] = streamID
			before := w.position()
			w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "D", StreamID: streamID, PrevID: prev, Keys: e.devices[dora]["D"], Name: "Phone"}))
			lists := w.lists(bob, before)
			if len(lists.Changed) != 1 || lists.Changed[0] != dora || w.heard[stream.DeviceList][w.nid(bob)] <= before {
				t.Errorf("bob does not hear of it: %+v", lists)
			}
		}
		update(7, "2", 6)
		expect("the query told no stream id", "2", "devices @dora:hs1.example")
		update(8, "3", 7)
		expect("an update that follows", "3")
		update(10, "4", 9)
		expect("an update is missing", "4", "devices @dora:hs1.example")
		update(11, "5")
		expect("an update that refers to none", "5", "devices @dora:hs1.example")

		before := w.position()
		w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "D", StreamID: 11, PrevID: []int64{10}}))
		if lists := w.lists(bob, before); len(lists.Changed) != 0 {
			t.Errorf("the same update again is news: %v", lists)
		}
		if name := string(w.query(alice, dora)["D"]); !strings.Contains(name, `"device_display_name":"Phone"`) {
			t.Errorf("without its name: %s", name)
		}

		before = w.position()
		w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "NEW", StreamID: 12, PrevID: []int64{11}}))
		if lists := w.lists(bob, before); len(lists.Changed) != 0 {
			t.Errorf("a device without keys is news: %v", lists)
		}
		expect("a device without keys changes nothing", "5")

		// The other server is down: its old keys are not shown as new, and it is asked until it answers.
		e.down = errors.New("no route to host")
		update(14, "6", 13)
		synctest.Wait()
		if got := w.query(alice, dora); got["failed"] == nil {
			t.Errorf("stale keys are shown: %s", text(t, got))
		}
		time.Sleep(10 * time.Minute)
		e.down = nil
		time.Sleep(10 * time.Minute)
		e.heard()
		expect("fetched in the end", "6")

		w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "D", StreamID: 15, PrevID: []int64{14}, Deleted: true}))
		if got := w.query(alice, dora); len(got) != 0 {
			t.Errorf("deleted, but %s", text(t, got))
		}
	})
}

// Conduit and what came of it say of every change only that there was one: with stream_id 1, no
// prev_id and a device that does not exist. Of a user with one device, their list has that
// stream_id too.
func TestUpdatesThatOnlySayThatSomethingChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElsewhere()
		w := newWorldOn(t, nil, e.remote())
		ctx, stop := context.WithCancel(t.Context())
		go func() {
			if err := w.FetchStale(ctx); err != nil {
				t.Error(err)
			}
		}()
		defer stop()
		w.meet(w.share(alice, bob), dora)
		for i, device := range []id.Device{"FIRST", "SECOND", "THIRD"} {
			e.devices[dora] = map[id.Device]jsontext.Value{device: remoteKeys(dora, device, "1")}
			e.stream[dora] = int64(i + 1) // counts log-ins
			w.query(alice, dora)
			before := w.position()
			w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "placeholder", Name: "Placeholder", StreamID: 1}))
			synctest.Wait()
			if got := w.query(alice, dora); got[device] == nil {
				t.Errorf("alice does not see the %s device: %s", device, text(t, got))
			}
			if lists := w.lists(bob, before); i > 0 && len(lists.Changed) != 1 {
				t.Errorf("bob does not hear of the %s device: %+v", device, lists)
			}
		}
	})
}

func TestAnUpdateDuringAQueryIsNotLost(t *testing.T) {
	e := newElsewhere()
	w := newWorldOn(t, nil, e.remote())
	w.meet(w.share(alice), dora)
	e.devices[dora] = map[id.Device]jsontext.Value{"D": remoteKeys(dora, "D", "old")}
	e.during = func() {
		w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "D", StreamID: 2, PrevID: []int64{1}, Keys: remoteKeys(dora, "D", "new")}))
	}
	w.query(alice, dora)
	e.during = nil
	e.devices[dora] = map[id.Device]jsontext.Value{"D": remoteKeys(dora, "D", "new")}
	if got := string(w.query(alice, dora)["D"]); !strings.Contains(got, "new") {
		t.Errorf("keys are %s", got)
	}
}

func TestSigningKeysOfUsersElsewhere(t *testing.T) {
	e := newElsewhere()
	w := newWorldOn(t, nil, e.remote())
	r := w.share(alice, bob)
	w.meet(r, dora)
	one, two := key("one"), key("two")
	e.master[dora] = w.crossKey(dora, "master", one, nil)
	w.query(alice, dora)
	e.heard()
	// alice signs what she sees; only she sees that.
	_, _, aliceSigns := w.crossSign(alice, "alice")
	signed := w.sign(string(e.master[dora]), alice, public(aliceSigns), aliceSigns)
	failures, err := w.UploadSignatures(t.Context(), alice, map[id.User]map[string]jsontext.Value{dora: {public(one): signed}})
	w.must(err)
	if len(failures) != 0 {
		t.Errorf("not signed: %v", failures)
	}
	master := func(caller id.User) string {
		r, err := w.QueryKeys(t.Context(), caller, map[id.User][]id.Device{dora: {}}, 0)
		w.must(err)
		return string(r.MasterKeys[dora])
	}
	if !strings.Contains(master(alice), `"@alice:localhost":{`) || strings.Contains(master(bob), "alice") {
		t.Errorf("alice sees %s, bob %s", master(alice), master(bob))
	}
	before := w.position()
	update := e2ee.SigningKeyUpdate{User: dora, MasterKey: w.crossKey(dora, "master", two, nil)}
	w.must(w.ReceiveSigningKeyUpdate(t.Context(), update))
	if !strings.Contains(master(bob), public(two)) || len(w.lists(bob, before).Changed) != 1 {
		t.Errorf("after an update bob sees %s", master(bob))
	}
	before = w.position()
	w.must(w.ReceiveSigningKeyUpdate(t.Context(), update))
	if len(w.lists(bob, before).Changed) != 0 {
		t.Error("the same update again is news")
	}
	update.MasterKey = w.crossKey(alice, "master", two, nil)
	w.refused(w.ReceiveSigningKeyUpdate(t.Context(), update), 400, "M_INVALID_PARAM")
	if asked := e.heard(); len(asked) != 0 {
		t.Errorf("asked %v", asked)
	}
}

func TestWhoSharesNoRoomIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElsewhere()
		hub := stream.NewHub(0)
		w := newWorldOn(t, storetest.Open(t, hub.Publish), e.remote())
		e.devices[dora] = map[id.Device]jsontext.Value{"D": remoteKeys(dora, "D", "1")}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Follow(ctx, hub) }()
		defer func() { stop(); w.must(<-ended) }()
		kept := func(want bool, what string) {
			t.Helper()
			synctest.Wait()
			var found bool
			w.view(func(tx *store.Tx) (err error) {
				_, found, err = tx.RemoteLists.Get(w.nidIn(tx, dora))
				if keys, e := tx.DeviceKeys.List(w.nidIn(tx, dora)); e == nil && (len(keys) > 0) != want {
					t.Errorf("%s: %d devices are kept", what, len(keys))
				}
				return err
			})
			if found != want {
				t.Errorf("%s: kept: %t, want %t", what, found, want)
			}
		}
		r1, r2 := w.share(alice, bob), w.share(bob)
		w.meet(r1, dora)
		w.meet(r2, dora)
		synctest.Wait()
		w.query(alice, dora)
		kept(true, "asked for")
		w.part(r1, dora)
		kept(true, "in another room still")
		w.leave(r2, bob)
		kept(false, "bob has left the last one")
		w.must(w.ReceiveDeviceListUpdate(t.Context(), e2ee.DeviceListUpdate{User: dora, Device: "D", StreamID: 2, Keys: remoteKeys(dora, "D", "2")}))
		kept(false, "an update of a stranger")

		w.meet(r1, dora)
		synctest.Wait()
		w.query(alice, dora)
		kept(true, "again")
		w.part(r1, dora)
		w.meet(r1, dora)
		kept(false, "what happened between leaving and joining was not told")
	})
}

func TestNewServersAreToldOfDevices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := stream.NewHub(0)
		w := newWorldOn(t, storetest.Open(t, hub.Publish), nil)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.Follow(ctx, hub) }()
		defer func() { stop(); w.must(<-ended) }()
		w.publish(bob, "bob")
		r1, r2 := w.share(alice), w.share(alice)
		w.update(func(tx *store.Tx) error {
			_, err := tx.Devices.Insert(charlie, store.Device{ID: "no keys"})
			return err
		})
		for _, r := range []id.Room{r1, r2} {
			w.meet(r, dora)
		}
		w.meet(r2, emil)
		synctest.Wait()
		before := w.position()
		w.join(r1, bob)
		synctest.Wait()
		got := w.told(before)
		if len(got) != 1 || text(t, got[0].to) != `["hs1.example"]` || w.update1(got[0]).Device != "bob" || len(w.update1(got[0]).PrevID) != 0 {
			t.Errorf("told %v", got)
		}
		before = w.position()
		w.join(r1, charlie)
		synctest.Wait()
		if got = w.told(before); len(got) != 2 || w.update1(got[1]).Device != "no keys" || w.update1(got[1]).Deleted {
			t.Errorf("told of devices without keys %v", got)
		}
		before = w.position()
		w.join(r2, bob)
		synctest.Wait()
		if got = w.told(before); len(got) != 1 || text(t, got[0].to) != `["hs2.example"]` {
			t.Errorf("then told %v", got)
		}
		before = w.position()
		_, err := w.rooms.Send(t.Context(), r2, room.Proposal{Sender: bob, Type: "m.room.member", StateKey: new(string(bob)), Content: jsontext.Value(`{"membership":"join","displayname":"Bob"}`)})
		w.must(err)
		synctest.Wait()
		if got = w.told(before); len(got) != 0 {
			t.Errorf("a new name is no join, but told %v", got)
		}
	})
}

// A server that was away until the EDUs for it were deleted learns that it knows old keys.
func TestAServerThatWasAwayForLongAsksForChangedKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := stream.NewHub(0)
		w := newWorldOn(t, storetest.Open(t, hub.Publish), nil)
		var mu sync.Mutex
		var down error
		var heard []toldEDU
		setDown := func(err error) {
			mu.Lock()
			defer mu.Unlock()
			down, heard = err, nil
		}
		sender := remote.NewSender(w.store, remote.SenderOptions{Server: storetest.Server, MissedKeys: w.MissedKeys,
			Send: func(_ context.Context, _ id.Server, _ string, body []byte) (map[id.Event]string, error) {
				var txn struct {
					EDUs []toldEDU `json:"edus"`
				}
				mu.Lock()
				defer mu.Unlock()
				if down == nil {
					w.must(json.Unmarshal(body, &txn))
					heard = append(heard, txn.EDUs...)
				}
				return nil, down
			}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- sender.Run(ctx, hub) }()
		defer func() { stop(); w.must(<-ended) }()
		w.publish(alice, "alice")
		w.publish(charlie, "charlie")
		w.meet(w.share(alice, charlie), dora)
		w.device(charlie, "TABLET")
		w.publish(charlie, "TABLET")
		known, err := w.DevicesForServer(t.Context(), alice)
		w.must(err)
		time.Sleep(time.Minute)

		setDown(errors.New("no route to host"))
		w.device(alice, "PHONE")
		w.publish(alice, "PHONE")
		w.crossSign(alice, "x")
		w.publish(bob, "bob") // who is in no room with it
		time.Sleep(32 * 24 * time.Hour)
		setDown(nil)
		time.Sleep(12 * time.Hour)
		synctest.Wait()
		if len(heard) != 2 || heard[0].Type != "m.device_list_update" || heard[1].Type != "m.signing_key_update" {
			t.Fatalf("it hears %s", text(t, heard))
		}
		now, err := w.DevicesForServer(t.Context(), alice)
		w.must(err)
		u := w.update1(heard[0])
		if u.User != alice || u.StreamID != now.StreamID || len(u.PrevID) != 1 || u.PrevID[0] == known.StreamID || u.PrevID[0] == u.StreamID {
			t.Errorf("who knows alice's keys as of %d does not ask for them because of %+v", known.StreamID, u)
		}
		var cross e2ee.SigningKeyUpdate
		w.must(json.Unmarshal(heard[1].Content, &cross))
		if cross.User != alice || !strings.Contains(string(cross.MasterKey), `"master"`) {
			t.Errorf("cross-signing: %s", heard[1].Content)
		}
	})
}

func TestClaimsFromOtherServers(t *testing.T) {
	e := newElsewhere()
	w := newWorldOn(t, nil, e.remote())
	c, err := w.ClaimKeys(t.Context(), map[id.User]map[id.Device]string{dora: {"D": "x"}}, 0)
	w.must(err)
	if got := text(t, c.OneTimeKeys); got != `{"@dora:hs1.example":{"D":{"x:1":"k"}}}` {
		t.Errorf("claimed %s", got)
	}
	e.down = errcode.Forbidden("not for you")
	c, err = w.ClaimKeys(t.Context(), map[id.User]map[id.Device]string{dora: {"D": "x"}, emil: {"E": "x"}}, 0)
	w.must(err)
	if len(c.Failures) != 2 || c.Failures[other].Message != "not for you" || len(c.OneTimeKeys) != 0 {
		t.Errorf("got %+v", c)
	}
	alone := newWorld(t)
	c, err = alone.ClaimKeys(t.Context(), map[id.User]map[id.Device]string{dora: {"D": "x"}}, 0)
	w.must(err)
	if _, ok := c.Failures[other]; !ok {
		t.Errorf("failures are %v", c.Failures)
	}
	if got := alone.query(alice, dora); got["failed"] == nil {
		t.Errorf("got %v", got)
	}
}

func TestMessagesOfOtherServersArriveOnce(t *testing.T) {
	w := newWorld(t)
	m := e2ee.Message{Sender: dora, Type: "m.x"}
	to := messages(alice, e2ee.AllDevices)
	to[emil] = map[id.Device]jsontext.Value{"E": jsontext.Value(`{}`)}
	for range 3 {
		w.must(w.ReceiveToDevice(t.Context(), other, "m1", m, to))
	}
	w.must(w.ReceiveToDevice(t.Context(), "hs2.example", "m1", m, to))
	w.must(w.ReceiveToDevice(t.Context(), other, "m2", m, to))
	if got := w.waiting(alice, "alice", 0); len(got) != 3 || got[0] != `{"content":{"n":1},"sender":"@dora:hs1.example","type":"m.x"}` {
		t.Errorf("waiting: %v", got)
	}
	w.refused(w.ReceiveToDevice(t.Context(), other, "m3", m, map[id.User]map[id.Device]jsontext.Value{alice: {"alice": jsontext.Value(`1`)}}), 400, "M_BAD_JSON")
	w.refused(w.ReceiveToDevice(t.Context(), other, strings.Repeat("m", 300), m, to), 400, "M_INVALID_PARAM")
}

// A server that does not answer for any of its users does not keep the lists of others from being fetched.
func TestAServerThatHangsLeavesOthersTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newElsewhere()
		remote := e.remote()
		var mu sync.Mutex
		var asked []id.User
		remote.GetDevices = func(ctx context.Context, to id.Server, user id.User) (e2ee.UserDevices, error) {
			mu.Lock()
			asked = append(asked, user)
			mu.Unlock()
			if to == other {
				<-ctx.Done()
				return e2ee.UserDevices{}, ctx.Err()
			}
			return e2ee.UserDevices{User: user, StreamID: 1}, nil
		}
		w := newWorldOn(t, nil, remote)
		r := w.share(alice)
		users := []id.User{}
		for i := range 30 {
			users = append(users, id.User(fmt.Sprintf("@user%d:%s", i, other)))
		}
		for _, u := range append(users, emil) { // emil's server tells last
			w.meet(r, u)
			w.update(func(tx *store.Tx) error {
				nid, err := tx.IDs.User(u)
				if err != nil {
					return err
				}
				return tx.RemoteLists.Set(store.RemoteList{User: nid, Stale: true})
			})
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- w.FetchStale(ctx) }()
		synctest.Wait()
		mu.Lock()
		if !slices.Contains(asked, emil) {
			t.Errorf("asked are %v", asked)
		}
		mu.Unlock()
		time.Sleep(10 * time.Minute)
		mu.Lock()
		for _, u := range users {
			if !slices.Contains(asked, u) {
				t.Errorf("%s is never asked for", u)
			}
		}
		mu.Unlock()
		stop()
		w.must(<-ended)
	})
}

// What reaches nobody is not remembered, and of what a server sent not all of a week.
func TestFewMessagesOfAServerAreRemembered(t *testing.T) {
	w := newWorld(t)
	m := e2ee.Message{Sender: dora, Type: "m.x"}
	receive := func(name string, device id.Device) {
		t.Helper()
		w.must(w.ReceiveToDevice(t.Context(), other, name, m, messages(alice, device)))
	}
	receive("early", "NEW")
	w.device(alice, "NEW")
	receive("early", "NEW")
	if got := w.waiting(alice, "NEW", 0); len(got) != 1 {
		t.Errorf("an id is in use that nobody got a message of: %v", got)
	}
	w.update(func(tx *store.Tx) error {
		server, err := tx.IDs.Server(other)
		for i := 0; i < 10_000 && err == nil; i++ {
			_, err = tx.ToDevice.InsertReceived(server, fmt.Sprint("flood", i), time.Now().UnixMilli()-2000+int64(i/10))
		}
		return err
	})
	for i := range 64 {
		receive(fmt.Sprint(i), "alice")
	}
	receive("0", "alice")
	if got := w.waiting(alice, "alice", 0); len(got) != 64 {
		t.Errorf("%d messages wait: one was taken twice", len(got))
	}
	if receive("flood0", "alice"); len(w.waiting(alice, "alice", 0)) != 65 {
		t.Error("the oldest id is remembered still")
	}
}

func (w *world) nidIn(tx *store.Tx, u id.User) store.UserNID {
	w.t.Helper()
	nid, _, err := tx.IDs.FindUser(u)
	w.must(err)
	return nid
}
