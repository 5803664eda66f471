package authrules

import (
	"strconv"

	"hearth/matrix/roomversion"
)

// A clause is a rule by its meaning. Its number depends on which of its
// predecessors the room version has.
type clause uint8

// The rules of the topmost level, in the order of the pages.
const (
	ruleCreate clause = iota
	ruleRoomID
	ruleAuthEvents
	ruleFederate
	ruleAliases
	ruleMember
	ruleJoined
	ruleThirdPartyInvite
	ruleLevel
	ruleUserStateKey
	rulePowerLevels
	ruleRedaction
)

func has(v *roomversion.Version, c clause) bool {
	switch c {
	case ruleRoomID:
		return v.RoomIDIsCreateEventID
	case ruleAliases:
		return v.AliasesAuthRule
	case ruleRedaction:
		return v.RedactionAuthRule
	}
	return true
}

// The rules under ruleMember.
const (
	memberShape clause = iota
	memberAuthorised
	memberJoin
	memberInvite
	memberLeave
	memberBan
	memberKnock
	memberUnknown
)

func hasMember(v *roomversion.Version, c clause) bool {
	switch c {
	case memberAuthorised:
		return v.RestrictedJoins
	case memberKnock:
		return v.Knock
	}
	return true
}

// The rules under rulePowerLevels.
const (
	powerIntegers clause = iota
	powerMapIntegers
	powerUsers
	powerCreators
	powerFirst
	powerLevelsChanged
	powerEventsChanged
	powerEventsAdded
	powerUsersChanged
	powerUsersAdded
)

func hasPower(v *roomversion.Version, c clause) bool {
	switch c {
	case powerIntegers, powerMapIntegers:
		return v.IntegerPowerLevels
	case powerCreators:
		return v.PrivilegedCreators
	}
	return true
}

// number counts the clauses up to c that the version has.
func number(v *roomversion.Version, c clause, has func(*roomversion.Version, clause) bool) int {
	n := 0
	for i := range c + 1 {
		if has(v, i) {
			n++
		}
	}
	return n
}

// rule is the number of a topmost rule, or of a part of it that is the same in
// all versions.
func rule(v *roomversion.Version, c clause, parts ...int) string {
	return join(number(v, c, has), parts)
}

// memberRule is the number of a part of the rule for m.room.member.
func memberRule(v *roomversion.Version, c clause, parts ...int) string {
	return rule(v, ruleMember, append([]int{number(v, c, hasMember)}, parts...)...)
}

// joinRule is the number of a part of the rule for joins: the restricted rule
// came in as the fifth.
func joinRule(v *roomversion.Version, part int, parts ...int) string {
	if part > 5 && !v.RestrictedJoins {
		part--
	}
	return memberRule(v, memberJoin, append([]int{part}, parts...)...)
}

// powerRule is the number of a part of the rule for m.room.power_levels.
func powerRule(v *roomversion.Version, c clause, parts ...int) string {
	return rule(v, rulePowerLevels, append([]int{number(v, c, hasPower)}, parts...)...)
}

func join(n int, parts []int) string {
	s := strconv.Itoa(n)
	for _, p := range parts {
		s += "." + strconv.Itoa(p)
	}
	return s
}
