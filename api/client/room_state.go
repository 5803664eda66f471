package client

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
)

func (a *API) getRoomState(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r roomRequest) error {
	return a.Rooms.ReadState(ctx, reader(c), r.Room, jsonBody{w})
}

type getRoomStateRequest struct {
	Room     id.Room `path:"roomId"`
	Type     string  `path:"eventType"`
	StateKey string  `path:"stateKey"`
	Format   string  `query:"format"`
}

func (a *API) getRoomStateWithKey(ctx context.Context, c httpx.Caller, r getRoomStateRequest) (jsontext.Value, error) {
	whole := r.Format == "event"
	if !whole && r.Format != "" && r.Format != "content" {
		return nil, errcode.InvalidParam("format is content or event, not %q", r.Format)
	}
	return a.Rooms.ReadStateEntry(ctx, reader(c), r.Room, event.StateTuple{Type: r.Type, Key: r.StateKey}, whole)
}

type getMembersRequest struct {
	Room          id.Room `path:"roomId"`
	At            string  `query:"at"`
	Membership    string  `query:"membership"`
	NotMembership string  `query:"not_membership"`
}

func (a *API) getMembersByRoom(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r getMembersRequest) (err error) {
	var choice room.MemberChoice
	if choice.At, err = room.ParseToken("at", r.At); err != nil {
		return err
	}
	if choice.Only, err = room.ParseMembership("membership", r.Membership); err != nil {
		return err
	}
	if choice.Not, err = room.ParseMembership("not_membership", r.NotMembership); err != nil {
		return err
	}
	return a.Rooms.ReadMembers(ctx, reader(c), r.Room, choice, jsonBody{w})
}

func (a *API) getJoinedMembersByRoom(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r roomRequest) error {
	return a.Rooms.ReadJoinedMembers(ctx, reader(c), r.Room, jsonBody{w})
}
