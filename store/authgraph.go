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
	judgeAuthNode  = `UPDATE auth_graph SET rejected = $3 WHERE room_nid = $1 AND event_nid = $2`
	authNodes      = `SELECT room_nid, event_nid, skey, rejected, auth FROM auth_graph WHERE room_nid = $1 AND event_nid > $2 ORDER BY event_nid LIMIT $3`
	someAuthNodes  = `SELECT room_nid, event_nid, skey, rejected, auth FROM auth_graph WHERE room_nid = $1 AND event_nid IN (
		SELECT value FROM json_each($2) -- only: sqlite
		SELECT value::bigint FROM json_array_elements_text($2::json) -- only: postgres
		)`
)

// Insert adds a state event to its room's graph.
func (t AuthGraph) Insert(n AuthNode) error {
	_, err := t.tx.exec(insertAuthNode, n.Room, n.Event, n.Key, toInt(n.Rejected), packNumbers(n.Auth))
	return err
}

// SetRejected notes that an event was judged anew.
func (t AuthGraph) SetRejected(room RoomNID, event EventNID, rejected bool) error {
	_, err := t.tx.exec(judgeAuthNode, room, event, toInt(rejected))
	return err
}

// After lists events of a room's graph after one, in order.
func (t AuthGraph) After(room RoomNID, after EventNID, limit int) ([]AuthNode, error) {
	return list(t.tx, scanAuthNode, authNodes, room, after, limit)
}

// Load reads some events of a room's graph, in no order; missing ones are left out.
func (t AuthGraph) Load(room RoomNID, nids []EventNID) ([]AuthNode, error) {
	if len(nids) == 0 {
		return nil, nil
	}
	param, err := nidList(nids)
	if err != nil {
		return nil, err
	}
	return list(t.tx, scanAuthNode, someAuthNodes, room, param)
}

func scanAuthNode(r scanner) (n AuthNode, err error) {
	var rejected int64
	var packed []byte
	if err = r.Scan(&n.Room, &n.Event, &n.Key, &rejected, &packed); err == nil {
		n.Rejected = rejected != 0
		n.Auth, err = unpackNumbers(packed)
	}
	return n, err
}
