package account

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Session is what a client gets when it logs in or refreshes.
type Session struct {
	User         id.User
	Device       id.Device
	AccessToken  string
	RefreshToken string // empty: the client does not refresh
	ExpiresInMS  int64  // 0: never
}

// DeviceRequest is what a client that logs in says of its device.
type DeviceRequest struct {
	ID            id.Device // empty: make one
	DisplayName   string    // for a new device
	WantRefresh   bool
	IP, UserAgent string
}

const (
	// maxDeviceID and maxDeviceName keep rows, and what is sent to other servers, small.
	maxDeviceID   = 512
	maxDeviceName = 100
)

func (d DeviceRequest) check() error {
	switch {
	case len(d.ID) > maxDeviceID || !utf8.ValidString(string(d.ID)) || strings.ContainsRune(string(d.ID), 0):
		return errcode.InvalidParam("the device id is too long or has characters that are not allowed")
	case utf8.RuneCountInString(d.DisplayName) > maxDeviceName:
		return errcode.InvalidParam("the display name of a device has at most %d characters", maxDeviceName)
	}
	return nil
}

// openSession gives a user a device and its tokens. What tokens the device had are gone.
// spec: client-server-api#relationship-between-access-tokens-and-devices
func (a *Accounts) openSession(tx *store.Tx, u id.User, d DeviceRequest) (Session, error) {
	if d.ID == "" {
		d.ID = newDeviceID()
	} else if a.IsCrossSigningKey != nil {
		if taken, err := a.IsCrossSigningKey(tx, u, d.ID); err != nil {
			return Session{}, err
		} else if taken {
			return Session{}, errcode.Forbidden("the device id is in use as a cross-signing key")
		}
	}
	if _, err := tx.Tokens.DeleteOfDevices(u, []id.Device{d.ID}); err != nil {
		return Session{}, fmt.Errorf("end old sessions of %s: %w", d.ID, err)
	}
	made, err := tx.Devices.Insert(u, store.Device{ID: d.ID, DisplayName: d.DisplayName, LastSeenMS: nowMS(), IP: d.IP, UserAgent: userAgent(d.UserAgent)})
	if err != nil {
		return Session{}, fmt.Errorf("make device %s: %w", d.ID, err)
	}
	if made {
		if err := a.deviceChanged(tx, u, d.ID); err != nil {
			return Session{}, err
		}
	}
	until := int64(0)
	if a.o.SessionLifetime > 0 {
		until = nowMS() + a.o.SessionLifetime.Milliseconds()
	}
	s, _, err := a.issue(tx, u, d.ID, d.WantRefresh, until)
	return s, err
}

// issue makes the tokens of a session that ends at untilMS (0: never). It also
// returns the number of the refresh token.
func (a *Accounts) issue(tx *store.Tx, u id.User, d id.Device, refresh bool, untilMS int64) (Session, int64, error) {
	s := Session{User: u, Device: d, AccessToken: randomToken("hat_")}
	now := nowMS()
	token := store.AccessToken{User: store.User{Name: u}, Device: d, ValidUntilMS: expiry(now, a.o.PlainLifetime, untilMS)}
	if refresh {
		token.ValidUntilMS = expiry(now, a.o.AccessLifetime, untilMS)
		s.RefreshToken = randomToken("hrt_")
		nid, err := tx.Tokens.InsertRefresh(s.RefreshToken, store.RefreshToken{User: u, Device: d, ExpiryMS: expiry(now, a.o.RefreshLifetime, untilMS), SessionMS: untilMS})
		if err != nil {
			return Session{}, 0, fmt.Errorf("store refresh token: %w", err)
		}
		token.RefreshID = nid
	}
	if token.ValidUntilMS != 0 {
		s.ExpiresInMS = token.ValidUntilMS - now
	}
	if _, err := tx.Tokens.InsertAccess(s.AccessToken, token); err != nil {
		return Session{}, 0, fmt.Errorf("store access token: %w", err)
	}
	return s, token.RefreshID, nil
}

// expiry is the earlier of a lifetime from now and an end, either of which may be absent (0).
func expiry(now int64, lifetime time.Duration, end int64) int64 {
	at := now + lifetime.Milliseconds()
	if lifetime <= 0 || end != 0 && end < at {
		return end
	}
	return at
}

// Refresh exchanges a refresh token for a new pair. The old one works again
// until either of the new ones was used, for clients that lost the answer.
// spec: client-server-api#refreshing-access-tokens
func (a *Accounts) Refresh(ctx context.Context, token string) (s Session, err error) {
	err = a.store.Update(ctx, func(tx *store.Tx) error {
		old, ok, err := tx.Tokens.FindRefresh(token)
		if err != nil {
			return err
		}
		if !ok {
			return unknownRefresh()
		}
		if err := checkRefresh(tx, old); err != nil {
			return err
		}
		if old.Next != 0 {
			if _, err := tx.Tokens.DeleteRefresh(old.Next); err != nil {
				return fmt.Errorf("revoke tokens that were not used: %w", err)
			}
		}
		var next int64
		if s, next, err = a.issue(tx, old.User, old.Device, true, old.SessionMS); err != nil {
			return err
		}
		if err := tx.Tokens.SetNext(old.ID, next); err != nil {
			return err
		}
		return revokeExchanged(tx, old.ID)
	})
	return s, err
}

func unknownRefresh() error {
	return errcode.UnknownToken("the refresh token is not known or was used already").With("soft_logout", false)
}

func checkRefresh(tx *store.Tx, t store.RefreshToken) error {
	u, ok, err := tx.Users.Get(t.User)
	switch {
	case err != nil:
		return err
	case !ok || u.Deactivated:
		return unknownRefresh()
	case u.Locked:
		return errLocked
	case t.ExpiryMS != 0 && t.ExpiryMS <= nowMS():
		return errcode.UnknownToken("the refresh token has expired").With("soft_logout", true)
	}
	if t.Next == 0 {
		return nil
	}
	used, err := tx.Tokens.IsRefreshUsed(t.Next)
	if err == nil && used {
		err = unknownRefresh()
	}
	return err
}

// revokeExchanged ends what was exchanged for a refresh token.
func revokeExchanged(tx *store.Tx, refresh int64) error {
	old, err := tx.Tokens.ListExchangedFor(refresh)
	if err != nil {
		return err
	}
	for _, r := range old {
		if _, err := tx.Tokens.DeleteRefresh(r); err != nil {
			return fmt.Errorf("revoke refresh token: %w", err)
		}
	}
	return nil
}

const deviceLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

// newDeviceID is ten letters, the form that people are used to compare.
func newDeviceID() id.Device {
	b := make([]byte, 0, 10)
	for len(b) < cap(b) {
		var r [16]byte
		rand.Read(r[:]) // never fails
		for _, c := range r {
			// 234 is the largest multiple of 26 in a byte: letters are equally likely.
			if c < 234 && len(b) < cap(b) {
				b = append(b, deviceLetters[c%26])
			}
		}
	}
	return id.Device(b)
}
