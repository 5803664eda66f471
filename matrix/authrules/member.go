package authrules

import (
	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
)

// JoinAuthorisedVia is the user by whose leave a member joins a restricted room,
// in room versions that know such. The event must carry a valid signature of
// that user's server: rule 4.2.1, in version 12 5.2.1.
// spec: rooms/v8#authorisation-rules 4.2
func JoinAuthorisedVia(ev *event.PDU) (user id.User, ok bool) {
	if !ev.Version.RestrictedJoins || ev.Type != event.TypeMember {
		return "", false
	}
	raw := ev.ContentValue("join_authorised_via_users_server")
	s, _ := canonical.String(raw)
	return id.User(s), raw != nil
}

// checkMember is the rule for m.room.member.
// spec: rooms/v12#authorisation-rules 5
func checkMember(ev *event.PDU, state *State) error {
	v := ev.Version
	if ev.StateKey == nil || ev.ContentValue("membership") == nil {
		return deny(memberRule(v, memberShape), "a member event needs a state key and a membership")
	}
	if via, ok := JoinAuthorisedVia(ev); ok {
		// What is not a user id names no server whose signature could be valid.
		if _, err := id.ParseUser(string(via)); err != nil {
			return deny(memberRule(v, memberAuthorised, 1), "join_authorised_via_users_server is not a user id")
		}
	}
	switch ev.Membership() {
	case event.MembershipJoin:
		return checkJoin(ev, state)
	case event.MembershipInvite:
		return checkInvite(ev, state)
	case event.MembershipLeave:
		return checkLeave(ev, state)
	case event.MembershipBan:
		return checkBan(ev, state)
	case event.MembershipKnock:
		if v.Knock {
			return checkKnock(ev, state)
		}
	}
	return deny(memberRule(v, memberUnknown), "the membership is unknown")
}

// spec: rooms/v12#authorisation-rules 5.3
func checkJoin(ev *event.PDU, state *State) error {
	v := ev.Version
	if len(ev.PrevEvents) == 1 && ev.PrevEvents[0] == state.Create.ID && *ev.StateKey == string(founder(state.Create)) {
		return nil
	}
	if string(ev.Sender) != *ev.StateKey {
		return deny(joinRule(v, 2), "%s cannot join for somebody else", ev.Sender)
	}
	current := state.membership(*ev.StateKey)
	if current == event.MembershipBan {
		return deny(joinRule(v, 3), "%s is banned", ev.Sender)
	}
	invited := current == event.MembershipInvite || current == event.MembershipJoin
	switch r := joinRuleOf(state.JoinRules); {
	case r == "invite", r == "knock" && v.Knock:
		if invited {
			return nil
		}
		return deny(joinRule(v, 7), "%s is not invited", ev.Sender)
	case r == "restricted" && v.RestrictedJoins, r == "knock_restricted" && v.KnockRestricted:
		if invited {
			return nil
		}
		return checkAuthorised(ev, state)
	case r == "public":
		return nil
	default:
		return deny(joinRule(v, 7), "the join rule lets nobody in")
	}
}

// checkAuthorised asks whether a user who may invite let the member in.
// spec: rooms/v12#authorisation-rules 5.3.5.2
func checkAuthorised(ev *event.PDU, state *State) error {
	v := ev.Version
	via, ok := JoinAuthorisedVia(ev)
	if !ok {
		return deny(joinRule(v, 5, 2), "%s is neither invited nor let in by a member", ev.Sender)
	}
	if state.membership(string(via)) != event.MembershipJoin {
		return deny(joinRule(v, 5, 2), "%s, who authorises the join, is not joined", via)
	}
	levels, err := state.levels(v)
	if err != nil {
		return err
	}
	if level := levels.UserLevel(via); level < levels.Invite() {
		return deny(joinRule(v, 5, 2), "%s, who authorises the join, has level %d, inviting needs %d", via, level, levels.Invite())
	}
	return nil
}

// spec: rooms/v12#authorisation-rules 5.4
func checkInvite(ev *event.PDU, state *State) error {
	v := ev.Version
	if invite := ev.ContentValue("third_party_invite"); invite != nil {
		return checkThirdPartyInvite(ev, invite, state)
	}
	if state.membership(string(ev.Sender)) != event.MembershipJoin {
		return deny(memberRule(v, memberInvite, 2), "%s is not joined", ev.Sender)
	}
	if m := state.membership(*ev.StateKey); m == event.MembershipJoin || m == event.MembershipBan {
		return deny(memberRule(v, memberInvite, 3), "%s is joined or banned", *ev.StateKey)
	}
	levels, err := state.levels(v)
	if err != nil {
		return err
	}
	if sender := levels.UserLevel(ev.Sender); sender < levels.Invite() {
		return deny(memberRule(v, memberInvite, 5), "%s has level %d, inviting needs %d", ev.Sender, sender, levels.Invite())
	}
	return nil
}

// spec: rooms/v12#authorisation-rules 5.5
func checkLeave(ev *event.PDU, state *State) error {
	v := ev.Version
	current := state.membership(string(ev.Sender))
	if string(ev.Sender) == *ev.StateKey {
		if current == event.MembershipInvite || current == event.MembershipJoin || current == event.MembershipKnock && v.Knock {
			return nil
		}
		return deny(memberRule(v, memberLeave, 1), "%s is not in the room", ev.Sender)
	}
	if current != event.MembershipJoin {
		return deny(memberRule(v, memberLeave, 2), "%s is not joined", ev.Sender)
	}
	levels, err := state.levels(v)
	if err != nil {
		return err
	}
	sender, target := levels.UserLevel(ev.Sender), levels.UserLevel(id.User(*ev.StateKey))
	if state.membership(*ev.StateKey) == event.MembershipBan && sender < levels.Ban() {
		return deny(memberRule(v, memberLeave, 3), "%s has level %d, lifting a ban needs %d", ev.Sender, sender, levels.Ban())
	}
	if sender < levels.Kick() || target >= sender {
		return deny(memberRule(v, memberLeave, 5), "%s has level %d, kicking needs %d and more than the %d of %s", ev.Sender, sender, levels.Kick(), target, *ev.StateKey)
	}
	return nil
}

// spec: rooms/v12#authorisation-rules 5.6
func checkBan(ev *event.PDU, state *State) error {
	v := ev.Version
	if state.membership(string(ev.Sender)) != event.MembershipJoin {
		return deny(memberRule(v, memberBan, 1), "%s is not joined", ev.Sender)
	}
	levels, err := state.levels(v)
	if err != nil {
		return err
	}
	sender, target := levels.UserLevel(ev.Sender), levels.UserLevel(id.User(*ev.StateKey))
	if sender < levels.Ban() || target >= sender {
		return deny(memberRule(v, memberBan, 3), "%s has level %d, banning needs %d and more than the %d of %s", ev.Sender, sender, levels.Ban(), target, *ev.StateKey)
	}
	return nil
}

// spec: rooms/v12#authorisation-rules 5.7
func checkKnock(ev *event.PDU, state *State) error {
	v := ev.Version
	if r := joinRuleOf(state.JoinRules); r != "knock" && !(r == "knock_restricted" && v.KnockRestricted) {
		return deny(memberRule(v, memberKnock, 1), "the join rule does not allow knocking")
	}
	if string(ev.Sender) != *ev.StateKey {
		return deny(memberRule(v, memberKnock, 2), "%s cannot knock for somebody else", ev.Sender)
	}
	switch state.membership(*ev.StateKey) {
	case event.MembershipBan, event.MembershipInvite, event.MembershipJoin:
		return deny(memberRule(v, memberKnock, 4), "%s is banned, invited or joined", ev.Sender)
	}
	return nil
}

// joinRuleOf is the room's join rule; a room without one is for the invited.
// spec: client-server-api#mroomjoin_rules
func joinRuleOf(ev *event.PDU) string {
	if ev == nil {
		return "invite"
	}
	raw := ev.ContentValue("join_rule")
	if raw == nil {
		return "invite"
	}
	s, _ := canonical.String(raw)
	return s
}
