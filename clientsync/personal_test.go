package clientsync_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/clientsync"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

func (s *server) toDevice(u id.User, device id.Device, bodies ...string) {
	s.t.Helper()
	s.update(func(tx *store.Tx) error {
		nid, err := tx.IDs.User(u)
		if err != nil {
			return err
		}
		for _, body := range bodies {
			if err := tx.ToDevice.Insert(nid, device, []byte(`{"content":{"body":"`+body+`"},"sender":"@alice:localhost","type":"m.test"}`)); err != nil {
				return err
			}
			tx.Touch(stream.ToDevice, 0, nid)
		}
		return nil
	})
}

func bodies(list []clientEvent) string {
	words := make([]string, len(list))
	for i, e := range list {
		words[i] = fmt.Sprint(e.Content["body"])
	}
	return strings.Join(words, " ")
}

// spec: client-server-api#send-to-device-messaging
func TestToDeviceMessagesStayUntilAcknowledged(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		first := s.sync(bob, "")
		s.toDevice(bob, "DEVICE", "one", "two")
		s.toDevice(bob, "OTHER", "not this")
		forget()
		a := s.sync(bob, first.NextBatch)
		s.want("to_device", bodies(a.ToDevice.Events), "one two")
		lost := s.sync(bob, first.NextBatch)
		s.want("the same request again", bodies(lost.ToDevice.Events), "one two")
		s.toDevice(bob, "DEVICE", "three")
		forget()
		b := s.sync(bob, a.NextBatch)
		s.want("after acknowledging", bodies(b.ToDevice.Events), "three")
		s.update(func(*store.Tx) error { return nil }) // the deletion stands before it in the queue
		s.view(func(tx *store.Tx) error {
			left, err := tx.ToDevice.List(s.nid(bob), "DEVICE", 0, 1<<60, 10)
			if len(left) != 1 {
				t.Errorf("%d messages are kept, want the last alone", len(left))
			}
			return err
		})
	})
}

func TestManyToDeviceMessagesComeInOrder(t *testing.T) {
	s := newServer(t)
	since := s.sync(bob, "").NextBatch
	var all []string
	for i := range 250 {
		all = append(all, fmt.Sprint(i))
	}
	s.toDevice(bob, "DEVICE", all...)
	var got []string
	for range 3 {
		a := s.sync(bob, since)
		got = append(got, bodies(a.ToDevice.Events))
		since = a.NextBatch
	}
	s.want("messages", strings.Join(got, " "), strings.Join(all, " "))
	s.want("after them", bodies(s.sync(bob, since).ToDevice.Events), "")
}

// spec: client-server-api#e2e-extensions-to-sync
func TestKeyCountsAreInEverySync(t *testing.T) {
	s := newServer(t)
	a := s.sync(bob, "")
	if n, ok := a.OneTimeKeys["signed_curve25519"]; !ok || n != 0 {
		t.Errorf("without keys: %v", a.OneTimeKeys)
	}
	if a.UnusedFallbacks == nil {
		t.Error("no device_unused_fallback_key_types")
	}
	s.update(func(tx *store.Tx) error {
		nid, err := tx.IDs.User(bob)
		if err == nil {
			err = tx.DeviceKeys.InsertOneTime(nid, "DEVICE", []store.OneTimeKey{{Algorithm: "signed_curve25519", ID: "A", Key: []byte(`{}`)}})
		}
		if err == nil {
			err = tx.DeviceKeys.SetFallback(nid, "DEVICE", store.OneTimeKey{Algorithm: "signed_curve25519", ID: "B", Key: []byte(`{}`)})
		}
		return err
	})
	a = s.sync(bob, a.NextBatch)
	if a.OneTimeKeys["signed_curve25519"] != 1 || len(a.UnusedFallbacks) != 1 {
		t.Errorf("with keys: %v %v", a.OneTimeKeys, a.UnusedFallbacks)
	}
}

func TestDeviceListsAreInIncrementalSyncsOnly(t *testing.T) {
	s := newServer(t)
	s.configure(clientsync.Options{DeviceLists: func(*store.Tx, store.UserNID, int64, []store.RoomNID) (changed, left []id.User, err error) {
		return []id.User{alice}, []id.User{charlie}, nil
	}})
	r := s.publicRoom(alice)
	s.join(r, bob)
	a := s.sync(bob, "")
	if a.DeviceLists != nil {
		t.Errorf("first sync: %s", a.raw)
	}
	s.say(r, alice, "one")
	a = s.sync(bob, a.NextBatch)
	if a.DeviceLists == nil || a.DeviceLists.Changed[0] != alice || a.DeviceLists.Left[0] != charlie {
		t.Errorf("next sync: %s", a.raw)
	}
}

func TestAccountData(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.publicRoom(alice)
		set := func(typ, content string) {
			s.update(func(tx *store.Tx) error { return tx.AccountData.Set(alice, typ, jsontext.Value(content)) })
		}
		setRoom := func(typ, content string) {
			s.update(func(tx *store.Tx) error { return tx.AccountData.SetRoom(alice, r, typ, jsontext.Value(content)) })
		}
		set("test.a", `{"body":"a"}`)
		setRoom("m.tag", `{"body":"tags"}`)
		a := s.sync(alice, "")
		s.want("global", bodies(a.AccountData.Events), "a")
		s.want("of the room", bodies(a.Rooms.Join[r].AccountData.Events), "tags")
		set("test.b", `{"body":"b"}`)
		forget()
		b := s.sync(alice, a.NextBatch)
		s.want("global, changed", bodies(b.AccountData.Events), "b")
		if len(b.Rooms.Join) != 0 {
			t.Errorf("%s", b.raw)
		}
		setRoom("test.c", `{"body":"c"}`)
		forget()
		c := s.sync(alice, b.NextBatch)
		s.want("of the room, changed", bodies(c.Rooms.Join[r].AccountData.Events), "c")
		if len(c.AccountData.Events) != 0 || len(c.Rooms.Join[r].Timeline.Events) != 0 {
			t.Errorf("%s", c.raw)
		}
		s.want("filtered", bodies(s.sync(alice, "", withFilter(`{"account_data":{"not_types":["test.a"]}}`)).AccountData.Events), "b")
		none := s.sync(alice, b.NextBatch, withFilter(`{"room":{"account_data":{"types":[]}}}`))
		if len(none.Rooms.Join) != 0 {
			t.Errorf("filtered: %s", none.raw)
		}
	})
}

func TestPushRulesAreAccountData(t *testing.T) {
	s := newServer(t)
	changed := true
	s.configure(clientsync.Options{PushRules: func(_ *store.Tx, _ id.User, after int64) (jsontext.Value, bool, error) {
		return jsontext.Value(`{"global":{}}`), changed || after == 0, nil
	}})
	s.publicRoom(alice)
	a := s.sync(alice, "")
	if len(a.AccountData.Events) != 1 || a.AccountData.Events[0].Type != "m.push_rules" {
		t.Errorf("%s", a.raw)
	}
	changed = false
	s.update(func(tx *store.Tx) error { return tx.AccountData.Set(alice, "test.a", jsontext.Value(`{}`)) })
	a = s.sync(alice, a.NextBatch)
	if len(a.AccountData.Events) != 1 || a.AccountData.Events[0].Type != "test.a" {
		t.Errorf("%s", a.raw)
	}
}

func (s *server) receipt(r id.Room, u id.User, private bool, thread string, ev id.Event) {
	s.t.Helper()
	s.update(func(tx *store.Tx) error {
		room, _, err := tx.Rooms.Find(r)
		if err != nil {
			return err
		}
		user, err := tx.IDs.User(u)
		if err != nil {
			return err
		}
		at, _, err := tx.Events.GetID(ev)
		if err != nil {
			return err
		}
		if err := tx.Receipts.Set(store.Receipt{
			Room: room, User: user, Private: private, Thread: thread, Event: ev, EventPosition: at.Position, TS: 1234, Position: tx.NextPosition(),
		}); err != nil {
			return err
		}
		concerned, err := tx.Members.LocalJoined(room)
		if private {
			concerned = []store.UserNID{user}
		}
		tx.Touch(stream.Receipt, room, concerned...)
		return err
	})
}

// spec: client-server-api#receipts
func TestReceipts(t *testing.T) {
	both(t, func(t *testing.T, s *server, forget func()) {
		r := s.publicRoom(alice)
		s.join(r, bob)
		one, two := s.say(r, alice, "one"), s.say(r, alice, "two")
		first := s.sync(alice, "")
		s.receipt(r, bob, false, "", one)
		s.receipt(r, alice, true, "", one)
		s.receipt(r, alice, false, "main", two)
		forget()
		a := s.sync(alice, first.NextBatch)
		content := func(a answer) string {
			for _, e := range a.Rooms.Join[r].Ephemeral.Events {
				if e.Type == "m.receipt" {
					// Maps are printed in order of their keys.
					return strings.NewReplacer(string(one), "ONE", string(two), "TWO", "@", "", ":localhost", "").Replace(fmt.Sprint(e.Content))
				}
			}
			return ""
		}
		if got := content(a); !strings.Contains(got, "ONE:map[m.read:map[bob:map[ts:1234]] m.read.private:map[alice:map[ts:1234]]]") ||
			!strings.Contains(got, "TWO:map[m.read:map[alice:map[thread_id:main ts:1234]]]") {
			t.Errorf("receipts %s", got)
		}
		if got := content(s.sync(bob, "")); strings.Contains(got, "private") {
			t.Errorf("bob sees a private receipt: %s", got)
		}
		s.receipt(r, bob, false, "", two)
		forget()
		b := s.sync(alice, a.NextBatch)
		s.want("only what changed", content(b), "map[TWO:map[m.read:map[bob:map[ts:1234]]]]")
		if j := b.Rooms.Join[r]; len(j.Timeline.Events) != 0 {
			t.Errorf("%s", b.raw)
		}
		forget()
		if c := s.sync(alice, b.NextBatch); len(c.Rooms.Join) != 0 {
			t.Errorf("they came again: %s", c.raw)
		}
	})
}

// One event holds at most one receipt of a user and kind: the unthreaded one.
// msc: 4102
func TestUnthreadedReceiptCoversThreadedOne(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	one := s.say(r, alice, "one")
	since := s.sync(alice, "").NextBatch
	s.receipt(r, alice, false, "", one)
	s.receipt(r, alice, false, "main", one)
	e := s.sync(alice, since).Rooms.Join[r].Ephemeral.Events[0]
	got := e.Content[string(one)].(map[string]any)["m.read"].(map[string]any)[string(alice)].(map[string]any)
	if _, threaded := got["thread_id"]; threaded {
		t.Errorf("%v", e.Content)
	}
}

func TestUnreadCounts(t *testing.T) {
	s := newServer(t)
	s.configure(clientsync.Options{Unread: func(context.Context, *store.Tx, store.UserNID, store.RoomNID, int64) (clientsync.Unread, error) {
		return clientsync.Unread{Main: clientsync.Count{Notify: 3, Highlight: 1}, Threads: map[id.Event]clientsync.Count{"$root": {Notify: 2, Highlight: 2}, "$none": {}}}, nil
	}})
	r := s.publicRoom(alice)
	one := s.say(r, alice, "one")
	a := s.sync(alice, "")
	if !strings.Contains(a.raw, `"unread_notifications":{"highlight_count":3,"notification_count":5}`) || strings.Contains(a.raw, "unread_thread") {
		t.Errorf("%s", a.raw)
	}
	const threads = `{"room":{"timeline":{"unread_thread_notifications":true},"ephemeral":{"types":[]}}}`
	// One's own receipt changes the counts, so it shows even without receipts.
	s.receipt(r, alice, true, "", one)
	a = s.sync(alice, a.NextBatch, withFilter(threads))
	if !strings.Contains(a.raw, `"unread_notifications":{"highlight_count":1,"notification_count":3}`) ||
		!strings.Contains(a.raw, `"unread_thread_notifications":{"$root":{"highlight_count":2,"notification_count":2}}`) {
		t.Errorf("%s", a.raw)
	}
}

func TestTyping(t *testing.T) {
	s := newServer(t)
	var users []id.User
	var at int64
	s.configure(clientsync.Options{Typing: func(store.RoomNID) ([]id.User, int64) { return users, at }})
	r := s.publicRoom(alice)
	s.join(r, bob)
	first := s.sync(alice, "")
	if len(first.Rooms.Join[r].Ephemeral.Events) != 0 {
		t.Errorf("nobody types: %s", first.raw)
	}
	typing := func(who ...id.User) {
		users = who
		at = s.hub.PublishVolatile(stream.Typing, s.roomNID(r), []int64{s.nid(alice), s.nid(bob)})
	}
	typing(bob)
	a := s.sync(alice, first.NextBatch)
	if !strings.Contains(a.raw, `{"content":{"user_ids":["@bob:localhost"]},"type":"m.typing"}`) {
		t.Errorf("typing: %s", a.raw)
	}
	if again := s.sync(alice, a.NextBatch); len(again.Rooms.Join) != 0 {
		t.Errorf("it came again: %s", again.raw)
	}
	typing()
	b := s.sync(alice, a.NextBatch)
	if !strings.Contains(b.raw, `"user_ids":[]`) {
		t.Errorf("stopped: %s", b.raw)
	}
	typing(bob)
	if c := s.sync(alice, b.NextBatch, withFilter(`{"room":{"ephemeral":{"not_types":["m.typing"]}}}`)); len(c.Rooms.Join) != 0 {
		t.Errorf("filtered: %s", c.raw)
	}
	s.restart()
	if d := s.sync(alice, first.NextBatch); !strings.Contains(d.raw, `"user_ids":["@bob:localhost"]`) {
		t.Errorf("from the store: %s", d.raw)
	}
}

func TestPresence(t *testing.T) {
	s := newServer(t)
	var set []string
	var asked []int64
	s.configure(clientsync.Options{
		Presence: func(_ *store.Tx, _ store.UserNID, after int64) ([]clientsync.Presence, error) {
			asked = append(asked, after)
			return []clientsync.Presence{{Sender: bob, Content: jsontext.Value(`{"presence":"online"}`)}}, nil
		},
		SetPresence: func(_ context.Context, u id.User, _ id.Device, presence string) error {
			set = append(set, u.Localpart()+" "+presence)
			return nil
		},
	})
	first := s.sync(alice, "")
	if len(first.Presence.Events) != 1 || first.Presence.Events[0].Sender != bob || asked[0] != 0 {
		t.Errorf("%s %v", first.raw, asked)
	}
	if quiet := s.sync(alice, first.NextBatch); len(quiet.Presence.Events) != 0 {
		t.Errorf("%s", quiet.raw)
	}
	s.hub.PublishVolatile(stream.Presence, 0, []int64{s.nid(alice)})
	a := s.sync(alice, first.NextBatch, func(r *clientsync.Request) { r.SetPresence = "unavailable" })
	if len(a.Presence.Events) != 1 || asked[len(asked)-1] == 0 {
		t.Errorf("%s %v", a.raw, asked)
	}
	s.hub.PublishVolatile(stream.Presence, 0, []int64{s.nid(alice)})
	b := s.sync(alice, a.NextBatch, withFilter(`{"presence":{"not_senders":["@bob:localhost"]}}`), func(r *clientsync.Request) { r.SetPresence = "offline" })
	if len(b.Presence.Events) != 0 {
		t.Errorf("filtered: %s", b.raw)
	}
	s.want("set presence", strings.Join(set, ", "), "alice online, alice online, alice unavailable")
}

// Who comes into sight by joining is told of, though their presence did not change.
func TestPresenceOfThoseWhoJoin(t *testing.T) {
	s := newServer(t)
	s.configure(clientsync.Options{Presence: func(_ *store.Tx, _ store.UserNID, after int64) (all []clientsync.Presence, _ error) {
		if after == 0 {
			for _, u := range []id.User{alice, bob, charlie} {
				all = append(all, clientsync.Presence{Sender: u, Content: jsontext.Value(`{"presence":"online"}`)})
			}
		}
		return all, nil
	}})
	senders := func(a answer) (list string) {
		for _, e := range a.Presence.Events {
			list += e.Sender.Localpart() + " "
		}
		return list
	}
	r := s.publicRoom(alice)
	s.join(r, charlie)
	since, sinceBob := s.sync(alice, "").NextBatch, s.sync(bob, "").NextBatch
	s.join(r, bob)
	s.want("for who was there", senders(s.sync(alice, since)), "bob ")
	s.want("for who came", senders(s.sync(bob, sinceBob)), "alice bob charlie ")
}

// spec: client-server-api#aggregations-of-child-events
func TestLimitedTimelineHasAggregations(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	since := s.sync(alice, "").NextBatch
	one := s.say(r, alice, "one")
	s.send(r, room.Proposal{Sender: alice, Type: "m.room.message", Content: jsontext.Value(
		`{"msgtype":"m.text","body":"* two","m.new_content":{"msgtype":"m.text","body":"two"},"m.relates_to":{"rel_type":"m.replace","event_id":"` + string(one) + `"}}`)})
	limited := s.sync(alice, "", withFilter(`{"room":{"timeline":{"limit":2}}}`)).Rooms.Join[r]
	if e := limited.Timeline.Events[0]; !strings.Contains(fmt.Sprint(e.Unsigned["m.relations"]), "two") {
		t.Errorf("limited: %v", e.Unsigned)
	}
	whole := s.sync(alice, since).Rooms.Join[r]
	if e := whole.Timeline.Events[0]; e.Unsigned["m.relations"] != nil {
		t.Errorf("the edit is in the timeline itself: %v", e.Unsigned)
	}
}

// spec: client-server-api#ignoring-users
func TestIgnoredUsers(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	since := s.sync(alice, "").NextBatch
	s.update(func(tx *store.Tx) error {
		return tx.AccountData.Set(alice, "m.ignored_user_list", jsontext.Value(`{"ignored_users":{"@bob:localhost":{}}}`))
	})
	s.say(r, bob, "ignored")
	s.say(r, alice, "heard")
	s.set(r, alice, "m.room.power_levels", "", `{"users":{"@bob:localhost":50}}`)
	s.name(r, bob, "By bob")
	other := s.publicRoom(bob)
	s.invite(other, bob, alice)
	a := s.sync(alice, since)
	s.want("timeline", a.Rooms.Join[r].timeline(), "heard power_levels name:By bob")
	if len(a.Rooms.Invite) != 0 {
		t.Errorf("an invite of an ignored user: %s", a.raw)
	}
	if first := s.sync(alice, ""); len(first.Rooms.Invite) != 0 {
		t.Errorf("an invite of an ignored user: %s", first.raw)
	}
}

// spec: client-server-api#room-event-format unsigned
func TestUnsigned(t *testing.T) {
	s := newServer(t)
	r := s.publicRoom(alice)
	s.join(r, bob)
	since := s.sync(alice, "").NextBatch
	proposal := room.Proposal{
		Sender: alice, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"one"}`),
		Txn: &room.Txn{Device: "DEVICE", ID: "txn1", Endpoint: "send m.room.message"},
	}
	one := s.send(r, proposal)
	old := s.name(r, alice, "Old")
	s.name(r, alice, "New")
	a := s.sync(alice, since)
	events := a.Rooms.Join[r].Timeline.Events
	if u := events[0].Unsigned; u["transaction_id"] != "txn1" || u["membership"] != "join" || u["age"] == nil {
		t.Errorf("own message: %v", u)
	}
	if u := events[2].Unsigned; u["replaces_state"] != string(old) || fmt.Sprint(u["prev_content"]) != "map[name:Old]" {
		t.Errorf("state: %v", u)
	}
	for name, other := range map[string]answer{
		"another device": s.sync(alice, since, func(r *clientsync.Request) { r.Device = "OTHER" }),
		"another user":   s.sync(bob, ""),
	} {
		if strings.Contains(other.raw, "txn1") {
			t.Errorf("%s sees the transaction id", name)
		}
	}
	if _, err := s.rooms.Redact(context.Background(), r, room.Proposal{Sender: alice, Redacts: one, Type: "m.room.redaction", Content: jsontext.Value(`{}`)}); err != nil {
		t.Fatal(err)
	}
	e := s.sync(alice, since).Rooms.Join[r].Timeline.Events[0]
	if len(e.Content) != 0 || fmt.Sprint(e.Unsigned["redacted_because"]) == "<nil>" {
		t.Errorf("redacted: %+v", e)
	}
}

// parts counts how often an answer was written to.
type parts struct {
	bytes.Buffer
	writes, largest int
}

func (p *parts) Write(b []byte) (int, error) {
	p.writes++
	p.largest = max(p.largest, len(b))
	return p.Buffer.Write(b)
}

func TestLargeAnswersGoOutInParts(t *testing.T) {
	s := newServer(t)
	body := strings.Repeat("x", 30_000)
	for range 40 {
		s.say(s.publicRoom(alice), alice, body)
	}
	var out parts
	s.ok(s.syncer.Sync(context.Background(), request(alice, ""), &out))
	if !jsontext.Value(out.Bytes()).IsValid() {
		t.Error("the parts make no JSON")
	}
	if out.writes < 4 || out.largest > 400_000 {
		t.Errorf("%d bytes in %d parts, the largest has %d", out.Len(), out.writes, out.largest)
	}
	if n := strings.Count(out.String(), "m.room.create"); n != 40 {
		t.Errorf("%d rooms", n)
	}
}
