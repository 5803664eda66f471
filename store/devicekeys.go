package store

import "hearth/matrix/id"

// DeviceKeys holds the identity keys, one-time keys and fallback keys of our
// users' devices. Keys are JSON values.
type DeviceKeys struct{ tx *Tx }

// DeviceKey is the identity keys of one device.
type DeviceKey struct {
	Device id.Device
	Keys   []byte
}

// OneTimeKey is a one-time or fallback key.
type OneTimeKey struct {
	Algorithm string
	ID        string // the part after the colon
	Key       []byte
}

const (
	getDeviceKeys    = `SELECT keys FROM device_keys WHERE user_nid = $1 AND device_id = $2`
	listDeviceKeys   = `SELECT device_id, keys FROM device_keys WHERE user_nid = $1 ORDER BY device_id`
	setDeviceKeys    = `INSERT INTO device_keys (user_nid, device_id, keys) VALUES ($1, $2, $3) ON CONFLICT (user_nid, device_id) DO UPDATE SET keys = excluded.keys`
	deleteDeviceKeys = `DELETE FROM device_keys WHERE user_nid = $1 AND device_id = $2`

	getOneTime    = `SELECT key FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 AND algorithm = $3 AND key_id = $4`
	lastUpload    = `SELECT COALESCE(MAX(upload), 0) FROM one_time_keys WHERE user_nid = $1 AND device_id = $2`
	insertOneTime = `INSERT INTO one_time_keys (user_nid, device_id, algorithm, key_id, upload, key) VALUES ($1, $2, $3, $4, $5, $6)`
	countOneTime  = `SELECT algorithm, COUNT(*) FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 AND claimed = 0 GROUP BY algorithm`
	claimOneTime  = `UPDATE one_time_keys SET claimed = 1 WHERE user_nid = $1 AND device_id = $2 AND algorithm = $3 AND key_id =
		(SELECT key_id FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 AND algorithm = $3 AND claimed = 0 ORDER BY upload, key_id LIMIT 1)
		RETURNING algorithm, key_id, key`
	forgetClaimed = `DELETE FROM one_time_keys WHERE user_nid = $1 AND device_id = $2 AND claimed = 1 AND upload < $3`
	deleteOneTime = `DELETE FROM one_time_keys WHERE user_nid = $1 AND device_id = $2`

	setFallback = `INSERT INTO fallback_keys (user_nid, device_id, algorithm, key_id, key) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_nid, device_id, algorithm) DO UPDATE SET key_id = excluded.key_id, key = excluded.key,
		used = CASE WHEN fallback_keys.key_id = excluded.key_id AND fallback_keys.key = excluded.key THEN fallback_keys.used ELSE 0 END`
	claimFallback  = `UPDATE fallback_keys SET used = 1 WHERE user_nid = $1 AND device_id = $2 AND algorithm = $3 RETURNING algorithm, key_id, key`
	unusedFallback = `SELECT algorithm FROM fallback_keys WHERE user_nid = $1 AND device_id = $2 AND used = 0 ORDER BY algorithm`
	deleteFallback = `DELETE FROM fallback_keys WHERE user_nid = $1 AND device_id = $2`
)

// Get reads a device's identity keys.
func (t DeviceKeys) Get(user UserNID, device id.Device) ([]byte, bool, error) {
	return one(t.tx, value[[]byte], getDeviceKeys, user, string(device))
}

// List reads the identity keys of all of a user's devices that have any, in order of device ids.
func (t DeviceKeys) List(user UserNID) ([]DeviceKey, error) {
	return list(t.tx, func(r scanner) (k DeviceKey, err error) {
		err = r.Scan(&k.Device, &k.Keys)
		return
	}, listDeviceKeys, user)
}

// Set stores a device's identity keys.
func (t DeviceKeys) Set(user UserNID, device id.Device, keys []byte) error {
	_, err := t.tx.exec(setDeviceKeys, user, string(device), keys)
	return err
}

// DeleteOneTime removes the one-time and fallback keys of a device.
func (t DeviceKeys) DeleteOneTime(user UserNID, device id.Device) error {
	for _, query := range []string{deleteOneTime, deleteFallback} {
		if _, err := t.tx.exec(query, user, string(device)); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes all keys of a device, and says whether it had identity keys.
func (t DeviceKeys) Delete(user UserNID, device id.Device) (bool, error) {
	if err := t.DeleteOneTime(user, device); err != nil {
		return false, err
	}
	n, err := t.tx.exec(deleteDeviceKeys, user, string(device))
	return n > 0, err
}

// rememberedUploads is for how many further uploads claimed keys are remembered.
const rememberedUploads = 20

// GetOneTime reads a one-time key, also one that was claimed not long ago.
func (t DeviceKeys) GetOneTime(user UserNID, device id.Device, algorithm, keyID string) ([]byte, bool, error) {
	return one(t.tx, value[[]byte], getOneTime, user, string(device), algorithm, keyID)
}

// InsertOneTime stores the new one-time keys of one upload.
func (t DeviceKeys) InsertOneTime(user UserNID, device id.Device, keys []OneTimeKey) error {
	last, _, err := one(t.tx, value[int64], lastUpload, user, string(device))
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := t.tx.exec(insertOneTime, user, string(device), k.Algorithm, k.ID, last+1, k.Key); err != nil {
			return err
		}
	}
	_, err = t.tx.exec(forgetClaimed, user, string(device), last-rememberedUploads)
	return err
}

// CountOneTime counts a device's unclaimed one-time keys by algorithm.
func (t DeviceKeys) CountOneTime(user UserNID, device id.Device) (map[string]int64, error) {
	counts := map[string]int64{}
	err := each(t.tx, func(r scanner) error {
		var algorithm string
		var n int64
		err := r.Scan(&algorithm, &n)
		counts[algorithm] = n
		return err
	}, countOneTime, user, string(device))
	return counts, err
}

// ClaimOneTime takes the one-time key that was uploaded first; false: none is left.
func (t DeviceKeys) ClaimOneTime(user UserNID, device id.Device, algorithm string) (OneTimeKey, bool, error) {
	return one(t.tx, scanOneTime, claimOneTime, user, string(device), algorithm)
}

// SetFallback stores a fallback key in place of its algorithm's former one.
func (t DeviceKeys) SetFallback(user UserNID, device id.Device, k OneTimeKey) error {
	_, err := t.tx.exec(setFallback, user, string(device), k.Algorithm, k.ID, k.Key)
	return err
}

// ClaimFallback reads a fallback key and marks it as used.
func (t DeviceKeys) ClaimFallback(user UserNID, device id.Device, algorithm string) (OneTimeKey, bool, error) {
	return one(t.tx, scanOneTime, claimFallback, user, string(device), algorithm)
}

// UnusedFallbacks lists the algorithms of a device's fallback keys that nobody has claimed.
func (t DeviceKeys) UnusedFallbacks(user UserNID, device id.Device) ([]string, error) {
	return list(t.tx, value[string], unusedFallback, user, string(device))
}

func scanOneTime(r scanner) (k OneTimeKey, err error) {
	err = r.Scan(&k.Algorithm, &k.ID, &k.Key)
	return
}
