package room

import (
	"context"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// RelationQuery says which events are wanted of those that refer to one.
type RelationQuery struct {
	Parent    id.Event
	RelType   string // empty: any
	EventType string // empty: any
	Recurse   bool
	Page      // without a filter
}

// recursionDepth is how many steps away from an event its relations are followed.
// spec: client-server-api#relationships-api
const recursionDepth = 3

// ReadRelations is a page of the events that refer to one.
// spec: client-server-api#get_matrixclientv1roomsroomidrelationseventid
func (e *Engine) ReadRelations(ctx context.Context, who Reader, room id.Room, q RelationQuery) (body jsontext.Value, err error) {
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		if _, err := e.VisibleEvent(tx, v, q.Parent); err != nil {
			return err
		}
		related, next, err := e.relations(tx, v, q)
		if err != nil {
			return err
		}
		var members []byte
		if q.From != nil {
			members = event.AppendStringMember(members, "prev_batch", q.From.String())
		}
		if next != nil {
			members = event.AppendStringMember(members, "next_batch", next.String())
		}
		if q.Recurse {
			members = event.AppendMember(members, "recursion_depth", strconv.AppendInt(nil, recursionDepth, 10))
		}
		if members, err = e.appendBundled(event.AppendMember(members, "chunk", nil), tx, v, related); err != nil {
			return err
		}
		body = braced(members)
		return nil
	})
	return body, unseen(err, "event %s is not known, or not for you to see", q.Parent)
}

// relations reads a page of relations; next is nil where nothing follows.
func (e *Engine) relations(tx *store.Tx, v *View, q RelationQuery) (found []*Event, next *stream.Position, err error) {
	var typ store.TypeNID
	if q.EventType != "" {
		var known bool
		if typ, known, err = tx.IDs.FindType(q.EventType); err != nil || !known {
			return nil, nil, err
		}
	}
	after, before := int64(0), int64(maxPosition)
	if q.From != nil && q.Back {
		before = min(before, q.From.Durable+1)
	} else if q.From != nil {
		after = max(after, q.From.Durable)
	}
	if q.To != nil && q.Back {
		after = max(after, q.To.Durable)
	} else if q.To != nil {
		before = min(before, q.To.Durable+1)
	}
	read := e.directRelations
	if q.Recurse {
		read = e.recursiveRelations
	}
	for scanned := 0; scanned < maxScan; {
		rows, err := read(tx, v, q, typ, after, before)
		if err != nil || len(rows) == 0 {
			return found, nil, err
		}
		events, err := e.Events(tx, relationEvents(rows))
		if err != nil {
			return nil, nil, err
		}
		for i, ev := range events {
			if len(found) == q.Limit {
				return found, next, nil
			}
			scanned++
			if q.Back {
				before = rows[i].Position
				next = &stream.Position{Durable: before - 1}
			} else {
				after = rows[i].Position
				next = &stream.Position{Durable: after}
			}
			if v.MaySee(ev) && !v.Hides(ev) && (typ == 0 || ev.Type == typ) {
				found = append(found, ev)
			}
		}
	}
	return found, next, nil
}

func relationEvents(rows []store.Relation) []store.EventNID {
	nids := make([]store.EventNID, len(rows))
	for i, r := range rows {
		nids[i] = r.Event
	}
	return nids
}

// directRelations reads what refers to the event itself, one more than fit the page.
func (e *Engine) directRelations(tx *store.Tx, v *View, q RelationQuery, _ store.TypeNID, after, before int64) ([]store.Relation, error) {
	if q.Back {
		return tx.Relations.Down(v.Room.NID, q.Parent, q.RelType, after, before, q.Limit+1)
	}
	return tx.Relations.Up(v.Room.NID, q.Parent, q.RelType, after, before, q.Limit+1)
}

// recursiveRelations reads what refers to the event or to what refers to it. Each
// step keeps to the query's types.
func (e *Engine) recursiveRelations(tx *store.Tx, v *View, q RelationQuery, typ store.TypeNID, after, before int64) (all []store.Relation, err error) {
	parents, seen := []id.Event{q.Parent}, map[store.EventNID]bool{}
	for range recursionDepth {
		rows, err := tx.Relations.OfMany(v.Room.NID, parents, q.RelType, typ, maxScan-len(all))
		if err != nil {
			return nil, err
		}
		rows = slices.DeleteFunc(rows, func(r store.Relation) bool { return seen[r.Event] })
		if len(rows) == 0 {
			break
		}
		events, err := e.Events(tx, relationEvents(rows))
		if err != nil {
			return nil, err
		}
		parents = parents[:0:0]
		for i, ev := range events {
			seen[ev.NID] = true
			parents = append(parents, ev.ID)
			if p := rows[i].Position; p > after && p < before {
				all = append(all, rows[i])
			}
		}
	}
	slices.SortFunc(all, func(a, b store.Relation) int {
		if a.Position < b.Position == q.Back {
			return 1
		}
		return -1
	})
	return all, nil
}

// ThreadQuery says which threads of a room are wanted.
type ThreadQuery struct {
	Participated bool             // only those in which the reader wrote
	From         *stream.Position // nil: from the newest
	Limit        int
}

// ReadThreads is a page of the roots of a room's threads, those with the newest replies first.
// spec: client-server-api#get_matrixclientv1roomsroomidthreads
func (e *Engine) ReadThreads(ctx context.Context, who Reader, room id.Room, q ThreadQuery) (body jsontext.Value, err error) {
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		if err := v.CheckMember(); err != nil {
			return err
		}
		roots, next, err := e.threads(tx, v, q)
		if err != nil {
			return err
		}
		var members []byte
		if next != nil {
			members = event.AppendStringMember(members, "next_batch", next.String())
		}
		if members, err = e.appendThreads(event.AppendMember(members, "chunk", nil), tx, v, roots); err != nil {
			return err
		}
		body = braced(members)
		return nil
	})
	return body, err
}

func (e *Engine) threads(tx *store.Tx, v *View, q ThreadQuery) (roots []*Event, next *stream.Position, err error) {
	before, participant := int64(maxPosition), store.UserNID(0)
	if q.From != nil {
		before = q.From.Durable + 1
	}
	if q.Participated {
		if participant = v.User; participant == 0 {
			return nil, nil, nil // nobody known ever wrote anything
		}
	}
	ignored := v.ignoredList()
	for scanned := 0; scanned < maxScan; {
		page, err := tx.Relations.Threads(v.Room.NID, before, participant, ignored, q.Limit+1)
		if err != nil {
			return nil, nil, err
		}
		for _, thread := range page {
			if len(roots) == q.Limit {
				return roots, next, nil
			}
			scanned++
			before = thread.Position
			next = &stream.Position{Durable: before - 1}
			root, ok, err := e.Event(tx, v.Room.NID, thread.Root)
			if err != nil {
				return nil, nil, err
			}
			if ok && !root.IsState && v.MaySee(root) {
				roots = append(roots, root)
			}
		}
		if len(page) <= q.Limit {
			return roots, nil, nil
		}
	}
	return roots, next, nil
}

// appendThreads appends the roots of threads, those of ignored users redacted. A
// thread of which the user may see no reply is none.
func (e *Engine) appendThreads(dst []byte, tx *store.Tx, v *View, roots []*Event) (_ []byte, err error) {
	f := Format{Now: now()}
	if f.Bundle, err = e.Bundle(tx, v, roots, f); err != nil {
		return dst, err
	}
	shown := make([]*Event, 0, len(roots))
	for _, root := range roots {
		if f.Bundle[root.NID] == nil {
			continue
		}
		if v.Hides(root) {
			empty := *root
			if empty.PDU, err = root.PDU.Redacted(); err != nil {
				return dst, err
			}
			root = &empty
		}
		shown = append(shown, root)
	}
	return e.appendEvents(dst, tx, v, shown, f)
}
