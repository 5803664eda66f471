package store

import (
	"fmt"

	"github.com/maypok86/otter/v2"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// Numbers that stand for strings inside the database. They are never shown outside.
type (
	UserNID   = int64
	ServerNID = int64
	RoomNID   = int64
	EventNID  = int64
	TypeNID   = int64
	// StateKey stands for one (type, state key) of a room's state. A member's is
	// made from the user's nid, so members need no row and are the odd ones.
	StateKey = int64
)

// MemberKey is the state key of a user's membership.
func MemberKey(user UserNID) StateKey { return user<<1 | 1 }

// IsMemberKey says whether a state key is a membership, and whose.
func IsMemberKey(k StateKey) (UserNID, bool) { return k >> 1, k&1 == 1 }

// cachedNames bounds each cache of names, in entries of some 200 bytes.
const cachedNames = 20_000

// names caches what never changes once committed: both directions of the dictionaries.
type names struct {
	userNID  *otter.Cache[id.User, UserNID]
	userID   *otter.Cache[UserNID, id.User]
	typeNID  *otter.Cache[string, TypeNID]
	typeName *otter.Cache[TypeNID, string]
	stateKey *otter.Cache[event.StateTuple, StateKey]
	tuple    *otter.Cache[StateKey, event.StateTuple]
	roomNID  *otter.Cache[id.Room, RoomNID]
	roomID   *otter.Cache[RoomNID, id.Room]

	serverNID  *otter.Cache[id.Server, ServerNID]
	serverName *otter.Cache[ServerNID, id.Server]
}

func (n *names) init() {
	n.userNID = nameCache[id.User, UserNID]()
	n.userID = nameCache[UserNID, id.User]()
	n.typeNID = nameCache[string, TypeNID]()
	n.typeName = nameCache[TypeNID, string]()
	n.stateKey = nameCache[event.StateTuple, StateKey]()
	n.tuple = nameCache[StateKey, event.StateTuple]()
	n.roomNID = nameCache[id.Room, RoomNID]()
	n.roomID = nameCache[RoomNID, id.Room]()
	n.serverNID = nameCache[id.Server, ServerNID]()
	n.serverName = nameCache[ServerNID, id.Server]()
}

func nameCache[K comparable, V any]() *otter.Cache[K, V] {
	return otter.Must(&otter.Options[K, V]{MaximumSize: cachedNames})
}

// IDs finds and makes the integers that stand for strings. Find… only look;
// the others make what is missing and need Update.
type IDs struct{ tx *Tx }

const (
	findUserNID = `SELECT user_nid FROM user_ids WHERE user_id = $1`
	findUserID  = `SELECT user_id FROM user_ids WHERE user_nid = $1`
	insertUser  = `INSERT INTO user_ids (user_nid, user_id, is_local, server_nid)
		VALUES ((SELECT COALESCE(MAX(user_nid), 0) + 1 FROM user_ids), $1, $2, $3) RETURNING user_nid`

	findServerNID  = `SELECT server_nid FROM server_ids WHERE server_name = $1`
	findServerName = `SELECT server_name FROM server_ids WHERE server_nid = $1`
	insertServer   = `INSERT INTO server_ids (server_nid, server_name)
		VALUES ((SELECT COALESCE(MAX(server_nid), 0) + 1 FROM server_ids), $1) RETURNING server_nid`

	findTypeNID  = `SELECT type_nid FROM event_types WHERE type = $1`
	findTypeName = `SELECT type FROM event_types WHERE type_nid = $1`
	insertType   = `INSERT INTO event_types (type_nid, type)
		VALUES ((SELECT COALESCE(MAX(type_nid), 0) + 1 FROM event_types), $1) RETURNING type_nid`

	findSKeyNID = `SELECT skey_nid FROM state_keys WHERE type_nid = $1 AND state_key = $2`
	findSKey    = `SELECT t.type, k.state_key FROM state_keys k JOIN event_types t ON t.type_nid = k.type_nid WHERE k.skey_nid = $1`
	insertSKey  = `INSERT INTO state_keys (skey_nid, type_nid, state_key)
		VALUES ((SELECT COALESCE(MAX(skey_nid), 0) + 1 FROM state_keys), $1, $2) RETURNING skey_nid`
)

// FindUser finds a user's nid; false: no such user was ever seen.
func (t IDs) FindUser(u id.User) (UserNID, bool, error) {
	return find(t.tx, t.tx.store.names.userNID, u, findUserNID, string(u))
}

// User finds or makes a user's nid.
func (t IDs) User(u id.User) (UserNID, error) {
	nid, ok, err := t.FindUser(u)
	if err != nil || ok {
		return nid, err
	}
	server, err := t.Server(u.Server())
	if err != nil {
		return 0, err
	}
	local := 0
	if u.Server() == t.tx.store.server {
		local = 1
	}
	nid, _, err = one(t.tx, value[int64], insertUser, string(u), local, server)
	return nid, err
}

// UserID is the user that a nid stands for.
func (t IDs) UserID(nid UserNID) (id.User, error) {
	return must(find(t.tx, t.tx.store.names.userID, nid, findUserID, nid))
}

// Server finds or makes a server's nid.
func (t IDs) Server(s id.Server) (ServerNID, error) {
	nid, ok, err := t.FindServer(s)
	if err != nil || ok {
		return nid, err
	}
	nid, _, err = one(t.tx, value[int64], insertServer, string(s))
	return nid, err
}

// FindServer finds a server's nid; false: no such server was ever seen.
func (t IDs) FindServer(s id.Server) (ServerNID, bool, error) {
	return find(t.tx, t.tx.store.names.serverNID, s, findServerNID, string(s))
}

// ServerName is the server that a nid stands for.
func (t IDs) ServerName(nid ServerNID) (id.Server, error) {
	return must(find(t.tx, t.tx.store.names.serverName, nid, findServerName, nid))
}

// FindType finds an event type's nid; false: no event has had that type.
func (t IDs) FindType(typ string) (TypeNID, bool, error) {
	return find(t.tx, t.tx.store.names.typeNID, typ, findTypeNID, typ)
}

// Type finds or makes an event type's nid.
func (t IDs) Type(typ string) (TypeNID, error) {
	nid, ok, err := t.FindType(typ)
	if err != nil || ok {
		return nid, err
	}
	nid, _, err = one(t.tx, value[int64], insertType, typ)
	return nid, err
}

// TypeName is the event type that a nid stands for.
func (t IDs) TypeName(nid TypeNID) (string, error) {
	return must(find(t.tx, t.tx.store.names.typeName, nid, findTypeName, nid))
}

// FindStateKey finds what stands for a (type, state key); false: no room has had it.
func (t IDs) FindStateKey(k event.StateTuple) (StateKey, bool, error) {
	if k.Type == event.TypeMember {
		nid, ok, err := t.FindUser(id.User(k.Key))
		return MemberKey(nid), ok, err
	}
	cache := t.tx.store.names.stateKey
	if key, ok := cache.GetIfPresent(k); ok {
		return key, true, nil
	}
	typ, ok, err := t.FindType(k.Type)
	if err != nil || !ok {
		return 0, false, err
	}
	nid, ok, err := one(t.tx, value[int64], findSKeyNID, typ, k.Key)
	if err != nil || !ok {
		return 0, false, err
	}
	t.tx.remember(func() { cache.Set(k, nid<<1) })
	return nid << 1, true, nil
}

// StateKey finds or makes what stands for a (type, state key).
func (t IDs) StateKey(k event.StateTuple) (StateKey, error) {
	if k.Type == event.TypeMember {
		nid, err := t.User(id.User(k.Key))
		return MemberKey(nid), err
	}
	key, ok, err := t.FindStateKey(k)
	if err != nil || ok {
		return key, err
	}
	typ, err := t.Type(k.Type)
	if err != nil {
		return 0, err
	}
	nid, _, err := one(t.tx, value[int64], insertSKey, typ, k.Key)
	return nid << 1, err
}

// StateTuple is the (type, state key) that a key stands for.
func (t IDs) StateTuple(k StateKey) (event.StateTuple, error) {
	if nid, ok := IsMemberKey(k); ok {
		u, err := t.UserID(nid)
		return event.StateTuple{Type: event.TypeMember, Key: string(u)}, err
	}
	cache := t.tx.store.names.tuple
	if tuple, ok := cache.GetIfPresent(k); ok {
		return tuple, nil
	}
	tuple, ok, err := one(t.tx, func(r scanner) (s event.StateTuple, err error) {
		err = r.Scan(&s.Type, &s.Key)
		return
	}, findSKey, k>>1)
	if err == nil && !ok {
		err = fmt.Errorf("state key %d is not in the dictionary", k)
	}
	if err == nil {
		t.tx.remember(func() { cache.Set(k, tuple) })
	}
	return tuple, err
}

// find looks in a cache, then in its table.
func find[K comparable, V any](tx *Tx, cache *otter.Cache[K, V], key K, query string, arg any) (V, bool, error) {
	if v, ok := cache.GetIfPresent(key); ok {
		return v, true, nil
	}
	v, ok, err := one(tx, value[V], query, arg)
	if ok && err == nil {
		tx.remember(func() { cache.Set(key, v) })
	}
	return v, ok, err
}

func must[V any](v V, ok bool, err error) (V, error) {
	if err == nil && !ok {
		err = fmt.Errorf("a number is not in the dictionary")
	}
	return v, err
}

// remember fills a cache: at once when reading, after the commit when writing,
// since a row just made may yet be rolled back.
func (tx *Tx) remember(fn func()) {
	if tx.writing {
		tx.AfterCommit(fn)
		return
	}
	fn()
}

// AfterCommit runs fn once this write is on disk, before its caller and the hub
// hear of it; not at all if it fails. fn must be short and not use tx.
func (tx *Tx) AfterCommit(fn func()) { tx.afterCommit = append(tx.afterCommit, fn) }
