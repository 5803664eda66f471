package federation

import (
	"context"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
)

type exchangeThirdPartyInviteRequest struct {
	Path    id.Room  `path:"roomId"`
	Type    string   `json:"type"`
	Room    id.Room  `json:"room_id"`
	Sender  *id.User `json:"sender"`
	Target  *id.User `json:"state_key"`
	Content struct {
		Membership string `json:"membership"`
		Invite     *struct {
			DisplayName string            `json:"display_name"`
			Signed      room.SignedInvite `json:"signed"`
		} `json:"third_party_invite"`
	} `json:"content"`
}

// exchangeThirdPartyInvite makes an invite of a partial event, of which only what the
// specification names is taken over. CVE-2020-26257: it is of the room of the path.
func (a *API) exchangeThirdPartyInvite(ctx context.Context, c httpx.Caller, r exchangeThirdPartyInviteRequest) (none, error) {
	switch {
	case r.Room != r.Path:
		return none{}, errcode.InvalidParam("the event is of another room")
	case r.Type != event.TypeMember || r.Content.Membership != event.MembershipInvite:
		return none{}, errcode.InvalidParam("the event is no invite")
	case r.Sender == nil || r.Target == nil || r.Content.Invite == nil:
		return none{}, errcode.MissingParam("sender, state_key and third_party_invite are needed")
	}
	return none{}, a.Rooms.ExchangeThirdPartyInvite(ctx, c.Server, room.ThirdPartyInvite{
		Room: r.Path, Sender: *r.Sender, Target: *r.Target, DisplayName: r.Content.Invite.DisplayName, Signed: r.Content.Invite.Signed,
	})
}

type onBindThirdPartyIdentifierRequest struct {
	User    *id.User `json:"mxid"`
	Invites []struct {
		Room   id.Room           `json:"room_id"`
		Sender id.User           `json:"sender"`
		Signed room.SignedInvite `json:"signed"`
	} `json:"invites"`
}

// maxBound bounds how many invites one address may have waiting.
const maxBound = 20

// onBindThirdPartyIdentifier is told by identity servers, which sign nothing but the
// invites themselves: the rooms' keys decide about each.
func (a *API) onBindThirdPartyIdentifier(ctx context.Context, _ httpx.Caller, r onBindThirdPartyIdentifierRequest) (none, error) {
	switch {
	case r.User == nil:
		return none{}, errcode.MissingParam("mxid is missing")
	case len(r.Invites) > maxBound:
		return none{}, errcode.InvalidParam("there are more than %d invites", maxBound)
	case r.User.Server() != a.ServerName:
		return none{}, errcode.InvalidParam("%s is not a user of this server", *r.User)
	}
	if err := a.Accounts.CheckInvitable(ctx, *r.User); err != nil {
		return none{}, err
	}
	list := make([]room.ThirdPartyInvite, len(r.Invites))
	for i, invite := range r.Invites {
		list[i] = room.ThirdPartyInvite{Room: invite.Room, Sender: invite.Sender, Target: *r.User, Signed: invite.Signed}
	}
	return none{}, a.Rooms.RedeemThirdPartyInvites(ctx, list)
}
