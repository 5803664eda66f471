package account

import (
	"context"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

const (
	// maxProfile and maxProfileKey are the spec's.
	maxProfile    = 64 << 10
	maxProfileKey = 255
	// maxDisplayName and maxAvatarURL keep member events small.
	maxDisplayName = 256
	maxAvatarURL   = 1000

	fieldDisplayName = "displayname"
	fieldAvatarURL   = "avatar_url"
	fieldTimeZone    = "m.tz"
)

// Profile is all fields that a user tells about themselves.
type Profile map[string]any

// GetProfile finds the whole profile of a user, or one field of it where field is not empty.
// spec: client-server-api#profiles
func (a *Accounts) GetProfile(ctx context.Context, u id.User, field string) (Profile, error) {
	if u.Server() != a.o.ServerName {
		return a.remoteProfile(ctx, u, field)
	}
	row, ok, known, err := a.ownProfile(ctx, u)
	if err == nil && !known && a.QueryUser != nil { // a bridge may make it now
		var made bool
		if made, err = a.QueryUser(ctx, u); made && err == nil {
			row, ok, _, err = a.ownProfile(ctx, u)
		}
	}
	if err == nil && !ok {
		err = errcode.NotFound("there is no such user")
	}
	if err != nil {
		return nil, err
	}
	p, err := profileOf(row)
	if err != nil || field == "" {
		return p, err
	}
	return pick(p, field)
}

// ownProfile is the profile of a user of this server. ok: the user is active; known: or was.
func (a *Accounts) ownProfile(ctx context.Context, u id.User) (row store.Profile, ok, known bool, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) error {
		user, found, err := tx.Users.Get(u)
		if known, ok = found, found && !user.Deactivated; err != nil || !ok {
			return err
		}
		row, _, err = tx.Profiles.Get(u)
		return err
	})
	return row, ok, known, err
}

func pick(p Profile, field string) (Profile, error) {
	v, ok := p[field]
	if !ok {
		return nil, errcode.NotFound("the profile has no such field")
	}
	return Profile{field: v}, nil
}

func (a *Accounts) remoteProfile(ctx context.Context, u id.User, field string) (Profile, error) {
	if a.RemoteProfile == nil {
		return nil, errcode.NotFound("there is no such user")
	}
	p, err := a.RemoteProfile(ctx, u, field)
	if err != nil || field == "" {
		return p, err
	}
	return pick(p, field)
}

func profileOf(row store.Profile) (Profile, error) {
	p := Profile{}
	if len(row.Fields) > 0 {
		var fields map[string]jsontext.Value
		if err := json.Unmarshal(row.Fields, &fields); err != nil {
			return nil, err
		}
		for k, v := range fields {
			p[k] = v
		}
	}
	if row.DisplayName != "" {
		p[fieldDisplayName] = row.DisplayName
	}
	if row.AvatarURL != "" {
		p[fieldAvatarURL] = row.AvatarURL
	}
	return p, nil
}

// DisplayNameAndAvatar reads what member events of a local user say. Empty: none.
func (a *Accounts) DisplayNameAndAvatar(ctx context.Context, u id.User) (displayName, avatarURL string, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) error {
		p, _, err := tx.Profiles.Get(u)
		displayName, avatarURL = p.DisplayName, p.AvatarURL
		return err
	})
	return
}

// SetProfileField sets one field of a local user's profile; nil deletes it.
func (a *Accounts) SetProfileField(ctx context.Context, u id.User, field string, value jsontext.Value) error {
	if err := checkField(field); err != nil {
		return err
	}
	shown := false
	err := a.store.Update(ctx, func(tx *store.Tx) error {
		user, ok, err := tx.Users.Get(u)
		if err != nil {
			return err
		}
		if !ok || user.Deactivated {
			return errcode.NotFound("there is no such user")
		}
		old, _, err := tx.Profiles.Get(u)
		if err != nil {
			return err
		}
		p, err := withField(old, field, value)
		if err != nil {
			return err
		}
		shown = p.DisplayName != old.DisplayName || p.AvatarURL != old.AvatarURL
		return tx.Profiles.Set(u, p)
	})
	if err != nil || !shown {
		return err
	}
	var hooks []func() error
	for _, hook := range a.ProfileChanged {
		hooks = append(hooks, func() error { return hook(ctx, u) })
	}
	runAll(ctx, "after a change of profile", u, hooks...)
	return nil
}

// checkField keeps to the names that the spec allows.
// spec: appendices#common-namespaced-identifier-grammar
func checkField(field string) error {
	if len(field) > maxProfileKey {
		return errcode.New(http.StatusBadRequest, "M_KEY_TOO_LARGE", "the name of the field is longer than %d bytes", maxProfileKey)
	}
	valid := field != "" && field[0] >= 'a' && field[0] <= 'z'
	for _, c := range []byte(field) {
		valid = valid && (c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("-_.", c) >= 0)
	}
	if !valid {
		return errcode.InvalidParam("%q is not the name of a profile field", field)
	}
	return nil
}

func withField(p store.Profile, field string, value jsontext.Value) (store.Profile, error) {
	var err error
	switch field {
	case fieldDisplayName:
		p.DisplayName, err = text(field, value, maxDisplayName)
	case fieldAvatarURL:
		// The specification wants an mxc:// URI; servers have always taken any
		// text, clients ignore what they cannot fetch, and old profiles hold some.
		p.AvatarURL, err = text(field, value, maxAvatarURL)
	default:
		if field == fieldTimeZone {
			_, err = text(field, value, maxProfileKey)
		}
		if err == nil {
			p.Fields, err = withOtherField(p.Fields, field, value)
		}
	}
	if err != nil {
		return p, err
	}
	whole, err := profileOf(p)
	if err != nil {
		return p, err
	}
	size, err := json.Marshal(whole)
	if err == nil && len(size) >= maxProfile {
		err = errcode.New(http.StatusBadRequest, "M_PROFILE_TOO_LARGE", "the profile would be larger than %d bytes", maxProfile)
	}
	return p, err
}

// text reads a string field; no value is the empty string.
func text(field string, value jsontext.Value, most int) (s string, err error) {
	if value == nil {
		return "", nil
	}
	if value.Kind() != '"' || json.Unmarshal(value, &s) != nil {
		return "", errcode.InvalidParam("%s must be a string", field)
	}
	if utf8.RuneCountInString(s) > most {
		return "", errcode.InvalidParam("%s is longer than %d characters", field, most)
	}
	if strings.ContainsRune(s, 0) {
		return "", errcode.InvalidParam("%s has a NUL character", field)
	}
	return s, nil
}

func withOtherField(object jsontext.Value, field string, value jsontext.Value) (jsontext.Value, error) {
	fields := map[string]jsontext.Value{}
	if len(object) > 0 {
		if err := json.Unmarshal(object, &fields); err != nil {
			return nil, err
		}
	}
	delete(fields, field)
	if value != nil {
		fields[field] = value
	}
	if len(fields) == 0 {
		return nil, nil
	}
	return json.Marshal(fields, json.Deterministic(true))
}
