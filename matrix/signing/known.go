package signing

import (
	"crypto/ed25519"
	"slices"
)

// known are public keys whose private keys everybody knows.
var known = []string{
	"l/O9hxMVKB6Lg+3Hqf0FQQZhVESQcMzbPN1Cz2nM3og", // CVE-2026-24044: many servers were installed with it
}

// PrivateKeyIsKnown says whether anybody can sign with a key: what it has signed proves
// nothing.
func PrivateKeyIsKnown(public ed25519.PublicKey) bool {
	return slices.Contains(known, EncodeBase64(public))
}
