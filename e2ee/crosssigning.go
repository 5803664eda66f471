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

// The usages of cross-signing keys.
const (
	usageMaster      = "master"
	usageSelfSigning = "self_signing"
	usageUserSigning = "user_signing"
)

// CrossSigningUpload is what a user publishes; each key may be absent.
type CrossSigningUpload struct {
	Master      jsontext.Value `json:"master_key,omitempty"`
	SelfSigning jsontext.Value `json:"self_signing_key,omitempty"`
	UserSigning jsontext.Value `json:"user_signing_key,omitempty"`
}

// signingKey is a public cross-signing key that was checked.
type signingKey struct {
	store.CrossSigningKey        // Key is without signatures
	whole                 []byte // with them
	pub                   ed25519.PublicKey
}

func (k signingKey) id() id.Key { return id.Key("ed25519:" + k.PublicKey) }

// errNotAuthorized is how a transaction says that it would replace keys.
var errNotAuthorized = errors.New("replacing cross-signing keys needs interactive authentication")

// UploadCrossSigning publishes a user's cross-signing keys. authorize is called
// when keys would be replaced or added to a set that is there already; its
// error is returned. The first set, and the same set again, go without.
// spec: client-server-api#post_matrixclientv3keysdevice_signingupload
// msc: 3967
func (s *Service) UploadCrossSigning(ctx context.Context, user id.User, up CrossSigningUpload, authorize func() error) error {
	keys, err := parseCrossSigning(user, up)
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return errcode.MissingParam("there is no key in the request")
	}
	authorized := false
	write := func(tx *store.Tx) error { return s.storeCrossSigning(tx, user, keys, authorized) }
	if err = s.store.Update(ctx, write); !errors.Is(err, errNotAuthorized) {
		return err
	}
	if err := authorize(); err != nil {
		return err
	}
	authorized = true
	return s.store.Update(ctx, write)
}

// parseCrossSigning checks the keys one by one, the master key first.
func parseCrossSigning(user id.User, up CrossSigningUpload) ([]signingKey, error) {
	var keys []signingKey
	for _, part := range []struct {
		usage string
		raw   jsontext.Value
	}{{usageMaster, up.Master}, {usageSelfSigning, up.SelfSigning}, {usageUserSigning, up.UserSigning}} {
		if absent(part.raw) {
			continue
		}
		k, err := parseSigningKey(user, part.usage, part.raw)
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func parseSigningKey(user id.User, usage string, raw jsontext.Value) (signingKey, error) {
	what := usage + "_key"
	whole, err := canonicalObject(raw, what)
	if err != nil {
		return signingKey{}, err
	}
	if len(whole) > maxKey {
		return signingKey{}, errcode.TooLarge("%s is larger than %d bytes", what, maxKey)
	}
	var o struct {
		User       string                       `json:"user_id"`
		Usage      []string                     `json:"usage"`
		Keys       map[string]string            `json:"keys"`
		Signatures map[string]map[string]string `json:"signatures"`
	}
	switch err := json.Unmarshal(whole, &o); {
	case err != nil:
		return signingKey{}, errcode.BadJSON("%s has a member of a wrong type", what)
	case o.User != string(user):
		return signingKey{}, errcode.InvalidParam("%s is of another user", what)
	case !slices.Contains(o.Usage, usage):
		return signingKey{}, errcode.InvalidParam("%s is not for the usage %s", what, usage)
	case len(o.Keys) != 1:
		return signingKey{}, errcode.InvalidParam("%s must have exactly one public key", what)
	}
	k := signingKey{whole: whole}
	k.Usage = usage
	for name, text := range o.Keys {
		algorithm, public, _ := strings.Cut(name, ":")
		pub, err := signing.DecodeBase64(text)
		if algorithm != signing.Algorithm || public != text || err != nil || len(pub) != ed25519.PublicKeySize {
			return signingKey{}, errcode.InvalidParam("%s: %q is not an ed25519 key under its own name", what, name)
		}
		k.PublicKey, k.pub = public, pub
	}
	k.Key, err = signing.Bytes(whole)
	return k, err
}

// storeCrossSigning stores keys that are new or replace others, and their signatures.
func (s *Service) storeCrossSigning(tx *store.Tx, user id.User, keys []signingKey, authorized bool) error {
	nid, err := tx.IDs.User(user)
	if err != nil {
		return err
	}
	stored, err := tx.CrossSigning.Keys(nid)
	if err != nil {
		return err
	}
	master, err := masterFor(keys, stored)
	if err != nil {
		return err
	}
	changed := false
	for _, k := range keys {
		sigs, err := checkSigningKey(tx, user, nid, k, master)
		if err != nil {
			return err
		}
		if old, ok := stored[k.Usage]; !ok || !bytes.Equal(old.Key, k.Key) {
			if _, hasMaster := stored[usageMaster]; hasMaster && !authorized {
				return errNotAuthorized
			}
			if err := replaceSigningKey(tx, nid, old, k); err != nil {
				return err
			}
			changed = true
		}
		for _, sig := range sigs {
			fresh, err := tx.CrossSigning.SetSignature(sig)
			if err != nil {
				return err
			}
			changed = changed || fresh
		}
	}
	if !changed {
		return nil
	}
	return s.deviceListChanged(tx, nid, "")
}

// masterFor is the master key that the others must be signed with.
func masterFor(keys []signingKey, stored map[string]store.CrossSigningKey) (signingKey, error) {
	if keys[0].Usage == usageMaster {
		return keys[0], nil
	}
	old, ok := stored[usageMaster]
	if !ok {
		return signingKey{}, errcode.MissingParam("there is no master key")
	}
	pub, err := signing.DecodeBase64(old.PublicKey)
	return signingKey{CrossSigningKey: old, pub: pub}, err
}

// checkSigningKey checks the signatures on a key and returns those to keep: on
// the master key those of the user's devices, on others that of the master key.
func checkSigningKey(tx *store.Tx, user id.User, nid store.UserNID, k, master signingKey) ([]store.KeySignature, error) {
	if _, taken, err := tx.Devices.Get(user, id.Device(k.PublicKey)); err != nil {
		return nil, err
	} else if taken {
		return nil, errcode.Forbidden("the key is the same as a device id")
	}
	if k.Usage != usageMaster {
		if signing.Verify(k.whole, user, master.id(), master.pub) != nil {
			return nil, invalidSignature("the %s key has no valid signature of the master key", k.Usage)
		}
		return []store.KeySignature{signatureOn(nid, k.PublicKey, nid, user, master.id(), k.whole)}, nil
	}
	return deviceSignatures(tx, user, nid, k.PublicKey, k.whole)
}

// deviceSignatures verifies the signatures of a user's own devices on his master key.
func deviceSignatures(tx *store.Tx, user id.User, nid store.UserNID, public string, whole []byte) ([]store.KeySignature, error) {
	var sigs []store.KeySignature
	for _, keyID := range signing.KeyIDs(whole, user) {
		device := id.Device(keyID.Identifier())
		identity, ok, err := tx.DeviceKeys.Get(nid, device)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue // of a device that is gone, or of the key itself: nobody needs it
		}
		if signing.Verify(whole, user, keyID, fingerprint(identity, device)) != nil {
			return nil, invalidSignature("the signature of the device %s is not valid", device)
		}
		sigs = append(sigs, signatureOn(nid, public, nid, user, keyID, whole))
	}
	return sigs, nil
}

// signatureOn takes the signature of a key out of an object that has it.
func signatureOn(target store.UserNID, targetKey string, signer store.UserNID, signerID id.User, keyID id.Key, whole []byte) store.KeySignature {
	text, _ := canonical.GetString(canonical.Get(canonical.Get(whole, "signatures"), string(signerID)), string(keyID))
	return store.KeySignature{Target: target, TargetKey: targetKey, Signer: signer, SigningKey: keyID, Signature: text}
}

// replaceSigningKey stores a key; what the former key signed, and what signed it, is void.
func replaceSigningKey(tx *store.Tx, nid store.UserNID, old store.CrossSigningKey, k signingKey) error {
	if old.PublicKey != "" && old.PublicKey != k.PublicKey {
		if err := tx.CrossSigning.DeleteSignaturesOn(nid, old.PublicKey); err != nil {
			return err
		}
		if err := tx.CrossSigning.DeleteSignaturesBy(nid, id.Key("ed25519:"+old.PublicKey)); err != nil {
			return err
		}
	}
	return tx.CrossSigning.Set(nid, k.CrossSigningKey)
}
