package room

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// Creation is what a user asks of a new room.
// spec: client-server-api#post_matrixclientv3createroom
type Creation struct {
	Creator         id.User
	Version         string // empty: the server's default
	Public          bool   // listed in the directory
	Preset          string // empty: private_chat, or public_chat where Public
	CreationContent jsontext.Value
	PowerLevels     jsontext.Value // overrides of the power levels' content
	InitialState    []InitialState
	Alias           id.Alias
	Name, Topic     string
	Invite          []id.User
	IsDirect        bool

	// Predecessor is the room that an upgrade replaces.
	Predecessor id.Room
}

// InitialState is a state event that a new room begins with.
type InitialState struct {
	Type     string         `json:"type"`
	StateKey string         `json:"state_key"`
	Content  jsontext.Value `json:"content"`
}

// preset is a common sort of room.
type preset struct{ joinRule, historyVisibility, guestAccess string }

var presets = map[string]preset{
	"private_chat":         {"invite", "shared", "can_join"},
	"trusted_private_chat": {"invite", "shared", "can_join"},
	"public_chat":          {"public", "shared", ""}, // forbidden is what holds where nothing says otherwise
}

// maxCreationWait bounds how long the answer waits for the clock, which is behind where very many
// rooms are made at once (creationTime).
const maxCreationWait = 5 * time.Millisecond

// Create makes a room with all its first events in one commit, and returns its id.
func (e *Engine) Create(ctx context.Context, c Creation) (id.Room, error) {
	if c.Preset == "" {
		c.Preset = "private_chat"
		if c.Public {
			c.Preset = "public_chat"
		}
	}
	if _, ok := presets[c.Preset]; !ok {
		return "", errcode.InvalidParam("preset %q is not known", c.Preset)
	}
	if c.Version == "" {
		if c.Version = e.options.DefaultVersion; c.Version == "" {
			c.Version = roomversion.Default
		}
	}
	v, ok := roomversion.Get(c.Version)
	if !ok {
		return "", errcode.UnsupportedRoomVersion("room version %q is not supported", c.Version)
	}
	head := &Head{Version: v, State: newStateMap(nil), servers: &servers{}}
	head.Creator, head.Room.Version, head.Public = c.Creator, v.ID, c.Public
	if !v.RoomIDIsCreateEventID {
		head.ID = id.Room("!" + rand.Text()[:18] + ":" + string(e.options.Server))
	}
	w := newWriting(e, &room{}, head)
	if err := w.firstEvents(ctx, c); err != nil {
		if denied := (*authrules.Denied)(nil); errors.As(err, &denied) {
			return "", errcode.New(400, "M_INVALID_ROOM_STATE", "the room would have a state that is not allowed: %s", denied.Reason)
		}
		return "", err
	}
	if err := e.store.Update(ctx, func(tx *store.Tx) error { return w.commitNew(tx, c) }); err != nil {
		return w.head.ID, err
	}
	// Whoever looks at the clock when the room is there must not find it made later, or right then: looking
	// for what came after that, they would find the room's beginning. Events are timed in milliseconds.
	last := w.entries[len(w.entries)-1].event.TS
	time.Sleep(min(time.Until(time.UnixMilli(last+1)), maxCreationWait))
	if err := e.inviteFirst(ctx, w.head.ID, c); err != nil {
		return "", errors.Join(err, e.uncreate(ctx, w.head.ID, c))
	}
	return w.head.ID, nil
}

// invitesAtOnce bounds how many servers are handed the invites to a new room at a time.
const invitesAtOnce = 10

// inviteFirst invites the users of other servers to a new room. A room for several is worth having
// without those whose servers cannot be reached; one that nobody else could be invited to is not.
func (e *Engine) inviteFirst(ctx context.Context, name id.Room, c Creation) error {
	failed := make([]error, len(c.Invite))
	var inviting errgroup.Group
	inviting.SetLimit(invitesAtOnce)
	for i, u := range c.Invite {
		if e.isRemote(u) {
			inviting.Go(func() error {
				failed[i] = e.inviteRemote(ctx, Change{Room: name, Sender: c.Creator, Target: u, IsDirect: c.IsDirect})
				return nil
			})
		}
	}
	if err := inviting.Wait(); err != nil {
		return err
	}
	var first error
	for i, err := range failed {
		if err == nil {
			continue
		}
		slog.WarnContext(ctx, "somebody was not invited to a new room", "room", name, "user", c.Invite[i], "error", err)
		if first == nil {
			first = fmt.Errorf("%s could not be invited: %w", c.Invite[i], err)
		}
	}
	if slices.Contains(failed, nil) {
		return nil
	}
	return first
}

// uncreate has the creator leave a room for good that nobody else knows of.
func (e *Engine) uncreate(ctx context.Context, name id.Room, c Creation) error {
	ctx = context.WithoutCancel(ctx)
	if err := e.Leave(ctx, Change{Room: name, Sender: c.Creator}); err != nil {
		return fmt.Errorf("leave %s: %w", name, err)
	}
	err := e.store.Update(ctx, func(tx *store.Tx) error {
		if c.Alias != "" {
			if err := tx.Aliases.Delete(c.Alias); err != nil {
				return err
			}
		}
		nid, _, err := tx.Rooms.Find(name)
		if err != nil {
			return err
		}
		return tx.Rooms.SetPublic(nid, false)
	})
	if err != nil {
		return fmt.Errorf("take %s out of the directory: %w", name, err)
	}
	return e.Forget(ctx, name, c.Creator)
}

// commitNew makes the room's row, then commits the write set as any other.
func (w *writing) commitNew(tx *store.Tx, c Creation) (err error) {
	if w.head.NID, err = tx.Rooms.Insert(w.head.ID, c.Creator, w.head.Version.ID); err != nil {
		return fmt.Errorf("insert room: %w", err)
	}
	if err := tx.Rooms.SetPublic(w.head.NID, c.Public); err != nil {
		return err
	}
	if c.Alias != "" {
		ok, err := tx.Aliases.Insert(store.Alias{Alias: c.Alias, Room: w.head.ID, Creator: c.Creator})
		if err != nil {
			return err
		}
		if !ok {
			return errcode.RoomInUse("alias %s is taken", c.Alias)
		}
	}
	return w.commit(tx)
}

// firstEvents adds the events of a new room in the order that the specification gives.
func (w *writing) firstEvents(ctx context.Context, c Creation) error {
	if err := w.addState(ctx, c.Creator, event.TypeCreate, "", w.createContent(c)); err != nil {
		return err
	}
	if w.head.ID == "" {
		w.head.ID = w.entries[0].event.PDU.Room
	}
	if err := w.setMembership(ctx, Change{Sender: c.Creator, Target: c.Creator}, store.Join, ""); err != nil {
		return err
	}
	levels, err := w.levelsContent(c)
	if err != nil {
		return err
	}
	if err := w.addState(ctx, c.Creator, event.TypePowerLevels, "", levels); err != nil {
		return err
	}
	if err := w.presetEvents(ctx, c); err != nil {
		return err
	}
	for _, s := range c.InitialState {
		if s.Content == nil {
			s.Content = jsontext.Value("{}")
		}
		if err := w.addState(ctx, c.Creator, s.Type, s.StateKey, s.Content); err != nil {
			return err
		}
	}
	if c.Name != "" {
		if err := w.addState(ctx, c.Creator, event.TypeName, "", object{"name": c.Name}); err != nil {
			return err
		}
	}
	if c.Topic != "" {
		if err := w.addState(ctx, c.Creator, event.TypeTopic, "", topicContent(c.Topic)); err != nil {
			return err
		}
	}
	for _, u := range c.Invite {
		if w.engine.isRemote(u) {
			continue // their servers have to sign first
		}
		if err := w.setMembership(ctx, Change{Sender: c.Creator, Target: u, IsDirect: c.IsDirect}, store.Invite, ""); err != nil {
			return err
		}
	}
	return nil
}

// presetEvents come before the initial state, which may contradict them.
func (w *writing) presetEvents(ctx context.Context, c Creation) error {
	if c.Alias != "" {
		if err := w.addState(ctx, c.Creator, event.TypeCanonicalAlias, "", object{"alias": c.Alias}); err != nil {
			return err
		}
	}
	p := presets[c.Preset]
	for _, s := range []struct{ typ, key, value string }{
		{event.TypeJoinRules, "join_rule", p.joinRule},
		{event.TypeHistoryVisibility, "history_visibility", p.historyVisibility},
		{event.TypeGuestAccess, "guest_access", p.guestAccess},
	} {
		if s.value == "" || c.states(s.typ) {
			continue
		}
		if err := w.addState(ctx, c.Creator, s.typ, "", object{s.key: s.value}); err != nil {
			return err
		}
	}
	if encrypt := w.engine.options.EncryptPresets; c.Predecessor == "" && slices.Contains(encrypt, c.Preset) && !c.states(event.TypeEncryption) {
		return w.addState(ctx, c.Creator, event.TypeEncryption, "", object{"algorithm": "m.megolm.v1.aes-sha2"})
	}
	return nil
}

// states says whether the initial state has an event of a type.
func (c Creation) states(typ string) bool {
	return slices.ContainsFunc(c.InitialState, func(i InitialState) bool { return i.Type == typ && i.StateKey == "" })
}

// object is JSON that we make ourselves.
type object map[string]any

// addState adds a state event; content is raw JSON or something to be made into it.
func (w *writing) addState(ctx context.Context, sender id.User, typ, key string, content any) error {
	raw, ok := content.(jsontext.Value)
	if !ok {
		var err error
		if raw, err = json.Marshal(content, json.Deterministic(true)); err != nil {
			return fmt.Errorf("content of %s: %w", typ, err)
		}
	}
	_, err := w.add(ctx, Proposal{Sender: sender, Type: typ, StateKey: &key, Content: raw})
	return err
}

func (w *writing) createContent(c Creation) any {
	content := object{}
	if c.CreationContent != nil {
		_ = json.Unmarshal(c.CreationContent, &content) // an object already, as the endpoint has checked
	}
	maps.DeleteFunc(content, func(k string, _ any) bool { return k == "creator" || k == "room_version" })
	content["room_version"] = w.head.Version.ID
	if w.head.Version.CreatorInContent {
		content["creator"] = c.Creator
	}
	if c.Predecessor != "" {
		content["predecessor"] = object{"room_id": c.Predecessor}
	}
	if w.head.Version.PrivilegedCreators && c.Preset == "trusted_private_chat" && len(c.Invite) > 0 {
		// spec: client-server-api#post_matrixclientv3createroom trusted_private_chat
		creators, _ := content["additional_creators"].([]any)
		for _, u := range c.Invite {
			if !slices.Contains(creators, any(string(u))) {
				creators = append(creators, string(u))
			}
		}
		content["additional_creators"] = creators
	}
	return content
}

// levelsContent is the power levels of a new room. Tombstones and levels ask
// for more than moderators have; encryption and ACLs likewise.
func (w *writing) levelsContent(c Creation) (any, error) {
	users := object{}
	tombstone := 100
	if w.head.Version.PrivilegedCreators {
		tombstone = 150 // only creators upgrade a room. spec: rooms/v12
	} else {
		users[string(c.Creator)] = 100
		if c.Preset == "trusted_private_chat" {
			for _, u := range c.Invite {
				users[string(u)] = 100
			}
		}
	}
	invite := 0
	if c.Preset == "public_chat" {
		invite = 50 // whoever likes may join; to invite is for moderators, as elsewhere
	}
	content := object{
		"users": users, "users_default": 0, "events_default": 0, "state_default": 50,
		"ban": 50, "kick": 50, "redact": 50, "invite": invite, "historical": 100,
		"events": object{
			event.TypeName: 50, event.TypeAvatar: 50, event.TypeCanonicalAlias: 50,
			event.TypePowerLevels: 100, event.TypeHistoryVisibility: 100, event.TypeEncryption: 100,
			event.TypeServerACL: 100, event.TypeTombstone: tombstone,
		},
	}
	if c.PowerLevels == nil {
		return content, nil
	}
	var override map[string]jsontext.Value
	if err := json.Unmarshal(c.PowerLevels, &override); err != nil {
		return nil, errcode.BadJSON("power_level_content_override: %v", err)
	}
	for k, v := range override {
		content[k] = v
	}
	if err := w.checkLevels(Proposal{Type: event.TypePowerLevels, Content: c.PowerLevels}); err != nil {
		return nil, err
	}
	return content, nil
}

// topicContent has the topic in its old form and as extensible text.
// spec: client-server-api#mroomtopic
func topicContent(topic string) object {
	return object{"topic": topic, "m.topic": object{"m.text": []object{{"body": topic, "mimetype": "text/plain"}}}}
}
