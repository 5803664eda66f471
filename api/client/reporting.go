package client

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type reportEventRequest struct {
	Room  id.Room        `path:"roomId"`
	Event id.Event       `path:"eventId"`
	Body  jsontext.Value `body:"."`
}

func (a *API) reportEvent(ctx context.Context, c httpx.Caller, r reportEventRequest) (none, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(r.Body, &body); err != nil {
		return none{}, errcode.BadJSON("%v", err)
	}
	return none{}, a.Rooms.ReportEvent(ctx, reader(c), r.Room, r.Event, body.Reason, r.Body)
}

type reportRoomRequest struct {
	Room   id.Room `path:"roomId"`
	Reason *string `json:"reason"`
}

func (a *API) reportRoom(ctx context.Context, c httpx.Caller, r reportRoomRequest) (none, error) {
	if r.Reason == nil {
		return none{}, errcode.MissingParam("reason is missing; it may be empty")
	}
	return none{}, a.Rooms.ReportRoom(ctx, reader(c), r.Room, *r.Reason)
}

type reportUserRequest struct {
	User   id.User `path:"userId"`
	Reason *string `json:"reason"`
}

func (a *API) reportUser(ctx context.Context, c httpx.Caller, r reportUserRequest) (none, error) {
	if r.Reason == nil {
		return none{}, errcode.MissingParam("reason is missing; it may be empty")
	}
	return none{}, a.Rooms.ReportUser(ctx, reader(c), r.User, *r.Reason)
}
