package push

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/store"
)

// Unread counts the notifications that a local user has not read in a room, by
// events up to a position: zero if they are not joined to it. Each event is
// evaluated once; redacted events and those of ignored users do not count. A
// message of the user's own means that they have read what was before it in its thread.
// spec: client-server-api#receiving-notifications
func (s *Service) Unread(ctx context.Context, tx *store.Tx, user store.UserNID, room store.RoomNID, upTo int64) (Counts, error) {
	member, ok, err := tx.Members.Get(room, user)
	if err != nil || !ok || member.Membership != store.Join {
		return Counts{}, err
	}
	row, _, err := tx.Rooms.GetNID(room)
	if err != nil {
		return Counts{}, fmt.Errorf("count the unread: %w", err)
	}
	// Not beyond what this snapshot has: what comes later would be taken for counted.
	upTo = min(upTo, row.LastPosition)
	t, err := s.tally(ctx, tx, row, member, upTo)
	if err != nil {
		return Counts{}, fmt.Errorf("count the unread in %s: %w", row.ID, err)
	}
	return t.counts(upTo), nil
}

// saveAfter is after how many evaluated events a tally is stored again: that many
// may have to be evaluated again after a restart.
const saveAfter = 300

func (s *Service) tally(ctx context.Context, tx *store.Tx, row store.Room, member store.Member, upTo int64) (*tally, error) {
	at := place{member.User, member.Room}
	read, err := readingOf(tx, at)
	if err != nil {
		return nil, err
	}
	old, err := s.knownTally(tx, at)
	if err != nil {
		return nil, err
	}
	c := counter{service: s, ctx: ctx, tx: tx, row: row, at: at, read: read}
	if old != nil && old.upTo < upTo {
		if err := c.prepare(); err != nil {
			return nil, err
		}
	}
	// Counting begins anew when the user has joined again or ignores other people.
	if old == nil || old.joined != member.Position || c.rules != nil && old.ignored != c.ignored.digest {
		if old, err = c.begin(member, upTo); err != nil {
			return nil, err
		}
	}
	c.tally = old.without(read)
	if old.upTo < upTo {
		if err := c.timeline(old.upTo, upTo); err != nil {
			return nil, err
		}
		c.tally.upTo = upTo
	}
	if c.tally.unsaved += c.evaluated; c.tally.unsaved > saveAfter {
		c.save()
	}
	s.unread.Set(at, c.tally)
	return c.tally, nil
}

// knownTally is the tally in memory or in the store, nil if there is none.
func (s *Service) knownTally(tx *store.Tx, at place) (*tally, error) {
	if t, ok := s.unread.GetIfPresent(at); ok {
		return t, nil
	}
	stored, ok, err := tx.Push.Tally(at.user, at.room)
	if err != nil || !ok {
		return nil, err
	}
	t, ok, err := parseTally(stored)
	if err != nil {
		slog.Warn("unread notifications are counted anew", "error", err)
	}
	if !ok {
		return nil, nil
	}
	return t, nil
}

// mainThread is what receipts call the main timeline.
const mainThread = "main"

// readingOf is how far a user has read a room, by public and private receipts.
// spec: client-server-api#marking-notifications-as-read
func readingOf(tx *store.Tx, at place) (*reading, error) {
	receipts, err := tx.Receipts.OfUser(at.room, at.user)
	if err != nil {
		return nil, fmt.Errorf("read receipts: %w", err)
	}
	r := &reading{threads: map[id.Event]int64{}}
	for _, receipt := range receipts {
		switch thread := id.Event(receipt.Thread); thread {
		case "":
			r.all = max(r.all, receipt.EventPosition)
		case mainThread:
			r.threads[""] = max(r.threads[""], receipt.EventPosition)
		default:
			r.threads[thread] = max(r.threads[thread], receipt.EventPosition)
		}
	}
	return r, nil
}

// counter goes through a part of a room's timeline for one user.
type counter struct {
	service *Service
	ctx     context.Context
	tx      *store.Tx
	row     store.Room
	at      place
	read    *reading
	tally   *tally

	evaluated int
	user      id.User
	rules     *pushrules.Compiled // nil: not prepared yet
	in        pushrules.RoomContext
	ignored   ignored
	err       error // of a look-up that a rule asked for
}

// begin makes a tally for a user of whom nothing is known. Between what is read as a
// whole and what is read of the main timeline only events can count that belong to
// threads, which have relations: those alone are looked at.
func (c *counter) begin(member store.Member, upTo int64) (*tally, error) {
	if err := c.prepare(); err != nil {
		return nil, err
	}
	c.tally = &tally{joined: member.Position, ignored: c.ignored.digest, threads: map[id.Event][]mark{}}
	whole := max(member.Position, c.read.all)
	main := min(max(whole, c.read.of("")), upTo)
	c.tally.upTo = main
	if whole >= main {
		return c.tally, nil
	}
	relations, err := c.tx.Relations.Between(c.at.room, whole, main)
	if err != nil {
		return nil, err
	}
	nids := make([]store.EventNID, 0, batch)
	for i, r := range relations {
		nids = append(nids, r.Event)
		if len(nids) == batch || i == len(relations)-1 {
			if err := c.count(nids); err != nil {
				return nil, err
			}
			nids = nids[:0]
		}
	}
	return c.tally, nil
}

// timeline counts all events after one position up to another.
func (c *counter) timeline(after, upTo int64) error {
	for {
		places, err := c.tx.Events.TimelineUp(c.at.room, after, upTo, batch)
		if err != nil || len(places) == 0 {
			return err
		}
		nids := make([]store.EventNID, len(places))
		for i, p := range places {
			nids[i] = p.NID
		}
		if err := c.count(nids); err != nil {
			return err
		}
		if len(places) < batch {
			return nil
		}
		after = places[len(places)-1].Position
	}
}

// count goes through events, which are in order.
func (c *counter) count(nids []store.EventNID) error {
	if err := c.ctx.Err(); err != nil {
		return err
	}
	events, err := c.service.rooms.Events(c.tx, nids)
	if err != nil {
		return err
	}
	for _, ev := range events {
		if err := c.one(ev); err != nil {
			return err
		}
	}
	c.evaluated += len(events)
	return nil
}

func (c *counter) one(ev *room.Event) error {
	if ev.PDU.Redacts != "" {
		if err := c.redaction(ev); err != nil {
			return err
		}
	}
	seen, err := c.service.sight(c.tx, ev)
	if err != nil {
		return err
	}
	switch {
	case ev.Sender == c.at.user:
		if !ev.IsState && ev.PDU.Type != event.TypeRedaction {
			c.tally.clear(seen.thread)
		}
		return nil
	case ev.Position <= c.read.of(seen.thread), ev.RedactedBy != 0, c.ignored.users[ev.PDU.Sender]:
		return nil
	}
	m := c.rules.Evaluate(seen.view, &c.in)
	if m != nil && m.Actions.Notify {
		c.tally.add(seen.thread, markOf(ev.Position, m.Actions.Highlight))
	}
	return c.err
}

// redaction takes back what a redacted event counted.
func (c *counter) redaction(ev *room.Event) error {
	target, ok, err := c.service.rooms.Event(c.tx, c.at.room, ev.PDU.Redacts)
	if err == nil && ok && target.RedactedBy != 0 {
		c.tally.remove(target.Position)
	}
	return err
}

// prepare reads what rules need to know of the user and the room.
func (c *counter) prepare() error {
	if c.rules != nil {
		return nil
	}
	var err error
	if c.user, err = c.tx.IDs.UserID(c.at.user); err != nil {
		return err
	}
	if c.ignored, err = ignoredBy(c.tx, c.user); err != nil {
		return err
	}
	rules, err := c.service.Rules(c.tx, c.user)
	if err != nil {
		return err
	}
	if c.in, err = c.roomContext(rules); err != nil {
		return err
	}
	c.rules = rules
	return nil
}

func (c *counter) roomContext(rules *pushrules.Compiled) (in pushrules.RoomContext, err error) {
	in.MemberCount = int(c.row.Joined)
	if rules.AsksDisplayName() {
		own, err := c.service.stateEvent(c.tx, c.row, event.StateTuple{Type: event.TypeMember, Key: string(c.user)})
		if err != nil {
			return in, err
		}
		if own != nil {
			in.DisplayName = own.ContentString("displayname")
		}
	}
	var levels *authrules.PowerLevels // read when first asked for: few events need them
	in.MayNotify = func(sender id.User, kind string) bool {
		if levels == nil && c.err == nil {
			levels, c.err = c.service.powerLevels(c.tx, c.row)
		}
		return c.err == nil && levels.UserLevel(sender) >= levels.Notification(kind)
	}
	return in, nil
}

func (s *Service) powerLevels(tx *store.Tx, row store.Room) (*authrules.PowerLevels, error) {
	v, ok := roomversion.Get(row.Version)
	if !ok {
		return nil, fmt.Errorf("room %s has the unknown version %q", row.ID, row.Version)
	}
	create, err := s.stateEvent(tx, row, event.StateTuple{Type: event.TypeCreate})
	if err != nil {
		return nil, err
	}
	levels, err := s.stateEvent(tx, row, event.StateTuple{Type: event.TypePowerLevels})
	if err != nil {
		return nil, err
	}
	return authrules.ParsePowerLevels(v, create, levels)
}

// stateEvent reads an event of a room's current state, nil if there is none.
func (s *Service) stateEvent(tx *store.Tx, row store.Room, t event.StateTuple) (*event.PDU, error) {
	key, ok, err := tx.IDs.FindStateKey(t)
	if err != nil || !ok {
		return nil, err
	}
	nid, ok, err := tx.State.At(row.NID, key, row.StateVersion)
	if err != nil || !ok {
		return nil, err
	}
	events, err := s.rooms.Events(tx, []store.EventNID{nid})
	if err != nil {
		return nil, err
	}
	return events[0].PDU, nil
}

// ignored is whom a user ignores; digest tells lists apart.
type ignored struct {
	users  map[id.User]bool
	digest uint64
}

// spec: client-server-api#ignoring-users
func ignoredBy(tx *store.Tx, user id.User) (i ignored, err error) {
	content, ok, err := tx.AccountData.Get(user, "m.ignored_user_list")
	if err != nil || !ok {
		return i, err
	}
	var list struct {
		Users map[string]jsontext.Value `json:"ignored_users"`
	}
	if json.Unmarshal(content, &list) != nil {
		return i, nil // clients may write what they like there
	}
	i.users = make(map[id.User]bool, len(list.Users))
	for u := range list.Users {
		i.users[id.User(u)] = true
	}
	hash := fnv.New64a()
	for _, u := range slices.Sorted(maps.Keys(i.users)) {
		fmt.Fprintf(hash, "%q", u)
	}
	i.digest = hash.Sum64()
	return i, nil
}

// save puts the tally into the queue of writes. Nobody waits for it: if it is lost,
// the events are evaluated again.
func (c *counter) save() {
	c.tally.unsaved = 0
	at, stored := c.at, c.tally.append(nil)
	c.service.store.Enqueue(func(tx *store.Tx) error { return tx.Push.SetTally(at.user, at.room, stored) })
}
