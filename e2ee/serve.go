package e2ee

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// UserDevices is the devices of a user, as servers tell each other.
// spec: server-server-api#get_matrixfederationv1userdevicesuserid
type UserDevices struct {
	User           id.User        `json:"user_id"`
	StreamID       int64          `json:"stream_id"`
	Devices        []UserDevice   `json:"devices"`
	MasterKey      jsontext.Value `json:"master_key,omitzero"`
	SelfSigningKey jsontext.Value `json:"self_signing_key,omitzero"`
}

// UserDevice is one of them.
type UserDevice struct {
	ID   id.Device      `json:"device_id"`
	Name string         `json:"device_display_name,omitempty"`
	Keys jsontext.Value `json:"keys"`
}

// ServerQuery is the answer to another server's query for keys.
type ServerQuery struct {
	DeviceKeys      map[id.User]map[id.Device]jsontext.Value `json:"device_keys"`
	MasterKeys      map[id.User]jsontext.Value               `json:"master_keys"`
	SelfSigningKeys map[id.User]jsontext.Value               `json:"self_signing_keys"`
}

// QueryForServer reads the keys of this server's users for another server. Of
// other users nothing is told, not even whether their keys are kept here.
// spec: server-server-api#post_matrixfederationv1userkeysquery
func (s *Service) QueryForServer(ctx context.Context, asked map[id.User][]id.Device) (ServerQuery, error) {
	if len(asked) > maxAsked {
		return ServerQuery{}, tooMany()
	}
	local, _ := splitLocal(s, asked)
	result := newQueryResult()
	err := s.queryStored(ctx, result, "", local, s.NamesToServers)
	return ServerQuery{result.DeviceKeys, result.MasterKeys, result.SelfSigningKeys}, err
}

// ServerClaim is the answer to another server's claim of one-time keys.
type ServerClaim struct {
	OneTimeKeys map[id.User]map[id.Device]map[string]jsontext.Value `json:"one_time_keys"`
}

// ClaimForServer gives out one-time keys of this server's users to another server.
// spec: server-server-api#post_matrixfederationv1userkeysclaim
func (s *Service) ClaimForServer(ctx context.Context, asked map[id.User]map[id.Device]string) (ServerClaim, error) {
	n := 0
	for _, devices := range asked {
		n += len(devices)
	}
	if n > maxAsked {
		return ServerClaim{}, tooMany()
	}
	local, _ := splitLocal(s, asked)
	result, err := s.claimLocal(ctx, local)
	return ServerClaim{result.OneTimeKeys}, err
}

// DevicesForServer reads all devices of one of this server's users that have
// keys, as of the last update that other servers were sent.
// spec: server-server-api#get_matrixfederationv1userdevicesuserid
func (s *Service) DevicesForServer(ctx context.Context, user id.User) (all UserDevices, err error) {
	all = UserDevices{User: user, Devices: []UserDevice{}}
	if !s.isLocal(user) {
		return all, errcode.NotFound("the user is not of this server")
	}
	return all, s.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.IDs.FindUser(user)
		if err != nil || !ok {
			return err
		}
		keys, err := tx.DeviceKeys.List(nid)
		if err != nil {
			return err
		}
		for _, k := range keys {
			u := DeviceListUpdate{User: user, Device: k.Device}
			if err := s.describe(tx, nid, &u); err != nil {
				return err
			}
			all.Devices = append(all.Devices, UserDevice{u.Device, u.Name, u.Keys})
		}
		cross, err := signingKeysOf(tx, nid, user)
		if err != nil {
			return err
		}
		all.MasterKey, all.SelfSigningKey = cross.MasterKey, cross.SelfSigningKey
		all.StreamID, err = tx.RemoteLists.Update(nid)
		return err
	})
}
