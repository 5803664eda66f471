//go:build goolm

package mautrix_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/crypto"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"hearth/test/server"
)

// patience is how long a test waits for what a client should see at once.
const patience = time.Minute

// device is a logged-in mautrix-go client that is syncing, as a bot would be.
type device struct {
	*mautrix.Client
	t      *testing.T
	crypto *crypto.OlmMachine

	mu      sync.Mutex
	change  *sync.Cond // of everything below and of the stores
	events  []*event.Event
	pending []*event.Event // encrypted, without a key so far
	to      map[event.Type]int
}

// homeserver is the address of a server of the test's own.
func homeserver(t *testing.T) string {
	s := httptest.NewServer(server.Start(t).Router)
	t.Cleanup(s.Close)
	return s.URL
}

func newClient(t *testing.T, url string) *mautrix.Client {
	t.Helper()
	client, err := mautrix.NewClient(url, "", "")
	if err != nil {
		t.Fatal(err)
	}
	client.StateStore = mautrix.NewMemoryStateStore()
	return client
}

func password(name string) string { return "the password of " + name }

// register makes an account and its first device.
func register(t *testing.T, url, name string) *device {
	t.Helper()
	client := newClient(t, url)
	r, err := client.RegisterDummy(t.Context(), &mautrix.ReqRegister[any]{Username: name, Password: password(name)})
	if err != nil {
		t.Fatal(err)
	}
	client.UserID, client.DeviceID, client.AccessToken = r.UserID, r.DeviceID, r.AccessToken
	return start(t, client)
}

// login makes another device.
func login(t *testing.T, url, name string) *device {
	t.Helper()
	client := newClient(t, url)
	if _, err := client.Login(t.Context(), &mautrix.ReqLogin{
		Type: mautrix.AuthTypePassword, Password: password(name), StoreCredentials: true,
		Identifier: mautrix.UserIdentifier{Type: mautrix.IdentifierTypeUser, User: name},
	}); err != nil {
		t.Fatal(err)
	}
	return start(t, client)
}

// start gives a client keys of its own and lets it sync until the test ends.
func start(t *testing.T, client *mautrix.Client) *device {
	t.Helper()
	d := &device{Client: client, t: t, to: map[event.Type]int{}}
	d.change = sync.NewCond(&d.mu)
	d.crypto = crypto.NewOlmMachine(client, nil, crypto.NewMemoryStore(nil), client.StateStore.(crypto.StateStore))
	d.crypto.SessionReceived = func(context.Context, id.RoomID, id.SessionID, uint32) { d.wake() }
	if err := d.crypto.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := d.crypto.ShareKeys(t.Context(), -1); err != nil {
		t.Fatal(err)
	}
	// The library does not ask for the user's other devices by itself.
	if _, err := d.crypto.FetchKeys(t.Context(), []id.UserID{client.UserID}, true); err != nil {
		t.Fatal(err)
	}
	syncer := client.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnSync(d.crypto.ProcessSyncResponse)
	syncer.OnEvent(client.StateStoreSyncHandler)
	syncer.OnEvent(d.receive)
	syncer.OnEventType(event.StateMember, d.crypto.HandleMemberEvent)
	// After a sync in which nothing was an event, too: stores may have changed.
	syncer.OnSync(func(context.Context, *mautrix.RespSync, string) bool { d.wake(); return true })

	ended := make(chan error, 1)
	ctx, stop := context.WithCancel(context.Background())
	go func() { ended <- client.SyncWithContext(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: sync ended: %v", client.UserID, err)
		}
	})
	return d
}

func (d *device) wake() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.change.Broadcast()
}

// receive keeps what /sync brought.
func (d *device) receive(_ context.Context, e *event.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case e.Type.Class == event.ToDeviceEventType:
		d.to[e.Type]++
	case e.Type == event.EventEncrypted:
		d.pending = append(d.pending, e)
	default:
		d.events = append(d.events, e)
	}
	d.change.Broadcast()
}

// until waits until fn, which is asked after each change, returns true.
func (d *device) until(what string, fn func() bool) {
	d.t.Helper()
	late := false
	timer := time.AfterFunc(patience, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		late = true
		d.change.Broadcast()
	})
	defer timer.Stop()
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		d.decryptPending()
		if fn() {
			return
		}
		if late {
			d.t.Fatalf("%s %s gave up waiting for: %s", d.UserID, d.DeviceID, what)
		}
		d.change.Wait()
	}
}

// decryptPending decrypts what has a key by now.
func (d *device) decryptPending() {
	waiting := d.pending
	d.pending = nil
	for _, e := range waiting {
		plain, err := d.crypto.DecryptMegolmEvent(context.Background(), e)
		if err == nil {
			d.events = append(d.events, plain)
		} else if errors.Is(err, crypto.ErrNoSessionFound) || errors.Is(err, crypto.ErrGroupSessionWithheld) {
			d.pending = append(d.pending, e)
		} else {
			d.t.Errorf("%s %s cannot decrypt: %v", d.UserID, d.DeviceID, err)
		}
	}
}

// reads waits for an encrypted message of a text, and for its key.
func (d *device) reads(text string) *event.Event {
	d.t.Helper()
	var found *event.Event
	d.until("the message "+text, func() bool {
		for _, e := range d.events {
			if m := e.Content.AsMessage(); e.Type == event.EventMessage && m.Body == text {
				found = e
			}
		}
		return found != nil
	})
	if !found.Mautrix.WasEncrypted {
		d.t.Errorf("%q was not encrypted", text)
	}
	return found
}

// cannotRead waits until a message has come without a key for it.
func (d *device) cannotRead(message id.EventID) *event.EncryptedEventContent {
	d.t.Helper()
	var content *event.EncryptedEventContent
	d.until("a message that it has no key for", func() bool {
		for _, e := range d.pending {
			if e.ID == message {
				content = e.Content.AsEncrypted()
			}
		}
		return content != nil
	})
	return content
}

// member waits until the device sees a membership.
func (d *device) member(room id.RoomID, user id.UserID, membership event.Membership) {
	d.t.Helper()
	d.until("a membership of "+string(user), func() bool {
		return d.StateStore.IsMembership(context.Background(), room, user, membership)
	})
}

// knows waits until the device trusts another one at least so far.
func (d *device) knows(other *device, trust id.TrustState) {
	d.t.Helper()
	d.until("trust in a device of "+string(other.UserID), func() bool {
		known, err := d.crypto.CryptoStore.GetDevice(context.Background(), other.UserID, other.DeviceID)
		if err != nil {
			d.t.Error(err)
		}
		return known != nil && d.crypto.ResolveTrust(known) >= trust
	})
}

// send encrypts a message and sends it, and its key to whom it concerns.
func (d *device) send(room id.RoomID, text string) id.EventID {
	d.t.Helper()
	ctx := d.t.Context()
	content := &event.MessageEventContent{MsgType: event.MsgText, Body: text}
	encrypted, err := d.crypto.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	if crypto.IsShareError(err) {
		var users []id.UserID
		if users, err = d.StateStore.GetRoomJoinedOrInvitedMembers(ctx, room); err != nil {
			d.t.Fatal(err)
		}
		if err := d.crypto.ShareGroupSession(ctx, room, users); err != nil {
			d.t.Fatal(err)
		}
		encrypted, err = d.crypto.EncryptMegolmEvent(ctx, room, event.EventMessage, content)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	r, err := d.SendMessageEvent(ctx, room, event.EventEncrypted, encrypted)
	if err != nil {
		d.t.Fatal(err)
	}
	return r.EventID
}

// encryptedRoom is a room in which both see each other.
func encryptedRoom(creator, guest *device) id.RoomID {
	t := creator.t
	t.Helper()
	r, err := creator.CreateRoom(t.Context(), &mautrix.ReqCreateRoom{
		Preset: "private_chat", Invite: []id.UserID{guest.UserID},
		InitialState: []*event.Event{{
			Type:    event.StateEncryption,
			Content: event.Content{Parsed: &event.EncryptionEventContent{Algorithm: id.AlgorithmMegolmV1}},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	guest.member(r.RoomID, guest.UserID, event.MembershipInvite)
	if _, err := guest.JoinRoomByID(t.Context(), r.RoomID); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*device{creator, guest} {
		d.member(r.RoomID, creator.UserID, event.MembershipJoin)
		d.member(r.RoomID, guest.UserID, event.MembershipJoin)
		d.until("the room to be encrypted", func() bool {
			encrypted, err := d.StateStore.IsEncrypted(t.Context(), r.RoomID)
			return err == nil && encrypted
		})
	}
	return r.RoomID
}
