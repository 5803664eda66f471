package store

import (
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// Profiles is what local users tell about themselves.
type Profiles struct{ tx *Tx }

// Profile is a row of profiles. Empty strings are absent.
type Profile struct {
	DisplayName string
	AvatarURL   string
	Fields      jsontext.Value // one object of all other fields; nil for none
}

const (
	getProfile = `SELECT COALESCE(displayname, ''), COALESCE(avatar_url, ''), COALESCE(fields, '') FROM profiles WHERE full_user_id = $1`
	setProfile = `INSERT INTO profiles (user_id, displayname, avatar_url, full_user_id, fields) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (user_id) DO UPDATE SET displayname = excluded.displayname, avatar_url = excluded.avatar_url, fields = excluded.fields`
	deleteProfile = `DELETE FROM profiles WHERE full_user_id = $1`
)

// Get reads the profile of a local user.
func (t Profiles) Get(u id.User) (Profile, bool, error) {
	return one(t.tx, func(r scanner) (p Profile, err error) {
		var fields string
		if err = r.Scan(&p.DisplayName, &p.AvatarURL, &fields); fields != "" {
			p.Fields = jsontext.Value(fields)
		}
		return
	}, getProfile, string(u))
}

// Set stores the whole profile of a local user.
func (t Profiles) Set(u id.User, p Profile) error {
	_, err := t.tx.exec(setProfile, u.Localpart(), orNull(p.DisplayName), orNull(p.AvatarURL), string(u), orNullJSON(p.Fields))
	return err
}

// Delete forgets the profile of a local user.
func (t Profiles) Delete(u id.User) error {
	_, err := t.tx.exec(deleteProfile, string(u))
	return err
}
