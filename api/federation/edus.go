package federation

import (
	"context"
	"log/slog"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// edus is the table of what other servers tell beside events, and who takes it.
// spec: server-server-api#edus
var edus = map[string]func(a *API, ctx context.Context, origin id.Server, content jsontext.Value) error{}

// receiveEDU takes one EDU of a transaction. A malformed one, or one of an unknown
// type, is no matter of the others.
func (a *API) receiveEDU(ctx context.Context, origin id.Server, raw jsontext.Value) {
	var edu struct {
		Type    string         `json:"edu_type"`
		Content jsontext.Value `json:"content"`
	}
	err := json.Unmarshal(raw, &edu)
	if receive := edus[edu.Type]; err == nil && receive != nil {
		err = receive(a, ctx, origin, edu.Content)
	}
	if err != nil {
		slog.InfoContext(ctx, "EDU not received", "type", edu.Type, "origin", origin, "error", err)
	}
}
