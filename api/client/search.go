package client

import (
	"context"
	"encoding/base64"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/filter"
	"hearth/room"
)

type searchRequest struct {
	NextBatch  string `query:"next_batch"`
	Categories *struct {
		RoomEvents *roomEventsCriteria `json:"room_events"`
	} `json:"search_categories"`
}

type roomEventsCriteria struct {
	Term         *string             `json:"search_term"`
	Keys         []string            `json:"keys"`
	Filter       jsontext.Value      `json:"filter"`
	OrderBy      string              `json:"order_by"`
	Context      *eventContextOption `json:"event_context"`
	IncludeState bool                `json:"include_state"`
	Groupings    struct {
		GroupBy []struct {
			Key string `json:"key"`
		} `json:"group_by"`
	} `json:"groupings"`
}

type eventContextOption struct {
	Before         *int64 `json:"before_limit"`
	After          *int64 `json:"after_limit"`
	IncludeProfile bool   `json:"include_profile"`
}

type searchResponse struct {
	Categories map[string]jsontext.Value `json:"search_categories"`
}

func (a *API) search(ctx context.Context, c httpx.Caller, r searchRequest) (searchResponse, error) {
	answer := searchResponse{map[string]jsontext.Value{}}
	if r.Categories == nil {
		return answer, errcode.MissingParam("search_categories is missing")
	}
	if r.Categories.RoomEvents == nil {
		return answer, nil // of the other categories there is none
	}
	q, err := r.Categories.RoomEvents.query()
	if err != nil {
		return answer, err
	}
	if r.NextBatch != "" {
		raw, err := base64.RawURLEncoding.DecodeString(r.NextBatch)
		if err != nil || json.Unmarshal(raw, &q.After) != nil {
			return answer, errcode.InvalidParam("next_batch is not a token of this search")
		}
	}
	answer.Categories["room_events"], err = a.Rooms.Search(ctx, reader(c), q, searchToken)
	return answer, err
}

// searchToken writes a place among results as a token.
func searchToken(p room.SearchPlace) string {
	raw, err := json.Marshal(p)
	if err != nil {
		panic(err) // a struct of three strings
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

const (
	defaultSearchContext = 5
	maxSearchContext     = 50
	maxSearchPage        = 100
)

// query checks what is asked for.
// spec: client-server-api#post_matrixclientv3search
func (r *roomEventsCriteria) query() (q room.SearchQuery, err error) {
	q = room.SearchQuery{Keys: r.Keys, IncludeState: r.IncludeState, Recent: r.OrderBy == "recent", Limit: defaultPage}
	if r.Term == nil {
		return q, errcode.MissingParam("search_term is missing")
	}
	q.Term = *r.Term
	if !q.Recent && r.OrderBy != "" && r.OrderBy != "rank" {
		return q, errcode.InvalidParam("order_by is recent or rank, not %q", r.OrderBy)
	}
	for _, k := range r.Keys {
		if k != "content.body" && k != "content.name" && k != "content.topic" {
			return q, errcode.InvalidParam("keys are content.body, content.name and content.topic, not %q", k)
		}
	}
	for _, g := range r.Groupings.GroupBy {
		if g.Key != "room_id" && g.Key != "sender" {
			return q, errcode.InvalidParam("results are grouped by room_id or sender, not by %q", g.Key)
		}
		if !slices.Contains(q.GroupBy, g.Key) {
			q.GroupBy = append(q.GroupBy, g.Key)
		}
	}
	if r.Filter != nil {
		if q.Filter, err = filter.ParseRoomEventFilter(r.Filter); err != nil {
			return q, err
		}
		q.Limit = q.Filter.LimitOr(defaultPage, maxSearchPage)
	}
	if r.Context != nil {
		q.Context, err = r.Context.context()
	}
	return q, err
}

func (o *eventContextOption) context() (c *room.SearchContext, err error) {
	c = &room.SearchContext{IncludeProfile: o.IncludeProfile}
	if c.Before, err = limitOr(o.Before, defaultSearchContext, maxSearchContext); err != nil {
		return nil, err
	}
	c.After, err = limitOr(o.After, defaultSearchContext, maxSearchContext)
	return c, err
}
