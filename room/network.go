package room

import (
	"context"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Network is what the engine asks of other homeservers: the federation client, or
// in tests servers in memory. Nothing that it hands over is trusted: the engine
// parses and checks every event. Its errors are *errcode.Error where the other
// server answered with one. Calls end when their context does, and are bounded in
// time and size by themselves. The engine never calls it under a room's lock.
type Network interface {
	// VerifyEvents checks that each event is signed by all servers that must have
	// signed it, with keys that were valid then; nil where it is. Keys are fetched
	// where they are not known: for as many servers as whoever handed over the events, from,
	// likes to name, so that what it makes necessary holds up nobody else.
	// spec: server-server-api#validating-hashes-and-signatures-on-received-events
	VerifyEvents(ctx context.Context, from id.Server, events []*event.PDU) []error

	// GetMissingEvents asks for events between earliest and latest.
	GetMissingEvents(ctx context.Context, from id.Server, room id.Room, q MissingEvents) ([]jsontext.Value, error)
	// Backfill asks for events before some, and these.
	Backfill(ctx context.Context, from id.Server, room id.Room, before []id.Event, limit int) ([]jsontext.Value, error)
	// GetEvent asks for one event.
	GetEvent(ctx context.Context, from id.Server, e id.Event) (jsontext.Value, error)
	// GetEventAuth asks for the auth chain of an event.
	GetEventAuth(ctx context.Context, from id.Server, room id.Room, e id.Event) ([]jsontext.Value, error)
	// GetRoomStateIDs asks for the state before an event and its auth chain, by their ids.
	GetRoomStateIDs(ctx context.Context, from id.Server, room id.Room, at id.Event) (state, authChain []id.Event, err error)
	// GetRoomState asks for the same as events; each is called for one event at a
	// time, which it must not keep without copying.
	GetRoomState(ctx context.Context, from id.Server, room id.Room, at id.Event, each func(part StatePart, raw jsontext.Value) error) error
	// TimestampToEvent asks for the event nearest to a time, in milliseconds.
	TimestampToEvent(ctx context.Context, from id.Server, room id.Room, ts int64, backwards bool) (id.Event, int64, error)

	// Down says until when most requests to a server fail at once, since it could not be
	// reached lately, and whether they do so now. It must be quick.
	Down(server id.Server) (until time.Time, down bool)
	// MakeMembership asks for the template of a join, a leave or a knock of a user
	// here; versions are the room versions that are known here.
	MakeMembership(ctx context.Context, to id.Server, m store.Membership, room id.Room, user id.User, versions []string) (Template, error)
	// SendJoin hands in a join. State and auth chain come through each, as in GetRoomState.
	SendJoin(ctx context.Context, to id.Server, join *event.PDU, omitMembers bool, each func(part StatePart, raw jsontext.Value) error) (JoinAnswer, error)
	// SendKnock hands in a knock; the answer is the room's stripped state, a JSON array.
	SendKnock(ctx context.Context, to id.Server, knock *event.PDU) (jsontext.Value, error)
	// SendLeave hands in a leave.
	SendLeave(ctx context.Context, to id.Server, leave *event.PDU) error
	// SendInvite hands an invite to the invited user's server, and returns it with
	// that server's signature. stripped is a JSON array for the invited user.
	SendInvite(ctx context.Context, to id.Server, invite *event.PDU, stripped jsontext.Value) (jsontext.Value, error)
	// SignByPolicyServer asks a policy server to sign an event. The answer has its
	// signatures by server and key id.
	// spec: server-server-api#post_matrixpolicyv1sign
	SignByPolicyServer(ctx context.Context, to id.Server, p *event.PDU) (map[id.Server]map[id.Key]string, error)
	// ExchangeThirdPartyInvite asks a server in the room to turn an accepted
	// third-party invite into an invite.
	ExchangeThirdPartyInvite(ctx context.Context, to id.Server, room id.Room, invite jsontext.Value) error
}

// MissingEvents is the body of /get_missing_events.
// spec: server-server-api#post_matrixfederationv1get_missing_eventsroomid
type MissingEvents struct {
	Earliest []id.Event `json:"earliest_events"`
	Latest   []id.Event `json:"latest_events"`
	Limit    int        `json:"limit,omitzero"`
	MinDepth int64      `json:"min_depth,omitzero"`
}

// StatePart says to which list of an answer an event belongs.
type StatePart uint8

const (
	InState StatePart = iota
	InAuthChain
)

// Template is an event that another server proposes. Only some of its fields are
// ever taken over, see buildFromTemplate.
type Template struct {
	RoomVersion string         `json:"room_version"` // empty: 1
	Event       jsontext.Value `json:"event"`
}

// JoinAnswer is what /send_join says beside state and auth chain.
// spec: server-server-api#put_matrixfederationv2send_joinroomideventid
type JoinAnswer struct {
	Event          jsontext.Value // signed by the resident server too, for restricted rooms
	Origin         id.Server
	MembersOmitted bool
	ServersInRoom  []id.Server // only if MembersOmitted
}
