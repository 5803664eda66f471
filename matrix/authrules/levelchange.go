package authrules

import (
	"strings"

	"hearth/matrix/event"
)

// checkPowerLevels is the rule for m.room.power_levels: nobody touches what is
// above them, nor raises anything above themselves.
// spec: rooms/v12#authorisation-rules 10
func checkPowerLevels(ev *event.PDU, old *PowerLevels) error {
	v := ev.Version
	next := &PowerLevels{Event: ev, creators: old.creators, privileged: old.privileged}
	if err := next.parse(v, ev.Content); err != nil {
		return err
	}
	if old.Event == nil {
		return nil
	}
	sender := old.UserLevel(ev.Sender)
	for i, name := range levelNames {
		a := alteration{name, old.named[i], next.named[i]}
		switch {
		case a.before == a.after:
		case a.before.given && a.before.value > sender:
			return a.deny(powerRule(v, powerLevelsChanged, 1), ev, sender)
		case a.after.given && a.after.value > sender:
			return a.deny(powerRule(v, powerLevelsChanged, 2), ev, sender)
		}
	}
	altered := alterations("events.", old.events, next.events)
	if v.NotificationsPLRule {
		altered = append(altered, alterations("notifications.", old.notifications, next.notifications)...)
	}
	for _, a := range altered {
		if a.before.given && a.before.value > sender {
			return a.deny(powerRule(v, powerEventsChanged, 1), ev, sender)
		}
	}
	for _, a := range altered {
		if a.after.given && a.after.value > sender {
			return a.deny(powerRule(v, powerEventsAdded, 1), ev, sender)
		}
	}
	users := alterations("users.", old.users, next.users)
	for _, a := range users {
		if a.before.given && a.before.value >= sender && a.name != "users."+string(ev.Sender) {
			return a.deny(powerRule(v, powerUsersChanged, 1), ev, sender)
		}
	}
	for _, a := range users {
		if a.after.given && a.after.value > sender {
			return a.deny(powerRule(v, powerUsersAdded, 1), ev, sender)
		}
	}
	return nil
}

// An alteration is one level that two power levels events disagree about.
type alteration struct {
	name          string
	before, after optional
}

func (a alteration) deny(rule string, ev *event.PDU, sender int64) error {
	return deny(rule, "%s has level %d and cannot change %s from %s to %s", ev.Sender, sender, a.name, a.before, a.after)
}

// alterations compares two sorted maps.
func alterations(prefix string, before, after []level) []alteration {
	var list []alteration
	for len(before) > 0 || len(after) > 0 {
		var a alteration
		order := compareHeads(before, after)
		if order <= 0 {
			a.name, a.before = before[0].name, optional{before[0].value, true}
			before = before[1:]
		}
		if order >= 0 {
			a.name, a.after = after[0].name, optional{after[0].value, true}
			after = after[1:]
		}
		if a.before != a.after {
			a.name = prefix + a.name
			list = append(list, a)
		}
	}
	return list
}

// compareHeads says which of two maps has the entry that comes next.
func compareHeads(a, b []level) int {
	switch {
	case len(a) == 0:
		return 1
	case len(b) == 0:
		return -1
	}
	return strings.Compare(a[0].name, b[0].name)
}
