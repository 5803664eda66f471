package client

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/filter"
	"hearth/matrix/id"
)

// What clients may keep here is bounded, a piece at a time.
const (
	maxAccountData = 1 << 20
	maxFilter      = 64 << 10
	maxTag         = 64 << 10
)

type accountDataPath struct {
	User id.User `path:"userId"`
	Type string  `path:"type"`
}

type setAccountDataRequest struct {
	User    id.User        `path:"userId"`
	Type    string         `path:"type"`
	Content jsontext.Value `body:"."`
}

type roomAccountDataPath struct {
	User id.User `path:"userId"`
	Room id.Room `path:"roomId"`
	Type string  `path:"type"`
}

type setRoomAccountDataRequest struct {
	User    id.User        `path:"userId"`
	Room    id.Room        `path:"roomId"`
	Type    string         `path:"type"`
	Content jsontext.Value `body:"."`
}

// spec: client-server-api#get_matrixclientv3useruseridaccount_datatype
func (a *API) getAccountData(ctx context.Context, c httpx.Caller, r accountDataPath) (jsontext.Value, error) {
	if err := own(c, r.User); err != nil {
		return nil, err
	}
	if r.Type == "m.push_rules" {
		rules, err := a.getPushRules(ctx, c, none{})
		if err != nil {
			return nil, err
		}
		return json.Marshal(rules)
	}
	return a.Accounts.GetAccountData(ctx, r.User, "", r.Type)
}

// spec: client-server-api#put_matrixclientv3useruseridaccount_datatype
func (a *API) setAccountData(ctx context.Context, c httpx.Caller, r setAccountDataRequest) (none, error) {
	if err := own(c, r.User); err != nil {
		return none{}, err
	}
	return none{}, a.Accounts.SetAccountData(ctx, r.User, "", r.Type, r.Content)
}

// spec: client-server-api#get_matrixclientv3useruseridroomsroomidaccount_datatype
func (a *API) getAccountDataPerRoom(ctx context.Context, c httpx.Caller, r roomAccountDataPath) (jsontext.Value, error) {
	if err := own(c, r.User); err != nil {
		return nil, err
	}
	return a.Accounts.GetAccountData(ctx, r.User, r.Room, r.Type)
}

// spec: client-server-api#put_matrixclientv3useruseridroomsroomidaccount_datatype
func (a *API) setAccountDataPerRoom(ctx context.Context, c httpx.Caller, r setRoomAccountDataRequest) (none, error) {
	if err := own(c, r.User); err != nil {
		return none{}, err
	}
	return none{}, a.Accounts.SetAccountData(ctx, r.User, r.Room, r.Type, r.Content)
}

type roomTagsPath struct {
	User id.User `path:"userId"`
	Room id.Room `path:"roomId"`
}

type roomTagPath struct {
	User id.User `path:"userId"`
	Room id.Room `path:"roomId"`
	Tag  string  `path:"tag"`
}

type setRoomTagRequest struct {
	User    id.User        `path:"userId"`
	Room    id.Room        `path:"roomId"`
	Tag     string         `path:"tag"`
	Content jsontext.Value `body:"."`
}

type tagsResponse struct {
	Tags map[string]jsontext.Value `json:"tags"`
}

// spec: client-server-api#get_matrixclientv3useruseridroomsroomidtags
func (a *API) getRoomTags(ctx context.Context, c httpx.Caller, r roomTagsPath) (tagsResponse, error) {
	if err := own(c, r.User); err != nil {
		return tagsResponse{}, err
	}
	tags, err := a.Accounts.ListTags(ctx, r.User, r.Room)
	return tagsResponse{tags}, err
}

// spec: client-server-api#put_matrixclientv3useruseridroomsroomidtagstag
func (a *API) setRoomTag(ctx context.Context, c httpx.Caller, r setRoomTagRequest) (none, error) {
	if err := own(c, r.User); err != nil {
		return none{}, err
	}
	return none{}, a.Accounts.SetTag(ctx, r.User, r.Room, r.Tag, r.Content)
}

// spec: client-server-api#delete_matrixclientv3useruseridroomsroomidtagstag
func (a *API) deleteRoomTag(ctx context.Context, c httpx.Caller, r roomTagPath) (none, error) {
	if err := own(c, r.User); err != nil {
		return none{}, err
	}
	return none{}, a.Accounts.SetTag(ctx, r.User, r.Room, r.Tag, nil)
}

type defineFilterRequest struct {
	User   id.User        `path:"userId"`
	Filter jsontext.Value `body:"."`
}

type filterResponse struct {
	FilterID string `json:"filter_id"`
}

type filterPath struct {
	User     id.User `path:"userId"`
	FilterID string  `path:"filterId"`
}

// spec: client-server-api#post_matrixclientv3useruseridfilter
func (a *API) defineFilter(ctx context.Context, c httpx.Caller, r defineFilterRequest) (filterResponse, error) {
	if err := own(c, r.User); err != nil {
		return filterResponse{}, err
	}
	if _, err := filter.Parse(r.Filter); err != nil {
		return filterResponse{}, err
	}
	filterID, err := a.Accounts.DefineFilter(ctx, r.User, r.Filter)
	return filterResponse{filterID}, err
}

// spec: client-server-api#get_matrixclientv3useruseridfilterfilterid
func (a *API) getFilter(ctx context.Context, c httpx.Caller, r filterPath) (jsontext.Value, error) {
	if err := own(c, r.User); err != nil {
		return nil, err
	}
	return a.Accounts.GetFilter(ctx, r.User, r.FilterID)
}
