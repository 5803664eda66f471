package room

import (
	"context"
	"log/slog"
	"time"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Bounds of fetching the event that another server found for a time.
const (
	timestampTime      = 30 * time.Second
	timestampBackfills = 10
)

// EventAt finds the event of a room nearest to a time, in milliseconds, that
// the reader may see: at the time or later, or with back at the time or earlier.
// Where history is missing that may hold a nearer one, other servers are asked. If
// theirs is too far back to be fetched while a client waits, what is known here counts.
// spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
func (e *Engine) EventAt(ctx context.Context, who Reader, room id.Room, ts int64, back bool) (*Event, error) {
	found, gap, err := e.nearest(ctx, who, room, ts, back)
	if err != nil {
		return nil, err
	}
	if gap != nil && e.options.Network != nil && e.fetchNearest(ctx, room, *gap, found, ts, back) {
		if found, _, err = e.nearest(ctx, who, room, ts, back); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, errcode.NotFound("no event of this room is near that time in that direction")
	}
	return found, nil
}

// nearest finds the event nearest to a time that is known here and that the reader may
// see, and the gap in which there may be a nearer one; nil: there is none.
func (e *Engine) nearest(ctx context.Context, who Reader, room id.Room, ts int64, back bool) (found *Event, gap *store.Gap, err error) {
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		if err := v.CheckMember(); err != nil {
			return err
		}
		next, from := tx.Events.NearestAfter, int64(0)
		if back {
			next, from = tx.Events.NearestBefore, maxPosition
		}
		for range maxScan {
			place, ok, err := next(v.Room.NID, ts, from)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			events, err := e.Events(tx, []store.EventNID{place.NID})
			if err != nil {
				return err
			}
			if v.MaySee(events[0]) {
				found = events[0]
				gap, err = gapBeside(tx, v.Room.NID, place.Position, back)
				return err
			}
			ts, from = events[0].TS, place.Position
		}
		gap, err = gapUpTo(tx, v.Room.NID, maxPosition)
		return err
	})
	return found, gap, err
}

// gapBeside finds the gap right before the event at a position, or with after right
// behind it. For as long as clocks go right, what is farther away is not nearer in time.
func gapBeside(tx *store.Tx, room store.RoomNID, position int64, after bool) (*store.Gap, error) {
	if after {
		places, err := tx.Events.TimelineUp(room, position, maxPosition, 1)
		if err != nil || len(places) == 0 {
			return nil, err
		}
		position = places[0].Position
	}
	gap, ok, err := tx.Gaps.Get(room, position)
	if err != nil || !ok {
		return nil, err
	}
	return &gap, nil
}

// gapUpTo finds the newest gap before or at a position.
func gapUpTo(tx *store.Tx, room store.RoomNID, position int64) (*store.Gap, error) {
	gaps, err := tx.Gaps.Down(room, 0, position, 1)
	if err != nil || len(gaps) == 0 {
		return nil, err
	}
	return &gaps[0], nil
}

// fetchNearest asks other servers for the event nearest to a time, and if it is nearer
// than the one known here (nil: none is), for the history up to it. It says whether
// anything came of that.
// spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (e *Engine) fetchNearest(ctx context.Context, room id.Room, gap store.Gap, known *Event, ts int64, back bool) (fetched bool) {
	ctx, cancel := context.WithTimeout(ctx, timestampTime)
	defer cancel()
	_, servers, err := e.whoKnows(ctx, gap)
	for i, server := range servers {
		within := listTime
		if i == len(servers)-1 {
			within = 0
		}
		asking, cancel := patient(ctx, within)
		name, at, failure := e.options.Network.TimestampToEvent(asking, server, room, ts, back)
		cancel()
		if err = failure; err != nil {
			slog.DebugContext(ctx, "a server did not find an event for a time", "room", room, "server", server, "error", err)
			continue
		}
		if known != nil && !isNearer(at, known.TS, back) {
			return false
		}
		fetched, err = e.backfillTo(ctx, room, gap, name)
		break
	}
	if err != nil {
		slog.InfoContext(ctx, "other servers could not help to find an event for a time", "room", room, "error", err)
	}
	return fetched
}

func isNearer(ts, than int64, back bool) bool {
	if back {
		return ts > than
	}
	return ts < than
}

// backfillTo fills a gap, and those before it, until an event is known.
func (e *Engine) backfillTo(ctx context.Context, room id.Room, gap store.Gap, name id.Event) (fetched bool, err error) {
	for range timestampBackfills {
		missing, err := e.unknown(ctx, []id.Event{name}, false)
		if err != nil || len(missing) == 0 {
			return true, err
		}
		if !e.backfill(ctx, room, gap, maxBackfill) {
			return fetched, nil
		}
		fetched = true
		var left *store.Gap
		err = e.store.View(ctx, func(tx *store.Tx) (err error) {
			left, err = gapUpTo(tx, gap.Room, gap.Position)
			return err
		})
		if err != nil || left == nil {
			return true, err
		}
		gap = *left
	}
	return fetched, nil
}
