package remote

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// keyDocument is what a server publishes of its keys.
// spec: server-server-api#publishing-keys
type keyDocument struct {
	server     id.Server
	keys       map[id.Key]verifyKey
	validUntil int64
	json       []byte // canonical
}

// verifyKey is a key with which another server signs, or once signed.
type verifyKey struct {
	public     ed25519.PublicKey
	validUntil int64 // milliseconds
	expired    int64 // when the server stopped using it; 0: it has not
}

type publishedKey struct {
	Key     string `json:"key"`
	Expired int64  `json:"expired_ts,omitzero"`
}

type publishedKeys struct {
	Server        id.Server               `json:"server_name"`
	VerifyKeys    map[id.Key]publishedKey `json:"verify_keys"`
	OldVerifyKeys map[id.Key]publishedKey `json:"old_verify_keys"`
	ValidUntil    int64                   `json:"valid_until_ts"`
}

const (
	maxKeyDocument = 128 << 10
	// largestUsual is more than a server with some dozens of keys publishes. What is larger
	// is not kept of strangers, nor attested for anybody.
	largestUsual = 16 << 10
	maxPublished = 200
	// maxValidity: a key that was published for longer could not be revoked.
	// spec: rooms/v5#signing-key-validity-period
	maxValidity = 7 * 24 * time.Hour
)

// parseKeyDocument reads a document and checks that it is signed by the keys in
// it. A current key that has not signed is left out: who published the document
// need not have it.
func parseKeyDocument(raw []byte, now time.Time) (*keyDocument, error) {
	doc, err := canonical.Append(make([]byte, 0, len(raw)), raw, canonical.Options{})
	if err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	var p publishedKeys
	if err := json.Unmarshal(doc, &p); err != nil {
		return nil, fmt.Errorf("keys: %w", err)
	}
	if p.Server == "" {
		return nil, errors.New("keys: there is no server_name")
	}
	if len(p.VerifyKeys)+len(p.OldVerifyKeys) > maxPublished {
		return nil, fmt.Errorf("keys of %s: there are too many", p.Server)
	}
	msg, err := signing.Bytes(doc)
	if err != nil {
		return nil, fmt.Errorf("keys of %s: %w", p.Server, err)
	}
	d := &keyDocument{server: p.Server, keys: map[id.Key]verifyKey{}, validUntil: p.ValidUntil, json: doc}
	limit := min(p.ValidUntil, now.Add(maxValidity).UnixMilli())
	for keyID, k := range p.OldVerifyKeys {
		if public, ok := publicKey(keyID, k.Key); ok && k.Expired > 0 {
			d.keys[keyID] = verifyKey{public: public, validUntil: limit, expired: k.Expired}
		}
	}
	signatures, signed := canonical.Get(doc, "signatures"), 0
	for keyID, k := range p.VerifyKeys {
		public, ok := publicKey(keyID, k.Key)
		if ok && signing.Check(signatures, p.Server, keyID, public, msg) == nil {
			d.keys[keyID] = verifyKey{public: public, validUntil: limit}
			signed++
		}
	}
	if signed == 0 {
		return nil, fmt.Errorf("keys of %s: none of them has signed the document", p.Server)
	}
	return d, nil
}

func publicKey(keyID id.Key, text string) (ed25519.PublicKey, bool) {
	b, err := signing.DecodeBase64(text)
	return b, err == nil && len(b) == ed25519.PublicKeySize && keyID.Algorithm() == signing.Algorithm && !signing.PrivateKeyIsKnown(b)
}

// validAt says whether the key counts for what was signed at a time. Only room
// versions from 5 on look at how long a key was published for.
// spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (k verifyKey) validAt(ts int64, strict bool) bool {
	if k.expired != 0 {
		return ts < k.expired
	}
	return !strict || ts <= k.validUntil
}
