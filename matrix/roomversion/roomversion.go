// Package roomversion is the one table of what differs between room versions.
// All other code asks for a named feature, never for a version's name: adding
// a version is adding a row. Start at Get.
// spec: rooms
package roomversion

// StateRes names a state resolution algorithm.
type StateRes uint8

const (
	StateResV1  StateRes = iota + 1 // spec: rooms/v1#state-resolution
	StateResV2                      // spec: rooms/v2#state-resolution
	StateResV21                     // spec: rooms/v12#state-resolution
)

// EventID says where an event's id comes from.
type EventID uint8

const (
	EventIDField     EventID = iota + 1 // the event_id key
	EventIDBase64                       // reference hash, standard base64
	EventIDURLBase64                    // reference hash, URL-safe base64
)

// Version is one room version's features. The zero value of a feature is the
// behaviour of room version 1.
type Version struct {
	ID       string
	Number   int // for ordering in lists only; no rule may depend on it
	EventID  EventID
	StateRes StateRes

	EventRefsArePairs     bool // auth_events and prev_events are [id, {sha256}] pairs
	RoomIDIsCreateEventID bool // room_id is ! and the create event's hash; the create event carries none (v12)
	CreateInAuthEvents    bool // auth_events name m.room.create (up to v11)
	StrictCanonicalJSON   bool // integers in ±(2^53-1), no floats (v6)
	EnforceKeyValidity    bool // a signing key must be valid at origin_server_ts (v5)
	CreatorInContent      bool // content.creator of m.room.create is the creator (up to v10)
	PrivilegedCreators    bool // creators outrank every level and may not be listed in users (v12)
	AliasesAuthRule       bool // m.room.aliases has an auth rule and is kept by redaction (up to v5)
	NotificationsPLRule   bool // notifications are checked like other levels (v6)
	IntegerPowerLevels    bool // levels must be integers, no strings (v10)
	RedactionAuthRule     bool // m.room.redaction is authorised by an auth rule (v1, v2)
	RedactsInContent      bool // redacts is in content (v11)
	UpdatedRedaction      bool // the redaction algorithm of v11
	KeysInBytes           bool // type and state_key are measured in bytes, not in characters (v11; see event.Parse)
	Knock                 bool // v7
	RestrictedJoins       bool // v8
	KeepsJoinAuthorised   bool // redaction keeps join_authorised_via_users_server (v9)
	KnockRestricted       bool // v10
	RedactionKeepsAllow   bool // redaction keeps join_rules' allow (v8)
}

// MaxDepth is the largest depth an event may have; depth stops growing there.
// spec: rooms/v6#event-format
func (v *Version) MaxDepth() int64 {
	if v.StrictCanonicalJSON {
		return 1<<53 - 1
	}
	return 1<<63 - 1
}

// Default is the version of new rooms. spec: rooms#complete-list-of-room-versions
const Default = "12"

var versions = build()

// All lists the supported versions, oldest first.
func All() []*Version { return versions }

// Get finds a version by the room_version of its create event.
func Get(id string) (*Version, bool) {
	for _, v := range versions {
		if v.ID == id {
			return v, true
		}
	}
	return nil, false
}

// build starts from version 1 and applies what each version changed, as the
// specification describes them.
func build() []*Version {
	v := Version{
		EventID: EventIDField, StateRes: StateResV1, EventRefsArePairs: true, CreateInAuthEvents: true,
		CreatorInContent: true, AliasesAuthRule: true, RedactionAuthRule: true,
	}
	changes := []func(){
		func() {},
		func() { v.StateRes = StateResV2 },
		func() { v.EventID, v.EventRefsArePairs, v.RedactionAuthRule = EventIDBase64, false, false },
		func() { v.EventID = EventIDURLBase64 },
		func() { v.EnforceKeyValidity = true },
		func() { v.StrictCanonicalJSON, v.AliasesAuthRule, v.NotificationsPLRule = true, false, true },
		func() { v.Knock = true },
		func() { v.RestrictedJoins, v.RedactionKeepsAllow = true, true },
		func() { v.KeepsJoinAuthorised = true },
		func() { v.IntegerPowerLevels, v.KnockRestricted = true, true },
		func() {
			v.CreatorInContent, v.RedactsInContent, v.UpdatedRedaction = false, true, true
			v.KeysInBytes = true
		},
		func() {
			v.RoomIDIsCreateEventID, v.CreateInAuthEvents, v.PrivilegedCreators = true, false, true
			v.StateRes = StateResV21
		},
	}
	names := []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}
	all := make([]*Version, len(names))
	for i, change := range changes {
		change()
		v.ID, v.Number = names[i], i+1
		c := v
		all[i] = &c
	}
	return all
}
