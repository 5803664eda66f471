package room

import (
	"fmt"
	"slices"

	"hearth/matrix/errcode"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// Page says which part of a room's timeline is wanted. A token lies between
// events: h7 after the event at position 7 and before the next.
// spec: client-server-api#get_matrixclientv3roomsroomidmessages
type Page struct {
	From, To *stream.Position // nil: the end of the timeline where the page begins or ends
	Back     bool             // towards older events
	Limit    int
	Filter   *filter.RoomEventFilter // nil: all events
}

// History is a page of events that the user may see, in the order of reading.
type History struct {
	Start, End string // tokens; End is empty where nothing follows
	Reached    string // token of where the reading stopped, whether or not anything follows
	Events     []*Event

	gaps []store.Gap // those crossed towards older events
}

// MaxPage bounds the events of one page.
const MaxPage = 1000

// maxScan bounds how many events are looked at for one page, so that a narrow
// filter or hidden history costs bounded time; the client pages on.
const maxScan = 5000

// CheckMember refuses whoever never had anything to do with a room that is not open to everybody.
func (v *View) CheckMember() error {
	if v.MaySeeNow() || v.Member.Membership != 0 && !v.Member.Forgotten && v.wasJoined() {
		return nil
	}
	return errcode.Forbidden("you are not in room %s, or it is not known here", v.Room.ID)
}

// leftAt is the version of the room's state at which the user's last time in the room ended.
func (v *View) leftAt() int64 {
	for i, m := range slices.Backward(v.memberships[:max(0, len(v.memberships)-1)]) {
		if m.Value == store.Join {
			return v.memberships[i+1].Version
		}
	}
	return 0
}

func (v *View) wasJoined() bool {
	for _, m := range v.memberships {
		if m.Value == store.Join {
			return true
		}
	}
	return false
}

// Messages reads a page of a room's timeline.
func (e *Engine) Messages(tx *store.Tx, v *View, p Page) (History, error) {
	if err := v.CheckMember(); err != nil {
		return History{}, err
	}
	newest := v.Room.LastPosition
	if !v.MaySeeNow() {
		newest = v.LastPosition() // who has left sees nothing later
	}
	at, stop := newest, int64(0)
	if !p.Back {
		at, stop = 0, newest
	}
	if p.From != nil {
		at = min(p.From.Durable, newest)
	}
	if p.To != nil {
		if p.Back {
			stop = max(stop, p.To.Durable)
		} else {
			stop = min(stop, p.To.Durable)
		}
	}
	h := History{Start: stream.Position{Durable: at}.String()}
	if p.From != nil {
		h.Start = p.From.String()
	}
	from := at
	more, err := e.page(tx, v, p, &at, stop, &h)
	if err == nil && p.Back {
		// A token may lie in a gap itself, before the event behind it: so does that with
		// which /sync begins to show a room that was joined by way of another server.
		h.gaps, err = crossedGaps(tx, v.Room.NID, from+1, at, len(h.Events) == p.Limit)
	}
	h.Reached = stream.Position{Durable: at}.String()
	// A page that has events may be followed by an empty one without end: some
	// clients take a page without end for a fault rather than for the last.
	if more || len(h.Events) > 0 {
		h.End = h.Reached
	}
	return h, err
}

// page fills h and moves at along; more: the timeline goes on from there.
func (e *Engine) page(tx *store.Tx, v *View, p Page, at *int64, stop int64, h *History) (more bool, err error) {
	for scanned := 0; scanned < maxScan; {
		chunk := max(20, min(p.Limit-len(h.Events)+1, maxScan))
		places, err := e.places(tx, v, p.Back, *at, stop, chunk)
		if err != nil || len(places) == 0 {
			return false, err
		}
		events, err := e.Events(tx, nidsOf(places))
		if err != nil {
			return false, err
		}
		for i, ev := range events {
			if len(h.Events) == p.Limit {
				return true, nil
			}
			scanned++
			if *at = places[i].Position; p.Back {
				*at--
			}
			ok, err := e.shows(tx, v, p.Filter, ev)
			if err != nil {
				return false, err
			}
			if ok {
				h.Events = append(h.Events, ev)
			}
		}
		if len(places) < chunk {
			return false, nil
		}
	}
	return true, nil
}

func (e *Engine) places(tx *store.Tx, v *View, back bool, at, stop int64, limit int) ([]store.Place, error) {
	if back {
		return tx.Events.TimelineDown(v.Room.NID, stop, at, limit)
	}
	return tx.Events.TimelineUp(v.Room.NID, at, stop, limit)
}

func nidsOf(places []store.Place) []store.EventNID {
	nids := make([]store.EventNID, len(places))
	for i, p := range places {
		nids[i] = p.NID
	}
	return nids
}

// shows says whether an event is for the user's eyes and passes a filter.
func (e *Engine) shows(tx *store.Tx, v *View, f *filter.RoomEventFilter, ev *Event) (bool, error) {
	if !v.MaySee(ev) || v.Hides(ev) {
		return false, nil
	}
	return e.Passes(tx, f, ev)
}

// Passes says whether an event passes a filter; nil lets all pass.
func (e *Engine) Passes(tx *store.Tx, f *filter.RoomEventFilter, ev *Event) (bool, error) {
	if f == nil {
		return true, nil
	}
	p := ev.PDU
	if !f.Match(&filter.Event{Type: p.Type, Sender: p.Sender, Room: p.Room, Content: p.Content}) {
		return false, nil
	}
	if !f.NeedsRelations() {
		return true, nil
	}
	rows, err := tx.Relations.Down(ev.Room, ev.ID, "", 0, maxPosition, maxScan)
	if err != nil {
		return false, fmt.Errorf("relations of %s: %w", ev.ID, err)
	}
	relations := make([]filter.Relation, len(rows))
	for i, r := range rows {
		sender, err := tx.IDs.UserID(r.Sender)
		if err != nil {
			return false, err
		}
		relations[i] = filter.Relation{Type: r.RelType, Sender: sender}
	}
	return f.MatchRelated(relations), nil
}

const maxPosition = 1<<63 - 1

// VisibleEvent finds an event of the room that the user may see.
// spec: client-server-api#get_matrixclientv3roomsroomideventeventid
func (e *Engine) VisibleEvent(tx *store.Tx, v *View, name id.Event) (*Event, error) {
	ev, ok, err := e.Event(tx, v.Room.NID, name)
	if err != nil {
		return nil, err
	}
	if !ok || !v.MaySee(ev) {
		return nil, errcode.NotFound("event %s is not known, or not for you to see", name)
	}
	return ev, nil
}

// Context is an event and what lies round it.
type Context struct {
	Event         *Event
	Before, After []*Event // nearest first
	Start, End    string
}

// Context reads what lies round an event: limit events in all.
// spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
func (e *Engine) Context(tx *store.Tx, v *View, name id.Event, limit int, f *filter.RoomEventFilter) (Context, error) {
	ev, err := e.VisibleEvent(tx, v, name)
	if err != nil {
		return Context{}, err
	}
	at, before := stream.Position{Durable: ev.Position}, stream.Position{Durable: ev.Position - 1}
	c := Context{Event: ev}
	older, err := e.Messages(tx, v, Page{From: &before, Back: true, Limit: limit / 2, Filter: f})
	if err != nil {
		return c, err
	}
	newer, err := e.Messages(tx, v, Page{From: &at, Limit: limit - limit/2, Filter: f})
	if err != nil {
		return c, err
	}
	c.Before, c.After = older.Events, newer.Events
	c.Start, c.End = older.Reached, newer.Reached
	return c, nil
}

// StateFor reads the state of the room that a user is shown: the present one,
// or for those who have left the one at their leaving.
// spec: client-server-api#get_matrixclientv3roomsroomidstate
func (e *Engine) StateFor(tx *store.Tx, v *View) ([]store.EventNID, error) {
	version, err := e.stateVersionFor(v)
	if err != nil {
		return nil, err
	}
	entries, err := tx.State.All(v.Room.NID, version)
	if err != nil {
		return nil, err
	}
	return eventsOf(entries), nil
}

// stateVersionFor is the version of the state that a user is shown.
func (e *Engine) stateVersionFor(v *View) (int64, error) {
	if err := v.CheckMember(); err != nil {
		return 0, err
	}
	if v.MaySeeNow() {
		return v.Room.StateVersion, nil
	}
	return v.leftAt(), nil
}

// StateEntryFor reads one entry of that state; nil: there is none.
func (e *Engine) StateEntryFor(tx *store.Tx, v *View, key store.StateKey) (*Event, error) {
	version, err := e.stateVersionFor(v)
	if err != nil {
		return nil, err
	}
	nid, ok, err := tx.State.At(v.Room.NID, key, version)
	if err != nil || !ok {
		return nil, err
	}
	all, err := e.Events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// MembersFor reads the membership events of the state that a user is shown, or
// of the state at a token, if the user may see the room then.
// spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (e *Engine) MembersFor(tx *store.Tx, v *View, at *stream.Position) ([]store.EventNID, error) {
	version, err := e.stateVersionFor(v)
	if err != nil {
		return nil, err
	}
	if at != nil {
		then, err := e.versionAt(tx, v, at.Durable)
		if err != nil {
			return nil, err
		}
		version = min(version, then)
	}
	entries, err := tx.State.All(v.Room.NID, version)
	if err != nil {
		return nil, err
	}
	var nids []store.EventNID
	for _, en := range entries {
		if _, member := store.IsMemberKey(en.Key); member {
			nids = append(nids, en.Event)
		}
	}
	return nids, nil
}

// versionAt is the version of a room's state after the event at a position, or
// the last before it, which the user must be able to see.
func (e *Engine) versionAt(tx *store.Tx, v *View, position int64) (int64, error) {
	places, err := tx.Events.TimelineDown(v.Room.NID, 0, position, 1)
	if err != nil {
		return 0, err
	}
	if len(places) == 0 {
		// The token that sync gives with a timeline that goes back to the room's
		// beginning. The room began with its create event and the creator's join.
		return 2, nil
	}
	last, err := e.Events(tx, nidsOf(places))
	if err != nil {
		return 0, err
	}
	if !v.MaySee(last[0]) {
		return 0, errcode.Forbidden("you may not see the room as it was then")
	}
	return after(last[0]), nil
}

// SendersOf lists who sent some events, each once, for lazy loading of members.
func SendersOf(events []*Event) []store.UserNID {
	var senders []store.UserNID
	for _, ev := range events {
		senders = append(senders, ev.Sender)
	}
	slices.Sort(senders)
	return slices.Compact(senders)
}
