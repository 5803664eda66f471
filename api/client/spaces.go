package client

import (
	"context"

	"hearth/api/httpx"
	"hearth/directory"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type getSpaceHierarchyRequest struct {
	Room          id.Room `path:"roomId"`
	SuggestedOnly bool    `query:"suggested_only"`
	Limit         *int64  `query:"limit"`
	MaxDepth      *int64  `query:"max_depth"`
	From          string  `query:"from"`
}

func (a *API) getSpaceHierarchy(ctx context.Context, c httpx.Caller, r getSpaceHierarchyRequest) (directory.Hierarchy, error) {
	q := directory.HierarchyQuery{Root: r.Room, SuggestedOnly: r.SuggestedOnly, MaxDepth: -1, From: r.From}
	if r.Limit != nil && *r.Limit < 1 {
		return directory.Hierarchy{}, errcode.InvalidParam("limit is above 0")
	}
	var err error
	if q.Limit, err = limitOr(r.Limit, directory.MaxHierarchy, directory.MaxHierarchy); err != nil {
		return directory.Hierarchy{}, err
	}
	if r.MaxDepth != nil {
		if *r.MaxDepth < 0 {
			return directory.Hierarchy{}, errcode.InvalidParam("max_depth is not below 0")
		}
		q.MaxDepth = int(min(*r.MaxDepth, 1<<30))
	}
	return a.Directory.Hierarchy(ctx, c.User, q)
}
