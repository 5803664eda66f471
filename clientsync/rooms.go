package clientsync

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// roomSections writes the rooms section; with tx in its snapshot, without one
// in several, between which the answer goes out.
func (y *response) roomSections(ctx context.Context, tx *store.Tx, sections [sectionCount][]job) error {
	names := [sectionCount]string{"join", "invite", "knock", "leave"}
	return y.w.object("rooms", func() error {
		for s, jobs := range sections {
			if len(jobs) == 0 {
				continue
			}
			if err := y.w.object(names[s], func() error { return y.eachRoom(ctx, tx, jobs, y.room) }); err != nil {
				return err
			}
		}
		return nil
	})
}

func (y *response) eachRoom(ctx context.Context, tx *store.Tx, jobs []job, write func(context.Context, *store.Tx, *job) error) error {
	some := func(tx *store.Tx, size int) error {
		for len(jobs) > 0 && len(y.w.b) < size && y.large == nil {
			if err := write(ctx, tx, &jobs[0]); err != nil {
				return fmt.Errorf("room %s: %w", jobs[0].room, err)
			}
			jobs = jobs[1:]
		}
		return nil
	}
	if tx != nil {
		return some(tx, math.MaxInt)
	}
	for len(jobs) > 0 {
		if err := y.s.store.View(ctx, func(tx *store.Tx) error { return some(tx, flushSize) }); err != nil {
			return err
		}
		if err := y.writeLarge(ctx); err != nil {
			return err
		}
		if err := y.w.flushFull(); err != nil {
			return err
		}
	}
	return nil
}

func (y *response) room(ctx context.Context, tx *store.Tx, j *job) error {
	switch j.section() {
	case joinSection:
		return y.joined(ctx, tx, j)
	case inviteSection:
		return y.stripped(tx, j, "invite_state")
	case knockSection:
		return y.stripped(tx, j, "knock_state")
	}
	return y.left(tx, j)
}

// span is the part of a room's history that an answer covers.
type span struct {
	view *room.View
	from int64 // the client has seen everything up to here
	to   int64
	// whole asks for the whole state, otherwise for what changed after from.
	whole bool
	// rejoined: the client may hold an older part of the timeline, which does not join on to this one.
	rejoined bool
	// entered: the user came into the room since the client last asked.
	entered bool
	// stateAt is the version of the state at to; noState: the user may know none.
	stateAt int64
	noState bool
	// sight is from when on the user sees everything.
	sight int64
	// own is the user's member event that ended their membership: they see it, whatever the rules of history say.
	own store.EventNID
}

// isNew says whether the client knows nothing of a room as a member of it.
func (y *response) isNew(j *job) bool {
	return y.initial || j.complete || j.member.Position > y.since.Durable
}

// joined writes what is new in a room that the user is joined to.
func (y *response) joined(ctx context.Context, tx *store.Tx, j *job) error {
	newly := y.isNew(j)
	whole := newly || y.req.FullState
	if whole {
		j.change = everything
	}
	mark, news := len(y.w.b), whole
	err := y.w.object(string(j.room), func() error {
		for _, part := range []func() (bool, error){
			func() (bool, error) { return y.joinedHistory(tx, j, newly, whole) },
			func() (bool, error) { return y.ephemeral(tx, j, whole) },
			func() (bool, error) { return y.roomAccountData(tx, j, whole) },
		} {
			some, err := part()
			if err != nil {
				return err
			}
			news = news || some
		}
		return y.unread(ctx, tx, j)
	})
	if !news {
		y.w.b = y.w.b[:mark]
	}
	y.news = y.news || news
	return err
}

func (y *response) joinedHistory(tx *store.Tx, j *job, newly, whole bool) (bool, error) {
	if !j.change.timeline {
		if y.req.stateAfter() {
			return y.tellState(tx, nil, &state{})
		}
		return false, nil
	}
	sp, err := y.span(tx, j)
	if err != nil {
		return false, err
	}
	if newly {
		sp.from = math.MinInt64
	}
	sp.whole, sp.sight = whole, j.member.Position
	if newly && !y.initial {
		known, err := y.s.rooms.StateVersionAt(tx, sp.view.Room, y.since.Durable)
		if err != nil {
			return false, err
		}
		sp.rejoined, sp.entered = sp.view.WasJoined(known), true
	}
	if sp.stateAt, err = y.s.rooms.StateVersionAt(tx, sp.view.Room, sp.to); err != nil {
		return false, err
	}
	if newly {
		if err := y.meetMembers(tx, sp); err != nil {
			return false, err
		}
	}
	return y.history(tx, sp, true)
}

// maxMet bounds of how many members of a room just joined the presence is told.
const maxMet = 1000

func (y *response) meetMembers(tx *store.Tx, sp *span) error {
	if y.initial || y.s.options.Presence == nil || sp.view.Room.Joined > maxMet {
		return nil
	}
	return tx.DeviceLists.EachJoined(sp.view.Room.NID, func(user store.UserNID, _ int64) { y.met[user] = true })
}

// meet notes who joined a room that the user is in.
func (y *response) meet(t *timeline, st *state) {
	for _, user := range t.joined {
		y.met[user] = true
	}
	for key := range st.has {
		if user, ok := store.IsMemberKey(key); ok {
			y.met[user] = true
		}
	}
	delete(y.met, y.user)
}

func (y *response) span(tx *store.Tx, j *job) (*span, error) {
	row, ok, err := tx.Rooms.GetNID(j.member.Room)
	if err != nil || !ok {
		return nil, fmt.Errorf("read the room's row: %w", err)
	}
	view, err := y.s.rooms.View(tx, row, y.user)
	if err != nil {
		return nil, err
	}
	view.Device, view.Ignored = string(y.req.Device), y.ignored
	return &span{view: view, from: y.since.Durable, to: y.now.Durable}, nil
}

// left writes the end of a room for the user: up to where they left, and no further.
func (y *response) left(tx *store.Tx, j *job) error {
	sp, err := y.span(tx, j)
	if err != nil {
		return err
	}
	sp.to, sp.own, sp.sight = j.member.Position, j.member.Event, math.MaxInt64
	leftAt, everJoined := sp.view.LastLeft()
	sp.stateAt, sp.noState, sp.whole = leftAt, !everJoined, true
	if !y.initial {
		// Who was in the room when last heard of knows its state of then; and who had
		// left already is only told of what ended another invite, say.
		known, err := y.s.rooms.StateVersionAt(tx, sp.view.Room, y.since.Durable)
		if err != nil {
			return err
		}
		if sp.view.MembershipIn(known) == store.Join {
			sp.whole = false
		} else if everJoined && leftAt <= known {
			sp.whole, sp.noState = false, true
		}
		sp.rejoined = sp.whole && sp.view.WasJoined(known)
	}
	if sp.whole {
		sp.from = math.MinInt64
	}
	y.news = true
	return y.w.nested(string(j.room), "{", "}", true, func() error {
		if _, err := y.history(tx, sp, false); err != nil {
			return err
		}
		_, err := y.roomAccountData(tx, j, sp.whole)
		return err
	})
}

// stripped writes a room that the user was invited to or knocks on.
// spec: client-server-api#stripped-state
func (y *response) stripped(tx *store.Tx, j *job, key string) error {
	events, err := y.s.rooms.Events(tx, []store.EventNID{j.member.Event})
	if err != nil {
		return err
	}
	if j.section() == inviteSection && y.ignored[events[0].Sender] {
		return nil
	}
	state, _, err := tx.Members.Stripped(j.member.Room, y.user)
	if err != nil {
		return err
	}
	if jsontext.Value(state).Kind() != '[' || !jsontext.Value(state).IsValid() {
		state = event.AppendStripped([]byte{'['}, events[0].PDU)
		state = append(state, ']')
	}
	y.news = true
	return y.w.object(string(j.room), func() error {
		return y.w.object(key, func() error {
			y.w.raw("events", state)
			return nil
		})
	})
}

// history writes the summary, the state and the timeline of a room. It says
// whether there was anything.
func (y *response) history(tx *store.Tx, sp *span, summarize bool) (news bool, err error) {
	t, err := y.timeline(tx, sp)
	if err != nil {
		return false, fmt.Errorf("timeline: %w", err)
	}
	st, err := y.state(tx, sp, &t)
	if err != nil {
		return false, fmt.Errorf("state: %w", err)
	}
	if summarize && !sp.whole {
		y.meet(&t, st)
	}
	var heroes []store.UserNID
	summarize = summarize && (sp.whole || t.members || st.members)
	if summarize {
		if heroes, err = y.summary(tx, sp); err != nil {
			return false, fmt.Errorf("summary: %w", err)
		}
	}
	if y.filter.Room.State.LazyLoadMembers {
		if err := y.lazyMembers(tx, sp, &t, st, heroes); err != nil {
			return false, fmt.Errorf("members: %w", err)
		}
	}
	some, err := y.tellState(tx, sp, st)
	if err != nil {
		return false, err
	}
	if sp.whole || t.limited || len(t.events) > 0 {
		err = y.writeTimeline(tx, sp, &t)
		some = true
	}
	return some || summarize, err
}

// maxHeroes is how many members name a room that has no name.
const maxHeroes = 5

// summary writes how many members there are, and who names the room if nothing else does.
func (y *response) summary(tx *store.Tx, sp *span) (heroes []store.UserNID, err error) {
	named, err := y.isNamed(tx, sp)
	if err == nil && !named {
		heroes, err = tx.Members.Heroes(sp.view.Room.NID, y.user, maxHeroes)
	}
	if err != nil {
		return nil, err
	}
	names := make([]id.User, len(heroes))
	for i, h := range heroes {
		if names[i], err = tx.IDs.UserID(h); err != nil {
			return nil, err
		}
	}
	return heroes, y.w.object("summary", func() error {
		if !named {
			y.users("m.heroes", names)
		}
		y.number("m.joined_member_count", sp.view.Room.Joined)
		y.number("m.invited_member_count", sp.view.Room.Invited)
		return nil
	})
}

func (y *response) isNamed(tx *store.Tx, sp *span) (bool, error) {
	for _, by := range []struct{ typ, key string }{{event.TypeName, "name"}, {event.TypeCanonicalAlias, "alias"}} {
		key, ok, err := tx.IDs.FindStateKey(event.StateTuple{Type: by.typ})
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		nid, ok, err := tx.State.At(sp.view.Room.NID, key, sp.stateAt)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		events, err := y.s.rooms.Events(tx, []store.EventNID{nid})
		if err != nil || events[0].PDU.ContentString(by.key) != "" {
			return err == nil, err
		}
	}
	return false, nil
}

func (y *response) number(key string, n int64) {
	y.w.key(key)
	y.w.b = strconv.AppendInt(y.w.b, n, 10)
}

// roomAccountData writes what the user noted about a room, tags among it.
func (y *response) roomAccountData(tx *store.Tx, j *job, whole bool) (bool, error) {
	after := y.since.Durable
	if whole {
		after = 0
	} else if !j.change.account {
		return false, nil
	}
	rows, err := tx.AccountData.ListRoom(y.req.User, j.room, after)
	if err != nil {
		return false, err
	}
	start := len(y.w.b)
	err = y.w.events("account_data", false, func() error {
		for _, row := range rows {
			if y.filter.Room.AccountData.Match(&filter.Event{Type: row.Type, Room: j.room, Content: row.Content}) {
				y.w.accountData(row)
			}
		}
		return nil
	})
	return len(y.w.b) > start, err
}

// unread writes what the user was notified of and has not read.
// spec: client-server-api#receiving-notifications
func (y *response) unread(ctx context.Context, tx *store.Tx, j *job) error {
	if y.s.options.Unread == nil {
		return nil
	}
	u, err := y.s.options.Unread(ctx, tx, y.user, j.member.Room, y.now.Durable)
	if err != nil {
		return fmt.Errorf("unread counts: %w", err)
	}
	if !y.filter.Room.Timeline.UnreadThreadNotifications {
		for _, c := range u.Threads {
			u.Main.Notify += c.Notify
			u.Main.Highlight += c.Highlight
		}
		u.Threads = nil
	}
	y.count("unread_notifications", u.Main)
	return y.w.object("unread_thread_notifications", func() error {
		for _, root := range slices.Sorted(maps.Keys(u.Threads)) {
			if c := u.Threads[root]; c.Notify > 0 || c.Highlight > 0 {
				y.count(string(root), c)
			}
		}
		return nil
	})
}

func (y *response) count(key string, c Count) {
	y.w.key(key)
	y.w.b = strconv.AppendInt(append(y.w.b, `{"highlight_count":`...), int64(c.Highlight), 10)
	y.w.b = append(strconv.AppendInt(append(y.w.b, `,"notification_count":`...), int64(c.Notify), 10), '}')
}

// ephemeral writes receipts and who is typing.
func (y *response) ephemeral(tx *store.Tx, j *job, whole bool) (news bool, err error) {
	start, own := len(y.w.b), false
	// A room told as a whole always has it: some clients and tests look into it unasked.
	err = y.w.events("ephemeral", whole, func() error {
		if own, err = y.receipts(tx, j, whole); err != nil {
			return fmt.Errorf("receipts: %w", err)
		}
		y.typing(j, whole)
		return nil
	})
	// One's own receipt changes the unread counts, whatever the filter says.
	return own || len(y.w.b) > start, err
}

func (y *response) typing(j *job, whole bool) {
	if y.s.options.Typing == nil || !j.change.typing || !y.filter.Room.Ephemeral.Match(&filter.Event{Type: "m.typing", Room: j.room}) {
		return
	}
	users, _ := y.s.options.Typing(j.member.Room)
	if whole && len(users) == 0 {
		return
	}
	y.w.comma()
	y.w.b = append(y.w.b, `{"content":{`...)
	y.users("user_ids", users)
	y.w.b = append(y.w.b, `},"type":"m.typing"}`...)
}

// receipts writes one m.receipt event, and says whether a receipt of the user's own is among the new.
// spec: client-server-api#receipts
func (y *response) receipts(tx *store.Tx, j *job, whole bool) (own bool, err error) {
	after := y.since.Durable
	if whole {
		after = 0
	} else if !j.change.receipts {
		return false, nil
	}
	all, err := tx.Receipts.InRoom(j.member.Room, y.user, after, y.now.Durable)
	if err != nil || len(all) == 0 {
		return false, err
	}
	for _, r := range all {
		own = own || r.User == y.user
	}
	if !y.filter.Room.Ephemeral.Match(&filter.Event{Type: "m.receipt", Room: j.room}) {
		return own, nil
	}
	// Grouped by event and kind. Where one user has both, the unthreaded receipt
	// comes first and is the one that counts.
	// msc: 4102
	slices.SortStableFunc(all, compareReceipts)
	y.w.comma()
	y.w.b = append(y.w.b, `{"content":{`...)
	var last store.Receipt
	for i, r := range all {
		if sameEvent := i > 0 && r.Event == last.Event; !sameEvent {
			y.w.b = closed(y.w.b, i > 0, "}}")
			y.w.key(string(r.Event))
			y.w.b = append(y.w.b, '{')
			y.receiptKind(r)
		} else if r.Private != last.Private {
			y.w.b = append(y.w.b, '}')
			y.receiptKind(r)
		} else if r.User == last.User {
			continue
		}
		if err := y.receipt(tx, r); err != nil {
			return own, err
		}
		last = r
	}
	y.w.b = append(y.w.b, `}}},"type":"m.receipt"}`...)
	return own, nil
}

func closed(b []byte, open bool, with string) []byte {
	if open {
		return append(b, with...)
	}
	return b
}

func compareReceipts(a, b store.Receipt) int {
	switch {
	case a.Event != b.Event:
		return compare(string(a.Event), string(b.Event))
	case a.Private != b.Private:
		if b.Private {
			return -1
		}
		return 1
	case a.User != b.User:
		return int(a.User - b.User)
	}
	return compare(a.Thread, b.Thread)
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (y *response) receiptKind(r store.Receipt) {
	if r.Private {
		y.w.key("m.read.private")
	} else {
		y.w.key("m.read")
	}
	y.w.b = append(y.w.b, '{')
}

func (y *response) receipt(tx *store.Tx, r store.Receipt) error {
	user, err := tx.IDs.UserID(r.User)
	if err != nil {
		return err
	}
	y.w.key(string(user))
	y.w.b = strconv.AppendInt(append(y.w.b, `{"ts":`...), r.TS, 10)
	if r.Thread != "" {
		y.w.b = canonical.AppendString(append(y.w.b, `,"thread_id":`...), r.Thread)
	}
	y.w.b = append(y.w.b, '}')
	return nil
}
