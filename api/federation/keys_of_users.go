package federation

import (
	"context"

	"hearth/api/httpx"
	"hearth/e2ee"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type getUserDevicesRequest struct {
	User id.User `path:"userId"`
}

func (a *API) getUserDevices(ctx context.Context, _ httpx.Caller, r getUserDevicesRequest) (e2ee.UserDevices, error) {
	return a.E2EE.DevicesForServer(ctx, r.User)
}

type queryUserEncryptionKeysRequest struct {
	DeviceKeys map[id.User][]id.Device `json:"device_keys"`
}

func (a *API) queryUserEncryptionKeys(ctx context.Context, _ httpx.Caller, r queryUserEncryptionKeysRequest) (e2ee.ServerQuery, error) {
	if r.DeviceKeys == nil {
		return e2ee.ServerQuery{}, errcode.MissingParam("device_keys is missing")
	}
	return a.E2EE.QueryForServer(ctx, r.DeviceKeys)
}

type claimUserEncryptionKeysRequest struct {
	OneTimeKeys map[id.User]map[id.Device]string `json:"one_time_keys"`
}

func (a *API) claimUserEncryptionKeys(ctx context.Context, _ httpx.Caller, r claimUserEncryptionKeysRequest) (e2ee.ServerClaim, error) {
	if r.OneTimeKeys == nil {
		return e2ee.ServerClaim{}, errcode.MissingParam("one_time_keys is missing")
	}
	return a.E2EE.ClaimForServer(ctx, r.OneTimeKeys)
}
