package clientsync

import (
	"sync"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// Which members a device has been sent is remembered with the token that it
// gets with them, and believed once the device has come back with that token or
// a later one: what was lost on the way is sent again. Forgetting it all costs a
// few redundant events.
// spec: client-server-api#lazy-loading-room-members

type memberKey struct {
	user   store.UserNID
	device id.Device
	room   store.RoomNID
}

// maxSentMembers bounds what is remembered of one room and device.
const maxSentMembers = 2000

type sentMembers struct {
	sync.Mutex
	events map[store.UserNID]sentEvent
}

type sentEvent struct {
	event store.EventNID
	at    int64 // durable part of the token that came with it
}

// sentMember is a member event that goes out with this answer.
type sentMember struct {
	room  store.RoomNID
	user  store.UserNID
	event store.EventNID
}

// lazyMembers adds the members that the client needs to show what it gets: the
// senders in the timeline, those that name the room, and the user.
func (y *response) lazyMembers(tx *store.Tx, sp *span, t *timeline, st *state, heroes []store.UserNID) error {
	if sp.noState {
		return nil
	}
	users := make([]store.UserNID, 0, len(t.events)+len(heroes)+1)
	if sp.whole {
		users = append(users, y.user)
	}
	users = append(users, heroes...)
	for _, ev := range t.events {
		users = append(users, ev.Sender)
		if user, ok := memberOf(ev); ok {
			if y.req.stateAfter() {
				users = append(users, user)
			} else {
				y.sentMember(sp, ev)
			}
		}
	}
	if len(users) == 0 {
		return nil
	}
	return y.addMembers(tx, sp, t, st, users)
}

func memberOf(ev *room.Event) (store.UserNID, bool) {
	if !ev.IsState || ev.PDU.Type != event.TypeMember {
		return 0, false
	}
	return store.IsMemberKey(ev.Key)
}

func (y *response) addMembers(tx *store.Tx, sp *span, t *timeline, st *state, users []store.UserNID) error {
	known := y.knownMembers(sp)
	at, err := y.memberLookUp(tx, sp, t)
	if err != nil {
		return err
	}
	for _, user := range users {
		key := store.MemberKey(user)
		if st.has[key] {
			continue
		}
		nid, ok, err := at(key)
		if err != nil {
			return err
		}
		if ok && (known == nil || !known(user, nid)) {
			st.add(key, nid)
		}
	}
	return nil
}

// memberLookUp finds the member events that go with a timeline, by the rule of state.
func (y *response) memberLookUp(tx *store.Tx, sp *span, t *timeline) (func(store.StateKey) (store.EventNID, bool, error), error) {
	if y.req.stateAfter() {
		return func(key store.StateKey) (store.EventNID, bool, error) {
			return tx.State.At(sp.view.Room.NID, key, sp.stateAt)
		}, nil
	}
	start, err := y.startVersion(tx, sp, t)
	shown := t.shown()
	return func(key store.StateKey) (store.EventNID, bool, error) {
		if !t.gapless {
			nid, ok, err := tx.State.At(sp.view.Room.NID, key, sp.stateAt)
			if err != nil || ok && !shown[nid] {
				return nid, ok, err
			}
		}
		return tx.State.At(sp.view.Room.NID, key, start)
	}, err
}

// knownMembers says which members the client has already; nil: all are to be sent.
func (y *response) knownMembers(sp *span) func(store.UserNID, store.EventNID) bool {
	if sp.whole || y.filter.Room.State.IncludeRedundantMembers {
		return nil
	}
	sent, ok := y.s.members.GetIfPresent(memberKey{y.user, y.req.Device, sp.view.Room.NID})
	if !ok {
		return nil
	}
	return func(user store.UserNID, nid store.EventNID) bool {
		sent.Lock()
		defer sent.Unlock()
		s, ok := sent.events[user]
		return ok && s.event == nid && s.at <= y.since.Durable
	}
}

// sentMember notes a member event that goes out.
func (y *response) sentMember(sp *span, ev *room.Event) {
	if user, ok := memberOf(ev); ok {
		y.members = append(y.members, sentMember{sp.view.Room.NID, user, ev.NID})
	}
}

// rememberMembers notes which members the client will know.
func (s *Syncer) rememberMembers(y *response) {
	for _, m := range y.members {
		key := memberKey{y.user, y.req.Device, m.room}
		sent, ok := s.members.GetIfPresent(key)
		if !ok {
			sent = &sentMembers{events: map[store.UserNID]sentEvent{}}
			s.members.Set(key, sent)
		}
		sent.Lock()
		if len(sent.events) >= maxSentMembers {
			clear(sent.events)
		}
		sent.events[m.user] = sentEvent{m.event, y.now.Durable}
		sent.Unlock()
	}
}
