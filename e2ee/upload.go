package e2ee

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/store"
)

// KeyUpload is what a device publishes; each part may be absent.
type KeyUpload struct {
	Device   jsontext.Value
	OneTime  map[string]jsontext.Value // by algorithm:key_id
	Fallback map[string]jsontext.Value
}

// maxOneTimeKeys bounds what a device may store; clients keep 50 or 100.
const maxOneTimeKeys = 1000

// maxKey bounds one key object in bytes; a signed one has some 200.
const maxKey = 16 << 10

// upload is a KeyUpload that was checked.
type upload struct {
	device   []byte
	oneTime  []store.OneTimeKey
	fallback []store.OneTimeKey
}

// UploadKeys publishes keys of a device and counts its unclaimed one-time keys.
// spec: client-server-api#post_matrixclientv3keysupload
func (s *Service) UploadKeys(ctx context.Context, user id.User, device id.Device, raw KeyUpload) (map[string]int64, error) {
	if device == "" {
		return nil, errcode.InvalidParam("the access token belongs to no device")
	}
	up, err := parseUpload(user, device, raw)
	if err != nil {
		return nil, err
	}
	if err := s.verifyUpload(ctx, user, device, up); err != nil {
		return nil, err
	}
	var counts map[string]int64
	write := func(tx *store.Tx) error {
		nid, err := tx.IDs.User(user)
		if err != nil {
			return err
		}
		if err := s.storeUpload(tx, user, nid, device, up); err != nil {
			return err
		}
		counts, err = tx.DeviceKeys.CountOneTime(nid, device)
		return err
	}
	if up.device == nil && len(up.oneTime)+len(up.fallback) == 0 {
		return counts, s.store.View(ctx, func(tx *store.Tx) error {
			nid, _, err := tx.IDs.FindUser(user)
			if err == nil {
				counts, err = tx.DeviceKeys.CountOneTime(nid, device)
			}
			return err
		})
	}
	err = s.store.Update(ctx, write)
	return counts, err
}

const signedCurve25519 = "signed_curve25519"

func parseUpload(user id.User, device id.Device, raw KeyUpload) (up upload, err error) {
	if !absent(raw.Device) {
		if up.device, err = parseDeviceKeys(user, device, raw.Device); err != nil {
			return up, err
		}
	}
	if up.oneTime, err = parseKeys("one_time_keys", raw.OneTime); err != nil {
		return up, err
	}
	if up.fallback, err = parseKeys("fallback_keys", raw.Fallback); err != nil {
		return up, err
	}
	for i := 1; i < len(up.fallback); i++ {
		if up.fallback[i].Algorithm == up.fallback[i-1].Algorithm {
			return up, errcode.InvalidParam("fallback_keys has more than one key of the algorithm %s", up.fallback[i].Algorithm)
		}
	}
	return up, nil
}

// parseDeviceKeys checks identity keys and returns them in canonical form, with
// the user's own signatures only.
// spec: client-server-api#device-keys
func parseDeviceKeys(user id.User, device id.Device, raw jsontext.Value) ([]byte, error) {
	keys, err := canonicalObject(raw, "device_keys")
	if err != nil {
		return nil, err
	}
	if len(keys) > maxKey {
		return nil, errcode.TooLarge("device_keys is larger than %d bytes", maxKey)
	}
	var d struct {
		User       string                       `json:"user_id"`
		Device     string                       `json:"device_id"`
		Algorithms []string                     `json:"algorithms"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	switch err := json.Unmarshal(keys, &d); {
	case err != nil:
		return nil, errcode.BadJSON("device_keys has a member of a wrong type")
	case d.User != string(user) || d.Device != string(device):
		return nil, errcode.BadJSON("device_keys is of another user or device")
	case d.Algorithms == nil || d.Keys == nil || d.Signatures == nil:
		return nil, errcode.BadJSON("device_keys lacks algorithms, keys or signatures")
	}
	for name, text := range d.Keys {
		algorithm, of, ok := strings.Cut(name, ":")
		if !ok || algorithm == "" || of != string(device) || text == "" {
			return nil, errcode.BadJSON("device_keys.keys: %q does not name a key of this device", name)
		}
		if k, err := signing.DecodeBase64(text); (algorithm == "ed25519" || algorithm == "curve25519") && (err != nil || len(k) != 32) {
			return nil, errcode.BadJSON("device_keys.keys: %s is not 32 bytes of base64", name)
		}
	}
	if _, ok := d.Keys["ed25519:"+string(device)]; !ok {
		return nil, errcode.BadJSON("device_keys.keys has no ed25519 key")
	}
	return keys, nil
}

// parseKeys checks one-time or fallback keys and sorts them by name.
func parseKeys(what string, raw map[string]jsontext.Value) ([]store.OneTimeKey, error) {
	if len(raw) > maxOneTimeKeys {
		return nil, errcode.TooLarge("%s has more than %d keys", what, maxOneTimeKeys)
	}
	keys := make([]store.OneTimeKey, 0, len(raw))
	for name, v := range raw {
		algorithm, keyID, ok := strings.Cut(name, ":")
		if !ok || !validName(algorithm) || !validName(keyID) {
			return nil, errcode.InvalidParam("%s: %q is not algorithm:key_id", what, name)
		}
		key, err := canonical.Append(nil, v, canonical.Options{Strict: true})
		switch {
		case err != nil:
			return nil, errcode.BadJSON("%s: %s: %s", what, name, err)
		case key[0] != '"' && key[0] != '{' || algorithm == signedCurve25519 && !isKeyObject(key):
			return nil, errcode.BadJSON("%s: %s is not a key", what, name)
		case len(key) > maxKey:
			return nil, errcode.TooLarge("%s: %s is larger than %d bytes", what, name, maxKey)
		}
		keys = append(keys, store.OneTimeKey{Algorithm: algorithm, ID: keyID, Key: key})
	}
	slices.SortFunc(keys, func(a, b store.OneTimeKey) int {
		return strings.Compare(a.Algorithm+":"+a.ID, b.Algorithm+":"+b.ID)
	})
	return keys, nil
}

// isKeyObject says whether a value has the form of a signed key.
// spec: client-server-api#key-algorithms
func isKeyObject(v []byte) bool {
	var o struct {
		Key        string                       `json:"key"`
		Signatures map[string]map[string]string `json:"signatures"`
		Fallback   bool                         `json:"fallback"`
	}
	if json.Unmarshal(v, &o) != nil || o.Signatures == nil {
		return false
	}
	k, err := signing.DecodeBase64(o.Key)
	return err == nil && len(k) == 32
}

// verifyUpload checks the device's signatures on what it uploads.
func (s *Service) verifyUpload(ctx context.Context, user id.User, device id.Device, up upload) error {
	identity := up.device
	if identity == nil && len(up.oneTime)+len(up.fallback) > 0 {
		err := s.store.View(ctx, func(tx *store.Tx) error {
			nid, _, err := tx.IDs.FindUser(user)
			if err == nil {
				identity, _, err = tx.DeviceKeys.Get(nid, device)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	if identity == nil {
		return nil
	}
	if err := verifyOwn(up.device, user, device, identity); err != nil {
		return err
	}
	for _, k := range slices.Concat(up.oneTime, up.fallback) {
		if err := verifyOwn(k.Key, user, device, identity); err != nil {
			return err
		}
	}
	return nil
}

// verifyOwn refuses a signature of the device that is not good. One that is
// missing is left for the clients to notice, who must verify anyway: the spec
// demands it of device keys, but peers accept keys without, and the conformance
// tests upload such.
func verifyOwn(object []byte, user id.User, device id.Device, identity []byte) error {
	if len(object) == 0 || object[0] != '{' {
		return nil
	}
	err := signing.Verify(object, user, deviceKeyID(device), fingerprint(identity, device))
	if err == nil || errors.Is(err, signing.ErrMissing) {
		return nil
	}
	return invalidSignature("a signature of the device %s is not valid", device)
}

func deviceKeyID(device id.Device) id.Key { return id.Key("ed25519:" + string(device)) }

// fingerprint is the ed25519 key in a device's identity keys; nil if there is none.
func fingerprint(identity []byte, device id.Device) ed25519.PublicKey {
	text, _ := canonical.GetString(canonical.Get(identity, "keys"), string(deviceKeyID(device)))
	key, err := signing.DecodeBase64(text)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil
	}
	return key
}

func (s *Service) storeUpload(tx *store.Tx, user id.User, nid store.UserNID, device id.Device, up upload) error {
	if _, ok, err := tx.Devices.Get(user, device); err != nil {
		return err
	} else if !ok {
		return errcode.NotFound("there is no such device")
	}
	if up.device != nil {
		if err := s.storeIdentity(tx, user, nid, device, up.device); err != nil {
			return err
		}
	}
	if err := up.storeOneTime(tx, nid, device); err != nil {
		return err
	}
	for _, k := range up.fallback {
		if err := tx.DeviceKeys.SetFallback(nid, device, k); err != nil {
			return err
		}
	}
	return nil
}

func (s *Service) storeIdentity(tx *store.Tx, user id.User, nid store.UserNID, device id.Device, keys []byte) error {
	old, ok, err := tx.DeviceKeys.Get(nid, device)
	if err != nil || ok && bytes.Equal(old, keys) {
		return err
	}
	if taken, err := IsCrossSigningKey(tx, user, device); err != nil {
		return err
	} else if taken {
		return errcode.Forbidden("the device id is the same as a cross-signing key")
	}
	if ok && !bytes.Equal(fingerprint(old, device), fingerprint(keys, device)) {
		// What was signed by the former identity is of no use to anybody.
		if err := tx.DeviceKeys.DeleteOneTime(nid, device); err != nil {
			return err
		}
	}
	if err := tx.CrossSigning.DeleteSignaturesOn(nid, string(device)); err != nil {
		return err
	}
	if err := tx.DeviceKeys.Set(nid, device, keys); err != nil {
		return err
	}
	return s.deviceListChanged(tx, nid, device)
}

// storeOneTime stores the keys that are new. A key that is there already, or
// was claimed lately, is not stored again: no key is given out twice.
func (up upload) storeOneTime(tx *store.Tx, nid store.UserNID, device id.Device) error {
	var fresh []store.OneTimeKey
	for _, k := range up.oneTime {
		old, ok, err := tx.DeviceKeys.GetOneTime(nid, device, k.Algorithm, k.ID)
		switch {
		case err != nil:
			return err
		case !ok:
			fresh = append(fresh, k)
		case !bytes.Equal(old, k.Key):
			return errcode.InvalidParam("one-time key %s:%s already exists with another value", k.Algorithm, k.ID)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	counts, err := tx.DeviceKeys.CountOneTime(nid, device)
	if err != nil {
		return err
	}
	total := int64(len(fresh))
	for _, n := range counts {
		total += n
	}
	if total > maxOneTimeKeys {
		return errcode.TooLarge("the device would have more than %d one-time keys", maxOneTimeKeys)
	}
	return tx.DeviceKeys.InsertOneTime(nid, device, fresh)
}
