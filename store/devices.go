package store

import (
	"hearth/matrix/id"
)

// Devices is the devices of local users, without their keys.
type Devices struct{ tx *Tx }

// Device is a row of devices. Zero values are absent.
type Device struct {
	ID          id.Device
	DisplayName string
	LastSeenMS  int64
	IP          string
	UserAgent   string
}

const (
	deviceColumns = `SELECT device_id, COALESCE(display_name, ''), COALESCE(last_seen, 0), COALESCE(ip, ''), COALESCE(user_agent, '') FROM devices `
	listDevices   = deviceColumns + `WHERE user_id = $1 AND NOT hidden ORDER BY device_id`
	getDevice     = deviceColumns + `WHERE user_id = $1 AND device_id = $2 AND NOT hidden`
	insertDevice  = `INSERT INTO devices (user_id, device_id, display_name, last_seen, ip, user_agent) VALUES ($1, $2, $3, $4, $5, $6)
		ON CONFLICT (user_id, device_id) DO NOTHING`
	setDeviceName = `UPDATE devices SET display_name = $3 WHERE user_id = $1 AND device_id = $2`
	setDeviceSeen = `UPDATE devices SET last_seen = $3, ip = $4, user_agent = $5 WHERE user_id = $1 AND device_id = $2`
	deleteDevices = `DELETE FROM devices WHERE user_id = $1 AND NOT hidden AND device_id
		IN (SELECT value FROM json_each($2)) -- only: sqlite
		IN (SELECT value FROM json_array_elements_text($2::json)) -- only: postgres
		RETURNING device_id`
)

func scanDevice(r scanner) (d Device, err error) {
	err = r.Scan(&d.ID, &d.DisplayName, &d.LastSeenMS, &d.IP, &d.UserAgent)
	return
}

// List lists a user's devices.
func (t Devices) List(u id.User) ([]Device, error) {
	return list(t.tx, scanDevice, listDevices, string(u))
}

// Get reads one device.
func (t Devices) Get(u id.User, d id.Device) (Device, bool, error) {
	return one(t.tx, scanDevice, getDevice, string(u), string(d))
}

// Insert makes a device; false: there is one of that id, which stays as it is.
func (t Devices) Insert(u id.User, d Device) (bool, error) {
	n, err := t.tx.exec(insertDevice, string(u), string(d.ID), orNull(d.DisplayName), orNullInt(d.LastSeenMS), orNull(d.IP), orNull(d.UserAgent))
	return n == 1, err
}

// SetName changes a device's display name.
func (t Devices) SetName(u id.User, d id.Device, name string) error {
	_, err := t.tx.exec(setDeviceName, string(u), string(d), orNull(name))
	return err
}

// SetSeen notes from where a device was last used.
func (t Devices) SetSeen(u id.User, d id.Device, nowMS int64, ip, userAgent string) error {
	_, err := t.tx.exec(setDeviceSeen, string(u), string(d), nowMS, orNull(ip), orNull(userAgent))
	return err
}

// Delete removes devices and returns those that there were.
func (t Devices) Delete(u id.User, devices []id.Device) ([]id.Device, error) {
	ids, err := textList(t.tx, devices)
	if err != nil {
		return nil, err
	}
	return list(t.tx, value[id.Device], deleteDevices, string(u), ids)
}
