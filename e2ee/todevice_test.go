package e2ee_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/e2ee"
	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

func messages(to id.User, device id.Device) map[id.User]map[id.Device]jsontext.Value {
	return map[id.User]map[id.Device]jsontext.Value{to: {device: jsontext.Value(`{"n":1}`)}}
}

// waiting is what a sync of the device would bring.
func (w *world) waiting(u id.User, d id.Device, after int64) (got []string) {
	w.t.Helper()
	w.view(func(tx *store.Tx) error {
		nid, _, err := tx.IDs.FindUser(u)
		if err != nil {
			return err
		}
		waiting, err := tx.ToDevice.List(nid, d, after, 1<<60, 100)
		for _, m := range waiting {
			got = append(got, string(m.Event))
		}
		return err
	})
	return got
}

func TestMessagesReachDevices(t *testing.T) {
	w := newWorld(t)
	w.device(bob, "SECOND")
	m := e2ee.Message{Sender: alice, Type: "m.room_key"}
	send := func(txn string, to map[id.User]map[id.Device]jsontext.Value) {
		t.Helper()
		w.must(w.SendToDevice(t.Context(), m, "alice", txn, to))
	}
	send("1", messages(bob, "bob"))
	send("1", messages(bob, "bob")) // repeated
	send("2", messages(bob, "*"))
	send("3", messages(bob, "NONE"))
	send("4", messages("@nobody:localhost", "*"))
	send("5", messages("@dora:remote", "*"))
	event := `{"content":{"n":1},"sender":"@alice:localhost","type":"m.room_key"}`
	if diff := cmp.Diff([]string{event, event}, w.waiting(bob, "bob", 0)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{event}, w.waiting(bob, "SECOND", 0)); diff != "" {
		t.Error(diff)
	}
	if _, told := w.heard[stream.ToDevice][w.nid(bob)]; !told {
		t.Error("bob does not wake")
	}
	// A transaction belongs to a device and an endpoint.
	w.must(w.SendToDevice(t.Context(), m, "OTHER", "1", messages(bob, "bob")))
	w.must(w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.other"}, "alice", "1", messages(bob, "bob")))
	if n := len(w.waiting(bob, "bob", 0)); n != 4 {
		t.Errorf("%d messages", n)
	}
}

func TestMessagesToDeactivatedUsersAreDropped(t *testing.T) {
	w := newWorld(t)
	w.update(func(tx *store.Tx) error { return tx.Users.SetDeactivated(bob, true) })
	w.must(w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.x"}, "alice", "1", messages(bob, "*")))
	if n := len(w.waiting(bob, "bob", 0)); n != 0 {
		t.Errorf("%d messages wait", n)
	}
}

// flood queues messages for bob's device without counting them, and then some as another server.
func (w *world) flood(from id.Server, content string, n int) {
	w.t.Helper()
	nid := w.nid(bob)
	w.update(func(tx *store.Tx) error {
		for i := range n {
			e := fmt.Sprintf(`{"content":%s,"sender":"@user%d:%s","type":"m.x%[2]d"}`, content, i, from)
			if err := tx.ToDevice.Insert(nid, "bob", []byte(e)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 64 {
		to := map[id.User]map[id.Device]jsontext.Value{bob: {"bob": jsontext.Value(content)}}
		w.must(w.ReceiveToDevice(w.t.Context(), from, fmt.Sprint("last", i), e2ee.Message{Sender: "@dora:" + id.User(from), Type: "m.x"}, to))
	}
}

// queued counts what waits for bob's device, by the servers of the senders.
func (w *world) queued() (messages, size map[id.Server]int) {
	w.t.Helper()
	messages, size = map[id.Server]int{}, map[id.Server]int{}
	nid := w.nid(bob)
	w.view(func(tx *store.Tx) error {
		return tx.ToDevice.Each(nid, "bob", func(m store.ToDeviceMessage) {
			from, _ := canonical.GetString(m.Event, "sender")
			messages[id.User(from).Server()]++
			size[id.User(from).Server()] += len(m.Event)
		})
	})
	return messages, size
}

// Anybody may send to any device, but who fills its queue pushes out nobody else's messages.
func TestAFloodPushesOutOnlyItself(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		n       int
	}{
		"many":  {`{}`, 10_000},
		"large": {`{"x":"` + strings.Repeat("x", 65_000) + `","y":{"z":",\"sender\":\"@alice:localhost\""}}`, 500},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.must(w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.room_key"}, "alice", "1", messages(bob, "bob")))
			for i := range 20 {
				w.must(w.ReceiveToDevice(t.Context(), "hs1.example", fmt.Sprint(i), e2ee.Message{Sender: "@erin:hs1.example", Type: "m.room_key"}, messages(bob, "bob")))
			}
			w.flood("evil.example", c.content, c.n)
			n, size := w.queued()
			if n["localhost"] != 1 || n["hs1.example"] != 20 {
				t.Errorf("what is left: %v", n)
			}
			if n["evil.example"] > 9_100 || size["evil.example"] > 31<<20 || size["evil.example"] < 100<<10 {
				t.Errorf("of the flood %d messages are left, %d bytes", n["evil.example"], size["evil.example"])
			}
			last := 0
			nid := w.nid(bob)
			w.view(func(tx *store.Tx) error {
				return tx.ToDevice.Each(nid, "bob", func(m store.ToDeviceMessage) {
					if strings.Contains(string(m.Event), `"sender":"@dora:evil.example"`) {
						last++
					}
				})
			})
			if last != 64 {
				t.Errorf("%d of the newest messages are left", last)
			}
		})
	}
}

// A user of this server who floods a device does not push out what the others of this server send.
func TestAFloodOfALocalUserPushesOutOnlyItself(t *testing.T) {
	w := newWorld(t)
	w.must(w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.room_key"}, "alice", "1", messages(bob, "bob")))
	nid := w.nid(bob)
	w.update(func(tx *store.Tx) error {
		for range 10_000 {
			if err := tx.ToDevice.Insert(nid, "bob", []byte(`{"content":{},"sender":"@charlie:localhost","type":"m.x"}`)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 64 {
		w.must(w.SendToDevice(t.Context(), e2ee.Message{Sender: charlie, Type: "m.x"}, "charlie", fmt.Sprint(i), messages(bob, "bob")))
	}
	if first := w.waiting(bob, "bob", 0)[0]; !strings.Contains(first, string(alice)) {
		t.Errorf("the oldest is %s", first)
	}
	if n, _ := w.queued(); n["localhost"] > 9_100 {
		t.Errorf("%v are left", n)
	}
}

// Each device of a user has its bound, however their positions alternate.
func TestEachQueueIsBounded(t *testing.T) {
	w := newWorld(t)
	w.device(bob, "SECOND")
	w.flood("evil.example", `{}`, 10_000)
	nid := w.nid(bob)
	w.update(func(tx *store.Tx) error {
		for range 10_000 {
			if err := tx.ToDevice.Insert(nid, "SECOND", []byte(`{"content":{},"sender":"@dora:evil.example","type":"m.x"}`)); err != nil {
				return err
			}
		}
		return nil
	})
	for i := range 64 {
		w.must(w.ReceiveToDevice(t.Context(), "evil.example", fmt.Sprint(i), e2ee.Message{Sender: "@dora:evil.example", Type: "m.x"}, messages(bob, "*")))
	}
	for _, d := range []id.Device{"bob", "SECOND"} {
		n := 0
		w.view(func(tx *store.Tx) error { return tx.ToDevice.Each(nid, d, func(store.ToDeviceMessage) { n++ }) })
		if n > 10_000 {
			t.Errorf("%d messages wait for %s", n, d)
		}
	}
}

// invented are messages to so many users whom there is not.
func invented(n int) map[id.User]map[id.Device]jsontext.Value {
	to := map[id.User]map[id.Device]jsontext.Value{}
	for i := range n {
		to[id.User(fmt.Sprintf("@invented%d:localhost", i))] = map[id.Device]jsontext.Value{"*": jsontext.Value(`{}`)}
	}
	return to
}

// A server that names any number of users whom there is not holds up nobody who writes.
func TestMessagesToNobodyDoNotWaitForTheWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		release := w.holdWriter()
		w.must(w.ReceiveToDevice(t.Context(), "hs1.example", "1", e2ee.Message{Sender: "@dora:hs1.example", Type: "m.x"}, invented(5000)))
		release()
		to := invented(5000)
		maps.Copy(to, messages(bob, "*"))
		w.must(w.ReceiveToDevice(t.Context(), "hs1.example", "2", e2ee.Message{Sender: "@dora:hs1.example", Type: "m.x"}, to))
		if n := len(w.waiting(bob, "bob", 0)); n != 1 {
			t.Errorf("%d messages wait for somebody named among them", n)
		}
	})
}

// holdWriter lets nothing be written until release is called.
func (w *world) holdWriter() (release func()) {
	holds, released := make(chan struct{}), make(chan struct{})
	held := w.store.Enqueue(func(*store.Tx) error {
		close(holds)
		<-released
		return nil
	})
	<-holds
	return func() {
		w.t.Helper()
		close(released)
		w.must(held.Wait(w.t.Context()))
	}
}

func TestMessagesAreBounded(t *testing.T) {
	w := newWorld(t)
	big := jsontext.Value(`{"x":"` + strings.Repeat("x", 70_000) + `"}`)
	err := w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.x"}, "alice", "1", map[id.User]map[id.Device]jsontext.Value{bob: {"bob": big}})
	w.refused(err, 413, "M_TOO_LARGE")
	err = w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.x"}, "alice", "2", map[id.User]map[id.Device]jsontext.Value{bob: {"bob": jsontext.Value(`5`)}})
	w.refused(err, 400, "M_BAD_JSON")
	to := invented(10_000)
	maps.Copy(to, messages(bob, "*"))
	err = w.ReceiveToDevice(t.Context(), "hs1.example", "1", e2ee.Message{Sender: "@dora:hs1.example", Type: "m.x"}, to)
	w.refused(err, 413, "M_TOO_LARGE")
	err = w.SendToDevice(t.Context(), e2ee.Message{Sender: alice, Type: "m.x"}, "alice", strings.Repeat("t", 300), messages(bob, "bob"))
	w.refused(err, 400, "M_INVALID_PARAM")
}
