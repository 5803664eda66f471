// Package visibility decides whether a user or a server may see an event of a
// room, by the room's history visibility and their membership at the event.
//
// It must not look anything up; every read path asks it. Start at May; Viewer
// answers for many events of one room from two short lists.
// spec: client-server-api#room-history-visibility
package visibility

import (
	"cmp"
	"slices"
	"sort"
)

// History is a value of m.room.history_visibility.
type History uint8

// The zero value is what holds where none is set.
const (
	Shared History = iota
	WorldReadable
	Invited
	Joined
)

// ParseHistory reads `history_visibility`; what is not understood is shared.
// spec: client-server-api#server-behaviour-6
func ParseHistory(s string) History {
	switch s {
	case "world_readable":
		return WorldReadable
	case "invited":
		return Invited
	case "joined":
		return Joined
	}
	return Shared
}

func (h History) String() string {
	return [...]string{"shared", "world_readable", "invited", "joined"}[h]
}

// Membership is as much of a membership as matters here. Of several users of one
// server the greatest counts.
type Membership uint8

const (
	Outside Membership = iota // none, leave, ban, knock
	Invite
	Join
)

// ParseMembership reads `membership` of a member event.
func ParseMembership(s string) Membership {
	switch s {
	case "join":
		return Join
	case "invite":
		return Invite
	}
	return Outside
}

// State is what decides about an event: two values of the room's state there.
type State struct {
	History    History
	Membership Membership // of the viewer
}

// May says whether the viewer may see an event. before is the state before it;
// after differs from it only if the event itself is the room's history visibility or
// the viewer's own member event. joinsLater: the viewer joined at any time after it.
//
// A server may see what any of its users may: it is a viewer with the greatest
// membership of its users, which joins whenever one of them does.
// spec: client-server-api#server-behaviour-6
// spec: server-server-api#backfilling-and-retrieving-missing-events
func May(before, after State, joinsLater bool) bool {
	return before.allows(joinsLater) || after.allows(joinsLater)
}

func (s State) allows(joinsLater bool) bool {
	switch {
	case s.History == WorldReadable: // 1
		return true
	case s.Membership == Join: // 2
		return true
	case s.History == Shared && joinsLater: // 3
		return true
	case s.History == Invited && s.Membership == Invite: // 4
		return true
	}
	return false // 5
}

// Greatest is the membership that a server has by its users.
func Greatest(users ...Membership) Membership {
	most := Outside
	for _, m := range users {
		most = max(most, m)
	}
	return most
}

// Change is one entry of a log: a key of the room's state has Value from state
// version Version on, until the next entry.
type Change[T any] struct {
	Version int64
	Value   T
}

// Viewer answers for all events of a room whose state is a version of the room's
// state log.
type Viewer struct {
	history    []Change[History]
	membership []Change[Membership]
	lastJoin   int64 // version of the last entry that is a join
	joins      bool  // whether there is one
}

// NewViewer takes the whole logs of the room's history visibility and of the
// viewer's membership. It sorts them in place where they are not in order.
func NewViewer(history []Change[History], membership []Change[Membership]) *Viewer {
	sortLog(history)
	sortLog(membership)
	v := &Viewer{history: history, membership: membership}
	for _, c := range membership {
		if c.Value == Join {
			v.lastJoin, v.joins = c.Version, true
		}
	}
	return v
}

func sortLog[T any](log []Change[T]) {
	byVersion := func(a, b Change[T]) int { return cmp.Compare(a.Version, b.Version) }
	if !slices.IsSortedFunc(log, byVersion) {
		slices.SortStableFunc(log, byVersion)
	}
}

// At is the state that decides at a version.
func (v *Viewer) At(version int64) State {
	return State{valueAt(v.history, version), valueAt(v.membership, version)}
}

func valueAt[T any](log []Change[T], version int64) (value T) {
	// The first entry that is younger: what counts stands before it.
	i := sort.Search(len(log), func(i int) bool { return log[i].Version > version })
	if i == 0 {
		return value
	}
	return log[i-1].Value
}

// JoinsAfter says whether the viewer joined after a version, whatever happened since.
func (v *Viewer) JoinsAfter(version int64) bool { return v.joins && v.lastJoin > version }

// May says whether the viewer may see an event with these versions of the state
// before and after it; they are the same for all but accepted state events.
func (v *Viewer) May(before, after int64) bool {
	return May(v.At(before), v.At(after), v.JoinsAfter(after))
}

// MayAll reports whether the viewer may see every event from the first version on
// up to the newest, so that no event need be looked at: the common cases of a member
// who reads on, and of a member of a room whose history is shared with newcomers.
func (v *Viewer) MayAll(from int64) bool {
	return v.staysFrom(from) || v.isShownFrom(from)
}

// staysFrom says whether the viewer is joined from a version on.
func (v *Viewer) staysFrom(from int64) bool {
	return allFrom(v.membership, from, Join)
}

// isShownFrom says whether history from a version on is shown to everybody, or to
// every member if the viewer is one now.
func (v *Viewer) isShownFrom(from int64) bool {
	if n := len(v.membership); n > 0 && v.membership[n-1].Value == Join {
		return allFrom(v.history, from, Shared, WorldReadable)
	}
	return allFrom(v.history, from, WorldReadable)
}

// allFrom says whether a log has only these values from a version on.
func allFrom[T comparable](log []Change[T], from int64, values ...T) bool {
	i := sort.Search(len(log), func(i int) bool { return log[i].Version > from })
	if !slices.Contains(values, valueAt(log, from)) {
		return false
	}
	for _, c := range log[i:] {
		if !slices.Contains(values, c.Value) {
			return false
		}
	}
	return true
}
