package store

// Presence is the last presence of users that was saved; the current one is in memory.
type Presence struct{ tx *Tx }

// PresenceState is a saved presence.
type PresenceState struct {
	User         UserNID
	State        string
	StatusMsg    string
	LastActiveTS int64
}

const (
	getPresence = `SELECT user_nid, state, status_msg, last_active_ts FROM presence WHERE user_nid = $1`
	setPresence = `INSERT INTO presence (user_nid, state, status_msg, last_active_ts) VALUES ($1, $2, $3, $4)
		ON CONFLICT (user_nid) DO UPDATE SET state = excluded.state, status_msg = excluded.status_msg, last_active_ts = excluded.last_active_ts`
)

// Get reads a user's saved presence.
func (t Presence) Get(user UserNID) (PresenceState, bool, error) {
	return one(t.tx, func(r scanner) (p PresenceState, err error) {
		err = r.Scan(&p.User, &p.State, &p.StatusMsg, &p.LastActiveTS)
		return
	}, getPresence, user)
}

// Set saves a user's presence.
func (t Presence) Set(p PresenceState) error {
	_, err := t.tx.exec(setPresence, p.User, p.State, p.StatusMsg, p.LastActiveTS)
	return err
}
