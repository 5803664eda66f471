package push_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/push"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

const (
	alice   = id.User("@alice:localhost")
	bob     = id.User("@bob:localhost")
	charlie = id.User("@charlie:localhost")
)

// world is a server with one room, whose members are alice and bob.
type world struct {
	t     testing.TB
	store *store.Store
	rooms *room.Engine
	push  *push.Service
	room  id.Room
}

func newWorld(t testing.TB, s *store.Store, o push.Options) *world {
	t.Helper()
	w := &world{t: t, store: s}
	w.rooms = room.New(s, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)),
		Profile: func(_ context.Context, u id.User) (room.Profile, error) {
			return room.Profile{DisplayName: u.Localpart() + " the Great"}, nil
		},
	})
	w.push = push.New(s, w.rooms, o)
	w.room = w.create(alice, room.Creation{Preset: "public_chat"})
	w.join(bob, w.room)
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create(by id.User, c room.Creation) id.Room {
	w.t.Helper()
	c.Creator = by
	name, err := w.rooms.Create(w.t.Context(), c)
	w.must(err)
	return name
}

func (w *world) join(u id.User, name id.Room) {
	w.t.Helper()
	w.must(w.rooms.Join(w.t.Context(), room.Change{Room: name, Sender: u}))
}

func (w *world) send(by id.User, typ, content string) id.Event {
	w.t.Helper()
	e, err := w.rooms.Send(w.t.Context(), w.room, room.Proposal{Sender: by, Type: typ, Content: jsontext.Value(content)})
	w.must(err)
	return e
}

func (w *world) say(by id.User, body string) id.Event {
	w.t.Helper()
	return w.send(by, "m.room.message", fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))
}

func (w *world) relate(by id.User, typ, body, relType string, to id.Event) id.Event {
	w.t.Helper()
	return w.send(by, typ, fmt.Sprintf(`{"msgtype":"m.text","body":%q,"m.relates_to":{"rel_type":%q,"event_id":%q}}`, body, relType, to))
}

func (w *world) react(by id.User, key string, to id.Event) id.Event {
	w.t.Helper()
	return w.send(by, "m.reaction", fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":%q}}`, to, key))
}

// receipt notes that a user has read up to an event.
func (w *world) receipt(u id.User, private bool, thread string, e id.Event) {
	w.t.Helper()
	w.must(w.store.Update(w.t.Context(), func(tx *store.Tx) error {
		row, ok, err := tx.Events.GetID(e)
		if err != nil || !ok {
			return errors.Join(err, fmt.Errorf("event %s: %v", e, ok))
		}
		user, err := tx.IDs.User(u)
		if err != nil {
			return err
		}
		return tx.Receipts.Set(store.Receipt{
			Room: row.Room, User: user, Private: private, Thread: thread, Event: e, EventPosition: row.Position, Position: tx.NextPosition(),
		})
	}))
}

func (w *world) unread(p *push.Service, u id.User) (c push.Counts) {
	w.t.Helper()
	w.must(w.store.View(w.t.Context(), func(tx *store.Tx) error {
		name, _, err := tx.Rooms.Get(w.room)
		if err != nil {
			return err
		}
		user, _, err := tx.IDs.FindUser(u)
		if err != nil {
			return err
		}
		c, err = p.Unread(w.t.Context(), tx, user, name.NID, name.LastPosition)
		return err
	}))
	return c
}

// wantUnread checks bob's counts, as they go on and counted anew.
func (w *world) wantUnread(when string, want push.Counts) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.unread(w.push, bob)); diff != "" {
		w.t.Errorf("%s: %s", when, diff)
	}
	if diff := cmp.Diff(want, w.unread(push.New(w.store, w.rooms, legacy), bob)); diff != "" {
		w.t.Errorf("%s, counted anew: %s", when, diff)
	}
}

var legacy = push.Options{Predefined: pushrules.Predefined{LegacyMentions: true}}

func TestThreadsAreCountedAndReadByThemselves(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		w := newWorld(t, s, legacy)
		threads := func(root id.Event, notify, highlight int) map[id.Event]push.Count {
			return map[id.Event]push.Count{root: {Notify: notify, Highlight: highlight}}
		}
		a := w.say(alice, "Hello world!")
		b := w.relate(alice, "m.room.message", "Start thread!", "m.thread", a)
		w.wantUnread("while the thread begins", push.Counts{Main: push.Count{Notify: 1}, Threads: threads(a, 1, 0)})
		w.relate(alice, "m.room.message", "Thread response "+string(bob)+"!", "m.thread", a)
		d := w.say(alice, "Hello "+string(bob)+"!")
		w.relate(alice, "m.room.message", "End thread", "m.thread", a)
		f := w.relate(alice, "m.room.message", "Reference!", "m.reference", a)
		g := w.relate(alice, "m.room.reaction", "", "m.annotation", f)

		w.wantUnread("before reading", push.Counts{Main: push.Count{Notify: 3, Highlight: 1}, Threads: threads(a, 3, 1)})
		if total := w.unread(w.push, bob).Total(); total != (push.Count{Notify: 6, Highlight: 2}) {
			t.Errorf("total is %+v", total)
		}
		w.receipt(bob, false, "main", a)
		w.wantUnread("root read in the main timeline", push.Counts{Main: push.Count{Notify: 2, Highlight: 1}, Threads: threads(a, 3, 1)})
		w.receipt(bob, true, string(a), b)
		w.wantUnread("first of the thread read", push.Counts{Main: push.Count{Notify: 2, Highlight: 1}, Threads: threads(a, 2, 1)})
		w.receipt(bob, false, "", d)
		w.wantUnread("all up to the mention read", push.Counts{Main: push.Count{Notify: 1}, Threads: threads(a, 1, 0)})
		w.receipt(bob, false, string(a), g)
		w.wantUnread("whole thread read", push.Counts{Main: push.Count{Notify: 1}})
		w.receipt(bob, true, "main", g)
		w.wantUnread("everything read", push.Counts{})
		if c := w.unread(w.push, alice); c.Total() != (push.Count{}) {
			t.Errorf("alice is notified of what she said: %+v", c)
		}
	})
}

func TestIndirectRelationsBelongToTheThread(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), legacy)
	root := w.say(alice, "root")
	first := w.relate(alice, "m.room.message", "1", "m.thread", root)
	hop := first
	for range 3 {
		hop = w.relate(alice, "m.room.message", "on", "m.reference", hop)
	}
	w.wantUnread("three hops away", push.Counts{Main: push.Count{Notify: 1}, Threads: map[id.Event]push.Count{root: {Notify: 4}}})
	w.relate(alice, "m.room.message", "too far", "m.reference", hop)
	w.wantUnread("four hops away", push.Counts{Main: push.Count{Notify: 2}, Threads: map[id.Event]push.Count{root: {Notify: 4}}})
}

func TestWhatDoesNotCount(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), legacy)
	w.join(charlie, w.room)
	one := func(n int) push.Counts { return push.Counts{Main: push.Count{Notify: n}} }
	w.wantUnread("a new member", one(0))

	gone := w.say(alice, "to be redacted")
	w.say(charlie, "stays")
	w.wantUnread("before the redaction", one(2))
	_, err := w.rooms.Redact(t.Context(), w.room, room.Proposal{Sender: alice, Redacts: gone, Content: jsontext.Value(`{}`)})
	w.must(err)
	w.wantUnread("after the redaction", one(1))

	w.say(bob, "my own message shows that I have read")
	w.wantUnread("after an own message", one(0))

	w.must(w.store.Update(t.Context(), func(tx *store.Tx) error {
		return tx.AccountData.Set(bob, "m.ignored_user_list", jsontext.Value(`{"ignored_users":{"@charlie:localhost":{}}}`))
	}))
	w.say(charlie, "ignored")
	w.say(alice, "not ignored")
	w.wantUnread("with charlie ignored", one(1))

	w.must(w.rooms.Leave(t.Context(), room.Change{Room: w.room, Sender: bob}))
	w.wantUnread("having left", one(0))
	w.say(alice, "bob is not here")
	w.join(bob, w.room)
	w.wantUnread("having come back", one(0))
	w.say(alice, "welcome")
	w.wantUnread("having come back, at the next message", one(1))
}

func TestCountsAtAnEarlierPosition(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), legacy)
	first := w.say(alice, "one")
	w.say(alice, "two")
	w.wantUnread("now", push.Counts{Main: push.Count{Notify: 2}})
	w.must(w.store.View(t.Context(), func(tx *store.Tx) error {
		row, _, err := tx.Events.GetID(first)
		if err != nil {
			return err
		}
		user, _, err := tx.IDs.FindUser(bob)
		if err != nil {
			return err
		}
		c, err := w.push.Unread(t.Context(), tx, user, row.Room, row.Position)
		if c.Main.Notify != 1 {
			t.Errorf("at the first message: %+v", c)
		}
		return err
	}))
}

// A tally that was stored gives the same counts after a restart.
func TestTallySurvivesRestart(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), legacy)
	root := w.say(alice, "root")
	for i := range 320 {
		if i%3 == 0 {
			w.relate(alice, "m.room.message", "bob", "m.thread", root)
		} else {
			w.say(alice, "hello")
		}
	}
	want := push.Counts{Main: push.Count{Notify: 214}, Threads: map[id.Event]push.Count{root: {Notify: 107, Highlight: 107}}}
	w.wantUnread("before", want)
	w.must(w.store.Update(t.Context(), func(*store.Tx) error { return nil })) // what was queued is stored now
	w.must(w.store.View(t.Context(), func(tx *store.Tx) error {
		name, _, err := tx.Rooms.Get(w.room)
		if err != nil {
			return err
		}
		user, _, err := tx.IDs.FindUser(bob)
		if err != nil {
			return err
		}
		if stored, ok, err := tx.Push.Tally(user, name.NID); !ok || err != nil || len(stored) > 3*322 {
			t.Errorf("stored tally has %d bytes, %v, %v", len(stored), ok, err)
		}
		return nil
	}))
	w.say(alice, "after")
	want.Main.Notify++
	w.wantUnread("after", want)
}

func TestEditedRulesApplyAtOnceAndAreTold(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), push.Options{})
	ctx := t.Context()
	data := func(after int64) (rules pushrules.Rulesets, changed bool) {
		t.Helper()
		w.must(w.store.View(ctx, func(tx *store.Tx) error {
			content, ok, err := w.push.AccountData(tx, bob, after)
			if changed = ok; ok {
				w.must(json.Unmarshal(content, &rules))
			}
			return err
		}))
		return rules, changed
	}
	position := func() (p int64) {
		w.must(w.store.Update(ctx, func(tx *store.Tx) error { p = tx.Position(); return nil }))
		return p
	}
	before := position()
	if _, changed := data(before); changed {
		t.Error("rules changed that nobody touched")
	}
	if rules, changed := data(0); !changed || rules.Global.Find(pushrules.Override, ".m.rule.master") == nil {
		t.Error("an initial sync has no rules")
	}
	w.say(alice, "hello")
	if c := w.unread(w.push, bob); c.Main.Notify != 1 {
		t.Errorf("unread: %+v", c)
	}
	w.must(w.push.PutRule(ctx, bob, pushrules.Room, pushrules.Rule{RuleID: string(w.room), Actions: []jsontext.Value{}}, "", ""))
	w.say(alice, "hello?")
	if c := w.unread(w.push, bob); c.Main.Notify != 1 {
		t.Errorf("a muted room notifies: %+v", c)
	}
	if rules, changed := data(before); !changed || len(rules.Global.Room) != 1 {
		t.Errorf("the change is not in sync: %+v", rules.Global.Room)
	}
	w.must(w.push.SetRuleEnabled(ctx, bob, pushrules.Room, string(w.room), false))
	w.say(alice, "hello!")
	if c := w.unread(w.push, bob); c.Main.Notify != 2 {
		t.Errorf("a disabled rule mutes: %+v", c)
	}
	w.must(w.push.SetRuleActions(ctx, bob, pushrules.Underride, ".m.rule.room_one_to_one", []jsontext.Value{}))
	w.must(w.push.DeleteRule(ctx, bob, pushrules.Room, string(w.room)))
	fresh := push.New(w.store, w.rooms, push.Options{}) // as after a restart
	set, err := fresh.Ruleset(ctx, bob)
	w.must(err)
	if rule, err := fresh.Rule(ctx, bob, pushrules.Underride, ".m.rule.room_one_to_one"); err != nil || len(rule.Actions) != 0 || len(set.Room) != 0 {
		t.Errorf("stored rules: %+v, %v", rule, err)
	}
	if _, err := fresh.Rule(ctx, alice, pushrules.Room, string(w.room)); code(err) != "M_NOT_FOUND" {
		t.Errorf("alice has a rule of bob's: %v", err)
	}
}

func code(err error) string {
	var e *errcode.Error
	errors.As(err, &e)
	if e == nil {
		return ""
	}
	return e.Code
}

func TestRulesFollowAnUpgradedRoom(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), push.Options{})
	ctx := t.Context()
	follower := push.NewUpgrades(w.push)
	follow := func() {
		t.Helper()
		var now int64
		w.must(w.store.Update(ctx, func(tx *store.Tx) error { now = tx.Position(); return nil }))
		w.must(follower.Follow(ctx, now))
	}
	follow()
	for _, u := range []id.User{alice, bob, charlie} {
		w.must(w.push.PutRule(ctx, u, pushrules.Room, pushrules.Rule{RuleID: string(w.room), Actions: []jsontext.Value{jsontext.Value(`"dont_notify"`)}}, "", ""))
	}
	has := func(u id.User, name id.Room) bool {
		rule, err := w.push.Rule(ctx, u, pushrules.Room, string(name))
		return err == nil && string(rule.Actions[0]) == `"dont_notify"`
	}

	// By our own API, which copies at once, for all members.
	fresh, err := w.rooms.Upgrade(ctx, w.room, alice, "11", nil, w.push.CopyRoom)
	w.must(err)
	if !has(alice, fresh) || !has(bob, fresh) || !has(bob, w.room) {
		t.Error("rules were not copied at the upgrade")
	}

	// By hand, or by another server: when a member of the old room joins.
	manual := w.create(alice, room.Creation{Preset: "public_chat", Predecessor: w.room})
	w.join(bob, manual)
	w.join(charlie, manual)
	follow()
	if !has(alice, manual) || !has(bob, manual) {
		t.Error("rules were not copied at the join")
	}
	if has(charlie, manual) {
		t.Error("rules were copied to one who was not in the old room")
	}
	// A restart finds its place again.
	follower = push.NewUpgrades(w.push)
	w.must(w.push.DeleteRule(ctx, bob, pushrules.Room, string(manual)))
	follow()
	if has(bob, manual) {
		t.Error("joins were looked at twice")
	}
}

func TestPushers(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), push.Options{})
	ctx := t.Context()
	text := "x"
	base := push.PusherChange{
		PushKey: "key", AppID: "app", Kind: jsontext.Value(`"http"`), AppDisplayName: &text, DeviceDisplayName: &text, Lang: &text,
		Data: jsontext.Value(`{"url":"https://push.example.org/_matrix/push/v1/notify","format":"event_id_only","x":1}`),
	}
	set := func(u id.User, change func(*push.PusherChange)) error {
		c := base
		change(&c)
		return w.push.SetPusher(ctx, u, "DEV", 1, c)
	}
	for name, test := range map[string]struct {
		change func(*push.PusherChange)
		code   string
	}{
		"no key":         {func(c *push.PusherChange) { c.PushKey = "" }, "M_MISSING_PARAM"},
		"no kind":        {func(c *push.PusherChange) { c.Kind = nil }, "M_MISSING_PARAM"},
		"no lang":        {func(c *push.PusherChange) { c.Lang = nil }, "M_MISSING_PARAM"},
		"no data":        {func(c *push.PusherChange) { c.Data = nil }, "M_MISSING_PARAM"},
		"no url":         {func(c *push.PusherChange) { c.Data = jsontext.Value(`{}`) }, "M_MISSING_PARAM"},
		"http":           {func(c *push.PusherChange) { c.Data = jsontext.Value(`{"url":"http://a/_matrix/push/v1/notify"}`) }, "M_INVALID_PARAM"},
		"other path":     {func(c *push.PusherChange) { c.Data = jsontext.Value(`{"url":"https://a/notify"}`) }, "M_INVALID_PARAM"},
		"url a number":   {func(c *push.PusherChange) { c.Data = jsontext.Value(`{"url":1}`) }, "M_BAD_JSON"},
		"data a list":    {func(c *push.PusherChange) { c.Data = jsontext.Value(`[]`) }, "M_BAD_JSON"},
		"kind a number":  {func(c *push.PusherChange) { c.Kind = jsontext.Value(`1`) }, "M_BAD_JSON"},
		"unknown kind":   {func(c *push.PusherChange) { c.Kind = jsontext.Value(`"pigeon"`) }, "M_INVALID_PARAM"},
		"email":          {func(c *push.PusherChange) { c.Kind = jsontext.Value(`"email"`) }, "M_INVALID_PARAM"},
		"long push key":  {func(c *push.PusherChange) { c.PushKey = string(make([]byte, 513)) }, "M_INVALID_PARAM"},
		"long app id":    {func(c *push.PusherChange) { c.AppID = fmt.Sprintf("%065d", 1) }, "M_INVALID_PARAM"},
		"large data":     {func(c *push.PusherChange) { c.Data = jsontext.Value(fmt.Sprintf(`{"url":"%017000d"}`, 1)) }, "M_TOO_LARGE"},
		"NUL in a name":  {func(c *push.PusherChange) { nul := "\x00"; c.Lang = &nul }, "M_INVALID_PARAM"},
		"no kind of app": {func(c *push.PusherChange) { c.AppID = "" }, "M_MISSING_PARAM"},
	} {
		if err := set(bob, test.change); code(err) != test.code {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
	list := func(u id.User) []push.Pusher {
		t.Helper()
		all, err := w.push.Pushers(ctx, u)
		w.must(err)
		return all
	}
	w.must(set(bob, func(c *push.PusherChange) {}))
	want := []push.Pusher{{PushKey: "key", Kind: "http", AppID: "app", AppDisplayName: "x", DeviceDisplayName: "x", Lang: "x", Data: base.Data, Enabled: true, Device: "DEV"}}
	if diff := cmp.Diff(want, list(bob)); diff != "" {
		t.Error(diff)
	}
	w.must(set(alice, func(c *push.PusherChange) { c.Append = true }))
	if len(list(bob)) != 1 || len(list(alice)) != 1 {
		t.Error("append removed the pusher of another user")
	}
	w.must(set(alice, func(c *push.PusherChange) {}))
	if len(list(bob)) != 0 {
		t.Error("the same push key notifies two users")
	}
	w.must(set(alice, func(c *push.PusherChange) {
		*c = push.PusherChange{PushKey: "key", AppID: "app", Kind: jsontext.Value(`null`)}
	}))
	if len(list(alice)) != 0 {
		t.Error("the pusher was not deleted")
	}
}

func TestPushersGoWithTheirDevice(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), push.Options{})
	ctx := t.Context()
	text := "x"
	for i, device := range []id.Device{"A", "B"} {
		w.must(w.push.SetPusher(ctx, bob, device, 1, push.PusherChange{
			PushKey: fmt.Sprint(i), AppID: "app", Kind: jsontext.Value(`"http"`), AppDisplayName: &text, DeviceDisplayName: &text, Lang: &text,
			Data: jsontext.Value(`{"url":"https://push.example.org/_matrix/push/v1/notify"}`),
		}))
	}
	w.must(w.store.Update(ctx, func(tx *store.Tx) error { return w.push.DevicesDeleted(tx, bob, []id.Device{"A"}) }))
	if all, err := w.push.Pushers(ctx, bob); err != nil || len(all) != 1 || all[0].Device != "B" {
		t.Errorf("%+v %v", all, err)
	}
	w.must(w.push.PutRule(ctx, bob, pushrules.Room, pushrules.Rule{RuleID: "!r", Actions: []jsontext.Value{}}, "", ""))
	w.must(w.push.Deactivated(ctx, bob, true))
	all, err := w.push.Pushers(ctx, bob)
	if _, gone := w.push.Rule(ctx, bob, pushrules.Room, "!r"); err != nil || len(all) != 0 || code(gone) != "M_NOT_FOUND" {
		t.Errorf("%+v %v %v", all, err, gone)
	}
}

// A snapshot that is behind the position asked for must not make later events count as counted.
func TestEventsAfterTheSnapshotAreCountedLater(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), legacy)
	w.must(w.store.View(t.Context(), func(tx *store.Tx) error {
		name, _, err := tx.Rooms.Get(w.room)
		if err != nil {
			return err
		}
		user, _, err := tx.IDs.FindUser(bob)
		if err != nil {
			return err
		}
		w.say(alice, "after the snapshot")
		_, err = w.push.Unread(t.Context(), tx, user, name.NID, 1<<40)
		return err
	}))
	w.wantUnread("afterwards", push.Counts{Main: push.Count{Notify: 1}})
}

func TestNotifications(t *testing.T) {
	w := newWorld(t, storetest.Open(t, nil), legacy)
	first := w.room
	a := w.say(alice, "one")
	w.room = w.create(alice, room.Creation{Preset: "public_chat"})
	w.say(alice, "before bob comes")
	w.join(bob, w.room)
	b := w.say(alice, "two, bob")
	w.say(bob, "three")
	w.room = first
	c := w.say(alice, "four, bob")
	w.receipt(bob, false, "", a)

	page := func(r push.NotificationsRequest) (ids []id.Event, next string, all []push.Notification) {
		t.Helper()
		r.User = bob
		all, next, err := w.push.Notifications(t.Context(), r)
		w.must(err)
		for _, n := range all {
			var e struct {
				ID   id.Event `json:"event_id"`
				Room id.Room  `json:"room_id"`
			}
			w.must(json.Unmarshal(n.Event, &e))
			if e.Room != "" {
				t.Error("the event has a room_id")
			}
			ids = append(ids, e.ID)
		}
		return ids, next, all
	}
	ids, next, all := page(push.NotificationsRequest{})
	if diff := cmp.Diff([]id.Event{c, b, a}, ids); diff != "" || next != "" {
		t.Errorf("next %q %s", next, diff)
	}
	if all[0].Read || all[1].Read || !all[2].Read || all[0].Room != first || string(all[0].Actions[0]) != `"notify"` || all[0].TS == 0 {
		t.Errorf("%+v", all)
	}
	limit := 2
	ids, next, _ = page(push.NotificationsRequest{Limit: &limit})
	if diff := cmp.Diff([]id.Event{c, b}, ids); diff != "" || next == "" {
		t.Errorf("next %q %s", next, diff)
	}
	ids, next, _ = page(push.NotificationsRequest{Limit: &limit, From: next})
	if diff := cmp.Diff([]id.Event{a}, ids); diff != "" || next != "" {
		t.Errorf("next %q %s", next, diff)
	}
	ids, _, _ = page(push.NotificationsRequest{OnlyHighlights: true})
	if diff := cmp.Diff([]id.Event{c, b}, ids); diff != "" {
		t.Error(diff)
	}
	bad := 0
	for _, r := range []push.NotificationsRequest{{User: bob, From: "x"}, {User: bob, Limit: &bad}} {
		if _, _, err := w.push.Notifications(t.Context(), r); code(err) != "M_INVALID_PARAM" {
			t.Errorf("%+v: %v", r, err)
		}
	}
}

func BenchmarkUnreadOneNewEvent(b *testing.B) {
	w := newWorld(b, storetest.Open(b, nil), push.Options{})
	for range b.N {
		b.StopTimer()
		w.say(alice, "hello")
		b.StartTimer()
		w.unread(w.push, bob)
	}
}

// In a conversation with threads, counting on gives what counting anew gives.
func TestCountsDoNotDependOnWhenTheyAreAsked(t *testing.T) {
	for seed := range uint64(8) {
		w := newWorld(t, storetest.Open(t, nil), legacy)
		w.join(charlie, w.room)
		r := rand.New(rand.NewPCG(seed, 1))
		said := []id.Event{w.say(alice, "root")}
		roots := []id.Event{said[0], w.say(alice, "another root"), w.say(bob, "a third")}
		said = append(said, roots[1:]...)
		read := map[string]int{} // receipts do not go back
		anything := func() id.Event { return said[r.IntN(len(said))] }
		for step := range 60 {
			by := []id.User{alice, alice, charlie, bob}[r.IntN(4)]
			switch r.IntN(8) {
			case 0, 1:
				said = append(said, w.say(by, []string{"hi", "hi bob"}[r.IntN(2)]))
			case 2, 3, 4:
				said = append(said, w.relate(by, "m.room.message", "in the thread", "m.thread", roots[r.IntN(3)]))
			case 5:
				said = append(said, w.react(by, fmt.Sprint(step), anything()))
			case 6:
				_, err := w.rooms.Redact(t.Context(), w.room, room.Proposal{Sender: alice, Redacts: anything(), Content: jsontext.Value(`{}`)})
				w.must(err)
			case 7:
				thread := []string{"", "main", string(roots[0]), string(roots[1])}[r.IntN(4)]
				read[thread] = max(read[thread], len(said)-1-r.IntN(min(4, len(said))))
				w.receipt(bob, false, thread, said[read[thread]])
			}
			if r.IntN(3) == 0 {
				w.wantUnread(fmt.Sprintf("seed %d, step %d", seed, step), w.unread(w.push, bob))
			}
		}
	}
}
