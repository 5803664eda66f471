package client

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/ephemeral"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

type postReceiptRequest struct {
	Room   id.Room        `path:"roomId"`
	Type   string         `path:"receiptType"`
	Event  id.Event       `path:"eventId"`
	Thread jsontext.Value `json:"thread_id"`
}

// spec: client-server-api#receipts
func (a *API) postReceipt(ctx context.Context, c httpx.Caller, r postReceiptRequest) (none, error) {
	receipt := ephemeral.Receipt{Type: r.Type, Event: r.Event}
	if len(r.Thread) > 0 {
		if err := json.Unmarshal(r.Thread, &receipt.Thread); err != nil || receipt.Thread == "" {
			return none{}, errcode.InvalidParam("thread_id must be a string that is not empty")
		}
	}
	a.active(ctx, c)
	return none{}, a.Receipts.Send(ctx, c.User, r.Room, receipt)
}

type setReadMarkerRequest struct {
	Room        id.Room   `path:"roomId"`
	FullyRead   *id.Event `json:"m.fully_read"`
	Read        *id.Event `json:"m.read"`
	ReadPrivate *id.Event `json:"m.read.private"`
}

// spec: client-server-api#fully-read-markers
func (a *API) setReadMarker(ctx context.Context, c httpx.Caller, r setReadMarkerRequest) (none, error) {
	var receipts []ephemeral.Receipt
	for _, part := range []struct {
		typ   string
		event *id.Event
	}{{ephemeral.Read, r.Read}, {ephemeral.ReadPrivate, r.ReadPrivate}, {ephemeral.FullyRead, r.FullyRead}} {
		if part.event != nil {
			receipts = append(receipts, ephemeral.Receipt{Type: part.typ, Event: *part.event})
		}
	}
	a.active(ctx, c)
	return none{}, a.Receipts.Send(ctx, c.User, r.Room, receipts...)
}
