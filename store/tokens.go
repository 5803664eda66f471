package store

import (
	"crypto/sha256"
	"encoding/base64"

	"hearth/matrix/id"
)

// Tokens is every secret string that stands for a user: access, refresh, login
// and OpenID tokens. Each is stored as its SHA-256 (HashToken), so a copy of the
// database opens no sessions. The tokens are random, which makes a plain hash enough.
type Tokens struct{ tx *Tx }

// HashToken is what the column "token" holds.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// AccessToken is an access token together with what its user's row says, read at once.
type AccessToken struct {
	ID           int64
	User         User // as whom it acts; without PasswordHash
	Device       id.Device
	ValidUntilMS int64 // 0: for ever
	RefreshID    int64 // of the refresh token that came with it; 0: none
	Used         bool
	Admin        id.User // the administrator who acts as User, or empty
}

// RefreshToken is a row of refresh_tokens.
type RefreshToken struct {
	ID        int64
	User      id.User
	Device    id.Device
	Next      int64 // the refresh token it was exchanged for; 0: not yet
	ExpiryMS  int64 // 0: never
	SessionMS int64 // when the whole session ends; 0: never
}

const (
	findAccessToken = `SELECT t.id, COALESCE(t.device_id, ''), COALESCE(t.valid_until_ms, 0), COALESCE(t.refresh_token_id, 0), t.used,
			CASE WHEN t.puppets_user_id IS NULL THEN '' ELSE t.user_id END,
			u.name, u.admin, u.is_guest, COALESCE(u.appservice_id, ''), COALESCE(u.user_type, ''), u.deactivated,
			COALESCE(u.shadow_banned, FALSE), u.locked, u.suspended
		FROM access_tokens t JOIN users u ON u.name = COALESCE(t.puppets_user_id, t.user_id) WHERE t.token = $1`
	insertAccessToken = `INSERT INTO access_tokens (user_id, device_id, token, valid_until_ms, puppets_user_id, refresh_token_id)
		VALUES ($1, $2, $3, $4, $5, $6) RETURNING id`
	setAccessTokenUsed = `UPDATE access_tokens SET used = TRUE WHERE id = $1`
	deleteAccessToken  = `DELETE FROM access_tokens WHERE id = $1`
	deleteTokensOf     = `DELETE FROM access_tokens WHERE user_id = $1 AND device_id
		IN (SELECT value FROM json_each($2)) -- only: sqlite
		IN (SELECT value FROM json_array_elements_text($2::json)) -- only: postgres
		RETURNING id`
	deleteRefreshOf = `DELETE FROM refresh_tokens WHERE user_id = $1 AND device_id
		IN (SELECT value FROM json_each($2)) -- only: sqlite
		IN (SELECT value FROM json_array_elements_text($2::json)) -- only: postgres`
	deleteAllAccess  = `DELETE FROM access_tokens WHERE (user_id = $1 OR puppets_user_id = $1) AND id <> $2 RETURNING id`
	deleteAllRefresh = `DELETE FROM refresh_tokens WHERE user_id = $1
		AND id NOT IN (SELECT COALESCE(refresh_token_id, 0) FROM access_tokens WHERE id = $2)`

	findRefreshToken = `SELECT id, user_id, device_id, COALESCE(next_token_id, 0), COALESCE(expiry_ts, 0), COALESCE(ultimate_session_expiry_ts, 0)
		FROM refresh_tokens WHERE token = $1`
	insertRefreshToken = `INSERT INTO refresh_tokens (user_id, device_id, token, expiry_ts, ultimate_session_expiry_ts)
		VALUES ($1, $2, $3, $4, $5) RETURNING id`
	setNextRefresh = `UPDATE refresh_tokens SET next_token_id = $2 WHERE id = $1`
	// A refresh token is used up when the pair it was exchanged for has been used.
	isNextUsed = `SELECT 1 FROM refresh_tokens r WHERE r.id = $1 AND (r.next_token_id IS NOT NULL
		OR EXISTS (SELECT 1 FROM access_tokens t WHERE t.refresh_token_id = r.id AND t.used))`
	deleteRefreshToken  = `DELETE FROM refresh_tokens WHERE id = $1`
	deleteRefreshAccess = `DELETE FROM access_tokens WHERE refresh_token_id = $1 RETURNING id`
	listRefreshedBefore = `SELECT id FROM refresh_tokens WHERE next_token_id = $1`

	insertLoginToken  = `INSERT INTO login_tokens (token, user_id, expiry_ts) VALUES ($1, $2, $3)`
	deleteLoginToken  = `DELETE FROM login_tokens WHERE token = $1 RETURNING user_id, expiry_ts`
	deleteOldLogins   = `DELETE FROM login_tokens WHERE expiry_ts < $1`
	insertOpenIDToken = `INSERT INTO open_id_tokens (token, ts_valid_until_ms, user_id) VALUES ($1, $2, $3)`
	findOpenIDToken   = `SELECT user_id FROM open_id_tokens WHERE token = $1 AND ts_valid_until_ms > $2`
	deleteOldOpenIDs  = `DELETE FROM open_id_tokens WHERE ts_valid_until_ms <= $1`
	deleteLoginsOf    = `DELETE FROM login_tokens WHERE user_id = $1`
	deleteOpenIDsOf   = `DELETE FROM open_id_tokens WHERE user_id = $1`
)

// FindAccess finds an access token and its user by one indexed query.
func (t Tokens) FindAccess(token string) (AccessToken, bool, error) {
	return one(t.tx, func(r scanner) (a AccessToken, err error) {
		u := &a.User
		err = r.Scan(&a.ID, &a.Device, &a.ValidUntilMS, &a.RefreshID, &a.Used, &a.Admin,
			&u.Name, &u.Admin, &u.Guest, &u.Appservice, &u.Type, &u.Deactivated, &u.ShadowBanned, &u.Locked, &u.Suspended)
		return
	}, findAccessToken, HashToken(token))
}

// InsertAccess stores an access token and returns its number. a.User.Name is
// the user; with a.Admin set, that administrator acts as the user.
func (t Tokens) InsertAccess(token string, a AccessToken) (int64, error) {
	user, puppet := a.User.Name, id.User("")
	if a.Admin != "" {
		user, puppet = a.Admin, a.User.Name
	}
	n, _, err := one(t.tx, value[int64], insertAccessToken, string(user), orNull(string(a.Device)), HashToken(token), orNullInt(a.ValidUntilMS), orNull(string(puppet)), orNullInt(a.RefreshID))
	return n, err
}

// SetAccessUsed notes that an access token has been used.
func (t Tokens) SetAccessUsed(token int64) error {
	_, err := t.tx.exec(setAccessTokenUsed, token)
	return err
}

// DeleteAccess removes one access token.
func (t Tokens) DeleteAccess(token int64) error {
	_, err := t.tx.exec(deleteAccessToken, token)
	return err
}

// DeleteOfDevices removes all tokens of some devices and returns the numbers of their access tokens.
func (t Tokens) DeleteOfDevices(u id.User, devices []id.Device) ([]int64, error) {
	ids, err := textList(t.tx, devices)
	if err != nil {
		return nil, err
	}
	if _, err := t.tx.exec(deleteRefreshOf, string(u), ids); err != nil {
		return nil, err
	}
	return list(t.tx, value[int64], deleteTokensOf, string(u), ids)
}

// DeleteAll removes all tokens of a user but one access token (0: none) and its
// refresh token, and returns the numbers of the access tokens.
func (t Tokens) DeleteAll(u id.User, except int64) ([]int64, error) {
	if _, err := t.tx.exec(deleteAllRefresh, string(u), except); err != nil {
		return nil, err
	}
	for _, query := range []string{deleteLoginsOf, deleteOpenIDsOf} {
		if _, err := t.tx.exec(query, string(u)); err != nil {
			return nil, err
		}
	}
	return list(t.tx, value[int64], deleteAllAccess, string(u), except)
}

// FindRefresh finds a refresh token.
func (t Tokens) FindRefresh(token string) (RefreshToken, bool, error) {
	return one(t.tx, func(r scanner) (v RefreshToken, err error) {
		err = r.Scan(&v.ID, &v.User, &v.Device, &v.Next, &v.ExpiryMS, &v.SessionMS)
		return
	}, findRefreshToken, HashToken(token))
}

// InsertRefresh stores a refresh token and returns its number.
func (t Tokens) InsertRefresh(token string, v RefreshToken) (int64, error) {
	n, _, err := one(t.tx, value[int64], insertRefreshToken, string(v.User), string(v.Device), HashToken(token), orNullInt(v.ExpiryMS), orNullInt(v.SessionMS))
	return n, err
}

// SetNext notes what a refresh token was exchanged for.
func (t Tokens) SetNext(refresh, next int64) error {
	_, err := t.tx.exec(setNextRefresh, refresh, next)
	return err
}

// IsRefreshUsed says whether a refresh token or an access token that came with it was used.
func (t Tokens) IsRefreshUsed(refresh int64) (bool, error) {
	_, used, err := one(t.tx, value[int64], isNextUsed, refresh)
	return used, err
}

// DeleteRefresh removes a refresh token and the access tokens that came with
// it, and returns the numbers of those.
func (t Tokens) DeleteRefresh(refresh int64) ([]int64, error) {
	if _, err := t.tx.exec(deleteRefreshToken, refresh); err != nil {
		return nil, err
	}
	return list(t.tx, value[int64], deleteRefreshAccess, refresh)
}

// ListExchangedFor lists the refresh tokens that were exchanged for this one.
func (t Tokens) ListExchangedFor(refresh int64) ([]int64, error) {
	return list(t.tx, value[int64], listRefreshedBefore, refresh)
}

// InsertLogin stores a token that logs its user in once, and forgets expired ones.
func (t Tokens) InsertLogin(token string, u id.User, nowMS, expiryMS int64) error {
	if _, err := t.tx.exec(deleteOldLogins, nowMS); err != nil {
		return err
	}
	_, err := t.tx.exec(insertLoginToken, HashToken(token), string(u), expiryMS)
	return err
}

// TakeLogin uses a login token up; false: it was not known or has expired.
func (t Tokens) TakeLogin(token string, nowMS int64) (id.User, bool, error) {
	type row struct {
		user   id.User
		expiry int64
	}
	v, ok, err := one(t.tx, func(r scanner) (v row, err error) { err = r.Scan(&v.user, &v.expiry); return }, deleteLoginToken, HashToken(token))
	return v.user, ok && v.expiry > nowMS, err
}

// InsertOpenID stores an OpenID token, and forgets expired ones.
func (t Tokens) InsertOpenID(token string, u id.User, nowMS, expiryMS int64) error {
	if _, err := t.tx.exec(deleteOldOpenIDs, nowMS); err != nil {
		return err
	}
	_, err := t.tx.exec(insertOpenIDToken, HashToken(token), expiryMS, string(u))
	return err
}

// FindOpenID finds whose OpenID token it is; false: not known, or expired.
func (t Tokens) FindOpenID(token string, nowMS int64) (id.User, bool, error) {
	return one(t.tx, value[id.User], findOpenIDToken, HashToken(token), nowMS)
}
