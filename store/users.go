package store

import (
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// Users is the accounts of this server. Rows are never cached: an operator may
// change them under our hands.
type Users struct{ tx *Tx }

// User is a row of users.
type User struct {
	Name         id.User
	PasswordHash string // empty: no password
	CreatedS     int64  // seconds
	Admin        bool
	Guest        bool
	Appservice   string // of the application service that made it
	Type         string // "", bot, support, …
	Deactivated  bool
	ShadowBanned bool
	Locked       bool
	Suspended    bool
}

// ThreePID is an e-mail address or telephone number of an account.
// spec: client-server-api#adding-account-administrative-contact-information
type ThreePID struct {
	Medium      string `json:"medium"`
	Address     string `json:"address"`
	ValidatedAt int64  `json:"validated_at"`
	AddedAt     int64  `json:"added_at"`
}

const (
	userColumns = `SELECT name, COALESCE(password_hash, ''), COALESCE(creation_ts, 0), admin, is_guest, COALESCE(appservice_id, ''),
		COALESCE(user_type, ''), deactivated, COALESCE(shadow_banned, FALSE), locked, suspended FROM users `
	getUser       = userColumns + `WHERE name = $1`
	getUserLower  = userColumns + `WHERE lower(name) = $1 ORDER BY name LIMIT 2`
	listUsers     = userColumns + `WHERE name > $1 ORDER BY name LIMIT $2`
	insertUserRow = `INSERT INTO users (name, password_hash, creation_ts, admin, is_guest, appservice_id, user_type)
		VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`
	setPasswordHash = `UPDATE users SET password_hash = $2 WHERE name = $1`
	setUpgraded     = `UPDATE users SET is_guest = 0, password_hash = $2, upgrade_ts = $3 WHERE name = $1 AND is_guest = 1`
	setAdmin        = `UPDATE users SET admin = $2 WHERE name = $1`
	setLocked       = `UPDATE users SET locked = $2 WHERE name = $1`
	setSuspended    = `UPDATE users SET suspended = $2 WHERE name = $1`
	setDeactivated  = `UPDATE users SET deactivated = $2, password_hash = NULL WHERE name = $1`
	eachProfile     = `SELECT u.name, COALESCE(p.displayname, ''), COALESCE(p.avatar_url, '') FROM users u LEFT JOIN profiles p ON p.full_user_id = u.name
		WHERE u.deactivated = 0 AND u.is_guest = 0`
	usersInUse = `SELECT name FROM users WHERE deactivated = 0 AND name
		IN (SELECT value FROM json_each($1)) -- only: sqlite
		IN (SELECT value FROM json_array_elements_text($1::json)) -- only: postgres`
	countUsers = `SELECT COUNT(*) FROM users`

	insertErased = `INSERT INTO erased_users (user_id) VALUES ($1) ON CONFLICT DO NOTHING`
	deleteErased = `DELETE FROM erased_users WHERE user_id = $1`
	isErased     = `SELECT 1 FROM erased_users WHERE user_id = $1`

	listThreePIDs = `SELECT medium, address, validated_at, added_at FROM user_threepids WHERE user_id = $1 ORDER BY medium, address`
	ownerOf3PID   = `SELECT user_id FROM user_threepids WHERE medium = $1 AND address = $2`
	insert3PID    = `INSERT INTO user_threepids (user_id, medium, address, validated_at, added_at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (medium, address) DO UPDATE SET validated_at = excluded.validated_at, added_at = excluded.added_at
		WHERE user_threepids.user_id = excluded.user_id`
	delete3PID     = `DELETE FROM user_threepids WHERE user_id = $1 AND medium = $2 AND address = $3`
	deleteAll3PIDs = `DELETE FROM user_threepids WHERE user_id = $1`
)

func scanUser(r scanner) (u User, err error) {
	err = r.Scan(&u.Name, &u.PasswordHash, &u.CreatedS, &u.Admin, &u.Guest, &u.Appservice, &u.Type, &u.Deactivated, &u.ShadowBanned, &u.Locked, &u.Suspended)
	return
}

// Get reads an account.
func (t Users) Get(u id.User) (User, bool, error) { return one(t.tx, scanUser, getUser, string(u)) }

// GetAnyCase reads the accounts, two at most, whose names differ from the
// lower-case name given in upper and lower case only.
func (t Users) GetAnyCase(lower string) ([]User, error) {
	return list(t.tx, scanUser, getUserLower, lower)
}

// List pages through all accounts in order of their names, after the given one.
func (t Users) List(after id.User, limit int) ([]User, error) {
	return list(t.tx, scanUser, listUsers, string(after), limit)
}

// InUse lists which of the names are those of accounts that are not deactivated.
func (t Users) InUse(names []id.User) ([]id.User, error) {
	param, err := textList(t.tx, names)
	if err != nil {
		return nil, err
	}
	return list(t.tx, value[id.User], usersInUse, param)
}

// EachProfile calls fn with the name and profile of each account that is in use, guests left out.
func (t Users) EachProfile(fn func(id.User, Profile) error) error {
	return each(t.tx, func(r scanner) error {
		var u id.User
		var p Profile
		if err := r.Scan(&u, &p.DisplayName, &p.AvatarURL); err != nil {
			return err
		}
		return fn(u, p)
	}, eachProfile)
}

// Count says how many accounts there are, of all kinds.
func (t Users) Count() (int64, error) {
	n, _, err := one(t.tx, value[int64], countUsers)
	return n, err
}

// Insert makes an account; false: the name is taken.
func (t Users) Insert(u User) (bool, error) {
	n, err := t.tx.exec(insertUserRow, string(u.Name), orNull(u.PasswordHash), u.CreatedS, toInt(u.Admin), toInt(u.Guest), orNull(u.Appservice), orNull(u.Type))
	return n == 1, err
}

// SetPasswordHash changes a password; an empty hash takes it away.
func (t Users) SetPasswordHash(u id.User, hash string) error {
	return t.set(setPasswordHash, u, orNull(hash))
}

// UpgradeGuest turns a guest into a user; false: there is no such guest.
func (t Users) UpgradeGuest(u id.User, hash string, nowMS int64) (bool, error) {
	n, err := t.tx.exec(setUpgraded, string(u), orNull(hash), nowMS)
	return n == 1, err
}

func (t Users) SetAdmin(u id.User, admin bool) error   { return t.set(setAdmin, u, toInt(admin)) }
func (t Users) SetLocked(u id.User, locked bool) error { return t.set(setLocked, u, locked) }
func (t Users) SetSuspended(u id.User, suspended bool) error {
	return t.set(setSuspended, u, suspended)
}

// SetDeactivated closes an account, or opens it again, without a password in either case.
func (t Users) SetDeactivated(u id.User, deactivated bool) error {
	return t.set(setDeactivated, u, toInt(deactivated))
}

func (t Users) set(query string, u id.User, v any) error {
	_, err := t.tx.exec(query, string(u), v)
	return err
}

// SetErased marks that newcomers see the user's events redacted.
func (t Users) SetErased(u id.User, erased bool) error {
	query := insertErased
	if !erased {
		query = deleteErased
	}
	_, err := t.tx.exec(query, string(u))
	return err
}

// IsErased says whether newcomers see the user's events redacted.
func (t Users) IsErased(u id.User) (bool, error) {
	_, erased, err := one(t.tx, value[int64], isErased, string(u))
	return erased, err
}

// ListThreePIDs lists the addresses of an account.
func (t Users) ListThreePIDs(u id.User) ([]ThreePID, error) {
	return list(t.tx, func(r scanner) (p ThreePID, err error) {
		err = r.Scan(&p.Medium, &p.Address, &p.ValidatedAt, &p.AddedAt)
		return
	}, listThreePIDs, string(u))
}

// FindByThreePID finds whose address it is.
func (t Users) FindByThreePID(medium, address string) (id.User, bool, error) {
	return one(t.tx, value[id.User], ownerOf3PID, medium, address)
}

// InsertThreePID adds an address to an account; false: it is somebody else's.
func (t Users) InsertThreePID(u id.User, p ThreePID) (bool, error) {
	n, err := t.tx.exec(insert3PID, string(u), p.Medium, p.Address, p.ValidatedAt, p.AddedAt)
	return n == 1, err
}

// DeleteThreePID takes an address off an account; false: it had none such.
func (t Users) DeleteThreePID(u id.User, medium, address string) (bool, error) {
	n, err := t.tx.exec(delete3PID, string(u), medium, address)
	return n == 1, err
}

// DeleteThreePIDs takes all addresses off an account.
func (t Users) DeleteThreePIDs(u id.User) error {
	_, err := t.tx.exec(deleteAll3PIDs, string(u))
	return err
}

// orNull stores the empty string as NULL.
func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// orNullInt stores zero as NULL.
func orNullInt(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

// orNullJSON stores no value as NULL.
func orNullJSON(v jsontext.Value) any {
	if len(v) == 0 {
		return nil
	}
	return string(v)
}
