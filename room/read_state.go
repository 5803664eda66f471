package room

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// ReadState is the state of a room that a reader is shown, as an array of events.
// spec: client-server-api#get_matrixclientv3roomsroomidstate
func (e *Engine) ReadState(ctx context.Context, who Reader, room id.Room) (body jsontext.Value, err error) {
	if err := e.awaitWhole(ctx, room); err != nil {
		return nil, err
	}
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		state, err := e.StateFor(tx, v)
		if err != nil {
			return err
		}
		body, err = e.appendState(nil, tx, v, state, nil)
		return err
	})
	return body, err
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

// ReadMembers is the membership events of a room.
// spec: client-server-api#get_matrixclientv3roomsroomidmembers
func (e *Engine) ReadMembers(ctx context.Context, who Reader, room id.Room, c MemberChoice) (body jsontext.Value, err error) {
	if err := e.awaitWhole(ctx, room); err != nil {
		return nil, err
	}
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		members, err := e.MembersFor(tx, v, c.At)
		if err != nil {
			return err
		}
		chunk, err := e.appendState(event.AppendMember(nil, "chunk", nil), tx, v, members, func(ev *Event) bool {
			m := store.ParseMembership(ev.PDU.Membership())
			return (c.Only == 0 && c.Not == 0) || c.Only != 0 && m == c.Only || c.Not != 0 && m != c.Not
		})
		if err != nil {
			return err
		}
		body = braced(chunk)
		return nil
	})
	return body, err
}

// ReadJoinedMembers is the profiles that the joined members have in the room,
// for those who are among them.
// spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
func (e *Engine) ReadJoinedMembers(ctx context.Context, who Reader, room id.Room) (body jsontext.Value, err error) {
	if err := e.awaitWhole(ctx, room); err != nil {
		return nil, err
	}
	err = e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		if !v.Joined() {
			return errcode.Forbidden("you are not in room %s, or it is not known here", room)
		}
		members, err := e.MembersFor(tx, v, nil)
		if err != nil {
			return err
		}
		var joined []byte
		err = e.EachEvent(tx, members, func(ev *Event) error {
			if ev.PDU.Membership() != event.MembershipJoin {
				return nil
			}
			profile := event.AppendStringMember(nil, "display_name", ev.PDU.ContentString("displayname"))
			profile = event.AppendStringMember(profile, "avatar_url", ev.PDU.ContentString("avatar_url"))
			joined = event.AppendMember(joined, *ev.PDU.StateKey, braced(profile))
			return nil
		})
		body = braced(event.AppendMember(nil, "joined", braced(joined)))
		return err
	})
	return body, err
}
