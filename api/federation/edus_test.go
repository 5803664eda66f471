package federation

import (
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const (
	eduOrigin = id.Server("hs1.example")
	eduAlice  = id.User("@alice:localhost") // of this server
	eduBob    = id.User("@bob:hs1.example")
	eduOther  = id.User("@charlie:hs2.example")
)

// eduWorld is a server where alice shares a room with bob of another server.
type eduWorld struct {
	*API
	t       testing.TB
	store   *store.Store
	room    id.Room
	roomNID store.RoomNID
	event   id.Event // alice's, in the room
}

func newEDUWorld(t testing.TB) *eduWorld {
	t.Helper()
	hub := stream.NewHub(0)
	return newEDUWorldOn(t, storetest.Open(t, hub.Publish), hub)
}

func newEDUWorldOn(t testing.TB, s *store.Store, hub *stream.Hub) *eduWorld {
	t.Helper()
	w := &eduWorld{t: t, store: s, API: &API{
		ServerName: storetest.Server, Transactions: NewTransactions(),
		Rooms: room.New(s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32)),
			Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }}),
		E2EE:     e2ee.New(s, storetest.Server, e2ee.Remote{}),
		Receipts: ephemeral.NewReceipts(s), Typing: ephemeral.NewTyping(s, hub), Presence: ephemeral.NewPresence(s, hub, true),
	}}
	var err error
	w.room, err = w.Rooms.Create(t.Context(), room.Creation{Creator: eduAlice, Preset: "public_chat"})
	w.must(err)
	w.event = w.say("hello")
	w.must(s.Update(t.Context(), func(tx *store.Tx) error {
		if _, err := tx.Users.Insert(store.User{Name: eduAlice}); err != nil {
			return err
		}
		if _, err := tx.Devices.Insert(eduAlice, store.Device{ID: "A"}); err != nil {
			return err
		}
		w.roomNID, _, err = tx.Rooms.Find(w.room)
		if err != nil {
			return err
		}
		for _, u := range []id.User{eduBob, eduOther} {
			nid, err := tx.IDs.User(u)
			if err == nil {
				err = tx.Members.Set(store.Member{Room: w.roomNID, User: nid, Membership: store.Join, Event: 1, Position: tx.NextPosition()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	return w
}

// newOperatedEDUWorld is one whose database somebody else changes while the server runs.
func newOperatedEDUWorld(t *testing.T) (w *eduWorld, operate func(sql string)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "homeserver.db")
	hub := stream.NewHub(0)
	s, err := store.Open(t.Context(), store.Options{Server: storetest.Server, SQLite: path, Published: hub.Publish})
	if err != nil {
		t.Fatal(err)
	}
	w = newEDUWorldOn(t, s, hub)
	operator, err := sql.Open("sqlite", path+"?_pragma=busy_timeout(5000)")
	w.must(err)
	t.Cleanup(func() {
		w.must(operator.Close())
		w.must(s.Close())
	})
	return w, func(sql string) {
		t.Helper()
		_, err := operator.Exec(sql)
		w.must(err)
	}
}

func (w *eduWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *eduWorld) say(body string) id.Event {
	w.t.Helper()
	e, err := w.Rooms.Send(w.t.Context(), w.room, room.Proposal{Sender: eduAlice, Type: "m.room.message", Content: jsontext.Value(fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, body))})
	w.must(err)
	return e
}

// receive takes an EDU of bob's server. ROOM and EVENT stand for those of the world.
func (w *eduWorld) receive(typ, content string) {
	w.t.Helper()
	content = strings.NewReplacer("ROOM", string(w.room), "EVENT", string(w.event)).Replace(content)
	w.must(w.receiveEDU(w.t.Context(), eduOrigin, jsontext.Value(fmt.Sprintf(`{"edu_type":%q,"content":%s}`, typ, content))))
}

// refuseOrigin puts bob's server on the room's access control list.
func (w *eduWorld) refuseOrigin() {
	w.t.Helper()
	empty := ""
	_, err := w.Rooms.Send(w.t.Context(), w.room, room.Proposal{Sender: eduAlice, Type: "m.room.server_acl", StateKey: &empty,
		Content: jsontext.Value(`{"allow":["*"],"deny":["hs1.example"]}`)})
	w.must(err)
}

// spec: server-server-api#typing-notifications
//
// MSC4163: access control lists hold for EDUs.
func TestReceiveTyping(t *testing.T) {
	w := newEDUWorld(t)
	expect := func(what string, want ...id.User) {
		t.Helper()
		if users, _ := w.Typing.In(w.roomNID); !slices.Equal(users, want) {
			t.Errorf("%s: %v type, want %v", what, users, want)
		}
	}
	w.receive("m.typing", `{"room_id":"ROOM","user_id":"@bob:hs1.example","typing":true}`)
	expect("bob types", eduBob)
	w.receive("m.typing", `{"room_id":"ROOM","user_id":"@bob:hs1.example","typing":false}`)
	expect("bob stops")
	for _, forged := range []string{
		`{"room_id":"ROOM","user_id":"@alice:localhost","typing":true}`,
		`{"room_id":"ROOM","user_id":"@charlie:hs2.example","typing":true}`,
		`{"room_id":"ROOM","user_id":"@stranger:hs1.example","typing":true}`,
		`{"room_id":"!other:localhost","user_id":"@bob:hs1.example","typing":true}`,
		`{"room_id":"ROOM","user_id":"bob","typing":true}`,
		`{"room_id":"ROOM","user_id":"@bob:hs1.example","typing":"yes"}`,
		`[]`, `null`,
	} {
		w.receive("m.typing", forged)
		expect(forged)
	}
	w.refuseOrigin()
	w.receive("m.typing", `{"room_id":"ROOM","user_id":"@bob:hs1.example","typing":true}`)
	expect("bob's server is not let in")
}

// spec: server-server-api#receipts
//
// syn 1.2.1: receipts were taken in the name of anybody. MSC4163: access control lists hold for EDUs.
func TestReceiveReceipts(t *testing.T) {
	w := newEDUWorld(t)
	receipt := func(u id.User, thread string) (found store.Receipt) {
		w.must(w.store.View(t.Context(), func(tx *store.Tx) error {
			nid, _, err := tx.IDs.FindUser(u)
			if err == nil {
				found, _, err = tx.Receipts.Get(w.roomNID, nid, false, thread)
			}
			return err
		}))
		return found
	}
	w.receive("m.receipt", `{"!nowhere:x":{"m.read":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":5}}}},
		"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":5}},
		"@alice:localhost":{"event_ids":["EVENT"],"data":{"ts":5}},
		"@charlie:hs2.example":{"event_ids":["EVENT"],"data":{"ts":5}},
		"@stranger:hs1.example":{"event_ids":["EVENT"],"data":{"ts":5}}}}}`)
	if r := receipt(eduBob, ""); r.Event != w.event || r.TS != 5 {
		t.Errorf("bob's receipt: %+v", r)
	}
	for _, u := range []id.User{eduAlice, eduOther, "@stranger:hs1.example"} {
		if r := receipt(u, ""); r.Event != "" {
			t.Errorf("a forged receipt of %s is taken", u)
		}
	}
	w.receive("m.receipt", `{"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":6,"thread_id":"main"}}}}}`)
	if r := receipt(eduBob, "main"); r.Event != w.event {
		t.Errorf("bob's receipt in the main timeline: %+v", r)
	}
	old := w.event
	w.event = w.say("news")
	for _, bad := range []string{
		`{"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":["$unknown"],"data":{"ts":5}}}}}`,
		`{"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":[],"data":{"ts":5}}}}}`,
		`{"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":"x"}}}}}`,
		`{"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":5,"thread_id":"nothing"}}}}}`,
		`{"ROOM":{"m.read.private":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":5}}}}}`,
		`{"ROOM":{"m.read":[]}}`, `7`,
	} {
		w.receive("m.receipt", bad)
		if r := receipt(eduBob, ""); r.Event != old {
			t.Errorf("%s is taken", bad)
		}
	}
	w.refuseOrigin()
	w.receive("m.receipt", `{"ROOM":{"m.read":{"@bob:hs1.example":{"event_ids":["EVENT"],"data":{"ts":7}}}}}`)
	if r := receipt(eduBob, ""); r.Event != old {
		t.Error("a receipt of a server that is not let in is taken")
	}
}

// However many receipts a server invents at once, each EDU is short work.
func TestManyReceiptsAtOnce(t *testing.T) {
	w := newEDUWorld(t)
	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
		for i := range maxReceipts + 100 {
			nid, err := tx.IDs.User(id.User(fmt.Sprintf("@reader%d:hs1.example", i)))
			if err == nil {
				err = tx.Members.Set(store.Member{Room: w.roomNID, User: nid, Membership: store.Join, Event: 1, Position: tx.NextPosition()})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}))
	var readers []string
	for i := range maxReceipts + 100 {
		readers = append(readers, fmt.Sprintf(`"@reader%d:hs1.example":{"event_ids":["EVENT"],"data":{"ts":5}}`, i))
	}
	w.receive("m.receipt", `{"ROOM":{"m.read":{`+strings.Join(readers, ",")+`}}}`)
	w.must(w.store.View(t.Context(), func(tx *store.Tx) error {
		all, err := tx.Receipts.InRoom(w.roomNID, 0, 0, 1<<60)
		if len(all) != maxReceipts {
			t.Errorf("%d receipts are taken", len(all))
		}
		return err
	}))
}

// spec: server-server-api#presence
func TestReceivePresence(t *testing.T) {
	w := newEDUWorld(t)
	expect := func(u id.User, want ephemeral.State, msg string) {
		t.Helper()
		s, err := w.Presence.Get(t.Context(), eduAlice, u)
		w.must(err)
		if s.Presence != want || s.StatusMsg != msg {
			t.Errorf("%s is %s %q, want %s %q", u, s.Presence, s.StatusMsg, want, msg)
		}
	}
	w.receive("m.presence", `{"push":[7,{"user_id":"@alice:localhost","presence":"online","last_active_ago":1},
		{"user_id":"@charlie:hs2.example","presence":"online","last_active_ago":1},
		{"user_id":"@bob:hs1.example","presence":"nonsense","last_active_ago":1},
		{"user_id":"@bob:hs1.example","presence":"online","last_active_ago":1000,"currently_active":true,"status_msg":"here"}]}`)
	expect(eduBob, ephemeral.Online, "here")
	expect(eduAlice, ephemeral.Offline, "")
	expect(eduOther, ephemeral.Offline, "")
	w.receive("m.presence", `{"push":[{"user_id":"@bob:hs1.example","presence":"offline","last_active_ago":-5}]}`)
	expect(eduBob, ephemeral.Offline, "")
	w.receive("m.presence", `{"push":[{"user_id":"@bob:hs1.example","presence":"online","last_active_ago":0,"status_msg":"`+strings.Repeat("x", 5000)+`"}]}`)
	expect(eduBob, ephemeral.Offline, "")
}

// waiting is the messages that wait for alice's device.
func (w *eduWorld) waiting() (events []string) {
	w.t.Helper()
	w.must(w.store.View(w.t.Context(), func(tx *store.Tx) error {
		nid, _, err := tx.IDs.FindUser(eduAlice)
		if err != nil {
			return err
		}
		all, err := tx.ToDevice.List(nid, "A", 0, 1<<60, 100)
		for _, m := range all {
			events = append(events, string(m.Event))
		}
		return err
	}))
	return events
}

// changed is whose keys alice hears to have changed.
func (w *eduWorld) changed(after int64) []id.User {
	w.t.Helper()
	lists, err := w.E2EE.GetKeysChanges(w.t.Context(), eduAlice, after)
	w.must(err)
	return lists.Changed
}

func (w *eduWorld) now() (at int64) {
	w.t.Helper()
	w.must(w.store.View(w.t.Context(), func(tx *store.Tx) (err error) {
		at, err = tx.ReadPosition()
		return err
	}))
	return at
}

// spec: server-server-api#send-to-device-messaging
func TestReceiveDirectToDevice(t *testing.T) {
	w := newEDUWorld(t)
	waiting := func() int { return len(w.waiting()) }
	for range 2 {
		w.receive("m.direct_to_device", `{"sender":"@bob:hs1.example","type":"m.x","message_id":"1","messages":{"@alice:localhost":{"*":{}}}}`)
	}
	if n := waiting(); n != 1 {
		t.Errorf("%d messages wait, want 1", n)
	}
	for _, bad := range []string{
		`{"sender":"@alice:localhost","type":"m.x","message_id":"2","messages":{"@alice:localhost":{"A":{}}}}`,
		`{"sender":"@charlie:hs2.example","type":"m.x","message_id":"3","messages":{"@alice:localhost":{"A":{}}}}`,
		`{"sender":"@bob:hs1.example","type":"m.x","message_id":"4","messages":{"@alice:localhost":{"A":"text"}}}`,
		`{"sender":"@bob:hs1.example","type":"m.x","messages":{"@alice:localhost":{"A":{}}}}`,
		`{"sender":"@bob:hs1.example","type":"m.x","message_id":"5","messages":{"@bob:hs1.example":{"A":{}},"@nobody:localhost":{"A":{}}}}`,
		`{}`,
	} {
		w.receive("m.direct_to_device", bad)
		if n := waiting(); n != 1 {
			t.Fatalf("%s is delivered", bad)
		}
	}
}

// spec: server-server-api#device-management
func TestReceiveChangesOfKeys(t *testing.T) {
	w := newEDUWorld(t)
	changed, now := w.changed, w.now
	before := now()
	w.receive("m.device_list_update", `{"user_id":"@bob:hs1.example","device_id":"D","stream_id":1}`)
	if got := changed(before); !slices.Equal(got, []id.User{eduBob}) {
		t.Errorf("changed: %v", got)
	}
	before = now()
	w.receive("m.signing_key_update", `{"user_id":"@bob:hs1.example"}`)
	if got := changed(before); !slices.Equal(got, []id.User{eduBob}) {
		t.Errorf("changed: %v", got)
	}
	before = now()
	for typ, contents := range map[string][]string{
		"m.device_list_update": {
			`{"user_id":"@charlie:hs2.example","device_id":"D","stream_id":1}`,
			`{"user_id":"@alice:localhost","device_id":"D","stream_id":1}`,
			`{"user_id":"@stranger:hs1.example","device_id":"D","stream_id":1}`,
			`{"user_id":"@bob:hs1.example","device_id":"","stream_id":1}`,
			`{"user_id":"@bob:hs1.example","device_id":"D","stream_id":"one"}`,
			`{"user_id":"@bob:hs1.example","device_id":"D","stream_id":2,"keys":{"user_id":"@alice:localhost","device_id":"D"}}`,
			`{"user_id":"@bob:hs1.example","device_id":"D","stream_id":2,"keys":{"user_id":"@bob:hs1.example","device_id":"D","signatures":{"x":{"y":1}}}}`,
		},
		"m.signing_key_update": {
			`{"user_id":"@alice:localhost"}`,
			`{"user_id":"@bob:hs1.example","master_key":{"user_id":"@alice:localhost"}}`,
		},
		"m.unknown": {`{}`},
	} {
		for _, content := range contents {
			w.receive(typ, content)
			if got := changed(before); len(got) != 0 {
				t.Fatalf("%s %s: changed: %v", typ, content, got)
			}
		}
	}
}

// send has the other server send a transaction.
func (w *eduWorld) send(txn string, pdus, edus []jsontext.Value) (transactionAnswer, error) {
	return w.sendTransaction(w.t.Context(), httpx.Caller{Server: eduOrigin}, sendTransactionRequest{Txn: txn, PDUs: pdus, EDUs: edus})
}

const (
	roomKey    = `{"edu_type":"m.direct_to_device","content":{"sender":"@bob:hs1.example","type":"m.room_key","message_id":"k","messages":{"@alice:localhost":{"A":{"k":1}}}}}`
	newDevice  = `{"edu_type":"m.device_list_update","content":{"user_id":"@bob:hs1.example","device_id":"D","stream_id":1}}`
	newSigning = `{"edu_type":"m.signing_key_update","content":{"user_id":"@bob:hs1.example"}}`
	typing     = `{"edu_type":"m.typing","content":{"room_id":"ROOM","user_id":"@bob:hs1.example","typing":true}}`
)

// Nobody sends a room key twice that the other server said to have, nor tells twice of new keys.
// While they cannot be stored here, a server must hear that its transaction failed.
// spec: server-server-api#transactions
func TestWhatCannotBeStoredNowComesAgain(t *testing.T) {
	w, operate := newOperatedEDUWorld(t)
	before := w.now()
	everybody := func() []id.User { return w.changed(before) }
	for i, c := range []struct {
		edu     string
		arrived func() bool
	}{
		{roomKey, func() bool { return len(w.waiting()) == 1 }},
		{newDevice, func() bool { return slices.Equal(everybody(), []id.User{eduBob}) }},
		{newSigning, func() bool { return slices.Equal(everybody(), []id.User{eduBob}) }},
	} {
		txn := fmt.Sprint("txn", i)
		others := jsontext.Value(strings.ReplaceAll(typing, "ROOM", string(w.room)))
		pdu := jsontext.Value(fmt.Sprintf(`{"room_id":%q,"type":"m.nothing"}`, w.room))
		for _, pdus := range [][]jsontext.Value{nil, {pdu}} {
			before = w.now()
			operate(`ALTER TABLE stream_position RENAME TO lost`) // nothing can be written
			if _, err := w.send(txn, pdus, []jsontext.Value{jsontext.Value(c.edu), others}); err == nil {
				t.Errorf("%s with %d PDUs: the server hears that it arrived", c.edu, len(pdus))
			}
			if users, _ := w.Typing.In(w.roomNID); !slices.Equal(users, []id.User{eduBob}) {
				t.Errorf("%s: what came with it is not taken: %v type", c.edu, users)
			}
			w.must(w.Typing.Receive(t.Context(), eduBob, w.room, false))
			operate(`ALTER TABLE lost RENAME TO stream_position`)
			for range 2 {
				_, err := w.send(txn, pdus, []jsontext.Value{jsontext.Value(c.edu)})
				w.must(err)
			}
			if !c.arrived() {
				t.Errorf("%s did not arrive when it was sent again", c.edu)
			}
		}
	}
}

// A transaction that is repeated for its EDUs does not have its events judged again.
func TestEventsOfARepeatedTransactionAreJudgedOnce(t *testing.T) {
	turns := NewTransactions()
	judged := 0
	attempt := func(fails, stored bool) error {
		_, err := turns.once(t.Context(), transaction{eduOrigin, "1"}, true, func(o *outcome) error {
			if !o.judged {
				judged++
				o.answer.PDUs = map[id.Event]pduResult{"$a": {Error: fmt.Sprint(judged)}}
				o.judged = stored
			}
			if fails {
				return errors.New("the disk is full")
			}
			return nil
		})
		return err
	}
	for _, c := range []struct {
		fails, stored bool
		judged        int
	}{{true, false, 1}, {true, true, 2}, {true, true, 2}, {false, true, 2}, {true, true, 2}} {
		err := attempt(c.fails, c.stored)
		if judged != c.judged {
			t.Errorf("%+v: events were judged %d times (%v)", c, judged, err)
		}
	}
	answer, err := turns.once(t.Context(), transaction{eduOrigin, "1"}, true, nil)
	if err != nil || answer.PDUs["$a"].Error != "2" {
		t.Errorf("%v, %v", answer, err)
	}
}

// What the database will never take must not hold up all that its server has to tell.
func TestWhatCanNeverBeStoredIsPassedOver(t *testing.T) {
	w, operate := newOperatedEDUWorld(t)
	operate(`CREATE TRIGGER poison BEFORE INSERT ON to_device_messages WHEN instr(new.event, 'poison') > 0
		BEGIN SELECT RAISE(ABORT, 'not in this table'); END`)
	_, err := w.send("1", nil, []jsontext.Value{jsontext.Value(strings.ReplaceAll(strings.ReplaceAll(roomKey, "m.room_key", "m.poison"), `"k"`, `"p"`)), jsontext.Value(roomKey)})
	w.must(err)
	if got := w.waiting(); len(got) != 1 || !strings.Contains(got[0], "m.room_key") {
		t.Errorf("%v wait", got)
	}
}

func FuzzReceiveEDU(f *testing.F) {
	for typ := range edus {
		f.Add(typ, `{"user_id":"@bob:hs1.example","room_id":"!a:localhost","typing":true,"device_id":"D","stream_id":1,"push":[{"user_id":"@bob:hs1.example","presence":"online"}]}`)
	}
	f.Add("m.receipt", `{"!a:localhost":{"m.read":{"@bob:hs1.example":{"event_ids":["$a"],"data":{"ts":1}}}}}`)
	f.Add("m.direct_to_device", `{"sender":"@bob:hs1.example","type":"m.x","message_id":"1","messages":{"@alice:localhost":{"*":{}}}}`)
	w := newEDUWorld(f)
	f.Fuzz(func(t *testing.T, typ, content string) {
		if jsontext.Value(content).IsValid() {
			w.t = t
			w.receive(typ, content) // must not panic
		}
	})
}
