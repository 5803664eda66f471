// Package admin is Synapse's Admin API under /_synapse/admin, which operators'
// tools speak. Each endpoint is one small function, as in api/client.
//
// It holds no rules of its own and must not import store. Start at Routes.
package admin

import (
	"context"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// API answers operators' tools. Its fields are set once, where the program is wired.
type API struct {
	Accounts *account.Accounts
}

type none struct{}

// Routes is the table of contents of the API.
func (a *API) Routes() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /_synapse/admin/v1/register", httpx.None, httpx.NoLimit, a.getNonce),
		httpx.Handle("POST /_synapse/admin/v1/register", httpx.None, httpx.NoLimit, a.register),
	}
}

type nonceResponse struct {
	Nonce string `json:"nonce"`
}

// getNonce is the first half of registration by the shared secret.
func (a *API) getNonce(context.Context, httpx.Caller, none) (nonceResponse, error) {
	nonce, err := a.Accounts.MakeNonce()
	return nonceResponse{nonce}, err
}

type registerRequest struct {
	Nonce        *string   `json:"nonce"`
	Username     *string   `json:"username"`
	Password     *string   `json:"password"`
	MAC          *string   `json:"mac"`
	Admin        bool      `json:"admin"`
	Type         string    `json:"user_type"`
	DisplayName  string    `json:"displayname"`
	InhibitLogin bool      `json:"inhibit_login"`
	Device       id.Device `json:"device_id"`
	DeviceName   string    `json:"initial_device_display_name"`
	RefreshToken bool      `json:"refresh_token"`
}

type registerResponse struct {
	User         id.User   `json:"user_id"`
	AccessToken  string    `json:"access_token,omitempty"`
	RefreshToken string    `json:"refresh_token,omitempty"`
	ExpiresInMS  int64     `json:"expires_in_ms,omitzero"`
	Device       id.Device `json:"device_id,omitempty"`
	HomeServer   id.Server `json:"home_server"`
}

// register makes an account for a tool that knows the shared secret.
func (a *API) register(ctx context.Context, c httpx.Caller, r registerRequest) (registerResponse, error) {
	for _, field := range []*string{r.Nonce, r.Username, r.Password, r.MAC} {
		if field == nil {
			return registerResponse{}, errcode.BadJSON("nonce, username, password or mac is missing")
		}
	}
	s, err := a.Accounts.RegisterBySharedSecret(ctx, account.SecretRegistration{Nonce: *r.Nonce, Username: *r.Username, Password: *r.Password,
		MAC: *r.MAC, Admin: r.Admin, Type: r.Type, DisplayName: r.DisplayName, InhibitLogin: r.InhibitLogin,
		Device: account.DeviceRequest{ID: r.Device, DisplayName: r.DeviceName, WantRefresh: r.RefreshToken, IP: c.IP, UserAgent: c.UserAgent}})
	if err != nil {
		return registerResponse{}, err
	}
	return registerResponse{s.User, s.AccessToken, s.RefreshToken, s.ExpiresInMS, s.Device, s.User.Server()}, nil
}
