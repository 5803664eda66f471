package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
)

// defaultPage is how many events a page has that says nothing about it.
// spec: client-server-api#get_matrixclientv3roomsroomidmessages
const defaultPage = 10

func reader(c httpx.Caller) room.Reader { return room.Reader{User: c.User, Device: c.Device} }

type getRoomEventsRequest struct {
	Room   id.Room `path:"roomId"`
	From   string  `query:"from"`
	To     string  `query:"to"`
	Dir    string  `query:"dir"`
	Limit  *int64  `query:"limit"`
	Filter string  `query:"filter"`
}

func (a *API) getRoomEvents(ctx context.Context, c httpx.Caller, r getRoomEventsRequest) (jsontext.Value, error) {
	p, err := page(r.From, r.To, r.Dir, "f", r.Limit)
	if err != nil {
		return nil, err
	}
	if p.Filter, err = inlineFilter(r.Filter); err != nil {
		return nil, err
	}
	if p.Filter != nil && r.Limit == nil {
		p.Limit = p.Filter.LimitOr(defaultPage, room.MaxPage)
	}
	return a.Rooms.ReadMessages(ctx, reader(c), r.Room, p)
}

// page reads the parameters that all paginated endpoints of rooms have. dir is
// required by some of them, but clients have always left it out.
func page(from, to, dir, dirOtherwise string, limit *int64) (p room.Page, err error) {
	if dir == "" {
		dir = dirOtherwise
	}
	switch dir {
	case "b":
		p.Back = true
	case "f":
	default:
		return p, errcode.InvalidParam("dir is b or f, not %q", dir)
	}
	if p.From, err = room.ParseToken("from", from); err != nil {
		return p, err
	}
	if p.To, err = room.ParseToken("to", to); err != nil {
		return p, err
	}
	p.Limit, err = limitOr(limit, defaultPage, room.MaxPage)
	return p, err
}

func limitOr(limit *int64, otherwise, greatest int) (int, error) {
	switch {
	case limit == nil:
		return otherwise, nil
	case *limit < 0:
		return 0, errcode.InvalidParam("limit is not below 0")
	}
	return int(min(*limit, int64(greatest))), nil
}

// inlineFilter reads a RoomEventFilter in a query parameter; empty: nil.
func inlineFilter(s string) (*filter.RoomEventFilter, error) {
	if s == "" {
		return nil, nil
	}
	return filter.ParseRoomEventFilter([]byte(s))
}

type getEventContextRequest struct {
	Room   id.Room  `path:"roomId"`
	Event  id.Event `path:"eventId"`
	Limit  *int64   `query:"limit"`
	Filter string   `query:"filter"`
}

func (a *API) getEventContext(ctx context.Context, c httpx.Caller, r getEventContextRequest) (jsontext.Value, error) {
	limit, err := limitOr(r.Limit, defaultPage, room.MaxPage)
	if err != nil {
		return nil, err
	}
	f, err := inlineFilter(r.Filter)
	if err != nil {
		return nil, err
	}
	return a.Rooms.ReadContext(ctx, reader(c), r.Room, r.Event, limit, f)
}

type roomEventRequest struct {
	Room  id.Room  `path:"roomId"`
	Event id.Event `path:"eventId"`
}

func (a *API) getOneRoomEvent(ctx context.Context, c httpx.Caller, r roomEventRequest) (jsontext.Value, error) {
	return a.Rooms.ReadEvent(ctx, reader(c), r.Room, r.Event)
}

type eventRequest struct {
	Event id.Event `path:"eventId"`
}

func (a *API) getOneEvent(ctx context.Context, c httpx.Caller, r eventRequest) (jsontext.Value, error) {
	return a.Rooms.ReadEventAnywhere(ctx, reader(c), r.Event)
}

type getEventByTimestampRequest struct {
	Room id.Room `path:"roomId"`
	TS   *int64  `query:"ts"`
	Dir  string  `query:"dir"`
}

type getEventByTimestampResponse struct {
	Event id.Event `json:"event_id"`
	TS    int64    `json:"origin_server_ts"`
}

func (a *API) getEventByTimestamp(ctx context.Context, c httpx.Caller, r getEventByTimestampRequest) (getEventByTimestampResponse, error) {
	if r.TS == nil {
		return getEventByTimestampResponse{}, errcode.MissingParam("ts is missing")
	}
	if r.Dir != "f" && r.Dir != "b" {
		return getEventByTimestampResponse{}, errcode.InvalidParam("dir is b or f, not %q", r.Dir)
	}
	ev, err := a.Rooms.EventAt(ctx, reader(c), r.Room, *r.TS, r.Dir == "b")
	if err != nil {
		return getEventByTimestampResponse{}, err
	}
	return getEventByTimestampResponse{ev.ID, ev.TS}, nil
}

type roomInitialSyncRequest struct {
	Room  id.Room `path:"roomId"`
	Limit *int64  `query:"limit"`
}

func (a *API) roomInitialSync(ctx context.Context, c httpx.Caller, r roomInitialSyncRequest) (jsontext.Value, error) {
	limit, err := limitOr(r.Limit, defaultPage, room.MaxPage)
	if err != nil {
		return nil, err
	}
	return a.Rooms.ReadInitial(ctx, reader(c), r.Room, limit)
}
