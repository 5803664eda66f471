package federation

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/remote"
)

// spec: server-server-api#publishing-keys
func (a *API) getServerKey(context.Context, httpx.Caller, none) (jsontext.Value, error) {
	return a.Keys.ServerKeys()
}

// attestedKeys are the answers of this server as a notary.
// spec: server-server-api#querying-keys-through-another-server
type attestedKeys struct {
	ServerKeys []jsontext.Value `json:"server_keys"`
}

type perspectivesKeyQueryRequest struct {
	ServerName        id.Server `path:"serverName"`
	MinimumValidUntil int64     `query:"minimum_valid_until_ts"`
}

func (a *API) perspectivesKeyQuery(ctx context.Context, _ httpx.Caller, req perspectivesKeyQueryRequest) (attestedKeys, error) {
	return a.queryKeys(ctx, remote.KeyQuery{req.ServerName: {"": {MinimumValidUntil: req.MinimumValidUntil}}})
}

type bulkPerspectivesKeyQueryRequest struct {
	ServerKeys remote.KeyQuery `json:"server_keys"`
}

func (a *API) bulkPerspectivesKeyQuery(ctx context.Context, _ httpx.Caller, req bulkPerspectivesKeyQueryRequest) (attestedKeys, error) {
	if req.ServerKeys == nil {
		return attestedKeys{}, errcode.MissingParam("server_keys is missing")
	}
	return a.queryKeys(ctx, req.ServerKeys)
}

func (a *API) queryKeys(ctx context.Context, query remote.KeyQuery) (attestedKeys, error) {
	documents, err := a.Keys.QueryKeys(ctx, query)
	if documents == nil {
		documents = []jsontext.Value{}
	}
	return attestedKeys{documents}, err
}
