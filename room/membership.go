package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Change is what a user asks of a membership: their own, or another's.
type Change struct {
	Room      id.Room
	Sender    id.User
	Target    id.User
	Guest     bool // the sender is a guest
	Reason    string
	IsDirect  bool           // an invite to a direct chat
	Content   jsontext.Value // further keys of the content of a join
	Timestamp int64
	Via       []id.Server // servers that may know the room
}

// memberContent is the content of a membership event.
// spec: client-server-api#mroommember
type memberContent struct {
	Membership    string         `json:"membership"`
	DisplayName   string         `json:"displayname,omitzero"`
	AvatarURL     string         `json:"avatar_url,omitzero"`
	Reason        string         `json:"reason,omitzero"`
	IsDirect      bool           `json:"is_direct,omitzero"`
	AuthorisedVia id.User        `json:"join_authorised_via_users_server,omitzero"`
	Rest          jsontext.Value `json:",embed"`
}

// setMembership adds a membership event of the wanted kind, with the target's profile where that is shown.
func (w *writing) setMembership(ctx context.Context, c Change, membership store.Membership, via id.User) error {
	content := memberContent{
		Membership: membership.String(), Reason: c.Reason, IsDirect: c.IsDirect, AuthorisedVia: via, Rest: without(c.Content,
			"membership", "displayname", "avatar_url", "reason", "is_direct", "join_authorised_via_users_server"),
	}
	switch membership {
	case store.Join, store.Invite, store.Knock:
		if c.Target.Server() == w.engine.options.Server {
			p, err := w.engine.options.Profile(ctx, c.Target)
			if err != nil {
				return fmt.Errorf("profile of %s: %w", c.Target, err)
			}
			content.DisplayName, content.AvatarURL = p.DisplayName, p.AvatarURL
		}
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("membership content: %w", err)
	}
	target := string(c.Target)
	_, err = w.sendOnce(ctx, Proposal{Sender: c.Sender, Type: event.TypeMember, StateKey: &target, Content: raw, Timestamp: c.Timestamp})
	return err
}

// without is an object's members but those named, nil if none is left.
func without(object jsontext.Value, names ...string) jsontext.Value {
	var members map[string]jsontext.Value
	if object == nil || json.Unmarshal(object, &members) != nil {
		return nil
	}
	for _, n := range names {
		delete(members, n)
	}
	if len(members) == 0 {
		return nil
	}
	raw, err := json.Marshal(members, json.Deterministic(true))
	if err != nil {
		return nil // cannot be: it was JSON before
	}
	return raw
}

// membership is what a user's membership is at the write set's point; 0: none ever.
func (w *writing) membership(ctx context.Context, user id.User) (m store.Membership, err error) {
	err = w.engine.store.View(ctx, func(tx *store.Tx) error {
		pdu, err := w.stateEvent(tx, event.StateTuple{Type: event.TypeMember, Key: string(user)})
		if err == nil && pdu != nil {
			m = store.ParseMembership(pdu.Membership())
		}
		return err
	})
	return m, err
}

// Join makes the sender a member, by way of another server if nobody here is one.
// Joining again changes nothing.
// spec: client-server-api#joining-rooms
func (e *Engine) Join(ctx context.Context, c Change) error {
	c.Target = c.Sender
	by, _, err := e.joinHere(ctx, c)
	if err != nil || by == nil {
		return err
	}
	return e.goOnAlone(ctx, c, func(ctx context.Context) error { return e.joinRemote(ctx, c) })
}

// joinHere makes the sender a member, or says how another server lets them in, of those that c names then.
func (e *Engine) joinHere(ctx context.Context, c Change) (handIn, Change, error) {
	here, err := e.isResident(ctx, c.Room)
	if err != nil {
		return nil, c, err
	}
	if !here && e.options.Network != nil {
		return e.joinVia, c, nil
	}
	if via, err := e.joinsThrough(ctx, c); err != nil {
		return nil, c, err
	} else if via != "" {
		// Whether they may join is not known here yet.
		c.Via = append(slices.Clone(c.Via), via)
		return e.joinThrough, c, nil
	}
	refused := e.joinLocal(ctx, c)
	if !errors.Is(refused, errNobodyInvites) || e.options.Network == nil {
		return nil, c, refused
	}
	inviters, err := e.servedByInviters(ctx, c.Room)
	if err != nil {
		return nil, c, err
	}
	if c.Via = slices.Concat(c.Via, inviters); len(c.Via) > 0 {
		return e.joinThrough, c, nil
	}
	return nil, c, refused
}

// joinsThrough is the server by way of which somebody has to join a room with a partial
// state, which does not tell their membership; empty: they can join here.
func (e *Engine) joinsThrough(ctx context.Context, c Change) (via id.Server, err error) {
	h, ok, err := e.Head(ctx, c.Room)
	if err != nil || !ok || h.Partial.Version == 0 {
		return "", err
	}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		_, known, err := e.StateEvent(tx, h, event.StateTuple{Type: event.TypeMember, Key: string(c.Sender)})
		if err == nil && !known {
			via = h.Partial.Via
		}
		return err
	})
	return via, err
}

func (e *Engine) joinLocal(ctx context.Context, c Change) error {
	return e.compose(ctx, c.Room, func(w *writing) error {
		m, err := w.membership(ctx, c.Sender)
		if err != nil || m == store.Join && c.Content == nil {
			return err
		}
		if c.Guest && m != store.Join {
			if err := w.admitsGuests(ctx); err != nil {
				return err
			}
		}
		via, err := w.authorisingUser(ctx, c.Sender, m)
		if err != nil {
			return err
		}
		return w.setMembership(ctx, c, store.Join, via)
	})
}

// admitsGuests refuses guests where m.room.guest_access does not let them in.
// spec: client-server-api#mroomguest_access
func (w *writing) admitsGuests(ctx context.Context) error {
	return w.engine.store.View(ctx, func(tx *store.Tx) error {
		pdu, err := w.stateEvent(tx, event.StateTuple{Type: event.TypeGuestAccess})
		if err != nil {
			return err
		}
		if pdu == nil || pdu.ContentString("guest_access") != "can_join" {
			return errcode.New(403, "M_GUEST_ACCESS_FORBIDDEN", "guests may not join this room")
		}
		return nil
	})
}

// Knock asks to be let in.
// spec: client-server-api#knocking-on-rooms
func (e *Engine) Knock(ctx context.Context, c Change) error {
	c.Target = c.Sender
	if here, err := e.isResident(ctx, c.Room); err != nil {
		return err
	} else if !here && e.options.Network != nil {
		return e.goOnAlone(ctx, c, func(ctx context.Context) error { return e.knockRemote(ctx, c) })
	}
	return e.compose(ctx, c.Room, func(w *writing) error {
		if m, err := w.membership(ctx, c.Sender); err != nil || m == store.Knock {
			return err
		}
		return w.setMembership(ctx, c, store.Knock, "")
	})
}

// Invite invites the target. Inviting again makes a new invite.
// spec: client-server-api#post_matrixclientv3roomsroomidinvite
func (e *Engine) Invite(ctx context.Context, c Change) error {
	if err := e.awaitMember(ctx, c.Room, c.Target); err != nil {
		return err
	}
	if e.isRemote(c.Target) {
		return e.inviteRemote(ctx, c)
	}
	return e.compose(ctx, c.Room, func(w *writing) error { return w.setMembership(ctx, c, store.Invite, "") })
}

// isRemote says whether a user is one of another server that can be reached.
func (e *Engine) isRemote(u id.User) bool {
	return e.options.Network != nil && u.Server() != e.options.Server
}

// Leave ends the sender's membership, refuses an invite or takes a knock back.
// Who has left already stays so.
// spec: client-server-api#leaving-rooms
func (e *Engine) Leave(ctx context.Context, c Change) error {
	c.Target = c.Sender
	if o, err := e.atTheDoor(ctx, c); err != nil {
		return err
	} else if o != nil {
		switch o.membership {
		case store.Invite, store.Knock:
			return e.leaveRemote(ctx, c, o)
		case store.Leave:
			return nil
		}
	}
	return e.compose(ctx, c.Room, func(w *writing) error {
		m, err := w.membership(ctx, c.Sender)
		switch {
		case err != nil || m == store.Leave:
			return err
		case m == 0:
			return errcode.Forbidden("you are not in this room")
		}
		return w.setMembership(ctx, c, store.Leave, "")
	})
}

// Kick ends another's membership.
// spec: client-server-api#post_matrixclientv3roomsroomidkick
func (e *Engine) Kick(ctx context.Context, c Change) error {
	if err := e.awaitMember(ctx, c.Room, c.Target); err != nil {
		return err
	}
	return e.compose(ctx, c.Room, func(w *writing) error {
		switch m, err := w.membership(ctx, c.Target); {
		case err != nil:
			return err
		case m == 0 || m == store.Leave:
			return errcode.Forbidden("%s is not in this room", c.Target)
		case m == store.Ban:
			return errcode.Forbidden("%s is banned from this room: unban instead", c.Target)
		}
		return w.setMembership(ctx, c, store.Leave, "")
	})
}

// Ban bans the target, whether they are in the room or not.
// spec: client-server-api#banning-users-in-a-room
func (e *Engine) Ban(ctx context.Context, c Change) error {
	if err := e.awaitMember(ctx, c.Room, c.Target); err != nil {
		return err
	}
	return e.compose(ctx, c.Room, func(w *writing) error { return w.setMembership(ctx, c, store.Ban, "") })
}

// Unban lifts a ban.
func (e *Engine) Unban(ctx context.Context, c Change) error {
	if err := e.awaitMember(ctx, c.Room, c.Target); err != nil {
		return err
	}
	return e.compose(ctx, c.Room, func(w *writing) error {
		if m, err := w.membership(ctx, c.Target); err != nil {
			return err
		} else if m != store.Ban {
			return errcode.Forbidden("%s is not banned from this room", c.Target)
		}
		return w.setMembership(ctx, c, store.Leave, "")
	})
}

// Forget takes a room that a user has left out of that user's sight.
// spec: client-server-api#post_matrixclientv3roomsroomidforget
func (e *Engine) Forget(ctx context.Context, room id.Room, user id.User) error {
	return e.store.Update(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(room)
		if err != nil {
			return err
		}
		who, known, err := tx.IDs.FindUser(user)
		if err != nil {
			return err
		}
		m, was, err := tx.Members.Get(nid, who)
		switch {
		case err != nil:
			return err
		case !ok || !known || !was:
			return errcode.NotFound("room %s is not known here", room)
		case m.Membership != store.Leave && m.Membership != store.Ban:
			return errcode.New(400, "M_UNKNOWN", "leave the room before you forget it")
		}
		return tx.Members.Forget(nid, who)
	})
}

// UpdateProfile tells the rooms of a local user what they are called now.
// spec: client-server-api#events-on-change-of-profile-information
func (e *Engine) UpdateProfile(ctx context.Context, user id.User) error {
	rooms, err := e.RoomsOf(ctx, user, store.Join)
	if err != nil {
		return err
	}
	for _, room := range rooms {
		err := e.compose(ctx, room, func(w *writing) error {
			m, err := w.membership(ctx, user)
			if err != nil || m != store.Join {
				return err
			}
			return w.setMembership(ctx, Change{Sender: user, Target: user}, store.Join, "")
		})
		switch refusal := (*errcode.Error)(nil); {
		case errors.As(err, &refusal):
			// Of the room's policy server, say: the other rooms are told all the same.
			slog.InfoContext(ctx, "a room does not take a profile", "room", room, "user", user, "error", err)
		case err != nil:
			return fmt.Errorf("profile of %s in %s: %w", user, room, err)
		}
	}
	return nil
}

// RoomsOf lists the rooms in which a local user has one membership.
func (e *Engine) RoomsOf(ctx context.Context, user id.User, m store.Membership) (rooms []id.Room, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.IDs.FindUser(user)
		if err != nil || !ok {
			return err
		}
		nids, err := tx.Members.RoomsOf(nid, m)
		if err != nil {
			return err
		}
		for _, n := range nids {
			room, err := tx.Rooms.ID(n)
			if err != nil {
				return err
			}
			rooms = append(rooms, room)
		}
		return nil
	})
	return rooms, err
}

// Joined lists the rooms that a local user is joined to.
func (e *Engine) Joined(ctx context.Context, user id.User) ([]id.Room, error) {
	rooms, err := e.RoomsOf(ctx, user, store.Join)
	if rooms == nil {
		rooms = []id.Room{}
	}
	return rooms, err
}
