package e2ee

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// The keys of a user of another server are kept once a client has asked for them,
// as long as somebody here shares a room with him: so long his server sends an
// update for each change. Each update names the one before it. When one is
// missing, or the keys were got by a query that tells no stream id, the list is
// stale: clients' queries go to the other server, and FetchStale gets all of it
// anew. When the last room is left (Follow), it is forgotten.
// spec: server-server-api#device-management

// maxDevices bounds the devices that are kept of a user of another server.
const maxDevices = 1000

// userKeys is the keys of a user of another server, with signatures and unsigned.
type userKeys struct {
	devices map[id.Device]jsontext.Value
	cross   map[string]signingKey // by usage, its whole has the signatures
}

// checkAnswer takes of a server's answer what is about a user and well formed.
func checkAnswer(user id.User, q ServerQuery) *userKeys {
	k := &userKeys{map[id.Device]jsontext.Value{}, map[string]signingKey{}}
	for device, raw := range q.DeviceKeys[user] {
		name, _ := deviceName(raw)
		k.addDevice(user, device, raw, name)
	}
	k.addCross(user, usageMaster, q.MasterKeys[user])
	k.addCross(user, usageSelfSigning, q.SelfSigningKeys[user])
	return k
}

func checkDevices(user id.User, d UserDevices) *userKeys {
	k := &userKeys{map[id.Device]jsontext.Value{}, map[string]signingKey{}}
	for _, device := range d.Devices {
		k.addDevice(user, device.ID, device.Keys, device.Name)
	}
	k.addCross(user, usageMaster, d.MasterKey)
	k.addCross(user, usageSelfSigning, d.SelfSigningKey)
	return k
}

func (k *userKeys) addDevice(user id.User, device id.Device, raw jsontext.Value, name string) {
	if len(k.devices) >= maxDevices || absent(raw) {
		return
	}
	keys, err := parseRemoteDevice(user, device, raw, name)
	if err != nil {
		slog.Debug("keys of another server's user are left out", "user", user, "device", device, "error", err)
		return
	}
	k.devices[device] = keys
}

func (k *userKeys) addCross(user id.User, usage string, raw jsontext.Value) {
	if absent(raw) {
		return
	}
	key, err := parseSigningKey(user, usage, raw)
	if err != nil {
		slog.Debug("a cross-signing key of another server's user is left out", "user", user, "usage", usage, "error", err)
		return
	}
	k.cross[usage] = key
}

// deviceName is the display name that the other server added to keys.
func deviceName(raw jsontext.Value) (string, error) {
	var k struct {
		Unsigned unsigned `json:"unsigned"`
	}
	err := json.Unmarshal(raw, &k)
	return k.Unsigned.Name, err
}

// parseRemoteDevice checks what matters to this server of a device's keys; whether
// they can be trusted is for clients to find out. The result has the name in unsigned.
func parseRemoteDevice(user id.User, device id.Device, raw jsontext.Value, name string) (jsontext.Value, error) {
	if !validName(device) || len(name) > maxName {
		return nil, errcode.InvalidParam("the device id or name is too long")
	}
	keys, err := canonicalObject(raw, "device_keys")
	if err != nil {
		return nil, err
	}
	if len(keys) > maxKey {
		return nil, errcode.TooLarge("device_keys is larger than %d bytes", maxKey)
	}
	var d struct {
		User       id.User                      `json:"user_id"`
		Device     id.Device                    `json:"device_id"`
		Signatures map[string]map[id.Key]string `json:"signatures"`
	}
	if err := json.Unmarshal(keys, &d); err != nil {
		return nil, errcode.BadJSON("device_keys has a member of a wrong type")
	}
	if d.User != user || d.Device != device {
		return nil, errcode.BadJSON("device_keys is of another user or device")
	}
	if name == "" {
		return keys, nil
	}
	return show(keys, nil, &unsigned{name})
}

// show puts keys into the answer for a client that asked for some devices, or all.
func (k *userKeys) show(result QueryResult, user id.User, devices []id.Device) {
	found := map[id.Device]jsontext.Value{}
	for device, keys := range k.devices {
		if len(devices) == 0 || slices.Contains(devices, device) {
			found[device] = keys
		}
	}
	result.DeviceKeys[user] = found
	if key, ok := k.cross[usageMaster]; ok {
		result.MasterKeys[user] = key.whole
	}
	if key, ok := k.cross[usageSelfSigning]; ok {
		result.SelfSigningKeys[user] = key.whole
	}
}

// keepList stores all keys of a user who shares a room with somebody here, and
// tells those who see him if anything is new.
func keepList(tx *store.Tx, user id.User, keys *userKeys, streamID int64) error {
	nid, known, err := tx.IDs.FindUser(user)
	if err != nil || !known {
		return err
	}
	if shares, err := tx.RemoteLists.Shares(nid, 0); err != nil || !shares {
		return err
	}
	_, kept, err := tx.RemoteLists.Get(nid)
	if err != nil {
		return err
	}
	changed, err := replaceKeys(tx, nid, keys)
	if err != nil {
		return err
	}
	if err := tx.RemoteLists.Set(store.RemoteList{User: nid, StreamID: streamID}); err != nil {
		return err
	}
	if !changed || !kept { // whoever asks for the first time gets it all
		return nil
	}
	return remoteListChanged(tx, nid, "")
}

// replaceKeys makes the stored keys of a user the same as keys.
func replaceKeys(tx *store.Tx, user store.UserNID, keys *userKeys) (changed bool, err error) {
	stored, err := tx.DeviceKeys.List(user)
	if err != nil {
		return false, err
	}
	same := map[id.Device]bool{}
	for _, d := range stored {
		now, there := keys.devices[d.Device]
		if same[d.Device] = there && bytes.Equal(now, d.Keys); there {
			continue
		}
		changed = true
		if _, err := tx.DeviceKeys.Delete(user, d.Device); err != nil {
			return changed, err
		}
	}
	for device, k := range keys.devices {
		if same[device] {
			continue
		}
		changed = true
		if err := tx.DeviceKeys.Set(user, device, k); err != nil {
			return changed, err
		}
	}
	cross, err := tx.CrossSigning.Keys(user)
	if err != nil {
		return changed, err
	}
	if gone := len(cross) > len(keys.cross) || !haveAll(keys.cross, cross); gone {
		changed = true
		if err := tx.CrossSigning.Delete(user); err != nil {
			return changed, err
		}
		clear(cross)
	}
	fresh, err := setCross(tx, user, keys.cross, cross)
	return changed || fresh, err
}

func haveAll(keys map[string]signingKey, stored map[string]store.CrossSigningKey) bool {
	for usage := range stored {
		if _, ok := keys[usage]; !ok {
			return false
		}
	}
	return true
}

// setCross stores cross-signing keys with their signatures, and says whether any is new.
func setCross(tx *store.Tx, user store.UserNID, keys map[string]signingKey, stored map[string]store.CrossSigningKey) (changed bool, err error) {
	for usage, k := range keys {
		if bytes.Equal(stored[usage].Key, k.whole) {
			continue
		}
		changed = true
		err := tx.CrossSigning.Set(user, store.CrossSigningKey{Usage: usage, PublicKey: k.PublicKey, Key: k.whole})
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// remoteListChanged tells those who share a room with a user of another server
// that his keys changed. An empty device stands for all of them.
func remoteListChanged(tx *store.Tx, user store.UserNID, device id.Device) error {
	if err := tx.DeviceLists.Set(user, device, tx.NextPosition()); err != nil {
		return err
	}
	observers, err := tx.DeviceLists.Observers(user)
	if err != nil {
		return err
	}
	tx.Touch(stream.DeviceList, 0, observers...)
	return nil
}

// forgetList forgets the keys of a user with whom nobody shares a room any more.
func forgetList(tx *store.Tx, user store.UserNID) error {
	had, err := tx.RemoteLists.Delete(user)
	if err != nil || !had {
		return err
	}
	keys, err := tx.DeviceKeys.List(user)
	for _, k := range keys {
		if err == nil {
			_, err = tx.DeviceKeys.Delete(user, k.Device)
		}
	}
	if err == nil {
		err = tx.CrossSigning.Delete(user)
	}
	return err
}

// ReceiveDeviceListUpdate takes an update of a user of another server, who is
// known to be of the server that sent it.
// spec: server-server-api#device-management
func (s *Service) ReceiveDeviceListUpdate(ctx context.Context, u DeviceListUpdate) error {
	if !validName(u.Device) || u.StreamID < 0 {
		return errcode.InvalidParam("the device id or stream id is not valid")
	}
	var keys jsontext.Value
	if !u.Deleted && !absent(u.Keys) {
		var err error
		if keys, err = parseRemoteDevice(u.User, u.Device, u.Keys, u.Name); err != nil {
			return err
		}
	}
	s.changed(u.User)
	return s.updateRemote(ctx, u.User, u.Device, func(tx *store.Tx, nid store.UserNID, l store.RemoteList, kept bool) error {
		_, had, err := tx.DeviceKeys.Get(nid, u.Device)
		if err != nil {
			return err
		}
		changed := func() error {
			if keys == nil && !u.Deleted && !had {
				return nil // a device that has no keys yet: to clients all is as it was
			}
			return remoteListChanged(tx, nid, u.Device)
		}
		switch {
		case !kept || l.Stale: // what the device had is not known here
			return remoteListChanged(tx, nid, u.Device)
		case l.StreamID != 0 && l.StreamID == u.StreamID && len(u.PrevID) > 0:
			return nil // it came twice
		// An update that comes after none says of a kept list only that it is old: Conduit and what
		// came of it send nothing else, all with stream_id 1.
		case l.StreamID == 0 || !slices.Contains(u.PrevID, l.StreamID):
			l.Stale, l.Failures, l.RetryAfterTS = true, 0, 0
		default:
			l.StreamID = u.StreamID
			if err := setRemoteDevice(tx, nid, u.Device, keys); err != nil {
				return err
			}
		}
		if err := tx.RemoteLists.Set(l); err != nil {
			return err
		}
		if l.Stale {
			tx.AfterCommit(s.wakeFetching)
		}
		return changed()
	})
}

// setRemoteDevice stores the keys of a device; none: it has no keys, or is gone.
func setRemoteDevice(tx *store.Tx, user store.UserNID, device id.Device, keys jsontext.Value) error {
	if keys == nil {
		_, err := tx.DeviceKeys.Delete(user, device)
		return err
	}
	stored, err := tx.DeviceKeys.List(user)
	if err != nil {
		return err
	}
	known := slices.ContainsFunc(stored, func(k store.DeviceKey) bool { return k.Device == device })
	if !known && len(stored) >= maxDevices {
		return errcode.TooLarge("the user has more than %d devices", maxDevices)
	}
	return tx.DeviceKeys.Set(user, device, keys)
}

// ReceiveSigningKeyUpdate takes new cross-signing keys of a user of another
// server, who is known to be of the server that sent them.
// spec: server-server-api#end-to-end-encryption
func (s *Service) ReceiveSigningKeyUpdate(ctx context.Context, u SigningKeyUpdate) error {
	cross := map[string]signingKey{}
	for usage, raw := range map[string]jsontext.Value{usageMaster: u.MasterKey, usageSelfSigning: u.SelfSigningKey} {
		if absent(raw) {
			continue
		}
		k, err := parseSigningKey(u.User, usage, raw)
		if err != nil {
			return err
		}
		cross[usage] = k
	}
	s.changed(u.User)
	return s.updateRemote(ctx, u.User, "", func(tx *store.Tx, nid store.UserNID, l store.RemoteList, kept bool) error {
		if kept && !l.Stale {
			stored, err := tx.CrossSigning.Keys(nid)
			if err != nil {
				return err
			}
			fresh, err := setCross(tx, nid, cross, stored)
			if err != nil || !fresh {
				return err
			}
		}
		return remoteListChanged(tx, nid, "")
	})
}

// updateRemote calls fn in a transaction if somebody here shares a room with a user of whom a
// device changed, empty: all of them. Where that is not known yet, the change is noted for
// when it is.
func (s *Service) updateRemote(ctx context.Context, user id.User, device id.Device, fn func(tx *store.Tx, nid store.UserNID, l store.RemoteList, kept bool) error) error {
	return s.receive(ctx, func(tx *store.Tx) error {
		nid, known, err := tx.IDs.FindUser(user)
		if err != nil {
			return err
		}
		shares := false
		if known {
			if shares, err = tx.RemoteLists.Shares(nid, 0); err != nil {
				return err
			}
		}
		if !shares {
			return notSharing(tx, user, device)
		}
		l, kept, err := tx.RemoteLists.Get(nid)
		if err != nil {
			return err
		}
		if err := fn(tx, nid, l, kept); err != nil {
			return fmt.Errorf("update the keys of %s: %w", user, err)
		}
		return nil
	})
}

// notSharing forgets what is kept of a user with whom nobody here is known to share a room.
func notSharing(tx *store.Tx, user id.User, device id.Device) error {
	rooms, err := tx.Rooms.Partial()
	if err != nil {
		return err
	}
	may := false
	for _, r := range rooms {
		if may, err = tx.Members.MayBeJoined(r, user); err != nil || may {
			break
		}
	}
	if err != nil {
		return err
	}
	if !may {
		nid, known, err := tx.IDs.FindUser(user)
		if err != nil || !known {
			return err
		}
		return forgetList(tx, nid)
	}
	nid, err := tx.IDs.User(user)
	if err != nil {
		return err
	}
	if err := forgetList(tx, nid); err != nil {
		return err
	}
	return tx.DeviceLists.Set(nid, device, tx.NextPosition())
}

// How stale lists are fetched.
const (
	fetchBatch = 20 // lists in one round
	// fetchOfServer is how many of them are one server's: it may answer none of them until the time is over.
	fetchOfServer = 4
	fetchTime     = 30 * time.Second
	firstRefetch  = 30 * time.Second
	maxRefetch    = 6 * time.Hour
)

func (s *Service) wakeFetching() {
	select {
	case s.stale <- struct{}{}:
	default:
	}
}

// FetchStale asks for lists of which an update was missed, until the context ends.
func (s *Service) FetchStale(ctx context.Context) error {
	if s.remote.GetDevices == nil {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-s.stale:
		}
		next, err := s.fetchRound(ctx)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("fetch device lists: %w", err)
		}
		timer.Reset(next)
	}
}

// fetchRound fetches the lists that are due, and says when to look again.
func (s *Service) fetchRound(ctx context.Context) (next time.Duration, err error) {
	type due struct {
		store.RemoteList
		name id.User
	}
	var lists []due
	now := time.Now().UnixMilli()
	next = maxRefetch
	err = s.store.View(ctx, func(tx *store.Tx) error {
		rows, err := tx.RemoteLists.Stale(fetchBatch, fetchOfServer)
		if err != nil {
			return err
		}
		for _, l := range rows {
			if l.RetryAfterTS > now {
				next = time.Duration(l.RetryAfterTS-now) * time.Millisecond
				return nil
			}
			name, err := tx.IDs.UserID(l.User)
			if err != nil {
				return err
			}
			lists = append(lists, due{l, name})
		}
		return nil
	})
	if err != nil || len(lists) == 0 {
		return next, err
	}
	var all sync.WaitGroup
	errs := make([]error, len(lists))
	for i, l := range lists {
		all.Go(func() { errs[i] = s.fetch(ctx, l.RemoteList, l.name) })
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// fetch fetches the devices of a user. The error is the store's; that a server does
// not answer is noted there.
func (s *Service) fetch(ctx context.Context, l store.RemoteList, user id.User) error {
	open := s.ask([]id.User{user})
	defer s.answered(open)
	asking, cancel := context.WithTimeout(ctx, fetchTime)
	answer, err := s.remote.GetDevices(asking, user.Server(), user)
	cancel()
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		slog.DebugContext(ctx, "another server was asked for devices", "user", user, "error", err)
		return s.store.Update(ctx, func(tx *store.Tx) error {
			now, kept, err := tx.RemoteLists.Get(l.User)
			if err != nil || !kept || !now.Stale {
				return err
			}
			now.RetryAfterTS = time.Now().Add(min(firstRefetch<<min(now.Failures, 20), maxRefetch)).UnixMilli()
			now.Failures++
			return tx.RemoteLists.Set(now)
		})
	}
	return s.store.Update(ctx, func(tx *store.Tx) error {
		now, kept, err := tx.RemoteLists.Get(l.User)
		if err != nil || !kept || !now.Stale || !s.isCurrent(open[user]) {
			return err // if it is stale still, it is asked for again
		}
		return keepList(tx, user, checkDevices(user, answer), answer.StreamID)
	})
}
