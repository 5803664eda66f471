package authrules

import (
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// Draft is what of an event decides which auth events it needs. It can be had
// before the event is built.
type Draft struct {
	Type     string
	StateKey *string
	Sender   id.User
	Content  jsontext.Value // in any form

	isCanonical bool
}

// DraftOf is the draft that an event was built from.
func DraftOf(ev *event.PDU) Draft {
	return Draft{Type: ev.Type, StateKey: ev.StateKey, Sender: ev.Sender, Content: ev.Content, isCanonical: true}
}

// Needed lists the entries of the room's state that are to be an event's
// auth_events, as far as they exist, each once. The rules read nothing else,
// save for the create event where the room version does not list it.
// spec: server-server-api#auth-events-selection
func Needed(v *roomversion.Version, d Draft) []event.StateTuple {
	if d.Type == event.TypeCreate {
		return nil
	}
	list := make([]event.StateTuple, 0, 7)
	if v.CreateInAuthEvents {
		list = append(list, event.StateTuple{Type: event.TypeCreate})
	}
	list = append(list,
		event.StateTuple{Type: event.TypePowerLevels},
		event.StateTuple{Type: event.TypeMember, Key: string(d.Sender)})
	if d.Type == event.TypeMember && d.StateKey != nil {
		list = neededByMember(list, v, d)
	}
	return list
}

func neededByMember(list []event.StateTuple, v *roomversion.Version, d Draft) []event.StateTuple {
	add := func(t event.StateTuple) {
		if !slices.Contains(list, t) {
			list = append(list, t)
		}
	}
	add(event.StateTuple{Type: event.TypeMember, Key: *d.StateKey})
	content := d.canonicalContent()
	m, _ := canonical.GetString(content, "membership")
	switch m {
	case event.MembershipJoin, event.MembershipInvite, event.MembershipKnock:
		add(event.StateTuple{Type: event.TypeJoinRules})
	}
	switch m {
	case event.MembershipInvite:
		signed := canonical.Get(canonical.Get(content, "third_party_invite"), "signed")
		if token, ok := canonical.GetString(signed, "token"); ok {
			add(event.StateTuple{Type: event.TypeThirdPartyInvite, Key: token})
		}
	case event.MembershipJoin:
		if !v.RestrictedJoins {
			break
		}
		if via, ok := canonical.GetString(content, "join_authorised_via_users_server"); ok {
			add(event.StateTuple{Type: event.TypeMember, Key: via})
		}
	}
	return list
}

// canonicalContent is the content as it will be in the event. Content that no event
// can be built from needs nothing.
func (d *Draft) canonicalContent() []byte {
	if d.isCanonical {
		return d.Content
	}
	content, err := canonical.Append(nil, d.Content, canonical.Options{})
	if err != nil {
		return nil
	}
	return content
}

// AuthEvent is one event of the auth_events list of another.
type AuthEvent struct {
	*event.PDU
	Rejected bool // it failed the checks on its own receipt
}

// CheckAuthEvents judges the list of auth_events that an event came with: given
// are the events that it names. It returns nil or a *Denied.
// spec: rooms/v11#authorisation-rules 2
// spec: rooms/v12#authorisation-rules 3
func CheckAuthEvents(ev *event.PDU, authEvents []AuthEvent) error {
	v := ev.Version
	if ev.Type == event.TypeCreate {
		// No rule asks about the auth events of a create event: rule 1 settles all.
		return nil
	}
	if err := checkEntries(ev, authEvents); err != nil {
		return err
	}
	for _, a := range authEvents {
		if a.Rejected {
			return deny(rule(v, ruleAuthEvents, 3), "auth event %s was rejected", a.ID)
		}
	}
	// The pages number what follows by what is left: where no create event may be
	// listed, the rule about rooms is the fourth.
	sameRoom := 4
	if v.CreateInAuthEvents {
		sameRoom = 5
		if !slices.ContainsFunc(authEvents, func(a AuthEvent) bool { return a.Is(event.TypeCreate, "") }) {
			return deny(rule(v, ruleAuthEvents, 4), "there is no create event among the auth events")
		}
	}
	for _, a := range authEvents {
		if a.Room != ev.Room {
			return deny(rule(v, ruleAuthEvents, sameRoom), "auth event %s is of another room", a.ID)
		}
	}
	return nil
}

// checkEntries looks for entries that occur twice or that were not to be selected.
func checkEntries(ev *event.PDU, authEvents []AuthEvent) error {
	v := ev.Version
	for i, a := range authEvents {
		for _, b := range authEvents[:i] {
			if a.IsState() && b.IsState() && a.Tuple() == b.Tuple() {
				return deny(rule(v, ruleAuthEvents, 1), "auth events %s and %s have the same type and state key", b.ID, a.ID)
			}
		}
	}
	needed := Needed(v, DraftOf(ev))
	for _, a := range authEvents {
		if !a.IsState() || !slices.Contains(needed, a.Tuple()) {
			return deny(rule(v, ruleAuthEvents, 2), "auth event %s is not one that the event needs", a.ID)
		}
	}
	return nil
}
