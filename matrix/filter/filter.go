// Package filter parses the filters that clients give to sync and to the reading
// of rooms, and applies them to events.
//
// It must not look anything up. Start at Filter and Parse; RoomEventFilter.Match
// is the hot path.
// spec: client-server-api#filtering
package filter

import (
	"bytes"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// MaxSize bounds a filter, in bytes of JSON: it is kept and run for every sync.
const MaxSize = 64 << 10

// Filter is what POST /user/{userId}/filter takes. The zero Filter lets all through.
// spec: client-server-api#post_matrixclientv3useruseridfilter
type Filter struct {
	EventFields []string    `json:"event_fields"`
	EventFormat Format      `json:"event_format"`
	Presence    EventFilter `json:"presence"`
	AccountData EventFilter `json:"account_data"`
	Room        RoomFilter  `json:"room"`

	fields *fieldTree
}

// Format is how events are written.
type Format string

const (
	FormatClient     Format = "client" // also where none is given
	FormatFederation Format = "federation"
)

// RoomFilter is the part of a filter for data of rooms.
type RoomFilter struct {
	Rooms        []id.Room       `json:"rooms"` // nil: all
	NotRooms     []id.Room       `json:"not_rooms"`
	IncludeLeave bool            `json:"include_leave"`
	Ephemeral    RoomEventFilter `json:"ephemeral"`
	State        RoomEventFilter `json:"state"`
	Timeline     RoomEventFilter `json:"timeline"`
	AccountData  RoomEventFilter `json:"account_data"`

	rooms choice[id.Room]
}

// EventFilter is for events outside rooms: presence, account data.
type EventFilter struct {
	Limit      *int64    `json:"limit"`
	Types      []string  `json:"types"` // nil: all; each may have stars
	NotTypes   []string  `json:"not_types"`
	Senders    []id.User `json:"senders"` // nil: all
	NotSenders []id.User `json:"not_senders"`

	types   typeChoice
	senders choice[id.User]
}

// RoomEventFilter is for events of rooms. /messages, /context and /search take it alone.
type RoomEventFilter struct {
	EventFilter               `json:",embed"`
	Rooms                     []id.Room `json:"rooms"` // nil: all
	NotRooms                  []id.Room `json:"not_rooms"`
	ContainsURL               *bool     `json:"contains_url"`
	LazyLoadMembers           bool      `json:"lazy_load_members"`
	IncludeRedundantMembers   bool      `json:"include_redundant_members"`
	UnreadThreadNotifications bool      `json:"unread_thread_notifications"`

	// Events that others relate to: by these senders, in these ways.
	// msc: 3440
	RelatedBySenders  []id.User `json:"related_by_senders"`
	RelatedByRelTypes []string  `json:"related_by_rel_types"`
	// Events that themselves relate, or do not, in these ways.
	// msc: 3874
	RelTypes    []string `json:"org.matrix.msc3874.rel_types"`
	NotRelTypes []string `json:"org.matrix.msc3874.not_rel_types"`

	rooms choice[id.Room]
}

// Parse reads a filter. Its errors are meant for the client.
func Parse(data []byte) (*Filter, error) {
	f := new(Filter)
	if err := parse(data, f); err != nil {
		return nil, err
	}
	switch f.EventFormat {
	case "", FormatClient, FormatFederation:
	default:
		return nil, errcode.BadJSON("event_format is client or federation, not %q", f.EventFormat)
	}
	for _, part := range []*EventFilter{&f.Presence, &f.AccountData} {
		if err := part.compile(); err != nil {
			return nil, err
		}
	}
	for _, part := range []*RoomEventFilter{&f.Room.Ephemeral, &f.Room.State, &f.Room.Timeline, &f.Room.AccountData} {
		if err := part.compile(); err != nil {
			return nil, err
		}
	}
	f.Room.rooms = newChoice(f.Room.Rooms, f.Room.NotRooms)
	f.fields = newFieldTree(f.EventFields)
	return f, nil
}

// ParseRoomEventFilter reads the `filter` parameter of /messages and /context, or
// the one in the body of /search. Its errors are meant for the client.
func ParseRoomEventFilter(data []byte) (*RoomEventFilter, error) {
	f := new(RoomEventFilter)
	if err := parse(data, f); err != nil {
		return nil, err
	}
	if err := f.compile(); err != nil {
		return nil, err
	}
	return f, nil
}

func parse(data []byte, into any) error {
	if len(data) > MaxSize {
		return errcode.TooLarge("a filter may have no more than %d bytes", MaxSize)
	}
	err := json.Unmarshal(data, into)
	var syntactic *jsontext.SyntacticError
	switch {
	case errors.As(err, &syntactic):
		return errcode.NotJSON("the filter is not JSON: %s", err)
	case err != nil:
		return errcode.BadJSON("bad filter: %s", err)
	case jsontext.Value(bytes.TrimSpace(data)).Kind() != '{':
		return errcode.BadJSON("a filter is an object")
	}
	return nil
}

func (f *EventFilter) compile() error {
	// spec says greater than 0; Synapse takes 0 too, and clients send it to get none.
	if f.Limit != nil && *f.Limit < 0 {
		return errcode.BadJSON("limit of a filter is negative")
	}
	f.types = newTypeChoice(f.Types, f.NotTypes)
	f.senders = newChoice(f.Senders, f.NotSenders)
	return nil
}

func (f *RoomEventFilter) compile() error {
	f.rooms = newChoice(f.Rooms, f.NotRooms)
	return f.EventFilter.compile()
}

// LimitOr is the limit of the filter, otherwise the server's, and at most the greatest.
func (f *EventFilter) LimitOr(otherwise, greatest int) int {
	if f.Limit == nil {
		return min(otherwise, greatest)
	}
	return int(min(*f.Limit, int64(greatest)))
}

// Event is what filters look at. Content is only read if a filter asks about it.
type Event struct {
	Type    string
	Sender  id.User // of presence: whom it is about; empty for events without one
	Room    id.Room
	Content jsontext.Value
}

// MatchType says whether events of a type can pass, whoever sends them.
func (f *EventFilter) MatchType(typ string) bool { return f.types.allows(typ) }

// Match says whether an event outside rooms passes.
func (f *EventFilter) Match(typ string, sender id.User) bool {
	return f.types.allows(typ) && f.senders.allows(sender)
}

// Match says whether an event of a room passes. The related_by parts are left to
// MatchRelated, as they need more than the event.
func (f *RoomEventFilter) Match(e *Event) bool {
	return f.types.allows(e.Type) && f.senders.allows(e.Sender) && f.rooms.allows(e.Room) && f.matchContent(e.Content)
}

// MatchRoom says whether events of a room can pass at all.
func (f *RoomEventFilter) MatchRoom(room id.Room) bool { return f.rooms.allows(room) }

// MatchRoom says whether data of a room passes; the filters in it come after that.
func (f *RoomFilter) MatchRoom(room id.Room) bool { return f.rooms.allows(room) }

// Relation is one event's relation to the event that is filtered.
type Relation struct {
	Type   string // rel_type
	Sender id.User
}

// NeedsRelations says whether MatchRelated must be asked.
func (f *RoomEventFilter) NeedsRelations() bool {
	return f.RelatedBySenders != nil || f.RelatedByRelTypes != nil
}

// MatchRelated says whether an event passes to which others relate so. One relation
// must fit both lists.
// msc: 3440
func (f *RoomEventFilter) MatchRelated(relations []Relation) bool {
	if !f.NeedsRelations() {
		return true
	}
	for _, r := range relations {
		if oneOf(f.RelatedByRelTypes, r.Type) && oneOf(f.RelatedBySenders, r.Sender) {
			return true
		}
	}
	return false
}

// oneOf says whether a list is absent or has v.
func oneOf[T comparable](list []T, v T) bool {
	if list == nil {
		return true
	}
	for _, l := range list {
		if l == v {
			return true
		}
	}
	return false
}

func (f *RoomEventFilter) matchContent(content jsontext.Value) bool {
	if f.ContainsURL == nil && f.RelTypes == nil && f.NotRelTypes == nil {
		return true
	}
	hasURL, relType := look(content)
	switch {
	case f.ContainsURL != nil && *f.ContainsURL != hasURL:
		return false
	case f.RelTypes != nil && (relType == "" || !oneOf(f.RelTypes, relType)):
		return false
	case f.NotRelTypes != nil && relType != "" && oneOf(f.NotRelTypes, relType):
		return false
	}
	return true
}

// look finds what filters ask about content: whether it has a url, and how it relates.
func look(content jsontext.Value) (hasURL bool, relType string) {
	var c struct {
		URL       jsontext.Value `json:"url"`
		RelatesTo jsontext.Value `json:"m.relates_to"`
	}
	// What is no object has neither; contents of very old rooms may break rules of JSON.
	if json.Unmarshal(content, &c, jsontext.AllowDuplicateNames(true)) != nil {
		return false, ""
	}
	var r struct {
		Type string `json:"rel_type"`
	}
	if c.RelatesTo.Kind() == '{' && json.Unmarshal(c.RelatesTo, &r, jsontext.AllowDuplicateNames(true)) != nil {
		return c.URL != nil, ""
	}
	return c.URL != nil, r.Type
}
