package event

import (
	"strconv"

	"hearth/matrix/canonical"
)

// ClientOptions say how a client is to see an event.
type ClientOptions struct {
	// OmitRoomID is for /sync, where the room is known from the place of the event.
	OmitRoomID bool
	// Now, in milliseconds, makes unsigned.age; 0 leaves it out.
	Now int64
	// Unsigned has further members of unsigned, as AppendMember writes them:
	// "k":v,"l":w without braces.
	Unsigned []byte
}

// AppendClient appends the event in the format for clients.
//
// A redaction names its target both in content and at the top level, whatever
// the room version.
// spec: client-server-api#room-event-format, rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func AppendClient(dst []byte, p *PDU, o ClientOptions) []byte {
	dst = append(dst, `{"content":`...)
	dst = appendClientContent(dst, p)
	dst = canonical.AppendString(append(dst, `,"event_id":`...), p.ID)
	dst = strconv.AppendInt(append(dst, `,"origin_server_ts":`...), p.OriginServerTS, 10)
	if p.Redacts != "" {
		dst = canonical.AppendString(append(dst, `,"redacts":`...), p.Redacts)
	}
	if !o.OmitRoomID {
		dst = canonical.AppendString(append(dst, `,"room_id":`...), p.Room)
	}
	dst = canonical.AppendString(append(dst, `,"sender":`...), p.Sender)
	if p.StateKey != nil {
		dst = canonical.AppendString(append(dst, `,"state_key":`...), *p.StateKey)
	}
	dst = canonical.AppendString(append(dst, `,"type":`...), p.Type)
	if o.Now != 0 || len(o.Unsigned) > 0 {
		dst = append(dst, `,"unsigned":{`...)
		if o.Now != 0 {
			// A clock that is ahead must not make events come from the future.
			dst = strconv.AppendInt(append(dst, `"age":`...), max(0, o.Now-p.OriginServerTS), 10)
			if len(o.Unsigned) > 0 {
				dst = append(dst, ',')
			}
		}
		dst = append(append(dst, o.Unsigned...), '}')
	}
	return append(dst, '}')
}

// appendClientContent appends content, with redacts in it if the room version
// keeps that at the top level.
func appendClientContent(dst []byte, p *PDU) []byte {
	if p.Redacts == "" || p.Version.RedactsInContent {
		return append(dst, p.Content...)
	}
	dst = append(dst, '{')
	for c := canonical.Walk(p.Content); c.Next(); {
		if !c.KeyIs("redacts") {
			dst = appendMember(dst, c.Key, c.Value)
		}
	}
	return append(canonical.AppendString(appendMember(dst, []byte("redacts"), nil), p.Redacts), '}')
}

// AppendStripped appends a state event as stripped state.
// spec: client-server-api#stripped-state
func AppendStripped(dst []byte, p *PDU) []byte {
	dst = append(append(dst, `{"content":`...), p.Content...)
	dst = canonical.AppendString(append(dst, `,"sender":`...), p.Sender)
	if p.StateKey != nil {
		dst = canonical.AppendString(append(dst, `,"state_key":`...), *p.StateKey)
	}
	dst = canonical.AppendString(append(dst, `,"type":`...), p.Type)
	return append(dst, '}')
}

// AppendFederation appends the whole event as other servers get it. unsigned
// has members as in ClientOptions; nil leaves the key out.
func AppendFederation(dst []byte, p *PDU, unsigned []byte) []byte {
	if len(unsigned) == 0 {
		return append(dst, p.JSON...)
	}
	dst = append(append(dst, p.JSON[:len(p.JSON)-1]...), `,"unsigned":{`...)
	return append(append(dst, unsigned...), '}', '}')
}

// AppendMember adds one member to a list of members without braces, as
// ClientOptions.Unsigned wants them. value is raw JSON.
func AppendMember(members []byte, key string, value []byte) []byte {
	if len(members) > 0 {
		members = append(members, ',')
	}
	return append(append(canonical.AppendString(members, key), ':'), value...)
}

// AppendStringMember is AppendMember for a string.
func AppendStringMember[T ~string](members []byte, key string, value T) []byte {
	return canonical.AppendString(AppendMember(members, key, nil), value)
}
