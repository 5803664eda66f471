package store

// AuthGraph is the table of auth events: of each state event of a room, rejected
// ones and outliers too.
type AuthGraph struct{ tx *Tx }

// AuthNode is a state event with its auth events. Events are numbered so that they
// come after their auth events.
type AuthNode struct {
	Room     RoomNID
	Event    EventNID
	Key      StateKey
	Rejected bool
	Auth     []EventNID
}

const (
	insertAuthNode = `INSERT INTO auth_graph (room_nid, event_nid, skey, rejected, auth) VALUES ($1, $2, $3, $4, $5)`
	authNodes      = `SELECT room_nid, event_nid, skey, rejected, auth FROM auth_graph WHERE room_nid = $1 AND event_nid > $2 ORDER BY event_nid`
)

// Insert adds a state event to its room's graph.
func (t AuthGraph) Insert(n AuthNode) error {
	_, err := t.tx.exec(insertAuthNode, n.Room, n.Event, n.Key, toInt(n.Rejected), packNumbers(n.Auth))
	return err
}

// Each calls fn with all events of a room's graph after one, in order.
func (t AuthGraph) Each(room RoomNID, after EventNID, fn func(AuthNode) error) error {
	return each(t.tx, func(r scanner) error {
		var n AuthNode
		var rejected int64
		var packed []byte
		err := r.Scan(&n.Room, &n.Event, &n.Key, &rejected, &packed)
		if err != nil {
			return err
		}
		n.Rejected = rejected != 0
		if n.Auth, err = unpackNumbers(packed); err != nil {
			return err
		}
		return fn(n)
	}, authNodes, room, after)
}
