package store

// Followers is how far each background follower of the change counter has come.
type Followers struct{ tx *Tx }

const (
	getFollower = `SELECT position FROM followers WHERE name = $1`
	setFollower = `INSERT INTO followers (name, position) VALUES ($1, $2)
		ON CONFLICT (name) DO UPDATE SET position = excluded.position`
)

// Position is the position up to which a follower has seen everything; false: it never began.
func (t Followers) Position(name string) (int64, bool, error) {
	return one(t.tx, value[int64], getFollower, name)
}

// SetPosition notes how far a follower has come.
func (t Followers) SetPosition(name string, position int64) error {
	_, err := t.tx.exec(setFollower, name, position)
	return err
}
