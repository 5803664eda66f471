package client

import (
	"bytes"
	"context"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type registerRequest struct {
	Authorization string         `header:"Authorization"`
	AccessToken   string         `query:"access_token"`
	Kind          string         `query:"kind"`
	Auth          jsontext.Value `json:"auth"`
	Type          string         `json:"type"`
	Username      string         `json:"username"`
	User          string         `json:"user"` // as application services said before r0
	Password      string         `json:"password"`
	Device        id.Device      `json:"device_id"`
	DeviceName    string         `json:"initial_device_display_name"`
	InhibitLogin  bool           `json:"inhibit_login"`
	RefreshToken  bool           `json:"refresh_token"`
	GuestToken    string         `json:"guest_access_token"`
}

// registration is what stays of a request while its interaction goes on.
type registration struct {
	Username     string    `json:"username,omitempty"`
	Device       id.Device `json:"device_id,omitempty"`
	DeviceName   string    `json:"initial_device_display_name,omitempty"`
	InhibitLogin bool      `json:"inhibit_login,omitzero"`
	RefreshToken bool      `json:"refresh_token,omitzero"`
	GuestToken   string    `json:"guest_access_token,omitempty"`
}

// spec: client-server-api#post_matrixclientv3register
func (a *API) register(ctx context.Context, c httpx.Caller, r registerRequest) (sessionResponse, error) {
	s, err := a.registerBy(ctx, c, r)
	return newSessionResponse(s), err
}

func (a *API) registerBy(ctx context.Context, c httpx.Caller, r registerRequest) (account.Session, error) {
	token := bearer(r.Authorization, r.AccessToken)
	if r.Type == "m.login.application_service" || a.Accounts.IsAppservice(token) {
		if r.Username == "" {
			r.Username = r.User
		}
		return a.Accounts.RegisterAppserviceUser(ctx, token, account.Registration{Username: r.Username, InhibitLogin: r.InhibitLogin,
			Device: deviceRequest(c, r.Device, r.DeviceName, r.RefreshToken)})
	}
	switch r.Kind {
	case "guest":
		return a.registerGuest(ctx, c, r)
	case "", "user":
		return a.registerUser(ctx, c, r)
	}
	return account.Session{}, errcode.InvalidParam("kind must be user or guest")
}

// registerGuest ignores all but the name of the device.
// spec: client-server-api#guest-access
func (a *API) registerGuest(ctx context.Context, c httpx.Caller, r registerRequest) (account.Session, error) {
	if !a.Accounts.CanBeGuest() {
		return account.Session{}, errcode.New(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "guests are not let in here")
	}
	if err := a.Limits.Take(httpx.Registration, c.Network()); err != nil {
		return account.Session{}, err
	}
	return a.Accounts.Register(ctx, account.Registration{Guest: true, Device: deviceRequest(c, "", r.DeviceName, false)})
}

func (a *API) registerUser(ctx context.Context, c httpx.Caller, r registerRequest) (account.Session, error) {
	if !a.Accounts.CanRegister() {
		return account.Session{}, errcode.Forbidden("registration is closed")
	}
	if err := a.Limits.Check(httpx.Registration, c.Network()); err != nil {
		return account.Session{}, err
	}
	p := registration{r.Username, r.Device, r.DeviceName, r.InhibitLogin, r.RefreshToken, r.GuestToken}
	if p.Username != "" && p.GuestToken == "" {
		if _, err := a.Accounts.CheckUsername(ctx, p.Username, ""); err != nil {
			return account.Session{}, err
		}
	}
	proof, err := a.proveRegistration(ctx, c, r, p)
	if err != nil {
		return account.Session{}, err
	}
	if err := json.Unmarshal(proof.Params, &p); err != nil {
		return account.Session{}, err
	}
	if proof.SecretHash == "" {
		return account.Session{}, errcode.MissingParam("password is missing")
	}
	if err := a.Limits.Take(httpx.Registration, c.Network()); err != nil {
		return account.Session{}, err
	}
	return a.Accounts.Register(ctx, account.Registration{Username: p.Username, PasswordHash: proof.SecretHash, InhibitLogin: p.InhibitLogin,
		Token: proof.Results[account.StageRegistrationToken], GuestToken: p.GuestToken,
		Device: deviceRequest(c, p.Device, p.DeviceName, p.RefreshToken)})
}

func (a *API) proveRegistration(ctx context.Context, c httpx.Caller, r registerRequest, p registration) (account.Proof, error) {
	params, err := json.Marshal(p)
	if err != nil {
		return account.Proof{}, err
	}
	if bytes.Contains(r.Auth, []byte(account.StageRegistrationToken)) {
		if err := a.Limits.Take(httpx.RegistrationTokenValidity, c.Network()); err != nil {
			return account.Proof{}, err
		}
	}
	return a.Accounts.Interact(ctx, account.Interaction{Operation: opRegister, Params: params, Secret: r.Password, Mutable: true,
		Auth: r.Auth, Flows: a.Accounts.RegistrationFlows()})
}

type usernameRequest struct {
	Username string `query:"username"`
}

type availableResponse struct {
	Available bool `json:"available"`
}

// spec: client-server-api#get_matrixclientv3registeravailable
func (a *API) checkUsernameAvailability(ctx context.Context, _ httpx.Caller, r usernameRequest) (availableResponse, error) {
	if !a.Accounts.CanRegister() {
		return availableResponse{}, errcode.Forbidden("registration is closed")
	}
	_, err := a.Accounts.CheckUsername(ctx, r.Username, "")
	return availableResponse{true}, err
}

type registrationTokenRequest struct {
	Token string `query:"token"`
}

type validResponse struct {
	Valid bool `json:"valid"`
}

// spec: client-server-api#get_matrixclientv1registermloginregistration_tokenvalidity
func (a *API) registrationTokenValidity(ctx context.Context, _ httpx.Caller, r registrationTokenRequest) (validResponse, error) {
	if !a.Accounts.CanRegister() {
		return validResponse{}, errcode.Forbidden("registration is closed")
	}
	if r.Token == "" {
		return validResponse{}, errcode.MissingParam("token is missing")
	}
	valid, err := a.Accounts.IsRegistrationTokenValid(ctx, r.Token)
	return validResponse{valid}, err
}
