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
