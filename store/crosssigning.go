package store

import "hearth/matrix/id"

// CrossSigning holds cross-signing keys and the signatures made with them.
type CrossSigning struct{ tx *Tx }

// CrossSigningKey is one public cross-signing key of a user.
type CrossSigningKey struct {
	Usage     string // master, self_signing, user_signing
	PublicKey string // unpadded base64
	Key       []byte // JSON without signatures
}

// KeySignature is a signature on a device's keys or on a cross-signing key.
type KeySignature struct {
	Target     UserNID
	TargetKey  string // a device id, or the public part of a cross-signing key
	Signer     UserNID
	SigningKey id.Key
	Signature  string
}

const (
	listCrossSigning = `SELECT usage, public_key, key FROM cross_signing_keys WHERE user_nid = $1`
	setCrossSigning  = `INSERT INTO cross_signing_keys (user_nid, usage, public_key, key) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_nid, usage) DO UPDATE SET public_key = excluded.public_key, key = excluded.key`
	deleteCrossSigning = `DELETE FROM cross_signing_keys WHERE user_nid = $1`

	setKeySignature = `INSERT INTO key_signatures (target_nid, target_key, signer_nid, signing_key, signature) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (target_nid, target_key, signer_nid, signing_key) DO UPDATE SET signature = excluded.signature
		WHERE key_signatures.signature <> excluded.signature`
	visibleSignatures = `SELECT target_nid, target_key, signer_nid, signing_key, signature FROM key_signatures
		WHERE target_nid = $1 AND signer_nid IN ($1, $2) ORDER BY target_key, signer_nid, signing_key`
	deleteSignaturesOn = `DELETE FROM key_signatures WHERE target_nid = $1 AND target_key = $2`
	deleteSignaturesBy = `DELETE FROM key_signatures WHERE signer_nid = $1 AND signing_key = $2`
)

// Keys reads a user's cross-signing keys by usage.
func (t CrossSigning) Keys(user UserNID) (map[string]CrossSigningKey, error) {
	keys := map[string]CrossSigningKey{}
	err := each(t.tx, func(r scanner) error {
		var k CrossSigningKey
		err := r.Scan(&k.Usage, &k.PublicKey, &k.Key)
		keys[k.Usage] = k
		return err
	}, listCrossSigning, user)
	return keys, err
}

// Set stores a cross-signing key in place of the former one of its usage.
func (t CrossSigning) Set(user UserNID, k CrossSigningKey) error {
	_, err := t.tx.exec(setCrossSigning, user, k.Usage, k.PublicKey, k.Key)
	return err
}

// Delete removes all cross-signing keys of a user. Signatures stay.
func (t CrossSigning) Delete(user UserNID) error {
	_, err := t.tx.exec(deleteCrossSigning, user)
	return err
}

// SetSignature stores a signature, and says whether it is new.
func (t CrossSigning) SetSignature(s KeySignature) (bool, error) {
	n, err := t.tx.exec(setKeySignature, s.Target, s.TargetKey, s.Signer, string(s.SigningKey), s.Signature)
	return n > 0, err
}

// Signatures lists the signatures on keys of target that target or viewer made.
func (t CrossSigning) Signatures(target, viewer UserNID) ([]KeySignature, error) {
	return list(t.tx, func(r scanner) (s KeySignature, err error) {
		err = r.Scan(&s.Target, &s.TargetKey, &s.Signer, &s.SigningKey, &s.Signature)
		return
	}, visibleSignatures, target, viewer)
}

// DeleteSignaturesOn removes all signatures on a key of a user.
func (t CrossSigning) DeleteSignaturesOn(target UserNID, key string) error {
	_, err := t.tx.exec(deleteSignaturesOn, target, key)
	return err
}

// DeleteSignaturesBy removes all signatures that a key of a user made.
func (t CrossSigning) DeleteSignaturesBy(signer UserNID, key id.Key) error {
	_, err := t.tx.exec(deleteSignaturesBy, signer, string(key))
	return err
}
