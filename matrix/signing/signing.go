// Package signing signs JSON objects and checks signatures on them: device
// keys, cross-signing keys, server keys, requests between servers.
//
// It must not fetch keys nor decide whose signature is needed. Events are
// signed by package event, in redacted form. Start at Sign and Verify.
// spec: appendices#signing-json
package signing

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
)

// ErrMissing says that an object has no signature by this entity with this key.
var ErrMissing = errors.New("there is no such signature")

// ErrInvalid says that a signature is there but is not good.
var ErrInvalid = errors.New("the signature is not valid")

// Algorithm is the only signature algorithm there is.
const Algorithm = "ed25519"

var unsignedKeys = []string{"signatures", "unsigned"}

// Bytes is what a signature of a JSON object covers. Numbers that canonical
// JSON does not allow are kept, because requests between servers may carry
// events of old room versions.
func Bytes(object []byte) ([]byte, error) {
	b, err := canonical.Append(make([]byte, 0, len(object)), object, canonical.Options{Drop: unsignedKeys})
	if err != nil {
		return nil, err
	}
	if b[0] != '{' {
		return nil, errors.New("only a JSON object can be signed")
	}
	return b, nil
}

// Sign returns object in canonical form with a signature of entity (a server
// name or user id) added. Other signatures and unsigned are kept.
func Sign[E ~string](object []byte, entity E, keyID id.Key, key ed25519.PrivateKey) ([]byte, error) {
	msg, err := Bytes(object)
	if err != nil {
		return nil, fmt.Errorf("sign JSON: %w", err)
	}
	whole, err := canonical.Append(nil, object, canonical.Options{})
	if err != nil {
		return nil, fmt.Errorf("sign JSON: %w", err)
	}
	sigs, err := AppendSignatures(nil, canonical.Get(whole, "signatures"), entity, keyID, ed25519.Sign(key, msg))
	if err != nil {
		return nil, fmt.Errorf("sign JSON: %w", err)
	}
	out := append(msg[:len(msg)-1:len(msg)-1], `,"signatures":`...)
	if len(msg) == len("{}") {
		out = append(out[:0], `{"signatures":`...)
	}
	out = append(out, sigs...)
	if u := canonical.Get(whole, "unsigned"); u != nil {
		out = append(append(out, `,"unsigned":`...), u...)
	}
	return canonical.Append(nil, append(out, '}'), canonical.Options{})
}

// Verify checks the signature of entity with the key keyID on object. A
// failure is ErrMissing, ErrInvalid, or says what is wrong with the JSON.
// spec: appendices#checking-for-a-signature
func Verify[E ~string](object []byte, entity E, keyID id.Key, pub ed25519.PublicKey) error {
	whole, err := canonical.Append(nil, object, canonical.Options{})
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	msg, err := Bytes(whole)
	if err != nil {
		return fmt.Errorf("verify JSON: %w", err)
	}
	return Check(canonical.Get(whole, "signatures"), entity, keyID, pub, msg)
}

// KeyIDs lists the keys with which entity has signed object, the algorithms
// known here only. Nothing is verified.
func KeyIDs[E ~string](object []byte, entity E) []id.Key {
	whole, err := canonical.Append(nil, object, canonical.Options{})
	if err != nil {
		return nil
	}
	return KeyIDsIn(canonical.Get(canonical.Get(whole, "signatures"), string(entity)))
}

// KeyIDsIn is KeyIDs for the canonical value that signatures has for an entity.
func KeyIDsIn(entry []byte) []id.Key {
	var ids []id.Key
	for c := canonical.Walk(entry); c.Next(); {
		k := c.KeyString()
		if strings.HasPrefix(k, Algorithm+":") && len(c.Value) > 0 && c.Value[0] == '"' {
			ids = append(ids, id.Key(k))
		}
	}
	return ids
}

// Check checks one signature in a canonical signatures member over msg.
func Check[E ~string](signatures []byte, entity E, keyID id.Key, pub ed25519.PublicKey, msg []byte) error {
	text, ok := canonical.String(canonical.Get(canonical.Get(signatures, string(entity)), string(keyID)))
	if !ok {
		return fmt.Errorf("%s, %s: %w", entity, keyID, ErrMissing)
	}
	sig, err := DecodeBase64(text)
	if err != nil || keyID.Algorithm() != Algorithm || len(pub) != ed25519.PublicKeySize || !ed25519.Verify(pub, msg, sig) {
		return fmt.Errorf("%s, %s: %w", entity, keyID, ErrInvalid)
	}
	return nil
}

// AppendSignatures appends the canonical object signatures (empty for none)
// with one signature added or replaced.
func AppendSignatures[E ~string](dst, signatures []byte, entity E, keyID id.Key, sig []byte) ([]byte, error) {
	out := []byte{'{'}
	var mine []byte
	for c := canonical.Walk(signatures); c.Next(); {
		if c.KeyIs(string(entity)) {
			mine = c.Value
			continue
		}
		out = append(append(append(append(append(out, '"'), c.Key...), `":`...), c.Value...), ',')
	}
	out = append(canonical.AppendString(out, entity), `:{`...)
	for c := canonical.Walk(mine); c.Next(); {
		if !c.KeyIs(string(keyID)) {
			out = append(append(append(append(append(out, '"'), c.Key...), `":`...), c.Value...), ',')
		}
	}
	out = append(canonical.AppendString(out, keyID), `:"`...)
	out = append(base64.RawStdEncoding.AppendEncode(out, sig), `"}}`...)
	return canonical.Append(dst, out, canonical.Options{})
}

// EncodeBase64 is unpadded base64. spec: appendices#unpadded-base64
func EncodeBase64(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }

// DecodeBase64 accepts base64 with and without padding, of the standard and of
// the URL-safe alphabet.
func DecodeBase64(s string) ([]byte, error) {
	s = strings.TrimRight(s, "=")
	if strings.ContainsAny(s, "-_") {
		return base64.RawURLEncoding.DecodeString(s)
	}
	return base64.RawStdEncoding.DecodeString(s)
}
