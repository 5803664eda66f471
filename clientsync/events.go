package clientsync

import (
	"cmp"
	"context"
	"math"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// EventsRequest asks for what the deprecated /events tells: timeline events
// only, of all rooms joined or of one room that may be seen.
type EventsRequest struct {
	User    id.User
	Device  id.Device
	Guest   bool
	Room    id.Room // empty: all that the user is joined to
	From    string  // empty: from now on
	Timeout time.Duration
}

// Chunk is a part of the stream of events.
type Chunk struct {
	Start  string           `json:"start"`
	End    string           `json:"end"`
	Events []jsontext.Value `json:"chunk"`
}

// maxChunk bounds how many events go out at once.
const maxChunk = 100

// Events answers the deprecated /events, waiting for an event if asked to.
// spec: client-server-api#get_matrixclientv3events
func (s *Syncer) Events(ctx context.Context, r EventsRequest) (Chunk, error) {
	if r.Guest && r.Room == "" {
		return Chunk{}, errcode.MissingParam("guests must name a room_id")
	}
	from := s.hub.Now()
	if r.From != "" {
		var err error
		if from, err = stream.ParsePosition(r.From); err != nil {
			return Chunk{}, errcode.InvalidParam("from is %s", err)
		}
	}
	p := peek{s: s, req: &r, from: from, chunk: Chunk{Start: from.String(), Events: []jsontext.Value{}}}
	waiting, cancel := context.WithTimeout(ctx, min(r.Timeout, maxTimeout))
	defer cancel()
	for {
		if err := s.store.View(ctx, p.read); err != nil {
			return Chunk{}, err
		}
		if len(p.chunk.Events) > 0 || !p.wait(waiting) {
			p.chunk.End = p.from.String()
			return p.chunk, ctx.Err()
		}
	}
}

// peek is one request for events.
type peek struct {
	s     *Syncer
	req   *EventsRequest
	user  store.UserNID
	from  stream.Position // what was looked through
	chunk Chunk
}

// wait returns when there may be something new. Of a room that the user is not
// joined to the hub does not tell them, so any commit may bring it.
func (p *peek) wait(ctx context.Context) bool {
	if p.req.Timeout <= 0 {
		return false
	}
	if p.req.Room != "" {
		return p.s.hub.Reach(ctx, p.from.Durable+1)
	}
	return p.s.hub.Wait(ctx, p.user, p.from)
}

// found is one event with its place among all.
type found struct {
	position int64
	view     *room.View
	event    *room.Event
}

func (p *peek) read(tx *store.Tx) error {
	upTo, err := tx.ReadPosition()
	if err != nil {
		return err
	}
	if p.user, _, err = tx.IDs.FindUser(p.req.User); err != nil {
		return err
	}
	p.from.Durable = min(p.from.Durable, upTo)
	rooms, err := p.rooms(tx)
	if err != nil {
		return err
	}
	var all []found
	for _, nid := range rooms {
		// A room that was not read to its end bounds how far the others count.
		if all, upTo, err = p.readRoom(tx, nid, upTo, all); err != nil {
			return err
		}
	}
	all = slices.DeleteFunc(all, func(f found) bool { return f.position > upTo })
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.position, b.position) })
	if len(all) > maxChunk {
		all = all[:maxChunk]
		upTo = all[maxChunk-1].position
	}
	p.from = stream.Position{Durable: upTo, Volatile: p.s.hub.Now().Volatile}
	format := room.Format{Now: time.Now().UnixMilli()}
	for _, f := range all {
		event, err := p.s.rooms.AppendEvent(nil, tx, f.view, f.event, format)
		if err != nil {
			return err
		}
		p.chunk.Events = append(p.chunk.Events, event)
	}
	return nil
}

// rooms are those where something may have happened.
func (p *peek) rooms(tx *store.Tx) ([]store.RoomNID, error) {
	if p.req.Room != "" {
		nid, ok, err := tx.Rooms.Find(p.req.Room)
		if err == nil && !ok {
			err = errcode.Forbidden("you may not see room %s", p.req.Room)
		}
		return []store.RoomNID{nid}, err
	}
	members, err := tx.Members.Changed(p.user, p.from.Durable)
	rooms := make([]store.RoomNID, 0, len(members))
	for _, m := range members {
		if m.Membership == store.Join {
			rooms = append(rooms, m.Room)
		}
	}
	return rooms, err
}

func (p *peek) readRoom(tx *store.Tx, nid store.RoomNID, upTo int64, all []found) ([]found, int64, error) {
	view, err := p.look(tx, nid)
	if err != nil {
		return nil, 0, err
	}
	sight := int64(math.MaxInt64)
	if view.Member.Membership == store.Join {
		sight = view.Member.Position
	} else if !view.MaySeeNow() {
		return nil, 0, errcode.Forbidden("you may not see room %s", view.Room.ID)
	}
	places, err := tx.Events.TimelineUp(nid, p.from.Durable, upTo, maxChunk)
	if err != nil {
		return nil, 0, err
	}
	events, err := p.s.rooms.Events(tx, nidsOf(places))
	for i, ev := range events {
		if (places[i].Position >= sight || view.MaySee(ev)) && !view.Hides(ev) {
			all = append(all, found{places[i].Position, view, ev})
		}
	}
	if len(places) == maxChunk {
		upTo = places[maxChunk-1].Position
	}
	return all, upTo, err
}

func (p *peek) look(tx *store.Tx, nid store.RoomNID) (*room.View, error) {
	row, _, err := tx.Rooms.GetNID(nid)
	if err != nil {
		return nil, err
	}
	view, err := p.s.rooms.View(tx, row, p.user)
	if err != nil {
		return nil, err
	}
	view.Device = string(p.req.Device)
	view.Ignored, err = p.s.rooms.Ignored(tx, p.req.User)
	return view, err
}
