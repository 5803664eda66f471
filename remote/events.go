package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/room"
)

// pduList is the answer of endpoints that hand over events in a transaction.
type pduList struct {
	PDUs []jsontext.Value `json:"pdus"`
}

const (
	// maxListed bounds the events in an answer that is kept in memory as a whole, and
	// maxIDs the ids of events: those of a room with some 200,000 members.
	maxListed = 50_000
	maxIDs    = 500_000
)

// eventsSize bounds an answer that has at most so many events.
func eventsSize(limit int) int64 {
	return min(int64(max(limit, 10)+1)*maxWireEvent, maxEvents)
}

// askStreamed is ask for an answer that may be large: no more of it is in memory than what its
// members, read by functions, are made into.
func (c *Client) askStreamed(ctx context.Context, from id.Server, rq request, members func(*stateReader) map[string]func() error) error {
	resp, err := c.send(ctx, from, &rq)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	s := newStateReader(resp.Body)
	return s.failure(from, s.read(members(s)))
}

// askEvents asks for a list of events, which is a member of the answer.
func (c *Client) askEvents(ctx context.Context, from id.Server, rq request, member string) (events []jsontext.Value, err error) {
	rq.within = slowTime
	err = c.askStreamed(ctx, from, rq, func(s *stateReader) map[string]func() error {
		return map[string]func() error{member: s.list(&events, maxListed)}
	})
	if err != nil {
		return nil, err
	}
	return events, nil
}

// GetMissingEvents asks for the events between some and others.
// spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
func (c *Client) GetMissingEvents(ctx context.Context, from id.Server, r id.Room, q room.MissingEvents) ([]jsontext.Value, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	return c.askEvents(ctx, from, request{method: http.MethodPost, path: fedPath("v1/get_missing_events", string(r)), body: body, limit: eventsSize(q.Limit)}, "events")
}

// Backfill asks for events and what came before them.
// spec: server-server-api#get_matrixfederationv1backfillroomid
func (c *Client) Backfill(ctx context.Context, from id.Server, r id.Room, before []id.Event, limit int) ([]jsontext.Value, error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, e := range before {
		q.Add("v", string(e))
	}
	return c.askEvents(ctx, from, request{method: http.MethodGet, path: fedPath("v1/backfill", string(r)), query: q, limit: eventsSize(limit)}, "pdus")
}

// GetEvent asks for one event.
// spec: server-server-api#get_matrixfederationv1eventeventid
func (c *Client) GetEvent(ctx context.Context, from id.Server, e id.Event) (jsontext.Value, error) {
	var answer pduList
	err := c.ask(ctx, from, request{method: http.MethodGet, path: fedPath("v1/event", string(e))}, &answer)
	if err != nil {
		return nil, err
	}
	if len(answer.PDUs) != 1 {
		return nil, badAnswer(from, fmt.Errorf("%d events instead of one", len(answer.PDUs)))
	}
	return answer.PDUs[0], nil
}

// GetEventAuth asks for the auth chain of an event.
// spec: server-server-api#get_matrixfederationv1event_authroomideventid
func (c *Client) GetEventAuth(ctx context.Context, from id.Server, r id.Room, e id.Event) ([]jsontext.Value, error) {
	return c.askEvents(ctx, from, request{method: http.MethodGet, path: fedPath("v1/event_auth", string(r), string(e)), limit: maxEvents}, "auth_chain")
}

// GetRoomStateIDs asks for the state before an event, by ids.
// spec: server-server-api#get_matrixfederationv1state_idsroomid
func (c *Client) GetRoomStateIDs(ctx context.Context, from id.Server, r id.Room, at id.Event) (state, authChain []id.Event, err error) {
	rq := request{method: http.MethodGet, path: fedPath("v1/state_ids", string(r)), query: url.Values{"event_id": {string(at)}}, limit: maxEvents, within: slowTime}
	left := maxIDs
	err = c.askStreamed(ctx, from, rq, func(s *stateReader) map[string]func() error {
		return map[string]func() error{"pdu_ids": s.ids(&state, &left), "auth_chain_ids": s.ids(&authChain, &left)}
	})
	if err != nil {
		return nil, nil, err
	}
	return state, authChain, nil
}

// GetRoomState asks for the state before an event.
// spec: server-server-api#get_matrixfederationv1stateroomid
func (c *Client) GetRoomState(ctx context.Context, from id.Server, r id.Room, at id.Event, each func(room.StatePart, jsontext.Value) error) error {
	rq := request{
		method: http.MethodGet, path: fedPath("v1/state", string(r)), query: url.Values{"event_id": {string(at)}},
		limit: maxState, within: slowTime, stream: true,
	}
	return c.askStreamed(ctx, from, rq, func(s *stateReader) map[string]func() error {
		return map[string]func() error{
			"pdus":       func() error { return s.events(room.InState, each) },
			"auth_chain": func() error { return s.events(room.InAuthChain, each) },
		}
	})
}

// TimestampToEvent asks for the event nearest to a time.
// spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (c *Client) TimestampToEvent(ctx context.Context, from id.Server, r id.Room, ts int64, backwards bool) (id.Event, int64, error) {
	q := url.Values{"ts": {strconv.FormatInt(ts, 10)}, "dir": {"f"}}
	if backwards {
		q.Set("dir", "b")
	}
	var answer struct {
		Event id.Event `json:"event_id"`
		TS    int64    `json:"origin_server_ts"`
	}
	err := c.ask(ctx, from, request{method: http.MethodGet, path: fedPath("v1/timestamp_to_event", string(r)), query: q}, &answer)
	if err == nil && answer.Event == "" {
		err = badAnswer(from, errors.New("there is no event_id"))
	}
	return answer.Event, answer.TS, err
}
