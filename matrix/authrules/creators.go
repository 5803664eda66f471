package authrules

import (
	"slices"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
)

// Creators lists the users who made a room. Where the version gives creators
// privileges, these are all who have them.
// spec: rooms/v12#authorisation-rules
// msc: 4289
func Creators(create *event.PDU) []id.User {
	list := []id.User{founder(create)}
	if create.Version.PrivilegedCreators {
		more, _ := additionalCreators(create)
		for _, u := range more {
			if !slices.Contains(list, u) {
				list = append(list, u)
			}
		}
	}
	return list
}

// founder is the one creator that every room version has.
func founder(create *event.PDU) id.User {
	if !create.Version.CreatorInContent {
		return create.Sender
	}
	return id.User(create.ContentString("creator"))
}

// additionalCreators reads the key of that name; ok is false if it is there but
// is not a list of user ids.
func additionalCreators(create *event.PDU) (users []id.User, ok bool) {
	raw := create.ContentValue("additional_creators")
	if raw == nil {
		return nil, true
	}
	if raw.Kind() != '[' {
		return nil, false
	}
	for c := canonical.Walk(raw); c.Next(); {
		s, isString := canonical.String(c.Value)
		user, err := id.ParseUser(s)
		if !isString || err != nil {
			return nil, false
		}
		users = append(users, user)
	}
	return users, true
}
