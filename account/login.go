package account

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Identifier says who wants to log in.
// spec: client-server-api#identifier-types
type Identifier struct {
	Type    string `json:"type"`
	User    string `json:"user,omitempty"`
	Medium  string `json:"medium,omitempty"`
	Address string `json:"address,omitempty"`
	Country string `json:"country,omitempty"`
	Phone   string `json:"phone,omitempty"`
}

// errWrong tells nothing about which of the two was wrong.
var errWrong = errcode.Forbidden("wrong user name or password")

// Identify finds the user of an identifier. A user id that nobody has is
// returned as it is, so that guessing at it is limited and takes as long as
// guessing at a real one.
func (a *Accounts) Identify(ctx context.Context, i Identifier) (id.User, error) {
	for _, s := range []string{i.User, i.Medium, i.Address, i.Country, i.Phone} {
		if strings.ContainsRune(s, 0) {
			return "", errcode.InvalidParam("the identifier has characters that are not allowed")
		}
	}
	switch {
	case i.Type == "m.id.user":
		if i.User == "" {
			return "", errcode.MissingParam("the identifier has no user")
		}
		return a.findUser(ctx, i.User)
	case i.Type == "m.id.thirdparty", i.Type == "" && i.Medium != "":
		if i.Medium == "" || i.Address == "" {
			return "", errcode.MissingParam("the identifier has no medium or no address")
		}
		return a.findByThreePID(ctx, i.Medium, canonicalAddress(i.Medium, i.Address))
	case i.Type == "m.id.phone":
		numbers := msisdns(i.Country, i.Phone)
		if len(numbers) == 0 {
			return "", errcode.InvalidParam("the phone number or its country is not valid")
		}
		return a.findByThreePID(ctx, "msisdn", numbers...)
	}
	return "", errcode.New(http.StatusBadRequest, "M_UNKNOWN", "unknown type of identifier: %q", i.Type)
}

// findUser takes a user id or a localpart. Capitals count only where two
// accounts, made elsewhere long ago, differ in nothing else.
func (a *Accounts) findUser(ctx context.Context, name string) (u id.User, err error) {
	if strings.HasPrefix(name, "@") {
		if u, err = id.ParseUser(name); err != nil || u.Server() != a.o.ServerName {
			return "", errWrong
		}
	} else if u = id.MakeUser(name, a.o.ServerName); len(u) > id.MaxLength {
		return "", errWrong
	}
	err = a.store.View(ctx, func(tx *store.Tx) error {
		if _, ok, err := tx.Users.Get(u); err != nil || ok {
			return err
		}
		alike, err := tx.Users.GetAnyCase(strings.ToLower(string(u)))
		if len(alike) == 1 {
			u = alike[0].Name
		}
		return err
	})
	return u, err
}

func (a *Accounts) findByThreePID(ctx context.Context, medium string, addresses ...string) (u id.User, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) error {
		for _, address := range addresses {
			owner, ok, err := tx.Users.FindByThreePID(medium, address)
			if err != nil {
				return err
			}
			if ok {
				u = owner
				return nil
			}
		}
		return errWrong
	})
	return
}

// CanLoginByPassword and CanReauthByPassword say where passwords are of use.
func (a *Accounts) CanLoginByPassword() bool  { return !a.o.Passwords.NoLogin }
func (a *Accounts) CanReauthByPassword() bool { return !a.o.Passwords.NoReauth }

// LoginByPassword opens a session for a user, as found by Identify.
func (a *Accounts) LoginByPassword(ctx context.Context, u id.User, password string, d DeviceRequest) (Session, error) {
	if a.o.Passwords.NoLogin {
		return Session{}, errcode.Forbidden("logging in with a password is not possible here")
	}
	better, err := a.verify(ctx, u, password)
	if err != nil {
		return Session{}, err
	}
	return a.login(ctx, u, d, func(tx *store.Tx) error {
		if better == "" {
			return nil
		}
		return tx.Users.SetPasswordHash(u, better)
	})
}

// verify checks a user's password, and returns a better hash of it if the
// stored one is of an older kind.
func (a *Accounts) verify(ctx context.Context, u id.User, password string) (better string, err error) {
	if err := a.passwordAttempt(u, false); err != nil {
		return "", err
	}
	row, _, err := a.GetUser(ctx, u)
	if err != nil {
		return "", err
	}
	ok, err := a.hashes.check(ctx, row.PasswordHash, password)
	switch {
	case err != nil:
		return "", fmt.Errorf("check password of %s: %w", u, err)
	case row.Deactivated:
		return "", errcode.New(http.StatusForbidden, "M_USER_DEACTIVATED", "this account has been deactivated")
	case !ok:
		return "", errors.Join(a.passwordAttempt(u, true), errWrong)
	case a.hashes.isCurrent(row.PasswordHash):
		return "", nil
	}
	return a.hashes.hash(ctx, password)
}

func (a *Accounts) passwordAttempt(u id.User, failed bool) error {
	if a.PasswordAttempt == nil {
		return nil
	}
	return a.PasswordAttempt(u, failed)
}

// login opens a session for a user whose identity is proven. Every way of
// logging in ends here, so none can forget a closed account.
func (a *Accounts) login(ctx context.Context, u id.User, d DeviceRequest, also func(*store.Tx) error) (s Session, err error) {
	if err := d.check(); err != nil {
		return Session{}, err
	}
	err = a.store.Update(ctx, func(tx *store.Tx) error {
		if err := also(tx); err != nil {
			return err
		}
		row, ok, err := tx.Users.Get(u)
		switch {
		case err != nil:
			return err
		case !ok:
			return errcode.Forbidden("there is no such account")
		case row.Deactivated:
			return errcode.New(http.StatusForbidden, "M_USER_DEACTIVATED", "this account has been deactivated")
		case row.Locked:
			return errLocked
		}
		s, err = a.openSession(tx, u, d)
		return err
	})
	return s, err
}

func nothing(*store.Tx) error { return nil }

// LoginByToken opens a session with a token that MakeLoginToken gave.
func (a *Accounts) LoginByToken(ctx context.Context, token string, d DeviceRequest) (Session, error) {
	if err := d.check(); err != nil {
		return Session{}, err
	}
	var u id.User
	// Taking the token is a write of its own, so that it is used up even if
	// the login is refused.
	err := a.store.Update(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if u, ok, err = tx.Tokens.TakeLogin(token, nowMS()); err == nil && !ok {
			u = ""
		}
		return
	})
	if err != nil {
		return Session{}, err
	}
	if u == "" {
		return Session{}, errcode.Forbidden("the login token is not valid")
	}
	return a.login(ctx, u, d, nothing)
}

// MakeLoginToken makes a token that logs its user in once.
func (a *Accounts) MakeLoginToken(ctx context.Context, u id.User) (token string, expiresInMS int64, err error) {
	token, now := randomToken("hlt_"), nowMS()
	expiresInMS = a.o.LoginTokenLifetime.Milliseconds()
	err = a.store.Update(ctx, func(tx *store.Tx) error { return tx.Tokens.InsertLogin(token, u, now, now+expiresInMS) })
	return
}

// LoginByAppservice opens a session for a user of an application service.
// spec: client-server-api#appservice-login
func (a *Accounts) LoginByAppservice(ctx context.Context, token string, i Identifier, d DeviceRequest) (Session, error) {
	as, err := a.appserviceOf(token)
	if err != nil {
		return Session{}, err
	}
	u, err := a.Identify(ctx, i)
	if err != nil {
		return Session{}, err
	}
	if !as.owns(u) {
		return Session{}, errcode.Exclusive("the user is not in a namespace of the application service")
	}
	return a.login(ctx, u, d, nothing)
}
