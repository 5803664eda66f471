package room

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/visibility"
	"hearth/store"
)

// visitor is a room in the eyes of another server: it may see what any of its users
// may. Every way in which other servers read a room asks it.
// spec: server-server-api#backfilling-and-retrieving-missing-events
type visitor struct {
	engine *Engine
	room   store.Room
	server store.ServerNID
	in     bool // the server has joined members now
	// all: it is in the room, whose history was shared at all times.
	all     bool
	history []visibility.Change[visibility.History]
	key     store.StateKey // of the history visibility

	// Read only where the history does not decide alone.
	members map[store.UserNID][]visibility.Change[visibility.Membership]
	viewer  *visibility.Viewer
}

// visit calls fn with a room that another server asks about, if its name and its
// access control list let the server ask at all.
func (e *Engine) visit(ctx context.Context, server id.Server, room id.Room, fn func(*store.Tx, *visitor) error) error {
	if err := e.CheckACL(ctx, room, server); err != nil {
		return err
	}
	return e.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Rooms.Get(room)
		if err != nil {
			return err
		}
		if !ok {
			return errcode.NotFound("room %s is not known here", room)
		}
		v, err := e.visitor(tx, row, server)
		if err != nil {
			return fmt.Errorf("visit %s: %w", room, err)
		}
		return fn(tx, v)
	})
}

func (e *Engine) visitor(tx *store.Tx, row store.Room, server id.Server) (*visitor, error) {
	v := &visitor{engine: e, room: row}
	nid, known, err := tx.IDs.FindServer(server)
	if err != nil {
		return nil, err
	}
	if v.server = nid; known {
		if v.in, err = tx.RoomServers.In(row.NID, nid); err != nil {
			return nil, err
		}
	}
	key, ok, err := tx.IDs.FindStateKey(event.StateTuple{Type: event.TypeHistoryVisibility})
	if err != nil {
		return nil, err
	}
	v.all = v.in
	if v.key = -1; !ok {
		return v, nil
	}
	v.key = key
	if v.history, err = changes(e, tx, row.NID, key, historyOf); err != nil {
		return nil, fmt.Errorf("history visibility: %w", err)
	}
	for _, c := range v.history {
		v.all = v.all && (c.Value == visibility.Shared || c.Value == visibility.WorldReadable)
	}
	return v, nil
}

func historyOf(p *event.PDU) visibility.History {
	return visibility.ParseHistory(p.ContentString("history_visibility"))
}

func sightOf(p *event.PDU) visibility.Membership { return visibility.ParseMembership(p.Membership()) }

// mustBeIn refuses servers without a joined member.
func (v *visitor) mustBeIn() error {
	if v.in {
		return nil
	}
	return errcode.Forbidden("your server is not in room %s", v.room.ID)
}

// event finds an event of this very room that other servers may know of: no rejected
// one, and of those that are not part of its history here only state, which goes
// with auth chains.
func (v *visitor) event(tx *store.Tx, name id.Event) (*Event, bool, error) {
	ev, ok, err := v.engine.Event(tx, v.room.NID, name)
	if err != nil || !ok {
		return nil, false, err
	}
	return ev, isShown(ev), nil
}

func isShown(ev *Event) bool {
	return ev.Flags&store.Rejected == 0 && (ev.Flags&store.Outlier == 0 || ev.IsState)
}

// show is an event as the server may have it: whole, or redacted for a server that
// is in the room without having been able to see the event. False: not at all.
func (v *visitor) show(tx *store.Tx, ev *Event) (*event.PDU, bool, error) {
	sees, err := v.sees(tx, ev)
	switch {
	case err != nil:
		return nil, false, err
	case sees:
		return ev.PDU, true, nil
	case !v.in:
		return nil, false, nil
	}
	empty, err := ev.PDU.Redacted()
	return empty, err == nil, err
}

func (v *visitor) sees(tx *store.Tx, ev *Event) (bool, error) {
	if ev.Flags&store.Outlier != 0 {
		return v.in && ev.IsState, nil // by which state to judge is not known
	}
	if v.all && ev.StateBefore >= 0 {
		return true, nil
	}
	if err := v.readMembers(tx); err != nil {
		return false, err
	}
	before, version, err := v.at(tx, ev.StateBefore)
	if err != nil {
		return false, err
	}
	after := before
	if ev.IsState {
		if ev.Key == v.key {
			after.History = historyOf(ev.PDU)
		}
		if user, ok := store.IsMemberKey(ev.Key); ok && v.isOurs(user) {
			after.Membership = visibility.Greatest(before.Membership, sightOf(ev.PDU))
		}
	}
	return visibility.May(before, after, v.viewer.JoinsAfter(version)), nil
}

// isOurs says whether a user is of the visiting server.
func (v *visitor) isOurs(user store.UserNID) bool { _, ok := v.members[user]; return ok }

// readMembers reads how the memberships of the server's users came about.
func (v *visitor) readMembers(tx *store.Tx) error {
	if v.viewer != nil {
		return nil
	}
	v.members = map[store.UserNID][]visibility.Change[visibility.Membership]{}
	members, err := tx.Members.OfServer(v.room.NID, v.server)
	if err != nil {
		return err
	}
	for _, m := range members {
		if v.members[m.User], err = changes(v.engine, tx, v.room.NID, store.MemberKey(m.User), sightOf); err != nil {
			return fmt.Errorf("memberships of a server in %s: %w", v.room.ID, err)
		}
	}
	v.viewer = visibility.NewViewer(v.history, greatest(v.members))
	return nil
}

// greatest is the log of the greatest membership among several users.
func greatest(members map[store.UserNID][]visibility.Change[visibility.Membership]) []visibility.Change[visibility.Membership] {
	type step struct {
		user store.UserNID
		visibility.Change[visibility.Membership]
	}
	var steps []step
	for user, log := range members {
		for _, c := range log {
			steps = append(steps, step{user, c})
		}
	}
	slices.SortFunc(steps, func(a, b step) int { return int(a.Version - b.Version) })
	now := map[store.UserNID]visibility.Membership{}
	var count [visibility.Join + 1]int
	log := make([]visibility.Change[visibility.Membership], 0, len(steps))
	for _, s := range steps {
		if old, ok := now[s.user]; ok {
			count[old]--
		}
		now[s.user] = s.Value
		count[s.Value]++
		most := visibility.Outside
		for m := visibility.Join; m > visibility.Outside && most == visibility.Outside; m-- {
			if count[m] > 0 {
				most = m
			}
		}
		log = append(log, visibility.Change[visibility.Membership]{Version: s.Version, Value: most})
	}
	return log
}

// at is what decides in a state: a version of the mainline, or an overlay on one.
func (v *visitor) at(tx *store.Tx, state int64) (s visibility.State, version int64, err error) {
	if state >= 0 {
		return v.viewer.At(state), state, nil
	}
	o, ok, err := tx.Overlays.Get(-state)
	if err != nil || !ok {
		return s, 0, fmt.Errorf("overlay %d: found %t: %w", -state, ok, err)
	}
	s = v.viewer.At(o.Version)
	changed := map[store.UserNID]bool{}
	sight := visibility.Outside
	for _, c := range o.Changes {
		user, member := store.IsMemberKey(c.Key)
		member = member && v.isOurs(user)
		if !member && c.Key != v.key {
			continue
		}
		var pdu *event.PDU
		if c.Event != 0 {
			all, err := v.engine.Events(tx, []store.EventNID{c.Event})
			if err != nil {
				return s, 0, err
			}
			pdu = all[0].PDU
		}
		switch {
		case !member && pdu == nil:
			s.History = visibility.Shared
		case !member:
			s.History = historyOf(pdu)
		default:
			if changed[user] = true; pdu != nil {
				sight = visibility.Greatest(sight, sightOf(pdu))
			}
		}
	}
	if len(changed) == 0 {
		return s, o.Version, nil
	}
	for user, log := range v.members {
		if !changed[user] {
			sight = visibility.Greatest(sight, visibility.NewViewer(nil, log).At(o.Version).Membership)
		}
	}
	s.Membership = sight
	return s, o.Version, nil
}

// ServeEvent is one event for another server, with the id of its room.
// spec: server-server-api#get_matrixfederationv1eventeventid
func (e *Engine) ServeEvent(ctx context.Context, server id.Server, name id.Event) (pdu jsontext.Value, err error) {
	unknown := errcode.NotFound("event %s is not known here, or not for your server to see", name)
	var room id.Room
	err = e.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Events.GetID(name)
		if err != nil {
			return err
		}
		if !ok {
			return unknown
		}
		room, err = tx.Rooms.ID(row.Room)
		return err
	})
	if err != nil {
		return nil, err
	}
	err = e.visit(ctx, server, room, func(tx *store.Tx, v *visitor) error {
		ev, ok, err := v.engine.Event(tx, v.room.NID, name)
		if err != nil {
			return err
		}
		// What is listed nowhere is shown to who asks for it by name: whatever comes after it, others
		// can judge only if they can see why it was rejected, and what is before it.
		if !ok || !v.in && !isShown(ev) {
			return unknown
		}
		shown, ok, err := v.show(tx, ev)
		if err == nil && !ok {
			err = unknown
		}
		if err == nil {
			pdu = event.AppendFederation(nil, shown, nil)
		}
		return err
	})
	return pdu, err
}

// ServeTimestamp finds the event nearest to a time (milliseconds) that another
// server may see.
// spec: server-server-api#get_matrixfederationv1timestamp_to_eventroomid
func (e *Engine) ServeTimestamp(ctx context.Context, server id.Server, room id.Room, ts int64, backwards bool) (name id.Event, at int64, err error) {
	err = e.visit(ctx, server, room, func(tx *store.Tx, v *visitor) error {
		if err := v.mustBeIn(); err != nil {
			return err
		}
		beside := int64(0)
		if backwards {
			beside = maxPosition
		}
		near := ts
		for range maxScan {
			find := tx.Events.NearestAfter
			if backwards {
				find = tx.Events.NearestBefore
			}
			place, ok, err := find(v.room.NID, near, beside)
			if err != nil || !ok {
				return err
			}
			events, err := e.Events(tx, []store.EventNID{place.NID})
			if err != nil {
				return err
			}
			ev := events[0]
			sees, err := v.sees(tx, ev)
			if err != nil {
				return err
			}
			if sees && ev.Flags.Accepted() {
				name, at = ev.ID, ev.TS
				return nil
			}
			near, beside = ev.TS, place.Position
		}
		return nil
	})
	if err == nil && name == "" {
		err = errcode.NotFound("room %s has no event there", room)
	}
	return name, at, err
}
