package room

import (
	"context"
	"fmt"
	"math"
	"slices"

	"hearth/matrix/event"
	"hearth/matrix/stateres"
	"hearth/matrix/visibility"
	"hearth/store"
)

// overlay is the state that an event of a branch met, with what decides about who
// may see the event already read.
type overlay struct {
	store.Overlay
	history     *visibility.History // nil: as in the version that it lies on
	memberships map[store.UserNID]store.Membership
}

// overlay reads an overlay with the values that visibility asks for.
func (e *Engine) overlay(tx *store.Tx, nid int64) (*overlay, error) {
	row, ok, err := tx.Overlays.Get(nid)
	if err != nil || !ok {
		return nil, fmt.Errorf("read overlay %d (%v): %w", nid, ok, err)
	}
	return newOverlay(tx, row, e.pdu)
}

func newOverlay(tx *store.Tx, row store.Overlay, read func(*store.Tx, store.EventNID) (*event.PDU, error)) (*overlay, error) {
	o := &overlay{Overlay: row, memberships: map[store.UserNID]store.Membership{}}
	historyKey, hasHistory, err := tx.IDs.FindStateKey(event.StateTuple{Type: event.TypeHistoryVisibility})
	if err != nil {
		return nil, err
	}
	for _, c := range row.Changes {
		user, isMember := store.IsMemberKey(c.Key)
		if !isMember && !(hasHistory && c.Key == historyKey) {
			continue
		}
		var pdu *event.PDU
		if c.Event != 0 {
			if pdu, err = read(tx, c.Event); err != nil {
				return nil, err
			}
		}
		if isMember {
			o.memberships[user] = membershipOf(pdu)
			continue
		}
		h := visibility.Shared
		if pdu != nil {
			h = visibility.ParseHistory(pdu.ContentString("history_visibility"))
		}
		o.history = &h
	}
	return o, nil
}

// stateBefore is the state that an event met. Of outliers nothing is known.
func (e *Engine) stateBefore(tx *store.Tx, h *Head, ev *Event) (*StateMap, error) {
	if ev.Flags&store.Outlier != 0 {
		return nil, fmt.Errorf("the state before %s is not known", ev.ID)
	}
	if ev.overlay == nil {
		return e.stateVersion(tx, h, ev.StateBefore)
	}
	base, err := e.stateVersion(tx, h, ev.overlay.Version)
	if err != nil {
		return nil, err
	}
	return base.With(ev.overlay.Changes), nil
}

// stateAfter is the state with the event's own change. Rejected events change nothing.
func (e *Engine) stateAfter(tx *store.Tx, h *Head, ev *Event) (*StateMap, error) {
	m, err := e.stateBefore(tx, h, ev)
	if err == nil && ev.IsState && ev.Flags&store.Rejected == 0 {
		m = m.Set(ev.Key, ev.NID)
	}
	return m, err
}

// stateVersion is a version of a room's current state, from memory where the head has it.
func (e *Engine) stateVersion(tx *store.Tx, h *Head, version int64) (*StateMap, error) {
	if version == h.StateVersion {
		return h.State, nil
	}
	for _, p := range slices.Backward(h.past) {
		if p.version == version {
			return p.state, nil
		}
	}
	entries, err := tx.State.All(h.NID, version)
	if err != nil {
		return nil, fmt.Errorf("read state %d of %s: %w", version, h.ID, err)
	}
	return newStateMap(entries), nil
}

// nameState says how an event names the state m: as a version of the room's current
// state, or as an overlay, which is new unless it is that of a previous event.
func (w *writing) nameState(ctx context.Context, tx *store.Tx, m *StateMap, prev []*Event) (before int64, o *overlay, fresh bool, err error) {
	changes := w.head.State.Diff(m)
	if len(changes) == 0 {
		return w.head.StateVersion, nil, false, nil
	}
	for _, p := range slices.Backward(w.head.past) {
		if p.state == m || len(p.state.Diff(m)) == 0 {
			return p.version, nil, false, nil
		}
	}
	for _, p := range prev {
		if p.overlay != nil && p.overlay.Version == w.head.StateVersion && slices.Equal(p.overlay.Changes, changes) {
			return p.StateBefore, p.overlay, false, nil
		}
	}
	nid, err := w.engine.nids.next(ctx, w.engine.store)
	if err != nil {
		return 0, nil, false, err
	}
	o, err = newOverlay(tx, store.Overlay{NID: nid, Room: w.head.NID, Version: w.head.StateVersion, Changes: changes}, w.pdu)
	return -nid, o, true, err
}

// resolve makes one state of those of several branches.
// spec: server-server-api#room-state-resolution
func (w *writing) resolve(tx *store.Tx, states []*StateMap) (*StateMap, error) {
	states = distinct(states)
	if len(states) == 1 {
		return states[0], nil
	}
	g, err := w.graph(tx)
	if err != nil {
		return nil, err
	}
	sets := make([]stateres.Set, len(states))
	for i, m := range states {
		if sets[i], err = setOf(g, m); err != nil {
			return nil, err
		}
	}
	conflict, err := stateres.Find(w.head.Version, g, sets)
	if err != nil {
		return nil, fmt.Errorf("resolve state of %s: %w", w.head.ID, err)
	}
	bodies, err := w.bodies(tx, g, conflict.Events())
	if err != nil {
		return nil, err
	}
	lookups, err := conflict.Lookups(bodies)
	if err != nil {
		return nil, fmt.Errorf("resolve state of %s: %w", w.head.ID, err)
	}
	entries := make(map[event.StateTuple]*event.PDU, len(lookups))
	for _, t := range lookups {
		key, ok, err := tx.IDs.FindStateKey(t)
		if err != nil {
			return nil, err
		}
		if !ok {
			continue
		}
		if i, ok := g.Find(conflict.Unconflicted(), stateres.Key(key)); ok {
			found, err := w.bodies(tx, g, []stateres.Index{i})
			if err != nil {
				return nil, err
			}
			entries[t] = found[0]
		}
	}
	resolution, err := conflict.Resolve(bodies, entries)
	if err != nil {
		return nil, fmt.Errorf("resolve state of %s: %w", w.head.ID, err)
	}
	return resolved(g, states, resolution.Resolved, conflict.Unconflicted()), nil
}

// distinct leaves out states that are there already.
func distinct(states []*StateMap) []*StateMap {
	var kept []*StateMap
	for _, m := range states {
		if !slices.ContainsFunc(kept, func(k *StateMap) bool { return k == m || len(k.Diff(m)) == 0 }) {
			kept = append(kept, m)
		}
	}
	return kept
}

// resolved puts what was decided in the place of what the states differ in. It may be
// more: an entry that no state has comes back with events that rest on it. In version 1,
// an entry that only some states have is no matter of dispute.
func resolved(g *stateres.Graph, states []*StateMap, decided, unconflicted stateres.Set) *StateMap {
	m := states[0]
	for _, other := range states[1:] {
		for _, c := range states[0].Diff(other) {
			if i, ok := g.Find(unconflicted, stateres.Key(c.Key)); ok {
				m = m.Set(c.Key, g.NID(i))
			} else if _, ok := g.Find(decided, stateres.Key(c.Key)); !ok {
				m = m.Without(c.Key)
			}
		}
	}
	for _, i := range decided {
		m = m.Set(store.StateKey(g.Key(i)), g.NID(i))
	}
	return m
}

func setOf(g *stateres.Graph, m *StateMap) (stateres.Set, error) {
	list := make([]stateres.Index, 0, m.Len())
	missing := store.EventNID(0)
	m.All(func(_ store.StateKey, nid store.EventNID) bool {
		i, ok := g.Lookup(nid)
		if !ok {
			missing = nid
			return false
		}
		list = append(list, i)
		return true
	})
	if missing != 0 {
		return nil, fmt.Errorf("event %d of the state is not in the auth graph", missing)
	}
	return g.NewSet(list)
}

func (w *writing) bodies(tx *store.Tx, g *stateres.Graph, list []stateres.Index) ([]*event.PDU, error) {
	nids := make([]store.EventNID, len(list))
	for i, x := range list {
		nids[i] = g.NID(x)
	}
	events, err := w.events(tx, nids)
	if err != nil {
		return nil, fmt.Errorf("load events to resolve: %w", err)
	}
	pdus := make([]*event.PDU, len(list))
	for i, ev := range events {
		pdus[i] = ev.PDU
	}
	return pdus, nil
}

// graph is the room's auth graph with this write set, read as far as it has grown since it was
// last asked for.
func (w *writing) graph(tx *store.Tx) (*stateres.Graph, error) {
	r := w.room
	if r.graph == nil {
		r.graph = &stateres.Graph{}
	}
	err := growGraph(tx, r.graph, w.head.NID)
	for i := 0; i < len(w.nodes) && err == nil; i++ {
		if _, ok := r.graph.Lookup(w.nodes[i].Event); !ok {
			err = appendNode(tx, r.graph, w.nodes[i])
		}
	}
	if err != nil {
		r.graph = nil
		return nil, fmt.Errorf("auth graph of %s: %w", w.head.ID, err)
	}
	w.pronounce()
	return r.graph, nil
}

// growGraph reads what of a room's auth graph was committed since it was last read.
func growGraph(tx *store.Tx, g *stateres.Graph, room store.RoomNID) error {
	for {
		last := store.EventNID(0)
		if n := g.Len(); n > 0 {
			last = g.NID(stateres.Index(n - 1))
		}
		nodes, err := tx.AuthGraph.After(room, last, graphChunk)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if err := appendNode(tx, g, n); err != nil {
				return err
			}
		}
		if len(nodes) < graphChunk {
			return nil
		}
	}
}

// graphChunk is how many events of an auth graph are read at once.
const graphChunk = 5000

func appendNode(tx *store.Tx, g *stateres.Graph, n store.AuthNode) error {
	if n.Key > math.MaxUint32 {
		return fmt.Errorf("state key %d is too large for the graph", n.Key)
	}
	node := stateres.Node{NID: n.Event, Key: stateres.Key(n.Key), Kind: stateres.KindMember, Rejected: n.Rejected}
	if _, isMember := store.IsMemberKey(n.Key); !isMember {
		t, err := tx.IDs.StateTuple(n.Key)
		if err != nil {
			return err
		}
		node.Kind = stateres.KindOf(t)
	}
	for _, nid := range n.Auth {
		i, ok := g.Lookup(nid)
		if !ok {
			return fmt.Errorf("auth event %d of event %d is missing", nid, n.Event)
		}
		node.Auth = append(node.Auth, i)
	}
	_, err := g.Append(node)
	return err
}

// maySee is visibility for an event that does not lie on the line of the room's
// current states: by the values where it lies.
func (v *View) maySee(ev *Event) bool {
	base := ev.VersionBefore()
	before := v.viewer.At(base)
	if o := ev.overlay; o != nil {
		if o.history != nil {
			before.History = *o.history
		}
		if m, ok := o.memberships[v.User]; ok {
			before.Membership = visibility.ParseMembership(m.String())
		}
	}
	after := before
	switch p := ev.PDU; {
	case p.Is(event.TypeHistoryVisibility, ""):
		after.History = visibility.ParseHistory(p.ContentString("history_visibility"))
	case ev.IsState && ev.Key == store.MemberKey(v.User):
		after.Membership = visibility.ParseMembership(p.Membership())
	}
	return visibility.May(before, after, v.viewer.JoinsAfter(base))
}
