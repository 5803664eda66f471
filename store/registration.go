package store

import (
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// Registration is the tokens that let people make accounts, and interactive
// authentication that is under way.
type Registration struct{ tx *Tx }

// RegistrationToken is a row of registration_tokens.
type RegistrationToken struct {
	Token       string
	UsesAllowed *int64 // nil: any number
	Pending     int64
	Completed   int64
	ExpiryMS    int64 // 0: never
}

// Interaction is interactive authentication under way.
type Interaction struct {
	Session   string
	CreatedMS int64
	User      id.User
	Operation string
	Params    jsontext.Value
	Flows     [][]string
	Completed map[string]string // stage -> what came of it
}

const (
	registrationColumns = `SELECT token, uses_allowed, pending, completed, COALESCE(expiry_time, 0) FROM registration_tokens `
	getRegistration     = registrationColumns + `WHERE token = $1`
	listRegistration    = registrationColumns + `ORDER BY token`
	insertRegistration  = `INSERT INTO registration_tokens (token, uses_allowed, pending, completed, expiry_time) VALUES ($1, $2, 0, 0, $3) ON CONFLICT DO NOTHING`
	updateRegistration  = `UPDATE registration_tokens SET uses_allowed = $2, expiry_time = $3 WHERE token = $1`
	deleteRegistration  = `DELETE FROM registration_tokens WHERE token = $1`
	useRegistration     = `UPDATE registration_tokens SET completed = completed + 1 WHERE token = $1
		AND (uses_allowed IS NULL OR completed + pending < uses_allowed) AND (expiry_time IS NULL OR expiry_time > $2)`

	getInteraction = `SELECT session_id, creation_time, user_id, operation, params, flows, completed
		FROM ui_auth_sessions WHERE session_id = $1`
	insertInteraction = `INSERT INTO ui_auth_sessions (session_id, creation_time, user_id, operation, params, flows, completed)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`
	setInteraction       = `UPDATE ui_auth_sessions SET params = $2, completed = $3 WHERE session_id = $1`
	deleteInteraction    = `DELETE FROM ui_auth_sessions WHERE session_id = $1`
	deleteOldInteraction = `DELETE FROM ui_auth_sessions WHERE creation_time < $1`
)

func scanRegistrationToken(r scanner) (v RegistrationToken, err error) {
	err = r.Scan(&v.Token, &v.UsesAllowed, &v.Pending, &v.Completed, &v.ExpiryMS)
	return
}

// GetToken reads a registration token.
func (t Registration) GetToken(token string) (RegistrationToken, bool, error) {
	return one(t.tx, scanRegistrationToken, getRegistration, token)
}

// ListTokens lists all registration tokens.
func (t Registration) ListTokens() ([]RegistrationToken, error) {
	return list(t.tx, scanRegistrationToken, listRegistration)
}

// InsertToken makes a registration token; false: there is one of that name.
func (t Registration) InsertToken(v RegistrationToken) (bool, error) {
	n, err := t.tx.exec(insertRegistration, v.Token, v.UsesAllowed, orNullInt(v.ExpiryMS))
	return n == 1, err
}

// SetToken changes how often and how long a token may be used; false: there is none.
func (t Registration) SetToken(v RegistrationToken) (bool, error) {
	n, err := t.tx.exec(updateRegistration, v.Token, v.UsesAllowed, orNullInt(v.ExpiryMS))
	return n == 1, err
}

// DeleteToken removes a registration token; false: there is none.
func (t Registration) DeleteToken(token string) (bool, error) {
	n, err := t.tx.exec(deleteRegistration, token)
	return n == 1, err
}

// UseToken counts one use of a token; false: it is not valid, or not any more.
func (t Registration) UseToken(token string, nowMS int64) (bool, error) {
	n, err := t.tx.exec(useRegistration, token, nowMS)
	return n == 1, err
}

// GetInteraction reads a session of interactive authentication.
func (t Registration) GetInteraction(session string) (Interaction, bool, error) {
	return one(t.tx, func(r scanner) (v Interaction, err error) {
		var params, flows, completed string
		if err = r.Scan(&v.Session, &v.CreatedMS, &v.User, &v.Operation, &params, &flows, &completed); err != nil {
			return
		}
		v.Params = jsontext.Value(params)
		if err = json.Unmarshal([]byte(flows), &v.Flows); err == nil {
			err = json.Unmarshal([]byte(completed), &v.Completed)
		}
		return
	}, getInteraction, session)
}

// InsertInteraction stores a new session, and forgets those made before oldestMS.
func (t Registration) InsertInteraction(v Interaction, oldestMS int64) error {
	if _, err := t.tx.exec(deleteOldInteraction, oldestMS); err != nil {
		return err
	}
	flows, err := json.Marshal(v.Flows)
	if err != nil {
		return err
	}
	completed, err := json.Marshal(v.Completed)
	if err != nil {
		return err
	}
	_, err = t.tx.exec(insertInteraction, v.Session, v.CreatedMS, string(v.User), v.Operation, string(v.Params), string(flows), string(completed))
	return err
}

// SetInteraction changes the parameters and completed stages of a session.
func (t Registration) SetInteraction(v Interaction) error {
	completed, err := json.Marshal(v.Completed)
	if err != nil {
		return err
	}
	_, err = t.tx.exec(setInteraction, v.Session, string(v.Params), string(completed))
	return err
}

// DeleteInteraction ends a session; false: it had ended already.
func (t Registration) DeleteInteraction(session string) (bool, error) {
	n, err := t.tx.exec(deleteInteraction, session)
	return n == 1, err
}
