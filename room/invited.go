package room

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
	"hearth/stream"
)

// Invitation is an invite of a user here that another server wants signed.
type Invitation struct {
	HandIn
	Version string           // of the room
	State   []jsontext.Value // what the user may know of the room
}

// Bounds of what goes with an invite. Rooms tell some eight entries of themselves.
const (
	maxOutsideEntries = 50
	maxOutsideSize    = 256 << 10
)

// ReceiveInvite checks an invite of a user here, and returns it with our signature. If
// nobody here is in the room, the user sees it from now on; otherwise it arrives a
// second time, like any other event.
// spec: server-server-api#put_matrixfederationv2inviteroomideventid
func (e *Engine) ReceiveInvite(ctx context.Context, in Invitation) (jsontext.Value, error) {
	v, ok := roomversion.Get(in.Version)
	if !ok {
		return nil, errcode.New(400, "M_INCOMPATIBLE_ROOM_VERSION", "room version %q is not supported here", in.Version).
			With("room_version", in.Version)
	}
	if err := e.CheckACL(ctx, in.Room, in.Origin); err != nil {
		return nil, err
	}
	p, err := event.Parse(v, in.Raw)
	if err != nil {
		return nil, err
	}
	if err := e.checkInvite(ctx, in, p); err != nil {
		return nil, err
	}
	state, err := e.checkOutsideState(ctx, in.Origin, v, in.Room, in.State)
	if err != nil {
		return nil, err
	}
	signed, err := p.AddSignature(e.options.Server, e.options.KeyID, e.options.Key)
	if err != nil {
		return nil, fmt.Errorf("sign invite %s: %w", p.ID, err)
	}
	if err := e.keepInvite(ctx, signed, state); err != nil {
		return nil, err
	}
	return signed.JSON, nil
}

// checkInvite makes sure that the event is an invite of a user here, and nothing else,
// before it is signed.
func (e *Engine) checkInvite(ctx context.Context, in Invitation, p *event.PDU) error {
	switch {
	case p.ID != in.Event:
		return errcode.InvalidParam("the event is %s, not %s", p.ID, in.Event)
	case p.Room != in.Room:
		return errcode.InvalidParam("the event is of another room")
	case p.Type != event.TypeMember || p.StateKey == nil:
		return errcode.InvalidParam("the event is no membership")
	case p.Membership() != event.MembershipInvite:
		return errcode.InvalidParam("the event's membership is %q, not invite", p.Membership())
	case p.Sender.Server() != in.Origin:
		return errcode.InvalidParam("%s is not a user of %s", p.Sender, in.Origin)
	}
	user, err := id.ParseUser(*p.StateKey)
	if err != nil || user.Server() != e.options.Server {
		return errcode.InvalidParam("%s is not a user of this server", *p.StateKey)
	}
	if err := p.CheckLimits(); err != nil {
		return err
	}
	if !p.CheckContentHash() {
		return errcode.InvalidParam("the event's content is not what its hash says")
	}
	if err := e.options.Network.VerifyEvents(ctx, in.Origin, []*event.PDU{p})[0]; err != nil {
		return errcode.InvalidParam("the event is not signed as it must be: %s", err)
	}
	return e.mayBeInvited(ctx, user)
}

// mayBeInvited refuses invites of users who do not want any.
// spec: client-server-api#invite-permission
func (e *Engine) mayBeInvited(ctx context.Context, user id.User) error {
	return e.store.View(ctx, func(tx *store.Tx) error {
		raw, ok, err := tx.AccountData.Get(user, "m.invite_permission_config")
		if err != nil || !ok {
			return err
		}
		var config struct {
			Action jsontext.Value `json:"default_action"`
		}
		if json.Unmarshal(raw, &config) == nil && string(config.Action) == `"block"` {
			return errcode.New(403, "M_INVITE_BLOCKED", "%s does not take invites", user)
		}
		return nil
	})
}

// checkOutsideState reads the state that goes with an invite, and returns it as stripped
// state. What is malformed is left out: it must not reach a client. Of room versions with
// the create event's hash as room id, the create event must be there as a whole and prove
// itself, and nothing else that is there as a whole may be wrong.
// spec: server-server-api#inviting-to-a-room
// msc: 4311
func (e *Engine) checkOutsideState(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, raws []jsontext.Value) ([]jsontext.Value, error) {
	size := 0
	for _, raw := range raws {
		size += len(raw)
	}
	if len(raws) > maxOutsideEntries || size > maxOutsideSize {
		return nil, errcode.InvalidParam("the room's state is larger than this server accepts with an invite")
	}
	entries := parseOutsideState(v, room, raws)
	if !v.RoomIDIsCreateEventID {
		return shownOutside(entries), nil
	}
	e.verifyOutside(ctx, from, entries)
	for _, o := range entries {
		if o.fault != nil {
			return nil, errcode.InvalidParam("the room's state has an event that is not as it must be: %s", o.fault)
		}
	}
	if !slices.ContainsFunc(entries, func(o *outsideEntry) bool { return o.whole != nil && o.whole.Is(event.TypeCreate, "") }) {
		return nil, errcode.InvalidParam("the room's state lacks the create event")
	}
	return shownOutside(entries), nil
}

// toldToKnock is the state that a server tells whoever knocks on its room, as stripped state. The
// knock is in the room by then, so whatever is wrong there is left out.
// spec: server-server-api#put_matrixfederationv1send_knockroomideventid
func (e *Engine) toldToKnock(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, raw jsontext.Value) []jsontext.Value {
	var told []jsontext.Value
	if err := json.Unmarshal(raw, &told); err != nil {
		slog.InfoContext(ctx, "a server told a malformed state of a room to who knocks", "room", room, "error", err)
	}
	told = told[:min(len(told), maxOutsideEntries)]
	for i, size := 0, 0; i < len(told); i++ {
		if size += len(told[i]); size > maxOutsideSize {
			told = told[:i]
		}
	}
	entries := parseOutsideState(v, room, told)
	e.verifyOutside(ctx, from, entries)
	return shownOutside(entries)
}

// outsideEntry is an entry of the state that goes with an invite or a knock.
type outsideEntry struct {
	tuple    event.StateTuple
	stripped jsontext.Value
	whole    *event.PDU // nil: it came as stripped state
	fault    error      // what is wrong with a whole event
}

// parseOutsideState reads the entries, each as a whole event or as stripped state; what is neither
// is left out. The specification wants whole events only for rooms whose id is the hash of their create event,
// but Synapse (up to 1.157) sends that one whole and the others stripped. They are names and pictures that
// nobody could verify anyway.
func parseOutsideState(v *roomversion.Version, room id.Room, raws []jsontext.Value) (entries []*outsideEntry) {
	for _, raw := range raws {
		o := &outsideEntry{}
		var err error
		if o.whole, err = event.Parse(v, raw); err != nil {
			o.whole = nil
			if o.tuple, o.stripped, err = parseStripped(raw); err != nil {
				slog.Debug("malformed stripped state", "room", room, "error", err)
				continue
			}
		} else {
			o.fault = o.readWhole(room)
		}
		entries = append(entries, o)
	}
	return entries
}

// readWhole reads an entry that is a whole event.
func (o *outsideEntry) readWhole(room id.Room) (err error) {
	if o.whole.Room != room || !o.whole.IsState() {
		return fmt.Errorf("event %s is no state of the room", o.whole.ID)
	}
	shown := o.whole
	if !shown.CheckContentHash() {
		if shown, err = shown.Redacted(); err != nil {
			return err
		}
	}
	o.whole, o.tuple, o.stripped = shown, shown.Tuple(), appendOutside(nil, shown)
	return nil
}

// verifyOutside notes which of the whole events are not signed as they must be.
func (e *Engine) verifyOutside(ctx context.Context, from id.Server, entries []*outsideEntry) {
	var check []*outsideEntry
	var whole []*event.PDU
	for _, o := range entries {
		if o.whole != nil && o.fault == nil {
			check, whole = append(check, o), append(whole, o.whole)
		}
	}
	for i, err := range e.options.Network.VerifyEvents(ctx, from, whole) {
		if err != nil {
			check[i].fault = fmt.Errorf("event %s is not signed as it must be: %w", whole[i].ID, err)
		}
	}
}

// shownOutside is what a user sees of the entries: one for each piece of state, and none with a fault.
func shownOutside(entries []*outsideEntry) (shown []jsontext.Value) {
	seen := map[event.StateTuple]bool{}
	for _, o := range entries {
		if o.fault != nil {
			slog.Debug("an entry of a state that was told to outsiders is left out", "error", o.fault)
			continue
		}
		if !seen[o.tuple] {
			seen[o.tuple] = true
			shown = append(shown, o.stripped)
		}
	}
	return shown
}

// appendOutside appends a state event as somebody outside the room sees it. Of the
// create event they see all: only that makes it provable.
// msc: 4311
func appendOutside(dst []byte, p *event.PDU) []byte {
	if p.Type == event.TypeCreate {
		return event.AppendClient(dst, p, event.ClientOptions{})
	}
	return event.AppendStripped(dst, p)
}

// parseStripped reads one entry of stripped state, and writes it anew.
// spec: client-server-api#stripped-state
func parseStripped(raw jsontext.Value) (t event.StateTuple, entry jsontext.Value, err error) {
	var s struct {
		Type    string         `json:"type"`
		Key     *string        `json:"state_key"`
		Sender  id.User        `json:"sender"`
		Content jsontext.Value `json:"content"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return t, nil, err
	}
	if s.Type == "" || len(s.Type) > event.MaxKeyLength || s.Key == nil || len(*s.Key) > event.MaxKeyLength || s.Content.Kind() != '{' {
		return t, nil, errcode.BadJSON("stripped state lacks type, state_key or content")
	}
	content, err := canonical.Append(nil, s.Content, canonical.Options{})
	if err != nil {
		return t, nil, err
	}
	members := event.AppendMember(nil, "content", content)
	members = event.AppendStringMember(members, "sender", s.Sender)
	members = event.AppendStringMember(members, "state_key", *s.Key)
	members = event.AppendStringMember(members, "type", s.Type)
	return event.StateTuple{Type: s.Type, Key: *s.Key}, braced(members), nil
}

// keepInvite shows an invite to its user, unless somebody here is in the room.
func (e *Engine) keepInvite(ctx context.Context, p *event.PDU, state []jsontext.Value) error {
	h, ok, err := e.Head(ctx, p.Room)
	if err != nil {
		return err
	}
	switch {
	case ok && h.StateVersion != 0 && h.Version != p.Version:
		return errcode.InvalidParam("the room has version %s, not %s", h.Version.ID, p.Version.ID)
	case ok && len(h.Locals) > 0:
		return nil
	}
	return e.keepOutside(ctx, p, state)
}

// keepOutside keeps a membership of a user here in a room that nobody here is in: the
// event lies beside the room's history, and the user sees it with what is known of
// the room.
func (e *Engine) keepOutside(ctx context.Context, p *event.PDU, state []jsontext.Value) error {
	nid, err := e.nids.next(ctx, e.store)
	if err != nil {
		return err
	}
	err = e.store.Update(ctx, func(tx *store.Tx) error { return e.insertOutside(tx, p, nid, state) })
	if err != nil {
		return fmt.Errorf("keep %s of %s: %w", p.Membership(), *p.StateKey, err)
	}
	return nil
}

func (e *Engine) insertOutside(tx *store.Tx, p *event.PDU, nid store.EventNID, state []jsontext.Value) error {
	room, ok, err := tx.Rooms.Find(p.Room)
	if err != nil {
		return err
	}
	if !ok {
		if room, err = tx.Rooms.Insert(p.Room, p.Sender, p.Version.ID); err != nil {
			return err
		}
	}
	prop := Proposal{Sender: p.Sender, Type: p.Type, StateKey: p.StateKey}
	if err := makeNames(tx, prop); err != nil {
		return err
	}
	n, _, err := findNames(tx, prop)
	if err != nil {
		return err
	}
	user, _ := store.IsMemberKey(n.key)
	m := store.ParseMembership(p.Membership())
	if known, ok, err := tx.Events.Find(p.ID); err != nil {
		return err
	} else if ok {
		if old, _, err := tx.Members.Get(room, user); err != nil || old.Event == known {
			return err // the same event once more
		}
		nid = known
	} else if err := tx.Events.InsertOutside(store.Event{
		NID: nid, Room: room, ID: p.ID, Sender: n.sender, Type: n.typ, Key: n.key, IsState: true,
		Depth: p.Depth, TS: p.OriginServerTS, JSON: p.JSON,
	}, p.Version.ID); err != nil {
		return err
	}
	pos := tx.NextPosition()
	if err := tx.Members.Set(store.Member{Room: room, User: user, Membership: m, Event: nid, Position: pos, Local: true}); err != nil {
		return err
	}
	if m == store.Invite || m == store.Knock {
		if err := tx.Members.SetStripped(room, user, strippedArray(state, p)); err != nil {
			return err
		}
	}
	tx.Touch(stream.Room, room, user)
	return nil
}

// mayHold says whether a membership that a whole state does not have may be on its way into it:
// what came from outside is not known to the other servers at once. It may as long as nobody has shown it as
// an event of the room.
func mayHold(tx *store.Tx, m store.Member) (bool, error) {
	if m.Event == 0 {
		return false, nil
	}
	ev, ok, err := tx.Events.Get(m.Event)
	return ok && ev.Flags&store.Outside != 0, err
}

// endOutside gives a user here the membership that the room's state has for them, once
// the event that they were told from outside is known as one of the room's, and is not what the state has.
func (w *writing) endOutside(en *entry) {
	user, ok := store.IsMemberKey(en.event.Key)
	state, inState := w.head.State.Get(en.event.Key)
	if en.old == 0 || !ok || inState && state == en.event.NID || w.head.Partial.Version != 0 || len(w.head.Locals) == 0 {
		return
	}
	told := en.event.NID
	w.also = append(w.also, func(tx *store.Tx) error {
		m, ok, err := tx.Members.Get(w.head.NID, user)
		if err != nil || !ok || m.Event != told {
			return err
		}
		change := memberChange{user: user, local: m.Local}
		if inState {
			events, err := w.engine.Events(tx, []store.EventNID{state})
			if err != nil {
				return err
			}
			change.after = membershipOf(events[0].PDU)
		}
		position := tx.NextPosition()
		tx.Touch(stream.Room, w.head.NID, user)
		return change.set(tx, w.head.NID, state, position)
	})
}

// strippedArray is stripped state with the membership that it goes with.
func strippedArray(state []jsontext.Value, p *event.PDU) []byte {
	list := []byte{'['}
	for _, s := range state {
		list = append(append(list, s...), ',')
	}
	return append(event.AppendStripped(list, p), ']')
}

// receiveOutside takes the end of an invite or a knock of a user here, in a room that
// nobody here is in: the room's state is not known, so who may end it cannot be judged.
// Whoever does must name the very event, which those outside the room cannot know, and an
// invite is ended by nobody but who invited.
func (e *Engine) receiveOutside(ctx context.Context, origin id.Server, room id.Room, raw jsontext.Value) (id.Event, error) {
	var who struct {
		User id.User `json:"state_key"`
	}
	if err := json.Unmarshal(raw, &who); err != nil {
		return "", errcode.BadJSON("the event is no membership: %s", err)
	}
	current, err := e.outsider(ctx, room, who.User)
	if err != nil || current == nil || current.event == nil {
		return "", err
	}
	p, err := event.Parse(current.event.Version, raw)
	if err != nil {
		return "", err
	}
	refused := errcode.Forbidden("this server is not in room %s", room)
	if p.Room != room || p.Type != event.TypeMember || p.StateKey == nil || id.User(*p.StateKey).Server() != e.options.Server ||
		p.Sender.Server() != origin || p.Membership() != event.MembershipLeave && p.Membership() != event.MembershipBan {
		return p.ID, refused
	}
	if !slices.Contains(p.AuthEvents, current.event.ID) ||
		current.membership != store.Knock && (current.membership != store.Invite || current.event.Sender != p.Sender) {
		return p.ID, refused
	}
	checked := map[id.Event]error{}
	list := e.verify(ctx, origin, []*event.PDU{p}, checked)
	if len(list) == 0 {
		return p.ID, checked[p.ID]
	}
	return p.ID, e.keepOutside(ctx, list[0], nil)
}
