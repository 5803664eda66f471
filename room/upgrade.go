package room

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// carriedOver are the state events that an upgrade copies into the new room.
// spec: client-server-api#server-behaviour-19
var carriedOver = []string{
	event.TypeServerACL, event.TypeEncryption, event.TypeName, event.TypeAvatar, event.TypeTopic,
	event.TypeGuestAccess, event.TypeHistoryVisibility, event.TypeJoinRules,
}

// Moved is told, in the transaction that closes a room, which one replaces it.
type Moved func(tx *store.Tx, old, fresh id.Room) error

// Upgrade replaces a room by one of another version and returns the new one's
// id. moved is told of both before the old room is closed, to carry over what
// other tables hold; it may be nil.
// spec: client-server-api#room-upgrades
func (e *Engine) Upgrade(ctx context.Context, old id.Room, user id.User, version string, additionalCreators []id.User, moved Moved) (id.Room, error) {
	v, ok := roomversion.Get(version)
	if !ok {
		return "", errcode.UnsupportedRoomVersion("room version %q is not supported", version)
	}
	h, ok, err := e.Head(ctx, old)
	if err != nil {
		return "", err
	}
	if !ok {
		return "", errcode.NotFound("room %s is not known here", old)
	}
	if err := e.mayUpgrade(ctx, h, user); err != nil {
		return "", err
	}
	c := Creation{Creator: user, Version: version, Predecessor: old, Preset: "private_chat"}
	if err := e.carryOver(ctx, h, v, &c, additionalCreators); err != nil {
		return "", err
	}
	fresh, err := e.Create(ctx, c)
	if err != nil {
		return "", err
	}
	err = e.compose(ctx, old, func(w *writing) error {
		if err := w.addState(ctx, user, event.TypeTombstone, "", object{"body": "This room has been replaced", "replacement_room": fresh}); err != nil {
			return err
		}
		w.also = append(w.also, func(tx *store.Tx) error { return moveRoom(tx, old, fresh, moved) })
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("close %s: %w", old, err)
	}
	return fresh, e.lockOld(ctx, old, user)
}

func moveRoom(tx *store.Tx, old, fresh id.Room, moved Moved) error {
	if err := tx.Aliases.Move(old, fresh); err != nil {
		return err
	}
	nid, _, err := tx.Rooms.Find(old)
	if err != nil {
		return err
	}
	if err := tx.Rooms.SetPublic(nid, false); err != nil || moved == nil {
		return err
	}
	return moved(tx, old, fresh)
}

func (e *Engine) mayUpgrade(ctx context.Context, h *Head, user id.User) error {
	return e.store.View(ctx, func(tx *store.Tx) error {
		member, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: event.TypeMember, Key: string(user)})
		if err != nil {
			return err
		}
		if !ok || member.PDU.Membership() != "join" {
			return errcode.Forbidden("you are not in this room")
		}
		if h.Levels.UserLevel(user) < h.Levels.EventLevel(event.TypeTombstone, true) {
			return errcode.Forbidden("your power level does not let you upgrade this room")
		}
		return nil
	})
}

// carryOver reads what the new room takes from the old one.
func (e *Engine) carryOver(ctx context.Context, h *Head, v *roomversion.Version, c *Creation, creators []id.User) error {
	return e.store.View(ctx, func(tx *store.Tx) error {
		row, _, err := tx.Rooms.GetNID(h.NID)
		if err != nil {
			return err
		}
		c.Public = row.Public
		for _, t := range carriedOver {
			ev, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: t})
			if err != nil {
				return err
			}
			if ok {
				c.InitialState = append(c.InitialState, InitialState{Type: t, Content: ev.PDU.Content})
			}
		}
		alias, ok, err := e.StateEvent(tx, h, event.StateTuple{Type: event.TypeCanonicalAlias})
		if err != nil {
			return err
		}
		if ok {
			c.InitialState = append(c.InitialState, InitialState{Type: event.TypeCanonicalAlias, Content: alias.PDU.Content})
		}
		if err := e.carryBans(tx, h, c); err != nil {
			return err
		}
		c.CreationContent = creationContent(h, v, creators)
		c.PowerLevels = carriedLevels(h, v, c.Creator, creators)
		return nil
	})
}

// carryBans keeps who was banned out of the new room.
func (e *Engine) carryBans(tx *store.Tx, h *Head, c *Creation) error {
	members, err := tx.Members.OfRoom(h.NID)
	if err != nil {
		return err
	}
	var bans []store.EventNID
	for _, m := range members {
		if m.Membership == store.Ban {
			bans = append(bans, m.Event)
		}
	}
	events, err := e.Events(tx, bans)
	if err != nil {
		return err
	}
	for _, ev := range events {
		c.InitialState = append(c.InitialState, InitialState{Type: event.TypeMember, StateKey: *ev.PDU.StateKey, Content: ev.PDU.Content})
	}
	return nil
}

// creationContent keeps what the old room was made as: its type, whether it federates.
func creationContent(h *Head, v *roomversion.Version, creators []id.User) jsontext.Value {
	content := without(h.Create.Content, "creator", "room_version", "predecessor", "additional_creators")
	if !v.PrivilegedCreators || len(creators) == 0 {
		return content
	}
	var members map[string]jsontext.Value
	if content == nil || json.Unmarshal(content, &members) != nil {
		members = map[string]jsontext.Value{}
	}
	raw, err := json.Marshal(creators)
	if err != nil {
		return content
	}
	members["additional_creators"] = raw
	if raw, err = json.Marshal(members, json.Deterministic(true)); err != nil {
		return content
	}
	return raw
}

// carriedLevels are the old room's levels as the new version allows them:
// creators are not listed where they outrank all levels.
func carriedLevels(h *Head, v *roomversion.Version, creator id.User, additional []id.User) jsontext.Value {
	content := map[string]jsontext.Value{}
	if h.PowerLevels != nil && json.Unmarshal(h.PowerLevels.Content, &content) != nil {
		return nil
	}
	users := map[string]jsontext.Value{}
	if raw := content["users"]; raw != nil && json.Unmarshal(raw, &users) != nil {
		users = map[string]jsontext.Value{}
	}
	if v.PrivilegedCreators {
		delete(users, string(creator))
		for _, u := range additional {
			delete(users, string(u))
		}
	} else if h.Version.PrivilegedCreators || users[string(creator)] == nil {
		users[string(creator)] = jsontext.Value("100")
	}
	raw, err := json.Marshal(users, json.Deterministic(true))
	if err != nil {
		return nil
	}
	content["users"] = raw
	if v.PrivilegedCreators {
		raiseTombstone(content)
	}
	if raw, err = json.Marshal(content, json.Deterministic(true)); err != nil {
		return nil
	}
	return raw
}

// raiseTombstone keeps upgrades to creators, as new rooms of such versions have it.
func raiseTombstone(content map[string]jsontext.Value) {
	events := map[string]jsontext.Value{}
	if raw := content["events"]; raw != nil && json.Unmarshal(raw, &events) != nil {
		return
	}
	events[event.TypeTombstone] = jsontext.Value("150")
	if raw, err := json.Marshal(events, json.Deterministic(true)); err == nil {
		content["events"] = raw
	}
}

// lockOld keeps people from talking in the old room, where the user may do that.
// spec: client-server-api#server-behaviour-19 5
func (e *Engine) lockOld(ctx context.Context, old id.Room, user id.User) error {
	return e.compose(ctx, old, func(w *writing) error {
		l := w.head.Levels
		if l.UserLevel(user) < l.EventLevel(event.TypePowerLevels, true) || w.head.PowerLevels == nil {
			return nil
		}
		var content map[string]jsontext.Value
		if err := json.Unmarshal(w.head.PowerLevels.Content, &content); err != nil {
			return nil // levels that nobody can read stay as they are
		}
		level := max(50, levelOf(content["users_default"])+1)
		for _, k := range []string{"events_default", "invite"} {
			if levelOf(content[k]) < level {
				content[k] = jsontext.Value(fmt.Sprint(level))
			}
		}
		return w.addState(ctx, user, event.TypePowerLevels, "", content)
	})
}

func levelOf(raw jsontext.Value) (n int64) {
	if raw == nil || json.Unmarshal(raw, &n) != nil {
		return 0
	}
	return n
}
