package event

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// Limits on events. spec: client-server-api#size-limits
const (
	MaxSize       = 65536 // bytes of the canonical event with signatures, without unsigned
	MaxKeyLength  = 255   // bytes of sender, room_id, event_id, type and state_key; but see checkLength
	MaxAuthEvents = 10
	MaxPrevEvents = 20
)

var dropUnsigned = []string{"unsigned"}

// Parse reads an event in the federation format of a room version. It checks
// the format and the size, not the number of auth_events and prev_events (see
// CheckLimits), nor hashes or signatures. unsigned is dropped. The errors are
// *errcode.Error and name the key that is wrong.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 1
func Parse(v *roomversion.Version, raw []byte) (*PDU, error) {
	js, err := canonical.Append(make([]byte, 0, len(raw)), raw, canonical.Options{Strict: v.StrictCanonicalJSON, Drop: dropUnsigned})
	if err != nil {
		return nil, errcode.BadJSON("the event is not valid JSON: %v", err)
	}
	return parseCanonical(v, js)
}

// ParseTrusted reads an event that Parse or Build once returned: the JSON of
// the PDU and its id, as kept in our own database. Nothing is hashed.
func ParseTrusted(v *roomversion.Version, eventID id.Event, canonicalJSON []byte) (*PDU, error) {
	p := &PDU{ID: eventID, Version: v, JSON: canonicalJSON}
	if _, err := p.readHeader(); err != nil {
		return nil, fmt.Errorf("read event %s: %v", eventID, err)
	}
	p.deriveRoom()
	return p, nil
}

// CheckLimits checks the number of auth_events and prev_events, to which every
// event but a backfilled one is held.
// spec: rooms/v1#event-format
func (p *PDU) CheckLimits() error {
	if n := len(p.AuthEvents); n > MaxAuthEvents {
		return errcode.BadJSON("auth_events has %d events, more than %d", n, MaxAuthEvents)
	}
	if n := len(p.PrevEvents); n > MaxPrevEvents {
		return errcode.BadJSON("prev_events has %d events, more than %d", n, MaxPrevEvents)
	}
	return nil
}

func parseCanonical(v *roomversion.Version, js []byte) (*PDU, error) {
	if len(js) > MaxSize {
		return nil, errcode.TooLarge("the event has %d bytes, more than %d", len(js), MaxSize)
	}
	p := &PDU{Version: v, JSON: js}
	has, err := p.readHeader()
	if err != nil {
		return nil, err
	}
	if err := p.checkPresence(has); err != nil {
		return nil, err
	}
	if err := p.checkIDs(has); err != nil {
		return nil, err
	}
	if v.EventID != roomversion.EventIDField {
		p.ID = hashID(v, p.ReferenceHash())
	}
	p.deriveRoom()
	return p, nil
}

// keys is the set of top-level keys that an event has.
type keys uint16

const (
	keyAuthEvents keys = 1 << iota
	keyContent
	keyDepth
	keyEventID
	keyHashes
	keyOriginServerTS
	keyPrevEvents
	keyRoomID
	keySender
	keySignatures
	keyType
)

// required is what every event has; event_id and room_id depend on the version.
// spec: server-server-api#pdus
var required = []struct {
	key  keys
	name string
}{
	{keyType, "type"}, {keySender, "sender"}, {keyContent, "content"}, {keyDepth, "depth"},
	{keyOriginServerTS, "origin_server_ts"}, {keyHashes, "hashes"}, {keySignatures, "signatures"},
	{keyAuthEvents, "auth_events"}, {keyPrevEvents, "prev_events"},
}

// readHeader fills p from p.JSON; only the types of the values are checked.
func (p *PDU) readHeader() (keys, error) {
	var has keys
	var redacts []byte
	c := canonical.Walk(p.JSON)
	for c.Next() {
		key, err := p.readKey(string(c.Key), c.Value)
		if err != nil {
			return 0, err
		}
		has |= key
		if string(c.Key) == "redacts" {
			redacts = c.Value
		}
	}
	if c.Malformed() {
		return 0, errcode.BadJSON("the event is not a JSON object")
	}
	switch p.Type {
	case TypeMember:
		p.membership = intern(p.ContentString("membership"))
	case TypeRedaction:
		if p.Version.RedactsInContent {
			redacts = p.ContentValue("redacts")
		}
		// What is no event id redacts nothing; the event itself is in order.
		s, _ := canonical.String(redacts)
		p.Redacts, _ = id.ParseEvent(s)
	}
	return has, nil
}

func (p *PDU) readKey(key string, value []byte) (has keys, err error) {
	switch key {
	case "auth_events":
		p.AuthEvents, err = readRefs(p.Version, key, value)
		return keyAuthEvents, err
	case "prev_events":
		p.PrevEvents, err = readRefs(p.Version, key, value)
		return keyPrevEvents, err
	case "content":
		p.Content = jsontext.Value(value)
		return keyContent, wantObject(key, value)
	case "hashes":
		return keyHashes, wantObject(key, value)
	case "signatures":
		return keySignatures, wantObject(key, value)
	case "depth":
		p.Depth, err = readInt(key, value)
		return keyDepth, err
	case "origin_server_ts":
		p.OriginServerTS, err = readInt(key, value)
		return keyOriginServerTS, err
	case "event_id":
		if p.Version.EventID != roomversion.EventIDField {
			return 0, nil // only an unknown key, covered by the hash like any other
		}
		s, err := readString(key, value)
		p.ID = id.Event(s)
		return keyEventID, err
	case "room_id":
		s, err := readString(key, value)
		p.Room = id.Room(s)
		return keyRoomID, err
	case "sender":
		s, err := readString(key, value)
		p.Sender = id.User(s)
		return keySender, err
	case "type":
		p.Type, err = readString(key, value)
		return keyType, err
	case "state_key":
		s, err := readString(key, value)
		p.StateKey = &s
		return 0, err
	}
	return 0, nil
}

func (p *PDU) checkPresence(has keys) error {
	for _, r := range required {
		if has&r.key == 0 {
			return errcode.BadJSON("the event has no %s", r.name)
		}
	}
	if p.Version.EventID == roomversion.EventIDField && has&keyEventID == 0 {
		return errcode.BadJSON("the event has no event_id")
	}
	if has&keyRoomID == 0 && !p.mayLackRoom() {
		return errcode.BadJSON("the event has no room_id")
	}
	return nil
}

// mayLackRoom says that the event is the one whose id is the room's id. If
// such an event has a room_id nevertheless, it is kept in Room for the
// authorisation rules to reject. spec: rooms/v12#event-format
func (p *PDU) mayLackRoom() bool { return p.Version.RoomIDIsCreateEventID && p.Type == TypeCreate }

func (p *PDU) deriveRoom() {
	if p.Room == "" && p.mayLackRoom() && len(p.ID) > 1 {
		p.Room = RoomOf(p.ID)
	}
}

// RoomOf is the id of the room that a create event makes, for versions where
// it is derived from the event's id. msc: 4291
func RoomOf(create id.Event) id.Room { return id.Room("!" + string(create[1:])) }

// checkIDs checks identifiers, lengths and numbers.
func (p *PDU) checkIDs(has keys) error {
	if _, err := id.ParseUser(string(p.Sender)); err != nil {
		return errcode.BadJSON("sender: %v", err)
	}
	if has&keyRoomID != 0 {
		if _, err := id.ParseRoom(string(p.Room)); err != nil {
			return errcode.BadJSON("room_id: %v", err)
		}
	}
	if has&keyEventID != 0 {
		if _, err := id.ParseEvent(string(p.ID)); err != nil {
			return errcode.BadJSON("event_id: %v", err)
		}
		if p.ID.Server() == "" {
			return errcode.BadJSON("event_id: %q has no server name", p.ID)
		}
	}
	if err := checkLength("type", p.Type, p.Version.KeysInBytes); err != nil {
		return err
	}
	if p.StateKey != nil {
		if err := checkLength("state_key", *p.StateKey, p.Version.KeysInBytes); err != nil {
			return err
		}
	}
	if p.Depth < 0 {
		return errcode.BadJSON("depth is negative")
	}
	return nil
}

// checkLength bounds type and state_key. The specification has bytes for all room
// versions, and so we build events. But most servers counted characters until version
// 11: older rooms have events that nobody but us would refuse.
// spec: client-server-api#size-limits
func checkLength(key, value string, inBytes bool) error {
	n, unit := utf8.RuneCountInString(value), "characters"
	if inBytes {
		n, unit = len(value), "bytes"
	}
	if n > MaxKeyLength {
		return errcode.TooLarge("%s has %d %s, more than %d", key, n, unit, MaxKeyLength)
	}
	return nil
}

func wantObject(key string, value []byte) error {
	if value[0] != '{' {
		return errcode.BadJSON("%s is not an object", key)
	}
	return nil
}

func readString(key string, value []byte) (string, error) {
	s, ok := canonical.String(value)
	if !ok {
		return "", errcode.BadJSON("%s is not a string", key)
	}
	return intern(s), nil
}

func readInt(key string, value []byte) (int64, error) {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil {
		return 0, errcode.BadJSON("%s is not an integer of at most 64 bits", key)
	}
	return n, nil
}

// readRefs reads auth_events or prev_events: event ids, or in old versions
// pairs of an id and hashes.
func readRefs(v *roomversion.Version, key string, value []byte) ([]id.Event, error) {
	if value[0] != '[' {
		return nil, errcode.BadJSON("%s is not an array", key)
	}
	var ids []id.Event
	for c := canonical.Walk(value); c.Next(); {
		ref := c.Value
		if v.EventRefsArePairs {
			var ok bool
			if ref, ok = readPair(c.Value); !ok {
				return nil, errcode.BadJSON("%s has an entry that is not a pair of an event id and hashes", key)
			}
		}
		s, _ := canonical.String(ref)
		e, err := id.ParseEvent(s)
		if err != nil {
			return nil, errcode.BadJSON("%s: %v", key, err)
		}
		ids = append(ids, e)
	}
	return ids, nil
}

// readPair is the event id of a pair of an id and hashes.
func readPair(pair []byte) (eventID []byte, ok bool) {
	if pair[0] != '[' {
		return nil, false
	}
	c := canonical.Walk(pair)
	if !c.Next() {
		return nil, false
	}
	eventID = c.Value
	if !c.Next() || c.Value[0] != '{' || c.Next() {
		return nil, false
	}
	return eventID, true
}

// hashID makes an event id of a reference hash.
// spec: rooms/v3#event-ids, rooms/v4#event-ids
func hashID(v *roomversion.Version, hash [sha256.Size]byte) id.Event {
	enc := base64.RawURLEncoding
	if v.EventID == roomversion.EventIDBase64 {
		enc = base64.RawStdEncoding
	}
	var b [1 + 43]byte
	b[0] = '$'
	enc.Encode(b[1:], hash[:])
	return id.Event(b[:])
}

// intern saves memory for the strings that most events have.
func intern(s string) string {
	switch s {
	case "":
		return ""
	case MembershipJoin:
		return MembershipJoin
	case MembershipLeave:
		return MembershipLeave
	case MembershipInvite:
		return MembershipInvite
	case MembershipBan:
		return MembershipBan
	case TypeMember:
		return TypeMember
	case "m.room.message":
		return "m.room.message"
	case "m.room.encrypted":
		return "m.room.encrypted"
	case "m.reaction":
		return "m.reaction"
	}
	return s
}
