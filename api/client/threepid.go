package client

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
)

// This server sends no mail and no text messages, and trusts no identity
// server. Addresses that accounts have, from an import, are shown, log their
// users in and can be taken off.

type threePIDsResponse struct {
	ThreePIDs []account.ThreePID `json:"threepids"`
}

// spec: client-server-api#get_matrixclientv3account3pid
func (a *API) getAccount3PIDs(ctx context.Context, c httpx.Caller, _ none) (threePIDsResponse, error) {
	list, err := a.Accounts.ListThreePIDs(ctx, c.User)
	if list == nil {
		list = []account.ThreePID{}
	}
	return threePIDsResponse{list}, err
}

// errNotProven: no session that could prove an address was ever opened.
var errNotProven = errcode.New(http.StatusForbidden, "M_THREEPID_AUTH_FAILED", "the address has not been validated")

type post3PIDsRequest struct {
	Creds jsontext.Value `json:"three_pid_creds"`
}

// spec: client-server-api#post_matrixclientv3account3pid
func (a *API) post3PIDs(_ context.Context, _ httpx.Caller, r post3PIDsRequest) (none, error) {
	if r.Creds == nil {
		return none{}, errcode.MissingParam("three_pid_creds is missing")
	}
	return none{}, errNotProven
}

type add3PIDRequest struct {
	Auth         jsontext.Value `json:"auth"`
	ClientSecret string         `json:"client_secret"`
	SID          string         `json:"sid"`
}

type add3PIDParams struct {
	ClientSecret string `json:"client_secret,omitempty"`
	SID          string `json:"sid,omitempty"`
}

// spec: client-server-api#post_matrixclientv3account3pidadd
func (a *API) add3PID(ctx context.Context, c httpx.Caller, r add3PIDRequest) (none, error) {
	p := add3PIDParams{r.ClientSecret, r.SID}
	if err := a.interactive(ctx, c, opAdd3PID, r.Auth, &p); err != nil {
		return none{}, err
	}
	if p.ClientSecret == "" || p.SID == "" {
		return none{}, errcode.MissingParam("client_secret or sid is missing")
	}
	return none{}, errNotProven
}

type bind3PIDRequest struct {
	ClientSecret string `json:"client_secret"`
	IDServer     string `json:"id_server"`
	IDToken      string `json:"id_access_token"`
	SID          string `json:"sid"`
}

// spec: client-server-api#post_matrixclientv3account3pidbind
func (a *API) bind3PID(_ context.Context, _ httpx.Caller, r bind3PIDRequest) (none, error) {
	if r.ClientSecret == "" || r.IDServer == "" || r.IDToken == "" || r.SID == "" {
		return none{}, errcode.MissingParam("client_secret, id_server, id_access_token or sid is missing")
	}
	return none{}, errUntrusted
}

var errUntrusted = errcode.New(http.StatusBadRequest, "M_SERVER_NOT_TRUSTED", "this server works with no identity server")

type threePIDRequest struct {
	IDServer string `json:"id_server"`
	Medium   string `json:"medium"`
	Address  string `json:"address"`
}

func (r threePIDRequest) check() error {
	if r.Medium == "" || r.Address == "" {
		return errcode.MissingParam("medium or address is missing")
	}
	return nil
}

// spec: client-server-api#post_matrixclientv3account3piddelete
func (a *API) delete3pidFromAccount(ctx context.Context, c httpx.Caller, r threePIDRequest) (unbindResponse, error) {
	if err := r.check(); err != nil {
		return unbindResponse{}, err
	}
	return unbindResponse{"no-support"}, a.Accounts.DeleteThreePID(ctx, c.User, r.Medium, r.Address)
}

// spec: client-server-api#post_matrixclientv3account3pidunbind
func (a *API) unbind3pidFromAccount(_ context.Context, _ httpx.Caller, r threePIDRequest) (unbindResponse, error) {
	return unbindResponse{"no-support"}, r.check()
}

type requestTokenRequest struct {
	ClientSecret string `json:"client_secret"`
	Email        string `json:"email"`
	Country      string `json:"country"`
	PhoneNumber  string `json:"phone_number"`
	SendAttempt  *int64 `json:"send_attempt"`
	IDServer     string `json:"id_server"`
}

func (r requestTokenRequest) check(address string) error {
	if r.ClientSecret == "" || address == "" || r.SendAttempt == nil {
		return errcode.MissingParam("client_secret, send_attempt or the address is missing")
	}
	return nil
}

var (
	errMedium = errcode.New(http.StatusBadRequest, "M_THREEPID_MEDIUM_NOT_SUPPORTED", "this server cannot send to such addresses")
	errDenied = errcode.New(http.StatusForbidden, "M_THREEPID_DENIED", "this server cannot send to such addresses")
)

func requestToken(r requestTokenRequest, address string, refusal error) (none, error) {
	if err := r.check(address); err != nil {
		return none{}, err
	}
	return none{}, refusal
}

// spec: client-server-api#post_matrixclientv3registeremailrequesttoken
func (a *API) requestTokenToRegisterEmail(_ context.Context, _ httpx.Caller, r requestTokenRequest) (none, error) {
	return requestToken(r, r.Email, errDenied)
}

func (a *API) requestTokenToRegisterMSISDN(_ context.Context, _ httpx.Caller, r requestTokenRequest) (none, error) {
	return requestToken(r, r.PhoneNumber, errDenied)
}

func (a *API) requestTokenToResetPasswordEmail(_ context.Context, _ httpx.Caller, r requestTokenRequest) (none, error) {
	return requestToken(r, r.Email, errDenied)
}

func (a *API) requestTokenToResetPasswordMSISDN(_ context.Context, _ httpx.Caller, r requestTokenRequest) (none, error) {
	return requestToken(r, r.PhoneNumber, errDenied)
}

func (a *API) requestTokenTo3PIDEmail(_ context.Context, _ httpx.Caller, r requestTokenRequest) (none, error) {
	return requestToken(r, r.Email, errMedium)
}

func (a *API) requestTokenTo3PIDMSISDN(_ context.Context, _ httpx.Caller, r requestTokenRequest) (none, error) {
	return requestToken(r, r.PhoneNumber, errMedium)
}
