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
	"net"
	"net/url"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/directory"
	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/media"
	"hearth/remote"
	"hearth/room"
)

// API answers other homeservers. Its fields are set once, where the program is wired.
type API struct {
	ServerName id.Server
	Version    string
	Keys       *remote.Keys
	// Delegate is the base URL whose host other servers shall use; empty if
	// this server does not say so itself.
	Delegate string

	Limits       *httpx.Limiter // may be nil
	Rooms        *room.Engine
	Directory    *directory.Directory
	Accounts     *account.Accounts
	Media        *media.Repository
	E2EE         *e2ee.Service
	Receipts     *ephemeral.Receipts
	Typing       *ephemeral.Typing
	Presence     *ephemeral.Presence
	Transactions *Transactions

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
