package room

import (
	"context"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// Reader is who reads a room. The functions that take one answer with the body
// of a response.
type Reader struct {
	User   id.User
	Device id.Device
}

// look calls fn with a room as a reader sees it, without what they ignore.
func (e *Engine) look(ctx context.Context, who Reader, room id.Room, fn func(*store.Tx, *View) error) error {
	return e.Look(ctx, room, who.User, who.Device, func(tx *store.Tx, v *View) (err error) {
		if v.Ignored, err = e.Ignored(tx, who.User); err != nil {
			return err
		}
		return fn(tx, v)
	})
}

// Ignored are the users whose events a local user does not want to see.
// spec: client-server-api#ignoring-users
func (e *Engine) Ignored(tx *store.Tx, user id.User) (map[store.UserNID]bool, error) {
	raw, ok, err := tx.AccountData.Get(user, "m.ignored_user_list")
	if err != nil || !ok {
		return nil, err
	}
	var list struct {
		Users map[string]jsontext.Value `json:"ignored_users"`
	}
	if json.Unmarshal(raw, &list) != nil {
		return nil, nil // the client's own nonsense ignores nobody
	}
	ignored := make(map[store.UserNID]bool, len(list.Users))
	for u := range list.Users {
		nid, ok, err := tx.IDs.FindUser(id.User(u))
		if err != nil {
			return nil, err
		}
		if ok && id.User(u) != user {
			ignored[nid] = true
		}
	}
	return ignored, nil
}

// appendEvents appends events as a JSON array.
func (e *Engine) appendEvents(dst []byte, tx *store.Tx, v *View, events []*Event, f Format) (_ []byte, err error) {
	dst = append(dst, '[')
	for i, ev := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		if dst, err = e.AppendEvent(dst, tx, v, ev, f); err != nil {
			return dst, err
		}
	}
	return append(dst, ']'), nil
}

// appendState appends a state's events as a JSON array.
func (e *Engine) appendState(dst []byte, tx *store.Tx, v *View, nids []store.EventNID) ([]byte, error) {
	f := Format{Now: now(), OmitReplaced: true}
	dst = append(dst, '[')
	for list := e.List(nids); !list.Empty(); {
		events, err := list.Next(tx)
		if err != nil {
			return dst, err
		}
		for _, ev := range events {
			if dst[len(dst)-1] != '[' {
				dst = append(dst, ',')
			}
			if dst, err = e.AppendEvent(dst, tx, v, ev, f); err != nil {
				return dst, err
			}
		}
	}
	return append(dst, ']'), nil
}

// appendBundled appends events as a JSON array, each with what is aggregated below it.
func (e *Engine) appendBundled(dst []byte, tx *store.Tx, v *View, events []*Event) (_ []byte, err error) {
	f := Format{Now: now()}
	if f.Bundle, err = e.Bundle(tx, v, events, f); err != nil {
		return dst, err
	}
	return e.appendEvents(dst, tx, v, events, f)
}

// ReadMessages is a page of a room's timeline.
// spec: client-server-api#get_matrixclientv3roomsroomidmessages
func (e *Engine) ReadMessages(ctx context.Context, who Reader, room id.Room, p Page) (body jsontext.Value, err error) {
	err = e.filling(ctx, room, p.Limit, func() (gaps []store.Gap, err error) {
		body, gaps, err = e.readMessages(ctx, who, room, p)
		return gaps, err
	})
	return body, err
}

func (e *Engine) readMessages(ctx context.Context, who Reader, room id.Room, p Page) (body jsontext.Value, gaps []store.Gap, err error) {
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		h, err := e.Messages(tx, v, p)
		if err != nil {
			return err
		}
		gaps = h.gaps
		members := event.AppendStringMember(nil, "start", h.Start)
		if h.End != "" {
			members = event.AppendStringMember(members, "end", h.End)
		}
		if members, err = e.appendBundled(event.AppendMember(members, "chunk", nil), tx, v, h.Events); err != nil {
			return err
		}
		if p.Filter != nil && p.Filter.LazyLoadMembers && len(h.Events) > 0 {
			newest := h.Events[0]
			if !p.Back {
				newest = h.Events[len(h.Events)-1]
			}
			state, err := e.membersAt(tx, SendersOf(h.Events), newest)
			if err != nil {
				return err
			}
			if members, err = e.appendEvents(event.AppendMember(members, "state", nil), tx, v, state, Format{Now: now()}); err != nil {
				return err
			}
		}
		body = braced(members)
		return nil
	})
	return body, gaps, err
}

// braced makes an object of its members.
func braced(members []byte) jsontext.Value {
	object := make(jsontext.Value, 0, len(members)+2)
	return append(append(append(object, '{'), members...), '}')
}

// appendQuoted appends a JSON string.
func appendQuoted[T ~string](dst []byte, s T) []byte { return canonical.AppendString(dst, s) }

// membersAt reads the membership events that some users have in the state after an event.
func (e *Engine) membersAt(tx *store.Tx, users []store.UserNID, ev *Event) ([]*Event, error) {
	var nids []store.EventNID
	for _, u := range users {
		nid, ok, err := tx.State.At(ev.Room, store.MemberKey(u), after(ev))
		if err != nil {
			return nil, err
		}
		if ok {
			nids = append(nids, nid)
		}
	}
	return e.Events(tx, nids)
}

// ReadContext is an event and what lies round it, with the state there.
// spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
func (e *Engine) ReadContext(ctx context.Context, who Reader, room id.Room, name id.Event, limit int, f *filter.RoomEventFilter) (body jsontext.Value, err error) {
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		c, err := e.Context(tx, v, name, limit, f)
		if err != nil {
			return err
		}
		shown := append(append([]*Event{c.Event}, c.Before...), c.After...)
		state, err := e.stateOfContext(tx, c, shown, f)
		if err != nil {
			return err
		}
		format := Format{Now: now()}
		if format.Bundle, err = e.Bundle(tx, v, shown, format); err != nil {
			return err
		}
		members := event.AppendStringMember(event.AppendStringMember(nil, "start", c.Start), "end", c.End)
		if members, err = e.AppendEvent(event.AppendMember(members, "event", nil), tx, v, c.Event, format); err != nil {
			return err
		}
		for _, part := range []struct {
			key    string
			events []*Event
			format Format
		}{
			{"events_before", c.Before, format},
			{"events_after", c.After, format},
			{"state", state, Format{Now: format.Now, OmitReplaced: true}},
		} {
			if members, err = e.appendEvents(event.AppendMember(members, part.key, nil), tx, v, part.events, part.format); err != nil {
				return err
			}
		}
		body = braced(members)
		return nil
	})
	return body, unseen(err, "event %s is not known, or not for you to see", name)
}

// stateOfContext is the state after the last event returned, of the senders' memberships
// only if the filter loads lazily.
func (e *Engine) stateOfContext(tx *store.Tx, c Context, shown []*Event, f *filter.RoomEventFilter) ([]*Event, error) {
	last := c.Event
	if n := len(c.After); n > 0 {
		last = c.After[n-1]
	}
	if f == nil || !f.LazyLoadMembers {
		entries, err := tx.State.All(last.Room, after(last))
		if err != nil {
			return nil, err
		}
		return e.Events(tx, eventsOf(entries))
	}
	entries, err := tx.State.NonMembers(last.Room, after(last))
	if err != nil {
		return nil, err
	}
	state, err := e.Events(tx, eventsOf(entries))
	if err != nil {
		return nil, err
	}
	members, err := e.membersAt(tx, SendersOf(shown), last)
	return append(state, members...), err
}

func eventsOf(entries []store.StateEntry) []store.EventNID {
	nids := make([]store.EventNID, len(entries))
	for i, en := range entries {
		nids[i] = en.Event
	}
	return nids
}

// unseen makes of a room that the reader may not see an event that is not found:
// the endpoints of single events have one answer for both.
func unseen(err error, format string, a ...any) error {
	if e := (*errcode.Error)(nil); errors.As(err, &e) && e.Code == "M_FORBIDDEN" {
		return errcode.NotFound(format, a...)
	}
	return err
}

// ReadEvent is one event.
// spec: client-server-api#get_matrixclientv3roomsroomideventeventid
func (e *Engine) ReadEvent(ctx context.Context, who Reader, room id.Room, name id.Event) (body jsontext.Value, err error) {
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		ev, err := e.VisibleEvent(tx, v, name)
		if err != nil {
			return err
		}
		f := Format{Now: now()}
		if f.Bundle, err = e.Bundle(tx, v, []*Event{ev}, f); err != nil {
			return err
		}
		body, err = e.AppendEvent(nil, tx, v, ev, f)
		return err
	})
	return body, unseen(err, "event %s is not known, or not for you to see", name)
}

// ReadEventAnywhere is one event of whatever room.
// spec: client-server-api#get_matrixclientv3eventseventid
func (e *Engine) ReadEventAnywhere(ctx context.Context, who Reader, name id.Event) (jsontext.Value, error) {
	var room id.Room
	err := e.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Events.GetID(name)
		if err != nil || !ok {
			return err
		}
		room, err = tx.Rooms.ID(row.Room)
		return err
	})
	if err != nil {
		return nil, err
	}
	if room == "" {
		return nil, errcode.NotFound("event %s is not known, or not for you to see", name)
	}
	return e.ReadEvent(ctx, who, room, name)
}

// ReadInitial is the state of a room and its newest messages, for previews.
// spec: client-server-api#get_matrixclientv3roomsroomidinitialsync
func (e *Engine) ReadInitial(ctx context.Context, who Reader, room id.Room, limit int) (body jsontext.Value, err error) {
	if err := e.awaitWhole(ctx, room); err != nil {
		return nil, err
	}
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) (err error) {
		body, err = e.AppendInitial(nil, tx, v, who.User, Page{Back: true, Limit: limit})
		return err
	})
	return body, err
}

// AppendInitial appends a room as a user sees it: its state, and a page of messages.
func (e *Engine) AppendInitial(dst []byte, tx *store.Tx, v *View, user id.User, p Page) ([]byte, error) {
	h, err := e.Messages(tx, v, p)
	if err != nil {
		return dst, err
	}
	state, err := e.StateFor(tx, v)
	if err != nil {
		return dst, err
	}
	members := event.AppendStringMember(nil, "room_id", v.Room.ID)
	if m := v.Member.Membership; m != 0 {
		members = event.AppendStringMember(members, "membership", m.String())
	}
	visibility := "private"
	if v.Room.Public {
		visibility = "public"
	}
	members = event.AppendStringMember(members, "visibility", visibility)
	if members, err = e.appendInitialMessages(members, tx, v, h); err != nil {
		return dst, err
	}
	if members, err = e.appendState(event.AppendMember(members, "state", nil), tx, v, state); err != nil {
		return dst, err
	}
	if members, err = appendRoomAccountData(members, tx, user, v.Room.ID); err != nil {
		return dst, err
	}
	return append(append(append(dst, '{'), members...), '}'), nil
}

// appendInitialMessages appends messages with the older ones first, as they are shown.
func (e *Engine) appendInitialMessages(members []byte, tx *store.Tx, v *View, h History) ([]byte, error) {
	oldestFirst := make([]*Event, len(h.Events))
	for i, ev := range h.Events {
		oldestFirst[len(h.Events)-1-i] = ev
	}
	inner := event.AppendStringMember(event.AppendStringMember(nil, "start", h.Reached), "end", h.Start)
	inner, err := e.appendEvents(event.AppendMember(inner, "chunk", nil), tx, v, oldestFirst, Format{Now: now()})
	return event.AppendMember(members, "messages", braced(inner)), err
}

func appendRoomAccountData(members []byte, tx *store.Tx, user id.User, room id.Room) ([]byte, error) {
	rows, err := tx.AccountData.ListRoom(user, room, 0)
	if err != nil {
		return members, err
	}
	list := []byte{'['}
	for i, row := range rows {
		if i > 0 {
			list = append(list, ',')
		}
		list = append(list, braced(event.AppendMember(event.AppendStringMember(nil, "type", row.Type), "content", row.Content))...)
	}
	return event.AppendMember(members, "account_data", append(list, ']')), nil
}

// ParseToken reads a token that names a place in a timeline; empty: none.
func ParseToken(name, token string) (*stream.Position, error) {
	if token == "" {
		return nil, nil
	}
	p, err := stream.ParsePosition(token)
	if err != nil {
		return nil, errcode.InvalidParam("%s: %v", name, err)
	}
	return &p, nil
}
