package remote

import (
	"context"
	"fmt"
	"slices"

	"hearth/matrix/canonical"
	"hearth/store"
)

const (
	// catchUpAfter is how many events a destination may have missed that it is
	// still sent each of them.
	catchUpAfter = 500
	// maxHeads bounds the events sent of one room then.
	maxHeads = 10
	scanRows = 500
	maxScans = 20 // before what was found is sent
)

// catchUp is how a destination that reads the store gets what it missed. When that
// is much, it is sent the newest events of each room only, and asks for those
// before them; of changes of a user's keys it is sent the last one, and asks for
// all of them. That goes for changes too whose EDUs are so old that they were
// deleted. Other EDUs it gets in order, none left out that is there still.
type catchUp struct {
	surveyed   bool
	horizon    int64            // events up to here are covered by heads
	heads      []store.EventNID // still to be sent
	superseded map[int64]bool   // positions of EDUs that a later one makes useless
}

// fromStore makes the next transaction of what the store has for a destination
// up to a position; nil: there is none, and if nothing came since it has a queue again.
func (s *Sender) fromStore(ctx context.Context, d *recipient, upTo int64) (*transaction, error) {
	if d.attempt > d.cursor {
		// The specification wants the very transaction that failed, before any other. If
		// something of it may be deleted, the rest of it must not hide what was missed.
		gone, err := s.deleted(ctx, deletedEvents)
		if err != nil {
			return nil, err
		}
		if d.cursor >= gone {
			if t, err := s.collect(ctx, d, min(d.attempt, upTo)); t != nil || err != nil {
				return t, err
			}
		}
		s.mu.Lock()
		d.attempt = 0
		s.mu.Unlock()
	}
	if !d.catchUp.surveyed {
		if err := s.survey(ctx, d, upTo); err != nil {
			return nil, err
		}
	}
	if len(d.catchUp.heads) > 0 {
		if t, err := s.fromHeads(ctx, d); t != nil || err != nil {
			return t, err
		}
	}
	if t, err := s.fromChanges(ctx, d); t != nil || err != nil {
		return t, err
	}
	if t, err := s.collect(ctx, d, upTo); t != nil || err != nil {
		return t, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d.cursor = upTo
	if s.spread == upTo {
		d.reading, d.catchUp = false, catchUp{}
	}
	s.touch()
	return nil, nil
}

// deleted is up to where items of a kind are deleted that somebody has not got.
func (s *Sender) deleted(ctx context.Context, kind string) (upTo int64, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		upTo, _, err = tx.Followers.Position(kind)
		return err
	})
	return upTo, err
}

// collect makes a transaction of the items for a destination after its cursor, up
// to a position.
func (s *Sender) collect(ctx context.Context, d *recipient, upTo int64) (*transaction, error) {
	t := &transaction{limit: d.limit}
	at, full := d.cursor, false
	for scans := 0; at < upTo && !full && scans < maxScans; {
		if t.items > 0 {
			scans++
		}
		err := s.store.View(ctx, func(tx *store.Tx) error {
			rows, mine, err := s.placesFor(tx, d, at, upTo)
			if err != nil {
				return err
			}
			var reached int64
			if reached, full, err = t.fill(tx, mine); full {
				at = max(at, reached)
			} else if at = upTo; len(rows) == scanRows {
				at = rows[scanRows-1].Position
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	if t.items == 0 && at == upTo {
		return nil, nil
	}
	t.last = at
	t.accepted = func() { d.cursor = max(d.cursor, at) }
	return t, nil
}

// placesFor reads some items after a position, and picks those for a destination.
func (s *Sender) placesFor(tx *store.Tx, d *recipient, after, upTo int64) (rows, mine []store.OutgoingItem, err error) {
	if rows, err = tx.Outgoing.Places(after, upTo, scanRows); err != nil {
		return nil, nil, err
	}
	for _, r := range rows {
		set, err := s.set(tx, r.Set)
		if err != nil {
			return nil, nil, err
		}
		covered := r.Event != 0 && r.Position <= d.catchUp.horizon || d.catchUp.superseded[r.Position]
		if set.has(d.nid) && !covered {
			mine = append(mine, r)
		}
	}
	return rows, mine, nil
}

// fill takes items in until the transaction is full; reached is the last of them.
func (t *transaction) fill(tx *store.Tx, rows []store.OutgoingItem) (reached int64, full bool, err error) {
	for len(rows) > 0 && !full {
		some := rows[:min(len(rows), maxPDUs)]
		rows = rows[len(some):]
		for i := range some {
			if some[i].Event == 0 {
				if some[i].EDU, _, err = tx.Outgoing.EDU(some[i].Position); err != nil {
					return reached, false, err
				}
			}
		}
		items, err := load(tx, some)
		if err != nil {
			return reached, false, err
		}
		for i, it := range items {
			if it != nil && !t.add(it) {
				full = true
				break
			}
			reached = some[i].Position
		}
	}
	return reached, full, nil
}

// survey finds out how much a destination has missed, and what to send if it is much.
func (s *Sender) survey(ctx context.Context, d *recipient, upTo int64) error {
	c := catchUp{surveyed: true, superseded: map[int64]bool{}}
	newest := map[store.RoomNID]store.EventNID{}
	lists := map[string]int64{}
	events, gone := 0, false
	for at := d.cursor; at < upTo; {
		err := s.store.View(ctx, func(tx *store.Tx) error {
			deleted, _, err := tx.Followers.Position(deletedEvents)
			if err != nil {
				return err
			}
			gone = d.cursor < deleted
			rows, mine, err := s.placesFor(tx, d, at, upTo)
			if err != nil {
				return err
			}
			for _, r := range mine {
				if r.Event != 0 {
					newest[r.Room] = r.Event
					events++
				} else if err := c.supersede(tx, r.Position, lists); err != nil {
					return err
				}
			}
			if at = upTo; len(rows) == scanRows {
				at = rows[scanRows-1].Position
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("survey: %w", err)
		}
	}
	if events > catchUpAfter || gone {
		c.horizon = upTo
		err := s.store.View(ctx, func(tx *store.Tx) (err error) {
			c.heads, err = headsFor(tx, d, newest, gone)
			return err
		})
		if err != nil {
			return fmt.Errorf("newest events of rooms: %w", err)
		}
	}
	d.catchUp = c
	return nil
}

// supersede notes an EDU that changes a user's keys; lists has the last position of each.
func (c *catchUp) supersede(tx *store.Tx, position int64, lists map[string]int64) error {
	edu, ok, err := tx.Outgoing.EDU(position)
	if err != nil || !ok {
		return err
	}
	typ, _ := canonical.GetString(edu, "edu_type")
	if typ != "m.device_list_update" && typ != "m.signing_key_update" {
		return nil
	}
	user, _ := canonical.GetString(canonical.Get(edu, "content"), "user_id")
	key := typ + " " + user
	if earlier, ok := lists[key]; ok {
		c.superseded[earlier] = true
	}
	lists[key] = position
	return nil
}

// headsFor lists the newest events of the rooms of which a destination missed
// something: newest has the last one for it of each. Where gone, that is not all,
// and all rooms that it is in are looked at.
func headsFor(tx *store.Tx, d *recipient, newest map[store.RoomNID]store.EventNID, gone bool) (heads []store.EventNID, err error) {
	if gone {
		in, err := tx.RoomServers.RoomsOf(d.nid)
		if err != nil {
			return nil, err
		}
		for _, room := range in {
			if _, known := newest[room]; !known {
				newest[room] = 0
			}
		}
	}
	for room, last := range newest {
		r, known, err := tx.Rooms.GetNID(room)
		if err != nil {
			return nil, err
		}
		in, err := tx.RoomServers.In(room, d.nid)
		if err != nil {
			return nil, err
		}
		switch {
		case !known || last == 0 && r.LastPosition <= d.cursor:
		case in:
			heads = append(heads, r.Extremities[max(0, len(r.Extremities)-maxHeads):]...)
		default:
			heads = append(heads, last) // its last member was sent away, say
		}
	}
	slices.Sort(heads)
	return heads, nil
}

// fromHeads makes a transaction of the newest events of rooms; nil: there are no more.
func (s *Sender) fromHeads(ctx context.Context, d *recipient) (*transaction, error) {
	t := &transaction{limit: d.limit}
	n := 0
	err := s.store.View(ctx, func(tx *store.Tx) error {
		some := d.catchUp.heads[:min(len(d.catchUp.heads), maxPDUs)]
		events, err := tx.Events.Load(some)
		if err != nil {
			return err
		}
		bodies := map[store.EventNID][]byte{}
		for _, e := range events {
			bodies[e.NID] = e.JSON
		}
		for _, nid := range some {
			if body := bodies[nid]; body != nil && !t.add(&item{body: body}) {
				break
			}
			n++
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	t.accepted = func() { d.catchUp.heads = d.catchUp.heads[n:] }
	if t.items == 0 {
		t.accepted()
		return nil, nil
	}
	return t, nil
}

// fromChanges makes a transaction of the changes of keys after the cursor of a destination, up to
// where their EDUs are deleted; nil: there are no more.
func (s *Sender) fromChanges(ctx context.Context, d *recipient) (*transaction, error) {
	for {
		gone, err := s.deleted(ctx, deletedEDUs)
		if err != nil || d.cursor >= gone || s.options.MissedKeys == nil {
			return nil, err
		}
		t := &transaction{limit: d.limit}
		at := gone
		err = s.store.View(ctx, func(tx *store.Tx) error {
			changes, err := tx.DeviceLists.Devices(d.cursor, gone, scanRows)
			if err != nil {
				return err
			}
			if len(changes) == scanRows {
				at = changes[scanRows-1].Position
			}
			if reached, full, err := s.fillMissed(tx, t, d.nid, changes); err != nil || full {
				at = reached
				return err
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("changes of keys: %w", err)
		}
		t.last = at
		t.accepted = func() { d.cursor = max(d.cursor, at) }
		if t.items > 0 {
			return t, nil
		}
		s.mu.Lock()
		t.accepted()
		s.mu.Unlock()
	}
}

// fillMissed takes in what tells a server of changes of keys until the transaction is full;
// reached is the last change that it covers.
func (s *Sender) fillMissed(tx *store.Tx, t *transaction, to store.ServerNID, changes []store.DeviceListChange) (reached int64, full bool, err error) {
	told := map[store.UserNID]bool{} // who hears of one device asks for all
	for _, c := range changes {
		if c.Device == "" || !told[c.User] {
			edu, err := s.options.MissedKeys(tx, c, to)
			if err != nil {
				return reached, false, err
			}
			if edu != nil && !t.add(&item{position: c.Position, edu: true, body: edu}) {
				return reached, true, nil
			}
			told[c.User] = told[c.User] || c.Device != ""
		}
		reached = c.Position
	}
	return reached, false, nil
}
