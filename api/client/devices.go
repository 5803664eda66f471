package client

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type deviceResponse struct {
	ID          id.Device `json:"device_id"`
	DisplayName string    `json:"display_name,omitempty"`
	LastSeenIP  string    `json:"last_seen_ip,omitempty"`
	LastSeenTS  int64     `json:"last_seen_ts,omitzero"`
}

type devicesResponse struct {
	Devices []deviceResponse `json:"devices"`
}

// spec: client-server-api#get_matrixclientv3devices
func (a *API) getDevices(ctx context.Context, c httpx.Caller, _ none) (devicesResponse, error) {
	devices, err := a.Accounts.ListDevices(ctx, c.User)
	list := make([]deviceResponse, len(devices))
	for i, d := range devices {
		list[i] = deviceResponse{d.ID, d.DisplayName, d.IP, d.LastSeenMS}
	}
	return devicesResponse{list}, err
}

type deviceRequestPath struct {
	Device id.Device `path:"deviceId"`
}

// spec: client-server-api#get_matrixclientv3devicesdeviceid
func (a *API) getDevice(ctx context.Context, c httpx.Caller, r deviceRequestPath) (deviceResponse, error) {
	d, err := a.Accounts.GetDevice(ctx, c.User, r.Device)
	return deviceResponse{d.ID, d.DisplayName, d.IP, d.LastSeenMS}, err
}

type updateDeviceRequest struct {
	Device      id.Device `path:"deviceId"`
	DisplayName *string   `json:"display_name"`
}

// updateDeviceResponse tells a device that was made from one that was changed.
type updateDeviceResponse struct {
	created bool
}

func (r updateDeviceResponse) HTTPStatus() int {
	if r.created {
		return http.StatusCreated
	}
	return http.StatusOK
}

// MarshalJSON makes the empty object.
func (r updateDeviceResponse) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }

// spec: client-server-api#put_matrixclientv3devicesdeviceid
func (a *API) updateDevice(ctx context.Context, c httpx.Caller, r updateDeviceRequest) (updateDeviceResponse, error) {
	if c.AppService != "" {
		created, err := a.Accounts.PutDevice(ctx, c.User, r.Device, r.DisplayName)
		return updateDeviceResponse{created}, err
	}
	return updateDeviceResponse{}, a.Accounts.RenameDevice(ctx, c.User, r.Device, r.DisplayName)
}

type deleteDeviceRequest struct {
	Device id.Device      `path:"deviceId"`
	Auth   jsontext.Value `json:"auth"`
}

// spec: client-server-api#delete_matrixclientv3devicesdeviceid
func (a *API) deleteDevice(ctx context.Context, c httpx.Caller, r deleteDeviceRequest) (none, error) {
	// The device is of the path, so even a request that is only a session names it.
	return a.deleteThese(ctx, c, opDeleteDevice+" ("+string(r.Device)+")", r.Auth, &deleteDevicesParams{[]id.Device{r.Device}})
}

type deleteDevicesRequest struct {
	Devices []id.Device    `json:"devices"`
	Auth    jsontext.Value `json:"auth"`
}

type deleteDevicesParams struct {
	Devices []id.Device `json:"devices,omitempty"`
}

// spec: client-server-api#post_matrixclientv3delete_devices
func (a *API) deleteDevices(ctx context.Context, c httpx.Caller, r deleteDevicesRequest) (none, error) {
	return a.deleteThese(ctx, c, opDeleteDevices, r.Auth, &deleteDevicesParams{r.Devices})
}

func (a *API) deleteThese(ctx context.Context, c httpx.Caller, operation string, auth jsontext.Value, p *deleteDevicesParams) (none, error) {
	if c.AppService == "" {
		if err := a.interactive(ctx, c, operation, auth, p); err != nil {
			return none{}, err
		}
	}
	if p.Devices == nil {
		return none{}, errcode.MissingParam("devices is missing")
	}
	return none{}, a.Accounts.DeleteDevices(ctx, c.User, p.Devices)
}

type whoAmIResponse struct {
	User    id.User   `json:"user_id"`
	Device  id.Device `json:"device_id,omitempty"`
	IsGuest bool      `json:"is_guest"`
}

// spec: client-server-api#get_matrixclientv3accountwhoami
func (a *API) getTokenOwner(_ context.Context, c httpx.Caller, _ none) (whoAmIResponse, error) {
	return whoAmIResponse{c.User, c.Device, c.Guest}, nil
}

type connection struct {
	IP        string `json:"ip,omitempty"`
	LastSeen  int64  `json:"last_seen,omitzero"`
	UserAgent string `json:"user_agent,omitempty"`
}

type whoIsSession struct {
	Connections []connection `json:"connections"`
}

type whoIsDevice struct {
	Sessions []whoIsSession `json:"sessions"`
}

type whoIsResponse struct {
	User    id.User                   `json:"user_id"`
	Devices map[id.Device]whoIsDevice `json:"devices"`
}

type userPath struct {
	User id.User `path:"userId"`
}

// spec: client-server-api#get_matrixclientv3adminwhoisuserid
func (a *API) getWhoIs(ctx context.Context, c httpx.Caller, r userPath) (whoIsResponse, error) {
	if c.User != r.User && !c.Admin {
		return whoIsResponse{}, errcode.Forbidden("only the user and administrators may see this")
	}
	if _, ok, err := a.Accounts.GetUser(ctx, r.User); err != nil || !ok && c.User != r.User {
		if err == nil {
			err = errcode.NotFound("there is no such account")
		}
		return whoIsResponse{}, err
	}
	devices, err := a.Accounts.ListDevices(ctx, r.User)
	resp := whoIsResponse{r.User, map[id.Device]whoIsDevice{}}
	for _, d := range devices {
		resp.Devices[d.ID] = whoIsDevice{[]whoIsSession{{[]connection{{d.IP, d.LastSeenMS, d.UserAgent}}}}}
	}
	return resp, err
}
