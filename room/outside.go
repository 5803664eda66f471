package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// outsider is what is known of a user's invite to, or knock on, a room that nobody
// here is in.
type outsider struct {
	membership store.Membership
	event      *event.PDU  // nil: the state lost the membership that there was
	servers    []id.Server // that may know the room
}

// outsider reads the membership of a user in a room that nobody here is in; nil: none.
func (e *Engine) outsider(ctx context.Context, room id.Room, user id.User) (o *outsider, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(room)
		if err != nil || !ok {
			return err
		}
		who, ok, err := tx.IDs.FindUser(user)
		if err != nil || !ok {
			return err
		}
		m, ok, err := tx.Members.Get(nid, who)
		if err != nil || !ok {
			return err
		}
		o = &outsider{membership: m.Membership}
		if m.Event == 0 {
			return nil
		}
		events, err := e.Events(tx, []store.EventNID{m.Event})
		if err != nil {
			return err
		}
		o.event = events[0].PDU
		o.add(o.event.Sender)
		raw, _, err := tx.Members.Stripped(nid, who)
		if err != nil {
			return err
		}
		var state []struct {
			Sender id.User `json:"sender"`
		}
		if json.Unmarshal(raw, &state) == nil {
			for _, s := range state {
				o.add(s.Sender)
			}
		}
		return nil
	})
	return o, err
}

// ToldBy lists the servers that told a user here of a room from outside, by an invite or in answer to
// a knock: first that of who invited them.
func (e *Engine) ToldBy(ctx context.Context, room id.Room, user id.User) ([]id.Server, error) {
	o, err := e.outsider(ctx, room, user)
	if err != nil || o == nil || o.membership != store.Invite && o.membership != store.Knock {
		return nil, err
	}
	return slices.DeleteFunc(o.servers, func(s id.Server) bool { return s == e.options.Server }), nil
}

// atTheDoor is what the sender of c was told from outside last, or told, if that alone counts: nobody
// here is in the room, or the state of the room here does not tell of them (yet).
func (e *Engine) atTheDoor(ctx context.Context, c Change) (*outsider, error) {
	h, ok, err := e.Head(ctx, c.Room)
	if err != nil || !ok || e.options.Network == nil {
		return nil, err
	}
	inState := false
	if len(h.Locals) > 0 {
		err = e.store.View(ctx, func(tx *store.Tx) error {
			_, inState, err = e.StateEvent(tx, h, event.StateTuple{Type: event.TypeMember, Key: string(c.Sender)})
			return err
		})
	}
	if err != nil || inState {
		return nil, err
	}
	return e.outsider(ctx, c.Room, c.Sender)
}

func (o *outsider) add(u id.User) {
	if s := u.Server(); s != "" && !slices.Contains(o.servers, s) {
		o.servers = append(o.servers, s)
	}
}

// knockRemote asks to be let into a room that nobody here is in.
// spec: server-server-api#knocking-upon-a-room
func (e *Engine) knockRemote(ctx context.Context, c Change) error {
	return e.eachVia(ctx, c, store.Knock, func(ctx context.Context, server id.Server, v *roomversion.Version, knock *event.PDU) error {
		raw, err := e.options.Network.SendKnock(ctx, server, knock)
		if err != nil {
			return err
		}
		told := e.toldToKnock(ctx, server, v, c.Room, raw)
		// The knock is in the room: unknown here, its user could not take it back. So it is kept though
		// this server is stopping.
		return e.keepOutside(context.WithoutCancel(ctx), knock, told)
	})
}

// Whoever sent an invite chose the servers that hear of its refusal, and they may all be
// silent: the leave must not rest on them, nor on how long the client waits.
const (
	tellLeaveTime  = 12 * time.Second // for telling others of a leave
	leaveVia       = 5 * time.Second  // for each question to one of them
	leaveAloneTime = time.Minute      // for all of it, also the writing here
)

// leaveRemote refuses an invite to a room that nobody here is in, or takes a knock
// back. If no server there can be told, it holds here all the same.
// spec: server-server-api#leaving-rooms-rejecting-invites
func (e *Engine) leaveRemote(ctx context.Context, c Change, o *outsider) error {
	ctx, end := e.alone.begin(ctx, leaveAloneTime)
	defer end()
	err := e.tellLeave(ctx, c)
	if err == nil {
		return nil
	}
	slog.InfoContext(ctx, "an invite is refused here only: the servers in the room were not reached", "room", c.Room, "user", c.Target, "error", err)
	content, err := json.Marshal(memberContent{Membership: event.MembershipLeave, Reason: c.Reason})
	if err != nil {
		return err
	}
	key := string(c.Target)
	proto := event.Proto{
		Room: c.Room, Type: event.TypeMember, StateKey: &key, Sender: c.Target, Content: content, OriginServerTS: now(),
		PrevEvents: []event.Ref{o.event.Ref()}, AuthEvents: []event.Ref{o.event.Ref()}, Depth: event.NextDepth(o.event.Version, o.event.Depth),
	}
	if o.event.Version.EventID == roomversion.EventIDField {
		proto.EventID = e.newEventID()
	}
	leave, err := event.Build(o.event.Version, proto, e.options.Server, e.options.KeyID, e.options.Key)
	if err != nil {
		return err
	}
	return e.keepOutside(ctx, leave, nil)
}

// tellLeave has a server in the room know of a leave.
func (e *Engine) tellLeave(ctx context.Context, c Change) error {
	ctx, cancel := context.WithTimeout(ctx, tellLeaveTime)
	defer cancel()
	return e.eachVia(ctx, c, store.Leave, func(ctx context.Context, server id.Server, v *roomversion.Version, leave *event.PDU) error {
		ctx, cancel := context.WithTimeout(ctx, leaveVia)
		defer cancel()
		if err := e.options.Network.SendLeave(ctx, server, leave); err != nil {
			return err
		}
		if err := e.keepOutside(ctx, leave, nil); err != nil {
			return err
		}
		here, err := e.isResident(ctx, c.Room)
		if err != nil || !here {
			return err
		}
		// Nobody sends it back to where it comes from.
		if err := e.receiveOne(ctx, server, v, leave, pushed); err != nil {
			slog.InfoContext(ctx, "a leave is no part of the room here yet", "room", c.Room, "user", c.Target, "error", err)
		}
		return nil
	})
}

// errDraft ends a write whose events are only wanted as drafts.
var errDraft = errors.New("a draft")

// inviteRemote invites a user of another server, which has to sign the invite first.
// spec: server-server-api#inviting-to-a-room
func (e *Engine) inviteRemote(ctx context.Context, c Change) error {
	var draft *event.PDU
	var outside []jsontext.Value
	err := e.write(ctx, c.Room, func(w *writing) error {
		if err := w.setMembership(ctx, c, store.Invite, ""); err != nil {
			return err
		}
		if len(w.entries) == 0 {
			return nil // they are invited in these very words
		}
		draft = w.entries[0].event.PDU
		err := e.store.View(ctx, func(tx *store.Tx) (err error) {
			outside, err = e.outsideState(tx, w.base, c.Sender, c.Target)
			return err
		})
		if err != nil {
			return err
		}
		return errDraft
	})
	if !errors.Is(err, errDraft) {
		return err
	}
	policy, err := e.policyOf(ctx, c.Room)
	if err != nil {
		return err
	}
	draft, refusal, err := e.signByPolicy(ctx, policy, draft)
	if err := errors.Join(err, refusal); err != nil {
		return err
	}
	state, err := json.Marshal(outside)
	if err != nil {
		return fmt.Errorf("state for an invite: %w", err)
	}
	raw, err := e.options.Network.SendInvite(ctx, c.Target.Server(), draft, state)
	if err != nil {
		return err
	}
	signed, err := event.Parse(draft.Version, raw)
	if err != nil || signed.ID != draft.ID || !signed.CheckContentHash() {
		return errcode.New(502, "M_UNKNOWN", "%s returned another event than our invite", c.Target.Server())
	}
	if err := e.options.Network.VerifyEvents(ctx, c.Target.Server(), []*event.PDU{signed})[0]; err != nil {
		return errcode.New(502, "M_UNKNOWN", "%s returned our invite with signatures that are not valid: %s", c.Target.Server(), err)
	}
	if policy != nil && !policy.recommends(signed) {
		// That server may have returned no signature but its own.
		if signed, err = signed.WithSignatureOf(draft, policy.via, policyKey); err != nil {
			return err
		}
	}
	return e.arriveProposed(ctx, arrival{pdu: signed, origin: e.options.Server, forward: true})
}
