package e2ee

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// QueryResult is the keys of users.
type QueryResult struct {
	DeviceKeys      map[id.User]map[id.Device]jsontext.Value `json:"device_keys"`
	MasterKeys      map[id.User]jsontext.Value               `json:"master_keys"`
	SelfSigningKeys map[id.User]jsontext.Value               `json:"self_signing_keys"`
	UserSigningKeys map[id.User]jsontext.Value               `json:"user_signing_keys"`
	Failures        map[id.Server]Failure                    `json:"failures"`

	elsewhere *budget
}

// maxElsewhere bounds what an answer tells of users of other servers, in bytes: what those
// publish is up to them.
const maxElsewhere = 32 << 20

// budget is how much more an answer may tell of users of other servers.
type budget struct {
	left int
	gone atomic.Bool // some user's keys did not fit
}

// bound takes back what is told of a user of another server if it is too much, together with
// what was told before.
func (r QueryResult) bound(user id.User) {
	size := len(r.MasterKeys[user]) + len(r.SelfSigningKeys[user])
	for device, keys := range r.DeviceKeys[user] {
		size += len(device) + len(keys)
	}
	if size <= r.elsewhere.left {
		r.elsewhere.left -= size
		return
	}
	r.elsewhere.gone.Store(true)
	delete(r.DeviceKeys, user)
	delete(r.MasterKeys, user)
	delete(r.SelfSigningKeys, user)
	r.Failures[user.Server()] = Failure{errTooMuch.Message}
}

var errTooMuch = errcode.TooLarge("there are too many keys for one answer")

func newQueryResult() QueryResult {
	return QueryResult{map[id.User]map[id.Device]jsontext.Value{}, map[id.User]jsontext.Value{},
		map[id.User]jsontext.Value{}, map[id.User]jsontext.Value{}, map[id.Server]Failure{}, &budget{left: maxElsewhere}}
}

// QueryKeys reads the identity and cross-signing keys of users; an empty list
// of devices asks for all. Signatures are those that caller may see.
// spec: client-server-api#post_matrixclientv3keysquery
func (s *Service) QueryKeys(ctx context.Context, caller id.User, asked map[id.User][]id.Device, timeoutMS int64) (QueryResult, error) {
	if len(asked) > maxAsked {
		return QueryResult{}, tooMany()
	}
	local, remote := splitLocal(s, asked)
	result := newQueryResult()
	err := s.queryStored(ctx, result, caller, local, true)
	if err == nil && len(remote) > 0 {
		err = s.queryRemote(ctx, result, caller, remote, timeoutMS)
	}
	return result, err
}

// queryStored reads the keys of users that are in the store. Users that do not
// exist look like users without devices. withNames: with the names of devices of this server.
func (s *Service) queryStored(ctx context.Context, result QueryResult, caller id.User, asked map[id.User][]id.Device, withNames bool) error {
	if len(asked) == 0 {
		return nil
	}
	return s.store.View(ctx, func(tx *store.Tx) error {
		viewer, _, err := tx.IDs.FindUser(caller)
		if err != nil {
			return err
		}
		for user, devices := range asked {
			if err := s.queryUser(tx, result, user, devices, viewer, withNames); err != nil {
				return fmt.Errorf("query keys of %s: %w", user, err)
			}
		}
		return nil
	})
}

func (s *Service) queryUser(tx *store.Tx, result QueryResult, user id.User, devices []id.Device, viewer store.UserNID, withNames bool) error {
	found := map[id.Device]jsontext.Value{}
	result.DeviceKeys[user] = found
	nid, ok, err := tx.IDs.FindUser(user)
	if err != nil || !ok {
		return err
	}
	keys, err := tx.DeviceKeys.List(nid)
	if err != nil {
		return err
	}
	signatures, err := visibleSignatures(tx, nid, viewer)
	if err != nil {
		return err
	}
	names := map[id.Device]string{}
	if len(keys) > 0 && withNames && s.isLocal(user) {
		rows, err := tx.Devices.List(user)
		if err != nil {
			return err
		}
		for _, d := range rows {
			names[d.ID] = d.DisplayName
		}
	}
	for _, k := range keys {
		if len(devices) > 0 && !slices.Contains(devices, k.Device) {
			continue
		}
		var add *unsigned // keys of other servers have theirs
		if s.isLocal(user) {
			add = &unsigned{names[k.Device]}
		}
		if found[k.Device], err = show(k.Keys, signatures[string(k.Device)], add); err != nil {
			return err
		}
	}
	cross, err := tx.CrossSigning.Keys(nid)
	if err != nil {
		return err
	}
	shown := map[string]map[id.User]jsontext.Value{usageMaster: result.MasterKeys, usageSelfSigning: result.SelfSigningKeys}
	if nid == viewer {
		shown[usageUserSigning] = result.UserSigningKeys
	}
	for usage, into := range shown {
		if k, ok := cross[usage]; ok {
			if into[user], err = show(k.Key, signatures[k.PublicKey], nil); err != nil {
				return err
			}
		}
	}
	if !s.isLocal(user) {
		result.bound(user)
	}
	return nil
}

// signatures is by signer and name of the signing key.
type signatures map[id.User]map[id.Key]string

// visibleSignatures reads the signatures on a user's keys that viewer may see,
// by what is signed.
// spec: client-server-api#key-and-signature-security
func visibleSignatures(tx *store.Tx, target, viewer store.UserNID) (map[string]signatures, error) {
	rows, err := tx.CrossSigning.Signatures(target, viewer)
	if err != nil {
		return nil, err
	}
	all := map[string]signatures{}
	for _, r := range rows {
		signer, err := tx.IDs.UserID(r.Signer)
		if err != nil {
			return nil, err
		}
		on := all[r.TargetKey]
		if on == nil {
			on = signatures{}
			all[r.TargetKey] = on
		}
		on.add(signer, r.SigningKey, r.Signature)
	}
	return all, nil
}

func (s signatures) add(signer id.User, key id.Key, sig string) {
	if s[signer] == nil {
		s[signer] = map[id.Key]string{}
	}
	s[signer][key] = sig
}

// unsigned is what this server adds to device keys.
type unsigned struct {
	Name string `json:"device_display_name,omitempty"`
}

// show is a key object with further signatures and what the server adds.
func show(object []byte, more signatures, u *unsigned) (jsontext.Value, error) {
	if len(more) == 0 && u == nil {
		return object, nil
	}
	var members map[string]jsontext.Value
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, err
	}
	if len(more) > 0 {
		all := signatures{}
		if own, ok := members["signatures"]; ok {
			var strs map[string]map[id.Key]string
			if err := json.Unmarshal(own, &strs); err != nil {
				return nil, err
			}
			for signer, sigs := range strs {
				for key, sig := range sigs {
					all.add(id.User(signer), key, sig)
				}
			}
		}
		for signer, sigs := range more {
			for key, sig := range sigs {
				all.add(signer, key, sig)
			}
		}
		raw, err := json.Marshal(all)
		if err != nil {
			return nil, err
		}
		members["signatures"] = raw
	}
	if u != nil {
		raw, err := json.Marshal(u)
		if err != nil {
			return nil, err
		}
		members["unsigned"] = raw
	}
	return json.Marshal(members, json.Deterministic(true))
}

// ClaimResult is one-time keys, each as the only entry of a map by its name.
type ClaimResult struct {
	OneTimeKeys map[id.User]map[id.Device]map[string]jsontext.Value `json:"one_time_keys"`
	Failures    map[id.Server]Failure                               `json:"failures"`
}

// ClaimKeys takes a one-time key of an algorithm from each device, or else its
// fallback key.
// spec: client-server-api#post_matrixclientv3keysclaim
func (s *Service) ClaimKeys(ctx context.Context, asked map[id.User]map[id.Device]string, timeoutMS int64) (ClaimResult, error) {
	n := 0
	for _, devices := range asked {
		n += len(devices)
	}
	if n > maxAsked {
		return ClaimResult{}, tooMany()
	}
	local, remote := splitLocal(s, asked)
	result, err := s.claimLocal(ctx, local)
	if err == nil && len(remote) > 0 {
		s.claimRemote(ctx, result, remote, timeoutMS)
	}
	return result, err
}

// claimLocal is ClaimKeys for users of this server, for other servers too.
func (s *Service) claimLocal(ctx context.Context, asked map[id.User]map[id.Device]string) (ClaimResult, error) {
	result := ClaimResult{map[id.User]map[id.Device]map[string]jsontext.Value{}, map[id.Server]Failure{}}
	if len(asked) == 0 {
		return result, nil
	}
	return result, s.store.Update(ctx, func(tx *store.Tx) error {
		var claimedOf []store.UserNID
		for user, devices := range asked {
			nid, ok, err := tx.IDs.FindUser(user)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			keys := map[id.Device]map[string]jsontext.Value{}
			for device, algorithm := range devices {
				k, ok, err := claim(tx, nid, device, algorithm)
				if err != nil {
					return fmt.Errorf("claim a key of %s: %w", user, err)
				}
				if ok {
					keys[device] = map[string]jsontext.Value{k.Algorithm + ":" + k.ID: k.Key}
				}
			}
			if len(keys) > 0 {
				result.OneTimeKeys[user] = keys
				claimedOf = append(claimedOf, nid)
			}
		}
		if len(claimedOf) > 0 {
			tx.NextPosition()
			tx.Touch(stream.Keys, 0, claimedOf...)
		}
		return nil
	})
}

func claim(tx *store.Tx, user store.UserNID, device id.Device, algorithm string) (store.OneTimeKey, bool, error) {
	if !validName(device) || !validName(algorithm) {
		return store.OneTimeKey{}, false, errcode.InvalidParam("a device id or algorithm is not valid")
	}
	k, ok, err := tx.DeviceKeys.ClaimOneTime(user, device, algorithm)
	if err != nil || ok {
		return k, ok, err
	}
	return tx.DeviceKeys.ClaimFallback(user, device, algorithm)
}
