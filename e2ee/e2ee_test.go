package e2ee_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/e2ee"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
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

// world is a server with a few users, each with a device named like the user.
type world struct {
	*e2ee.Service
	t     *testing.T
	store *store.Store
	rooms *room.Engine
	heard map[stream.Kind]map[store.UserNID]int64 // the last change told to each user
}

func newWorld(t *testing.T) *world { return newWorldOn(t, nil, nil) }

func newWorldOn(t *testing.T, s *store.Store, remote *e2ee.Remote) *world {
	t.Helper()
	w := &world{t: t, heard: map[stream.Kind]map[store.UserNID]int64{}}
	if s == nil {
		s = storetest.Open(t, func(c stream.Commit) (wake func()) {
			for _, ch := range c.Changes {
				if w.heard[ch.Kind] == nil {
					w.heard[ch.Kind] = map[store.UserNID]int64{}
				}
				for _, u := range ch.Users {
					w.heard[ch.Kind][u] = ch.Position
				}
			}
			return func() {}
		})
	}
	if remote == nil {
		remote = &e2ee.Remote{}
	}
	w.store = s
	w.Service = e2ee.New(s, storetest.Server, *remote)
	w.rooms = room.New(s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32)),
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	for _, u := range []id.User{alice, bob, charlie} {
		w.device(u, deviceOf(u))
	}
	return w
}

// deviceOf is the first device of a user.
func deviceOf(u id.User) id.Device { return id.Device(u.Localpart()) }

func (w *world) device(u id.User, d id.Device) {
	w.update(func(tx *store.Tx) error {
		if _, err := tx.Users.Insert(store.User{Name: u}); err != nil {
			return err
		}
		_, err := tx.Devices.Insert(u, store.Device{ID: d, DisplayName: "Device of " + string(u)})
		return err
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// refused demands an error that a client is shown.
func (w *world) refused(err error, status int, code string) *errcode.Error {
	w.t.Helper()
	e, ok := errors.AsType[*errcode.Error](err)
	if !ok || e.Status != status || e.Code != code {
		w.t.Errorf("got %v, want %d %s", err, status, code)
		return &errcode.Error{}
	}
	return e
}

func (w *world) update(fn func(*store.Tx) error) {
	w.t.Helper()
	w.must(w.store.Update(w.t.Context(), fn))
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

// position is where the change counter stands.
func (w *world) position() (p int64) {
	w.view(func(tx *store.Tx) (err error) {
		p, err = tx.ReadPosition()
		return err
	})
	return p
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

// key makes a key pair from a name, the same each time.
func key(name string) ed25519.PrivateKey {
	seed := make([]byte, 32)
	copy(seed, name)
	return ed25519.NewKeyFromSeed(seed)
}

func public(k ed25519.PrivateKey) string {
	return signing.EncodeBase64(k.Public().(ed25519.PublicKey))
}

func (w *world) sign(object string, by id.User, keyID string, k ed25519.PrivateKey) jsontext.Value {
	w.t.Helper()
	signed, err := signing.Sign([]byte(object), by, id.Key("ed25519:"+keyID), k)
	w.must(err)
	return signed
}

func identity(u id.User, d id.Device, k ed25519.PrivateKey) string {
	return fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1.curve25519-aes-sha2"],"keys":{"ed25519:%s":%q,"curve25519:%[2]s":%[4]q}}`,
		u, d, d, public(k))
}

// signedIdentity is what a device uploads as device_keys.
func (w *world) signedIdentity(u id.User, d id.Device) jsontext.Value {
	k := key(string(u) + string(d))
	return w.sign(identity(u, d, k), u, string(d), k)
}

func (w *world) oneTimeKey(u id.User, d id.Device, text string, extra string) jsontext.Value {
	k := key(string(u) + string(d))
	b := make([]byte, 32)
	copy(b, text)
	return w.sign(fmt.Sprintf(`{"key":%q%s}`, signing.EncodeBase64(b), extra), u, string(d), k)
}

// publish uploads the identity keys of a device.
func (w *world) publish(u id.User, d id.Device) {
	w.t.Helper()
	_, err := w.UploadKeys(w.t.Context(), u, d, e2ee.KeyUpload{Device: w.signedIdentity(u, d)})
	w.must(err)
}

func text(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
