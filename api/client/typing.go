package client

import (
	"context"
	"time"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type setTypingRequest struct {
	Room    id.Room `path:"roomId"`
	User    id.User `path:"userId"`
	Typing  *bool   `json:"typing"`
	Timeout int64   `json:"timeout"` // milliseconds
}

// spec: client-server-api#typing-notifications
func (a *API) setTyping(ctx context.Context, c httpx.Caller, r setTypingRequest) (none, error) {
	switch {
	case r.User != c.User:
		return none{}, errcode.Forbidden("you cannot type for somebody else")
	case r.Typing == nil:
		return none{}, errcode.MissingParam("typing is missing")
	case r.Timeout < 0:
		return none{}, errcode.InvalidParam("timeout is below zero")
	}
	a.active(ctx, c)
	timeout := time.Duration(min(r.Timeout, int64(time.Hour/time.Millisecond))) * time.Millisecond
	return none{}, a.Typing.Set(ctx, c.User, r.Room, *r.Typing, timeout)
}
