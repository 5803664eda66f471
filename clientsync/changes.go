package clientsync

import (
	"slices"

	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// changes is what may have changed for the user after since: what is not in it
// need not be looked at.
type changes struct {
	known                                bool // the hub remembered it all
	account, keys, deviceLists, presence bool
	rooms                                map[store.RoomNID]roomChange
}

// roomChange says which parts of a room may have changed.
type roomChange struct{ timeline, receipts, account, typing bool }

var everything = roomChange{true, true, true, true}

func remembered(c stream.Changes, since stream.Position) changes {
	ch := changes{
		known:    true,
		account:  c.Kinds[stream.Account],
		keys:     c.Kinds[stream.Keys],
		presence: c.Kinds[stream.Presence],
		// Others come into sight and out of it by joining and leaving.
		deviceLists: c.Kinds[stream.DeviceList] || c.Kinds[stream.Room],
		rooms:       make(map[store.RoomNID]roomChange, len(c.Rooms)),
	}
	for _, r := range c.Rooms {
		ch.rooms[r.Room] = roomChange{
			timeline: r.Last[stream.Room] > since.Durable,
			receipts: r.Last[stream.Receipt] > since.Durable,
			account:  r.Last[stream.RoomAccount] > since.Durable,
			typing:   r.Last[stream.Typing] > since.Volatile,
		}
	}
	return ch
}

// moved lists the rooms where anything happened; nil: it is not known.
func (ch *changes) moved() []store.RoomNID {
	if !ch.known {
		return nil
	}
	rooms := make([]store.RoomNID, 0, len(ch.rooms))
	for nid, c := range ch.rooms {
		if c.timeline {
			rooms = append(rooms, nid)
		}
	}
	return rooms
}

// readChanges asks the store instead, where the hub does not remember so far back.
func (y *response) readChanges(tx *store.Tx) error {
	y.changes = changes{account: true, keys: y.initial, deviceLists: true, presence: true}
	if y.initial || y.req.FullState {
		return nil
	}
	ch := map[store.RoomNID]roomChange{}
	y.changes.rooms = ch
	moved, err := tx.Members.Changed(y.user, y.since.Durable)
	if err != nil {
		return err
	}
	for _, m := range moved {
		ch[m.Room] = roomChange{timeline: true}
	}
	read, err := tx.Receipts.Rooms(y.user, y.since.Durable)
	if err != nil {
		return err
	}
	for _, r := range read {
		c := ch[r]
		c.receipts = true
		ch[r] = c
	}
	noted, err := tx.AccountData.ListRooms(y.req.User, y.since.Durable)
	if err != nil {
		return err
	}
	for _, row := range noted {
		nid, ok, err := tx.Rooms.Find(row.Room)
		if err != nil {
			return err
		}
		if ok {
			c := ch[nid]
			c.account = true
			ch[nid] = c
		}
	}
	return y.readTyping(tx, ch)
}

func (y *response) readTyping(tx *store.Tx, ch map[store.RoomNID]roomChange) error {
	if y.s.options.Typing == nil {
		return nil
	}
	joined, err := tx.Members.RoomsOf(y.user, store.Join)
	if err != nil {
		return err
	}
	for _, r := range joined {
		if _, at := y.s.options.Typing(r); at > y.since.Volatile {
			c := ch[r]
			c.typing = true
			ch[r] = c
		}
	}
	return nil
}

// job is one room to be looked at.
type job struct {
	member store.Member
	// complete: the room's state has become whole since, so that it appears now to
	// those who want it whole.
	complete bool
	room     id.Room
	change   roomChange
}

// The parts of the rooms section.
type section int

const (
	joinSection section = iota
	inviteSection
	knockSection
	leaveSection
	sectionCount
)

func (j *job) section() section {
	switch j.member.Membership {
	case store.Join:
		return joinSection
	case store.Invite:
		return inviteSection
	case store.Knock:
		return knockSection
	}
	return leaveSection
}

// jobs lists the rooms that may have something for the client.
func (y *response) jobs(tx *store.Tx) ([]job, error) {
	all, err := y.candidates(tx)
	if err != nil {
		return nil, err
	}
	expelled, err := y.expelled(tx, all)
	if err != nil {
		return nil, err
	}
	states, err := y.states(tx)
	if err != nil {
		return nil, err
	}
	jobs := all[:0]
	for _, j := range all {
		if !y.wants(&j) && !expelled[j.member.Event] || j.section() == joinSection && states.partial[j.member.Room] {
			continue
		}
		j.complete = states.completed[j.member.Room]
		if j.room, err = tx.Rooms.ID(j.member.Room); err != nil {
			return nil, err
		}
		if y.filter.Room.MatchRoom(j.room) {
			jobs = append(jobs, j)
		}
	}
	return jobs, nil
}

// expelled are the events by which others ended memberships of the user's. A first sync
// has these rooms also where the filter asks for none that he left: he did not leave, and
// has no other way to learn of it. Other servers do so, and the conformance suite waits for it.
func (y *response) expelled(tx *store.Tx, all []job) (map[store.EventNID]bool, error) {
	if !y.initial {
		return nil, nil
	}
	var nids []store.EventNID
	for _, j := range all {
		// Without an event, the state has lost the membership, and nobody ended it.
		if j.section() == leaveSection && !j.member.Forgotten && j.member.Event != 0 {
			nids = append(nids, j.member.Event)
		}
	}
	expelled := map[store.EventNID]bool{}
	for chunk := range slices.Chunk(nids, stateChunk) {
		events, err := y.s.rooms.Events(tx, chunk)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			expelled[ev.NID] = ev.Sender != y.user
		}
	}
	return expelled, nil
}

// roomStates says of rooms joined by way of other servers whose members are still being
// fetched, and whose have been since. Clients that load members lazily see these rooms
// from the join on; to the others they appear when all members are known.
// spec: client-server-api#lazy-loading-room-members
type roomStates struct{ partial, completed map[store.RoomNID]bool }

func (y *response) states(tx *store.Tx) (s roomStates, err error) {
	if y.filter.Room.State.LazyLoadMembers {
		return s, nil
	}
	partial, err := tx.Rooms.Partial()
	if err != nil {
		return s, err
	}
	s.partial = make(map[store.RoomNID]bool, len(partial))
	for _, r := range partial {
		s.partial[r.NID] = true
	}
	if y.initial {
		return s, nil
	}
	completed, err := tx.Rooms.WholeAfter(y.since.Durable)
	s.completed = make(map[store.RoomNID]bool, len(completed))
	for _, nid := range completed {
		s.completed[nid] = true
	}
	return s, err
}

func (y *response) candidates(tx *store.Tx) ([]job, error) {
	if y.initial || y.req.FullState {
		members, err := tx.Members.OfUser(y.user)
		jobs := make([]job, len(members))
		for i, m := range members {
			jobs[i] = job{member: m, change: everything}
		}
		return jobs, err
	}
	jobs := make([]job, 0, len(y.changes.rooms))
	for nid, change := range y.changes.rooms {
		m, ok, err := tx.Members.Get(nid, y.user)
		if err != nil {
			return nil, err
		}
		if ok {
			jobs = append(jobs, job{member: m, change: change})
		}
	}
	slices.SortFunc(jobs, func(a, b job) int { return int(a.member.Room - b.member.Room) })
	return jobs, nil
}

// wants says whether a room belongs into the answer by the user's membership.
func (y *response) wants(j *job) bool {
	m := &j.member
	switch {
	case m.Forgotten:
		// The user's other devices must still learn that the room was left.
		return !y.initial && m.Position > y.since.Durable
	case m.Membership == store.Join:
		return true
	case y.initial && j.section() == leaveSection:
		return y.filter.Room.IncludeLeave
	}
	// Invites, knocks and rooms that were left are told of once.
	return y.initial || m.Position > y.since.Durable
}
