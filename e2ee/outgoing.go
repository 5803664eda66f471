package e2ee

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/remote"
	"hearth/store"
)

// The types of EDUs that are about keys.
const (
	typeDirectToDevice   = "m.direct_to_device"
	typeDeviceListUpdate = "m.device_list_update"
	typeSigningKeyUpdate = "m.signing_key_update"
)

// DirectToDevice is the content of an m.direct_to_device EDU.
// spec: server-server-api#send-to-device-messaging
type DirectToDevice struct {
	MessageID string                                   `json:"message_id"`
	Messages  map[id.User]map[id.Device]jsontext.Value `json:"messages"`
	Sender    id.User                                  `json:"sender"`
	Type      string                                   `json:"type"`
}

// DeviceListUpdate is the content of an m.device_list_update EDU.
// spec: server-server-api#device-management
type DeviceListUpdate struct {
	User     id.User        `json:"user_id"`
	Device   id.Device      `json:"device_id"`
	Name     string         `json:"device_display_name,omitempty"`
	StreamID int64          `json:"stream_id"`
	PrevID   []int64        `json:"prev_id"`
	Deleted  bool           `json:"deleted,omitzero"`
	Keys     jsontext.Value `json:"keys,omitzero"`
}

// SigningKeyUpdate is the content of an m.signing_key_update EDU.
// spec: server-server-api#end-to-end-encryption
type SigningKeyUpdate struct {
	User           id.User        `json:"user_id"`
	MasterKey      jsontext.Value `json:"master_key,omitzero"`
	SelfSigningKey jsontext.Value `json:"self_signing_key,omitzero"`
}

// maxDirect is about how many bytes of messages go into one EDU.
const maxDirect = 64 << 10

// queueForServers queues messages for the servers of users.
func (s *Service) queueForServers(tx *store.Tx, m Message, to map[id.User]map[id.Device]jsontext.Value) error {
	var edu DirectToDevice
	size := 0
	begin := func() {
		edu = DirectToDevice{rand.Text(), map[id.User]map[id.Device]jsontext.Value{}, m.Sender, m.Type}
		size = 0
	}
	begin()
	var server id.Server
	flush := func() error {
		if len(edu.Messages) == 0 {
			return nil
		}
		err := queueFor(tx, server, typeDirectToDevice, edu)
		begin()
		return err
	}
	byServer := func(a, b id.User) int {
		return cmp.Or(cmp.Compare(a.Server(), b.Server()), cmp.Compare(a, b))
	}
	for _, user := range slices.SortedFunc(maps.Keys(to), byServer) {
		if user.Server() != server {
			if err := flush(); err != nil {
				return err
			}
			server = user.Server()
		}
		for _, device := range slices.Sorted(maps.Keys(to[user])) {
			content := to[user][device]
			if size > 0 && size+len(content) > maxDirect {
				if err := flush(); err != nil {
					return err
				}
			}
			if edu.Messages[user] == nil {
				edu.Messages[user] = map[id.Device]jsontext.Value{}
			}
			edu.Messages[user][device] = content
			size += len(content)
		}
	}
	return flush()
}

// queueFor queues an EDU for one server.
func queueFor(tx *store.Tx, server id.Server, typ string, content any) error {
	nid, err := tx.IDs.Server(server)
	if err != nil {
		return err
	}
	return queueEDU(tx, tx.NextPosition(), []store.ServerNID{nid}, typ, content)
}

// queueEDU queues an EDU for some servers at a position.
func queueEDU(tx *store.Tx, position int64, to []store.ServerNID, typ string, content any) error {
	edu, err := appendEDU(typ, content)
	if err != nil {
		return err
	}
	set, err := tx.Outgoing.Set(to)
	if err != nil {
		return err
	}
	return tx.Outgoing.Insert(store.OutgoingItem{Position: position, EDU: edu, Set: set})
}

func appendEDU(typ string, content any) ([]byte, error) {
	raw, err := json.Marshal(content, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", typ, err)
	}
	return remote.AppendEDU(nil, typ, raw), nil
}

// tellServers tells the servers that share a room with a local user that keys of
// his have changed; an empty device stands for his cross-signing keys. The
// position becomes the stream id of an update, even if there is nobody to be
// told: who shared a room before must not take a later update for the next one.
// spec: server-server-api#device-management
func (s *Service) tellServers(tx *store.Tx, user store.UserNID, device id.Device, position int64) error {
	name, err := tx.IDs.UserID(user)
	if err != nil {
		return err
	}
	to, err := seeing(tx, user, name)
	if err != nil {
		return err
	}
	if device == "" {
		if len(to) == 0 {
			return nil
		}
		content, err := signingKeysOf(tx, user, name)
		if err != nil {
			return err
		}
		return queueEDU(tx, position, to, typeSigningKeyUpdate, content)
	}
	last, err := tx.RemoteLists.Update(user)
	if err == nil {
		err = tx.RemoteLists.SetUpdate(user, position)
	}
	if err != nil || len(to) == 0 {
		return err
	}
	update := DeviceListUpdate{User: name, Device: device, StreamID: position, PrevID: []int64{}}
	if last != 0 {
		update.PrevID = []int64{last}
	}
	if err := s.describe(tx, user, &update); err != nil {
		return err
	}
	return queueEDU(tx, position, to, typeDeviceListUpdate, update)
}

// lostUpdate is the stream id that no update has: who is told of one that comes after it asks
// for the whole list.
const lostUpdate = 0

// MissedKeys is the EDU that tells a server of a change of keys, where it has never got the
// one that was sent then, nor others perhaps; nil: the change is of no user here with whom it
// shares a room.
// spec: server-server-api#device-management
func (s *Service) MissedKeys(tx *store.Tx, change store.DeviceListChange, to store.ServerNID) ([]byte, error) {
	name, err := tx.IDs.UserID(change.User)
	if err != nil || !s.isLocal(name) {
		return nil, err
	}
	if sees, err := tx.RoomServers.Sees(to, change.User); err != nil || !sees {
		return nil, err
	}
	if change.Device == "" {
		content, err := signingKeysOf(tx, change.User, name)
		if err != nil {
			return nil, err
		}
		return appendEDU(typeSigningKeyUpdate, content)
	}
	last, err := tx.RemoteLists.Update(change.User)
	if err != nil {
		return nil, err
	}
	update := DeviceListUpdate{User: name, Device: change.Device, StreamID: last, PrevID: []int64{lostUpdate}}
	if err := s.describe(tx, change.User, &update); err != nil {
		return nil, err
	}
	return appendEDU(typeDeviceListUpdate, update)
}

// seeing lists the other servers that share a room with a local user.
func seeing(tx *store.Tx, user store.UserNID, name id.User) ([]store.ServerNID, error) {
	all, err := tx.RoomServers.Seeing(user)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return without(tx, all, name.Server())
}

// without is servers but for one.
func without(tx *store.Tx, servers []store.ServerNID, one id.Server) ([]store.ServerNID, error) {
	nid, ok, err := tx.IDs.FindServer(one)
	if ok {
		servers = slices.DeleteFunc(servers, func(s store.ServerNID) bool { return s == nid })
	}
	return servers, err
}

// describe fills in how a device is now.
func (s *Service) describe(tx *store.Tx, user store.UserNID, u *DeviceListUpdate) error {
	keys, ok, err := tx.DeviceKeys.Get(user, u.Device)
	if err != nil {
		return err
	}
	d, exists, err := tx.Devices.Get(u.User, u.Device)
	if err != nil {
		return err
	}
	if u.Name, u.Deleted = s.nameForServers(d), !exists; !ok {
		return nil // it has no keys, or none any more
	}
	signatures, err := visibleSignatures(tx, user, user)
	if err != nil {
		return err
	}
	u.Keys, err = show(keys, signatures[string(u.Device)], nil)
	return err
}

// nameForServers is the name of a device as other servers are told it: it may say more of
// its owner than is for strangers to know.
func (s *Service) nameForServers(d store.Device) string {
	if !s.NamesToServers {
		return ""
	}
	return d.DisplayName
}

// signingKeysOf is a local user's cross-signing keys as other servers see them.
func signingKeysOf(tx *store.Tx, user store.UserNID, name id.User) (update SigningKeyUpdate, err error) {
	update.User = name
	keys, err := tx.CrossSigning.Keys(user)
	if err != nil {
		return update, err
	}
	signatures, err := visibleSignatures(tx, user, user)
	if err != nil {
		return update, err
	}
	for usage, into := range map[string]*jsontext.Value{usageMaster: &update.MasterKey, usageSelfSigning: &update.SelfSigningKey} {
		if k, ok := keys[usage]; ok && err == nil {
			*into, err = show(k.Key, signatures[k.PublicKey], nil)
		}
	}
	return update, err
}
