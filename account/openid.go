package account

import (
	"context"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// MakeOpenIDToken makes a token by which a third party learns who the user is.
// spec: client-server-api#openid
func (a *Accounts) MakeOpenIDToken(ctx context.Context, u id.User) (token string, expiresInS int64, err error) {
	token, now := randomToken("hot_"), nowMS()
	err = a.store.Update(ctx, func(tx *store.Tx) error {
		return tx.Tokens.InsertOpenID(token, u, now, now+a.o.OpenIDLifetime.Milliseconds())
	})
	return token, int64(a.o.OpenIDLifetime.Seconds()), err
}

// OpenIDUser finds the user of an OpenID token, which is good for nothing else.
// spec: server-server-api#openid
func (a *Accounts) OpenIDUser(ctx context.Context, token string) (u id.User, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) error {
		owner, ok, err := tx.Tokens.FindOpenID(token, nowMS())
		if err != nil {
			return err
		}
		if !ok {
			return errcode.UnknownToken("the token is not known or has expired")
		}
		row, _, err := tx.Users.Get(owner)
		if err == nil && (row.Deactivated || row.Locked) {
			err = errcode.UnknownToken("the token is not known or has expired")
		}
		u = owner
		return err
	})
	return
}
