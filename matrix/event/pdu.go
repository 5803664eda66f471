// Package event is the persistent data unit (PDU): parse, build, event id,
// content hash, sign, verify, redact, size limits, client format.
//
// It must not judge whether an event is allowed (authrules does) nor look
// anything up. Start at PDU, Parse and Proto.
// spec: server-server-api#pdus
package event

import (
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// StateTuple names one entry of a room's state.
type StateTuple struct{ Type, Key string }

// PDU is one event as servers exchange it. It is immutable once made, so it may
// be shared between goroutines; slices in it must not be changed.
type PDU struct {
	ID      id.Event             // from the event_id key (v1, v2) or the reference hash
	Room    id.Room              // for a create event of v12: derived from ID
	Version *roomversion.Version // of the room

	Type           string
	StateKey       *string // nil: not a state event
	Sender         id.User
	OriginServerTS int64 // milliseconds; what the sender claims
	Depth          int64 // what the sender claims; never trust it for order
	PrevEvents     []id.Event
	AuthEvents     []id.Event
	Redacts        id.Event // of m.room.redaction, from wherever the version keeps it

	// Content is the raw content object, a part of JSON.
	Content jsontext.Value
	// JSON is the whole event in canonical form with hashes and signatures, without unsigned.
	JSON []byte

	membership string // of m.room.member
}

// IsState says whether the event is a state event.
func (p *PDU) IsState() bool { return p.StateKey != nil }

// Tuple is the state entry that a state event sets; only for state events.
func (p *PDU) Tuple() StateTuple { return StateTuple{p.Type, *p.StateKey} }

// Is says whether the event is a state event of this type with this state key.
func (p *PDU) Is(typ, key string) bool {
	return p.StateKey != nil && p.Type == typ && *p.StateKey == key
}

// Membership is content.membership of an m.room.member event; empty if the
// event is none or has none.
func (p *PDU) Membership() string { return p.membership }

// ContentString is the string value of a top-level key of content; empty if
// there is none or it is no string.
func (p *PDU) ContentString(key string) string {
	s, _ := canonical.GetString(p.Content, key)
	return s
}

// ContentValue is the raw value of a top-level key of content; nil if there is none.
func (p *PDU) ContentValue(key string) jsontext.Value { return canonical.Get(p.Content, key) }

// The values of content.membership. spec: client-server-api#room-membership
const (
	MembershipJoin   = "join"
	MembershipInvite = "invite"
	MembershipLeave  = "leave"
	MembershipBan    = "ban"
	MembershipKnock  = "knock"
)

// The event types that the protocol itself gives a meaning.
const (
	TypeCreate            = "m.room.create"
	TypeMember            = "m.room.member"
	TypePowerLevels       = "m.room.power_levels"
	TypeJoinRules         = "m.room.join_rules"
	TypeThirdPartyInvite  = "m.room.third_party_invite"
	TypeHistoryVisibility = "m.room.history_visibility"
	TypeGuestAccess       = "m.room.guest_access"
	TypeAliases           = "m.room.aliases"
	TypeCanonicalAlias    = "m.room.canonical_alias"
	TypeName              = "m.room.name"
	TypeTopic             = "m.room.topic"
	TypeAvatar            = "m.room.avatar"
	TypeEncryption        = "m.room.encryption"
	TypeEncrypted         = "m.room.encrypted"
	TypeTombstone         = "m.room.tombstone"
	TypeServerACL         = "m.room.server_acl"
	TypeRedaction         = "m.room.redaction"
	TypePolicy            = "m.room.policy"
	TypeSpaceChild        = "m.space.child"
)
