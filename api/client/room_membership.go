package client

import (
	"context"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
)

// roomOf is the room that a path names by its id or an alias; servers are those that
// know it, as far as the alias tells.
func (a *API) roomOf(ctx context.Context, idOrAlias string) (name id.Room, servers []id.Server, err error) {
	if strings.HasPrefix(idOrAlias, "#") {
		alias, err := id.ParseAlias(idOrAlias)
		if err != nil {
			return "", nil, errcode.InvalidParam("%v", err)
		}
		return a.Directory.Resolve(ctx, alias)
	}
	name, err = id.ParseRoom(idOrAlias)
	if err != nil {
		return "", nil, errcode.InvalidParam("%v", err)
	}
	return name, nil, nil
}

type joinRoomRequest struct {
	Room    string         `path:"roomIdOrAlias"`
	Via     []string       `query:"via"`
	Servers []string       `query:"server_name"` // the old name of via
	Body    jsontext.Value `body:"."`
}

// via are the servers that a client named.
func (r joinRoomRequest) via() []id.Server { return parseServers(append(r.Via, r.Servers...)) }

// parseServers reads names of servers; what is none is of no use, but does no harm.
func parseServers(names []string) (list []id.Server) {
	for _, s := range names {
		if server, err := id.ParseServer(s); err == nil {
			list = append(list, server)
		}
	}
	return list
}

// joinChange reads the body of a join. Keys that the specification does not
// name become part of the membership event, as bridges and bots rely on.
func joinChange(c httpx.Caller, name id.Room, body jsontext.Value) (room.Change, error) {
	change := room.Change{Room: name, Sender: c.User, Guest: c.Guest}
	var keys map[string]jsontext.Value
	if len(body) == 0 {
		return change, nil
	}
	if err := json.Unmarshal(body, &keys); err != nil {
		return change, errcode.BadJSON("%v", err)
	}
	if raw, ok := keys["reason"]; ok {
		if err := json.Unmarshal(raw, &change.Reason); err != nil {
			return change, errcode.BadJSON("reason: %v", err)
		}
	}
	delete(keys, "reason")
	delete(keys, "third_party_signed")
	if len(keys) == 0 {
		return change, nil
	}
	var err error
	change.Content, err = json.Marshal(keys, json.Deterministic(true))
	return change, err
}

type roomIDResponse struct {
	Room id.Room `json:"room_id"`
}

func (a *API) joinRoom(ctx context.Context, c httpx.Caller, r joinRoomRequest) (roomIDResponse, error) {
	name, servers, err := a.roomOf(ctx, r.Room)
	if err != nil {
		return roomIDResponse{}, err
	}
	change, err := joinChange(c, name, r.Body)
	if err != nil {
		return roomIDResponse{}, err
	}
	change.Via = append(r.via(), servers...)
	return roomIDResponse{name}, a.join(ctx, c, change)
}

func (a *API) join(ctx context.Context, c httpx.Caller, change room.Change) error {
	if a.Join != nil {
		return a.Join(ctx, c, change)
	}
	return a.Rooms.Join(ctx, change)
}

type changeRequest struct {
	Room   id.Room `path:"roomId"`
	Target id.User `json:"user_id"`
	Reason string  `json:"reason"`
	Medium string  `json:"medium"` // of an invite to somebody who has no user id yet
}

func (r changeRequest) change(c httpx.Caller) room.Change {
	return room.Change{Room: r.Room, Sender: c.User, Guest: c.Guest, Target: r.Target, Reason: r.Reason}
}

type joinRoomByIDRequest struct {
	Room id.Room        `path:"roomId"`
	Body jsontext.Value `body:"."`
}

func (a *API) joinRoomById(ctx context.Context, c httpx.Caller, r joinRoomByIDRequest) (roomIDResponse, error) {
	change, err := joinChange(c, r.Room, r.Body)
	if err != nil {
		return roomIDResponse{}, err
	}
	return roomIDResponse{r.Room}, a.join(ctx, c, change)
}

func (a *API) knockRoom(ctx context.Context, c httpx.Caller, r joinRoomRequest) (roomIDResponse, error) {
	name, servers, err := a.roomOf(ctx, r.Room)
	if err != nil {
		return roomIDResponse{}, err
	}
	change, err := joinChange(c, name, r.Body)
	if err != nil {
		return roomIDResponse{}, err
	}
	change.Via = append(r.via(), servers...)
	return roomIDResponse{name}, a.Rooms.Knock(ctx, change)
}

func (a *API) leaveRoom(ctx context.Context, c httpx.Caller, r changeRequest) (none, error) {
	return none{}, a.Rooms.Leave(ctx, r.change(c))
}

func (a *API) forgetRoom(ctx context.Context, c httpx.Caller, r changeRequest) (none, error) {
	return none{}, a.Rooms.Forget(ctx, r.Room, c.User)
}

func (a *API) inviteUser(ctx context.Context, c httpx.Caller, r changeRequest) (none, error) {
	if r.Medium != "" {
		// spec: client-server-api#third-party-invites it takes an identity server.
		return none{}, errcode.New(403, "M_THREEPID_DENIED", "this server cannot invite by e-mail or telephone number")
	}
	if r.Target == "" {
		return none{}, errcode.MissingParam("user_id is missing")
	}
	for limit, key := range map[httpx.Limit]string{httpx.InvitesPerRoom: string(r.Room), httpx.InvitesPerUser: string(r.Target)} {
		if err := a.take(c, limit, key); err != nil {
			return none{}, err
		}
	}
	return none{}, a.Rooms.Invite(ctx, r.change(c))
}

// take counts against a limit that goes by a key of the request's own.
func (a *API) take(c httpx.Caller, limit httpx.Limit, key string) error {
	if a.Limits == nil || c.Unlimited {
		return nil
	}
	return a.Limits.Take(limit, key)
}

// byTarget answers the endpoints that change another's membership.
func byTarget(ctx context.Context, c httpx.Caller, r changeRequest, do func(context.Context, room.Change) error) (none, error) {
	if r.Target == "" {
		return none{}, errcode.MissingParam("user_id is missing")
	}
	return none{}, do(ctx, r.change(c))
}

func (a *API) kick(ctx context.Context, c httpx.Caller, r changeRequest) (none, error) {
	return byTarget(ctx, c, r, a.Rooms.Kick)
}

func (a *API) ban(ctx context.Context, c httpx.Caller, r changeRequest) (none, error) {
	return byTarget(ctx, c, r, a.Rooms.Ban)
}

func (a *API) unban(ctx context.Context, c httpx.Caller, r changeRequest) (none, error) {
	return byTarget(ctx, c, r, a.Rooms.Unban)
}

type getJoinedRoomsResponse struct {
	Rooms []id.Room `json:"joined_rooms"`
}

func (a *API) getJoinedRooms(ctx context.Context, c httpx.Caller, _ none) (getJoinedRoomsResponse, error) {
	rooms, err := a.Rooms.Joined(ctx, c.User)
	return getJoinedRoomsResponse{rooms}, err
}
