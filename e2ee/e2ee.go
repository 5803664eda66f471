// Package e2ee is the server's side of end-to-end encryption: keys of devices,
// cross-signing, key backups, to-device messages, and who hears of changes of
// whose keys. The server never sees a secret key or a plaintext.
//
// It must not know rooms but for who shares one with whom, nor authenticate
// anybody. Start at Service; devicelists.go says what a sync shows, outgoing.go
// what other servers are told, remotelists.go how their users' keys are kept.
// spec: client-server-api#end-to-end-encryption
package e2ee

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// Service keeps the keys of this server's users, and of those of other servers
// with whom they share rooms. Its methods may be called from any goroutine.
type Service struct {
	// NamesToServers, if set before use: other servers are told the names of devices.
	NamesToServers bool

	store  *store.Store
	server id.Server
	remote Remote

	stale chan struct{} // there may be a list of remote devices to fetch

	// What was queued for a device since its queue was last weighed, and noted of a server since all that
	// is noted of it was last counted. They belong to writes.
	unweighed map[queueKey]int
	uncounted map[store.ServerNID]int

	mu     sync.Mutex
	asking map[id.User]*question
}

// New makes a service for the users of server.
func New(s *store.Store, server id.Server, remote Remote) *Service {
	return &Service{store: s, server: server, remote: remote, stale: make(chan struct{}, 1),
		unweighed: map[queueKey]int{}, uncounted: map[store.ServerNID]int{}, asking: map[id.User]*question{}}
}

// Failure says why a server could not be asked.
type Failure struct {
	Message string `json:"message"`
}

// maxAsked bounds how many users or devices one request may ask for, and to how many users one may
// send. Clients name some hundreds, and other servers pass on what one client has sent.
const maxAsked = 10_000

func tooMany() error { return errcode.TooLarge("the request asks for too many keys at once") }

func invalidSignature(format string, a ...any) *errcode.Error {
	return errcode.New(400, "M_INVALID_SIGNATURE", format, a...)
}

// maxName bounds what clients choose as names: of devices, keys, sessions.
const maxName = 255

// validName says whether a name that a client chose can be stored.
func validName[T ~string](s T) bool {
	return len(s) > 0 && len(s) <= maxName && strings.IndexByte(string(s), 0) < 0
}

// canonicalObject is raw in canonical form without its unsigned member.
func canonicalObject(raw jsontext.Value, what string) ([]byte, error) {
	b, err := canonical.Append(nil, raw, canonical.Options{Strict: true, Drop: []string{"unsigned"}})
	if err != nil {
		return nil, errcode.BadJSON("%s: %s", what, err)
	}
	if b[0] != '{' {
		return nil, errcode.BadJSON("%s must be an object", what)
	}
	return b, nil
}

// absent says whether an optional member of a request is not there.
func absent(v jsontext.Value) bool { return len(v) == 0 || v.Kind() == 'n' }

func (s *Service) isLocal(u id.User) bool { return u.Server() == s.server }

// splitLocal takes the users of other servers out of asked.
func splitLocal[V any](s *Service, asked map[id.User]V) (local, remote map[id.User]V) {
	local, remote = map[id.User]V{}, map[id.User]V{}
	for u, v := range asked {
		if s.isLocal(u) {
			local[u] = v
		} else {
			remote[u] = v
		}
	}
	return local, remote
}

// receive writes what another server told. The error is an *errcode.Error where it would be the same
// the next time: else what cannot be stored would be sent again for ever, and hold up all behind it.
func (s *Service) receive(ctx context.Context, fn func(*store.Tx) error) error {
	err := s.store.Update(ctx, fn)
	if store.Unstorable(err) {
		slog.ErrorContext(ctx, "what another server told cannot be stored", "error", err)
		return errcode.InvalidParam("the content cannot be stored")
	}
	return err
}

// deviceListChanged notes that keys of a local user changed and tells all who
// see him, other servers too. An empty device stands for his cross-signing keys.
func (s *Service) deviceListChanged(tx *store.Tx, user store.UserNID, device id.Device) error {
	position := tx.NextPosition()
	if err := tx.DeviceLists.Set(user, device, position); err != nil {
		return err
	}
	if err := s.tellServers(tx, user, device, position); err != nil {
		return fmt.Errorf("tell other servers of changed keys: %w", err)
	}
	seen, err := tx.Members.SharingLocal(user)
	if err != nil {
		return err
	}
	if !slices.Contains(seen, user) {
		seen = append(seen, user)
	}
	tx.Touch(stream.DeviceList, 0, seen...)
	return nil
}

// DevicesDeleted removes all that is kept for devices, in the transaction that
// deletes them, and announces the change.
// spec: client-server-api#device-management
func (s *Service) DevicesDeleted(tx *store.Tx, user id.User, devices []id.Device) error {
	nid, ok, err := tx.IDs.FindUser(user)
	if err != nil || !ok {
		return err
	}
	for _, d := range devices {
		delete(s.unweighed, queueKey{nid, d})
		if err := tx.ToDevice.Delete(nid, d); err != nil {
			return err
		}
		if err := tx.CrossSigning.DeleteSignaturesOn(nid, string(d)); err != nil {
			return err
		}
		had, err := tx.DeviceKeys.Delete(nid, d)
		if err != nil {
			return err
		}
		if had {
			if err := s.deviceListChanged(tx, nid, d); err != nil {
				return err
			}
		}
	}
	return nil
}

// DeviceChanged announces a new display name of a device, whether it has keys or not.
// spec: server-server-api#device-management
func (s *Service) DeviceChanged(tx *store.Tx, user id.User, device id.Device) error {
	nid, ok, err := tx.IDs.FindUser(user)
	if err != nil || !ok {
		return err
	}
	return s.deviceListChanged(tx, nid, device)
}

// IsCrossSigningKey says whether a device id is in use as a cross-signing key:
// both name keys, in one namespace.
// spec: client-server-api#key-and-signature-security
func IsCrossSigningKey(tx *store.Tx, user id.User, device id.Device) (bool, error) {
	nid, ok, err := tx.IDs.FindUser(user)
	if err != nil || !ok {
		return false, err
	}
	keys, err := tx.CrossSigning.Keys(nid)
	for _, k := range keys {
		if k.PublicKey == string(device) {
			return true, err
		}
	}
	return false, err
}
