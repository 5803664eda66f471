package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
)

// defaultRelations is how many events a page of relations or threads has that
// says nothing about it.
const defaultRelations = 50

type getRelatingEventsRequest struct {
	Room    id.Room  `path:"roomId"`
	Event   id.Event `path:"eventId"`
	From    string   `query:"from"`
	To      string   `query:"to"`
	Dir     string   `query:"dir"`
	Limit   *int64   `query:"limit"`
	Recurse bool     `query:"recurse"`
}

func (a *API) getRelatingEvents(ctx context.Context, c httpx.Caller, r getRelatingEventsRequest) (jsontext.Value, error) {
	return a.relations(ctx, c, r, "", "")
}

type getRelatingEventsWithRelTypeRequest struct {
	Room    id.Room  `path:"roomId"`
	Event   id.Event `path:"eventId"`
	RelType string   `path:"relType"`
	From    string   `query:"from"`
	To      string   `query:"to"`
	Dir     string   `query:"dir"`
	Limit   *int64   `query:"limit"`
	Recurse bool     `query:"recurse"`
}

func (a *API) getRelatingEventsWithRelType(ctx context.Context, c httpx.Caller, r getRelatingEventsWithRelTypeRequest) (jsontext.Value, error) {
	return a.relations(ctx, c, getRelatingEventsRequest{r.Room, r.Event, r.From, r.To, r.Dir, r.Limit, r.Recurse}, r.RelType, "")
}

type getRelatingEventsWithRelTypeAndEventTypeRequest struct {
	Room      id.Room  `path:"roomId"`
	Event     id.Event `path:"eventId"`
	RelType   string   `path:"relType"`
	EventType string   `path:"eventType"`
	From      string   `query:"from"`
	To        string   `query:"to"`
	Dir       string   `query:"dir"`
	Limit     *int64   `query:"limit"`
	Recurse   bool     `query:"recurse"`
}

func (a *API) getRelatingEventsWithRelTypeAndEventType(ctx context.Context, c httpx.Caller, r getRelatingEventsWithRelTypeAndEventTypeRequest) (jsontext.Value, error) {
	return a.relations(ctx, c, getRelatingEventsRequest{r.Room, r.Event, r.From, r.To, r.Dir, r.Limit, r.Recurse}, r.RelType, r.EventType)
}

func (a *API) relations(ctx context.Context, c httpx.Caller, r getRelatingEventsRequest, relType, eventType string) (jsontext.Value, error) {
	p, err := page(r.From, r.To, r.Dir, "b", r.Limit)
	if err != nil {
		return nil, err
	}
	if p.Limit, err = positiveLimit(r.Limit); err != nil {
		return nil, err
	}
	return a.Rooms.ReadRelations(ctx, reader(c), r.Room, room.RelationQuery{
		Parent: r.Event, RelType: relType, EventType: eventType, Recurse: r.Recurse, Page: p,
	})
}

func positiveLimit(limit *int64) (int, error) {
	if limit != nil && *limit < 1 {
		return 0, errcode.InvalidParam("limit is above 0")
	}
	return limitOr(limit, defaultRelations, room.MaxPage)
}

type getThreadRootsRequest struct {
	Room    id.Room `path:"roomId"`
	Include string  `query:"include"`
	Limit   *int64  `query:"limit"`
	From    string  `query:"from"`
}

func (a *API) getThreadRoots(ctx context.Context, c httpx.Caller, r getThreadRootsRequest) (_ jsontext.Value, err error) {
	q := room.ThreadQuery{Participated: r.Include == "participated"}
	if !q.Participated && r.Include != "" && r.Include != "all" {
		return nil, errcode.InvalidParam("include is all or participated, not %q", r.Include)
	}
	if q.Limit, err = positiveLimit(r.Limit); err != nil {
		return nil, err
	}
	if q.From, err = room.ParseToken("from", r.From); err != nil {
		return nil, err
	}
	return a.Rooms.ReadThreads(ctx, reader(c), r.Room, q)
}
