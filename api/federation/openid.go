package federation

import (
	"context"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type exchangeOpenIDTokenRequest struct {
	Token string `query:"access_token"`
}

type openIDUser struct {
	User id.User `json:"sub"`
}

// exchangeOpenIdToken tells whose OpenID token it is. Anybody may ask who has one.
func (a *API) exchangeOpenIdToken(ctx context.Context, _ httpx.Caller, r exchangeOpenIDTokenRequest) (openIDUser, error) {
	if r.Token == "" {
		return openIDUser{}, errcode.MissingToken("access_token is missing")
	}
	user, err := a.Accounts.OpenIDUser(ctx, r.Token)
	return openIDUser{user}, err
}
