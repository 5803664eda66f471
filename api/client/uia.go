package client

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
)

// Operations that need interactive authentication, as they are shown to people
// who prove who they are in a browser.
const (
	opRegister       = "make an account"
	opLoginToken     = "let another device log in to your account"
	opDeleteDevice   = "remove a device from your account"
	opDeleteDevices  = "remove devices from your account"
	opChangePassword = "change your password"
	opDeactivate     = "close your account for good"
	opAdd3PID        = "add an address to your account"
	opCrossSigning   = "replace the keys by which others verify you"
)

// interactive returns nil when a user has proven who they are, and else the
// challenge to answer with. params is the request without auth: if the client
// sent nothing but its session, it is filled with what the session began with.
// spec: client-server-api#user-interactive-authentication-api
func (a *API) interactive(ctx context.Context, c httpx.Caller, operation string, auth jsontext.Value, params any) error {
	_, err := a.prove(ctx, c, operation, auth, "", params)
	return err
}

// prove is interactive for a request with a new password in it, whose hash it returns.
func (a *API) prove(ctx context.Context, c httpx.Caller, operation string, auth jsontext.Value, secret string, params any) (hash string, err error) {
	if !a.Accounts.CanReauthByPassword() {
		return "", errcode.Forbidden("this server has no way to make sure who you are")
	}
	v, err := json.Marshal(params)
	if err != nil {
		return "", err
	}
	proof, err := a.Accounts.Interact(ctx, account.Interaction{User: c.User, Operation: operation, Params: v, Secret: secret, Auth: auth,
		Flows: [][]string{{account.StagePassword}}})
	if err != nil {
		return "", err
	}
	return proof.SecretHash, json.Unmarshal(proof.Params, params)
}
