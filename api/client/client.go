// Package client is the Client-Server API: each endpoint is one small function,
// named like the spec's operationId, from a typed request to one or two calls
// of a service. Files are chapters of the spec.
//
// It holds no rules of its own and must not import store. Start at routes.go,
// the table of contents.
// spec: client-server-api
package client

import (
	"context"
	"crypto/ed25519"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/appservice"
	"hearth/clientsync"
	"hearth/directory"
	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/push"
	"hearth/room"
)

// API answers clients. Its fields are set once, where the program is wired.
type API struct {
	Options Options
	Limits  *httpx.Limiter // for limits with keys that only a handler knows; may be nil

	Accounts  *account.Accounts
	Rooms     *room.Engine
	Directory *directory.Directory
	Sync      *clientsync.Syncer
	Push      *push.Service
	Services  *appservice.Services // may be nil
	E2EE      *e2ee.Service
	Receipts  *ephemeral.Receipts
	Typing    *ephemeral.Typing
	Presence  *ephemeral.Presence

	// Echoes are waited for before a device is told what is new; may be nil.
	Echoes *httpx.Echoes
	// Join joins rooms within limits that the engine does not know; nil: Rooms does.
	Join func(context.Context, httpx.Caller, room.Change) error
	// RoomUpgraded carries over what services hold of a room to the one that
	// replaces it, in the transaction that closes the old one; may be nil.
	RoomUpgraded room.Moved
}

// Options is what the configuration tells clients.
type Options struct {
	ServerName id.Server
	// BaseURL is where clients reach the server; it ends in a slash.
	BaseURL string
	// WellKnown holds further keys of /.well-known/matrix/client.
	WellKnown          map[string]jsontext.Value
	Support            Support
	DefaultRoomVersion string
	// PasswordChange says whether users may change their passwords here.
	PasswordChange bool
	// PolicyKey is this server's key as a policy server; nil: it is none.
	PolicyKey ed25519.PublicKey
	TURN      TURN
}

// none is the request of an endpoint that takes nothing, or the empty response.
type none struct{}
