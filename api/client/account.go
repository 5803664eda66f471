package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type changePasswordRequest struct {
	Auth          jsontext.Value `json:"auth"`
	LogoutDevices *bool          `json:"logout_devices"`
	NewPassword   string         `json:"new_password"`
}

type changePasswordParams struct {
	LogoutDevices *bool `json:"logout_devices,omitempty"`
}

// spec: client-server-api#post_matrixclientv3accountpassword
func (a *API) changePassword(ctx context.Context, c httpx.Caller, r changePasswordRequest) (none, error) {
	if !a.Options.PasswordChange {
		return none{}, errcode.Forbidden("passwords cannot be changed here")
	}
	p := changePasswordParams{r.LogoutDevices}
	hash, err := a.prove(ctx, c, opChangePassword, r.Auth, r.NewPassword, &p)
	if err != nil {
		return none{}, err
	}
	if hash == "" {
		return none{}, errcode.MissingParam("new_password is missing")
	}
	logout := p.LogoutDevices == nil || *p.LogoutDevices
	return none{}, a.Accounts.ChangePassword(ctx, accountCaller(c), hash, logout)
}

type deactivateRequest struct {
	Auth     jsontext.Value `json:"auth"`
	Erase    bool           `json:"erase"`
	IDServer string         `json:"id_server"`
}

type deactivateParams struct {
	Erase    bool   `json:"erase,omitzero"`
	IDServer string `json:"id_server,omitempty"`
}

type unbindResponse struct {
	Result string `json:"id_server_unbind_result"`
}

// spec: client-server-api#post_matrixclientv3accountdeactivate
func (a *API) deactivateAccount(ctx context.Context, c httpx.Caller, r deactivateRequest) (unbindResponse, error) {
	p := deactivateParams{r.Erase, r.IDServer}
	if err := a.interactive(ctx, c, opDeactivate, r.Auth, &p); err != nil {
		return unbindResponse{}, err
	}
	// This server binds no address to an identity server, so none is left to unbind.
	return unbindResponse{"success"}, a.Accounts.Deactivate(ctx, c.User, p.Erase)
}

type openIDRequest struct {
	User id.User        `path:"userId"`
	Body jsontext.Value `body:"."`
}

type openIDResponse struct {
	AccessToken string    `json:"access_token"`
	TokenType   string    `json:"token_type"`
	Server      id.Server `json:"matrix_server_name"`
	ExpiresIn   int64     `json:"expires_in"`
}

// spec: client-server-api#post_matrixclientv3useruseridopenidrequest_token
func (a *API) requestOpenIdToken(ctx context.Context, c httpx.Caller, r openIDRequest) (openIDResponse, error) {
	if err := own(c, r.User); err != nil {
		return openIDResponse{}, err
	}
	token, expires, err := a.Accounts.MakeOpenIDToken(ctx, c.User)
	return openIDResponse{token, "Bearer", c.User.Server(), expires}, err
}

type lockRequest struct {
	User   id.User `path:"userId"`
	Locked *bool   `json:"locked"`
}

type lockResponse struct {
	Locked bool `json:"locked"`
}

// spec: client-server-api#get_matrixclientv1adminlockuserid
func (a *API) getAdminLockUser(ctx context.Context, c httpx.Caller, r userPath) (lockResponse, error) {
	u, err := a.Accounts.GetModeration(ctx, c.User, r.User)
	return lockResponse{u.Locked}, err
}

// spec: client-server-api#put_matrixclientv1adminlockuserid
func (a *API) setAdminLockUser(ctx context.Context, c httpx.Caller, r lockRequest) (lockResponse, error) {
	if r.Locked == nil {
		return lockResponse{}, errcode.MissingParam("locked is missing")
	}
	return lockResponse{*r.Locked}, a.Accounts.SetLocked(ctx, c.User, r.User, *r.Locked)
}

type suspendRequest struct {
	User      id.User `path:"userId"`
	Suspended *bool   `json:"suspended"`
}

type suspendResponse struct {
	Suspended bool `json:"suspended"`
}

// spec: client-server-api#get_matrixclientv1adminsuspenduserid
func (a *API) getAdminSuspendUser(ctx context.Context, c httpx.Caller, r userPath) (suspendResponse, error) {
	u, err := a.Accounts.GetModeration(ctx, c.User, r.User)
	return suspendResponse{u.Suspended}, err
}

// spec: client-server-api#put_matrixclientv1adminsuspenduserid
func (a *API) setAdminSuspendUser(ctx context.Context, c httpx.Caller, r suspendRequest) (suspendResponse, error) {
	if r.Suspended == nil {
		return suspendResponse{}, errcode.MissingParam("suspended is missing")
	}
	return suspendResponse{*r.Suspended}, a.Accounts.SetSuspended(ctx, c.User, r.User, *r.Suspended)
}
