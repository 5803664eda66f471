package directory

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/remote"
)

// alone is the error of whoever asks for what only another server knows, where this
// one talks to none.
func alone(server id.Server) error {
	return errcode.New(http.StatusBadGateway, "M_UNKNOWN", "%s cannot be asked: this server does not talk to others", server)
}

// askAlias asks an alias's server for its room and servers in that.
func (d *Directory) askAlias(ctx context.Context, alias id.Alias) (id.Room, []id.Server, error) {
	if d.options.Remote == nil {
		return "", nil, alone(alias.Server())
	}
	name, servers, err := d.options.Remote.QueryDirectory(ctx, alias.Server(), alias)
	if err != nil {
		return "", nil, remote.ForClient(err)
	}
	if _, err := id.ParseRoom(string(name)); err != nil {
		return "", nil, errcode.New(http.StatusBadGateway, "M_UNKNOWN", "%s answered with something that is no room id", alias.Server())
	}
	// Whoever knows the alias knows the room, even if it names nobody.
	return name, append(servers, alias.Server()), nil
}

// publicFilter is the filter of a query for public rooms.
// spec: server-server-api#post_matrixfederationv1publicrooms
type publicFilter struct {
	Term  string    `json:"generic_search_term,omitzero"`
	Types []*string `json:"room_types,omitzero"`
}

// askPublicRooms asks another server for its list of public rooms.
func (d *Directory) askPublicRooms(ctx context.Context, q PublicQuery) (page PublicRooms, err error) {
	page.Chunk = []PublicRoom{}
	if d.options.Remote == nil {
		return page, alone(q.Server)
	}
	asked := remote.PublicRoomsQuery{Limit: q.Limit, Since: q.Since, IncludeAllNetworks: q.AllNetworks, ThirdPartyInstanceID: q.Network}
	if q.Term != "" || q.Types != nil {
		if asked.Filter, err = json.Marshal(publicFilter{q.Term, q.Types}); err != nil {
			return page, err
		}
	}
	answer, err := d.options.Remote.GetPublicRooms(ctx, q.Server, asked)
	if err != nil {
		return page, remote.ForClient(err)
	}
	for _, raw := range answer.Chunk {
		if r, ok := parsePublicRoom(raw); ok {
			page.Chunk = append(page.Chunk, r)
		}
	}
	page.Next, page.Prev, page.Total = answer.NextBatch, answer.PrevBatch, int64(len(page.Chunk))
	if answer.Total != nil {
		page.Total = *answer.Total
	}
	return page, nil
}

// parsePublicRoom reads a room as another server shows it. Of that is kept what has
// a meaning.
func parsePublicRoom(raw jsontext.Value) (r PublicRoom, ok bool) {
	if json.Unmarshal(raw, &r) != nil {
		return r, false
	}
	if _, err := id.ParseRoom(string(r.Room)); err != nil {
		return r, false
	}
	if _, err := id.ParseAlias(r.CanonicalAlias); err != nil {
		r.CanonicalAlias = ""
	}
	if r.JoinRule == "" {
		r.JoinRule = "public" // the default of this key
	}
	return r, true
}
