package account

import (
	"context"
	"slices"
	"strings"
	"sync"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// ListDevices lists a user's devices.
func (a *Accounts) ListDevices(ctx context.Context, u id.User) (devices []store.Device, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		devices, err = tx.Devices.List(u)
		return
	})
	return
}

// GetDevice reads one of a user's devices.
func (a *Accounts) GetDevice(ctx context.Context, u id.User, d id.Device) (device store.Device, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		device, err = getDevice(tx, u, d)
		return
	})
	return
}

func getDevice(tx *store.Tx, u id.User, d id.Device) (store.Device, error) {
	device, ok, err := tx.Devices.Get(u, d)
	if err == nil && !ok {
		err = errcode.NotFound("there is no such device")
	}
	return device, err
}

// RenameDevice changes a device's display name; nil leaves it.
func (a *Accounts) RenameDevice(ctx context.Context, u id.User, d id.Device, name *string) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		device, err := getDevice(tx, u, d)
		if err != nil || name == nil || *name == device.DisplayName {
			return err
		}
		if err := (DeviceRequest{DisplayName: *name}).check(); err != nil {
			return err
		}
		if err := tx.Devices.SetName(u, d, *name); err != nil {
			return err
		}
		return a.deviceChanged(tx, u, d)
	})
}

// PutDevice renames a device of an application service's user, or makes it;
// created says which.
// msc: 4190
func (a *Accounts) PutDevice(ctx context.Context, u id.User, d id.Device, name *string) (created bool, err error) {
	r := DeviceRequest{ID: d}
	if name != nil {
		r.DisplayName = *name
	}
	if err := r.check(); err != nil {
		return false, err
	}
	err = a.store.Update(ctx, func(tx *store.Tx) (err error) {
		if a.IsCrossSigningKey != nil {
			if taken, err := a.IsCrossSigningKey(tx, u, d); err != nil {
				return err
			} else if taken {
				return errcode.Forbidden("the device id is in use as a cross-signing key")
			}
		}
		if created, err = tx.Devices.Insert(u, store.Device{ID: d, DisplayName: r.DisplayName}); err != nil {
			return err
		}
		if created {
			return a.deviceChanged(tx, u, d)
		}
		return nil
	})
	if err != nil || created {
		return created, err
	}
	return false, a.RenameDevice(ctx, u, d, name)
}

// DeleteDevices deletes devices with their tokens and, through the hooks, their keys.
func (a *Accounts) DeleteDevices(ctx context.Context, u id.User, devices []id.Device) error {
	devices = slices.DeleteFunc(slices.Clone(devices), func(d id.Device) bool { return (DeviceRequest{ID: d}).check() != nil })
	return a.store.Update(ctx, func(tx *store.Tx) error { return a.deleteDevices(tx, u, devices) })
}

func (a *Accounts) deleteDevices(tx *store.Tx, u id.User, devices []id.Device) error {
	if _, err := tx.Tokens.DeleteOfDevices(u, devices); err != nil {
		return err
	}
	gone, err := tx.Devices.Delete(u, devices)
	if err != nil || len(gone) == 0 {
		return err
	}
	for _, hook := range a.DevicesDeleted {
		if err := hook(tx, u, gone); err != nil {
			return err
		}
	}
	return nil
}

func (a *Accounts) deviceChanged(tx *store.Tx, u id.User, d id.Device) error {
	for _, hook := range a.DeviceChanged {
		if err := hook(tx, u, d); err != nil {
			return err
		}
	}
	return nil
}

// deleteOtherDevices deletes all devices but one (empty: all), and all tokens
// but one (0: all).
func (a *Accounts) deleteOtherDevices(tx *store.Tx, u id.User, except id.Device, token int64) error {
	all, err := tx.Devices.List(u)
	if err != nil {
		return err
	}
	var others []id.Device
	for _, d := range all {
		if d.ID != except {
			others = append(others, d.ID)
		}
	}
	if _, err := tx.Tokens.DeleteAll(u, token); err != nil {
		return err
	}
	return a.deleteDevices(tx, u, others)
}

// Logout ends the caller's session and deletes its device.
func (a *Accounts) Logout(ctx context.Context, c Caller) error {
	return a.store.Update(ctx, func(tx *store.Tx) error {
		if c.TokenID != 0 {
			if err := tx.Tokens.DeleteAccess(c.TokenID); err != nil {
				return err
			}
		}
		if c.Device == "" {
			return nil
		}
		return a.deleteDevices(tx, c.User, []id.Device{c.Device})
	})
}

// LogoutAll ends all of a user's sessions and deletes all devices.
func (a *Accounts) LogoutAll(ctx context.Context, u id.User) error {
	return a.store.Update(ctx, func(tx *store.Tx) error { return a.deleteOtherDevices(tx, u, "", 0) })
}

// lastSeen remembers when devices were last noted as seen, so that the
// database hears of each every few minutes at most.
type lastSeen struct {
	mu       sync.Mutex
	now, old map[deviceOf]int64
}

type deviceOf struct {
	user   id.User
	device id.Device
}

const (
	seenEveryMS    = 5 * 60 * 1000
	seenGeneration = 10_000 // devices; forgetting one costs a write
)

// due says whether a sighting is to be written.
func (l *lastSeen) due(d deviceOf, now int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, ok := l.now[d]
	if !ok {
		at, ok = l.old[d]
	}
	if ok && now-at < seenEveryMS {
		return false
	}
	if l.now == nil || len(l.now) >= seenGeneration {
		l.old, l.now = l.now, map[deviceOf]int64{}
	}
	l.now[d] = now
	return true
}

// sawDevice notes from where a device was used. Nobody waits for it: what a
// crash loses is a few minutes of "last seen".
func (a *Accounts) sawDevice(u id.User, d id.Device, now int64, r Request) {
	if r.IP == "" || !a.seen.due(deviceOf{u, d}, now) {
		return
	}
	a.store.Enqueue(func(tx *store.Tx) error { return tx.Devices.SetSeen(u, d, now, r.IP, userAgent(r.UserAgent)) })
}

// userAgent is a header as the database takes it.
func userAgent(s string) string { return truncate(strings.ToValidUTF8(s, "?"), 512) }

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n]
}
