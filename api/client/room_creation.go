package client

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
)

type createRoomRequest struct {
	Visibility    string              `json:"visibility"`
	AliasName     string              `json:"room_alias_name"`
	Name          string              `json:"name"`
	Topic         string              `json:"topic"`
	Invite        []id.User           `json:"invite"`
	Invite3PID    []jsontext.Value    `json:"invite_3pid"`
	Version       *string             `json:"room_version"`
	Content       jsontext.Value      `json:"creation_content"`
	InitialState  []room.InitialState `json:"initial_state"`
	Preset        string              `json:"preset"`
	IsDirect      bool                `json:"is_direct"`
	LevelOverride jsontext.Value      `json:"power_level_content_override"`
}

type createRoomResponse struct {
	Room id.Room `json:"room_id"`
}

func (a *API) createRoom(ctx context.Context, c httpx.Caller, r createRoomRequest) (createRoomResponse, error) {
	creation, err := a.creation(c, r)
	if err != nil {
		return createRoomResponse{}, err
	}
	name, err := a.Rooms.Create(ctx, creation)
	return createRoomResponse{name}, err
}

func (a *API) creation(c httpx.Caller, r createRoomRequest) (room.Creation, error) {
	creation := room.Creation{
		Creator: c.User, Preset: r.Preset, CreationContent: r.Content, PowerLevels: r.LevelOverride, InitialState: r.InitialState,
		Name: r.Name, Topic: r.Topic, Invite: r.Invite, IsDirect: r.IsDirect,
	}
	switch r.Visibility {
	case "", "private":
	case "public":
		creation.Public = true
	default:
		return creation, errcode.InvalidParam("visibility is public or private, not %q", r.Visibility)
	}
	if r.Version != nil {
		if creation.Version = *r.Version; creation.Version == "" {
			return creation, errcode.UnsupportedRoomVersion("room_version is empty")
		}
	}
	if len(r.Invite3PID) > 0 {
		return creation, errcode.New(403, "M_THREEPID_DENIED", "this server cannot invite by e-mail or telephone number")
	}
	for _, raw := range []jsontext.Value{r.Content, r.LevelOverride} {
		if raw != nil && raw.Kind() != '{' {
			return creation, errcode.BadJSON("creation_content and power_level_content_override are objects")
		}
	}
	if r.AliasName != "" {
		alias, err := id.ParseAlias("#" + r.AliasName + ":" + string(a.Options.ServerName))
		if err != nil || strings.Contains(r.AliasName, ":") {
			return creation, errcode.InvalidParam("room_alias_name is the part between # and :, not %q", r.AliasName)
		}
		if err := a.checkAlias(c, alias); err != nil {
			return creation, err
		}
		creation.Alias = alias
	}
	return creation, nil
}

type upgradeRoomRequest struct {
	Room     id.Room   `path:"roomId"`
	Version  string    `json:"new_version"`
	Creators []id.User `json:"additional_creators"`
}

type upgradeRoomResponse struct {
	Replacement id.Room `json:"replacement_room"`
}

func (a *API) upgradeRoom(ctx context.Context, c httpx.Caller, r upgradeRoomRequest) (upgradeRoomResponse, error) {
	if r.Version == "" {
		return upgradeRoomResponse{}, errcode.MissingParam("new_version is missing")
	}
	fresh, err := a.Rooms.Upgrade(ctx, r.Room, c.User, r.Version, r.Creators, a.RoomUpgraded)
	return upgradeRoomResponse{fresh}, err
}
