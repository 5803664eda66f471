package account

import (
	"context"
	"net/http"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Appservice is what accounts need to know of an application service.
type Appservice struct {
	ID          string
	Sender      id.User // of sender_localpart
	RateLimited bool
	Owns        func(id.User) bool // in one of its user namespaces
}

func (s Appservice) owns(u id.User) bool {
	return u == s.Sender || s.Owns != nil && s.Owns(u)
}

// actAs lets an application service act as one of its users.
// spec: application-service-api#identity-assertion
func (a *Accounts) actAs(ctx context.Context, as Appservice, r Request) (Caller, error) {
	c := Caller{User: as.Sender, Device: r.Device, Appservice: as.ID, Unlimited: !as.RateLimited}
	if r.User != "" {
		u, err := id.ParseUser(r.User)
		if err != nil || u.Server() != a.o.ServerName || !as.owns(u) {
			return Caller{}, errcode.Forbidden("the application service cannot act as this user")
		}
		c.User = u
	}
	// spec: application-service-api#registration rate_limited
	c.Unlimited = c.Unlimited || c.User == as.Sender
	if c.User == as.Sender && c.Device == "" {
		return c, nil
	}
	return c, a.store.View(ctx, func(tx *store.Tx) error {
		u, ok, err := tx.Users.Get(c.User)
		switch {
		case err != nil:
			return err
		case c.User != as.Sender && (!ok || u.Deactivated):
			return errcode.Forbidden("the application service has not registered this user")
		case u.Locked && !r.EvenLocked:
			return errLocked
		}
		c.Suspended, c.ShadowBanned = u.Suspended, u.ShadowBanned
		if c.Device == "" {
			return nil
		}
		if _, ok, err = tx.Devices.Get(c.User, c.Device); err == nil && !ok {
			err = errcode.New(http.StatusBadRequest, "M_UNKNOWN_DEVICE", "the user has no such device")
		}
		return err
	})
}

// appserviceOf finds the application service of a token, or refuses.
func (a *Accounts) appserviceOf(token string) (Appservice, error) {
	if token == "" {
		return Appservice{}, errcode.MissingToken("application services must give their token")
	}
	if a.FindAppservice != nil {
		if as, ok := a.FindAppservice(token); ok {
			return as, nil
		}
	}
	return Appservice{}, errcode.Forbidden("the token is not of an application service")
}

// IsAppservice says whether a token is of an application service.
func (a *Accounts) IsAppservice(token string) bool {
	_, err := a.appserviceOf(token)
	return err == nil
}

// checkExclusive refuses user ids that an application service has for itself;
// by is the one that asks, or empty.
func (a *Accounts) checkExclusive(u id.User, by string) error {
	if a.ExclusiveTo == nil {
		return nil
	}
	if owner, ok := a.ExclusiveTo(u); ok && owner != by {
		return errcode.Exclusive("this user id is reserved by an application service")
	}
	return nil
}

// MakeSender makes the account of an application service's own user, unless it is there.
func (a *Accounts) MakeSender(ctx context.Context, as Appservice) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		_, ok, err := tx.Users.Get(as.Sender)
		if err != nil || ok {
			return err
		}
		return a.insertUser(tx, as.Sender, Registration{Appservice: as.ID, DisplayName: as.Sender.Localpart()})
	})
}
