// Package account owns the accounts of this server: who may register and log
// in, their tokens, devices, passwords, profiles, account data, and
// interactive authentication.
//
// It must not cache rows of users: an operator may lock or promote somebody in
// the database at any moment, and that counts with the next request. What
// other parts must do when an account changes (leave rooms, drop keys) are the
// func fields of Accounts. Start at Authenticate, Register and Interact.
package account

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"time"

	"golang.org/x/time/rate"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Options is what the configuration says of accounts. Zero lifetimes are for ever.
type Options struct {
	ServerName id.Server

	EnableRegistration bool
	// WithoutVerification lets anybody register; otherwise it takes a registration token.
	WithoutVerification bool
	RequireToken        bool
	SharedSecret        string // of the registration endpoint for tools; empty: closed
	AllowGuests         bool
	Terms               map[string]Policy // policies that people accept at registration

	Passwords Passwords

	SessionLifetime     time.Duration // of a login altogether
	AccessLifetime      time.Duration // of access tokens of clients that refresh; 0: five minutes
	RefreshLifetime     time.Duration // of refresh tokens
	PlainLifetime       time.Duration // of access tokens of clients that do not refresh
	LoginTokenLifetime  time.Duration // 0: two minutes
	InteractionLifetime time.Duration // 0: an hour
	OpenIDLifetime      time.Duration // 0: an hour
}

// Policy is a document that people accept at registration.
// spec: client-server-api#terms-of-service-at-registration
type Policy struct {
	Version      string
	Translations map[string]PolicyText // by language
}

type PolicyText struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Accounts is the service. Its func fields are set where the program is wired,
// before the first call; nil ones are not called.
type Accounts struct {
	// FindAppservice finds the application service of an as_token.
	FindAppservice func(token string) (Appservice, bool)
	// ExclusiveTo finds the application service that has a user id for itself.
	ExclusiveTo func(u id.User) (appservice string, ok bool)
	// IsCrossSigningKey says whether a device id is in use as a cross-signing key.
	IsCrossSigningKey func(tx *store.Tx, u id.User, d id.Device) (bool, error)
	// DevicesDeleted and DeviceChanged run in the transaction that deletes
	// devices, or makes or renames one.
	DevicesDeleted []func(tx *store.Tx, u id.User, devices []id.Device) error
	DeviceChanged  []func(tx *store.Tx, u id.User, d id.Device) error
	// Registered runs after an account was made.
	Registered []func(ctx context.Context, u id.User) error
	// ProfileChanged runs after the display name or the avatar has changed.
	ProfileChanged []func(ctx context.Context, u id.User) error
	// Deactivated runs after an account was closed: leave its rooms.
	Deactivated []func(ctx context.Context, u id.User, erase bool) error
	// QueryUser asks application services to make a user of this server, if one of them may
	// have it; true: it is there now.
	QueryUser func(ctx context.Context, u id.User) (made bool, err error)
	// RemoteProfile asks another server for a profile; field may be empty.
	RemoteProfile func(ctx context.Context, u id.User, field string) (map[string]any, error)
	// PasswordAttempt is asked before a password is checked (failed is false)
	// and told of failures; its error ends the attempt.
	PasswordAttempt func(u id.User, failed bool) error

	o         Options
	store     *store.Store
	hashes    hasher
	nonces    nonces
	seen      lastSeen
	anonymous *rate.Limiter // of sessions of those who are not logged in
}

// New makes the service.
func New(s *store.Store, o Options) *Accounts {
	for lifetime, preset := range map[*time.Duration]time.Duration{
		&o.AccessLifetime: 5 * time.Minute, &o.LoginTokenLifetime: 2 * time.Minute,
		&o.InteractionLifetime: time.Hour, &o.OpenIDLifetime: time.Hour,
	} {
		if *lifetime <= 0 {
			*lifetime = preset
		}
	}
	return &Accounts{o: o, store: s, hashes: newHasher(o.Passwords), anonymous: rate.NewLimiter(anonymousSessions, 10*anonymousSessions)}
}

// Caller is who an access token stands for.
type Caller struct {
	User         id.User
	Device       id.Device
	TokenID      int64 // 0: an application service acts
	Guest        bool
	Admin        bool
	Suspended    bool
	ShadowBanned bool
	Appservice   string // id of the application service that acts as User
	Unlimited    bool   // the application service is not rate limited
}

// Request is what of a request matters for authentication.
type Request struct {
	Token string
	// User and Device are those that an application service acts as.
	User   string
	Device id.Device
	// EvenLocked lets a locked user pass: to log out.
	EvenLocked    bool
	IP, UserAgent string
}

var errLocked = errcode.New(http.StatusUnauthorized, "M_USER_LOCKED", "this account has been locked").With("soft_logout", true)

// Authenticate finds the caller of a token.
// spec: client-server-api#using-access-tokens
func (a *Accounts) Authenticate(ctx context.Context, r Request) (Caller, error) {
	if r.Token == "" {
		return Caller{}, errcode.MissingToken("no access token was given")
	}
	if a.FindAppservice != nil {
		if as, ok := a.FindAppservice(r.Token); ok {
			return a.actAs(ctx, as, r)
		}
	}
	var t store.AccessToken
	err := a.store.View(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if t, ok, err = tx.Tokens.FindAccess(r.Token); err == nil && !ok {
			err = unknownToken()
		}
		return
	})
	if err != nil {
		return Caller{}, err
	}
	now := nowMS()
	switch {
	case t.User.Deactivated:
		return Caller{}, unknownToken()
	case t.User.Locked && !r.EvenLocked:
		return Caller{}, errLocked
	case t.ValidUntilMS != 0 && t.ValidUntilMS <= now:
		return Caller{}, errcode.UnknownToken("the access token has expired").With("soft_logout", true)
	}
	if t.RefreshID != 0 && !t.Used {
		if err := a.firstUse(ctx, t); err != nil {
			return Caller{}, err
		}
	}
	if t.Device != "" {
		a.sawDevice(t.User.Name, t.Device, now, r)
	}
	return Caller{User: t.User.Name, Device: t.Device, TokenID: t.ID, Guest: t.User.Guest, Admin: t.User.Admin,
		Suspended: t.User.Suspended, ShadowBanned: t.User.ShadowBanned}, nil
}

func unknownToken() error {
	return errcode.UnknownToken("the access token is not known").With("soft_logout", false)
}

// firstUse revokes the refresh token that a pair was got for, now that the pair has arrived.
// spec: client-server-api#refreshing-access-tokens
func (a *Accounts) firstUse(ctx context.Context, t store.AccessToken) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Tokens.SetAccessUsed(t.ID); err != nil {
			return err
		}
		return revokeExchanged(tx, t.RefreshID)
	})
}

// GetUser reads an account of this server.
func (a *Accounts) GetUser(ctx context.Context, u id.User) (user store.User, ok bool, err error) {
	if u.Server() != a.o.ServerName {
		return store.User{}, false, nil
	}
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		user, ok, err = tx.Users.Get(u)
		return
	})
	return
}

// CheckInvitable refuses invites of those who have no account here. The users of an
// application service may come about by being invited.
func (a *Accounts) CheckInvitable(ctx context.Context, u id.User) error {
	user, ok, err := a.GetUser(ctx, u)
	if err != nil || ok && !user.Deactivated {
		return err
	}
	if !ok && a.ExclusiveTo != nil {
		if _, of := a.ExclusiveTo(u); of {
			return nil
		}
	}
	return errcode.Forbidden("there is no user %s here", u)
}

// runAll calls hooks after a change that stands, so what they cannot do is
// logged and does not fail the request; one that fails does not keep the others
// from running.
func runAll(ctx context.Context, what string, u id.User, hooks ...func() error) {
	for _, hook := range hooks {
		if err := hook(); err != nil {
			slog.ErrorContext(ctx, what, "user", u, "error", err)
		}
	}
}

func nowMS() int64 { return time.Now().UnixMilli() }

// randomToken has 130 bits from the system's generator.
func randomToken(prefix string) string { return prefix + rand.Text() }
