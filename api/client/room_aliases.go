package client

import (
	"context"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type aliasRequest struct {
	Alias id.Alias `path:"roomAlias"`
}

type getRoomIDByAliasResponse struct {
	Room    id.Room     `json:"room_id"`
	Servers []id.Server `json:"servers"`
}

func (a *API) getRoomIdByAlias(ctx context.Context, _ httpx.Caller, r aliasRequest) (getRoomIDByAliasResponse, error) {
	name, servers, err := a.Directory.Resolve(ctx, r.Alias)
	return getRoomIDByAliasResponse{name, servers}, err
}

type setRoomAliasRequest struct {
	Alias id.Alias `path:"roomAlias"`
	Room  *id.Room `json:"room_id"`
}

func (a *API) setRoomAlias(ctx context.Context, c httpx.Caller, r setRoomAliasRequest) (none, error) {
	if r.Room == nil {
		return none{}, errcode.BadJSON("room_id is missing")
	}
	if err := a.checkAlias(c, r.Alias); err != nil {
		return none{}, err
	}
	return none{}, a.Directory.SetAlias(ctx, r.Alias, *r.Room, c.User)
}

func (a *API) deleteRoomAlias(ctx context.Context, c httpx.Caller, r aliasRequest) (none, error) {
	mayAll := c.Admin || a.Services != nil && a.Services.ControlsAlias(c.AppService, r.Alias)
	return none{}, a.Directory.DeleteAlias(ctx, r.Alias, c.User, mayAll)
}

type roomRequest struct {
	Room id.Room `path:"roomId"`
}

type getLocalAliasesResponse struct {
	Aliases []id.Alias `json:"aliases"`
}

func (a *API) getLocalAliases(ctx context.Context, c httpx.Caller, r roomRequest) (getLocalAliasesResponse, error) {
	aliases, err := a.Directory.Aliases(ctx, r.Room, c.User)
	return getLocalAliasesResponse{aliases}, err
}

type visibilityBody struct {
	Visibility string `json:"visibility"`
}

func (a *API) getRoomVisibilityOnDirectory(ctx context.Context, _ httpx.Caller, r roomRequest) (visibilityBody, error) {
	listed, err := a.Directory.Listed(ctx, r.Room)
	if listed {
		return visibilityBody{"public"}, err
	}
	return visibilityBody{"private"}, err
}

type setRoomVisibilityRequest struct {
	Room       id.Room `path:"roomId"`
	Visibility string  `json:"visibility"`
}

func (a *API) setRoomVisibilityOnDirectory(ctx context.Context, c httpx.Caller, r setRoomVisibilityRequest) (none, error) {
	listed := true // the default
	if r.Visibility != "" {
		var err error
		if listed, err = visibility(r.Visibility); err != nil {
			return none{}, err
		}
	}
	return none{}, a.Directory.SetListed(ctx, r.Room, c.User, c.Admin, listed)
}

type updateAppserviceRoomDirectoryVisibilityRequest struct {
	Network    string  `path:"networkId"`
	Room       id.Room `path:"roomId"`
	Visibility *string `json:"visibility"`
}

func (a *API) updateAppserviceRoomDirectoryVisibility(ctx context.Context, c httpx.Caller, r updateAppserviceRoomDirectoryVisibilityRequest) (none, error) {
	if r.Visibility == nil {
		return none{}, errcode.MissingParam("visibility is missing")
	}
	listed, err := visibility(*r.Visibility)
	if err != nil {
		return none{}, err
	}
	return none{}, a.Directory.SetListedIn(ctx, c.AppService, r.Network, r.Room, listed)
}

// visibility says whether a room is to be listed.
func visibility(text string) (bool, error) {
	if text != "public" && text != "private" {
		return false, errcode.InvalidParam("visibility is public or private, not %q", text)
	}
	return text == "public", nil
}
