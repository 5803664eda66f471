package directory

import (
	"context"
	"log/slog"

	"hearth/matrix/id"
	"hearth/store"
)

// entriesPerPoint: a room of complexity 1 has so many entries in its state.
const entriesPerPoint = 500

// Complexity measures how large a room is, for another server that may know of it.
func (d *Directory) Complexity(ctx context.Context, server id.Server, name id.Room) (points float64, err error) {
	err = d.store.View(ctx, func(tx *store.Tx) error {
		_, _, err := d.shownTo(tx, server, name)
		return err
	})
	if err != nil {
		return 0, err
	}
	return d.OwnComplexity(ctx, name)
}

// OwnComplexity measures how large a room is whose state is known here.
func (d *Directory) OwnComplexity(ctx context.Context, name id.Room) (points float64, err error) {
	h, ok, err := d.rooms.Head(ctx, name)
	if err != nil || !ok {
		return 0, err
	}
	return float64(h.State.Len()) / entriesPerPoint, nil
}

// Resident says whether somebody here is joined to a room.
func (d *Directory) Resident(ctx context.Context, name id.Room) (here bool, err error) {
	err = d.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(name)
		if err == nil && ok {
			here, err = d.resident(tx, nid)
		}
		return err
	})
	return here, err
}

// RemoteComplexity asks other servers how large a room is that a user is about to
// join; not known: none of them says.
func (d *Directory) RemoteComplexity(ctx context.Context, name id.Room, user id.User, via []id.Server) (points float64, known bool, err error) {
	if d.options.Remote == nil {
		return 0, false, nil
	}
	servers, err := d.serversFor(ctx, name, user, via)
	if err != nil {
		return 0, false, err
	}
	for _, server := range servers {
		if points, err = d.askComplexity(ctx, server, name); err == nil {
			return points, true, nil
		}
		if ctx.Err() != nil {
			return 0, false, ctx.Err()
		}
		slog.DebugContext(ctx, "a server did not say how large a room is", "room", name, "server", server, "error", err)
	}
	return 0, false, nil
}

func (d *Directory) askComplexity(ctx context.Context, server id.Server, name id.Room) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	return d.options.Remote.GetRoomComplexity(ctx, server, name)
}
