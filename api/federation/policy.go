package federation

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/id"
)

type askPolicyServerToSignRequest struct {
	Event jsontext.Value `body:"."`
}

// spec: server-server-api#post_matrixpolicyv1sign
func (a *API) askPolicyServerToSign(ctx context.Context, c httpx.Caller, r askPolicyServerToSignRequest) (map[id.Server]map[id.Key]string, error) {
	return a.Rooms.SignAsPolicyServer(ctx, c.Server, r.Event)
}
