package room

import (
	"fmt"
	"math"
	"sort"

	"hearth/matrix/event"
	"hearth/matrix/visibility"
	"hearth/store"
)

// View is a room in the eyes of one user: which of its events they may see, by
// the history visibility and their membership at each. Every way of reading
// (sync, messages, context, relations, search) asks it.
// spec: client-server-api#server-behaviour-6
type View struct {
	Room   store.Room
	User   store.UserNID
	Device string       // whose transaction ids are shown; empty: none
	Member store.Member // the user's current membership; zero: never had any
	// Ignored are users whose events are kept from this one; see Engine.Ignored.
	Ignored map[store.UserNID]bool

	viewer      *visibility.Viewer
	memberships []visibility.Change[store.Membership]
}

// View reads what decides over a user's sight of a room. user 0 is anybody.
func (e *Engine) View(tx *store.Tx, room store.Room, user store.UserNID) (*View, error) {
	v := &View{Room: room, User: user}
	var err error
	if v.Member, _, err = tx.Members.Get(room.NID, user); err != nil {
		return nil, err
	}
	var history []visibility.Change[visibility.History]
	key, ok, err := tx.IDs.FindStateKey(event.StateTuple{Type: event.TypeHistoryVisibility})
	if err != nil {
		return nil, err
	}
	if ok {
		if history, err = changes(e, tx, room.NID, key, func(p *event.PDU) visibility.History {
			return visibility.ParseHistory(p.ContentString("history_visibility"))
		}); err != nil {
			return nil, fmt.Errorf("history visibility of %s: %w", room.ID, err)
		}
	}
	if v.memberships, err = changes(e, tx, room.NID, store.MemberKey(user), func(p *event.PDU) store.Membership {
		return store.ParseMembership(p.Membership())
	}); err != nil {
		return nil, fmt.Errorf("memberships in %s: %w", room.ID, err)
	}
	memberships := make([]visibility.Change[visibility.Membership], len(v.memberships))
	for i, m := range v.memberships {
		memberships[i] = visibility.Change[visibility.Membership]{Version: m.Version, Value: visibility.ParseMembership(m.Value.String())}
	}
	v.viewer = visibility.NewViewer(history, memberships)
	return v, nil
}

// changes reads the log of a state key with its values parsed.
func changes[T any](e *Engine, tx *store.Tx, room store.RoomNID, key store.StateKey, parse func(*event.PDU) T) ([]visibility.Change[T], error) {
	log, err := tx.State.History(room, key)
	if err != nil {
		return nil, err
	}
	nids := make([]store.EventNID, 0, len(log))
	for _, c := range log {
		if c.Event != 0 {
			nids = append(nids, c.Event)
		}
	}
	events, err := e.Events(tx, nids)
	if err != nil {
		return nil, err
	}
	list := make([]visibility.Change[T], len(log))
	for i, c := range log {
		list[i].Version = c.Version
		if c.Event != 0 {
			list[i].Value, events = parse(events[0].PDU), events[1:]
		}
	}
	return list, nil
}

// MaySee says whether the user may see an event of the room.
func (v *View) MaySee(ev *Event) bool {
	if ev.CurrentState != 0 {
		return ev.Flags.Accepted() && v.maySee(ev)
	}
	return ev.Flags.Accepted() && v.viewer.May(ev.StateBefore, after(ev))
}

// Hides says whether an event is kept from the user because they ignore its
// sender. State is never hidden.
// spec: client-server-api#server-behaviour-17
func (v *View) Hides(ev *Event) bool { return !ev.IsState && v.Ignored[ev.Sender] }

// MaySeeNow says whether the user may see the room's current state.
func (v *View) MaySeeNow() bool {
	return v.viewer.May(v.Room.StateVersion, v.Room.StateVersion)
}

// MaySeeAllFrom says that no event from a state version on is hidden, so that none need be looked at.
func (v *View) MaySeeAllFrom(version int64) bool { return v.viewer.MayAll(version) }

// MembershipAt is the user's membership at an event, the event itself counted; 0: none ever.
func (v *View) MembershipAt(ev *Event) store.Membership {
	return v.MembershipIn(after(ev))
}

// MembershipIn is the user's membership in a version of the room's state; 0: none ever.
func (v *View) MembershipIn(version int64) store.Membership {
	i := sort.Search(len(v.memberships), func(i int) bool { return v.memberships[i].Version > version })
	if i == 0 {
		return 0
	}
	return v.memberships[i-1].Value
}

// WasJoined says whether the user had ever been joined by a version of the room's state.
func (v *View) WasJoined(version int64) bool {
	for _, m := range v.memberships {
		if m.Version <= version && m.Value == store.Join {
			return true
		}
	}
	return false
}

// LastLeft is the version of the room's state with which the user was last no
// longer joined: the newest state they may know. False: they never left.
func (v *View) LastLeft() (version int64, ok bool) {
	for i := len(v.memberships) - 1; i > 0; i-- {
		if v.memberships[i].Value != store.Join && v.memberships[i-1].Value == store.Join {
			return v.memberships[i].Version, true
		}
	}
	return 0, false
}

// LastPosition is the position up to which the user sees the timeline go on:
// the newest, or that of the end of their membership.
func (v *View) LastPosition() int64 {
	if v.Member.Membership == store.Leave || v.Member.Membership == store.Ban {
		return v.Member.Position
	}
	return v.Room.LastPosition
}

// StateVersionAt is the version of a room's state as it was at a position: after
// all events up to there.
func (e *Engine) StateVersionAt(tx *store.Tx, room store.Room, position int64) (int64, error) {
	if position >= room.LastPosition {
		return room.StateVersion, nil
	}
	version := after
	places, err := tx.Events.TimelineDown(room.NID, math.MinInt64, position, 1)
	if err == nil && len(places) == 0 {
		// The history that is known here begins later, not with an empty state.
		version = (*Event).VersionBefore
		places, err = tx.Events.TimelineUp(room.NID, position, math.MaxInt64, 1)
	}
	if err != nil || len(places) == 0 {
		return 0, err
	}
	events, err := e.Events(tx, []store.EventNID{places[0].NID})
	if err != nil {
		return 0, err
	}
	return version(events[0]), nil
}

// after is the version of the room's current state after an event.
func after(ev *Event) int64 {
	if ev.CurrentState != 0 {
		return ev.CurrentState
	}
	if ev.IsState && ev.Flags.Accepted() {
		return ev.StateBefore + 1
	}
	return ev.StateBefore
}

// VersionBefore is the version of the room's current state that the event met, or that
// the branch it is on began with.
func (ev *Event) VersionBefore() int64 {
	if ev.overlay != nil {
		return ev.overlay.Version
	}
	return ev.StateBefore
}
