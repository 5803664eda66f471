package client

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// spec: client-server-api#get_matrixclientv3profileuserid
func (a *API) getUserProfile(ctx context.Context, _ httpx.Caller, r userPath) (account.Profile, error) {
	return a.Accounts.GetProfile(ctx, r.User, "")
}

type profileFieldPath struct {
	User id.User `path:"userId"`
	Key  string  `path:"keyName"`
}

// spec: client-server-api#get_matrixclientv3profileuseridkeyname
func (a *API) getProfileField(ctx context.Context, _ httpx.Caller, r profileFieldPath) (account.Profile, error) {
	return a.Accounts.GetProfile(ctx, r.User, r.Key)
}

type setProfileFieldRequest struct {
	User id.User        `path:"userId"`
	Key  string         `path:"keyName"`
	Body jsontext.Value `body:"."`
}

// spec: client-server-api#put_matrixclientv3profileuseridkeyname
func (a *API) setProfileField(ctx context.Context, c httpx.Caller, r setProfileFieldRequest) (none, error) {
	if err := ownProfile(c, r.User, r.Key); err != nil {
		return none{}, err
	}
	var fields map[string]jsontext.Value
	if err := json.Unmarshal(r.Body, &fields); err != nil {
		return none{}, errcode.BadJSON("the body must be an object")
	}
	value, ok := fields[r.Key]
	if !ok {
		return none{}, errcode.MissingParam("the body has no key %q", r.Key)
	}
	return none{}, a.Accounts.SetProfileField(ctx, r.User, r.Key, value)
}

// spec: client-server-api#delete_matrixclientv3profileuseridkeyname
func (a *API) deleteProfileField(ctx context.Context, c httpx.Caller, r profileFieldPath) (none, error) {
	if err := ownProfile(c, r.User, r.Key); err != nil {
		return none{}, err
	}
	return none{}, a.Accounts.SetProfileField(ctx, r.User, r.Key, nil)
}

// ownProfile: guests may say what they are called, and no more.
// spec: client-server-api#guest-access
func ownProfile(c httpx.Caller, u id.User, key string) error {
	if c.Guest && key != "displayname" {
		return errcode.New(403, "M_GUEST_ACCESS_FORBIDDEN", "guests may only change their display name")
	}
	return own(c, u)
}
