package directory

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
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
	err = d.store.View(ctx, func(tx *store.Tx) error {
		nid, err := reader(tx, user)
		if err != nil {
			return err
		}
		w := &walk{directory: d, tx: tx, user: nid, query: q, skip: skip, page: []HierarchyRoom{}}
		if err := w.run(); err != nil {
			return err
		}
		page.Rooms = w.page
		if w.more {
			page.Next = q.token(skip + len(w.page))
		}
		return nil
	})
	return page, err
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
	tx        *store.Tx
	user      store.UserNID
	query     HierarchyQuery
	skip      int
	page      []HierarchyRoom
	more      bool
}

type step struct {
	room  id.Room
	depth int
}

func (w *walk) run() error {
	seen := map[id.Room]bool{w.query.Root: true}
	stack := []step{{w.query.Root, 0}}
	for shown := 0; len(stack) > 0 && len(seen) < maxHierarchyRooms; {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		row, s, ok, err := w.visible(at.room)
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
		children, err := w.children(row, s)
		if err != nil {
			return err
		}
		if shown++; shown > w.skip {
			w.page = append(w.page, HierarchyRoom{s, strippedChildren(children)})
		}
		if w.query.MaxDepth >= 0 && at.depth >= w.query.MaxDepth {
			continue
		}
		for _, c := range slices.Backward(children) {
			if !seen[c.room] {
				seen[c.room] = true
				stack = append(stack, step{c.room, at.depth + 1})
			}
		}
	}
	return nil
}

// visible reads a room that the user may know of.
func (w *walk) visible(name id.Room) (row store.Room, s Summary, ok bool, err error) {
	if row, ok, err = w.tx.Rooms.Get(name); err != nil || !ok {
		return row, s, ok, err
	}
	if s, err = w.directory.summary(w.tx, row); err != nil {
		return row, s, false, err
	}
	ok, err = w.directory.accessible(w.tx, row, s, w.user)
	return row, s, ok, err
}

// child is one room that a space names.
type child struct {
	room  id.Room
	order string // empty: none that is valid
	event *room.Event
}

// children are the rooms of a space, in order; other rooms have none.
func (w *walk) children(row store.Room, s Summary) ([]child, error) {
	if s.RoomType != "m.space" {
		return nil, nil
	}
	typ, ok, err := w.tx.IDs.FindType(event.TypeSpaceChild)
	if err != nil || !ok {
		return nil, err
	}
	entries, err := w.tx.State.OfType(row.NID, typ, row.StateVersion)
	if err != nil {
		return nil, err
	}
	nids := make([]store.EventNID, len(entries))
	for i, en := range entries {
		nids[i] = en.Event
	}
	events, err := w.directory.rooms.Events(w.tx, nids)
	if err != nil {
		return nil, err
	}
	var children []child
	for _, ev := range events {
		if c, suggested, ok := parseChild(ev); ok && (suggested || !w.query.SuggestedOnly) {
			children = append(children, c)
		}
	}
	slices.SortFunc(children, byOrder)
	return children, nil
}

// parseChild reads an m.space.child event. Without servers to reach the room by it is none.
// spec: client-server-api#mspacechild
func parseChild(ev *room.Event) (c child, suggested, ok bool) {
	var content struct {
		Via       []string       `json:"via"`
		Order     jsontext.Value `json:"order"`
		Suggested jsontext.Value `json:"suggested"`
	}
	name, err := id.ParseRoom(*ev.PDU.StateKey)
	if err != nil || json.Unmarshal(ev.PDU.Content, &content) != nil || len(content.Via) == 0 {
		return c, false, false
	}
	c = child{room: name, event: ev}
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
	return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.event.TS, b.event.TS), cmp.Compare(a.room, b.room))
}

// strippedChildren are the links of a space as stripped state with their times.
func strippedChildren(children []child) []jsontext.Value {
	list := make([]jsontext.Value, len(children))
	for i, c := range children {
		stripped := event.AppendStripped(nil, c.event.PDU)
		stripped = append(stripped[:len(stripped)-1], `,"origin_server_ts":`...)
		list[i] = append(strconv.AppendInt(stripped, c.event.TS, 10), '}')
	}
	return list
}
