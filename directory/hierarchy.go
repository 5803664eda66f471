package directory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// HierarchyQuery says which part of a space is wanted.
type HierarchyQuery struct {
	Root          id.Room
	SuggestedOnly bool
	MaxDepth      int // negative: no limit
	Limit         int
	From          string
}

// Hierarchy is a page of the rooms of a space, depth first.
type Hierarchy struct {
	Rooms []HierarchyRoom `json:"rooms"`
	Next  string          `json:"next_batch,omitzero"`
}

// HierarchyRoom is one room of a space.
type HierarchyRoom struct {
	Summary
	Children []jsontext.Value `json:"children_state"`
}

// MaxHierarchy bounds a page of a space, maxHierarchyRooms the whole of one.
const (
	MaxHierarchy      = 50
	maxHierarchyRooms = 10_000
)

// Hierarchy walks a space. A page is found by walking from the root again: the
// tree may have changed, but no state is kept between requests.
// spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func (d *Directory) Hierarchy(ctx context.Context, user id.User, q HierarchyQuery) (page Hierarchy, err error) {
	skip, err := q.parseFrom()
	if err != nil {
		return page, err
	}
	w := &walk{directory: d, user: user, query: q, skip: skip, page: []HierarchyRoom{}, answers: map[id.Room]*toldSpace{}}
	if err := w.run(ctx); err != nil {
		return page, err
	}
	page.Rooms = w.page
	if w.more {
		page.Next = q.token(skip + len(w.page))
	}
	return page, nil
}

// token names how many rooms were shown and what may not change on the way.
func (q HierarchyQuery) token(shown int) string {
	return fmt.Sprintf("%d_%d_%t", shown, q.MaxDepth, q.SuggestedOnly)
}

func (q HierarchyQuery) parseFrom() (shown int, err error) {
	if q.From == "" {
		return 0, nil
	}
	digits := 0
	for digits < len(q.From) && q.From[digits] >= '0' && q.From[digits] <= '9' {
		digits++
	}
	shown, err = strconv.Atoi(q.From[:digits])
	if err != nil || shown > maxHierarchyRooms || q.token(shown) != q.From {
		return 0, errcode.InvalidParam("from is not a token of this request: suggested_only and max_depth must stay as they were")
	}
	return shown, nil
}

// walk is one walk through a space.
type walk struct {
	directory *Directory
	user      id.User
	query     HierarchyQuery
	skip      int
	page      []HierarchyRoom
	more      bool

	asked   int                    // how many rooms other servers were asked for
	until   time.Time              // when they are asked no more
	answers map[id.Room]*toldSpace // of those who were asked ahead; nil: they did not say
}

// step is a room on the way.
type step struct {
	child
	depth int
	told  *Summary // what the server of the space said of it; nil: nothing that is enough
}

func (w *walk) run(ctx context.Context) error {
	seen := map[id.Room]bool{w.query.Root: true}
	stack := []step{{child: child{room: w.query.Root}}}
	for shown := 0; len(stack) > 0 && len(seen) < maxHierarchyRooms; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		s, ok, err := w.visit(ctx, at)
		if err != nil {
			return err
		}
		if !ok {
			if at.depth == 0 {
				return errcode.Forbidden("room %s is not known here, or not for you to see", at.room)
			}
			continue
		}
		if len(w.page) == w.query.Limit {
			w.more = true
			return nil
		}
		if shown++; shown > w.skip {
			w.page = append(w.page, HierarchyRoom{s.room, strippedChildren(s.children)})
		}
		if w.query.MaxDepth >= 0 && at.depth >= w.query.MaxDepth {
			continue
		}
		var next []step
		for _, c := range s.children {
			if !seen[c.room] && !s.inaccessible[c.room] {
				seen[c.room] = true
				next = append(next, step{c, at.depth + 1, s.rooms[c.room]})
			}
		}
		if err := w.askAhead(ctx, next); err != nil {
			return err
		}
		slices.Reverse(next)
		stack = append(stack, next...)
	}
	return nil
}

// visit reads a room that the user may know of: from the store where this server is
// in it, else as other servers tell of it.
func (w *walk) visit(ctx context.Context, at step) (s *toldSpace, ok bool, err error) {
	var here bool
	err = w.directory.store.View(ctx, func(tx *store.Tx) error {
		s, here, ok, err = w.read(tx, at.room)
		return err
	})
	if err != nil || here {
		return s, ok, err
	}
	told := w.answers[at.room]
	switch {
	case told == nil && at.told != nil:
		told = &toldSpace{room: *at.told}
	case told == nil:
		if told, err = w.ask(ctx, at.child); err != nil {
			return nil, false, err
		}
	}
	if told == nil {
		return s, ok, nil // what is known from earlier is better than nothing
	}
	ok, err = w.directory.mayKnow(ctx, told.room, w.user)
	return told, ok, err
}

// read reads a room from the store. here: this server is in it, and so knows it best;
// ok: the user may know of it.
func (w *walk) read(tx *store.Tx, name id.Room) (s *toldSpace, here, ok bool, err error) {
	row, known, err := tx.Rooms.Get(name)
	if err != nil || !known {
		return nil, false, false, err
	}
	if here, err = w.directory.resident(tx, row.NID); err != nil {
		return nil, here, false, err
	}
	s = &toldSpace{}
	if s.room, err = w.directory.summary(tx, row); err != nil {
		return nil, here, false, err
	}
	nid, err := reader(tx, w.user)
	if err != nil {
		return nil, here, false, err
	}
	if ok, err = w.directory.accessible(tx, row.NID, s.room, nid); err != nil || !ok {
		return nil, here, false, err
	}
	s.children, err = w.directory.children(tx, row, s.room, w.query.SuggestedOnly)
	return s, here, true, err
}

// child is one room that a space names.
type child struct {
	room     id.Room
	order    string // empty: none that is valid
	ts       int64
	via      []id.Server
	stripped jsontext.Value // the link as stripped state with its time
}

// children are the rooms of a space, in order; other rooms have none.
func (d *Directory) children(tx *store.Tx, row store.Room, s Summary, suggestedOnly bool) ([]child, error) {
	if s.RoomType != "m.space" {
		return nil, nil
	}
	typ, ok, err := tx.IDs.FindType(event.TypeSpaceChild)
	if err != nil || !ok {
		return nil, err
	}
	entries, err := tx.State.OfType(row.NID, typ, row.StateVersion)
	if err != nil {
		return nil, err
	}
	nids := make([]store.EventNID, len(entries))
	for i, en := range entries {
		nids[i] = en.Event
	}
	events, err := d.rooms.Events(tx, nids)
	if err != nil {
		return nil, err
	}
	var children []child
	for _, ev := range events {
		c, suggested, ok := parseChild(*ev.PDU.StateKey, ev.PDU.Content)
		if !ok || suggestedOnly && !suggested {
			continue
		}
		stripped := event.AppendStripped(nil, ev.PDU)
		stripped = append(stripped[:len(stripped)-1], `,"origin_server_ts":`...)
		c.ts, c.stripped = ev.TS, append(strconv.AppendInt(stripped, ev.TS, 10), '}')
		children = append(children, c)
	}
	slices.SortFunc(children, byOrder)
	return children, nil
}

// parseChild reads an m.space.child event. Without servers to reach the room by it is none.
// spec: client-server-api#mspacechild
func parseChild(key string, raw jsontext.Value) (c child, suggested, ok bool) {
	var content struct {
		Via       []string       `json:"via"`
		Order     jsontext.Value `json:"order"`
		Suggested jsontext.Value `json:"suggested"`
	}
	name, err := id.ParseRoom(key)
	if err != nil || json.Unmarshal(raw, &content) != nil || len(content.Via) == 0 {
		return c, false, false
	}
	c = child{room: name}
	for _, s := range content.Via[:min(len(content.Via), maxServers)] {
		if server, err := id.ParseServer(s); err == nil {
			c.via = append(c.via, server)
		}
	}
	var order string
	if content.Order != nil && json.Unmarshal(content.Order, &order) == nil && validOrder(order) {
		c.order = order
	}
	return c, string(content.Suggested) == "true", true
}

func validOrder(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7E {
			return false
		}
	}
	return len(s) <= 50
}

// byOrder: spec: client-server-api#ordering-of-children-within-a-space
func byOrder(a, b child) int {
	if (a.order == "") != (b.order == "") {
		if a.order != "" {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.ts, b.ts), cmp.Compare(a.room, b.room))
}

// strippedChildren are the links of a space.
func strippedChildren(children []child) []jsontext.Value {
	list := make([]jsontext.Value, len(children))
	for i, c := range children {
		list[i] = c.stripped
	}
	return list
}
