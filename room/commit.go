package room

import (
	"fmt"

	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// What a write set does in the store's transaction, once it is built (write.go).

// commit writes the set in the store's transaction. It may touch nothing but the store.
func (w *writing) commit(tx *store.Tx) error {
	row := w.head.Room
	row.Head = w.base.Head
	row.LastPosition = 0
	for i := range w.entries {
		if en := &w.entries[i]; en.placed() && en.position == 0 {
			if row.LastPosition == 0 {
				row.LastPosition = tx.Position() + w.takes
			}
			if row.LastPosition++; en.gap != nil {
				row.LastPosition += keptFree
			}
		}
	}
	// First, so that a set which another node has overtaken is known as such.
	if err := tx.Rooms.Advance(row); err != nil {
		return err
	}
	for _, fn := range w.first {
		if err := fn(tx, row.LastPosition); err != nil {
			return err
		}
	}
	version := w.from
	for i := range w.entries {
		en := &w.entries[i]
		if len(en.changes) > 0 {
			version++
		}
		if err := w.commitEntry(tx, en, version); err != nil {
			return err
		}
	}
	for _, fn := range w.also {
		if err := fn(tx); err != nil {
			return err
		}
	}
	return nil
}

// commitEntry stores an event, and what it changes; version is that of the room's
// current state after it.
func (w *writing) commitEntry(tx *store.Tx, en *entry, version int64) error {
	row := en.event.Event
	row.Room, row.JSON = w.head.NID, en.event.PDU.JSON
	if err := w.commitPlace(tx, en, &row); err != nil {
		return fmt.Errorf("place %s: %w", row.ID, err)
	}
	if en.joinsGraph() {
		if err := w.commitAuth(tx, en, row); err != nil {
			return fmt.Errorf("auth events of %s: %w", row.ID, err)
		}
	} else if en.changesVerdict() {
		if err := tx.AuthGraph.SetRejected(row.Room, row.NID, row.Flags.Refused()); err != nil {
			return fmt.Errorf("verdict on %s: %w", row.ID, err)
		}
	}
	if en.again {
		if err := w.commitAgain(tx, en, row); err != nil {
			return fmt.Errorf("judge %s again: %w", row.ID, err)
		}
	}
	placed := &Event{Event: row, PDU: en.event.PDU, overlay: en.event.overlay}
	placed.JSON = nil // the PDU has it
	if en.keep() {
		tx.AfterCommit(func() { w.engine.events.Set(placed.NID, placed) })
	}
	for _, c := range en.changes {
		if err := tx.State.Insert(row.Room, c.key, version, c.event); err != nil {
			return fmt.Errorf("change state by %s: %w", row.ID, err)
		}
		if c.event != row.NID {
			if err := tx.Events.Shift(row.Room, row.Position, c.key); err != nil {
				return fmt.Errorf("change state by %s: %w", row.ID, err)
			}
		}
	}
	if en.txn != nil {
		if err := tx.Transactions.Insert(*en.txn, row.NID, now()); err != nil {
			return fmt.Errorf("note transaction of %s: %w", row.ID, err)
		}
	}
	for _, apply := range en.effects {
		if err := apply(tx, row); err != nil {
			return fmt.Errorf("effects of %s: %w", row.ID, err)
		}
	}
	if !en.placed() || en.position != 0 {
		return nil
	}
	tx.Touch(stream.Room, row.Room, w.concerned(en)...)
	return w.forward(tx, en, row)
}

// commitPlace stores the event's row, with its position if it joins the timeline.
func (w *writing) commitPlace(tx *store.Tx, en *entry, row *store.Event) error {
	if en.overlay != nil {
		if err := tx.Overlays.Insert(*en.overlay); err != nil {
			return err
		}
	}
	if en.old != 0 {
		if err := tx.Events.Renumber(row.Room, en.old, row.NID); err != nil {
			return err
		}
	}
	switch {
	case !en.placed():
	case en.position != 0:
		row.Position = en.position
	default:
		if err := w.commitGap(tx, en, row); err != nil {
			return err
		}
		row.Position = tx.NextPosition()
	}
	if en.stored {
		return tx.Events.Place(*row)
	}
	return tx.Events.Insert(*row)
}

// commitGap keeps positions free before an event whose prev_events are not known.
func (w *writing) commitGap(tx *store.Tx, en *entry, row *store.Event) error {
	if en.gap == nil {
		return nil
	}
	first, last := tx.KeepFree(keptFree)
	at := last + 1
	var unnoted []id.Event // the others are fetched for the gap where they are missing already
	for _, missing := range en.gap {
		if _, noted, err := tx.Gaps.Missing(row.Room, missing); err != nil {
			return err
		} else if !noted {
			unnoted = append(unnoted, missing)
		}
	}
	if len(unnoted) == 0 {
		return nil
	}
	if err := tx.Gaps.Insert(store.Gap{Room: row.Room, Position: at, Next: last, Floor: first, StateBefore: row.StateBefore}); err != nil {
		return err
	}
	for _, missing := range unnoted {
		if err := tx.Gaps.Miss(row.Room, missing, at); err != nil {
			return err
		}
	}
	return nil
}

func (w *writing) commitAuth(tx *store.Tx, en *entry, row store.Event) error {
	node := en.node(row.Room)
	if node.Auth == nil {
		for _, name := range en.event.PDU.AuthEvents {
			nid, ok, err := tx.Events.Find(name)
			if err != nil || !ok {
				return fmt.Errorf("find %s (%v): %w", name, ok, err)
			}
			node.Auth = append(node.Auth, nid)
		}
	}
	return tx.AuthGraph.Insert(node)
}

// outsiders are the servers of users whose invite or knock the event ends: these need
// not be in the room.
func (en *entry) outsiders() (list []store.ServerNID) {
	for _, c := range en.changes {
		if m := c.member; m != nil && !m.local && m.after != store.Join && (m.before == store.Invite || m.before == store.Knock) {
			list = append(list, m.server)
		}
	}
	return list
}

// forward queues an event for the other servers in the room.
func (w *writing) forward(tx *store.Tx, en *entry, row store.Event) error {
	if !en.forward {
		return nil
	}
	set, err := w.base.servers.destinations(tx, w.engine.options.Server, en.origin, en.outsiders()...)
	if err != nil || set == 0 {
		return err
	}
	return tx.Outgoing.Insert(store.OutgoingItem{Position: row.Position, Room: row.Room, Event: row.NID, Set: set})
}

// concerned are the local users who can see an event: those joined, and whom a
// membership event is about.
func (w *writing) concerned(en *entry) []store.UserNID {
	users := w.head.Locals
	for _, c := range en.changes {
		if m := c.member; m != nil && m.local {
			users = withLocal(users, m.user, true)
		}
	}
	return users
}

// commitSnapshot stores entries of a state that another server told, as a version of
// the room's state; its memberships came about for us at a position.
func (w *writing) commitSnapshot(tx *store.Tx, changes []change, version, position int64) error {
	joins := map[store.ServerNID]int64{}
	for _, c := range changes {
		if err := tx.State.Amend(w.head.NID, c.key, version, c.event); err != nil {
			return fmt.Errorf("store state of %s: %w", w.head.ID, err)
		}
		if c.member == nil {
			continue
		}
		if err := c.member.set(tx, w.head.NID, c.event, position); err != nil {
			return err
		}
		if c.member.local {
			tx.Touch(stream.Room, w.head.NID, c.member.user)
		}
		joins[c.member.server] += c.member.joins()
	}
	for server, n := range joins {
		if n == 0 {
			continue
		}
		if err := tx.RoomServers.Add(w.head.NID, server, n); err != nil {
			return fmt.Errorf("count servers in %s: %w", w.head.ID, err)
		}
	}
	return nil
}
