package room_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

const (
	alice = id.User("@alice:localhost")
	bob   = id.User("@bob:localhost")
)

func newEngine(t testing.TB, s *store.Store) *room.Engine {
	t.Helper()
	t.Cleanup(func() { storetest.Check(t, s) })
	return plainEngine(s)
}

func plainEngine(s *store.Store) *room.Engine {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	return room.New(s, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: key,
		Profile: func(context.Context, id.User) (room.Profile, error) {
			return room.Profile{DisplayName: "Somebody"}, nil
		},
	})
}

func message(sender id.User, txn string) room.Proposal {
	p := room.Proposal{Sender: sender, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"hello"}`)}
	if txn != "" {
		p.Txn = &room.Txn{Device: "DEV", ID: txn, Endpoint: "send m.room.message"}
	}
	return p
}

func timeline(t *testing.T, s *store.Store, e *room.Engine, name id.Room) (all []*room.Event) {
	t.Helper()
	err := s.View(t.Context(), func(tx *store.Tx) error {
		nid, _, err := tx.Rooms.Find(name)
		if err != nil {
			return err
		}
		places, err := tx.Events.TimelineUp(nid, 0, 1<<60, 1<<20)
		if err != nil {
			return err
		}
		var nids []store.EventNID
		for _, p := range places {
			nids = append(nids, p.NID)
		}
		all, err = e.Events(tx, nids)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// What no event may be called is refused before anything of it is kept: names stay for ever, and
// PostgreSQL has none that are very long.
func TestNamesThatAreTooLongAreNotKept(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		e := newEngine(t, s)
		name, err := e.Create(t.Context(), room.Creation{Creator: alice})
		if err != nil {
			t.Fatal(err)
		}
		long := strings.Repeat("x", 256)
		for _, sender := range []id.User{alice, bob} {
			for typ, key := range map[string]*string{long: nil, "m.x": &long} {
				_, err := e.Send(t.Context(), name, room.Proposal{Sender: sender, Type: typ, StateKey: key, Content: jsontext.Value("{}")})
				wantCode(t, err, "M_TOO_LARGE")
			}
		}
		_, err = e.Send(t.Context(), name, message(alice, long))
		wantCode(t, err, "M_INVALID_PARAM")
		if err := s.View(t.Context(), func(tx *store.Tx) error {
			_, isType, err := tx.IDs.FindType(long)
			_, isKey, err2 := tx.IDs.FindStateKey(event.StateTuple{Type: "m.x", Key: long})
			if isType || isKey {
				t.Error("they are kept")
			}
			return errors.Join(err, err2)
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestCreateSendAndReadBackInEveryVersion(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		e := newEngine(t, s)
		for _, v := range roomversion.All() {
			t.Run("version "+v.ID, func(t *testing.T) {
				name, err := e.Create(t.Context(), room.Creation{Creator: alice, Version: v.ID, Name: "A room", Topic: "Things", Invite: []id.User{bob}})
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Join(t.Context(), room.Change{Room: name, Sender: bob}); err != nil {
					t.Fatal(err)
				}
				sent, err := e.Send(t.Context(), name, message(bob, ""))
				if err != nil {
					t.Fatal(err)
				}
				fresh := newEngine(t, s) // as after a restart
				all := timeline(t, s, fresh, name)
				last := all[len(all)-1]
				if last.ID != sent || last.PDU.Sender != bob {
					t.Errorf("the timeline ends in %s, want %s", last.ID, sent)
				}
				if all[0].PDU.Type != event.TypeCreate || all[1].PDU.Type != event.TypeMember || all[2].PDU.Type != event.TypePowerLevels {
					t.Errorf("the room begins with %s, %s, %s", all[0].PDU.Type, all[1].PDU.Type, all[2].PDU.Type)
				}
				for i, ev := range all {
					again, err := event.Parse(v, ev.PDU.JSON)
					if err != nil || again.ID != ev.ID || !again.CheckContentHash() {
						t.Errorf("event %d does not stand up to a check: %v", i, err)
					}
				}
				h, ok, err := fresh.Head(t.Context(), name)
				if err != nil || !ok || h.Joined != 2 || h.Invited != 0 || len(h.Locals) != 2 {
					t.Errorf("head: %+v %v %v", h, ok, err)
				}
			})
		}
	})
}

func TestNobodyCreatesARoomAgain(t *testing.T) {
	s := storetest.Open(t, nil)
	e := newEngine(t, s)
	for _, v := range roomversion.All() {
		t.Run("version "+v.ID, func(t *testing.T) {
			name, err := e.Create(t.Context(), room.Creation{Creator: alice, Version: v.ID})
			if err != nil {
				t.Fatal(err)
			}
			empty := ""
			for _, key := range []*string{nil, &empty} {
				_, err := e.Send(t.Context(), name, room.Proposal{Sender: alice, Type: event.TypeCreate, StateKey: key, Content: jsontext.Value(`{"room_version":"1"}`)})
				if refusal, ok := errors.AsType[*errcode.Error](err); !ok || refusal.Code != "M_INVALID_PARAM" {
					t.Errorf("state %v: %v", key != nil, err)
				}
			}
		})
	}
}

func TestEventsInMemoryKnowTheirPositions(t *testing.T) {
	s := storetest.Open(t, nil)
	e := newEngine(t, s)
	name, err := e.Create(t.Context(), room.Creation{Creator: alice})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Send(t.Context(), name, message(alice, "")); err != nil {
		t.Fatal(err)
	}
	fresh := timeline(t, s, newEngine(t, s), name)
	for i, ev := range timeline(t, s, e, name) {
		if ev.Position == 0 || ev.Position != fresh[i].Position || ev.Room != fresh[i].Room {
			t.Errorf("event %d is at position %d of room %d in memory, %d of %d in the store", i, ev.Position, ev.Room, fresh[i].Position, fresh[i].Room)
		}
	}
}

func TestOneTransactionMakesOneEvent(t *testing.T) {
	s := storetest.Open(t, nil)
	e := newEngine(t, s)
	name, err := e.Create(t.Context(), room.Creation{Creator: alice})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	ids := make([]id.Event, 20)
	for i := range ids {
		wg.Go(func() {
			var err error
			if ids[i], err = e.Send(t.Context(), name, message(alice, "same")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, got := range ids {
		if got != ids[0] {
			t.Fatalf("one transaction made %s and %s", ids[0], got)
		}
	}
	other, err := e.Send(t.Context(), name, message(alice, "other"))
	if err != nil || other == ids[0] {
		t.Errorf("another transaction: %s, %v", other, err)
	}
	again, err := newEngine(t, s).Send(t.Context(), name, message(alice, "same"))
	if err != nil || again != ids[0] {
		t.Errorf("after a restart: %s, %v; want %s", again, err, ids[0])
	}
}

func TestConcurrentSendsFormOneChain(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		// Two engines on one database stand for two nodes: the check of the head keeps them apart.
		engines := []*room.Engine{newEngine(t, s), newEngine(t, s)}
		name, err := engines[0].Create(t.Context(), room.Creation{Creator: alice})
		if err != nil {
			t.Fatal(err)
		}
		const each = 10
		var wg sync.WaitGroup
		for i, e := range engines {
			wg.Go(func() {
				for n := range each {
					for { // a node that lost the race too often says so, and the client tries again
						_, err := e.Send(t.Context(), name, message(alice, fmt.Sprintf("%d-%d", i, n)))
						if err == nil {
							break
						}
						if !errors.Is(err, store.ErrStaleHead) {
							t.Error(err)
							return
						}
					}
				}
			})
		}
		wg.Wait()
		all := timeline(t, s, newEngine(t, s), name)
		messages := 0
		for i, ev := range all {
			if ev.PDU.Type == "m.room.message" {
				messages++
			}
			if i > 0 && (len(ev.PDU.PrevEvents) != 1 || ev.PDU.PrevEvents[0] != all[i-1].ID) {
				t.Errorf("event %d follows %v, want the event before it", i, ev.PDU.PrevEvents)
			}
		}
		if messages != 2*each {
			t.Errorf("%d messages, want %d", messages, 2*each)
		}
	})
}

func TestMembershipRules(t *testing.T) {
	e := newEngine(t, storetest.Open(t, nil))
	ctx := t.Context()
	name, err := e.Create(ctx, room.Creation{Creator: alice})
	if err != nil {
		t.Fatal(err)
	}
	change := func(sender, target id.User) room.Change {
		return room.Change{Room: name, Sender: sender, Target: target}
	}
	steps := []struct {
		what    string
		do      func(context.Context, room.Change) error
		change  room.Change
		allowed bool
	}{
		{"a stranger joins a private room", e.Join, change(bob, ""), false},
		{"a stranger invites himself", e.Invite, change(bob, bob), false},
		{"kick of somebody who is not there", e.Kick, change(alice, bob), false},
		{"invite", e.Invite, change(alice, bob), true},
		{"join by invite", e.Join, change(bob, ""), true},
		{"join again", e.Join, change(bob, ""), true},
		{"a member kicks the creator", e.Kick, change(bob, alice), false},
		{"ban", e.Ban, change(alice, bob), true},
		{"join while banned", e.Join, change(bob, ""), false},
		{"kick of somebody banned", e.Kick, change(alice, bob), false},
		{"unban", e.Unban, change(alice, bob), true},
		{"unban of somebody who is not banned", e.Unban, change(alice, bob), false},
		{"leave once more", e.Leave, change(bob, ""), true},
		{"leave of the creator", e.Leave, change(alice, ""), true},
	}
	for _, s := range steps {
		err := s.do(ctx, s.change)
		if s.allowed != (err == nil) {
			t.Errorf("%s: %v", s.what, err)
		}
		var denied *authrules.Denied
		var code *errcode.Error
		if err != nil && !errors.As(err, &denied) && !(errors.As(err, &code) && code.Status == 403) {
			t.Errorf("%s: the refusal is %v, want a 403", s.what, err)
		}
	}
}

func TestRedactionEmptiesTheBody(t *testing.T) {
	storetest.Each(t, func(t *testing.T, s *store.Store) {
		e := newEngine(t, s)
		ctx := t.Context()
		name, err := e.Create(ctx, room.Creation{Creator: alice, Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Join(ctx, room.Change{Room: name, Sender: bob}); err != nil {
			t.Fatal(err)
		}
		mine, err := e.Send(ctx, name, message(alice, ""))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.Redact(ctx, name, room.Proposal{Sender: bob, Redacts: mine, Content: jsontext.Value(`{}`)}); err == nil {
			t.Error("bob may redact what alice said")
		}
		if _, err := e.Redact(ctx, name, room.Proposal{Sender: alice, Redacts: mine, Content: jsontext.Value(`{"reason":"typo"}`)}); err != nil {
			t.Fatal(err)
		}
		for _, engine := range []*room.Engine{e, newEngine(t, s)} {
			for _, ev := range timeline(t, s, engine, name) {
				if ev.ID == mine && (string(ev.PDU.Content) != "{}" || ev.RedactedBy == 0) {
					t.Errorf("after redaction: %s, by %d", ev.PDU.Content, ev.RedactedBy)
				}
			}
		}
	})
}

func TestUpgradeCarriesTheRoomOver(t *testing.T) {
	s := storetest.Open(t, nil)
	e := newEngine(t, s)
	ctx := t.Context()
	old, err := e.Create(ctx, room.Creation{Creator: alice, Version: "10", Preset: "public_chat", Public: true, Alias: "#a:localhost", Name: "Old"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Ban(ctx, room.Change{Room: old, Sender: alice, Target: bob}); err != nil {
		t.Fatal(err)
	}
	fresh, err := e.Upgrade(ctx, old, alice, "12", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	state := map[event.StateTuple]string{}
	for _, ev := range timeline(t, s, e, fresh) {
		if ev.IsState {
			state[ev.PDU.Tuple()] = string(ev.PDU.Content)
		}
	}
	if got := state[event.StateTuple{Type: event.TypeName}]; got != `{"name":"Old"}` {
		t.Errorf("name: %s", got)
	}
	if got := state[event.StateTuple{Type: event.TypeMember, Key: string(bob)}]; got == "" {
		t.Error("bob's ban was not carried over")
	}
	if err := s.View(ctx, func(tx *store.Tx) error {
		a, ok, err := tx.Aliases.Get("#a:localhost")
		if a.Room != fresh {
			t.Errorf("the alias names %s (%v), want %s", a.Room, ok, fresh)
		}
		if err != nil {
			return err
		}
		for name, listed := range map[id.Room]bool{old: false, fresh: true} {
			row, _, err := tx.Rooms.Get(name)
			if err != nil || row.Public != listed {
				t.Errorf("%s is listed: %v (%v), want %v", name, row.Public, err, listed)
			}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkSend(b *testing.B) {
	s := storetest.Open(b, nil)
	e := newEngine(b, s)
	name, err := e.Create(b.Context(), room.Creation{Creator: alice})
	if err != nil {
		b.Fatal(err)
	}
	b.SetParallelism(16)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := e.Send(context.Background(), name, message(alice, "")); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func TestMembershipHasNoOtherContentThanWasGiven(t *testing.T) {
	s := storetest.Open(t, nil)
	e := newEngine(t, s)
	name, err := e.Create(t.Context(), room.Creation{Creator: alice, Preset: "public_chat"})
	if err != nil {
		t.Fatal(err)
	}
	for content, want := range map[string]string{
		"":                          `{"displayname":"Somebody","membership":"join"}`,
		`{"org.example":1,"a":"b"}`: `{"a":"b","displayname":"Somebody","membership":"join","org.example":1}`,
	} {
		if err := e.Join(t.Context(), room.Change{Room: name, Sender: bob, Content: jsontext.Value(content)}); err != nil {
			t.Fatal(err)
		}
		all := timeline(t, s, e, name)
		if got := string(all[len(all)-1].PDU.Content); got != want {
			t.Errorf("content %s, want %s", got, want)
		}
		if err := e.Leave(t.Context(), room.Change{Room: name, Sender: bob}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRoomsMadeAtOnceAreDifferent(t *testing.T) {
	e := newEngine(t, storetest.Open(t, nil))
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := e.Create(t.Context(), room.Creation{Creator: alice}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A moment before somebody asked for a room it did not exist, also when both are counted
// in milliseconds.
func TestARoomIsYoungerThanTheWishForIt(t *testing.T) {
	s := storetest.Open(t, nil)
	e := newEngine(t, s)
	for range 5 {
		before := time.Now().UnixMilli()
		name, err := e.Create(t.Context(), room.Creation{Creator: alice, Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		last := before
		for _, ev := range timeline(t, s, e, name) {
			if ev.TS <= before || ev.TS < last {
				t.Errorf("%s has the time %d, after %d, in a room that was asked for at %d", ev.PDU.Type, ev.TS, last, before)
			}
			last = ev.TS
		}
	}
}

// Events are timed in milliseconds. Who looks for what came after a room was made, by his own clock, must
// not find the room's beginning; nor must who looks for what was there before.
func TestARoomIsMadeBetweenTheQuestionAndTheAnswer(t *testing.T) {
	s := storetest.Open(t, nil)
	e := plainEngine(s)
	for range 20 {
		before := time.Now().UnixMilli()
		name, err := e.Create(t.Context(), room.Creation{Creator: alice, Preset: "public_chat"})
		if err != nil {
			t.Fatal(err)
		}
		after := time.Now().UnixMilli()
		for _, ev := range timeline(t, s, e, name) {
			if ev.TS <= before || ev.TS >= after {
				t.Errorf("%s is of %d, asked for at %d, there at %d", ev.PDU.Type, ev.TS, before, after)
			}
		}
	}
}
