package room_test

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// entries is a room's state.
type entries = map[event.StateTuple]*event.PDU

// oracle resolves states word for word as the specification has it, without regard to how long
// it takes. It shares nothing with what it is compared to but the authorization rules.
// spec: rooms/v12#state-resolution
type oracle struct {
	version  *roomversion.Version
	create   *event.PDU
	events   map[id.Event]*event.PDU // all, with their auth events
	rejected map[id.Event]bool
}

func (o *oracle) isV21() bool { return o.version.StateRes == roomversion.StateResV21 }

// chain adds an event's auth chain.
func (o *oracle) chain(pdu *event.PDU, into map[id.Event]bool) {
	for _, name := range pdu.AuthEvents {
		if !into[name] {
			into[name] = true
			o.chain(o.events[name], into)
		}
	}
}

func (o *oracle) chainOf(pdu *event.PDU) map[id.Event]bool {
	chain := map[id.Event]bool{}
	o.chain(pdu, chain)
	return chain
}

func (o *oracle) resolve(sets []entries) entries {
	unconflicted, conflicted := entries{}, map[id.Event]*event.PDU{}
	for _, set := range sets {
		for key, pdu := range set {
			if slices.ContainsFunc(sets, func(other entries) bool { return other[key] == nil || other[key].ID != pdu.ID }) {
				conflicted[pdu.ID] = pdu
			} else {
				unconflicted[key] = pdu
			}
		}
	}
	if len(conflicted) == 0 {
		return unconflicted
	}
	full := o.fullConflictedSet(sets, conflicted)
	// 1
	power := map[id.Event]*event.PDU{}
	for _, pdu := range full {
		if isPowerEvent(pdu) {
			power[pdu.ID] = pdu
			for name := range o.chainOf(pdu) {
				if full[name] != nil {
					power[name] = full[name]
				}
			}
		}
	}
	// 2
	state := entries{}
	if !o.isV21() {
		maps.Copy(state, unconflicted)
	}
	o.iterativeAuth(state, o.reverseTopological(power))
	// 3, 4
	rest := slices.Collect(maps.Values(full))
	rest = slices.DeleteFunc(rest, func(pdu *event.PDU) bool { return power[pdu.ID] != nil })
	o.mainlineSort(rest, state[event.StateTuple{Type: event.TypePowerLevels}])
	o.iterativeAuth(state, rest)
	// 5
	maps.Copy(state, unconflicted)
	return state
}

func (o *oracle) fullConflictedSet(sets []entries, conflicted map[id.Event]*event.PDU) map[id.Event]*event.PDU {
	full := maps.Clone(conflicted)
	in := map[id.Event]int{}
	for _, set := range sets {
		chain := map[id.Event]bool{}
		for _, pdu := range set {
			o.chain(pdu, chain)
		}
		for name := range chain {
			in[name]++
		}
	}
	for name, n := range in {
		if n < len(sets) {
			full[name] = o.events[name]
		}
	}
	if o.isV21() { // the conflicted state subgraph
		for _, pdu := range conflicted {
			for name := range o.chainOf(pdu) {
				for up := range o.chainOf(o.events[name]) {
					if conflicted[up] != nil {
						full[name] = o.events[name]
					}
				}
			}
		}
	}
	return full
}

func isPowerEvent(pdu *event.PDU) bool {
	switch pdu.Type {
	case event.TypePowerLevels, event.TypeJoinRules:
		return *pdu.StateKey == ""
	case event.TypeMember:
		m := pdu.Membership()
		return (m == event.MembershipLeave || m == event.MembershipBan) && *pdu.StateKey != string(pdu.Sender)
	}
	return false
}

// cited is the event of a type with an empty key among an event's auth events.
func (o *oracle) cited(pdu *event.PDU, typ string) *event.PDU {
	for _, name := range pdu.AuthEvents {
		if o.events[name].Is(typ, "") {
			return o.events[name]
		}
	}
	return nil
}

func (o *oracle) senderLevel(pdu *event.PDU) int64 {
	create := o.create
	if o.version.CreateInAuthEvents {
		create = o.cited(pdu, event.TypeCreate)
	}
	levels, err := authrules.ParsePowerLevels(o.version, create, o.cited(pdu, event.TypePowerLevels))
	if err != nil {
		panic(err)
	}
	return levels.UserLevel(pdu.Sender)
}

func older(a, b *event.PDU) int {
	return cmp.Or(cmp.Compare(a.OriginServerTS, b.OriginServerTS), cmp.Compare(a.ID, b.ID))
}

// reverseTopological is the reverse topological power ordering.
func (o *oracle) reverseTopological(of map[id.Event]*event.PDU) (list []*event.PDU) {
	left := maps.Clone(of)
	for len(left) > 0 {
		var next *event.PDU
		for _, pdu := range left {
			if slices.ContainsFunc(pdu.AuthEvents, func(name id.Event) bool { return left[name] != nil }) {
				continue
			}
			if next == nil || cmp.Or(cmp.Compare(o.senderLevel(next), o.senderLevel(pdu)), older(pdu, next)) < 0 {
				next = pdu
			}
		}
		list = append(list, next)
		delete(left, next.ID)
	}
	return list
}

func (o *oracle) mainlineSort(list []*event.PDU, levels *event.PDU) {
	mainline := map[id.Event]int{}
	for ; levels != nil; levels = o.cited(levels, event.TypePowerLevels) {
		mainline[levels.ID] = len(mainline)
	}
	position := func(pdu *event.PDU) int {
		for p := o.cited(pdu, event.TypePowerLevels); p != nil; p = o.cited(p, event.TypePowerLevels) {
			if n, ok := mainline[p.ID]; ok {
				return n
			}
		}
		return math.MaxInt
	}
	slices.SortFunc(list, func(a, b *event.PDU) int { return cmp.Or(cmp.Compare(position(b), position(a)), older(a, b)) })
}

func (o *oracle) iterativeAuth(state entries, list []*event.PDU) {
	for _, pdu := range list {
		by := entries{}
		for _, name := range pdu.AuthEvents {
			if !o.rejected[name] {
				by[o.events[name].Tuple()] = o.events[name]
			}
		}
		for _, t := range authrules.Needed(o.version, authrules.DraftOf(pdu)) {
			if state[t] != nil {
				by[t] = state[t]
			}
		}
		if o.allowed(pdu, by) {
			state[pdu.Tuple()] = pdu
		}
	}
}

// allowed judges an event by a state.
func (o *oracle) allowed(pdu *event.PDU, state entries) bool {
	by := authrules.StateOf(o.create)
	for _, t := range authrules.Needed(o.version, authrules.DraftOf(pdu)) {
		if state[t] != nil {
			by.Set(state[t])
		}
	}
	return authrules.Check(pdu, by) == nil
}
