package federation

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/id"
	"hearth/room"
)

type makeRequest struct {
	Room     id.Room  `path:"roomId"`
	User     id.User  `path:"userId"`
	Versions []string `query:"ver"`
}

func (r makeRequest) approach(c httpx.Caller) room.Approach {
	a := room.Approach{Origin: c.Server, Room: r.Room, User: r.User, Versions: r.Versions}
	if a.Versions == nil {
		a.Versions = []string{"1"}
	}
	return a
}

func (a *API) makeJoin(ctx context.Context, c httpx.Caller, r makeRequest) (room.Template, error) {
	return a.Rooms.MakeJoin(ctx, r.approach(c))
}

func (a *API) makeKnock(ctx context.Context, c httpx.Caller, r makeRequest) (room.Template, error) {
	return a.Rooms.MakeKnock(ctx, r.approach(c))
}

func (a *API) makeLeave(ctx context.Context, c httpx.Caller, r makeRequest) (room.Template, error) {
	return a.Rooms.MakeLeave(ctx, r.approach(c))
}

type sendRequest struct {
	Room  id.Room        `path:"roomId"`
	Event id.Event       `path:"eventId"`
	Body  jsontext.Value `body:"."`
}

func (r sendRequest) handIn(c httpx.Caller) room.HandIn {
	return room.HandIn{Origin: c.Server, Room: r.Room, Event: r.Event, Raw: r.Body}
}

type sendJoinRequest struct {
	Room        id.Room        `path:"roomId"`
	Event       id.Event       `path:"eventId"`
	OmitMembers bool           `query:"omit_members"`
	Body        jsontext.Value `body:"."`
}

func (a *API) sendJoinV2(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r sendJoinRequest) error {
	in := room.HandIn{Origin: c.Server, Room: r.Room, Event: r.Event, Raw: r.Body}
	welcome, err := a.Rooms.SendJoin(ctx, in, r.OmitMembers)
	if err != nil {
		return err
	}
	return a.welcome(ctx, newObjectWriter(w), welcome)
}

// welcome writes what was joined. What is small comes first, so that the other server
// can make use of it at once.
func (a *API) welcome(ctx context.Context, out *objectWriter, j room.Welcome) error {
	out.value("origin", a.ServerName)
	out.value("event", j.Event)
	out.value("members_omitted", j.MembersOmitted)
	if j.MembersOmitted {
		out.value("servers_in_room", j.Servers)
	}
	out.events(ctx, "auth_chain", j.AuthChain)
	out.events(ctx, "state", j.State)
	return out.end()
}

// sendJoinV1 answers with the status as a part of the body, as servers of long ago want it.
func (a *API) sendJoinV1(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r sendRequest) error {
	welcome, err := a.Rooms.SendJoin(ctx, r.handIn(c), false)
	if err != nil {
		return err
	}
	out := newObjectWriter(w)
	out.write("[200,")
	if err := a.welcome(ctx, out, welcome); err != nil {
		return err
	}
	out.write("]")
	return out.flush()
}

func (a *API) sendLeaveV2(ctx context.Context, c httpx.Caller, r sendRequest) (none, error) {
	return none{}, a.Rooms.SendLeave(ctx, r.handIn(c))
}

func (a *API) sendLeaveV1(ctx context.Context, c httpx.Caller, r sendRequest) ([2]any, error) {
	return [2]any{200, none{}}, a.Rooms.SendLeave(ctx, r.handIn(c))
}

type knockAnswer struct {
	State []jsontext.Value `json:"knock_room_state"`
}

func (a *API) sendKnock(ctx context.Context, c httpx.Caller, r sendRequest) (knockAnswer, error) {
	state, err := a.Rooms.SendKnock(ctx, r.handIn(c))
	return knockAnswer{state}, err
}
