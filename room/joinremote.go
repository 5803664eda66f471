package room

import (
	"context"
	"crypto/sha256"
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
	"hearth/matrix/signing"
	"hearth/store"
)

// Bounds of how many servers are asked, one after the other, to let somebody in: of those that the
// user named or heard of, and of those that were in the room when it was last known here.
const (
	maxVia   = 20
	maxKnown = 10
)

// isResident says whether somebody here is joined to a room, so that its state is known.
func (e *Engine) isResident(ctx context.Context, room id.Room) (bool, error) {
	h, ok, err := e.Head(ctx, room)
	return ok && len(h.Locals) > 0, err
}

// candidates are the servers that may know a room: those that the user named and those of
// whom they were invited by or heard; then those that were in the room when it was last known
// here, and the founder, which made it. If the user named any, the others, which begin at chosen,
// are for the case that none of the first can be reached: what the user's choice of servers refuses
// is refused.
func (e *Engine) candidates(ctx context.Context, c Change) (list []id.Server, chosen int, err error) {
	add := func(servers []id.Server, most int) {
		for _, s := range servers {
			if most > 0 && s != "" && s != e.options.Server && !slices.Contains(list, s) {
				list = append(list, s)
				most--
			}
		}
	}
	o, err := e.outsider(ctx, c.Room, c.Target)
	if err != nil {
		return nil, 0, err
	}
	named := slices.Clone(c.Via)
	if o != nil {
		named = append(named, o.servers...)
	}
	add(named, maxVia)
	chosen = len(list)
	known, err := e.serversIn(ctx, c.Room)
	if err != nil {
		return nil, 0, err
	}
	add(known, maxKnown)
	add([]id.Server{c.Room.Server()}, 1) // none in room version 12
	if len(c.Via) == 0 {
		chosen = len(list)
	}
	return list, chosen, nil
}

// proposeTime is how long a server may take to propose an event while there are others to ask.
const proposeTime = 10 * time.Second

// handIn has a server take an event that it has proposed.
type handIn func(ctx context.Context, to id.Server, v *roomversion.Version, p *event.PDU) error

// eachVia asks servers one after the other to propose a membership, until one has taken it.
func (e *Engine) eachVia(ctx context.Context, c Change, m store.Membership, send handIn) error {
	servers, chosen, err := e.candidates(ctx, c)
	if err != nil {
		return err
	}
	if e.options.Network == nil || len(servers) == 0 {
		return errcode.NotFound("room %s is not known here, and no server that may know it was named", c.Room)
	}
	servers = append(e.downLast(servers[:chosen]), e.downLast(servers[chosen:])...)
	// What a server says of the request itself is worth more than that another is down, or
	// does not know of such requests. With it goes whose it is: it is not this server's answer.
	var refusal error
	trouble := false
	for i, server := range servers {
		if refusal != nil && (i == chosen || e.seemsDown(server)) {
			break
		}
		if err = e.by(ctx, server, c, m, send, i == len(servers)-1); err == nil {
			return nil
		}
		slog.InfoContext(ctx, "a server did not let us in", "room", c.Room, "user", c.Target, "server", server, "error", err)
		if ctx.Err() != nil {
			trouble = true
			break
		}
		switch said, ok := errors.AsType[*errcode.Error](err); {
		case !ok || said.Status >= 500:
			trouble = true
		case said.Code != "M_UNRECOGNIZED" && refusal == nil:
			refusal = err
		}
	}
	switch {
	case refusal != nil:
		return refusal
	case !trouble:
		return err
	}
	return errcode.New(502, "M_UNKNOWN", "none of the servers %v could help: %s", servers, err)
}

// downLast puts those behind the others that could not be reached lately: they may be back,
// but none of them is waited for if another one lets the user in.
func (e *Engine) downLast(servers []id.Server) []id.Server {
	var up, down []id.Server
	for _, s := range servers {
		if e.seemsDown(s) {
			down = append(down, s)
		} else {
			up = append(up, s)
		}
	}
	return append(up, down...)
}

func (e *Engine) seemsDown(server id.Server) bool {
	_, down := e.options.Network.Down(server)
	return down
}

// by has one server propose a membership and take it.
func (e *Engine) by(ctx context.Context, server id.Server, c Change, m store.Membership, send handIn, last bool) error {
	within := proposeTime
	switch {
	case m == store.Leave:
		within = leaveVia
	case last:
		within = 0
	}
	proposing, cancel := patient(ctx, within)
	p, v, err := e.handshake(proposing, server, m, c)
	cancel()
	if err != nil {
		return err
	}
	return send(ctx, server, v, p)
}

func knownVersions() (names []string) {
	for _, v := range roomversion.All() {
		names = append(names, v.ID)
	}
	return names
}

// handshake has another server propose a membership event of a user here, and builds it.
func (e *Engine) handshake(ctx context.Context, server id.Server, m store.Membership, c Change) (*event.PDU, *roomversion.Version, error) {
	t, err := e.options.Network.MakeMembership(ctx, server, m, c.Room, c.Target, knownVersions())
	if err != nil {
		return nil, nil, err
	}
	if t.RoomVersion == "" {
		t.RoomVersion = "1"
	}
	v, ok := roomversion.Get(t.RoomVersion)
	if !ok {
		return nil, nil, errcode.UnsupportedRoomVersion("room version %q is not supported here", t.RoomVersion)
	}
	p, err := e.buildFromTemplate(ctx, v, t, m, c)
	return p, v, err
}

// template is what is taken over of an event that another server proposes. All else
// is ours: what we sign is what we built.
type template struct {
	Depth      int64            `json:"depth"`
	PrevEvents []jsontext.Value `json:"prev_events"`
	AuthEvents []jsontext.Value `json:"auth_events"`
	Content    struct {
		AuthorisedVia id.User `json:"join_authorised_via_users_server"`
	} `json:"content"`
}

func (e *Engine) buildFromTemplate(ctx context.Context, v *roomversion.Version, t Template, m store.Membership, c Change) (*event.PDU, error) {
	var proposed template
	if err := json.Unmarshal(t.Event, &proposed); err != nil {
		return nil, errcode.New(502, "M_UNKNOWN", "the other server proposed a malformed event: %s", err)
	}
	content := memberContent{Membership: m.String(), Reason: c.Reason, Rest: without(c.Content,
		"membership", "displayname", "avatar_url", "reason", "is_direct", "join_authorised_via_users_server")}
	if m == store.Join {
		content.AuthorisedVia = proposed.Content.AuthorisedVia
	}
	if m != store.Leave {
		p, err := e.options.Profile(ctx, c.Target)
		if err != nil {
			return nil, fmt.Errorf("profile of %s: %w", c.Target, err)
		}
		content.DisplayName, content.AvatarURL = p.DisplayName, p.AvatarURL
	}
	raw, err := json.Marshal(content)
	if err != nil {
		return nil, fmt.Errorf("membership content: %w", err)
	}
	key := string(c.Target)
	proto := event.Proto{
		Room: c.Room, Type: event.TypeMember, StateKey: &key, Sender: c.Target, Content: raw,
		Depth: max(1, min(proposed.Depth, v.MaxDepth())), OriginServerTS: now(),
	}
	if proto.PrevEvents, err = parseRefs(v, proposed.PrevEvents, event.MaxPrevEvents); err != nil {
		return nil, err
	}
	if proto.AuthEvents, err = parseRefs(v, proposed.AuthEvents, event.MaxAuthEvents); err != nil {
		return nil, err
	}
	if v.EventID == roomversion.EventIDField {
		proto.EventID = e.newEventID()
	}
	return event.Build(v, proto, e.options.Server, e.options.KeyID, e.options.Key)
}

// parseRefs reads the events that a template names.
func parseRefs(v *roomversion.Version, raws []jsontext.Value, most int) (refs []event.Ref, err error) {
	malformed := errcode.New(502, "M_UNKNOWN", "the other server proposed an event with malformed references")
	if len(raws) > most {
		return nil, malformed
	}
	for _, raw := range raws {
		var ref event.Ref
		if !v.EventRefsArePairs {
			if json.Unmarshal(raw, &ref.ID) != nil {
				return nil, malformed
			}
			refs = append(refs, ref)
			continue
		}
		var hashes struct {
			SHA256 string `json:"sha256"`
		}
		var pair []jsontext.Value
		if json.Unmarshal(raw, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[0], &ref.ID) != nil || json.Unmarshal(pair[1], &hashes) != nil {
			return nil, malformed
		}
		// The hash is required, but Synapse (1.163) leaves most out. Nobody checks them,
		// and without it we say that we do not know it.
		// spec: rooms/v1#event-format
		if hashes.SHA256 == "" {
			refs = append(refs, ref)
			continue
		}
		hash, err := signing.DecodeBase64(hashes.SHA256)
		if err != nil || len(hash) != sha256.Size {
			return nil, malformed
		}
		ref.Hash = [sha256.Size]byte(hash)
		refs = append(refs, ref)
	}
	return refs, nil
}

// joinRemote joins a room by way of a server that is in it, unless somebody was quicker.
// spec: server-server-api#joining-rooms
func (e *Engine) joinRemote(ctx context.Context, c Change) error {
	here, err := e.isResident(ctx, c.Room)
	if err != nil {
		return err
	}
	if !here {
		unlock, err := e.joining.lock(ctx, c.Room)
		if err != nil {
			return err
		}
		defer unlock()
	}
	by, c, err := e.joinHere(ctx, c)
	if err != nil || by == nil {
		return err
	}
	return e.eachVia(ctx, c, store.Join, by)
}

// joinVia hands a join in to a room that is not known here.
func (e *Engine) joinVia(ctx context.Context, server id.Server, v *roomversion.Version, join *event.PDU) error {
	join, state, answer, err := e.letIn(ctx, server, v, join)
	if err != nil || state == nil {
		return err
	}
	lacks, err := e.lacks(ctx, server, answer)
	if err != nil {
		return err
	}
	err = e.write(ctx, join.Room, func(w *writing) error { return w.joined(ctx, state, join, lacks) })
	if err == nil && lacks != nil {
		e.partial.begin()
	}
	return err
}

// letIn sends a join to a server in the room, and makes the room known with the state that
// the server tells; nil: the join is in the room already, as nothing was missed.
func (e *Engine) letIn(ctx context.Context, server id.Server, v *roomversion.Version, join *event.PDU) (_ *event.PDU, _ *StateMap, answer JoinAnswer, err error) {
	t, err := e.receiveTold(server, v, join.Room)
	if err != nil {
		return nil, nil, answer, err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	// Members are left out if the server can: of a large room they are most of the
	// state, and the room can be used without them. They are fetched afterwards.
	if answer, err = e.options.Network.SendJoin(ctx, server, join, true, t.add); err != nil {
		return nil, nil, answer, err
	}
	if join, err = e.countersigned(ctx, server, v, join, answer.Event); err != nil {
		return nil, nil, answer, err
	}
	if went, err := e.goOn(ctx, server, v, join); err != nil || went {
		return nil, nil, answer, err
	}
	if err := e.abandon(ctx, join.Room); err != nil {
		return nil, nil, answer, err
	}
	if err := e.adopt(ctx, v, join.Room, t); err != nil {
		return nil, nil, answer, err
	}
	state, err := e.stateOf(ctx, join.Room, t.stateNames())
	return join, state, answer, err
}

// goOn has a join accepted that comes right after what is known of a room that all here have left
// while its state was still partial: nothing was missed, and what completes that state completes
// this one. If the state does not allow the join, it is too little to go on with.
func (e *Engine) goOn(ctx context.Context, server id.Server, v *roomversion.Version, join *event.PDU) (went bool, err error) {
	unfinished, err := e.isUnfinished(ctx, join.Room)
	if err != nil || !unfinished {
		return false, err
	}
	if missing, err := e.unknown(ctx, join.PrevEvents, false); err != nil || len(missing) > 0 {
		return false, err
	}
	err = e.receiveOne(ctx, server, v, join, pushed)
	switch {
	case errors.Is(err, errPreliminary):
		return false, nil
	case err != nil:
		return false, err
	}
	e.partial.begin()
	return true, nil
}

// countersigned is our join as the other server returned it, if that server signed it
// too. It must be the same event. Where the join names somebody who authorises it, it is none
// without the signature of their server: by the rules everybody would reject it.
// spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (e *Engine) countersigned(ctx context.Context, from id.Server, v *roomversion.Version, join *event.PDU, returned jsontext.Value) (*event.PDU, error) {
	why := errors.New("it did not return the join")
	if returned != nil {
		p, err := event.Parse(v, returned)
		if err != nil || p.ID != join.ID {
			return nil, errcode.New(502, "M_UNKNOWN", "the other server returned another event than our join")
		}
		if why = e.options.Network.VerifyEvents(ctx, from, []*event.PDU{p})[0]; why == nil {
			if p.CheckContentHash() {
				return p, nil
			}
			why = errors.New("it returned the join with other content")
		}
	}
	if len(join.SigningServers()) > 1 {
		return nil, errcode.New(502, "M_UNKNOWN", "the other server did not vouch for our join with a valid signature: %v", why)
	}
	return join, nil
}

// adopt makes a room known that nobody here was in so far, with the events that
// another server told of it, as outliers.
func (e *Engine) adopt(ctx context.Context, v *roomversion.Version, room id.Room, told *told) error {
	if told.create == nil || len(e.verify(ctx, told.from, []*event.PDU{told.create}, nil)) == 0 {
		return errcode.New(502, "M_UNKNOWN", "the other server told a state without a valid create event")
	}
	if version := told.create.ContentString("room_version"); version != v.ID && !(version == "" && v.ID == "1") {
		return errcode.New(502, "M_UNKNOWN", "the other server told of a room of version %q as one of version %q", version, v.ID)
	}
	err := e.store.Update(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Rooms.Get(room)
		switch {
		case err != nil || ok && row.Version == v.ID:
			return err
		case ok && row.StateVersion == 0:
			// Somebody's invite named another version: that must not keep everybody out.
			tx.AfterCommit(func() { e.rooms.Invalidate(room) })
			return tx.Rooms.Restart(row.NID, v.ID)
		case ok:
			return errcode.New(502, "M_UNKNOWN", "the room has version %s, not %s", row.Version, v.ID)
		}
		_, err = tx.Rooms.Insert(room, told.create.Sender, v.ID)
		return err
	})
	if err != nil {
		return err
	}
	return told.store(ctx)
}

// joined makes a join that another server let us make the room's newest event, on the
// state that it told; lacks is nil if that is whole.
func (w *writing) joined(ctx context.Context, state *StateMap, join *event.PDU, lacks *lacking) error {
	if err := w.settle(ctx); err != nil {
		return err
	}
	if err := w.engine.makeAllNames(ctx, []*event.PDU{join}); err != nil {
		return err
	}
	return w.engine.store.View(ctx, func(tx *store.Tx) error {
		known, _, err := w.find(tx, join.ID)
		if err != nil {
			return err
		}
		en, err := w.draft(ctx, tx, join, known)
		if err != nil {
			return err
		}
		auth, err := w.authEvents(tx, join)
		if err != nil {
			return errcode.New(502, "M_UNKNOWN", "the other server kept back what allows our join: %s", err)
		}
		create, err := w.stateCreate(tx, state)
		if err != nil {
			return err
		}
		w.fresh[create.ID] = create // denied asks for it
		if lacks != nil {
			state = w.withNamed(state, auth)
		}
		if reason, err := w.denied(tx, join, auth, state); err != nil {
			return err
		} else if reason != nil {
			return errcode.Forbidden("the join is not allowed by the state that the other server told: %s", reason)
		}
		if lacks != nil {
			if state, err = w.withLocals(tx, state); err != nil {
				return err
			}
		}
		snapshot, err := w.snapshotTo(tx, state, lacks == nil)
		if err != nil {
			return err
		}
		if w.head, err = w.head.afterSnapshot(state, snapshot); err != nil {
			return err
		}
		w.from = w.head.StateVersion
		version := w.from
		w.first = append(w.first, func(tx *store.Tx, position int64) error {
			// Its memberships came about for us with the join that follows.
			return w.commitSnapshot(tx, snapshot, version, position)
		})
		w.noteLacking(lacks, en.event.NID)
		en.event.StateBefore = w.head.StateVersion
		for _, a := range auth {
			en.auth = append(en.auth, a.NID)
		}
		for _, name := range join.PrevEvents {
			if known, ok, err := tx.Events.Know(name); err != nil {
				return err
			} else if !ok || known.Flags&store.Outlier != 0 {
				en.gap = append(en.gap, name)
			}
		}
		w.note(&en)
		if en.changes, err = w.changesTo(tx, state.Set(en.event.Key, en.event.NID)); err != nil {
			return err
		}
		if err := w.gatherEffects(tx, &en); err != nil {
			return err
		}
		return w.append(en, []*Event{en.event})
	})
}

func (w *writing) stateCreate(tx *store.Tx, state *StateMap) (*Event, error) {
	key, _, err := tx.IDs.FindStateKey(event.StateTuple{Type: event.TypeCreate})
	if err != nil {
		return nil, err
	}
	nid, ok := state.Get(key)
	if !ok {
		return nil, errcode.New(502, "M_UNKNOWN", "the other server told a state whose create event is not valid")
	}
	events, err := w.engine.Events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, err
	}
	return events[0], nil
}

// snapshotChunk is how many events are looked at together.
const snapshotChunk = 500

// snapshotTo lists how the room's state becomes one that another server told. Of
// members only what changes is kept, for there may be very many.
func (w *writing) snapshotTo(tx *store.Tx, state *StateMap, whole bool) ([]change, error) {
	servers := map[id.Server]store.ServerNID{}
	entries, err := w.withOutside(tx, state, whole, w.head.State.Diff(state))
	if err != nil {
		return nil, err
	}
	changes := make([]change, 0, len(entries))
	for chunk := range slices.Chunk(entries, snapshotChunk) {
		nids := make([]store.EventNID, 0, 2*len(chunk))
		for _, e := range chunk {
			if e.Event != 0 {
				nids = append(nids, e.Event)
			}
			if old, ok := w.head.State.Get(e.Key); ok {
				nids = append(nids, old)
			}
		}
		events, err := w.engine.readEvents(tx, nids, len(entries) < longList)
		if err != nil {
			return nil, err
		}
		byNID := make(map[store.EventNID]*event.PDU, len(events))
		for _, ev := range events {
			byNID[ev.NID] = ev.PDU
		}
		for _, e := range chunk {
			old, _ := w.head.State.Get(e.Key)
			c, err := w.snapshotChange(tx, e, byNID[old], byNID[e.Event], servers)
			if err != nil {
				return nil, err
			}
			changes = append(changes, c)
		}
	}
	return changes, nil
}

// withOutside adds to the changes of a state what users here have been told of the room,
// or told it, from outside, while nobody here was in it: that gives way to the state.
func (w *writing) withOutside(tx *store.Tx, state *StateMap, whole bool, entries []store.StateEntry) ([]store.StateEntry, error) {
	members, err := tx.Members.LocalOfRoom(w.head.NID)
	if err != nil {
		return nil, fmt.Errorf("members here of %s: %w", w.head.ID, err)
	}
	for _, m := range members {
		key := store.MemberKey(m.User)
		nid, ok := state.Get(key)
		i, differs := find(entries, key)
		if nid == m.Event || differs {
			continue
		}
		if !ok {
			if holds, err := mayHold(tx, m); err != nil {
				return nil, err
			} else if holds || !whole {
				continue
			}
		}
		entries = slices.Insert(entries, i, store.StateEntry{Key: key, Event: nid})
	}
	return entries, nil
}

func (w *writing) snapshotChange(tx *store.Tx, e store.StateEntry, before, after *event.PDU, servers map[id.Server]store.ServerNID) (change, error) {
	c := change{key: e.Key, event: e.Event}
	user, isMember := store.IsMemberKey(e.Key)
	if !isMember {
		t, err := tx.IDs.StateTuple(e.Key)
		c.tuple, c.before, c.after = t, before, after
		return c, err
	}
	name := id.User("")
	for _, p := range []*event.PDU{before, after} {
		if p != nil {
			name = id.User(*p.StateKey)
		}
	}
	server, ok := servers[name.Server()]
	if !ok {
		var err error
		if server, _, err = tx.IDs.FindServer(name.Server()); err != nil {
			return c, err
		}
		servers[name.Server()] = server
	}
	c.member = &memberChange{
		user: user, server: server, local: name.Server() == w.engine.options.Server,
		before: membershipOf(before), after: membershipOf(after),
	}
	return c, nil
}

// joinThrough hands a join in to a room that is known here up to it, to another server, which
// has somebody to authorise it.
// spec: server-server-api#restricted-rooms
func (e *Engine) joinThrough(ctx context.Context, server id.Server, v *roomversion.Version, join *event.PDU) error {
	answer, err := e.options.Network.SendJoin(ctx, server, join, true, func(StatePart, jsontext.Value) error { return nil })
	if err != nil {
		return err
	}
	if join, err = e.countersigned(ctx, server, v, join, answer.Event); err != nil {
		return err
	}
	return e.receiveOne(ctx, server, v, join, pushed)
}
