package room

import (
	"fmt"

	"hearth/matrix/event"
	"hearth/store"
)

// Format says how events are written for a client.
type Format struct {
	OmitRoomID bool
	Federation bool  // the whole PDU, as filters may ask
	Now        int64 // milliseconds, for unsigned.age
	// Bundle has what is aggregated below an event: the value of m.relations. nil: nothing.
	Bundle map[store.EventNID][]byte
	// OmitReplaced leaves out what state events took the place of, where a whole state is listed.
	OmitReplaced bool
}

// AppendEvent appends an event as the user of a view gets it, with all that
// belongs into unsigned.
// spec: client-server-api#room-event-format
func (e *Engine) AppendEvent(dst []byte, tx *store.Tx, v *View, ev *Event, f Format) ([]byte, error) {
	unsigned, err := e.unsigned(tx, v, ev, f)
	if err != nil {
		return dst, fmt.Errorf("render %s: %w", ev.ID, err)
	}
	if f.Federation {
		return event.AppendFederation(dst, ev.PDU, unsigned), nil
	}
	return event.AppendClient(dst, ev.PDU, event.ClientOptions{OmitRoomID: f.OmitRoomID, Now: f.Now, Unsigned: unsigned}), nil
}

// AppendEventForService appends an event as an application service gets it,
// which is no user of the room; extra has further members of unsigned.
// spec: application-service-api#pushing-events
func (e *Engine) AppendEventForService(dst []byte, tx *store.Tx, ev *Event, now int64, extra []byte) ([]byte, error) {
	members := extra
	if ev.IsState {
		var err error
		if members, err = e.appendReplaced(members, tx, ev); err != nil {
			return dst, fmt.Errorf("render %s: %w", ev.ID, err)
		}
	}
	return event.AppendClient(dst, ev.PDU, event.ClientOptions{Now: now, Unsigned: members}), nil
}

func (e *Engine) unsigned(tx *store.Tx, v *View, ev *Event, f Format) (members []byte, err error) {
	if m := v.MembershipAt(ev); m != 0 {
		members = event.AppendStringMember(members, "membership", m.String())
	} else {
		members = event.AppendStringMember(members, "membership", store.Leave.String())
	}
	if txn, ok := v.transactionOf(ev); ok {
		members = event.AppendStringMember(members, "transaction_id", txn)
	}
	if ev.IsState && !f.OmitReplaced {
		if members, err = e.appendReplaced(members, tx, ev); err != nil {
			return nil, err
		}
	}
	if ev.RedactedBy != 0 {
		because, err := e.Events(tx, []store.EventNID{ev.RedactedBy})
		if err != nil {
			return nil, err
		}
		if v.MaySee(because[0]) {
			members = event.AppendMember(members, "redacted_because", event.AppendClient(nil, because[0].PDU, event.ClientOptions{OmitRoomID: f.OmitRoomID, Now: f.Now}))
		}
	}
	if b := f.Bundle[ev.NID]; b != nil {
		members = event.AppendMember(members, "m.relations", b)
	}
	return members, nil
}

// transactionOf is the transaction id by which this very device sent an event.
// spec: client-server-api#transaction-identifiers
func (v *View) transactionOf(ev *Event) (string, bool) {
	if ev.Txn == "" || v.Device == "" || ev.Sender != v.User {
		return "", false
	}
	n := len(v.Device)
	if len(ev.Txn) <= n || ev.Txn[:n] != v.Device || ev.Txn[n] != ' ' {
		return "", false
	}
	return ev.Txn[n+1:], true
}

// appendReplaced tells what a state event took the place of.
func (e *Engine) appendReplaced(members []byte, tx *store.Tx, ev *Event) ([]byte, error) {
	nid, ok, err := entryBefore(tx, ev, ev.Key)
	if err != nil || !ok {
		return members, err
	}
	old, err := e.Events(tx, []store.EventNID{nid})
	if err != nil {
		return members, err
	}
	p := old[0].PDU
	members = event.AppendMember(members, "prev_content", p.Content)
	members = event.AppendStringMember(members, "prev_sender", p.Sender)
	return event.AppendStringMember(members, "replaces_state", p.ID), nil
}

// entryBefore finds an entry of the state that an event met.
func entryBefore(tx *store.Tx, ev *Event, key store.StateKey) (store.EventNID, bool, error) {
	if ev.overlay == nil {
		return tx.State.At(ev.Room, key, ev.StateBefore)
	}
	for _, c := range ev.overlay.Changes {
		if c.Key == key {
			return c.Event, c.Event != 0, nil
		}
	}
	return tx.State.At(ev.Room, key, ev.overlay.Version)
}
