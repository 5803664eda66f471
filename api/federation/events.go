package federation

import (
	"context"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
)

// history is what answers with events have: a transaction in form only.
type history struct {
	Origin id.Server        `json:"origin"`
	TS     int64            `json:"origin_server_ts"`
	PDUs   []jsontext.Value `json:"pdus"`
}

func (a *API) history(pdus ...jsontext.Value) history {
	if pdus == nil {
		pdus = []jsontext.Value{}
	}
	return history{a.ServerName, time.Now().UnixMilli(), pdus}
}

type getEventRequest struct {
	Event id.Event `path:"eventId"`
}

func (a *API) getEvent(ctx context.Context, c httpx.Caller, r getEventRequest) (history, error) {
	pdu, err := a.Rooms.ServeEvent(ctx, c.Server, r.Event)
	return a.history(pdu), err
}

type getEventAuthRequest struct {
	Room  id.Room  `path:"roomId"`
	Event id.Event `path:"eventId"`
}

func (a *API) getEventAuth(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r getEventAuthRequest) error {
	chain, err := a.Rooms.ServeAuthChain(ctx, c.Server, r.Room, r.Event)
	if err != nil {
		return err
	}
	out := newObjectWriter(w)
	out.events(ctx, "auth_chain", chain)
	return out.end()
}

type getRoomStateRequest struct {
	Room  id.Room   `path:"roomId"`
	Event *id.Event `query:"event_id"`
}

func (r getRoomStateRequest) at() (id.Event, error) {
	if r.Event == nil {
		return "", errcode.MissingParam("event_id is missing")
	}
	return *r.Event, nil
}

func (a *API) getRoomState(ctx context.Context, w http.ResponseWriter, c httpx.Caller, r getRoomStateRequest) error {
	at, err := r.at()
	if err != nil {
		return err
	}
	state, err := a.Rooms.ServeState(ctx, c.Server, r.Room, at)
	if err != nil {
		return err
	}
	out := newObjectWriter(w)
	out.events(ctx, "auth_chain", state.AuthChain)
	out.events(ctx, "pdus", state.State)
	return out.end()
}

type stateIDs struct {
	State     []id.Event `json:"pdu_ids"`
	AuthChain []id.Event `json:"auth_chain_ids"`
}

func (a *API) getRoomStateIds(ctx context.Context, c httpx.Caller, r getRoomStateRequest) (ids stateIDs, err error) {
	at, err := r.at()
	if err != nil {
		return ids, err
	}
	state, err := a.Rooms.ServeState(ctx, c.Server, r.Room, at)
	if err != nil {
		return ids, err
	}
	if ids.State, err = state.State.IDs(ctx); err != nil {
		return ids, err
	}
	ids.AuthChain, err = state.AuthChain.IDs(ctx)
	return ids, err
}

type backfillRoomRequest struct {
	Room  id.Room    `path:"roomId"`
	From  []id.Event `query:"v"`
	Limit *int64     `query:"limit"`
}

func (a *API) backfillRoom(ctx context.Context, c httpx.Caller, r backfillRoomRequest) (history, error) {
	switch {
	case len(r.From) == 0:
		return history{}, errcode.MissingParam("v is missing")
	case len(r.From) > room.MaxBackfill:
		return history{}, errcode.InvalidParam("v names more than %d events", room.MaxBackfill)
	case r.Limit == nil:
		return history{}, errcode.MissingParam("limit is missing")
	case *r.Limit < 1:
		return history{}, errcode.InvalidParam("limit is above 0")
	}
	pdus, err := a.Rooms.ServeBackfill(ctx, c.Server, r.Room, r.From, int(min(*r.Limit, room.MaxBackfill)))
	return a.history(pdus...), err
}

type getMissingPreviousEventsRequest struct {
	Room     id.Room     `path:"roomId"`
	Earliest *[]id.Event `json:"earliest_events"`
	Latest   *[]id.Event `json:"latest_events"`
	Limit    *int64      `json:"limit"`
	MinDepth int64       `json:"min_depth"`
}

type missingEvents struct {
	Events []jsontext.Value `json:"events"`
}

func (a *API) getMissingPreviousEvents(ctx context.Context, c httpx.Caller, r getMissingPreviousEventsRequest) (missingEvents, error) {
	const usual, maxNamed = 10, 100
	q := room.MissingEvents{Limit: usual, MinDepth: r.MinDepth}
	if r.Earliest == nil || r.Latest == nil {
		return missingEvents{}, errcode.MissingParam("earliest_events and latest_events are needed")
	}
	if q.Earliest, q.Latest = *r.Earliest, *r.Latest; len(q.Earliest) > maxNamed || len(q.Latest) > maxNamed {
		return missingEvents{}, errcode.InvalidParam("earliest_events or latest_events has more than %d events", maxNamed)
	}
	if r.Limit != nil {
		if *r.Limit < 0 {
			return missingEvents{}, errcode.InvalidParam("limit is not below 0")
		}
		q.Limit = int(min(*r.Limit, room.MaxMissingEvents))
	}
	pdus, err := a.Rooms.ServeMissingEvents(ctx, c.Server, r.Room, q)
	if pdus == nil {
		pdus = []jsontext.Value{}
	}
	return missingEvents{pdus}, err
}

type getEventByTimestampRequest struct {
	Room id.Room `path:"roomId"`
	TS   *int64  `query:"ts"`
	Dir  string  `query:"dir"`
}

type eventByTimestamp struct {
	Event id.Event `json:"event_id"`
	TS    int64    `json:"origin_server_ts"`
}

func (a *API) getEventByTimestamp(ctx context.Context, c httpx.Caller, r getEventByTimestampRequest) (e eventByTimestamp, err error) {
	switch {
	case r.TS == nil:
		return e, errcode.MissingParam("ts is missing")
	case r.Dir != "f" && r.Dir != "b":
		return e, errcode.InvalidParam("dir is f or b")
	}
	e.Event, e.TS, err = a.Rooms.ServeTimestamp(ctx, c.Server, r.Room, *r.TS, r.Dir == "b")
	return e, err
}
