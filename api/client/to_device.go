package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/e2ee"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type sendToDeviceRequest struct {
	Type     string                                   `path:"eventType"`
	Txn      string                                   `path:"txnId"`
	Messages map[id.User]map[id.Device]jsontext.Value `json:"messages"`
}

// spec: client-server-api#send-to-device-messaging
func (a *API) sendToDevice(ctx context.Context, c httpx.Caller, r sendToDeviceRequest) (none, error) {
	if r.Messages == nil {
		return none{}, errcode.MissingParam("messages is missing")
	}
	return none{}, a.E2EE.SendToDevice(ctx, e2ee.Message{Sender: c.User, Type: r.Type}, c.Device, r.Txn, r.Messages)
}
