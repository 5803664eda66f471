package federation

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
)

type sendInviteV2Request struct {
	Room    id.Room          `path:"roomId"`
	ID      id.Event         `path:"eventId"`
	Version string           `json:"room_version"`
	Event   jsontext.Value   `json:"event"`
	State   []jsontext.Value `json:"invite_room_state"`
}

type signedInvite struct {
	Event jsontext.Value `json:"event"`
}

func (a *API) sendInviteV2(ctx context.Context, c httpx.Caller, r sendInviteV2Request) (signedInvite, error) {
	if r.Version == "" || r.Event == nil {
		return signedInvite{}, errcode.MissingParam("room_version and event are needed")
	}
	signed, err := a.invite(ctx, room.Invitation{
		HandIn:  room.HandIn{Origin: c.Server, Room: r.Room, Event: r.ID, Raw: r.Event},
		Version: r.Version, State: r.State,
	})
	return signedInvite{signed}, err
}

// sendInviteV1 is of servers that know the first two room versions only.
func (a *API) sendInviteV1(ctx context.Context, c httpx.Caller, r sendRequest) ([2]any, error) {
	var with struct {
		Unsigned struct {
			State []jsontext.Value `json:"invite_room_state"`
		} `json:"unsigned"`
	}
	if err := json.Unmarshal(r.Body, &with); err != nil {
		return [2]any{}, errcode.BadJSON("unsigned: %s", err)
	}
	signed, err := a.invite(ctx, room.Invitation{HandIn: r.handIn(c), Version: "1", State: with.Unsigned.State})
	return [2]any{200, signedInvite{signed}}, err
}

func (a *API) invite(ctx context.Context, in room.Invitation) (jsontext.Value, error) {
	var who struct {
		Sender id.User `json:"sender"`
		Target id.User `json:"state_key"`
	}
	if err := json.Unmarshal(in.Raw, &who); err != nil {
		return nil, errcode.InvalidParam("the event is no invite: %s", err)
	}
	if who.Sender.Server() != in.Origin {
		return nil, errcode.InvalidParam("%s is not a user of %s", who.Sender, in.Origin)
	}
	// How many go to one room is for the servers in it to bound. Here, anybody could name any room, and
	// use up what users here may invite to it.
	for limit, key := range map[httpx.Limit]string{httpx.InvitesPerUser: string(who.Target), httpx.InvitesPerIssuer: string(who.Sender)} {
		if err := a.Limits.Take(limit, key); err != nil {
			return nil, err
		}
	}
	if who.Target.Server() == a.ServerName {
		if err := a.Accounts.CheckInvitable(ctx, who.Target); err != nil {
			return nil, err
		}
	}
	return a.Rooms.ReceiveInvite(ctx, in)
}
