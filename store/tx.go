package store

import "hearth/stream"

// Tx is one transaction. Each field is a group of tables, with a file of its own.
type Tx struct {
	store *Store
	conn  *conn

	writing     bool
	began       int64 // the counter at the transaction's begin
	position    int64
	changes     []stream.Change
	afterCommit []func()

	IDs          IDs          // the integers that stand for users, servers, event types, state keys
	Rooms        Rooms        // rooms and their heads
	Events       Events       // PDUs, timelines
	State        State        // the log of the rooms' states
	Overlays     Overlays     // states beside it
	AuthGraph    AuthGraph    // auth events of state events
	Gaps         Gaps         // where history is missing
	RoomServers  RoomServers  // servers in rooms
	Outgoing     Outgoing     // what other servers are to be told
	Destinations Destinations // which of them have yet to be told what
	ServerKeys   ServerKeys   // signing keys of other servers
	Members      Members      // current memberships
	Relations    Relations    // m.relates_to
	Transactions Transactions // client transaction ids
	Users        Users        // accounts of this server
	Profiles     Profiles     // their profiles
	Devices      Devices      // their devices
	Tokens       Tokens       // their access, refresh, login and OpenID tokens
	Registration Registration // registration tokens, interactive authentication
	AccountData  AccountData  // account data and filters
	Aliases      Aliases      // local room aliases
	Reports      Reports      // what users report
	Search       Search       // the words of events
	Media        Media        // uploaded and fetched files
	Push         Push         // push rules, pushers, tallies of the unread
	Followers    Followers    // how far background work has come
	DeviceKeys   DeviceKeys   // identity, one-time and fallback keys
	CrossSigning CrossSigning // cross-signing keys, signatures
	DeviceLists  DeviceLists  // whose keys changed when
	RemoteLists  RemoteLists  // keys of users of other servers that are kept
	ToDevice     ToDevice     // queues of to-device messages
	KeyBackup    KeyBackup    // encrypted backups of room keys
	Receipts     Receipts     // how far users have read
	Presence     Presence     // last saved presence
	Appservices  Appservices  // what application services have yet to be told
}

func newTx(s *Store, c *conn) *Tx {
	tx := &Tx{store: s, conn: c}
	tx.IDs.tx = tx
	tx.Rooms.tx = tx
	tx.Events.tx = tx
	tx.State.tx = tx
	tx.Overlays.tx = tx
	tx.AuthGraph.tx = tx
	tx.Gaps.tx = tx
	tx.RoomServers.tx = tx
	tx.Outgoing.tx = tx
	tx.Destinations.tx = tx
	tx.ServerKeys.tx = tx
	tx.Members.tx = tx
	tx.Relations.tx = tx
	tx.Transactions.tx = tx
	tx.Users.tx = tx
	tx.Profiles.tx = tx
	tx.Devices.tx = tx
	tx.Tokens.tx = tx
	tx.Registration.tx = tx
	tx.AccountData.tx = tx
	tx.Aliases.tx = tx
	tx.Reports.tx = tx
	tx.Search.tx = tx
	tx.Media.tx = tx
	tx.Appservices.tx = tx
	tx.Push.tx = tx
	tx.Followers.tx = tx
	tx.DeviceKeys.tx = tx
	tx.CrossSigning.tx = tx
	tx.DeviceLists.tx = tx
	tx.RemoteLists.tx = tx
	tx.ToDevice.tx = tx
	tx.KeyBackup.tx = tx
	tx.Receipts.tx = tx
	tx.Presence.tx = tx
	return tx
}

// NextPosition takes the next position of the change counter. Only in Update.
func (tx *Tx) NextPosition() int64 {
	tx.position++
	return tx.position
}

// KeepFree takes n positions out of use, for what may be found to have been
// before the next one.
func (tx *Tx) KeepFree(n int64) (first, last int64) {
	first = tx.position + 1
	tx.position += n
	return first, tx.position
}

// Position is the last position taken so far.
func (tx *Tx) Position() int64 { return tx.position }

// ReadPosition is the position that the snapshot of a reading transaction stands at.
func (tx *Tx) ReadPosition() (int64, error) {
	p, _, err := one(tx, value[int64], snapshotPosition)
	return p, err
}

// Touch tells the hub, after the commit, that something changed for local users
// (nids) at the last position taken. users must not be changed afterwards.
func (tx *Tx) Touch(kind stream.Kind, room RoomNID, users ...UserNID) {
	if len(users) == 0 {
		return
	}
	tx.changes = append(tx.changes, stream.Change{Kind: kind, Position: tx.position, Room: int64(room), Users: users})
}
