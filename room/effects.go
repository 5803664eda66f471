package room

import (
	"errors"
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

// effects is the table of event types that do something when they join the
// timeline. Each function reads what it needs while the room is locked, and leaves
// an effect for the commit. What memberships do when the room's state changes is in
// memberEffect.
var effects = map[string]func(*writing, *store.Tx, *entry) error{
	event.TypeRedaction: (*writing).redactionEffect,
}

func (w *writing) gatherEffects(tx *store.Tx, en *entry) error {
	for i := range en.changes {
		if err := w.memberEffect(tx, en, &en.changes[i]); err != nil {
			return err
		}
	}
	if en.again && en.was == 0 {
		return nil // all else was done when the event came
	}
	if gather := effects[en.event.PDU.Type]; gather != nil {
		if err := gather(w, tx, en); err != nil {
			return err
		}
	}
	return w.relationEffect(tx, en)
}

func (en *entry) then(e effect) { en.effects = append(en.effects, e) }

// memberEffect keeps the tables of memberships and of the servers in the room, and
// what somebody invited or knocking may see of it.
func (w *writing) memberEffect(tx *store.Tx, en *entry, c *change) error {
	user, ok := store.IsMemberKey(c.key)
	if !ok {
		return nil
	}
	m := &memberChange{user: user, before: membershipOf(c.before), after: membershipOf(c.after)}
	var err error
	if m.id, err = tx.IDs.UserID(user); err != nil {
		return err
	}
	m.local = m.id.Server() == w.engine.options.Server
	if m.server, _, err = tx.IDs.FindServer(m.id.Server()); err != nil {
		return err
	}
	c.member = m
	en.then(func(tx *store.Tx, row store.Event) error { return m.apply(tx, row, c.event) })
	if !m.local || m.after != store.Invite && m.after != store.Knock {
		return nil
	}
	stripped, err := w.stripped(tx, c.after)
	if err != nil {
		return err
	}
	en.then(func(tx *store.Tx, row store.Event) error { return tx.Members.SetStripped(row.Room, m.user, stripped) })
	return nil
}

// membershipOf is the membership that an entry of the state gives; where there is
// no entry, nobody is a member.
func membershipOf(p *event.PDU) store.Membership {
	if p == nil {
		return 0
	}
	return store.ParseMembership(p.Membership())
}

func (m *memberChange) apply(tx *store.Tx, row store.Event, member store.EventNID) error {
	if err := m.set(tx, row.Room, member, row.Position); err != nil || m.joins() == 0 {
		return err
	}
	return tx.RoomServers.Add(row.Room, m.server, m.joins())
}

// set keeps the table of memberships; position is when this one came about.
func (m *memberChange) set(tx *store.Tx, room store.RoomNID, member store.EventNID, position int64) error {
	after := m.after
	if after == 0 {
		after = store.Leave // the state fell back to that before any membership
	}
	err := tx.Members.Set(store.Member{Room: room, User: m.user, Membership: after, Event: member, Position: position, Local: m.local})
	if err != nil {
		return fmt.Errorf("store a member: %w", err)
	}
	return nil
}

// joins is 1 if the user joins by the change, -1 if they leave.
func (m *memberChange) joins() int64 {
	switch {
	case m.before != store.Join && m.after == store.Join:
		return 1
	case m.before == store.Join && m.after != store.Join:
		return -1
	}
	return 0
}

// strippedTypes are what somebody outside may know of a room.
// spec: client-server-api#stripped-state
var strippedTypes = []string{
	event.TypeCreate, event.TypeName, event.TypeAvatar, event.TypeTopic, event.TypeJoinRules, event.TypeCanonicalAlias, event.TypeEncryption,
}

// outsideTuples are what of a room's state goes with an invite or a knock: an invite shows
// too who it is that invites.
func outsideTuples(sender, target id.User) []event.StateTuple {
	tuples := make([]event.StateTuple, 0, len(strippedTypes)+1)
	for _, t := range strippedTypes {
		tuples = append(tuples, event.StateTuple{Type: t})
	}
	if sender != target {
		tuples = append(tuples, event.StateTuple{Type: event.TypeMember, Key: string(sender)})
	}
	return tuples
}

// stripped is the stripped state that goes with an invite or a knock, as a JSON array.
func (w *writing) stripped(tx *store.Tx, member *event.PDU) ([]byte, error) {
	list := []byte{'['}
	for _, t := range outsideTuples(member.Sender, id.User(*member.StateKey)) {
		pdu, err := w.stateEvent(tx, t)
		if err != nil {
			return nil, fmt.Errorf("read %s for stripped state: %w", t.Type, err)
		}
		if pdu != nil {
			list = append(appendOutside(list, pdu), ',')
		}
	}
	return append(event.AppendStripped(list, member), ']'), nil
}

// redactionEffect empties the event that a redaction names, if it may. A target
// that is not known yet is awaited.
// spec: rooms/v3#handling-redactions
func (w *writing) redactionEffect(tx *store.Tx, en *entry) error {
	redaction := en.event.PDU
	if redaction.Redacts == "" {
		return nil
	}
	target, ok, err := w.find(tx, redaction.Redacts)
	if err != nil {
		return err
	}
	if !ok {
		w.awaited[redaction.Redacts] = append(w.awaited[redaction.Redacts], en.event)
		en.then(func(tx *store.Tx, row store.Event) error {
			return tx.Events.AwaitTarget(row.Room, redaction.Redacts, row.NID)
		})
		return nil
	}
	if target.RedactedBy != 0 || !authrules.MayRedact(redaction, target.PDU, w.head.Levels) {
		return nil
	}
	empty, err := target.PDU.Redacted()
	if err != nil {
		return err
	}
	ours := w.numbered[target.NID] == target
	if ours { // nobody else has seen it yet
		target.PDU, target.RedactedBy = empty, en.event.NID
	}
	en.then(func(tx *store.Tx, row store.Event) error {
		if err := tx.Events.Redact(target.NID, empty.JSON, row.NID); err != nil {
			return err
		}
		if !ours {
			redacted := *target
			redacted.PDU, redacted.RedactedBy = empty, row.NID
			tx.AfterCommit(func() { w.engine.events.Set(target.NID, &redacted) })
		}
		if _, ok := searched[empty.Type]; ok {
			if err := tx.Search.Delete(target.NID); err != nil {
				return err
			}
		}
		return tx.Relations.Redact(target.NID)
	})
	return nil
}

// redactedBefore empties an event that comes after its redaction.
func (w *writing) redactedBefore(tx *store.Tx, en *entry) error {
	waiting, err := tx.Events.WaitingFor(w.head.NID, en.event.ID)
	if err != nil {
		return err
	}
	redactions, err := w.events(tx, waiting)
	if err != nil {
		return err
	}
	if redactions = append(redactions, w.awaited[en.event.ID]...); len(redactions) == 0 {
		return nil
	}
	id := en.event.ID
	en.then(func(tx *store.Tx, row store.Event) error { return tx.Events.TargetCame(row.Room, id) })
	for _, r := range redactions {
		// Since it was noted, it may have been judged again, and refused.
		if !r.Flags.Accepted() || !authrules.MayRedact(r.PDU, en.event.PDU, w.head.Levels) {
			continue
		}
		empty, err := en.event.PDU.Redacted()
		if err != nil {
			return err
		}
		en.event.PDU, en.event.RedactedBy = empty, r.NID
		by := r.NID
		en.then(func(tx *store.Tx, row store.Event) error {
			return errors.Join(tx.Events.Redact(row.NID, empty.JSON, by), tx.Relations.Redact(row.NID))
		})
		return nil
	}
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
		r := store.Relation{
			Event: row.NID, Room: row.Room, Target: rel.Event, RelType: rel.RelType, Type: row.Type, Sender: row.Sender, Position: row.Position,
		}
		if en.stored { // it may have been in the timeline once
			return tx.Relations.Restore(r)
		}
		return tx.Relations.Insert(r)
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
