package account

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

const typeTag = "m.tag"

// maxName bounds types of account data and tags, as types of events are.
const maxName = 255

// checkSettable refuses what other parts of the server keep.
// spec: client-server-api#client-config
func checkSettable(typ string) error {
	if typ == "m.fully_read" || typ == "m.push_rules" {
		return errcode.New(http.StatusMethodNotAllowed, "M_BAD_JSON", "%s cannot be set here", typ)
	}
	return checkName("the type", typ)
}

func checkName(what, s string) error {
	if s == "" || len(s) > maxName {
		return errcode.InvalidParam("%s is empty or longer than %d bytes", what, maxName)
	}
	return nil
}

// GetAccountData reads account data: global, or of a room where room is not empty.
func (a *Accounts) GetAccountData(ctx context.Context, u id.User, room id.Room, typ string) (content jsontext.Value, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if room == "" {
			content, ok, err = tx.AccountData.Get(u, typ)
		} else {
			content, ok, err = tx.AccountData.GetRoom(u, room, typ)
		}
		if err == nil && !ok {
			err = errcode.NotFound("there is no such account data")
		}
		return
	})
	return
}

// SetAccountData stores account data: global, or of a room where room is not empty.
func (a *Accounts) SetAccountData(ctx context.Context, u id.User, room id.Room, typ string, content jsontext.Value) error {
	if err := checkSettable(typ); err != nil {
		return err
	}
	return a.store.Update(ctx, func(tx *store.Tx) error {
		if room == "" {
			return tx.AccountData.Set(u, typ, content)
		}
		return tx.AccountData.SetRoom(u, room, typ, content)
	})
}

// tagContent is m.tag. Keys that a client has put beside tags stay.
// spec: client-server-api#room-tagging
type tagContent struct {
	Tags  map[string]jsontext.Value `json:"tags"`
	Other jsontext.Value            `json:",embed"`
}

func readTags(tx *store.Tx, u id.User, room id.Room) (t tagContent, err error) {
	content, ok, err := tx.AccountData.GetRoom(u, room, typeTag)
	if err == nil && ok && json.Unmarshal(content, &t) != nil {
		t = tagContent{} // a client stored something else under this type
	}
	if t.Tags == nil {
		t.Tags = map[string]jsontext.Value{}
	}
	return t, err
}

// ListTags lists the tags of a room with their contents.
func (a *Accounts) ListTags(ctx context.Context, u id.User, room id.Room) (tags map[string]jsontext.Value, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) error {
		t, err := readTags(tx, u, room)
		tags = t.Tags
		return err
	})
	return
}

// SetTag puts a tag on a room; nil takes it off.
func (a *Accounts) SetTag(ctx context.Context, u id.User, room id.Room, tag string, content jsontext.Value) error {
	if err := checkName("the tag", tag); err != nil {
		return err
	}
	return a.store.Update(ctx, func(tx *store.Tx) error {
		t, err := readTags(tx, u, room)
		if err != nil {
			return err
		}
		if _, had := t.Tags[tag]; content == nil && !had {
			return nil
		}
		delete(t.Tags, tag)
		if content != nil {
			t.Tags[tag] = content
		}
		whole, err := json.Marshal(t, json.Deterministic(true))
		if err != nil {
			return err
		}
		return tx.AccountData.SetRoom(u, room, typeTag, whole)
	})
}

// DefineFilter stores a filter, which the caller has checked.
func (a *Accounts) DefineFilter(ctx context.Context, u id.User, filter jsontext.Value) (filterID string, err error) {
	err = a.store.Update(ctx, func(tx *store.Tx) (err error) {
		filterID, err = tx.AccountData.InsertFilter(u, filter)
		return
	})
	return
}

// GetFilter reads a filter that DefineFilter stored.
func (a *Accounts) GetFilter(ctx context.Context, u id.User, filterID string) (filter jsontext.Value, err error) {
	err = a.store.View(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if filter, ok, err = tx.AccountData.GetFilter(u, filterID); err == nil && !ok {
			err = errcode.NotFound("there is no such filter")
		}
		return
	})
	return
}
