package room

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// joinRules is the content of m.room.join_rules.
type joinRules struct {
	JoinRule string `json:"join_rule"`
	Allow    []struct {
		Type string  `json:"type"`
		Room id.Room `json:"room_id"`
	} `json:"allow"`
}

// authorisingUser is the member in whose name a join by way of a restricted
// rule is made; none where the rule does not ask for one.
// spec: server-server-api#restricted-rooms
func (w *writing) authorisingUser(ctx context.Context, user id.User, m store.Membership) (id.User, error) {
	if m == store.Join || m == store.Invite || w.head.JoinRules == nil {
		return "", nil
	}
	var rules joinRules
	if json.Unmarshal(w.head.JoinRules.Content, &rules) != nil {
		return "", nil // not a rule that lets anybody in; the auth rules refuse
	}
	switch {
	case rules.JoinRule == "restricted" && w.head.Version.RestrictedJoins:
	case rules.JoinRule == "knock_restricted" && w.head.Version.KnockRestricted:
	default:
		return "", nil
	}
	var via id.User
	err := w.engine.store.View(ctx, func(tx *store.Tx) error {
		allowed, err := w.inAllowedRoom(tx, user, rules)
		if err != nil {
			return err
		}
		if !allowed {
			return errcode.Forbidden("you are in none of the rooms whose members may join")
		}
		via, err = w.localInviter(tx)
		return err
	})
	return via, err
}

// errNobodyInvites: another server may have somebody who may.
var errNobodyInvites = errcode.New(400, "M_UNABLE_TO_GRANT_JOIN", "nobody of this server in the room may invite")

func (w *writing) inAllowedRoom(tx *store.Tx, user id.User, rules joinRules) (bool, error) {
	nid, ok, err := tx.IDs.FindUser(user)
	if err != nil || !ok {
		return false, err
	}
	for _, a := range rules.Allow {
		if a.Type != "m.room_membership" {
			continue
		}
		room, ok, err := tx.Rooms.Find(a.Room)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		if joined, err := tx.Members.Joined(room, nid); err != nil || joined {
			return joined, err
		}
	}
	return false, nil
}

// localInviter finds a joined user of this server who may invite.
func (w *writing) localInviter(tx *store.Tx) (id.User, error) {
	for _, nid := range w.head.Locals {
		user, err := tx.IDs.UserID(nid)
		if err != nil {
			return "", err
		}
		if w.head.Levels.UserLevel(user) >= w.head.Levels.Invite() {
			return user, nil
		}
	}
	return "", errNobodyInvites
}

// servedByInviters lists servers, some at most, of members who may invite: they can let in who
// satisfies a restricted join rule where nobody here can.
// spec: server-server-api#restricted-rooms
func (e *Engine) servedByInviters(ctx context.Context, room id.Room) (servers []id.Server, err error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil || !ok {
		return nil, err
	}
	named, others := h.Levels.UsersFrom(h.Levels.Invite())
	err = e.store.View(ctx, func(tx *store.Tx) error {
		for _, user := range named {
			if s := user.Server(); s == e.options.Server || slices.Contains(servers, s) {
				continue
			}
			in, err := tx.Members.MayBeJoined(h.Room, user)
			if err != nil {
				return err
			}
			if in {
				servers = append(servers, user.Server())
			}
			if len(servers) == maxKnown {
				return nil
			}
		}
		return nil
	})
	if err != nil || !others {
		return servers, err
	}
	in, err := e.serversIn(ctx, room)
	return append(servers, in[:min(len(in), maxKnown)]...), err
}
