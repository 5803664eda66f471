package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// Bounds of asking others for history while a client waits for it.
const (
	backfillTime    = 15 * time.Second // for a page
	listTime        = 5 * time.Second  // for each question to a server while there are others to ask
	backfillServers = 20               // most of which are known to be down, in a room where many are
	minBackfill     = 50               // events asked for at once: clients mostly go on reading
	maxBackfill     = 100              // as many as servers hand out at once
)

// crossedGaps lists the gaps that a page of older events came to, newest first.
func crossedGaps(tx *store.Tx, room store.RoomNID, from, reached int64, full bool) ([]store.Gap, error) {
	if full {
		reached++ // what lies before the last event is for the next page
	}
	return tx.Gaps.Down(room, reached, from, maxBackfills)
}

// backfilling is what is asked for at a gap.
type backfilling struct {
	v       *roomversion.Version
	room    id.Room
	gap     store.Gap
	missing []id.Event
	limit   int
	within  time.Duration // for each question; 0: as long as there is
}

// backfill asks other servers for what is missing at a gap, until ctx ends, and says whether
// anything came of it.
// spec: server-server-api#backfilling-and-retrieving-missing-events
func (e *Engine) backfill(ctx context.Context, room id.Room, gap store.Gap, limit int) bool {
	b := backfilling{room: room, gap: gap, limit: min(max(limit, minBackfill), maxBackfill)}
	var servers []id.Server
	var err error
	var ok bool
	if b.v, ok, err = e.RoomVersion(ctx, room); err == nil && ok {
		b.missing, servers, err = e.whoKnows(ctx, gap)
	}
	if err == nil && len(b.missing) == 0 { // it was all found elsewhere
		err = e.write(ctx, room, func(w *writing) error { _, err := w.fillGap(ctx, gap.Position, nil); return err })
		servers = nil
	}
	silent := map[id.Server]bool{}
	for _, ask := range []func(context.Context, id.Server, backfilling) (int, error){e.backfillFrom, e.backfillEach} {
		for i, server := range servers {
			if silent[server] {
				continue
			}
			if b.within = listTime; i == len(servers)-1 {
				b.within = 0
			}
			var n int
			if n, err = ask(ctx, server, b); n > 0 {
				return true
			}
			if ctx.Err() != nil {
				slog.InfoContext(ctx, "older history was not received in time", "room", room, "asked", servers, "error", err)
				return false
			}
			if err != nil {
				silent[server] = errors.Is(err, context.DeadlineExceeded)
				slog.DebugContext(ctx, "history not received", "room", room, "from", server, "error", err)
			}
		}
	}
	if err != nil {
		slog.InfoContext(ctx, "older history could not be had from other servers", "room", room, "error", err)
	}
	return false
}

// whoKnows lists what is missing at a gap and some servers that may know it: that of
// whoever spoke after it first.
func (e *Engine) whoKnows(ctx context.Context, gap store.Gap) (missing []id.Event, servers []id.Server, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		if missing, err = tx.Gaps.MissingAt(gap.Room, gap.Position, maxPrevEvents); err != nil {
			return err
		}
		places, err := tx.Events.TimelineUp(gap.Room, gap.Position-1, gap.Position, 1)
		if err != nil {
			return err
		}
		events, err := e.Events(tx, nidsOf(places))
		if err != nil {
			return err
		}
		for _, ev := range events {
			if s := ev.PDU.Sender.Server(); s != e.options.Server {
				servers = append(servers, s)
			}
		}
		servers, err = e.residents(tx, gap.Room, servers, backfillServers)
		return err
	})
	return missing, servers, err
}

// backfillFrom asks one server for what is missing at a gap, and says how many events of it
// have their place now.
func (e *Engine) backfillFrom(ctx context.Context, server id.Server, b backfilling) (int, error) {
	told, err := e.listOlder(ctx, server, b, b.missing)
	if err != nil {
		return 0, err
	}
	return e.placeOlder(ctx, server, b, connected(told, b.missing))
}

// backfillEach asks one server for one missing event after the other, until one of them leads on. Of
// several, some may lead to so much that is known that the others find no place in the answer. And
// what a server has rejected it lists for nobody: such an event is asked for by its name, and those
// before it instead. Whether it was rejected rightly cannot be judged here. So it is missing still, for
// another server to list.
func (e *Engine) backfillEach(ctx context.Context, server id.Server, b backfilling) (int, error) {
	names := slices.Clone(b.missing)
	for i := 0; i < len(names) && i < maxBackfillEach; i++ {
		told, err := e.listOlder(ctx, server, b, names[i:i+1])
		if err != nil {
			return 0, err
		}
		wanted := names[i : i+1]
		if !slices.ContainsFunc(told, func(p *event.PDU) bool { return p.ID == names[i] }) {
			raw, err := e.getOlder(ctx, server, b, names[i])
			if errors.Is(err, context.DeadlineExceeded) {
				return 0, err // it says nothing to the other names either
			}
			if err != nil {
				slog.DebugContext(ctx, "event not received", "event", names[i], "from", server, "error", err)
				continue
			}
			list := e.verifyOlder(ctx, server, b.v, b.room, []jsontext.Value{raw})
			if len(list) == 0 || list[0].ID != names[i] {
				continue
			}
			if wanted, err = e.unknown(ctx, list[0].PrevEvents, false); err != nil {
				return 0, err
			}
			for _, name := range wanted {
				if !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		if n, err := e.placeOlder(ctx, server, b, connected(told, wanted)); n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// maxBackfillEach bounds how many missing events at one gap are asked for one by one.
const maxBackfillEach = 10

// listOlder asks a server for some events and those before them.
func (e *Engine) listOlder(ctx context.Context, server id.Server, b backfilling, from []id.Event) ([]*event.PDU, error) {
	asking, cancel := patient(ctx, b.within)
	raws, err := e.options.Network.Backfill(asking, server, b.room, from, b.limit)
	cancel()
	if err != nil {
		return nil, err
	}
	return e.verifyOlder(ctx, server, b.v, b.room, raws), nil
}

// getOlder asks a server for one event.
func (e *Engine) getOlder(ctx context.Context, server id.Server, b backfilling, name id.Event) (jsontext.Value, error) {
	ctx, cancel := patient(ctx, b.within)
	defer cancel()
	return e.options.Network.GetEvent(ctx, server, name)
}

// placeOlder puts events that a server has told, newest first, into a gap.
func (e *Engine) placeOlder(ctx context.Context, server id.Server, b backfilling, list []*event.PDU) (placed int, err error) {
	if len(list) == 0 {
		return 0, nil
	}
	if err := e.backfillAuth(ctx, server, list); err != nil {
		return 0, err
	}
	err = e.write(ctx, b.room, func(w *writing) (err error) {
		placed, err = w.fillGap(ctx, b.gap.Position, list)
		return err
	})
	return placed, err
}

// verifyOlder leaves out what is no event of the room or not signed.
func (e *Engine) verifyOlder(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, raws []jsontext.Value) []*event.PDU {
	var list []*event.PDU
	for _, raw := range raws[:min(len(raws), 2*maxBackfill)] {
		if p, err := event.Parse(v, raw); err == nil && p.Room == room {
			list = append(list, p)
		}
	}
	return e.verify(ctx, from, list, nil)
}

// connected are the events that lead back from those missing, newest first.
func connected(list []*event.PDU, missing []id.Event) []*event.PDU {
	wanted := map[id.Event]bool{}
	for _, name := range missing {
		wanted[name] = true
	}
	var kept []*event.PDU
	for _, p := range slices.Backward(inOrder(list)) {
		if !wanted[p.ID] {
			continue
		}
		kept = append(kept, p)
		for _, name := range p.PrevEvents {
			wanted[name] = true
		}
	}
	return kept
}

// backfillAuth makes sure that the auth events of older events are here.
func (e *Engine) backfillAuth(ctx context.Context, server id.Server, list []*event.PDU) error {
	here := map[id.Event]bool{}
	for _, p := range list {
		here[p.ID] = true
	}
	var names []id.Event
	for _, p := range list {
		for _, name := range p.AuthEvents {
			if !here[name] && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	absent, err := e.unknown(ctx, names, true)
	if err != nil || len(absent) == 0 {
		return err
	}
	return e.fetchOutliers(ctx, server, list[0].Version, list[0].Room, absent)
}

// fillGap puts older events, newest first, in the place that was kept free for them,
// and notes what is missing before them. It returns how many joined the timeline.
func (w *writing) fillGap(ctx context.Context, position int64, list []*event.PDU) (placed int, err error) {
	if err := w.settle(ctx); err != nil {
		return 0, err
	}
	if err := w.engine.makeAllNames(ctx, list); err != nil {
		return 0, err
	}
	// Auth events come before what they authorise in the graph, so in order of age.
	nids := make(map[id.Event]store.EventNID, len(list))
	for _, p := range slices.Backward(list) {
		if nids[p.ID], err = w.engine.nids.next(ctx, w.engine.store); err != nil {
			return 0, err
		}
	}
	err = w.engine.store.View(ctx, func(tx *store.Tx) error {
		gap, ok, err := tx.Gaps.Get(w.head.NID, position)
		if err != nil || !ok {
			return err // somebody else was quicker
		}
		entries, err := w.olderEntries(tx, gap, list, nids)
		if err != nil {
			return err
		}
		lowest := gap.Position
		for i := range entries {
			en := &entries[len(entries)-1-i] // newest first again
			if en.event.Flags&store.Rejected == 0 && gap.Next >= gap.Floor {
				en.position = gap.Next
				lowest = gap.Next
				gap.Next--
				placed++
			} else if en.event.Flags&store.Rejected == 0 {
				en.event.Flags = store.Outlier // no place is left
			}
		}
		for _, en := range entries {
			if err := w.append(en, w.head.extremities); err != nil {
				return err
			}
		}
		w.also = append(w.also, func(tx *store.Tx) error { return w.narrowGap(tx, gap, lowest, list) })
		return nil
	})
	return placed, err
}

// olderEntries judges older events by their auth events, oldest first.
func (w *writing) olderEntries(tx *store.Tx, gap store.Gap, list []*event.PDU, nids map[id.Event]store.EventNID) (entries []entry, err error) {
	version := gap.StateBefore
	var met *overlay
	if gap.StateBefore < 0 {
		if met, err = w.engine.overlay(tx, -gap.StateBefore); err != nil {
			return nil, err
		}
		version = met.Version
	}
	for _, p := range slices.Backward(list) {
		known, ok, err := w.engine.Event(tx, w.head.NID, p.ID)
		if err != nil {
			return nil, err
		}
		if ok && known.Flags&store.Outlier == 0 {
			continue
		}
		auth, err := w.authEvents(tx, p)
		if errors.Is(err, errMissingAuth) {
			slog.Debug("older event without its auth events", "event", p.ID, "error", err)
			continue
		}
		if err != nil {
			return nil, err
		}
		reason, err := w.denied(tx, p, auth, nil)
		if err != nil {
			return nil, err
		}
		n, found, err := findNames(tx, Proposal{Sender: p.Sender, Type: p.Type, StateKey: p.StateKey})
		if err != nil || !found {
			return nil, fmt.Errorf("names of %s (%v): %w", p.ID, found, err)
		}
		en := entry{event: &Event{PDU: p, overlay: met, Event: store.Event{
			NID: nids[p.ID], Room: w.head.NID, ID: p.ID, Sender: n.sender, Type: n.typ, Key: n.key, IsState: p.StateKey != nil,
			Depth: p.Depth, TS: p.OriginServerTS, StateBefore: gap.StateBefore, CurrentState: version, Flags: store.Stateless,
		}}}
		if ok {
			w.replaceOutlier(&en, known)
		}
		if reason != nil {
			en.event.Flags |= store.Rejected
		}
		en.auth = w.edges(auth)
		w.note(&en)
		if reason == nil {
			if err := w.gatherEffects(tx, &en); err != nil {
				return nil, err
			}
			if err := w.redactedBefore(tx, &en); err != nil {
				return nil, err
			}
		}
		entries = append(entries, en)
	}
	return entries, nil
}

// narrowGap notes what is still missing, before the lowest event placed.
func (w *writing) narrowGap(tx *store.Tx, gap store.Gap, lowest int64, list []*event.PDU) error {
	room := w.head.NID
	for _, p := range list {
		if err := tx.Gaps.Found(room, p.ID); err != nil {
			return err
		}
	}
	for _, p := range list {
		for _, name := range p.PrevEvents {
			known, ok, err := tx.Events.Know(name)
			if err != nil {
				return err
			}
			if ok && known.Flags&store.Outlier == 0 {
				continue
			}
			if err := tx.Gaps.Miss(room, name, gap.Position); err != nil {
				return err
			}
		}
	}
	left, err := tx.Gaps.MissingAt(room, gap.Position, 1)
	switch {
	case err != nil:
		return err
	case len(left) == 0:
		return tx.Gaps.Delete(gap)
	case lowest == gap.Position:
		return nil
	}
	return tx.Gaps.Move(gap, lowest, gap.Next)
}

// maxBackfills bounds how often others are asked for one page.
const maxBackfills = 5

// filling reads a page of older events again after others were asked for what is
// missing in it; where they cannot help, or not in time, the page has what is known here.
func (e *Engine) filling(ctx context.Context, room id.Room, limit int, read func() ([]store.Gap, error)) error {
	unfilled := map[int64]bool{}
	asking, cancel := context.WithTimeout(ctx, backfillTime)
	defer cancel()
	for asked := 0; ; {
		gaps, err := read()
		if err != nil || e.options.Network == nil {
			return err
		}
		filled := false
		for _, gap := range gaps {
			if unfilled[gap.Position] || filled || asked == maxBackfills || asking.Err() != nil {
				continue
			}
			asked++
			filled = e.backfill(asking, room, gap, limit)
			unfilled[gap.Position] = !filled
		}
		if !filled {
			return nil
		}
	}
}
