package client

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type loginFlow struct {
	Type          string `json:"type"`
	GetLoginToken bool   `json:"get_login_token,omitzero"`
}

type loginFlowsResponse struct {
	Flows []loginFlow `json:"flows"`
}

// spec: client-server-api#get_matrixclientv3login
func (a *API) getLoginFlows(context.Context, httpx.Caller, none) (loginFlowsResponse, error) {
	flows := []loginFlow{}
	if a.Accounts.CanLoginByPassword() {
		flows = append(flows, loginFlow{Type: "m.login.password"})
	}
	flows = append(flows, loginFlow{Type: "m.login.token", GetLoginToken: true}, loginFlow{Type: "m.login.application_service"})
	return loginFlowsResponse{flows}, nil
}

type loginRequest struct {
	Authorization string             `header:"Authorization"`
	AccessToken   string             `query:"access_token"`
	Type          string             `json:"type"`
	Identifier    account.Identifier `json:"identifier"`
	User          string             `json:"user"`
	Medium        string             `json:"medium"`
	Address       string             `json:"address"`
	Password      *string            `json:"password"`
	Token         string             `json:"token"`
	Device        id.Device          `json:"device_id"`
	DeviceName    string             `json:"initial_device_display_name"`
	RefreshToken  bool               `json:"refresh_token"`
}

type sessionResponse struct {
	User         id.User   `json:"user_id"`
	AccessToken  string    `json:"access_token,omitempty"`
	Device       id.Device `json:"device_id,omitempty"`
	HomeServer   id.Server `json:"home_server"` // deprecated; old libraries want it
	RefreshToken string    `json:"refresh_token,omitempty"`
	ExpiresInMS  int64     `json:"expires_in_ms,omitzero"`
}

func newSessionResponse(s account.Session) sessionResponse {
	return sessionResponse{s.User, s.AccessToken, s.Device, s.User.Server(), s.RefreshToken, s.ExpiresInMS}
}

// spec: client-server-api#post_matrixclientv3login
func (a *API) login(ctx context.Context, c httpx.Caller, r loginRequest) (sessionResponse, error) {
	s, err := a.loginBy(ctx, c, r)
	return newSessionResponse(s), err
}

func (a *API) loginBy(ctx context.Context, c httpx.Caller, r loginRequest) (account.Session, error) {
	d := deviceRequest(c, r.Device, r.DeviceName, r.RefreshToken)
	if r.Type == "m.login.application_service" {
		return a.Accounts.LoginByAppservice(ctx, bearer(r.Authorization, r.AccessToken), r.identifier(), d)
	}
	if err := a.Limits.Take(httpx.LoginAddress, c.Network()); err != nil {
		return account.Session{}, err
	}
	switch r.Type {
	case "m.login.password":
		if r.Password == nil {
			return account.Session{}, errcode.MissingParam("password is missing")
		}
		u, err := a.Accounts.Identify(ctx, r.identifier())
		if err != nil {
			return account.Session{}, err
		}
		if err := a.Limits.Take(httpx.LoginAccount, string(u)); err != nil {
			return account.Session{}, err
		}
		return a.Accounts.LoginByPassword(ctx, u, *r.Password, d)
	case "m.login.token":
		if r.Token == "" {
			return account.Session{}, errcode.MissingParam("token is missing")
		}
		return a.Accounts.LoginByToken(ctx, r.Token, d)
	case "":
		return account.Session{}, errcode.MissingParam("type is missing")
	}
	return account.Session{}, errcode.New(http.StatusBadRequest, "M_UNKNOWN", "unknown login type %q", r.Type)
}

// identifier is that of the request, or what clients sent before there were identifiers.
func (r loginRequest) identifier() account.Identifier {
	switch {
	case r.Identifier != account.Identifier{}:
		return r.Identifier
	case r.Medium != "":
		return account.Identifier{Type: "m.id.thirdparty", Medium: r.Medium, Address: r.Address}
	}
	return account.Identifier{Type: "m.id.user", User: r.User}
}

func deviceRequest(c httpx.Caller, d id.Device, name string, refresh bool) account.DeviceRequest {
	return account.DeviceRequest{ID: d, DisplayName: name, WantRefresh: refresh, IP: c.IP, UserAgent: c.UserAgent}
}

type loginTokenRequest struct {
	Auth jsontext.Value `json:"auth,omitempty"`
}

type loginTokenResponse struct {
	LoginToken  string `json:"login_token"`
	ExpiresInMS int64  `json:"expires_in_ms"`
}

// spec: client-server-api#post_matrixclientv1loginget_token
func (a *API) generateLoginToken(ctx context.Context, c httpx.Caller, r loginTokenRequest) (loginTokenResponse, error) {
	if err := a.interactive(ctx, c, opLoginToken, r.Auth, &none{}); err != nil {
		return loginTokenResponse{}, err
	}
	token, ms, err := a.Accounts.MakeLoginToken(ctx, c.User)
	return loginTokenResponse{token, ms}, err
}

type refreshRequest struct {
	RefreshToken string `json:"refresh_token"`
}

type refreshResponse struct {
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresInMS  int64  `json:"expires_in_ms,omitzero"`
}

// spec: client-server-api#post_matrixclientv3refresh
func (a *API) refresh(ctx context.Context, _ httpx.Caller, r refreshRequest) (refreshResponse, error) {
	if r.RefreshToken == "" {
		return refreshResponse{}, errcode.MissingParam("refresh_token is missing")
	}
	s, err := a.Accounts.Refresh(ctx, r.RefreshToken)
	return refreshResponse{s.AccessToken, s.RefreshToken, s.ExpiresInMS}, err
}

// spec: client-server-api#post_matrixclientv3logout
func (a *API) logout(ctx context.Context, c httpx.Caller, _ none) (none, error) {
	return none{}, a.Accounts.Logout(ctx, accountCaller(c))
}

// spec: client-server-api#post_matrixclientv3logoutall
func (a *API) logout_all(ctx context.Context, c httpx.Caller, _ none) (none, error) {
	return none{}, a.Accounts.LogoutAll(ctx, c.User)
}
