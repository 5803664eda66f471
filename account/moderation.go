package account

import (
	"context"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// ChangePassword sets a new password by its hash. With logout, all sessions but
// the caller's end.
// spec: client-server-api#password-management
func (a *Accounts) ChangePassword(ctx context.Context, c Caller, hash string, logout bool) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Users.SetPasswordHash(c.User, hash); err != nil || !logout {
			return err
		}
		return a.deleteOtherDevices(tx, c.User, c.Device, c.TokenID)
	})
}

// Deactivate closes an account for good: no session, address, profile or
// password is left, and the hooks leave its rooms. With erase its account data
// goes too, and newcomers to rooms see its events redacted.
// spec: client-server-api#account-deactivation
func (a *Accounts) Deactivate(ctx context.Context, u id.User, erase bool) error {
	err := a.store.Update(ctx, func(tx *store.Tx) error {
		if err := tx.Users.SetDeactivated(u, true); err != nil {
			return err
		}
		if err := a.deleteOtherDevices(tx, u, "", 0); err != nil {
			return err
		}
		if err := tx.Users.DeleteThreePIDs(u); err != nil {
			return err
		}
		if err := tx.Profiles.Delete(u); err != nil || !erase {
			return err
		}
		if err := tx.AccountData.DeleteAll(u); err != nil {
			return err
		}
		return tx.Users.SetErased(u, true)
	})
	if err != nil {
		return err
	}
	// Whoever asked may hang up; the rooms are left all the same.
	ctx = context.WithoutCancel(ctx)
	var hooks []func() error
	for _, hook := range a.Deactivated {
		hooks = append(hooks, func() error { return hook(ctx, u, erase) })
	}
	runAll(ctx, "after deactivation", u, hooks...)
	return nil
}

// moderated finds the account that an administrator is about to look at or change.
// spec: client-server-api#account-moderation
func (a *Accounts) moderated(tx *store.Tx, by, u id.User) (store.User, error) {
	if u.Server() != a.o.ServerName {
		return store.User{}, errcode.InvalidParam("the user is not of this server")
	}
	row, ok, err := tx.Users.Get(u)
	switch {
	case err != nil:
		return row, err
	case !ok || row.Deactivated:
		return row, errcode.NotFound("there is no such account")
	case row.Admin && u != by:
		return row, errcode.Forbidden("the user is an administrator too")
	}
	return row, nil
}

// GetModeration reads an account for an administrator.
func (a *Accounts) GetModeration(ctx context.Context, by, u id.User) (row store.User, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		row, err = a.moderated(tx, by, u)
		return
	})
	return
}

// SetLocked locks an account or unlocks it; its sessions stay.
func (a *Accounts) SetLocked(ctx context.Context, by, u id.User, locked bool) error {
	return a.moderate(ctx, by, u, func(tx *store.Tx) error { return tx.Users.SetLocked(u, locked) })
}

// SetSuspended suspends an account or lets it act again.
func (a *Accounts) SetSuspended(ctx context.Context, by, u id.User, suspended bool) error {
	return a.moderate(ctx, by, u, func(tx *store.Tx) error { return tx.Users.SetSuspended(u, suspended) })
}

func (a *Accounts) moderate(ctx context.Context, by, u id.User, change func(*store.Tx) error) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		if _, err := a.moderated(tx, by, u); err != nil {
			return err
		}
		if u == by {
			return errcode.Forbidden("you cannot do this to yourself")
		}
		return change(tx)
	})
}
