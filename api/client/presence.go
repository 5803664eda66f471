package client

import (
	"context"
	"log/slog"

	"hearth/api/httpx"
	"hearth/ephemeral"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type setPresenceRequest struct {
	User      id.User `path:"userId"`
	Presence  *string `json:"presence"`
	StatusMsg *string `json:"status_msg"`
}

// spec: client-server-api#presence
func (a *API) setPresence(ctx context.Context, c httpx.Caller, r setPresenceRequest) (none, error) {
	if r.User != c.User {
		return none{}, errcode.Forbidden("you cannot set the presence of somebody else")
	}
	if r.Presence == nil {
		return none{}, errcode.MissingParam("presence is missing")
	}
	state, err := ephemeral.ParseState(*r.Presence)
	if err != nil {
		return none{}, err
	}
	statusMsg := ""
	if r.StatusMsg != nil {
		statusMsg = *r.StatusMsg
	}
	return none{}, a.Presence.Set(ctx, c.User, c.Device, state, statusMsg)
}

type getPresenceRequest struct {
	User id.User `path:"userId"`
}

func (a *API) getPresence(ctx context.Context, c httpx.Caller, r getPresenceRequest) (ephemeral.Status, error) {
	return a.Presence.Get(ctx, c.User, r.User)
}

// active notes that the caller does something. The request goes on if that fails.
// spec: client-server-api#last-active-ago
func (a *API) active(ctx context.Context, c httpx.Caller) {
	if a.Presence == nil {
		return
	}
	if err := a.Presence.Active(ctx, c.User, c.Device); err != nil {
		slog.WarnContext(ctx, "note activity", "user", c.User, "error", err)
	}
}
