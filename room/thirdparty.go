package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// ThirdPartyInvite is an invite to an address, which has turned out to be a user's.
// Only these fields of what others hand over become part of an event.
// spec: server-server-api#third-party-invites
type ThirdPartyInvite struct {
	Room        id.Room
	Sender      id.User // who invited the address
	Target      id.User // whose it is
	DisplayName string
	Signed      SignedInvite
}

// SignedInvite is the proof of an identity server that the address is the user's. The
// room's state has the keys that it must be signed with.
type SignedInvite struct {
	User       id.User                         `json:"mxid"`
	Token      string                          `json:"token"`
	Signatures map[id.Server]map[id.Key]string `json:"signatures"`
}

type thirdPartyContent struct {
	Invite struct {
		DisplayName string       `json:"display_name"`
		Signed      SignedInvite `json:"signed"`
	} `json:"third_party_invite"`
}

// change is the invite as any other, with the proof in its content.
func (t ThirdPartyInvite) change() (c Change, err error) {
	if t.Signed.User != t.Target {
		return c, errcode.InvalidParam("the proof is of %s, not of %s", t.Signed.User, t.Target)
	}
	var content thirdPartyContent
	content.Invite.DisplayName, content.Invite.Signed = t.DisplayName, t.Signed
	raw, err := json.Marshal(content, json.Deterministic(true))
	if err != nil {
		return c, fmt.Errorf("content of a third-party invite: %w", err)
	}
	return Change{Room: t.Room, Sender: t.Sender, Target: t.Target, Content: raw}, nil
}

// ExchangeThirdPartyInvite invites a user of another server by the name of a user
// here who invited their address.
// spec: server-server-api#put_matrixfederationv1exchange_third_party_inviteroomid
func (e *Engine) ExchangeThirdPartyInvite(ctx context.Context, origin id.Server, t ThirdPartyInvite) error {
	if t.Target.Server() != origin {
		return errcode.Forbidden("%s is not a user of %s", t.Target, origin)
	}
	if t.Sender.Server() != e.options.Server {
		return errcode.InvalidParam("%s is not a user of this server", t.Sender)
	}
	h, err := e.admit(ctx, origin, t.Room)
	if err != nil {
		return err
	}
	if t, err = e.named(ctx, h, t); err != nil {
		return err
	}
	c, err := t.change()
	if err != nil {
		return err
	}
	return e.inviteRemote(ctx, c)
}

// RedeemThirdPartyInvite invites a user here whose address somebody invited. Where
// nobody here is in the room, the server of the inviting user is asked to.
// spec: server-server-api#put_matrixfederationv13pidonbind
func (e *Engine) RedeemThirdPartyInvite(ctx context.Context, t ThirdPartyInvite) error {
	if t.Target.Server() != e.options.Server {
		return errcode.InvalidParam("%s is not a user of this server", t.Target)
	}
	if err := e.mayBeInvited(ctx, t.Target); err != nil {
		return err
	}
	h, here, err := e.Head(ctx, t.Room)
	if err != nil {
		return err
	}
	here = here && len(h.Locals) > 0
	if here {
		if t, err = e.named(ctx, h, t); err != nil {
			return err
		}
	}
	c, err := t.change()
	if err != nil {
		return err
	}
	if here {
		return e.compose(ctx, t.Room, func(w *writing) error { return w.setMembership(ctx, c, store.Invite, "") })
	}
	if e.options.Network == nil || t.Sender.Server() == e.options.Server {
		return errcode.NotFound("room %s is not known here", t.Room)
	}
	content := event.AppendStringMember(nil, "membership", event.MembershipInvite)
	content = event.AppendMember(content, "third_party_invite", thirdParty(c.Content))
	members := event.AppendMember(nil, "content", braced(content))
	members = event.AppendStringMember(members, "room_id", t.Room)
	members = event.AppendStringMember(members, "sender", t.Sender)
	members = event.AppendStringMember(members, "state_key", t.Target)
	members = event.AppendStringMember(members, "type", event.TypeMember)
	return e.options.Network.ExchangeThirdPartyInvite(ctx, t.Sender.Server(), t.Room, braced(members))
}

// named is the invite with the name under which the room shows the address: an identity server
// does not tell it, so that other servers cannot.
func (e *Engine) named(ctx context.Context, h *Head, t ThirdPartyInvite) (ThirdPartyInvite, error) {
	if t.DisplayName != "" {
		return t, nil
	}
	err := e.store.View(ctx, func(tx *store.Tx) error {
		ev, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: event.TypeThirdPartyInvite, Key: t.Signed.Token})
		if ok {
			t.DisplayName = ev.PDU.ContentString("display_name")
		}
		return err
	})
	return t, err
}

// thirdParty is what the content has as third_party_invite.
func thirdParty(content jsontext.Value) jsontext.Value {
	var c struct {
		Invite jsontext.Value `json:"third_party_invite"`
	}
	if json.Unmarshal(content, &c) != nil {
		return jsontext.Value("{}") // cannot be: change wrote it
	}
	return c.Invite
}

// RedeemThirdPartyInvites redeems several; what fails of one is no matter of the others.
func (e *Engine) RedeemThirdPartyInvites(ctx context.Context, list []ThirdPartyInvite) error {
	for _, t := range list {
		err := e.RedeemThirdPartyInvite(ctx, t)
		if ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if err != nil {
			slog.InfoContext(ctx, "third-party invite not redeemed", "room", t.Room, "user", t.Target, "error", err)
		}
	}
	return nil
}
