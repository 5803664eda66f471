package room

import (
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// effect is what an event does in its commit beyond being stored. row is the
// event's own, with its position.
type effect func(tx *store.Tx, row store.Event) error

// effects is the table of event types that do something. Each function reads
// what it needs while the room is locked, and leaves an effect for the commit.
var effects = map[string]func(*writing, *store.Tx, *entry) error{
	event.TypeMember:    (*writing).memberEffect,
	event.TypeRedaction: (*writing).redactionEffect,
}

func (w *writing) gatherEffects(tx *store.Tx, en *entry) error {
	if gather := effects[en.event.PDU.Type]; gather != nil {
		if err := gather(w, tx, en); err != nil {
			return err
		}
	}
	return w.relationEffect(tx, en)
}

func (en *entry) then(e effect) { en.effects = append(en.effects, e) }

// memberEffect keeps the table of memberships, and what somebody invited or
// knocking may see of the room.
func (w *writing) memberEffect(tx *store.Tx, en *entry) error {
	pdu := en.event.PDU
	if pdu.StateKey == nil {
		return nil // a message that happens to have this type
	}
	user := id.User(*pdu.StateKey)
	nid, _ := store.IsMemberKey(en.event.Key)
	m := &memberChange{user: nid, id: user, local: user.Server() == w.engine.options.Server, after: store.ParseMembership(pdu.Membership())}
	old, err := w.stateEvent(tx, pdu.Tuple())
	if err != nil {
		return err
	}
	if old != nil {
		m.before = store.ParseMembership(old.Membership())
	}
	en.member = m
	en.then(func(tx *store.Tx, row store.Event) error {
		return tx.Members.Set(store.Member{
			Room: row.Room, User: m.user, Membership: m.after, Event: row.NID, Position: row.Position, Local: m.local,
		})
	})
	if !m.local || m.after != store.Invite && m.after != store.Knock {
		return nil
	}
	stripped, err := w.stripped(tx, pdu)
	if err != nil {
		return err
	}
	en.then(func(tx *store.Tx, row store.Event) error { return tx.Members.SetStripped(row.Room, m.user, stripped) })
	return nil
}

// strippedTypes are what somebody outside may know of a room.
// spec: client-server-api#stripped-state
var strippedTypes = []string{
	event.TypeCreate, event.TypeName, event.TypeAvatar, event.TypeTopic, event.TypeJoinRules, event.TypeCanonicalAlias, event.TypeEncryption,
}

// stripped is the stripped state that goes with an invite or a knock, as a JSON array.
func (w *writing) stripped(tx *store.Tx, member *event.PDU) ([]byte, error) {
	tuples := make([]event.StateTuple, 0, len(strippedTypes)+1)
	for _, t := range strippedTypes {
		tuples = append(tuples, event.StateTuple{Type: t})
	}
	if string(member.Sender) != *member.StateKey {
		tuples = append(tuples, event.StateTuple{Type: event.TypeMember, Key: string(member.Sender)})
	}
	list := []byte{'['}
	for _, t := range tuples {
		pdu, err := w.stateEvent(tx, t)
		if err != nil {
			return nil, fmt.Errorf("read %s for stripped state: %w", t.Type, err)
		}
		if pdu != nil {
			list = append(event.AppendStripped(list, pdu), ',')
		}
	}
	return append(event.AppendStripped(list, member), ']'), nil
}

// redactionEffect empties the event that a redaction names, if it may.
// spec: rooms/v3#handling-redactions
func (w *writing) redactionEffect(tx *store.Tx, en *entry) error {
	redaction := en.event.PDU
	target, ok, err := w.engine.Event(tx, w.head.NID, redaction.Redacts)
	if err != nil || !ok || !authrules.MayRedact(redaction, target.PDU, w.head.Levels) {
		return err
	}
	empty, err := target.PDU.Redacted()
	if err != nil {
		return err
	}
	en.then(func(tx *store.Tx, row store.Event) error {
		if err := tx.Events.Redact(target.NID, empty.JSON, row.NID); err != nil {
			return err
		}
		redacted := &Event{target.Event, empty}
		redacted.RedactedBy = row.NID
		tx.AfterCommit(func() { w.engine.events.Set(target.NID, redacted) })
		if _, ok := searched[target.PDU.Type]; ok {
			if err := tx.Search.Delete(target.NID); err != nil {
				return err
			}
		}
		return tx.Relations.Redact(target.NID)
	})
	return nil
}

// relatesTo is the part of an event's content that refers to another event.
// spec: client-server-api#forming-relationships-between-events
type relatesTo struct {
	RelType string         `json:"rel_type"`
	Event   id.Event       `json:"event_id"`
	RawKey  jsontext.Value `json:"key"` // of an annotation; whatever it is, the rest counts
}

// key is what an annotation says of the event it refers to.
func (r relatesTo) key() (key string) {
	if r.RawKey != nil && json.Unmarshal(r.RawKey, &key) != nil {
		return ""
	}
	return key
}

// relationEffect keeps the table of relations. A malformed relation is none.
func (w *writing) relationEffect(_ *store.Tx, en *entry) error {
	rel, ok := relationOf(en.event.PDU.ContentValue("m.relates_to"))
	if !ok || en.event.IsState {
		return nil
	}
	en.then(func(tx *store.Tx, row store.Event) error {
		return tx.Relations.Insert(store.Relation{
			Event: row.NID, Room: row.Room, Target: rel.Event, RelType: rel.RelType, Type: row.Type, Sender: row.Sender, Position: row.Position,
		})
	})
	return nil
}

func relationOf(raw jsontext.Value) (rel relatesTo, ok bool) {
	if raw == nil {
		return rel, false
	}
	err := json.Unmarshal(raw, &rel)
	return rel, err == nil && rel.RelType != "" && rel.Event != "" && len(rel.RelType) <= id.MaxLength
}
