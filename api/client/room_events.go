package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
)

type eventIDResponse struct {
	Event id.Event `json:"event_id"`
}

type sendMessageRequest struct {
	Room    id.Room        `path:"roomId"`
	Type    string         `path:"eventType"`
	Txn     string         `path:"txnId"`
	TS      *int64         `query:"ts"`
	Content jsontext.Value `body:"."`
}

func (a *API) sendMessage(ctx context.Context, c httpx.Caller, r sendMessageRequest) (eventIDResponse, error) {
	a.active(ctx, c)
	if r.Type == "m.room.redaction" {
		return a.sendRedaction(ctx, c, r)
	}
	ts, err := massaged(c, r.TS)
	if err != nil {
		return eventIDResponse{}, err
	}
	ev, err := a.Rooms.Send(ctx, r.Room, room.Proposal{
		Sender: c.User, Suspended: c.Suspended, Type: r.Type, Content: r.Content, Timestamp: ts,
		Txn: &room.Txn{Device: c.Device, ID: r.Txn, Endpoint: "send " + r.Type},
	})
	return eventIDResponse{ev}, err
}

// massaged is the time that an application service wants its event to have; 0: now.
// spec: application-service-api#timestamp-massaging
func massaged(c httpx.Caller, ts *int64) (int64, error) {
	if ts == nil || c.AppService == "" {
		return 0, nil
	}
	if *ts <= 0 {
		return 0, errcode.InvalidParam("ts is milliseconds since 1970, above 0")
	}
	return *ts, nil
}

// sendRedaction: a redaction may be sent as any other event.
// spec: client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid
func (a *API) sendRedaction(ctx context.Context, c httpx.Caller, r sendMessageRequest) (eventIDResponse, error) {
	target, err := redactsOf(r.Content)
	if err != nil {
		return eventIDResponse{}, err
	}
	ts, err := massaged(c, r.TS)
	if err != nil {
		return eventIDResponse{}, err
	}
	ev, err := a.Rooms.Redact(ctx, r.Room, room.Proposal{
		Sender: c.User, Suspended: c.Suspended, Content: r.Content, Redacts: target, Timestamp: ts,
		Txn: &room.Txn{Device: c.Device, ID: r.Txn, Endpoint: "send " + r.Type},
	})
	return eventIDResponse{ev}, err
}

type redactEventRequest struct {
	Room    id.Room        `path:"roomId"`
	Event   id.Event       `path:"eventId"`
	Txn     string         `path:"txnId"`
	Content jsontext.Value `body:"."`
}

func (a *API) redactEvent(ctx context.Context, c httpx.Caller, r redactEventRequest) (eventIDResponse, error) {
	content, err := onlyReason(r.Content)
	if err != nil {
		return eventIDResponse{}, err
	}
	ev, err := a.Rooms.Redact(ctx, r.Room, room.Proposal{
		Sender: c.User, Suspended: c.Suspended, Content: content, Redacts: r.Event,
		Txn: &room.Txn{Device: c.Device, ID: r.Txn, Endpoint: "redact " + string(r.Event)},
	})
	return eventIDResponse{ev}, err
}

type setRoomStateRequest struct {
	Room     id.Room        `path:"roomId"`
	Type     string         `path:"eventType"`
	StateKey string         `path:"stateKey"`
	TS       *int64         `query:"ts"`
	Content  jsontext.Value `body:"."`
}

func (a *API) setRoomStateWithKey(ctx context.Context, c httpx.Caller, r setRoomStateRequest) (eventIDResponse, error) {
	ts, err := massaged(c, r.TS)
	if err != nil {
		return eventIDResponse{}, err
	}
	if err := a.checkState(ctx, r); err != nil {
		return eventIDResponse{}, err
	}
	ev, err := a.Rooms.Send(ctx, r.Room, room.Proposal{
		Sender: c.User, Suspended: c.Suspended, Type: r.Type, StateKey: &r.StateKey, Content: r.Content, Timestamp: ts,
	})
	return eventIDResponse{ev}, err
}
