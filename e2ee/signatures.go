package e2ee

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/store"
	"hearth/stream"
)

// SignatureFailure says why a signature was not taken.
type SignatureFailure struct {
	Code    string `json:"errcode"`
	Message string `json:"error"`
}

// SignatureFailures is by user and key id, as in the request.
type SignatureFailures map[id.User]map[string]SignatureFailure

// maxSignedKeys bounds how many keys one request may sign.
const maxSignedKeys = 1000

// UploadSignatures stores signatures that a user made with one of his keys.
// Only three relationships are lawful: a self-signing key signs own devices,
// a device signs the own master key, a user-signing key signs others' master keys.
// spec: client-server-api#post_matrixclientv3keyssignaturesupload
func (s *Service) UploadSignatures(ctx context.Context, user id.User, signed map[id.User]map[string]jsontext.Value) (SignatureFailures, error) {
	n := 0
	for _, keys := range signed {
		n += len(keys)
	}
	if n > maxSignedKeys {
		return nil, errcode.TooLarge("the request signs more than %d keys", maxSignedKeys)
	}
	failures := SignatureFailures{}
	var good []store.KeySignature
	var signer store.UserNID
	err := s.store.View(ctx, func(tx *store.Tx) error {
		c, err := newSignatureCheck(tx, user)
		if err != nil {
			return err
		}
		signer = c.nid
		for target, keys := range signed {
			for keyID, object := range keys {
				sigs, err := c.check(target, keyID, object)
				if refused, ok := errors.AsType[*errcode.Error](err); ok {
					failures.add(target, keyID, refused)
				} else if err != nil {
					return fmt.Errorf("signature on %s of %s: %w", keyID, target, err)
				}
				good = append(good, sigs...)
			}
		}
		return nil
	})
	if err != nil || len(good) == 0 {
		return failures, err
	}
	return failures, s.store.Update(ctx, func(tx *store.Tx) error { return s.storeSignatures(tx, signer, good) })
}

func (f SignatureFailures) add(user id.User, keyID string, e *errcode.Error) {
	if f[user] == nil {
		f[user] = map[string]SignatureFailure{}
	}
	f[user][keyID] = SignatureFailure{e.Code, e.Message}
}

// storeSignatures stores signatures and announces what is new: of own keys to
// all who see the user, of others' keys to the user himself.
func (s *Service) storeSignatures(tx *store.Tx, signer store.UserNID, good []store.KeySignature) error {
	own := map[string]bool{}
	others := false
	for _, sig := range good {
		fresh, err := tx.CrossSigning.SetSignature(sig)
		if err != nil {
			return err
		}
		switch {
		case !fresh:
		case sig.Target == signer:
			own[sig.TargetKey] = true
		default:
			if err := tx.DeviceLists.SetSigned(signer, sig.Target, tx.NextPosition()); err != nil {
				return err
			}
			others = true
		}
	}
	if others {
		tx.Touch(stream.DeviceList, 0, signer)
	}
	for key := range own {
		device := id.Device(key)
		if _, isDevice, err := tx.DeviceKeys.Get(signer, device); err != nil {
			return err
		} else if !isDevice {
			device = ""
		}
		if err := s.deviceListChanged(tx, signer, device); err != nil {
			return err
		}
	}
	return nil
}

// signatureCheck judges the signatures of one user.
type signatureCheck struct {
	tx    *store.Tx
	user  id.User
	nid   store.UserNID
	cross map[string]store.CrossSigningKey
}

func newSignatureCheck(tx *store.Tx, user id.User) (*signatureCheck, error) {
	c := &signatureCheck{tx: tx, user: user}
	var err error
	if c.nid, _, err = tx.IDs.FindUser(user); err != nil {
		return nil, err
	}
	c.cross, err = tx.CrossSigning.Keys(c.nid)
	return c, err
}

// check returns the signatures to store from one signed object.
func (c *signatureCheck) check(target id.User, keyID string, raw jsontext.Value) ([]store.KeySignature, error) {
	object, err := canonicalObject(raw, "the signed key")
	if err != nil {
		return nil, err
	}
	if len(object) > maxKey {
		return nil, errcode.TooLarge("the signed key is larger than %d bytes", maxKey)
	}
	if target != c.user {
		return c.othersMaster(target, keyID, object)
	}
	identity, ok, err := c.tx.DeviceKeys.Get(c.nid, id.Device(keyID))
	switch {
	case err != nil:
		return nil, err
	case ok:
		return c.ownDevice(keyID, identity, object)
	case keyID == c.cross[usageMaster].PublicKey && keyID != "":
		return c.ownMaster(keyID, object)
	}
	return nil, errcode.NotFound("there is no such key")
}

func (c *signatureCheck) ownDevice(device string, identity, object []byte) ([]store.KeySignature, error) {
	if err := sameKey(identity, object); err != nil {
		return nil, err
	}
	return c.by(usageSelfSigning, c.nid, device, object)
}

func (c *signatureCheck) ownMaster(public string, object []byte) ([]store.KeySignature, error) {
	if err := sameKey(c.cross[usageMaster].Key, object); err != nil {
		return nil, err
	}
	sigs, err := deviceSignatures(c.tx, c.user, c.nid, public, object)
	if err == nil && len(sigs) == 0 {
		err = invalidSignature("there is no signature of a device of yours")
	}
	return sigs, err
}

func (c *signatureCheck) othersMaster(target id.User, keyID string, object []byte) ([]store.KeySignature, error) {
	nid, ok, err := c.tx.IDs.FindUser(target)
	if err != nil {
		return nil, err
	}
	var theirs map[string]store.CrossSigningKey
	if ok {
		if theirs, err = c.tx.CrossSigning.Keys(nid); err != nil {
			return nil, err
		}
	}
	master, ok := theirs[usageMaster]
	if !ok || master.PublicKey != keyID {
		return nil, errcode.NotFound("there is no such master key")
	}
	if err := sameKey(master.Key, object); err != nil {
		return nil, err
	}
	return c.by(usageUserSigning, nid, keyID, object)
}

// by demands a signature with one of the user's cross-signing keys.
func (c *signatureCheck) by(usage string, target store.UserNID, targetKey string, object []byte) ([]store.KeySignature, error) {
	k, ok := c.cross[usage]
	if !ok {
		return nil, errcode.NotFound("you have no %s key", usage)
	}
	keyID := id.Key("ed25519:" + k.PublicKey)
	pub, err := signing.DecodeBase64(k.PublicKey)
	if err != nil {
		return nil, err
	}
	if signing.Verify(object, c.user, keyID, pub) != nil {
		return nil, invalidSignature("there is no valid signature of your %s key", usage)
	}
	return []store.KeySignature{signatureOn(target, targetKey, c.nid, c.user, keyID, object)}, nil
}

// sameKey demands that what was signed is what is stored, signatures aside.
func sameKey(stored, signed []byte) error {
	a, err := signing.Bytes(stored)
	if err != nil {
		return err
	}
	b, err := signing.Bytes(signed)
	if err != nil {
		return errcode.BadJSON("the signed key: %s", err)
	}
	if !bytes.Equal(a, b) {
		return errcode.InvalidParam("the signed key is not the key that is stored")
	}
	return nil
}
