package room

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// What an arriving event refers to is gathered here, before the room is locked: its auth
// events, the events before it, and the states at gaps in the history.

// maxGathered bounds how many missing events before one are asked for.
const maxGathered = 50

// gatherAuth fetches the auth events of an event that are not here, with their own.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 4
func (e *Engine) gatherAuth(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU) error {
	missing, err := e.unknown(ctx, p.AuthEvents, true)
	if err != nil || len(missing) == 0 {
		return err
	}
	in, err := e.hasServer(ctx, p.Room, origin)
	if err != nil {
		return err
	}
	partial, err := e.isPartial(ctx, p.Room)
	if err != nil {
		return err
	}
	if partial || !in {
		// Mostly members are missing, whose own auth events are here: a few events. The
		// whole auth chain is as large as the state that is fetched already; and one who is not in
		// the room could make up any.
		if err := e.fetchOutliers(ctx, origin, v, p.Room, missing); err != nil {
			return err
		}
		if missing, err = e.unknown(ctx, missing, true); err != nil || len(missing) == 0 {
			return err
		}
	}
	if !in {
		return fmt.Errorf("auth events %v of %s: %w", missing, p.ID, errUnobtainable)
	}
	raws, err := e.options.Network.GetEventAuth(ctx, origin, p.Room, p.ID)
	if err != nil {
		slog.DebugContext(ctx, "auth chain not received", "event", p.ID, "from", origin, "error", err)
	}
	if err := e.storeOutliers(ctx, true, v, p.Room, e.check(ctx, origin, v, p.Room, raws, nil)); err != nil {
		return err
	}
	if missing, err = e.unknown(ctx, missing, true); err != nil || len(missing) == 0 {
		return err
	}
	if err := e.fetchOutliers(ctx, origin, v, p.Room, missing); err != nil {
		return err
	}
	if missing, err = e.unknown(ctx, missing, true); err != nil || len(missing) == 0 {
		return err
	}
	return fmt.Errorf("auth events %v of %s: %w", missing, p.ID, errUnobtainable)
}

// judgeAuth asks for the states that those of an event's auth events met which are known to be missing in
// the history, and has them refused that these refuse. Of what cannot be had, what is known has to do.
func (e *Engine) judgeAuth(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU) error {
	for _, name := range p.AuthEvents {
		var auth *event.PDU
		err := e.store.View(ctx, func(tx *store.Tx) error {
			nid, ok, err := tx.Rooms.Find(p.Room)
			if err != nil || !ok {
				return err
			}
			if _, missing, err := tx.Gaps.Missing(nid, name); err != nil || !missing {
				return err
			}
			ev, ok, err := e.Event(tx, nid, name)
			if err == nil && ok {
				auth = ev.PDU
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("auth event %s of %s: %w", name, p.ID, err)
		}
		if auth == nil {
			continue
		}
		states, err := e.gatherStates(ctx, origin, v, auth, named)
		guessed := false
		if err == nil {
			states, guessed, err = e.gatherUntold(ctx, origin, v, auth, states)
		}
		if err == nil && !guessed {
			err = e.write(ctx, p.Room, func(w *writing) error { return w.refuseOutlier(ctx, arrival{pdu: auth, states: states}) })
		}
		switch {
		case errors.Is(err, errUnobtainable) || errors.Is(err, errMissingPrev):
			slog.DebugContext(ctx, "an auth event is not judged", "event", name, "from", origin, "error", err)
		case err != nil:
			return fmt.Errorf("judge auth event %s of %s: %w", name, p.ID, err)
		}
	}
	return nil
}

var errUnobtainable = errors.New("no server could give what the event refers to")

// maxFetched bounds how many events are asked for one by one.
const maxFetched = 500

// fetchOutliers fetches events one by one, and the auth events that they turn out to need. What
// the server does not have stays away; if it could not be asked, that is an error.
func (e *Engine) fetchOutliers(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, names []id.Event) error {
	asked := map[id.Event]bool{}
	var got []*event.PDU
	var trouble error
	for queue := slices.Clone(names); len(queue) > 0 && len(asked) < maxFetched; {
		name := queue[0]
		if queue = queue[1:]; asked[name] {
			continue
		}
		asked[name] = true
		raw, err := e.options.Network.GetEvent(ctx, from, name)
		if err != nil {
			slog.DebugContext(ctx, "event not received", "event", name, "from", from, "error", err)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !answered(err) {
				trouble = fmt.Errorf("event %s from %s: %w: %w", name, from, errUnobtainable, err)
			}
			continue
		}
		for _, p := range e.check(ctx, from, v, room, []jsontext.Value{raw}, nil) {
			if p.ID != name {
				trouble = fmt.Errorf("event %s from %s, which answered with %s: %w", name, from, p.ID, errUnobtainable)
				continue
			}
			got = append(got, p)
			more, err := e.unknown(ctx, p.AuthEvents, true)
			if err != nil {
				return err
			}
			queue = append(queue, more...)
		}
	}
	in, err := e.hasServer(ctx, room, from)
	if err != nil {
		return err
	}
	if err := e.storeOutliers(ctx, in, v, room, got); err != nil {
		return err
	}
	return trouble
}

// answered says whether an error is what a server has to say, and no trouble that may pass.
func answered(err error) bool {
	told := (*errcode.Error)(nil)
	return errors.As(err, &told) && told.Status < 500 && told.Status != 429
}

// gatherBefore asks for the events between what is known and an event that was pushed, if any are
// missing. Those right before it must be here then. If they are handed over, and their auth events are here, but they
// cannot be judged, for want of the state that they met, the event is taken for one that is named.
// spec: server-server-api#backfilling-and-retrieving-missing-events
func (e *Engine) gatherBefore(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU) (found, error) {
	missing, err := e.unknown(ctx, p.PrevEvents, false)
	if err != nil || len(missing) == 0 {
		return pushed, err
	}
	h, ok, err := e.Head(ctx, p.Room)
	if err != nil || !ok {
		return pushed, err
	}
	q := MissingEvents{Latest: []id.Event{p.ID}, Limit: maxGathered}
	for _, x := range h.extremities[:min(len(h.extremities), maxPrevEvents)] {
		q.Earliest = append(q.Earliest, x.ID)
	}
	raws, err := e.options.Network.GetMissingEvents(ctx, origin, p.Room, q)
	if err != nil {
		return pushed, fmt.Errorf("events before %s: %w: %w", p.ID, errUnobtainable, err)
	}
	raws = raws[:min(len(raws), 2*maxGathered)]
	between := e.check(ctx, origin, v, p.Room, raws, nil)
	how := listed
	if len(between) < len(raws) || len(raws) == 0 {
		how = named // what is missing may be what was told, and is no event; or nothing is told
	}
	between = slices.DeleteFunc(between, func(q *event.PDU) bool { return q.ID == p.ID })
	e.receiveMissing(ctx, origin, v, between, how)
	if missing, err = e.unknown(ctx, missing, false); err != nil || len(missing) == 0 {
		return pushed, err
	}
	if how == listed {
		if missing, err = e.gatherNamed(ctx, origin, v, p.Room, missing); err != nil || len(missing) == 0 {
			return pushed, err
		}
	}
	for _, name := range missing {
		i := slices.IndexFunc(between, func(q *event.PDU) bool { return q.ID == name })
		lacks := []id.Event{name}
		if i >= 0 {
			if lacks, err = e.unknown(ctx, between[i].AuthEvents, true); err != nil {
				return pushed, err
			}
		}
		if len(lacks) > 0 {
			return pushed, fmt.Errorf("events %v before %s: %w", missing, p.ID, errUnobtainable)
		}
	}
	return named, nil
}

func (e *Engine) receiveMissing(ctx context.Context, origin id.Server, v *roomversion.Version, list []*event.PDU, how found) {
	e.receiveAll(ctx, origin, v, list, how, func(p *event.PDU, err error) {
		if err != nil {
			slog.DebugContext(ctx, "missing event refused", "event", p.ID, "from", origin, "error", err)
		}
	})
}

// maxNamed bounds how many missing events are asked for one by one.
const maxNamed = 5

// gatherNamed fetches missing events one by one, and says which are missing still. Servers do not list
// what they have rejected, but hand it out to who asks for it by name: else nobody who has not seen it
// could judge by himself what came of it, and would have to believe the state that some server, perhaps
// that which made it, says to be the one after it. What does not lead to known events was not left
// out, but is farther back than what was listed; so it is left.
func (e *Engine) gatherNamed(ctx context.Context, origin id.Server, v *roomversion.Version, room id.Room, missing []id.Event) ([]id.Event, error) {
	var got []*event.PDU
	names := slices.Clone(missing)
	for i := 0; i < len(names); i++ {
		if i == maxNamed {
			return missing, nil
		}
		raw, err := e.options.Network.GetEvent(ctx, origin, names[i])
		if err != nil {
			slog.DebugContext(ctx, "event not received", "event", names[i], "from", origin, "error", err)
			return missing, nil
		}
		list := e.check(ctx, origin, v, room, []jsontext.Value{raw}, nil)
		if len(list) == 0 || list[0].ID != names[i] || !list[0].CheckContentHash() { // the last: it came in redacted form
			return missing, nil
		}
		got = append(got, list[0])
		before, err := e.unknown(ctx, list[0].PrevEvents, false)
		if err != nil {
			return nil, err
		}
		for _, name := range before {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	e.receiveMissing(ctx, origin, v, got, named)
	return e.unknown(ctx, missing, false)
}

// gatherStates asks for the state after each of an event's prev_events that is not
// known here, and not to be had.
func (e *Engine) gatherStates(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU, how found) (map[id.Event]*StateMap, error) {
	missing, err := e.unknown(ctx, p.PrevEvents, false)
	if err != nil || len(missing) == 0 {
		return nil, err
	}
	states := map[id.Event]*StateMap{}
	if h, ok, err := e.Head(ctx, p.Room); err != nil {
		return nil, err
	} else if ok && h.Partial.Version != 0 {
		// Others would tell very many members, and the event is judged again when the
		// state is whole: what is known now has to do.
		for _, name := range missing {
			states[name] = h.State
		}
		return states, nil
	}
	if how == listed {
		if missing, err = e.gatherNamed(ctx, origin, v, p.Room, missing); err != nil {
			return nil, err
		}
	}
	for _, name := range missing {
		if states[name], err = e.tellsState(ctx, origin, v, p, name); err != nil {
			return nil, err
		}
	}
	return states, nil
}

// gatherUntold asks for the states after those of an event's prev_events that are known here,
// but for the state. Where nobody knows one, what is known has to do: that is guessed. While who
// may know it does not answer, the event cannot be judged.
func (e *Engine) gatherUntold(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU, states map[id.Event]*StateMap) (told map[id.Event]*StateMap, guessed bool, err error) {
	guesses, err := e.guessStates(ctx, p)
	if err != nil || len(guesses) == 0 {
		return states, false, err
	}
	told = maps.Clone(states)
	if told == nil {
		told = map[id.Event]*StateMap{}
	}
	for _, name := range p.PrevEvents {
		guess := guesses[name]
		if guess == nil {
			continue
		}
		m, err := e.tellsState(ctx, origin, v, p, name)
		if errors.Is(err, errNobodyKnows) {
			slog.InfoContext(ctx, "an event is judged by a state from after it, as no server knows the right one", "event", p.ID, "room", p.Room, "error", err)
			m, guessed, err = guess, true, nil
		}
		if err != nil {
			return nil, false, err
		}
		told[name] = m
	}
	return told, guessed, nil
}

// guessStates are the states after those of an event's prev_events that are known here, but for
// the state: they are from after them.
func (e *Engine) guessStates(ctx context.Context, p *event.PDU) (map[id.Event]*StateMap, error) {
	h, ok, err := e.Head(ctx, p.Room)
	if err != nil || !ok || h.Partial.Version != 0 {
		return nil, err
	}
	guesses := map[id.Event]*StateMap{}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		for _, name := range p.PrevEvents {
			ev, ok, err := e.Event(tx, h.NID, name)
			if err != nil {
				return err
			}
			if ok && ev.Flags.Untold() && ev.Flags&store.Outlier == 0 {
				if guesses[name], err = e.stateAfter(tx, h, ev); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return guesses, err
}

// maxStateTellers bounds how many servers are asked for the state after one event.
const maxStateTellers = 8

// tellsState asks for the state after an event before p, and where nobody tells that, for the state
// that p met: who made p knows by what.
func (e *Engine) tellsState(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU, name id.Event) (*StateMap, error) {
	m, err := e.tellsStateAfter(ctx, origin, v, p, name)
	if err == nil || ctx.Err() != nil {
		return m, err
	}
	m, also := e.tellsStateBefore(ctx, origin, v, p)
	if also != nil {
		return nil, errors.Join(err, also)
	}
	return m, nil
}

// tellTime is how long a server may be silent before another is asked for the same state.
const tellTime = 10 * time.Second

// tellsStateAfter asks for the state after an event before p: first the server that made p, as
// whoever hands it on may say of the state what would have p refused, then that. Where neither
// knows, others in the room are asked. Two of them have to tell the same, since any one may be
// hostile; one alone is believed if all others answered that they do not know.
func (e *Engine) tellsStateAfter(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU, name id.Event) (*StateMap, error) {
	first, err := e.makerAnd(ctx, origin, p)
	if err != nil {
		return nil, err
	}
	servers, err := e.stateTellers(ctx, p.Room, first)
	if err != nil {
		return nil, err
	}
	var errs []error
	var told []*StateMap // by others
	answers := true      // they all answer
	for r := range inTurn(ctx, servers, tellTime, func(ctx context.Context, server id.Server) (*StateMap, error) {
		return e.fetchStateAfter(ctx, server, v, p.Room, name)
	}) {
		switch {
		case r.err == nil && (r.n < len(first) || slices.ContainsFunc(told, func(m *StateMap) bool { return len(m.Diff(r.value)) == 0 })):
			return r.value, nil
		case r.err == nil:
			told = append(told, r.value)
		default:
			answers = answers && answered(r.err)
			errs = append(errs, fmt.Errorf("%s: %w", servers[r.n], r.err))
			slog.DebugContext(ctx, "state not received", "event", p.ID, "from", servers[r.n], "error", r.err)
		}
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case len(told) == 1 && answers:
		return told[0], nil
	}
	return nil, fmt.Errorf("state after %s: %w: %w", name, errUnobtainable, errors.Join(errs...))
}

// makerAnd are the servers that know most of an event and are believed: the one that made it, and that
// which handed it on. Of a server that is not in the room, as far as is known, nobody's word is taken: if
// it has come meanwhile, others who are there tell of that.
func (e *Engine) makerAnd(ctx context.Context, origin id.Server, p *event.PDU) ([]id.Server, error) {
	believed, err := e.hasServer(ctx, p.Room, origin)
	if err != nil {
		return nil, err
	}
	var list []id.Server
	if maker := p.Sender.Server(); maker != origin && maker != e.options.Server {
		in := believed
		if !in {
			if in, err = e.hasServer(ctx, p.Room, maker); err != nil {
				return nil, err
			}
		}
		if in {
			list = append(list, maker)
		}
	}
	if believed {
		list = append(list, origin)
	}
	return list, nil
}

// errNobodyKnows says that the servers which know most of an event have answered, but do not know
// the state that it met.
var errNobodyKnows = errors.New("no server knows the state")

// tellsStateBefore asks for the state that p met: the server that made p knows that, even if it
// never knew the one after an event before p.
func (e *Engine) tellsStateBefore(ctx context.Context, origin id.Server, v *roomversion.Version, p *event.PDU) (*StateMap, error) {
	servers, err := e.makerAnd(ctx, origin, p)
	if err != nil {
		return nil, err
	}
	var errs []error
	why := errNobodyKnows
	if len(servers) == 0 {
		why = errUnobtainable
	}
	for r := range inTurn(ctx, servers, tellTime, func(ctx context.Context, server id.Server) (*StateMap, error) {
		return e.fetchStateBefore(ctx, server, v, p.Room, p.ID)
	}) {
		if r.err == nil {
			return r.value, nil
		}
		if !answered(r.err) {
			why = errUnobtainable
		}
		errs = append(errs, fmt.Errorf("%s: %w", servers[r.n], r.err))
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return nil, fmt.Errorf("state before %s: %w: %w", p.ID, why, errors.Join(errs...))
}

// stateTellers are servers that may know the state after an event: some to be asked first, and
// others in the room.
func (e *Engine) stateTellers(ctx context.Context, room id.Room, first []id.Server) (list []id.Server, err error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil || !ok {
		return first, err
	}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		list, err = e.residents(tx, h.NID, first, maxStateTellers)
		return err
	})
	return list, err
}

// fetchStateAfter asks a server for the state after an event.
func (e *Engine) fetchStateAfter(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, at id.Event) (*StateMap, error) {
	return e.fetchStateAt(ctx, from, v, room, at, []id.Event{at})
}

// fetchStateBefore asks a server for the state that an event met.
func (e *Engine) fetchStateBefore(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, at id.Event) (*StateMap, error) {
	return e.fetchStateAt(ctx, from, v, room, at, nil)
}

// fetchStateAt asks a server for the state that an event met, and adds the change of the
// event itself if that is wanted. What of it is not here is fetched and kept as outliers.
func (e *Engine) fetchStateAt(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, at id.Event, own []id.Event) (*StateMap, error) {
	state, chain, err := e.options.Network.GetRoomStateIDs(ctx, from, room, at)
	if err != nil {
		return nil, err
	}
	wanted := slices.Concat(state, chain, own)
	missing, err := e.unknown(ctx, wanted, true)
	if err != nil {
		return nil, err
	}
	if len(missing) > maxFetched/10 {
		if err := e.fetchState(ctx, from, v, room, at); err != nil {
			return nil, err
		}
		if missing, err = e.unknown(ctx, missing, true); err != nil {
			return nil, err
		}
	}
	if err := e.fetchOutliers(ctx, from, v, room, missing); err != nil {
		return nil, err
	}
	m, err := e.stateOf(ctx, room, append(state, own...))
	if err != nil {
		return nil, err
	}
	var whole bool
	err = e.store.View(ctx, func(tx *store.Tx) (err error) {
		whole, err = e.hasCreate(tx, m)
		return err
	})
	if err == nil && !whole {
		err = errNoState
	}
	return m, err
}

// fetchState fetches a whole state with its auth chain.
func (e *Engine) fetchState(ctx context.Context, from id.Server, v *roomversion.Version, room id.Room, at id.Event) (err error) {
	t, err := e.receiveTold(from, v, room)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.close()) }()
	if err := e.options.Network.GetRoomState(ctx, from, room, at, t.add); err != nil {
		return err
	}
	return t.store(ctx)
}

// stateOf is the state that some events make, as far as they are here and were not
// rejected. The last may be any event: it counts if it sets an entry.
func (e *Engine) stateOf(ctx context.Context, room id.Room, names []id.Event) (*StateMap, error) {
	events := make(map[store.StateKey]store.EventNID, len(names))
	err := e.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(room)
		if err != nil || !ok {
			return err
		}
		for _, name := range names {
			row, ok, err := tx.Events.Know(name)
			if err != nil {
				return err
			}
			if ok && row.Room == nid && row.IsState && !row.Flags.Refused() && row.Flags&store.Outside == 0 {
				events[row.Key] = row.NID
			}
		}
		return nil
	})
	entries := make([]store.StateEntry, 0, len(events))
	for _, key := range slices.Sorted(maps.Keys(events)) {
		entries = append(entries, store.StateEntry{Key: key, Event: events[key]})
	}
	return newStateMap(entries), err
}
