// Package federation is the Server-Server API, inbound: what other homeservers
// ask of this one. Each endpoint is one small function, named like the spec's
// operationId, from a typed request to one or two calls of a service.
//
// It holds no rules of its own and must not import store. Start at routes.go, the
// table of contents.
// spec: server-server-api
package federation

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/directory"
	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/media"
	"hearth/room"
)

// API answers other homeservers. Its fields are set once, where the program is wired.
type API struct {
	ServerName id.Server
	Version    string
	KeyID      id.Key
	Key        ed25519.PrivateKey
	// Delegate is the base URL whose host other servers shall use; empty if
	// this server does not say so itself.
	Delegate string

	Rooms     *room.Engine
	Directory *directory.Directory
	Accounts  *account.Accounts
	Media     *media.Repository

	// HidePublicRooms and HideProfiles keep these from other servers.
	HidePublicRooms, HideProfiles bool
}

type none struct{}

// getWellKnown points other homeservers at the HTTPS port of the base URL.
// spec: server-server-api#server-discovery
func (a *API) getWellKnown(context.Context, httpx.Caller, none) (map[string]string, error) {
	u, err := url.Parse(a.Delegate)
	if err != nil || u.Scheme != "https" {
		return nil, errcode.NotFound("this server is not delegated")
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return map[string]string{"m.server": net.JoinHostPort(u.Hostname(), port)}, nil
}

type serverVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

func (a *API) getVersion(context.Context, httpx.Caller, none) (map[string]serverVersion, error) {
	return map[string]serverVersion{"server": {"Hearth", a.Version}}, nil
}

type verifyKey struct {
	Key string `json:"key"`
}

type serverKeys struct {
	ServerName    id.Server                       `json:"server_name"`
	VerifyKeys    map[id.Key]verifyKey            `json:"verify_keys"`
	OldVerifyKeys map[id.Key]verifyKey            `json:"old_verify_keys"`
	ValidUntil    int64                           `json:"valid_until_ts"`
	Signatures    map[id.Server]map[id.Key]string `json:"signatures,omitempty"`
}

// keysValidFor is how long others may use our keys without asking again; the
// specification has them take a week at most.
const keysValidFor = 24 * time.Hour

// spec: server-server-api#publishing-keys
func (a *API) getServerKey(context.Context, httpx.Caller, none) (jsontext.Value, error) {
	keys := serverKeys{
		ServerName:    a.ServerName,
		VerifyKeys:    map[id.Key]verifyKey{a.KeyID: {unpadded(a.Key.Public().(ed25519.PublicKey))}},
		OldVerifyKeys: map[id.Key]verifyKey{},
		ValidUntil:    time.Now().Add(keysValidFor).UnixMilli(),
	}
	// spec: appendices#signing-json
	signed, err := canonicalJSON(keys)
	if err != nil {
		return nil, err
	}
	keys.Signatures = map[id.Server]map[id.Key]string{a.ServerName: {a.KeyID: unpadded(ed25519.Sign(a.Key, signed))}}
	return canonicalJSON(keys)
}

func canonicalJSON(v any) (jsontext.Value, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	return canonical.Append(nil, b, canonical.Options{})
}

// spec: appendices#unpadded-base64
func unpadded(b []byte) string { return base64.RawStdEncoding.EncodeToString(b) }
