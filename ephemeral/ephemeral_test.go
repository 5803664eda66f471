package ephemeral_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

const (
	alice   = id.User("@alice:localhost")
	bob     = id.User("@bob:localhost")
	charlie = id.User("@charlie:localhost")
)

// world is a server with a hub and a room engine.
type world struct {
	t     *testing.T
	store *store.Store
	hub   *stream.Hub
	rooms *room.Engine
	sent  int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, hub: stream.NewHub(0)}
	return w.on(storetest.Open(t, w.hub.Publish))
}

func (w *world) on(s *store.Store) *world {
	w.store = s
	w.rooms = room.New(s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32)),
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused demands an error that a client is shown.
func (w *world) refused(err error, status int, code string) {
	w.t.Helper()
	e, ok := errors.AsType[*errcode.Error](err)
	if !ok || e.Status != status || e.Code != code {
		w.t.Errorf("got %v, want %d %s", err, status, code)
	}
}

func (w *world) view(fn func(*store.Tx) error) {
	w.t.Helper()
	w.must(w.store.View(w.t.Context(), fn))
}

func (w *world) nid(u id.User) (nid store.UserNID) {
	w.view(func(tx *store.Tx) (err error) {
		nid, _, err = tx.IDs.FindUser(u)
		return err
	})
	return nid
}

func (w *world) roomNID(r id.Room) (nid store.RoomNID) {
	w.view(func(tx *store.Tx) (err error) {
		nid, _, err = tx.Rooms.Find(r)
		return err
	})
	return nid
}

// share makes a room with members.
func (w *world) share(creator id.User, others ...id.User) id.Room {
	w.t.Helper()
	r, err := w.rooms.Create(w.t.Context(), room.Creation{Creator: creator, Preset: "public_chat"})
	w.must(err)
	for _, u := range others {
		w.must(w.rooms.Join(w.t.Context(), room.Change{Room: r, Sender: u}))
	}
	return r
}

// say sends a message, which may relate to another event.
func (w *world) say(r id.Room, sender id.User, relType string, to id.Event) id.Event {
	w.t.Helper()
	w.sent++
	content := fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, w.sent)
	if relType != "" {
		content = fmt.Sprintf(`{"msgtype":"m.text","body":"%d","m.relates_to":{"rel_type":%q,"event_id":%q}}`, w.sent, relType, to)
	}
	e, err := w.rooms.Send(w.t.Context(), r, room.Proposal{Sender: sender, Type: "m.room.message", Content: jsontext.Value(content)})
	w.must(err)
	return e
}
