package room

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/store"
)

// Send makes a local user's event part of a room and returns its id once it is
// on disk. A repeated transaction gets the first one's event. A state event
// that would change nothing makes none.
// spec: client-server-api#sending-events-to-a-room
func (e *Engine) Send(ctx context.Context, room id.Room, p Proposal) (id.Event, error) {
	var sent id.Event
	if p.Type == event.TypeMember {
		// Whose leave somebody joins by is for the server to say.
		if rest := without(p.Content, "join_authorised_via_users_server"); rest != nil {
			p.Content = rest
		}
	}
	err := e.compose(ctx, room, func(w *writing) (err error) {
		if sent, err = w.sendOnce(ctx, p); err != nil {
			return err
		}
		return nil
	})
	return sent, err
}

func (w *writing) sendOnce(ctx context.Context, p Proposal) (id.Event, error) {
	if already, err := w.alreadySent(ctx, p); already != "" || err != nil {
		return already, err
	}
	if p.Suspended && !p.leaves() {
		return "", errcode.UserSuspended()
	}
	if p.Type == event.TypeCreate {
		// Rule 1 of the room's version would say so, of an event that cannot be
		// built: from version 12 on such an event names no room.
		// spec: rooms/v12#authorisation-rules 1
		return "", errcode.InvalidParam("a room is created only once")
	}
	if err := w.checkLevels(p); err != nil {
		return "", err
	}
	if err := w.checkRelation(ctx, p); err != nil {
		return "", err
	}
	ev, err := w.add(ctx, p)
	if err != nil {
		return "", err
	}
	return ev.ID, nil
}

// checkLevels refuses power levels that name a creator: the rules would refuse them as
// well, but not say that it is the content that is wrong.
// spec: rooms/v12#authorisation-rules 10.4
func (w *writing) checkLevels(p Proposal) error {
	if p.Type != event.TypePowerLevels || !w.head.Version.PrivilegedCreators || w.head.Create == nil {
		return nil
	}
	var content struct {
		Users map[id.User]jsontext.Value `json:"users"`
	}
	if json.Unmarshal(p.Content, &content) != nil {
		return nil // the rules say what is wrong with it
	}
	for _, creator := range authrules.Creators(w.head.Create) {
		if _, named := content.Users[creator]; named {
			return errcode.InvalidParam("%s made the room and has more power than any level: users must not name them", creator)
		}
	}
	return nil
}

// leaves says whether the sender leaves the room, or refuses an invite to it.
func (p Proposal) leaves() bool {
	membership, _ := canonical.GetString(p.Content, "membership")
	return p.Type == event.TypeMember && p.StateKey != nil && *p.StateKey == string(p.Sender) && membership == event.MembershipLeave
}

// alreadySent finds the event that the proposal's transaction made before, or
// the state event that it would merely repeat.
func (w *writing) alreadySent(ctx context.Context, p Proposal) (sent id.Event, err error) {
	if p.Txn == nil && p.StateKey == nil {
		return "", nil
	}
	err = w.engine.store.View(ctx, func(tx *store.Tx) error {
		if p.Txn != nil {
			sent, err = w.transactionEvent(ctx, tx, p)
			return err
		}
		old, err := w.stateEvent(tx, event.StateTuple{Type: p.Type, Key: *p.StateKey})
		if err != nil || old == nil || old.Sender != p.Sender || p.Timestamp != 0 {
			return err
		}
		content, err := canonical.Append(nil, p.Content, canonical.Options{Strict: w.head.Version.StrictCanonicalJSON})
		if err == nil && bytes.Equal(content, old.Content) {
			sent = old.ID
		}
		return nil // content that is not canonical is refused when the event is built
	})
	return sent, err
}

// maxTxnID bounds a transaction id, in bytes: each is kept, and looked for.
const maxTxnID = 255

// transactionEvent is the event that a client's request made when it came before; empty: it did not.
func (w *writing) transactionEvent(ctx context.Context, tx *store.Tx, p Proposal) (id.Event, error) {
	if n := len(p.Txn.ID); n > maxTxnID {
		return "", errcode.InvalidParam("the transaction id has %d bytes, more than %d", n, maxTxnID)
	}
	sender, ok, err := tx.IDs.FindUser(p.Sender)
	if err != nil || !ok {
		return "", err
	}
	txn := *w.transaction(sender, p.Txn)
	w.room.inflight = slices.DeleteFunc(w.room.inflight, func(f inflight) bool {
		select {
		case <-f.pending.Done():
			return f.txn != txn // the store's snapshot may be older than this commit
		default:
			return false
		}
	})
	for _, f := range w.room.inflight {
		if f.txn == txn {
			return f.event, f.pending.Wait(ctx)
		}
	}
	nid, ok, err := tx.Transactions.Find(txn)
	if err != nil || !ok {
		return "", err
	}
	all, err := w.engine.Events(tx, []store.EventNID{nid})
	if err != nil {
		return "", fmt.Errorf("event of transaction %q: %w", txn.TxnID, err)
	}
	return all[0].ID, nil
}

// Redact sends a redaction of an event, if the sender may redact it. Of an event that is
// not known here, but maybe on other servers, only who may redact all can tell that.
// spec: client-server-api#redactions
func (e *Engine) Redact(ctx context.Context, room id.Room, p Proposal) (id.Event, error) {
	p.Type, p.StateKey = event.TypeRedaction, nil
	var sent id.Event
	err := e.compose(ctx, room, func(w *writing) (err error) {
		if sent, err = w.alreadySent(ctx, p); sent != "" || err != nil {
			return err
		}
		var target *event.PDU
		err = e.store.View(ctx, func(tx *store.Tx) error {
			ev, ok, err := e.Event(tx, w.head.NID, p.Redacts)
			if ok {
				target = ev.PDU
			}
			return err
		})
		if err != nil {
			return err
		}
		if target == nil && !w.mayRedactAll(p.Sender) {
			return errcode.NotFound("%s is not an event of this room", p.Redacts)
		}
		if p.Suspended && (target == nil || target.Sender != p.Sender) {
			return errcode.UserSuspended()
		}
		if target != nil && target.Type == event.TypeCreate {
			return errcode.Forbidden("the create event of a room cannot be redacted")
		}
		ev, err := w.add(ctx, p)
		if err != nil {
			return err
		}
		if target != nil && !(authrules.MayRedact(ev.PDU, target, w.base.Levels) && (target.Sender == p.Sender || w.mayRedactAll(p.Sender))) {
			return errcode.Forbidden("your power level does not let you redact this event")
		}
		sent = ev.ID
		return nil
	})
	return sent, err
}

// mayRedactAll: servers let each other redact events of their own users, so that who
// among the users of one server may redact the others' events is ours to judge.
// spec: client-server-api#permissions redact
func (w *writing) mayRedactAll(sender id.User) bool {
	return w.base.Levels.UserLevel(sender) >= w.base.Levels.Redact()
}
