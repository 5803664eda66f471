package room

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Approach is what another server asks for: that one of its users may join, knock on
// or leave a room.
type Approach struct {
	Origin   id.Server
	Room     id.Room
	User     id.User
	Versions []string // room versions that the other server knows
}

// MakeJoin proposes the event by which a user of another server joins.
// spec: server-server-api#get_matrixfederationv1make_joinroomiduserid
func (e *Engine) MakeJoin(ctx context.Context, a Approach) (Template, error) {
	return e.makeMembership(ctx, a, store.Join)
}

// MakeKnock proposes the event by which a user of another server knocks.
// spec: server-server-api#get_matrixfederationv1make_knockroomiduserid
func (e *Engine) MakeKnock(ctx context.Context, a Approach) (Template, error) {
	return e.makeMembership(ctx, a, store.Knock)
}

// MakeLeave proposes the event by which a user of another server leaves, refuses an
// invite or takes back a knock. The room's version is known there already.
// spec: server-server-api#get_matrixfederationv1make_leaveroomiduserid
func (e *Engine) MakeLeave(ctx context.Context, a Approach) (Template, error) {
	return e.makeMembership(ctx, a, store.Leave)
}

func (e *Engine) makeMembership(ctx context.Context, a Approach, m store.Membership) (t Template, err error) {
	if a.User.Server() != a.Origin {
		return t, errcode.Forbidden("%s is not a user of %s", a.User, a.Origin)
	}
	h, err := e.admit(ctx, a.Origin, a.Room)
	if err != nil {
		return t, err
	}
	if m != store.Leave && h.Partial.Version != 0 {
		return t, errPartial(a.Room)
	}
	if m != store.Leave && !slices.Contains(a.Versions, h.Version.ID) {
		return t, errcode.New(400, "M_INCOMPATIBLE_ROOM_VERSION", "the room has version %s, which your server does not know", h.Version.ID).
			With("room_version", h.Version.ID)
	}
	t.RoomVersion = h.Version.ID
	err = e.store.View(ctx, func(tx *store.Tx) error {
		w := &writing{engine: e, base: h, head: h}
		content := memberContent{Membership: m.String()}
		if m == store.Join {
			if content.AuthorisedVia, err = w.authoriseVisitor(tx, a.User); err != nil {
				return err
			}
		}
		t.Event, err = w.propose(tx, a.User, content)
		return err
	})
	return t, err
}

// admit finds a room that somebody here is joined to, and whose access control list
// lets a server in.
func (e *Engine) admit(ctx context.Context, server id.Server, room id.Room) (*Head, error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil {
		return nil, fmt.Errorf("read head of %s: %w", room, err)
	}
	if !ok || len(h.Locals) == 0 {
		return nil, errcode.NotFound("this server is not in room %s", room)
	}
	return h, e.checkACL(ctx, h, server)
}

// propose makes a template of a membership event and judges it as if it were one.
func (w *writing) propose(tx *store.Tx, user id.User, content memberContent) (jsontext.Value, error) {
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("membership content: %w", err)
	}
	key := string(user)
	p := Proposal{Sender: user, Type: event.TypeMember, StateKey: &key, Content: raw}
	auth, err := w.authState(tx, p)
	if err != nil {
		return nil, err
	}
	proto := event.Proto{
		Room: w.head.ID, Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Content: p.Content,
		AuthEvents: auth.refs, OriginServerTS: now(),
	}
	depths := make([]int64, 0, maxPrevEvents)
	for _, x := range w.head.extremities[:min(len(w.head.extremities), maxPrevEvents)] {
		proto.PrevEvents = append(proto.PrevEvents, x.PDU.Ref())
		depths = append(depths, x.Depth)
	}
	proto.Depth = event.NextDepth(w.head.Version, depths...)
	template, err := proto.AppendTemplate(nil, w.head.Version)
	if err != nil {
		return nil, err
	}
	draft, err := event.ParseTrusted(w.head.Version, "$template", template)
	if err != nil {
		return nil, err
	}
	if err := authrules.Check(draft, auth.state); err != nil {
		return nil, err
	}
	// Servers of long ago want the proposing server's name in it.
	return append(appendQuoted(append(template[:len(template)-1], `,"origin":`...), w.engine.options.Server), '}'), nil
}

// Answers of a server that cannot tell whether a user may join, or that knows they may
// but has nobody to vouch for them.
// spec: server-server-api#restricted-rooms
var (
	errCannotAuthorise = errcode.New(400, "M_UNABLE_TO_AUTHORISE_JOIN", "this server does not know the members of all rooms whose members may join")
	errCannotGrant     = errcode.New(400, "M_UNABLE_TO_GRANT_JOIN", "this server has nobody in the room who may invite")
)

// authoriseVisitor is the member here in whose name a user of another server joins a
// restricted room; none where the rules do not ask for one.
// spec: server-server-api#restricted-rooms
func (w *writing) authoriseVisitor(tx *store.Tx, user id.User) (via id.User, err error) {
	member, err := w.stateEvent(tx, event.StateTuple{Type: event.TypeMember, Key: string(user)})
	if err != nil {
		return "", err
	}
	if m := membershipOf(member); m == store.Join || m == store.Invite || m == store.Ban {
		return "", nil // they need nobody, or nobody can help
	}
	rules, restricted := w.restriction()
	if !restricted {
		return "", nil
	}
	if err := w.checkConditions(tx, user, rules); err != nil {
		return "", err
	}
	if via, err = w.localInviter(tx); err != nil {
		if refused := (*errcode.Error)(nil); errors.As(err, &refused) {
			return "", errCannotGrant
		}
	}
	return via, err
}

// restriction is the room's join rules, if they let in members of other rooms.
func (w *writing) restriction() (rules joinRules, restricted bool) {
	if w.head.JoinRules == nil || json.Unmarshal(w.head.JoinRules.Content, &rules) != nil {
		return rules, false
	}
	return rules, rules.JoinRule == "restricted" && w.head.Version.RestrictedJoins ||
		rules.JoinRule == "knock_restricted" && w.head.Version.KnockRestricted
}

// checkConditions refuses a user of another server who is in none of the rooms whose
// members may join. If that cannot be told of each of the rooms, another server may know better.
func (w *writing) checkConditions(tx *store.Tx, user id.User, rules joinRules) error {
	nid, seen, err := tx.IDs.FindUser(user)
	if err != nil {
		return err
	}
	unsure := false
	for _, a := range rules.Allow {
		if a.Type != "m.room_membership" || a.Room == "" {
			continue
		}
		room, ok, err := tx.Rooms.Get(a.Room)
		if err != nil {
			return err
		}
		if !ok {
			unsure = true
			continue
		}
		locals, err := tx.Members.LocalJoined(room.NID)
		if err != nil {
			return err
		}
		if len(locals) == 0 {
			unsure = true // what is known of it may be long out of date
			continue
		}
		m, known := store.Member{}, false
		if seen {
			if m, known, err = tx.Members.Get(room.NID, nid); err != nil {
				return err
			}
		}
		if known && m.Membership == store.Join {
			return nil
		}
		unsure = unsure || !known && room.Partial.Version != 0
	}
	if unsure {
		return errCannotAuthorise
	}
	return errcode.Forbidden("%s is in none of the rooms whose members may join", user)
}
