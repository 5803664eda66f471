package push

import (
	"container/heap"
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// Notification is an event that a user was or would have been notified about.
// spec: client-server-api#get_matrixclientv3notifications
type Notification struct {
	Actions []jsontext.Value `json:"actions"`
	Event   jsontext.Value   `json:"event"`
	Read    bool             `json:"read"`
	Room    id.Room          `json:"room_id"`
	TS      int64            `json:"ts"`
}

// Bounds of one page of notifications.
const (
	defaultNotifications = 20
	maxNotifications     = 100
	maxLooks             = 3000 // events evaluated; a page may come out shorter
	lookAhead            = 50   // events of a room read at once
)

// NotificationsRequest asks for a page of notifications, newest first.
type NotificationsRequest struct {
	User           id.User
	Device         id.Device
	From           string // token of the page before
	Limit          *int
	OnlyHighlights bool
}

// Notifications lists a page and the token of the next one, empty at the end. They
// are found anew each time by the rules as they are now.
func (s *Service) Notifications(ctx context.Context, r NotificationsRequest) (page []Notification, next string, err error) {
	before := int64(1) << 62
	if r.From != "" {
		from, err := stream.ParsePosition(r.From)
		if err != nil {
			return nil, "", errcode.InvalidParam("from: %s", err)
		}
		before = from.Durable
	}
	limit := defaultNotifications
	if r.Limit != nil {
		if *r.Limit <= 0 {
			return nil, "", errcode.InvalidParam("limit must be greater than 0")
		}
		limit = min(*r.Limit, maxNotifications)
	}
	err = s.store.View(ctx, func(tx *store.Tx) error {
		l := listing{service: s, ctx: ctx, tx: tx, request: r, rooms: map[store.RoomNID]*listedRoom{}, now: time.Now().UnixMilli()}
		page, next, err = l.page(before, limit)
		return err
	})
	if err != nil {
		return nil, "", fmt.Errorf("list notifications of %s: %w", r.User, err)
	}
	return page, next, nil
}

// listing goes back through the timelines of all rooms of a user at once.
type listing struct {
	service *Service
	ctx     context.Context
	tx      *store.Tx
	request NotificationsRequest
	user    store.UserNID
	rooms   map[store.RoomNID]*listedRoom
	now     int64
}

// listedRoom is a room with what is needed to judge and show its events.
type listedRoom struct {
	counter counter
	view    *room.View
}

func (l *listing) page(before int64, limit int) (page []Notification, next string, err error) {
	page = []Notification{}
	user, ok, err := l.tx.IDs.FindUser(l.request.User)
	if err != nil || !ok {
		return page, "", err
	}
	l.user = user
	tails, err := l.tails(before)
	if err != nil {
		return nil, "", err
	}
	for looks := 0; len(tails) > 0; looks++ {
		place, room, ok, err := tails.pop(l.tx)
		if err != nil {
			return nil, "", err
		}
		if !ok {
			continue
		}
		n, ok, err := l.judge(room, place)
		if err != nil {
			return nil, "", err
		}
		if ok {
			page = append(page, n)
		}
		if len(page) == limit || looks == maxLooks {
			return page, stream.Position{Durable: place.Position}.String(), nil
		}
	}
	return page, "", nil
}

// judge says whether an event notifies, and shows it.
func (l *listing) judge(room store.RoomNID, p store.Place) (n Notification, ok bool, err error) {
	if err := l.ctx.Err(); err != nil {
		return n, false, err
	}
	events, err := l.service.rooms.Events(l.tx, []store.EventNID{p.NID})
	if err != nil {
		return n, false, err
	}
	ev := events[0]
	if ev.Sender == l.user || ev.RedactedBy != 0 {
		return n, false, nil
	}
	r, err := l.room(room)
	if err != nil || r.counter.ignored.users[ev.PDU.Sender] {
		return n, false, err
	}
	seen, err := l.service.sight(l.tx, ev)
	if err != nil {
		return n, false, err
	}
	m := r.counter.rules.Evaluate(seen.view, &r.counter.in)
	if r.counter.err != nil {
		return n, false, r.counter.err
	}
	if m == nil || !m.Actions.Notify || l.request.OnlyHighlights && !m.Actions.Highlight {
		return n, false, nil
	}
	return l.show(r, ev, seen, m.Actions.Raw)
}

func (l *listing) show(r *listedRoom, ev *room.Event, seen *sighting, actions []jsontext.Value) (n Notification, ok bool, err error) {
	if r.view == nil {
		if r.view, err = l.service.rooms.View(l.tx, r.counter.row, l.user); err != nil {
			return n, false, err
		}
		r.view.Device = string(l.request.Device)
	}
	if !r.view.MaySee(ev) {
		return n, false, nil
	}
	shown, err := l.service.rooms.AppendEvent(nil, l.tx, r.view, ev, room.Format{OmitRoomID: true, Now: l.now})
	return Notification{
		Actions: actions, Event: shown, Room: ev.PDU.Room, TS: ev.TS, Read: ev.Position <= r.counter.read.of(seen.thread),
	}, true, err
}

func (l *listing) room(nid store.RoomNID) (*listedRoom, error) {
	if r, ok := l.rooms[nid]; ok {
		return r, nil
	}
	row, _, err := l.tx.Rooms.GetNID(nid)
	if err != nil {
		return nil, err
	}
	at := place{l.user, nid}
	read, err := readingOf(l.tx, at)
	if err != nil {
		return nil, err
	}
	r := &listedRoom{counter: counter{service: l.service, ctx: l.ctx, tx: l.tx, row: row, at: at, read: read}}
	l.rooms[nid] = r
	return r, r.counter.prepare()
}

// tail is what is left of a room's timeline, from the end on.
type tail struct {
	room    store.RoomNID
	joined  int64
	newest  int64         // no event left is newer
	waiting []store.Place // read already, newest first
}

// tails is a heap: the room that may have the newest event is on top.
type tails []tail

func (t tails) Len() int           { return len(t) }
func (t tails) Less(i, j int) bool { return t[i].newest > t[j].newest }
func (t tails) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *tails) Push(x any)        { *t = append(*t, x.(tail)) }
func (t *tails) Pop() any {
	last := (*t)[len(*t)-1]
	*t = (*t)[:len(*t)-1]
	return last
}

func (l *listing) tails(before int64) (tails, error) {
	rooms, err := l.tx.Push.RoomsByActivity(l.user)
	if err != nil {
		return nil, err
	}
	t := make(tails, 0, len(rooms))
	for _, r := range rooms {
		if newest := min(r.LastPosition, before-1); newest > r.JoinPosition {
			t = append(t, tail{room: r.Room, joined: r.JoinPosition, newest: newest})
		}
	}
	heap.Init(&t)
	return t, nil
}

// pop takes the newest event of all. Where it is not known yet which that is, it
// reads on in the room on top and says false.
func (t *tails) pop(tx *store.Tx) (p store.Place, room store.RoomNID, ok bool, err error) {
	top := &(*t)[0]
	room = top.room
	if len(top.waiting) > 0 {
		p, top.waiting, ok = top.waiting[0], top.waiting[1:], true
		top.newest = p.Position - 1
	} else if top.waiting, err = tx.Events.TimelineDown(room, top.joined, top.newest, lookAhead); err != nil {
		return p, room, false, err
	} else if len(top.waiting) == 0 {
		heap.Pop(t)
		return p, room, false, nil
	}
	if len(top.waiting) > 0 {
		top.newest = top.waiting[0].Position
	}
	heap.Fix(t, 0)
	return p, room, ok, nil
}
