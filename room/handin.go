package room

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// HandIn is an event that another server hands in to be made part of a room: the
// completed template of a membership of one of its users.
type HandIn struct {
	Origin id.Server
	Room   id.Room
	Event  id.Event
	Raw    jsontext.Value
}

// Welcome is what a server is told whose user has joined.
// spec: server-server-api#put_matrixfederationv2send_joinroomideventid
type Welcome struct {
	StateAnswer
	Event          jsontext.Value
	MembersOmitted bool
	Servers        []id.Server // in the room before; only if members are omitted
}

// SendJoin makes a join that another server hands in part of the room.
// spec: server-server-api#put_matrixfederationv2send_joinroomideventid
func (e *Engine) SendJoin(ctx context.Context, in HandIn, omitMembers bool) (a Welcome, err error) {
	servers, err := e.serversIn(ctx, in.Room)
	if err != nil {
		return a, err
	}
	ev, err := e.takeIn(ctx, in, store.Join)
	if err != nil {
		return a, err
	}
	a.Event = ev.PDU.JSON
	err = e.store.View(ctx, func(tx *store.Tx) error {
		entries, err := e.entriesBefore(tx, ev)
		if err != nil {
			return err
		}
		if omitMembers {
			a.MembersOmitted, a.Servers = true, servers
			if entries, err = e.withoutMembers(tx, ev, entries); err != nil {
				return err
			}
		}
		state := eventsOf(entries)
		chain, err := authChain(tx, ev.Room, state)
		if err != nil {
			return err
		}
		own, err := e.authChainOf(tx, ev.Room, ev.PDU)
		if err != nil {
			return err
		}
		chain = union(chain, own)
		if omitMembers {
			told := map[store.EventNID]bool{}
			for _, nid := range state {
				told[nid] = true
			}
			chain = slices.DeleteFunc(chain, func(nid store.EventNID) bool { return told[nid] })
		}
		a.StateAnswer = StateAnswer{e.List(state), e.List(chain)}
		return nil
	})
	if err != nil {
		return a, fmt.Errorf("read state for a join of %s: %w", in.Room, err)
	}
	return a, nil
}

// SendLeave makes a leave that another server hands in part of the room.
// spec: server-server-api#put_matrixfederationv2send_leaveroomideventid
func (e *Engine) SendLeave(ctx context.Context, in HandIn) error {
	_, err := e.takeIn(ctx, in, store.Leave)
	return err
}

// SendKnock makes a knock that another server hands in part of the room, and returns
// what somebody outside may know of it.
// spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (e *Engine) SendKnock(ctx context.Context, in HandIn) (state []jsontext.Value, err error) {
	knock, err := e.takeIn(ctx, in, store.Knock)
	if err != nil {
		return nil, err
	}
	h, ok, err := e.Head(ctx, in.Room)
	if err != nil || !ok {
		return nil, fmt.Errorf("read head of %s: known %t: %w", in.Room, ok, err)
	}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		state, err = e.outsideState(tx, h, knock.PDU.Sender, knock.PDU.Sender)
		return err
	})
	return state, err
}

// outsideState is the events of the room that go with an invite or a knock, in the
// format of the room version.
// spec: server-server-api#inviting-to-a-room
func (e *Engine) outsideState(tx *store.Tx, h *Head, sender, target id.User) ([]jsontext.Value, error) {
	list := []jsontext.Value{}
	for _, t := range outsideTuples(sender, target) {
		ev, ok, err := e.StateEvent(tx, h, t)
		if err != nil {
			return nil, fmt.Errorf("read %s of %s: %w", t.Type, h.ID, err)
		}
		if ok {
			list = append(list, event.AppendFederation(nil, ev.PDU, nil))
		}
	}
	return list, nil
}

// takeIn checks an event that another server hands in, by itself and by the state of
// the room, and makes it part of the room; the other servers there are told.
func (e *Engine) takeIn(ctx context.Context, in HandIn, m store.Membership) (*Event, error) {
	h, err := e.admit(ctx, in.Origin, in.Room)
	if err != nil {
		return nil, err
	}
	if m != store.Leave && h.Partial.Version != 0 {
		return nil, errPartial(in.Room)
	}
	p, err := event.Parse(h.Version, in.Raw)
	if err != nil {
		return nil, err
	}
	if err := in.checkForm(p, m); err != nil {
		return nil, err
	}
	if p, err = e.checkAgainst(ctx, h, p); err != nil {
		return nil, err
	}
	checked := map[id.Event]error{}
	list := e.verify(ctx, in.Origin, []*event.PDU{p}, checked)
	if len(list) == 0 {
		return nil, errcode.InvalidParam("the event is not signed as it must be: %s", checked[p.ID])
	}
	return e.takeInChecked(ctx, in.Origin, h, list[0])
}

// checkForm makes sure that the event is what this endpoint is for, and nothing
// else: it may be signed here.
func (in HandIn) checkForm(p *event.PDU, m store.Membership) error {
	switch {
	case p.ID != in.Event:
		return errcode.InvalidParam("the event is %s, not %s", p.ID, in.Event)
	case p.Room != in.Room:
		return errcode.InvalidParam("the event is of another room")
	case p.Type != event.TypeMember || p.StateKey == nil:
		return errcode.InvalidParam("the event is no membership")
	case p.Membership() != m.String():
		return errcode.InvalidParam("the event's membership is %q, not %s", p.Membership(), m)
	case *p.StateKey != string(p.Sender):
		return errcode.InvalidParam("the event's state_key is not its sender")
	case p.Sender.Server() != in.Origin:
		return errcode.InvalidParam("%s is not a user of %s", p.Sender, in.Origin)
	}
	return p.CheckLimits()
}

// checkAgainst judges the event by the current state of the room, and vouches for it
// with our signature where it is a join in the name of a member here.
// spec: server-server-api#restricted-rooms
func (e *Engine) checkAgainst(ctx context.Context, h *Head, p *event.PDU) (*event.PDU, error) {
	via := id.User(p.ContentString("join_authorised_via_users_server"))
	vouch := h.Version.RestrictedJoins && p.Membership() == event.MembershipJoin && via.Server() == e.options.Server
	err := e.store.View(ctx, func(tx *store.Tx) error {
		w := &writing{engine: e, base: h, head: h}
		auth, err := w.authState(tx, Proposal{Sender: p.Sender, Type: p.Type, StateKey: p.StateKey, Content: p.Content})
		if err != nil {
			return err
		}
		if err := authrules.Check(p, auth.state); err != nil || !vouch {
			return err
		}
		if member, err := w.stateEvent(tx, p.Tuple()); err != nil || membershipOf(member) == store.Join || membershipOf(member) == store.Invite {
			return err // they need nobody to vouch for them, but name one
		}
		rules, restricted := w.restriction()
		if !restricted {
			return nil
		}
		return w.checkConditions(tx, p.Sender, rules)
	})
	if err != nil || !vouch {
		return p, err
	}
	return p.AddSignature(e.options.Server, e.options.KeyID, e.options.Key)
}

// takeInChecked receives the event as any other. Handing in an event again changes nothing.
func (e *Engine) takeInChecked(ctx context.Context, origin id.Server, h *Head, p *event.PDU) (*Event, error) {
	if known, err := e.isKnown(ctx, p); err != nil {
		return nil, err
	} else if !known {
		if err := e.gatherForHandIn(ctx, origin, h, p); err != nil {
			return nil, err
		}
		if err := e.arriveProposed(ctx, arrival{pdu: p, origin: origin, forward: true}); err != nil {
			return nil, err
		}
	}
	var ev *Event
	err := e.store.View(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if ev, ok, err = e.Event(tx, h.NID, p.ID); err == nil && (!ok || !ev.Flags.Accepted()) {
			err = errcode.Forbidden("the event was refused before")
		}
		return err
	})
	return ev, err
}

// arriveProposed has an event judged that this server proposed to another, and says why it is refused.
// Where the state after what it comes after is told by nobody, what is known here has to do, as for all
// that is sent here.
func (e *Engine) arriveProposed(ctx context.Context, a arrival) (err error) {
	if a.states, err = e.guessStates(ctx, a.pdu); err != nil {
		return err
	}
	a.guessed, a.judged = len(a.states) > 0, true
	got, err := e.arrive(ctx, a)
	if denied, ok := errors.AsType[*authrules.Denied](err); ok && errors.Is(err, errUnobtainable) {
		return errcode.Forbidden("the event is not allowed: %s", denied)
	}
	if err != nil {
		return err
	}
	return got.refusal()
}

// gatherForHandIn makes sure that all is here that the event refers to. A server that
// is in the room is asked for what is missing; any other completed a template, so that
// it has nothing to tell.
func (e *Engine) gatherForHandIn(ctx context.Context, origin id.Server, h *Head, p *event.PDU) error {
	in, err := e.hasServer(ctx, h.ID, origin)
	if err != nil {
		return err
	}
	if in {
		if err := e.gatherAuth(ctx, origin, h.Version, p); err != nil && !errors.Is(err, errUnobtainable) {
			return err
		}
		if _, err := e.gatherBefore(ctx, origin, h.Version, p); err != nil && !errors.Is(err, errUnobtainable) {
			return err
		}
	}
	for names, asOutliers := range map[*[]id.Event]bool{&p.AuthEvents: true, &p.PrevEvents: false} {
		missing, err := e.unknown(ctx, *names, asOutliers)
		if err != nil {
			return err
		}
		if len(missing) > 0 {
			return errcode.InvalidParam("the event refers to events that are not known here: %v", missing)
		}
	}
	return nil
}

// serversIn lists the servers with joined members in a room, those with the most first; none if it is
// not known. If nobody here is in it, it lists them as they were when somebody last was.
func (e *Engine) serversIn(ctx context.Context, room id.Room) (servers []id.Server, err error) {
	servers = []id.Server{}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(room)
		if err != nil || !ok {
			return err
		}
		counts, err := tx.RoomServers.Counts(nid)
		if err != nil {
			return err
		}
		slices.SortStableFunc(counts, func(a, b store.ServerCount) int { return cmp.Compare(b.Joined, a.Joined) })
		for _, c := range counts {
			name, err := tx.IDs.ServerName(c.Server)
			if err != nil {
				return err
			}
			servers = append(servers, name)
		}
		return nil
	})
	return servers, err
}

// maxHeroes is how many members stand for a room without a name.
const maxHeroes = 5

// withoutMembers is a state without memberships, but for those by which a room is
// called that has no name.
func (e *Engine) withoutMembers(tx *store.Tx, join *Event, entries []store.StateEntry) ([]store.StateEntry, error) {
	keep := map[store.StateKey]bool{}
	named := false
	for _, typ := range []string{event.TypeName, event.TypeCanonicalAlias} {
		key, ok, err := tx.IDs.FindStateKey(event.StateTuple{Type: typ})
		if err != nil {
			return nil, err
		}
		named = named || ok && slices.ContainsFunc(entries, func(en store.StateEntry) bool { return en.Key == key })
	}
	if !named {
		user, _ := store.IsMemberKey(join.Key)
		heroes, err := tx.Members.Heroes(join.Room, user, maxHeroes)
		if err != nil {
			return nil, err
		}
		for _, u := range heroes {
			keep[store.MemberKey(u)] = true
		}
	}
	return slices.DeleteFunc(entries, func(en store.StateEntry) bool {
		_, member := store.IsMemberKey(en.Key)
		return member && !keep[en.Key]
	}), nil
}
