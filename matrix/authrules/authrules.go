// Package authrules decides whether an event is allowed: the authorisation
// rules of every room version, and the selection of auth events that they rest
// on.
//
// It judges values that it is given; it must not look anything up, nor check
// signatures or hashes (event does). Which state an event has to be judged
// against, and what becomes of one that is refused, is the room engine's part.
//
// Start at Check. Rules are called by the number which they have on the page of
// the event's room version; numbers.go knows how these differ.
// spec: server-server-api#authorisation-rules
package authrules

import (
	"fmt"
	"strings"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// Denied says that an event is not allowed.
type Denied struct {
	Rule   string // such as "5.3.7": the number on the page of the event's room version
	Reason string // one sentence
}

func (d *Denied) Error() string { return "rule " + d.Rule + ": " + d.Reason }

func deny(rule, format string, args ...any) error {
	if len(args) > 0 {
		format = fmt.Sprintf(format, args...)
	}
	return &Denied{Rule: rule, Reason: format}
}

// State is what an event is judged against: the create event, and of the other
// entries those that Needed names. Entries that no rule asks for do no harm.
type State struct {
	Create      *event.PDU
	PowerLevels *event.PDU
	JoinRules   *event.PDU
	// Members holds the few members that matter to one event (at most three:
	// sender, target, authorising user); it is searched from its start.
	Members []*event.PDU
	// ThirdPartyInvites holds at most the one that an invite redeems.
	ThirdPartyInvites []*event.PDU

	// Levels may be the compiled PowerLevels: whoever judges many events against
	// the same power levels sets it, so that they are parsed once.
	Levels *PowerLevels
}

// StateOf collects state events, such as the auth events of an event. For room
// versions whose auth events lack the create event, it must be among them too.
func StateOf(events ...*event.PDU) State {
	var s State
	for _, ev := range events {
		s.Set(ev)
	}
	return s
}

// Set makes a state event part of the state, in place of the one with the same
// type and state key. Events that no rule asks for are left out.
func (s *State) Set(ev *event.PDU) {
	if ev.StateKey == nil {
		return
	}
	switch ev.Type {
	case event.TypeMember:
		s.Members = replace(s.Members, ev)
	case event.TypeThirdPartyInvite:
		s.ThirdPartyInvites = replace(s.ThirdPartyInvites, ev)
	}
	if *ev.StateKey != "" {
		return
	}
	switch ev.Type {
	case event.TypeCreate:
		s.Create, s.Levels = ev, nil
	case event.TypePowerLevels:
		s.PowerLevels, s.Levels = ev, nil
	case event.TypeJoinRules:
		s.JoinRules = ev
	}
}

func replace(list []*event.PDU, ev *event.PDU) []*event.PDU {
	for i, old := range list {
		if *old.StateKey == *ev.StateKey {
			list[i] = ev
			return list
		}
	}
	return append(list, ev)
}

func lookUp(list []*event.PDU, key string) *event.PDU {
	for _, ev := range list {
		if *ev.StateKey == key {
			return ev
		}
	}
	return nil
}

// membership is a user's; it is empty if they never were in the room.
func (s *State) membership(user string) string {
	if ev := lookUp(s.Members, user); ev != nil {
		return ev.Membership()
	}
	return ""
}

func (s *State) levels(v *roomversion.Version) (*PowerLevels, error) {
	if s.Levels != nil {
		return s.Levels, nil
	}
	return ParsePowerLevels(v, s.Create, s.PowerLevels)
}

// Check judges an event by the rules of its room's version against a state. It
// returns nil or a *Denied.
//
// Two rules are not decided here: those about the list of auth_events, which
// CheckAuthEvents decides, and that a join by way of a restricted rule carries
// the signature of the authorising user's server, which has to be verified like
// the event's other signatures (see JoinAuthorisedVia).
func Check(ev *event.PDU, state State) error {
	v := ev.Version
	if ev.Type == event.TypeCreate {
		return checkCreate(ev)
	}
	if err := checkRoom(ev, &state); err != nil {
		return err
	}
	if refusesServer(state.Create, ev.Sender.Server()) {
		return deny(rule(v, ruleFederate), "the room does not federate and %s is of another server", ev.Sender)
	}
	if v.AliasesAuthRule && ev.Type == event.TypeAliases {
		return checkAliases(ev)
	}
	if ev.Type == event.TypeMember {
		return checkMember(ev, &state)
	}
	if state.membership(string(ev.Sender)) != event.MembershipJoin {
		return deny(rule(v, ruleJoined), "%s is not joined to the room", ev.Sender)
	}
	levels, err := state.levels(v)
	if err != nil {
		return err
	}
	return checkLevels(ev, levels)
}

// checkLevels is what a joined sender's power decides.
func checkLevels(ev *event.PDU, levels *PowerLevels) error {
	v := ev.Version
	sender := levels.UserLevel(ev.Sender)
	if ev.Type == event.TypeThirdPartyInvite {
		if sender < levels.Invite() {
			return deny(rule(v, ruleThirdPartyInvite, 1), "%s has level %d, inviting needs %d", ev.Sender, sender, levels.Invite())
		}
		return nil
	}
	if needed := levels.EventLevel(ev.Type, ev.IsState()); sender < needed {
		return deny(rule(v, ruleLevel), "%s has level %d, sending %s needs %d", ev.Sender, sender, ev.Type, needed)
	}
	if ev.IsState() && strings.HasPrefix(*ev.StateKey, "@") && *ev.StateKey != string(ev.Sender) {
		return deny(rule(v, ruleUserStateKey), "the state key is the user id of another user than %s", ev.Sender)
	}
	switch {
	case ev.Type == event.TypePowerLevels:
		return checkPowerLevels(ev, levels)
	case ev.Type == event.TypeRedaction && v.RedactionAuthRule:
		return checkRedaction(ev, levels)
	}
	return nil
}

// spec: rooms/v12#authorisation-rules 1
func checkCreate(ev *event.PDU) error {
	v := ev.Version
	if len(ev.PrevEvents) > 0 {
		return deny(rule(v, ruleCreate, 1), "a create event has no previous events")
	}
	if v.RoomIDIsCreateEventID {
		if canonical.Get(ev.JSON, "room_id") != nil {
			return deny(rule(v, ruleCreate, 2), "a create event of this room version has no room_id")
		}
	} else if ev.Room.Server() != ev.Sender.Server() {
		return deny(rule(v, ruleCreate, 2), "the room id is of another server than %s", ev.Sender)
	}
	if raw := ev.ContentValue("room_version"); raw != nil {
		name, isString := canonical.String(raw)
		if _, known := roomversion.Get(name); !isString || !known {
			return deny(rule(v, ruleCreate, 3), "room version %s is not known", raw)
		}
	}
	if v.CreatorInContent && ev.ContentValue("creator") == nil {
		return deny(rule(v, ruleCreate, 4), "the content has no creator")
	}
	if v.PrivilegedCreators {
		if _, ok := additionalCreators(ev); !ok {
			return deny(rule(v, ruleCreate, 4), "additional_creators is not a list of user ids")
		}
	}
	return nil
}

// checkRoom makes sure that there is a create event, and that it is this room's.
func checkRoom(ev *event.PDU, state *State) error {
	v := ev.Version
	create := state.Create
	if !v.RoomIDIsCreateEventID {
		if create == nil {
			return deny(rule(v, ruleAuthEvents, 4), "there is no create event")
		}
		return nil
	}
	if create == nil || len(ev.Room) < 2 || len(create.ID) < 2 || ev.Room[1:] != id.Room(create.ID[1:]) {
		return deny(rule(v, ruleRoomID), "the room id is not that of an accepted create event")
	}
	return nil
}

// refusesServer says whether m.federate keeps a server's users out.
func refusesServer(create *event.PDU, server id.Server) bool {
	if create.Sender.Server() == server {
		return false
	}
	return string(create.ContentValue("m.federate")) == "false"
}

// spec: rooms/v1#authorisation-rules 4
func checkAliases(ev *event.PDU) error {
	if ev.StateKey == nil {
		return deny(rule(ev.Version, ruleAliases, 1), "m.room.aliases has no state key")
	}
	if *ev.StateKey != string(ev.Sender.Server()) {
		return deny(rule(ev.Version, ruleAliases, 2), "the state key is not the server of %s", ev.Sender)
	}
	return nil
}
