package client

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// redactsOf is the event that the content of a redaction names.
func redactsOf(content jsontext.Value) (id.Event, error) {
	var r struct {
		Redacts *id.Event `json:"redacts"`
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return "", errcode.BadJSON("%v", err)
	}
	if r.Redacts == nil {
		return "", errcode.BadJSON("a redaction names an event in redacts")
	}
	return *r.Redacts, nil
}

// onlyReason is the content of a redaction made by its own endpoint.
func onlyReason(body jsontext.Value) (jsontext.Value, error) {
	if len(body) == 0 {
		return jsontext.Value("{}"), nil
	}
	var r struct {
		Reason string `json:"reason,omitzero"`
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return nil, errcode.BadJSON("%v", err)
	}
	return json.Marshal(r)
}

// checkState refuses state that is well-formed but wrong: aliases that do not name the room.
// spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
func (a *API) checkState(ctx context.Context, r setRoomStateRequest) error {
	if r.Type != "m.room.canonical_alias" || r.StateKey != "" {
		return nil
	}
	return a.Directory.CheckCanonicalAlias(ctx, r.Room, r.Content)
}
