package room

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// The relation types that the server knows something about.
// spec: client-server-api#relationship-types
const (
	relReplace    = "m.replace"
	relReference  = "m.reference"
	relThread     = "m.thread"
	relAnnotation = "m.annotation"
)

// Bundle aggregates what refers to some events of a room, as far as the user of
// the view may see it: for each event to which something does, the value of
// m.relations. f is how the events themselves are written.
// spec: client-server-api#aggregations-of-child-events
func (e *Engine) Bundle(tx *store.Tx, v *View, events []*Event, f Format) (map[store.EventNID][]byte, error) {
	return (&bundler{e, tx, v, f, v.ignoredList()}).bundle(events, true)
}

// bundler aggregates for one user.
type bundler struct {
	engine  *Engine
	tx      *store.Tx
	view    *View
	format  Format
	ignored []store.UserNID
}

// bundle leaves threads out below the newest event of a thread, so that no
// chain of relations is followed further than that.
func (b *bundler) bundle(events []*Event, threads bool) (map[store.EventNID][]byte, error) {
	ids := make([]id.Event, 0, len(events))
	for _, ev := range events {
		if !ev.IsState {
			ids = append(ids, ev.ID)
		}
	}
	if len(ids) == 0 {
		return nil, nil
	}
	related, err := b.tx.Relations.Related(b.view.Room.NID, ids)
	if err != nil || len(related) == 0 {
		return nil, err
	}
	bundles := make(map[store.EventNID][]byte, len(related))
	for _, ev := range events {
		types, ok := related[ev.ID]
		if !ok || ev.IsState {
			continue
		}
		members, err := b.members(ev, types, threads)
		if err != nil {
			return nil, fmt.Errorf("aggregate below %s: %w", ev.ID, err)
		}
		if members != nil {
			bundles[ev.NID] = braced(members)
		}
	}
	return bundles, nil
}

func (b *bundler) members(ev *Event, types []string, threads bool) (members []byte, err error) {
	slices.Sort(types)
	for _, t := range types {
		var value []byte
		switch {
		case t == relReference:
			value, err = b.references(ev)
		case t == relReplace:
			value, err = b.replacement(ev)
		case t == relThread && threads:
			value, err = b.thread(ev)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t, err)
		}
		if value != nil {
			members = event.AppendMember(members, t, value)
		}
	}
	return members, nil
}

// maxReferences bounds the references that are listed with an event; the rest
// is had from the relations API.
const maxReferences = 1000

// references lists the events that refer to one, oldest first; nil: there are none.
// spec: client-server-api#server-side-aggregation-of-mreference
func (b *bundler) references(parent *Event) ([]byte, error) {
	rows, err := b.tx.Relations.Up(parent.Room, parent.ID, relReference, 0, maxPosition, maxReferences)
	if err != nil {
		return nil, err
	}
	children, err := b.visible(rows)
	if err != nil || len(children) == 0 {
		return nil, err
	}
	list := []byte{'['}
	for i, ev := range children {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, braced(event.AppendStringMember(nil, "event_id", ev.ID))...)
	}
	return braced(event.AppendMember(nil, "chunk", append(list, ']'))), nil
}

// visible reads the events of relations, those that the user may and wants to see.
func (b *bundler) visible(rows []store.Relation) ([]*Event, error) {
	nids := make([]store.EventNID, len(rows))
	for i, r := range rows {
		nids[i] = r.Event
	}
	events, err := b.engine.Events(b.tx, nids)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(events, func(ev *Event) bool { return !b.view.MaySee(ev) || b.view.Hides(ev) }), nil
}

// maxEdits bounds how many of the newest edits are looked at for a valid one.
const maxEdits = 50

// replacement is the newest valid edit of an event, as it is; nil: there is none.
// spec: client-server-api#server-side-aggregation-of-mreplace-relationships
func (b *bundler) replacement(original *Event) ([]byte, error) {
	if !mayBeReplaced(original) || b.view.Ignored[original.Sender] {
		return nil, nil
	}
	nids, err := b.tx.Relations.Replacements(original.Room, original.ID, original.Sender, original.Type, maxEdits)
	if err != nil {
		return nil, err
	}
	edits, err := b.engine.Events(b.tx, nids)
	if err != nil {
		return nil, err
	}
	edits = slices.DeleteFunc(edits, func(ev *Event) bool { return !b.view.MaySee(ev) || !isReplacement(ev, original) })
	if len(edits) == 0 {
		return nil, nil
	}
	return b.engine.AppendEvent(nil, b.tx, b.view, newest(edits), b.plain())
}

// plain is the format of events inside a bundle that get no bundle of their own.
func (b *bundler) plain() Format {
	f := b.format
	f.Bundle = nil
	return f
}

// mayBeReplaced says whether an event may have valid edits at all.
// spec: client-server-api#validity-of-replacement-events
func mayBeReplaced(original *Event) bool {
	if original.IsState || original.RedactedBy != 0 {
		return false
	}
	rel, ok := relationOf(original.PDU.ContentValue("m.relates_to"))
	return !ok || rel.RelType != relReplace
}

// isReplacement says whether an edit is valid. What an encrypted one holds only clients know.
// spec: client-server-api#validity-of-replacement-events
func isReplacement(edit, original *Event) bool {
	if edit.IsState || edit.RedactedBy != 0 || edit.Room != original.Room ||
		edit.PDU.Sender != original.PDU.Sender || edit.PDU.Type != original.PDU.Type {
		return false
	}
	rel, ok := relationOf(edit.PDU.ContentValue("m.relates_to"))
	if !ok || rel.RelType != relReplace || rel.Event != original.ID {
		return false
	}
	content := edit.PDU.ContentValue("m.new_content")
	return content.Kind() == '{' || content == nil && edit.PDU.Type == event.TypeEncrypted
}

// newest is the edit that counts: the one whose sender says it is the latest.
func newest(edits []*Event) *Event {
	return slices.MaxFunc(edits, func(a, b *Event) int {
		switch {
		case a.TS != b.TS && a.TS < b.TS:
			return -1
		case a.TS != b.TS:
			return 1
		case a.ID < b.ID:
			return -1
		}
		return 1
	})
}

// thread sums up the thread below an event; nil: there is none that the user may see.
// spec: client-server-api#server-side-aggregation-of-mthread-relationships
func (b *bundler) thread(root *Event) ([]byte, error) {
	latest, err := b.latestReply(root)
	if err != nil || latest == nil {
		return nil, err
	}
	count, own, err := b.threadSize(root)
	if err != nil {
		return nil, err
	}
	f := b.plain()
	if f.Bundle, err = b.bundle([]*Event{latest}, false); err != nil {
		return nil, err
	}
	raw, err := b.engine.AppendEvent(nil, b.tx, b.view, latest, f)
	if err != nil {
		return nil, err
	}
	members := event.AppendMember(nil, "latest_event", raw)
	members = event.AppendMember(members, "count", strconv.AppendInt(nil, count, 10))
	participated := own > 0 || root.Sender == b.view.User
	return braced(event.AppendMember(members, "current_user_participated", strconv.AppendBool(nil, participated))), nil
}

func (b *bundler) latestReply(root *Event) (*Event, error) {
	before := int64(maxPosition)
	for limit := 5; limit <= maxScan; limit *= 10 {
		rows, err := b.tx.Relations.Down(root.Room, root.ID, relThread, 0, before, limit)
		if err != nil || len(rows) == 0 {
			return nil, err
		}
		replies, err := b.visible(rows)
		if err != nil {
			return nil, err
		}
		if len(replies) > 0 {
			return replies[0], nil
		}
		if len(rows) < limit {
			return nil, nil
		}
		before = rows[len(rows)-1].Position
	}
	return nil, nil
}

// threadSize counts the replies that the user may see, and their own. Only where
// some may be hidden does it look at each, at as many as one page may.
func (b *bundler) threadSize(root *Event) (all, own int64, err error) {
	if b.view.MaySeeAllFrom(root.VersionBefore()) {
		return b.tx.Relations.ThreadSize(root.Room, root.ID, b.view.User, b.ignored)
	}
	rows, err := b.tx.Relations.Down(root.Room, root.ID, relThread, 0, maxPosition, MaxPage)
	if err != nil {
		return 0, 0, err
	}
	replies, err := b.visible(rows)
	for _, ev := range replies {
		if all++; ev.Sender == b.view.User {
			own++
		}
	}
	return all, own, err
}

func (v *View) ignoredList() []store.UserNID { return slices.Collect(maps.Keys(v.Ignored)) }
