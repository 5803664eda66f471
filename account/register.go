package account

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Registration is an account to be made.
type Registration struct {
	Username     string // empty: make one
	PasswordHash string
	DisplayName  string // empty: the localpart
	Admin        bool
	Type         string // "", bot, support
	Guest        bool
	Appservice   string // id of the application service that makes it
	Token        string // registration token to be used up
	GuestToken   string // access token of the guest who becomes this user
	InhibitLogin bool
	Device       DeviceRequest
}

// CanRegister says whether people may make accounts by themselves.
func (a *Accounts) CanRegister() bool { return a.o.EnableRegistration }

// CanBeGuest says whether guests are let in.
func (a *Accounts) CanBeGuest() bool { return a.o.AllowGuests }

// RegistrationFlows are what people have to do for an account.
func (a *Accounts) RegistrationFlows() [][]string {
	var stages []string
	if a.o.RequireToken || !a.o.WithoutVerification {
		stages = append(stages, StageRegistrationToken)
	}
	if len(a.o.Terms) > 0 {
		stages = append(stages, StageTerms)
	}
	if len(stages) == 0 || stages[0] == StageTerms {
		stages = append(stages, StageDummy)
	}
	return [][]string{stages}
}

// CheckUsername says which user id a new account would have, or why it cannot.
// by is the application service that asks, or empty.
func (a *Accounts) CheckUsername(ctx context.Context, username, by string) (id.User, error) {
	u, err := a.newUserID(username, by)
	if err != nil {
		return "", err
	}
	return u, a.store.View(ctx, func(tx *store.Tx) error {
		taken, err := tx.Users.GetAnyCase(strings.ToLower(string(u)))
		if err == nil && len(taken) > 0 {
			err = errcode.UserInUse("the user name is taken")
		}
		return err
	})
}

func (a *Accounts) newUserID(username, by string) (id.User, error) {
	local := strings.ToLower(username)
	u := id.MakeUser(local, a.o.ServerName)
	switch {
	case !id.ValidLocalpart(local):
		return "", errcode.InvalidUsername("user names are made of a-z, 0-9 and . _ = - / +")
	case len(u) > id.MaxLength:
		return "", errcode.InvalidUsername("the user name is too long")
	}
	return u, a.checkExclusive(u, by)
}

// Register makes an account and, unless inhibited, its first session.
func (a *Accounts) Register(ctx context.Context, r Registration) (Session, error) {
	if err := r.Device.check(); err != nil {
		return Session{}, err
	}
	generated := r.Username == ""
	if generated {
		r.Username = strings.ToLower(rand.Text()[:12])
	}
	u, err := a.newUserID(r.Username, r.Appservice)
	if err != nil {
		return Session{}, err
	}
	if r.DisplayName == "" && !generated {
		r.DisplayName = r.Username
	}
	s := Session{User: u}
	err = a.store.Update(ctx, func(tx *store.Tx) error {
		if err := a.insertUser(tx, u, r); err != nil {
			return err
		}
		if r.InhibitLogin {
			return nil
		}
		s, err = a.openSession(tx, u, r.Device)
		return err
	})
	if err != nil {
		return Session{}, err
	}
	var hooks []func() error
	for _, hook := range a.Registered {
		hooks = append(hooks, func() error { return hook(ctx, u) })
	}
	runAll(ctx, "after registration", u, hooks...)
	return s, nil
}

func (a *Accounts) insertUser(tx *store.Tx, u id.User, r Registration) error {
	if r.Token != "" {
		if ok, err := tx.Registration.UseToken(r.Token, nowMS()); err != nil {
			return err
		} else if !ok {
			return errcode.Forbidden("the registration token is not valid any more")
		}
	}
	if r.GuestToken != "" {
		return a.upgradeGuest(tx, u, r)
	}
	taken, err := tx.Users.GetAnyCase(strings.ToLower(string(u)))
	if err != nil {
		return err
	}
	made := false
	if len(taken) == 0 {
		made, err = tx.Users.Insert(store.User{Name: u, PasswordHash: r.PasswordHash, CreatedS: time.Now().Unix(),
			Admin: r.Admin, Guest: r.Guest, Appservice: r.Appservice, Type: r.Type})
	}
	switch {
	case err != nil:
		return fmt.Errorf("make account %s: %w", u, err)
	case !made:
		return errcode.UserInUse("the user name is taken")
	}
	if _, err := tx.IDs.User(u); err != nil {
		return err
	}
	return tx.Profiles.Set(u, store.Profile{DisplayName: r.DisplayName})
}

// spec: client-server-api#guest-access
func (a *Accounts) upgradeGuest(tx *store.Tx, u id.User, r Registration) error {
	t, ok, err := tx.Tokens.FindAccess(r.GuestToken)
	if err != nil {
		return err
	}
	if !ok || !t.User.Guest || t.User.Deactivated || t.User.Name != u {
		return errcode.Forbidden("the guest access token is not of this user")
	}
	if _, err := tx.Users.UpgradeGuest(u, r.PasswordHash, nowMS()); err != nil {
		return fmt.Errorf("upgrade guest %s: %w", u, err)
	}
	return nil
}

// RegisterAppserviceUser makes an account without a password for an application service.
// spec: application-service-api#server-admin-style-permissions
func (a *Accounts) RegisterAppserviceUser(ctx context.Context, token string, r Registration) (Session, error) {
	as, err := a.appserviceOf(token)
	if err != nil {
		return Session{}, err
	}
	if r.Username == "" {
		return Session{}, errcode.MissingParam("application services must give a username")
	}
	r.Appservice = as.ID
	u, err := a.newUserID(r.Username, as.ID)
	if err != nil {
		return Session{}, err
	}
	if !as.owns(u) {
		return Session{}, errcode.Exclusive("the user is not in a namespace of the application service")
	}
	return a.Register(ctx, r)
}

// IsRegistrationTokenValid says whether a token would let somebody register now.
func (a *Accounts) IsRegistrationTokenValid(ctx context.Context, token string) (valid bool, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) error {
		t, ok, err := tx.Registration.GetToken(token)
		valid = ok && (t.UsesAllowed == nil || t.Completed+t.Pending < *t.UsesAllowed) && (t.ExpiryMS == 0 || t.ExpiryMS > nowMS())
		return err
	})
	return
}

// nonces are those given to tools that know the shared secret. Each node has
// its own: a tool asks for one and uses it on the same connection.
type nonces struct {
	mu  sync.Mutex
	out map[string]time.Time // until when each is good
}

const (
	nonceLifetime = time.Minute
	maxNonces     = 10_000
)

// MakeNonce makes a nonce for RegisterBySharedSecret.
func (a *Accounts) MakeNonce() (string, error) {
	var b [64]byte
	rand.Read(b[:]) // never fails
	nonce, now := hex.EncodeToString(b[:]), time.Now()
	a.nonces.mu.Lock()
	defer a.nonces.mu.Unlock()
	if a.nonces.out == nil {
		a.nonces.out = map[string]time.Time{}
	}
	if len(a.nonces.out) >= maxNonces {
		for n, until := range a.nonces.out {
			if until.Before(now) {
				delete(a.nonces.out, n)
			}
		}
	}
	if len(a.nonces.out) >= maxNonces {
		return "", errcode.LimitExceeded(nonceLifetime.Milliseconds())
	}
	a.nonces.out[nonce] = now.Add(nonceLifetime)
	return nonce, nil
}

func (n *nonces) take(nonce string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	until, ok := n.out[nonce]
	delete(n.out, nonce)
	return ok && time.Now().Before(until)
}

// SecretRegistration is a registration by somebody who knows the shared secret.
type SecretRegistration struct {
	Nonce, Username, Password, MAC string
	Admin                          bool
	Type                           string
	DisplayName                    string
	InhibitLogin                   bool
	Device                         DeviceRequest
}

// RegisterBySharedSecret makes an account for a tool such as Synapse's
// register_new_matrix_user. Refusals are those of Synapse.
func (a *Accounts) RegisterBySharedSecret(ctx context.Context, r SecretRegistration) (Session, error) {
	unknown := func(status int, text string) error { return errcode.New(status, "M_UNKNOWN", "%s", text) }
	if a.o.SharedSecret == "" {
		return Session{}, unknown(http.StatusBadRequest, "Shared secret registration is not enabled")
	}
	if !a.nonces.take(r.Nonce) {
		return Session{}, unknown(http.StatusBadRequest, "unrecognised nonce")
	}
	for what, s := range map[string]string{"username": r.Username, "password": r.Password} {
		if s == "" || len(s) > maxPassword || strings.ContainsRune(s, 0) {
			return Session{}, unknown(http.StatusBadRequest, "Invalid "+what)
		}
	}
	if r.Type != "" && r.Type != "bot" && r.Type != "support" && r.Type != "extra" {
		return Session{}, unknown(http.StatusBadRequest, "Invalid user type")
	}
	if got, err := hex.DecodeString(r.MAC); err != nil || !hmac.Equal(got, r.mac(a.o.SharedSecret)) {
		return Session{}, unknown(http.StatusForbidden, "HMAC incorrect")
	}
	if _, err := a.CheckUsername(ctx, r.Username, ""); err != nil {
		return Session{}, err
	}
	hash, err := a.hashes.hash(ctx, r.Password)
	if err != nil {
		return Session{}, err
	}
	return a.Register(ctx, Registration{Username: strings.ToLower(r.Username), PasswordHash: hash, DisplayName: r.DisplayName,
		Admin: r.Admin, Type: r.Type, InhibitLogin: r.InhibitLogin, Device: r.Device})
}

func (r SecretRegistration) mac(secret string) []byte {
	parts := []string{r.Nonce, r.Username, r.Password, "notadmin"}
	if r.Admin {
		parts[3] = "admin"
	}
	if r.Type != "" {
		parts = append(parts, r.Type)
	}
	m := hmac.New(sha1.New, []byte(secret))
	m.Write([]byte(strings.Join(parts, "\x00")))
	return m.Sum(nil)
}
