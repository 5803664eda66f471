package client

import (
	"context"

	"hearth/api/httpx"
	"hearth/directory"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type getPublicRoomsRequest struct {
	Limit  *int64    `query:"limit"`
	Since  string    `query:"since"`
	Server id.Server `query:"server"`
}

func (a *API) getPublicRooms(ctx context.Context, _ httpx.Caller, r getPublicRoomsRequest) (directory.PublicRooms, error) {
	limit, err := publicLimit(r.Limit)
	if err != nil {
		return directory.PublicRooms{}, err
	}
	return a.Directory.PublicRooms(ctx, directory.PublicQuery{Server: r.Server, Since: r.Since, Limit: limit})
}

type queryPublicRoomsRequest struct {
	Server id.Server `query:"server"`
	Limit  *int64    `json:"limit"`
	Since  string    `json:"since"`
	Filter struct {
		Term  string    `json:"generic_search_term"`
		Types []*string `json:"room_types"`
	} `json:"filter"`
	AllNetworks bool   `json:"include_all_networks"`
	Network     string `json:"third_party_instance_id"`
}

func (a *API) queryPublicRooms(ctx context.Context, _ httpx.Caller, r queryPublicRoomsRequest) (directory.PublicRooms, error) {
	if r.AllNetworks && r.Network != "" {
		return directory.PublicRooms{}, errcode.InvalidParam("include_all_networks and third_party_instance_id exclude each other")
	}
	limit, err := publicLimit(r.Limit)
	if err != nil {
		return directory.PublicRooms{}, err
	}
	return a.Directory.PublicRooms(ctx, directory.PublicQuery{
		Server: r.Server, Since: r.Since, Limit: limit, Term: r.Filter.Term, Types: r.Filter.Types, Network: r.Network, AllNetworks: r.AllNetworks,
	})
}

// publicLimit: clients have always sent 0 for as many as there are.
func publicLimit(limit *int64) (int, error) {
	if limit != nil && *limit == 0 {
		limit = nil
	}
	return limitOr(limit, 100, directory.MaxPublicRooms)
}

type getRoomSummaryRequest struct {
	Room string   `path:"roomIdOrAlias"`
	Via  []string `query:"via"`
}

func (a *API) getRoomSummary(ctx context.Context, c httpx.Caller, r getRoomSummaryRequest) (directory.RoomSummary, error) {
	name, servers, err := a.roomOf(ctx, r.Room)
	if err != nil {
		return directory.RoomSummary{}, err
	}
	return a.Directory.Summary(ctx, name, c.User, append(parseServers(r.Via), servers...))
}

type searchUserDirectoryRequest struct {
	Term  *string `json:"search_term"`
	Limit *int64  `json:"limit"`
}

func (a *API) searchUserDirectory(ctx context.Context, c httpx.Caller, r searchUserDirectoryRequest) (directory.People, error) {
	if r.Term == nil {
		return directory.People{}, errcode.MissingParam("search_term is missing")
	}
	limit, err := limitOr(r.Limit, 10, directory.MaxPeople)
	if err != nil {
		return directory.People{}, err
	}
	return a.Directory.SearchPeople(ctx, c.User, *r.Term, limit)
}

type getMutualRoomsRequest struct {
	User *id.User `query:"user_id"`
	From string   `query:"from"`
}

func (a *API) getMutualRooms(ctx context.Context, c httpx.Caller, r getMutualRoomsRequest) (directory.MutualRooms, error) {
	if r.User == nil {
		return directory.MutualRooms{}, errcode.MissingParam("user_id is missing")
	}
	return a.Directory.MutualRooms(ctx, c.User, *r.User, r.From)
}
