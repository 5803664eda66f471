package event

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

// Ref names another event in auth_events or prev_events.
type Ref struct {
	ID   id.Event
	Hash [sha256.Size]byte // reference hash, zero if not known; only room versions 1 and 2 use it
}

// Ref is how other events refer to this one.
func (p *PDU) Ref() Ref {
	r := Ref{ID: p.ID}
	if p.Version.EventRefsArePairs {
		r.Hash = p.ReferenceHash()
	}
	return r
}

// Proto is an event before it has hashes and a signature.
type Proto struct {
	// EventID is for room versions 1 and 2 only: $ and something random, and the
	// domain of the server that signs.
	EventID id.Event
	// Room is empty for the create event where its id makes the room's.
	Room           id.Room
	Type           string
	StateKey       *string
	Sender         id.User
	Content        jsontext.Value // an object
	Redacts        id.Event       // put where the version wants it
	PrevEvents     []Ref
	AuthEvents     []Ref
	Depth          int64
	OriginServerTS int64
}

// AppendTemplate appends the event as it would be built, without hashes, signatures
// and the event id of old room versions: what another server is to complete.
// spec: server-server-api#joining-rooms
func (proto *Proto) AppendTemplate(dst []byte, v *roomversion.Version) ([]byte, error) {
	content, err := proto.content(v)
	if err != nil {
		return nil, err
	}
	head, tail := proto.appendParts(v, content)
	return append(append(dst, head...), tail...), nil
}

// Build makes an event: canonical form, content hash, signature, id. It is the
// only way to a new one, and what it returns passes Parse and CheckLimits.
// Errors that a client can cause are *errcode.Error.
// spec: server-server-api#adding-hashes-and-signatures-to-outgoing-events
func Build(v *roomversion.Version, proto Proto, server id.Server, keyID id.Key, key ed25519.PrivateKey) (*PDU, error) {
	if err := proto.check(v); err != nil {
		return nil, err
	}
	content, err := proto.content(v)
	if err != nil {
		return nil, err
	}
	head, tail := proto.appendParts(v, content)
	unhashed := slices.Concat(head, tail)
	hash := contentHash(unhashed)
	hashes := `,"hashes":{"sha256":"` + signing.EncodeBase64(hash[:]) + `"}`
	js := slices.Concat(head, []byte(hashes), tail)
	unsigned := PDU{Version: v, Type: proto.Type, JSON: js}
	sigs, err := signing.AppendSignatures(nil, nil, server, keyID, ed25519.Sign(key, unsigned.appendSigned(nil)))
	if err != nil {
		return nil, fmt.Errorf("sign event: %w", err)
	}
	whole, err := canonical.Append(make([]byte, 0, len(js)+len(sigs)+16),
		slices.Concat(js[:len(js)-1], []byte(`,"signatures":`), sigs, []byte("}")),
		canonical.Options{Strict: v.StrictCanonicalJSON})
	if err != nil {
		return nil, errcode.BadJSON("the event is not valid: %v", err)
	}
	p, err := parseCanonical(v, whole)
	if err != nil {
		return nil, err
	}
	return p, p.CheckLimits()
}

func (proto *Proto) check(v *roomversion.Version) error {
	if (proto.EventID != "") != (v.EventID == roomversion.EventIDField) {
		return fmt.Errorf("build event: room version %s and event id %q do not fit", v.ID, proto.EventID)
	}
	if (proto.Room == "") != (v.RoomIDIsCreateEventID && proto.Type == TypeCreate) {
		return fmt.Errorf("build event: room version %s, %s and room id %q do not fit", v.ID, proto.Type, proto.Room)
	}
	return CheckNames(proto.Type, proto.StateKey)
}

// CheckNames says whether an event may be built with such a type and state key. The error is a
// *errcode.Error.
func CheckNames(typ string, stateKey *string) error {
	if err := checkLength("type", typ, true); err != nil || stateKey == nil {
		return err
	}
	return checkLength("state_key", *stateKey, true)
}

// content is the canonical content, with redacts where it belongs there.
func (proto *Proto) content(v *roomversion.Version) ([]byte, error) {
	o := canonical.Options{Strict: v.StrictCanonicalJSON}
	addRedacts := proto.Redacts != "" && v.RedactsInContent
	if addRedacts {
		o.Drop = []string{"redacts"}
	}
	content, err := canonical.Append(make([]byte, 0, len(proto.Content)+64), proto.Content, o)
	if err != nil {
		return nil, errcode.BadJSON("content: %v", err)
	}
	if content[0] != '{' {
		return nil, errcode.BadJSON("content is not an object")
	}
	if !addRedacts {
		return content, nil
	}
	content = appendMember(content[:len(content)-1], []byte("redacts"), canonical.AppendString(nil, proto.Redacts))
	return canonical.Append(nil, append(content, '}'), canonical.Options{})
}

// appendParts writes the event in two parts; hashes belong between them.
func (proto *Proto) appendParts(v *roomversion.Version, content []byte) (head, tail []byte) {
	head = append(make([]byte, 0, len(content)+1024), `{"auth_events":`...)
	head = appendRefs(head, v, proto.AuthEvents)
	head = append(append(head, `,"content":`...), content...)
	head = strconv.AppendInt(append(head, `,"depth":`...), min(proto.Depth, v.MaxDepth()), 10)
	if proto.EventID != "" {
		head = canonical.AppendString(append(head, `,"event_id":`...), proto.EventID)
	}
	tail = strconv.AppendInt(append(make([]byte, 0, 1024), `,"origin_server_ts":`...), proto.OriginServerTS, 10)
	tail = appendRefs(append(tail, `,"prev_events":`...), v, proto.PrevEvents)
	if proto.Redacts != "" && !v.RedactsInContent {
		tail = canonical.AppendString(append(tail, `,"redacts":`...), proto.Redacts)
	}
	if proto.Room != "" {
		tail = canonical.AppendString(append(tail, `,"room_id":`...), proto.Room)
	}
	tail = canonical.AppendString(append(tail, `,"sender":`...), proto.Sender)
	if proto.StateKey != nil {
		tail = canonical.AppendString(append(tail, `,"state_key":`...), *proto.StateKey)
	}
	tail = canonical.AppendString(append(tail, `,"type":`...), proto.Type)
	return head, append(tail, '}')
}

// NextDepth is the depth of an event after events of these depths. Depths are
// what other servers claim, so they may already be at the limit.
func NextDepth(v *roomversion.Version, prev ...int64) int64 {
	var deepest int64
	for _, d := range prev {
		deepest = max(deepest, d)
	}
	if deepest >= v.MaxDepth() {
		return v.MaxDepth()
	}
	return deepest + 1
}

func appendRefs(dst []byte, v *roomversion.Version, refs []Ref) []byte {
	dst = append(dst, '[')
	for i, r := range refs {
		if i > 0 {
			dst = append(dst, ',')
		}
		if !v.EventRefsArePairs {
			dst = canonical.AppendString(dst, r.ID)
			continue
		}
		dst = canonical.AppendString(append(dst, '['), r.ID)
		if r.Hash == [sha256.Size]byte{} {
			dst = append(dst, `,{}]`...)
			continue
		}
		dst = append(append(append(dst, `,{"sha256":"`...), signing.EncodeBase64(r.Hash[:])...), `"}]`...)
	}
	return append(dst, ']')
}
