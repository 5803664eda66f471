package room

import (
	"context"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Look calls fn with a room as a user of one device sees it. Whoever may see
// nothing of the room is refused by fn; a room that is not known is an error
// that says no more than a room which one may not see.
func (e *Engine) Look(ctx context.Context, room id.Room, user id.User, device id.Device, fn func(*store.Tx, *View) error) error {
	return e.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Rooms.Get(room)
		if err != nil {
			return err
		}
		if !ok {
			return errcode.Forbidden("you are not in room %s, or it is not known here", room)
		}
		nid, _, err := tx.IDs.FindUser(user) // 0: somebody who was never in any room
		if err != nil {
			return err
		}
		v, err := e.View(tx, row, nid)
		if err != nil {
			return err
		}
		v.Device = string(device)
		return fn(tx, v)
	})
}

// Joined says whether the user of the view is joined.
func (v *View) Joined() bool { return v.Member.Membership == store.Join }

// StateNow reads one entry of a room's state as its row has it; nil: there is none.
func (e *Engine) StateNow(tx *store.Tx, room store.Room, t event.StateTuple) (*Event, error) {
	key, ok, err := tx.IDs.FindStateKey(t)
	if err != nil || !ok {
		return nil, err
	}
	nid, ok, err := tx.State.At(room.NID, key, room.StateVersion)
	if err != nil || !ok {
		return nil, err
	}
	all, err := e.Events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// MaySetState says whether a user is joined and has the power to set a type of state.
func (e *Engine) MaySetState(ctx context.Context, h *Head, user id.User, typ string) (may bool, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.IDs.FindUser(user)
		if err != nil || !ok {
			return err
		}
		joined, err := tx.Members.Joined(h.NID, nid)
		may = joined && h.Levels.UserLevel(user) >= h.Levels.EventLevel(typ, true)
		return err
	})
	return may, err
}

// canonicalAlias is the content of m.room.canonical_alias.
type canonicalAlias struct {
	Alias      string         `json:"alias,omitzero"`
	AltAliases []string       `json:"alt_aliases,omitzero"`
	Rest       jsontext.Value `json:",embed"`
}

// DropCanonicalAlias takes an alias that is no more out of a room's canonical
// alias event, if the user may change that.
func (e *Engine) DropCanonicalAlias(ctx context.Context, room id.Room, alias id.Alias, user id.User) error {
	h, ok, err := e.Head(ctx, room)
	if err != nil || !ok {
		return err
	}
	if may, err := e.MaySetState(ctx, h, user, event.TypeCanonicalAlias); err != nil || !may {
		return err
	}
	return e.compose(ctx, room, func(w *writing) error {
		var content canonicalAlias
		err := e.store.View(ctx, func(tx *store.Tx) error {
			pdu, err := w.stateEvent(tx, event.StateTuple{Type: event.TypeCanonicalAlias})
			if err != nil || pdu == nil || json.Unmarshal(pdu.Content, &content) != nil {
				return err
			}
			return nil
		})
		if err != nil || content.Alias != string(alias) && !slices.Contains(content.AltAliases, string(alias)) {
			return err
		}
		if content.Alias == string(alias) {
			content.Alias = ""
		}
		content.AltAliases = slices.DeleteFunc(content.AltAliases, func(a string) bool { return a == string(alias) })
		return w.addState(ctx, user, event.TypeCanonicalAlias, "", content)
	})
}
