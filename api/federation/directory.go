package federation

import (
	"context"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/directory"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type queryRoomDirectoryRequest struct {
	Alias *id.Alias `query:"room_alias"`
}

type aliasAnswer struct {
	Room    id.Room     `json:"room_id"`
	Servers []id.Server `json:"servers"`
}

func (a *API) queryRoomDirectory(ctx context.Context, _ httpx.Caller, r queryRoomDirectoryRequest) (answer aliasAnswer, err error) {
	if r.Alias == nil {
		return answer, errcode.MissingParam("room_alias is missing")
	}
	answer.Room, answer.Servers, err = a.Directory.ResolveOwn(ctx, *r.Alias)
	return answer, err
}

type queryProfileRequest struct {
	User  *id.User `query:"user_id"`
	Field string   `query:"field"`
}

func (a *API) queryProfile(ctx context.Context, _ httpx.Caller, r queryProfileRequest) (account.Profile, error) {
	switch {
	case r.User == nil:
		return nil, errcode.MissingParam("user_id is missing")
	case r.User.Server() != a.ServerName:
		return nil, errcode.InvalidParam("%s is not a user of this server", *r.User)
	case a.HideProfiles:
		return nil, errcode.Forbidden("this server tells nobody about its users")
	}
	return a.Accounts.GetProfile(ctx, *r.User, r.Field)
}

type queryInfoRequest struct {
	Type string `path:"queryType"`
}

func (a *API) queryInfo(_ context.Context, _ httpx.Caller, r queryInfoRequest) (none, error) {
	return none{}, errcode.Unrecognized("there are no queries of type %q here", r.Type)
}

type getPublicRoomsRequest struct {
	Limit       *int64 `query:"limit"`
	Since       string `query:"since"`
	AllNetworks bool   `query:"include_all_networks"`
	Network     string `query:"third_party_instance_id"`
}

func (a *API) getPublicRooms(ctx context.Context, _ httpx.Caller, r getPublicRoomsRequest) (directory.PublicRooms, error) {
	return a.publicRooms(ctx, directory.PublicQuery{Since: r.Since, Network: r.Network}, r.Limit, r.AllNetworks)
}

type queryPublicRoomsRequest struct {
	Limit  *int64 `json:"limit"`
	Since  string `json:"since"`
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks"`
	Network     string `json:"third_party_instance_id"`
}

func (a *API) queryPublicRooms(ctx context.Context, _ httpx.Caller, r queryPublicRoomsRequest) (directory.PublicRooms, error) {
	q := directory.PublicQuery{Since: r.Since, Term: r.Filter.Term, Types: r.Filter.Types, Network: r.Network}
	return a.publicRooms(ctx, q, r.Limit, r.AllNetworks)
}

func (a *API) publicRooms(ctx context.Context, q directory.PublicQuery, limit *int64, allNetworks bool) (directory.PublicRooms, error) {
	switch {
	case a.HidePublicRooms:
		return directory.PublicRooms{}, errcode.Forbidden("this server does not show its list of public rooms to others")
	case allNetworks && q.Network != "":
		return directory.PublicRooms{}, errcode.InvalidParam("include_all_networks and third_party_instance_id exclude each other")
	case limit != nil && *limit < 0:
		return directory.PublicRooms{}, errcode.InvalidParam("limit is not below 0")
	}
	const usual = 100
	q.Limit, q.AllNetworks = usual, allNetworks
	if limit != nil && *limit > 0 {
		q.Limit = int(min(*limit, directory.MaxPublicRooms))
	}
	return a.Directory.PublicRooms(ctx, q)
}

type getSpaceHierarchyRequest struct {
	Room          id.Room `path:"roomId"`
	SuggestedOnly bool    `query:"suggested_only"`
}

func (a *API) getSpaceHierarchy(ctx context.Context, c httpx.Caller, r getSpaceHierarchyRequest) (directory.Space, error) {
	return a.Directory.Space(ctx, c.Server, r.Room, r.SuggestedOnly)
}

type getRoomComplexityRequest struct {
	Room id.Room `path:"roomId"`
}

type complexity struct {
	V1 float64 `json:"v1"`
}

// getRoomComplexity lets small servers refuse to join rooms that are too large for
// them. It is not part of the specification.
func (a *API) getRoomComplexity(ctx context.Context, c httpx.Caller, r getRoomComplexityRequest) (complexity, error) {
	v1, err := a.Directory.Complexity(ctx, c.Server, r.Room)
	return complexity{v1}, err
}
