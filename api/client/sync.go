package client

import (
	"context"
	"net/http"
	"time"

	"hearth/api/httpx"
	"hearth/clientsync"
	"hearth/matrix/id"
)

type syncRequest struct {
	Filter        string `query:"filter"`
	Since         string `query:"since"`
	FullState     bool   `query:"full_state"`
	SetPresence   string `query:"set_presence"`
	Timeout       int64  `query:"timeout"`
	UseStateAfter bool   `query:"use_state_after"`
	// UseStateAfterUnstable is what clients sent before Matrix 1.16, and some still do.
	// msc: 4222
	UseStateAfterUnstable bool `query:"org.matrix.msc4222.use_state_after"`
}

// sync writes its answer in parts, since that to a first sync can be large.
// spec: client-server-api#get_matrixclientv3sync
func (a *API) sync(ctx context.Context, w http.ResponseWriter, c httpx.Caller, req syncRequest) error {
	return a.Sync.Sync(ctx, clientsync.Request{
		User:               c.User,
		Device:             c.Device,
		Filter:             req.Filter,
		Since:              req.Since,
		FullState:          req.FullState,
		SetPresence:        req.SetPresence,
		Timeout:            milliseconds(req.Timeout),
		StateAfter:         req.UseStateAfter,
		StateAfterUnstable: req.UseStateAfterUnstable,
	}, &afterEchoes{jsonBody{w}, func() { a.Echoes.Wait(ctx, c) }})
}

type initialSyncRequest struct {
	Limit    *int64 `query:"limit"`
	Archived bool   `query:"archived"`
}

// initialSync is what clients began with before /sync.
// spec: client-server-api#get_matrixclientv3initialsync
func (a *API) initialSync(ctx context.Context, w http.ResponseWriter, c httpx.Caller, req initialSyncRequest) error {
	limit, err := limitOr(req.Limit, defaultPage, clientsync.MaxTimeline)
	if err != nil {
		return err
	}
	return a.Sync.InitialSync(ctx, clientsync.InitialRequest{User: c.User, Device: c.Device, Archived: req.Archived, Limit: limit}, jsonBody{w})
}

type getEventsRequest struct {
	From    string  `query:"from"`
	Timeout int64   `query:"timeout"`
	Room    id.Room `query:"room_id"`
}

// getEvents is what clients used before /sync, and guests still to peek.
// spec: client-server-api#get_matrixclientv3events
func (a *API) getEvents(ctx context.Context, c httpx.Caller, req getEventsRequest) (clientsync.Chunk, error) {
	return a.Sync.Events(ctx, clientsync.EventsRequest{
		User: c.User, Device: c.Device, Guest: c.Guest, Room: req.Room, From: req.From, Timeout: milliseconds(req.Timeout),
	})
}

// milliseconds is a duration that a client names; what is out of range is cut off.
func milliseconds(n int64) time.Duration {
	return time.Duration(max(0, min(n, int64(time.Hour/time.Millisecond)))) * time.Millisecond
}

// afterEchoes is a body that begins after a device has the answers to what it sends just now.
type afterEchoes struct {
	jsonBody
	wait func()
}

func (b *afterEchoes) Write(p []byte) (int, error) {
	if b.wait != nil {
		b.wait()
		b.wait = nil
	}
	return b.jsonBody.Write(p)
}

// jsonBody is the body of a response that is written in parts.
type jsonBody struct{ w http.ResponseWriter }

func (b jsonBody) Write(p []byte) (int, error) {
	h := b.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	return b.w.Write(p)
}
