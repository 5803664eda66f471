package config

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// SigningKey is what this server signs with.
type SigningKey struct {
	ID      id.Key
	Private ed25519.PrivateKey
	// Further are the other keys of the file, which sign nothing but are published:
	// what they signed, or will sign when they are the first, is this server's too.
	Further map[id.Key]ed25519.PrivateKey
}

// LoadSigningKey reads keys in Synapse's format, each a line "ed25519 VERSION SEED" with
// the seed in unpadded base64, and makes one when the file is missing.
func LoadSigningKey(path string) (SigningKey, error) {
	return loadKey(path, "a_"+rand.Text()[:4])
}

// policyKey is what every policy server's key is called.
// spec: server-server-api#validating-policy-server-signatures
const policyKey = "policy_server"

// LoadPolicyKey reads the key that this server signs with as a policy server, from a
// file like that of the signing key. It is another key, so that a room can do without the
// policy server and go on with the server.
func (c *Config) LoadPolicyKey() (ed25519.PrivateKey, error) {
	path := filepath.Join(c.Hearth.DataDir, string(c.ServerName)+".policy.key")
	key, err := loadKey(path, policyKey)
	if err == nil && key.ID != "ed25519:"+policyKey {
		err = fmt.Errorf("%s: the key's version is %s, which is not the key of a policy server", path, key.ID)
	}
	return key.Private, err
}

// loadKey reads a key, and makes one of a version when the file is missing.
func loadKey(path, version string) (SigningKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return makeSigningKey(path, version)
	}
	if err != nil {
		return SigningKey{}, fmt.Errorf("read signing key: %w", err)
	}
	key := SigningKey{Further: map[id.Key]ed25519.PrivateKey{}}
	for line := range strings.Lines(string(b)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		keyID, private, err := parseSigningKey(fields)
		switch {
		case err != nil:
			return SigningKey{}, fmt.Errorf("%s: %w", path, err)
		case keyID == key.ID || key.Further[keyID] != nil:
			return SigningKey{}, fmt.Errorf("%s: %s is there twice", path, keyID)
		case key.ID == "":
			key.ID, key.Private = keyID, private
		default:
			key.Further[keyID] = private
		}
	}
	if key.ID == "" {
		return SigningKey{}, fmt.Errorf("%s holds no signing key", path)
	}
	return key, nil
}

func parseSigningKey(fields []string) (id.Key, ed25519.PrivateKey, error) {
	if len(fields) != 3 || fields[0] != "ed25519" {
		return "", nil, errors.New(`a signing key is written "ed25519 VERSION SEED"`)
	}
	if strings.Trim(fields[1], "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
		return "", nil, fmt.Errorf("the key's version %q may have only letters, digits and _", fields[1])
	}
	seed, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(fields[2], "="))
	if err != nil || len(seed) != ed25519.SeedSize {
		return "", nil, errors.New("the seed is not 32 bytes in base64")
	}
	private := ed25519.NewKeyFromSeed(seed)
	if signing.PrivateKeyIsKnown(private.Public().(ed25519.PublicKey)) {
		return "", nil, errors.New("everybody knows this key (CVE-2026-24044), and other servers refuse it: move the file away, and a new one is made")
	}
	return id.Key("ed25519:" + fields[1]), private, nil
}

func makeSigningKey(path, version string) (SigningKey, error) {
	seed := make([]byte, ed25519.SeedSize)
	_, _ = rand.Read(seed) // never fails
	line := "ed25519 " + version + " " + base64.RawStdEncoding.EncodeToString(seed) + "\n"
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return SigningKey{}, fmt.Errorf("make signing key: %w", err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return SigningKey{}, fmt.Errorf("make signing key: %w", err)
	}
	_, err = f.WriteString(line)
	// A key that is lost after its first signature cannot be made again.
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return SigningKey{}, fmt.Errorf("make signing key: %w", err)
	}
	return SigningKey{ID: id.Key("ed25519:" + version), Private: ed25519.NewKeyFromSeed(seed)}, nil
}
