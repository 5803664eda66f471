package room

import (
	"context"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// ReadState writes the state of a room that a reader is shown, as an array of events. As
// with all that is written to out, an error after the first write leaves it cut off.
// spec: client-server-api#get_matrixclientv3roomsroomidstate
func (e *Engine) ReadState(ctx context.Context, who Reader, room id.Room, out io.Writer) error {
	return e.writeList(ctx, who, room, out, listing{open: "[", close: "]", find: e.StateFor, element: e.appendStateEvent})
}

func (e *Engine) appendStateEvent(dst []byte, tx *store.Tx, v *View, ev *Event) ([]byte, error) {
	return e.AppendEvent(dst, tx, v, ev, Format{Now: now(), OmitReplaced: true})
}

// listing says what a long answer is made of: a JSON array or object with an element for each
// of the events found, but those for which nothing is appended.
type listing struct {
	open, close string
	find        func(*store.Tx, *View) ([]store.EventNID, error)
	element     func(dst []byte, tx *store.Tx, v *View, ev *Event) ([]byte, error)
}

// listPiece is about how much of a long answer is in memory at a time.
const listPiece = 64 << 10

// writeList writes a listing of a room whose state is whole. What it lists is found in one
// snapshot. The events are read some at a time, and no transaction is open while the reader
// takes them: one who is slow must keep nobody from the store.
func (e *Engine) writeList(ctx context.Context, who Reader, room id.Room, out io.Writer, l listing) error {
	if err := e.awaitWhole(ctx, room); err != nil {
		return err
	}
	var view *View
	var list EventList
	err := e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		nids, err := l.find(tx, v)
		view, list = v, e.List(nids)
		return err
	})
	if err != nil {
		return err
	}
	body, some := []byte(l.open), false
	for !list.Empty() {
		err := e.store.View(ctx, func(tx *store.Tx) error {
			events, err := list.Next(tx)
			if err != nil {
				return err
			}
			for _, ev := range events {
				start := len(body)
				if some {
					body = append(body, ',')
				}
				before := len(body)
				if body, err = l.element(body, tx, view, ev); err != nil {
					return err
				}
				if len(body) == before {
					body = body[:start]
				} else {
					some = true
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(body) >= listPiece {
			if _, err := out.Write(body); err != nil {
				return err
			}
			body = body[:0]
		}
	}
	_, err = out.Write(append(body, l.close...))
	return err
}

// ReadStateEntry is one entry of that state: its content, or the event with all that belongs to it.
// spec: client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey
func (e *Engine) ReadStateEntry(ctx context.Context, who Reader, room id.Room, t event.StateTuple, whole bool) (body jsontext.Value, err error) {
	if t.Type == event.TypeMember {
		if err := e.awaitMember(ctx, room, id.User(t.Key)); err != nil {
			return nil, err
		}
	}
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		if err := v.CheckMember(); err != nil {
			return err
		}
		key, known, err := tx.IDs.FindStateKey(t)
		if err != nil {
			return err
		}
		var ev *Event
		if known {
			if ev, err = e.StateEntryFor(tx, v, key); err != nil {
				return err
			}
		}
		switch {
		case ev == nil:
			return errcode.NotFound("the room has no state of type %s with key %q", t.Type, t.Key)
		case whole:
			body, err = e.AppendEvent(nil, tx, v, ev, Format{Now: now()})
			return err
		}
		body = jsontext.Value(ev.PDU.Content)
		return nil
	})
	return body, err
}

// MemberChoice says which members are wanted.
type MemberChoice struct {
	At        *stream.Position // nil: the present ones
	Only, Not store.Membership // 0: any, none
}

// ParseMembership reads one of the five memberships; empty is 0.
func ParseMembership(name, s string) (store.Membership, error) {
	m := store.ParseMembership(s)
	if m == 0 && s != "" {
		return 0, errcode.InvalidParam("%s is join, invite, knock, leave or ban, not %q", name, s)
	}
	return m, nil
}

// ReadMembers writes the membership events of a room.
// spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (e *Engine) ReadMembers(ctx context.Context, who Reader, room id.Room, c MemberChoice, out io.Writer) error {
	return e.writeList(ctx, who, room, out, listing{
		open: `{"chunk":[`, close: `]}`,
		find: func(tx *store.Tx, v *View) ([]store.EventNID, error) { return e.MembersFor(tx, v, c.At) },
		element: func(dst []byte, tx *store.Tx, v *View, ev *Event) ([]byte, error) {
			m := store.ParseMembership(ev.PDU.Membership())
			if wanted := c.Only == 0 && c.Not == 0 || c.Only != 0 && m == c.Only || c.Not != 0 && m != c.Not; !wanted {
				return dst, nil
			}
			return e.appendStateEvent(dst, tx, v, ev)
		},
	})
}

// ReadJoinedMembers writes the profiles that the joined members have in the room,
// for those who are among them.
// spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (e *Engine) ReadJoinedMembers(ctx context.Context, who Reader, room id.Room, out io.Writer) error {
	return e.writeList(ctx, who, room, out, listing{
		open: `{"joined":{`, close: `}}`,
		find: func(tx *store.Tx, v *View) ([]store.EventNID, error) {
			if !v.Joined() {
				return nil, errcode.Forbidden("you are not in room %s, or it is not known here", room)
			}
			return e.MembersFor(tx, v, nil)
		},
		element: func(dst []byte, _ *store.Tx, _ *View, ev *Event) ([]byte, error) {
			if ev.PDU.Membership() != event.MembershipJoin {
				return dst, nil
			}
			profile := event.AppendStringMember(nil, "display_name", ev.PDU.ContentString("displayname"))
			profile = event.AppendStringMember(profile, "avatar_url", ev.PDU.ContentString("avatar_url"))
			return append(append(appendQuoted(dst, *ev.PDU.StateKey), ':'), braced(profile)...), nil
		},
	})
}
