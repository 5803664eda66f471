package clientsync

import (
	"math"
	"slices"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// defaultTimeline and MaxTimeline bound how many events of one room go out at
// once; maxScan how many are looked at when a filter lets few of them through.
const (
	defaultTimeline = 10
	MaxTimeline     = 500
	maxScan         = 2000
)

// timeline is the newest events of a span that the client wants and may see.
type timeline struct {
	events  []*room.Event // oldest first
	limited bool          // there are more before, which the client has not seen
	start   int64         // the position before which the client has to ask for more
	// gapless says that the state events after start are all among events, so
	// that a client which follows them arrives at the right state.
	gapless bool
	cut     int64           // depth of the newest event for the client that is not among events
	members bool            // there is a member event after start
	joined  []store.UserNID // whose member events are joins
}

// timeline reads the timeline of a span, backwards from its end.
func (y *response) timeline(tx *store.Tx, sp *span) (timeline, error) {
	f := &y.filter.Room.Timeline
	limit := f.LimitOr(defaultTimeline, MaxTimeline)
	t := timeline{start: sp.to, gapless: true}
	from, err := afterGap(tx, sp)
	if err != nil {
		return t, err
	}
	upTo, scanned := sp.to, 0
	for n := limit + 1; scanned < maxScan; n = min(2*n, maxScan) {
		places, err := tx.Events.TimelineDown(sp.view.Room.NID, from, upTo, n)
		if err != nil {
			return t, err
		}
		events, err := y.s.rooms.Events(tx, nidsOf(places))
		if err != nil {
			return t, err
		}
		for i, ev := range events {
			wanted, err := y.inTimeline(tx, f, sp, ev, places[i].Position)
			if err != nil {
				return t, err
			}
			if wanted && len(t.events) == limit {
				t.limited, t.cut = true, ev.Depth
				return t.reversed(), nil
			}
			t.take(ev, places[i].Position, wanted)
		}
		if len(places) < n {
			if from != sp.from {
				t.limited, t.start = true, from
			} else {
				t.end(y, sp, places, events)
			}
			return t.reversed(), nil
		}
		scanned += n
		upTo = places[n-1].Position - 1
	}
	t.limited, t.start = true, upTo
	return t.reversed(), nil
}

// afterGap is where the timeline of a span begins: after the newest gap in what is known
// of the room's history, across which clients must not read on as if there were none.
func afterGap(tx *store.Tx, sp *span) (int64, error) {
	gaps, err := tx.Gaps.Down(sp.view.Room.NID, sp.from, sp.to, 1)
	if err != nil || len(gaps) == 0 {
		return sp.from, err
	}
	return gaps[0].Position - 1, nil
}

func (t *timeline) take(ev *room.Event, position int64, wanted bool) {
	if user, ok := memberOf(ev); ok {
		t.members = true
		if ev.PDU.Membership() == store.Join.String() {
			t.joined = append(t.joined, user)
		}
	}
	if wanted {
		t.events = append(t.events, ev)
		t.start = position - 1
	} else if ev.IsState {
		t.gapless = false
	}
}

// end notes that there is nothing more in the span. What is before it the client has seen.
func (t *timeline) end(y *response, sp *span, places []store.Place, events []*room.Event) {
	if sp.from != math.MinInt64 {
		t.start = sp.from
		return
	}
	if len(events) == 0 {
		return
	}
	first := len(events) - 1
	t.start = places[first].Position - 1
	// Other servers may know what came before the first event that is known here. And of
	// whoever comes into a room that others made, clients and the conformance suite expect
	// that there is more before, also where a page has it all: they ask, and get nothing.
	t.limited = sp.rejoined || events[first].PDU.Type != event.TypeCreate || sp.entered && events[first].Sender != y.user
}

func (t timeline) reversed() timeline {
	slices.Reverse(t.events)
	return t
}

func nidsOf(places []store.Place) []store.EventNID {
	nids := make([]store.EventNID, len(places))
	for i, p := range places {
		nids[i] = p.NID
	}
	return nids
}

// inTimeline says whether an event is for the user and passes the filter.
func (y *response) inTimeline(tx *store.Tx, f *filter.RoomEventFilter, sp *span, ev *room.Event, position int64) (bool, error) {
	if position < sp.sight && ev.NID != sp.own && !sp.view.MaySee(ev) {
		return false, nil
	}
	if sp.view.Hides(ev) || !f.Match(filtered(sp, ev)) {
		return false, nil
	}
	if !f.NeedsRelations() {
		return true, nil
	}
	related, err := relationsTo(tx, sp.view.Room.NID, ev.ID)
	return f.MatchRelated(related), err
}

// filtered is what filters look at.
func filtered(sp *span, ev *room.Event) *filter.Event {
	return &filter.Event{Type: ev.PDU.Type, Sender: ev.PDU.Sender, Room: sp.view.Room.ID, Content: ev.PDU.Content}
}

// maxRelations bounds how many relations of one event a filter looks at.
const maxRelations = 1000

func relationsTo(tx *store.Tx, room store.RoomNID, ev id.Event) ([]filter.Relation, error) {
	rows, err := tx.Relations.Down(room, ev, "", math.MinInt64, math.MaxInt64, maxRelations)
	related := make([]filter.Relation, len(rows))
	for i, r := range rows {
		related[i].Type = r.RelType
		if related[i].Sender, err = tx.IDs.UserID(r.Sender); err != nil {
			return nil, err
		}
	}
	return related, err
}

func (y *response) writeTimeline(tx *store.Tx, sp *span, t *timeline) error {
	y.w.key("timeline")
	y.w.b = append(y.w.b, `{"events":[`...)
	format := y.format()
	if t.limited {
		// Whoever has the whole timeline has the events that are aggregated too.
		// spec: client-server-api#aggregations-of-child-events
		var err error
		if format.Bundle, err = y.s.rooms.Bundle(tx, sp.view, t.events, format); err != nil {
			return err
		}
	}
	if err := y.appendEvents(tx, sp, t.events, format); err != nil {
		return err
	}
	y.w.b = append(y.w.b, ']')
	if t.limited {
		y.w.b = append(y.w.b, `,"limited":true`...)
	} else {
		y.w.b = append(y.w.b, `,"limited":false`...)
	}
	y.w.b = canonical.AppendString(append(y.w.b, `,"prev_batch":`...), stream.Position{Durable: t.start}.String())
	y.w.b = append(y.w.b, '}')
	return nil
}

// format is how the filter asks for events to be written.
func (y *response) format() room.Format {
	return room.Format{OmitRoomID: true, Now: y.clock, Federation: y.filter.EventFormat == filter.FormatFederation}
}

// appendEvents writes events, with the fields only that the filter asks for.
func (y *response) appendEvents(tx *store.Tx, sp *span, events []*room.Event, format room.Format) (err error) {
	var whole []byte
	for _, ev := range events {
		y.w.comma()
		if !y.filter.SelectsFields() {
			if y.w.b, err = y.s.rooms.AppendEvent(y.w.b, tx, sp.view, ev, format); err != nil {
				return err
			}
			continue
		}
		if whole, err = y.s.rooms.AppendEvent(whole[:0], tx, sp.view, ev, format); err != nil {
			return err
		}
		if y.w.b, err = y.filter.Select(y.w.b, whole); err != nil {
			return err
		}
	}
	return nil
}
