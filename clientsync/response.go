package clientsync

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"hearth/matrix/canonical"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// response is one answer while it is made.
type response struct {
	s       *Syncer
	req     *Request
	user    store.UserNID
	filter  *filter.Filter
	initial bool
	since   stream.Token // what the client has seen
	now     stream.Token // what it will have seen: next_batch
	clock   int64        // milliseconds, for unsigned.age
	ignored map[store.UserNID]bool
	met     map[store.UserNID]bool // users who may have come into sight
	changes changes
	members []sentMember // members that go out for the first time

	// parts: the answer goes out while it is made.
	parts bool
	large *largeState // of the room that is being written

	w    writer
	news bool // there is something that a waiting client wants to hear
}

// maxToDevice is how many to-device messages go out at once; the rest follow
// as soon as the client has acknowledged them.
// spec: client-server-api#send-to-device-messaging
const maxToDevice = 100

// manyRooms is from how many rooms on an answer is made in several snapshots,
// so that neither memory nor a reader of the store is held for long.
const manyRooms = 32

// build makes the whole answer but its end. What it tells of rooms is as of
// y.now, also where it reads a later snapshot: timelines end there, and states
// are read by version.
func (y *response) build(ctx context.Context) error {
	var sections [sectionCount][]job
	err := y.s.store.View(ctx, func(tx *store.Tx) error {
		if err := y.begin(ctx, tx); err != nil {
			return err
		}
		y.w.b = append(y.w.b, '{')
		if err := y.personal(tx); err != nil {
			return err
		}
		jobs, err := y.jobs(tx)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			sections[j.section()] = append(sections[j.section()], j)
		}
		// A room that is new to the client may have a state of very many members.
		y.parts = len(jobs) > manyRooms || y.req.FullState || slices.ContainsFunc(jobs, func(j job) bool { return y.isNew(&j) })
		if y.parts {
			return nil
		}
		if err := y.roomSections(ctx, tx, sections); err != nil {
			return err
		}
		return y.presence(tx)
	})
	if err != nil || !y.parts {
		return err
	}
	if err := y.roomSections(ctx, nil, sections); err != nil {
		return err
	}
	return y.s.store.View(ctx, y.presence)
}

// begin fixes up to where the answer goes, and learns what changed up to there.
func (y *response) begin(ctx context.Context, tx *store.Tx) error {
	y.clock, y.news, y.members, y.met = time.Now().UnixMilli(), false, y.members[:0], map[store.UserNID]bool{}
	y.parts, y.large = false, nil
	position, err := tx.ReadPosition()
	if err != nil {
		return err
	}
	// A token from the future (the database was restored from a copy) means now.
	y.since.Durable = min(y.since.Durable, position)
	y.since.ToDevice = min(y.since.ToDevice, position)
	reaching, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	reached := y.s.hub.Reach(reaching, position)
	changed, known := y.s.hub.Since(y.user, y.since.Position)
	if y.since.Volatile > changed.Now.Volatile {
		y.since.Volatile, known = 0, false
	}
	y.now = stream.Token{Position: stream.Position{Durable: position, Volatile: changed.Now.Volatile}, ToDevice: position}
	if known && reached && !y.initial {
		y.changes = remembered(changed, y.since.Position)
	} else if err := y.readChanges(tx); err != nil {
		return err
	}
	y.ignored, err = y.s.rooms.Ignored(tx, y.req.User)
	return err
}

// finish writes the end of the answer and notes what the client now knows.
func (y *response) finish() {
	y.w.key("next_batch")
	y.w.b = append(canonical.AppendString(y.w.b, y.now.String()), '}')
	y.s.rememberMembers(y)
}

// personal writes what belongs to the user or the device, not to a room.
func (y *response) personal(tx *store.Tx) error {
	for _, section := range []func(*store.Tx) error{y.toDevice, y.keyCounts, y.deviceLists, y.accountData} {
		if err := section(tx); err != nil {
			return err
		}
	}
	return nil
}

// toDevice writes the messages that wait for the device. Those it has
// acknowledged by its since are deleted.
// spec: client-server-api#extensions-to-sync
func (y *response) toDevice(tx *store.Tx) error {
	if y.req.Device == "" {
		return nil
	}
	messages, err := tx.ToDevice.List(y.user, y.req.Device, 0, y.now.Durable, maxToDevice+1)
	if err == nil && len(messages) > 0 && messages[0].Position <= y.since.ToDevice {
		y.acknowledge()
		messages, err = tx.ToDevice.List(y.user, y.req.Device, y.since.ToDevice, y.now.Durable, maxToDevice+1)
	}
	if err != nil || len(messages) == 0 {
		return err
	}
	if len(messages) > maxToDevice {
		messages = messages[:maxToDevice]
		y.now.ToDevice = messages[maxToDevice-1].Position
	}
	y.news = true
	return y.w.events("to_device", false, func() error {
		for _, m := range messages {
			y.w.comma()
			y.w.b = append(y.w.b, m.Event...)
		}
		return nil
	})
}

// acknowledge deletes what the client has received. Nobody need wait for it: a
// message that stays is not delivered again, and is deleted the next time.
func (y *response) acknowledge() {
	user, device, upTo := y.user, y.req.Device, y.since.ToDevice
	y.s.store.Enqueue(func(tx *store.Tx) error { return tx.ToDevice.DeleteUpTo(user, device, upTo) })
}

// signedCurve is counted also when there is none: some clients take a count
// that is missing for one that has not changed.
const signedCurve = "signed_curve25519"

// keyCounts writes how many one-time keys are left, and which fallback keys are unused.
// spec: client-server-api#e2e-extensions-to-sync
func (y *response) keyCounts(tx *store.Tx) error {
	if y.req.Device == "" {
		return nil
	}
	counts, err := tx.DeviceKeys.CountOneTime(y.user, y.req.Device)
	if err != nil {
		return err
	}
	counts[signedCurve] += 0
	y.w.key("device_one_time_keys_count")
	y.w.b = append(y.w.b, '{')
	for _, algorithm := range slices.Sorted(maps.Keys(counts)) {
		y.w.key(algorithm)
		y.w.b = strconv.AppendInt(y.w.b, counts[algorithm], 10)
	}
	y.w.b = append(y.w.b, '}')
	unused, err := tx.DeviceKeys.UnusedFallbacks(y.user, y.req.Device)
	if err != nil {
		return err
	}
	y.strings("device_unused_fallback_key_types", unused)
	y.news = y.news || y.changes.keys
	return nil
}

func (y *response) strings(key string, list []string) {
	y.w.key(key)
	y.w.b = append(y.w.b, '[')
	for _, s := range list {
		y.w.comma()
		y.w.b = canonical.AppendString(y.w.b, s)
	}
	y.w.b = append(y.w.b, ']')
}

// deviceLists tells whose devices the client should ask for again.
// spec: client-server-api#e2e-extensions-to-sync
func (y *response) deviceLists(tx *store.Tx) error {
	if y.initial || y.s.options.DeviceLists == nil || !y.changes.deviceLists {
		return nil
	}
	changed, left, err := y.s.options.DeviceLists(tx, y.user, y.since.Durable, y.changes.moved())
	if err != nil {
		return fmt.Errorf("device lists: %w", err)
	}
	return y.w.object("device_lists", func() error {
		for _, part := range []struct {
			key   string
			users []id.User
		}{{"changed", changed}, {"left", left}} {
			if len(part.users) > 0 {
				y.news = true
				y.users(part.key, part.users)
			}
		}
		return nil
	})
}

func (y *response) users(key string, list []id.User) {
	y.w.key(key)
	y.w.b = append(y.w.b, '[')
	for _, u := range list {
		y.w.comma()
		y.w.b = canonical.AppendString(y.w.b, u)
	}
	y.w.b = append(y.w.b, ']')
}

// accountRows is the global account data that changed, the push rules among it.
func (y *response) accountRows(tx *store.Tx) ([]store.AccountDataRow, error) {
	rows, err := tx.AccountData.List(y.req.User, y.since.Durable)
	if err != nil || y.s.options.PushRules == nil {
		return rows, err
	}
	content, changed, err := y.s.options.PushRules(tx, y.req.User, y.since.Durable)
	if err != nil {
		return nil, fmt.Errorf("push rules: %w", err)
	}
	if changed {
		rows = append(rows, store.AccountDataRow{Type: "m.push_rules", Content: content})
	}
	return rows, nil
}

// accountData writes global account data.
func (y *response) accountData(tx *store.Tx) error {
	if !y.changes.account {
		return nil
	}
	rows, err := y.accountRows(tx)
	if err != nil {
		return err
	}
	return y.w.events("account_data", false, func() error {
		for _, row := range rows {
			if y.filter.AccountData.Match(row.Type, "") {
				y.news = true
				y.w.accountData(row)
			}
		}
		return nil
	})
}

func (w *writer) accountData(row store.AccountDataRow) {
	w.comma()
	w.b = append(append(w.b, `{"content":`...), row.Content...)
	w.b = append(canonical.AppendString(append(w.b, `,"type":`...), row.Type), '}')
}

// presence writes what changed in the presence of others, and that of those who
// came into sight by joining a room. It stands after the rooms, which know them.
func (y *response) presence(tx *store.Tx) error {
	if y.s.options.Presence == nil || !y.changes.presence && len(y.met) == 0 {
		return nil
	}
	after := y.since.Volatile
	if !y.changes.known || len(y.met) > 0 {
		after = 0
	}
	all, err := y.s.options.Presence(tx, y.user, after)
	if err == nil && y.changes.known && len(y.met) > 0 {
		all, err = y.newPresence(tx, all)
	}
	if err != nil {
		return fmt.Errorf("presence: %w", err)
	}
	return y.w.events("presence", false, func() error {
		for _, p := range all {
			if !y.filter.Presence.Match("m.presence", p.Sender) {
				continue
			}
			y.news = true
			y.w.presence(p)
		}
		return nil
	})
}

func (w *writer) presence(p Presence) {
	w.comma()
	w.b = append(append(w.b, `{"content":`...), p.Content...)
	w.b = canonical.AppendString(append(w.b, `,"sender":`...), p.Sender)
	w.b = append(w.b, `,"type":"m.presence"}`...)
}

// newPresence is what changed, and of all others those who came into sight.
func (y *response) newPresence(tx *store.Tx, all []Presence) ([]Presence, error) {
	changed, err := y.s.options.Presence(tx, y.user, y.since.Volatile)
	if err != nil {
		return nil, err
	}
	told := make(map[id.User]bool, len(changed))
	for _, p := range changed {
		told[p.Sender] = true
	}
	for _, p := range all {
		nid, ok, err := tx.IDs.FindUser(p.Sender)
		if err != nil {
			return nil, err
		}
		if ok && y.met[nid] && !told[p.Sender] {
			changed = append(changed, p)
		}
	}
	return changed, nil
}
