package stateres

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

// oracle is state resolution 2 and 2.1 written down from the specification as
// it reads, with names, maps and recursion, sharing only the authorisation
// rules with what it tests.
type oracle struct{ *testRoom }

type names map[id.Event]bool

func (o oracle) resolve(states ...state) state {
	unconflicted, conflicted := o.split(states)
	if len(conflicted) == 0 {
		return unconflicted
	}
	full := o.authDifference(states)
	if o.version.StateRes == roomversion.StateResV21 {
		maps.Copy(full, o.subgraph(conflicted))
	}
	maps.Copy(full, conflicted)

	// 1.
	x := names{}
	for p := range full {
		if o.isPower(p) {
			x[p] = true
			for a := range o.chain(p) {
				if full[a] {
					x[a] = true
				}
			}
		}
	}
	// 2.
	resolved := maps.Clone(unconflicted)
	if o.version.StateRes == roomversion.StateResV21 {
		resolved = state{}
	}
	o.iterativeAuth(resolved, o.powerOrder(x))
	// 3.
	var rest []id.Event
	for e := range full {
		if !x[e] {
			rest = append(rest, e)
		}
	}
	o.mainlineOrder(rest, resolved[event.StateTuple{Type: event.TypePowerLevels}])
	// 4.
	o.iterativeAuth(resolved, rest)
	// 5.
	maps.Copy(resolved, unconflicted)
	return resolved
}

func (o oracle) split(states []state) (state, names) {
	unconflicted, conflicted := state{}, names{}
	for _, s := range states {
		for k, v := range s {
			same := true
			for _, other := range states {
				same = same && other[k] == v
			}
			if same {
				unconflicted[k] = v
			} else {
				conflicted[v] = true
			}
		}
	}
	return unconflicted, conflicted
}

func (o oracle) chain(e id.Event) names {
	out := names{}
	for _, a := range o.event(e).AuthEvents {
		out[a] = true
		maps.Copy(out, o.chain(a))
	}
	return out
}

func (o oracle) authDifference(states []state) names {
	var chains []names
	union := names{}
	for _, s := range states {
		c := names{}
		for _, e := range s {
			maps.Copy(c, o.chain(e))
		}
		chains = append(chains, c)
		maps.Copy(union, c)
	}
	for e := range union {
		everywhere := true
		for _, c := range chains {
			everywhere = everywhere && c[e]
		}
		if everywhere {
			delete(union, e)
		}
	}
	return union
}

func (o oracle) subgraph(conflicted names) names {
	out := names{}
	for from := range conflicted {
		for via := range o.chain(from) {
			for to := range o.chain(via) {
				if conflicted[to] {
					out[via] = true
				}
			}
		}
	}
	return out
}

func (o oracle) isPower(i id.Event) bool {
	e := o.event(i)
	switch {
	case e.Is(event.TypePowerLevels, ""), e.Is(event.TypeJoinRules, ""):
		return true
	case e.Type == event.TypeMember && *e.StateKey != string(e.Sender):
		m := e.Membership()
		return m == "leave" || m == "ban"
	}
	return false
}

func (o oracle) auth(i id.Event, typ string) *event.PDU {
	for _, a := range o.event(i).AuthEvents {
		if o.event(a).Is(typ, "") {
			return o.event(a)
		}
	}
	return nil
}

func (o oracle) senderLevel(i id.Event) int64 {
	create := o.auth(i, event.TypeCreate)
	if o.version.RoomIDIsCreateEventID {
		create = o.event("$" + id.Event(o.room()[1:]))
	}
	levels, err := authrules.ParsePowerLevels(o.version, create, o.auth(i, event.TypePowerLevels))
	if err != nil {
		return 0
	}
	return levels.UserLevel(o.event(i).Sender)
}

func (o oracle) powerOrder(x names) []id.Event {
	var out []id.Event
	placed := names{}
	for len(placed) < len(x) {
		var ready []id.Event
		for e := range x {
			waits := slices.ContainsFunc(o.event(e).AuthEvents, func(a id.Event) bool { return x[a] && !placed[a] })
			if !placed[e] && !waits {
				ready = append(ready, e)
			}
		}
		next := slices.MinFunc(ready, func(a, b id.Event) int {
			return cmp.Or(cmp.Compare(o.senderLevel(b), o.senderLevel(a)), o.age(a, b))
		})
		placed[next] = true
		out = append(out, next)
	}
	return out
}

func (o oracle) age(a, b id.Event) int {
	return cmp.Or(cmp.Compare(o.event(a).OriginServerTS, o.event(b).OriginServerTS), cmp.Compare(a, b))
}

func (o oracle) mainlineOrder(list []id.Event, p id.Event) {
	position := map[id.Event]int{}
	for n := 0; p != ""; n++ {
		position[p] = n
		next := o.auth(p, event.TypePowerLevels)
		if next == nil {
			break
		}
		p = next.ID
	}
	of := func(e id.Event) int {
		for pl := o.auth(e, event.TypePowerLevels); pl != nil; pl = o.auth(pl.ID, event.TypePowerLevels) {
			if n, ok := position[pl.ID]; ok {
				return n
			}
		}
		return math.MaxInt
	}
	slices.SortFunc(list, func(a, b id.Event) int { return cmp.Or(cmp.Compare(of(b), of(a)), o.age(a, b)) })
}

func (o oracle) iterativeAuth(resolved state, list []id.Event) {
	for _, i := range list {
		e := o.event(i)
		against := state{}
		for _, a := range e.AuthEvents {
			if !o.rejected[a] {
				against[o.event(a).Tuple()] = a
			}
		}
		for _, t := range authrules.Needed(o.version, authrules.DraftOf(e)) {
			if v, ok := resolved[t]; ok {
				against[t] = v
			}
		}
		if o.version.RoomIDIsCreateEventID {
			create := event.StateTuple{Type: event.TypeCreate}
			against[create] = "$" + id.Event(o.room()[1:])
		}
		if o.check(e, against) == nil {
			resolved[e.Tuple()] = i
		}
	}
}
