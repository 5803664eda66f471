package room

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// maxReason bounds what a report says, in bytes.
const maxReason = 10_000

func checkReason(reason string) error {
	if len(reason) > maxReason {
		return errcode.TooLarge("the reason of a report has no more than %d bytes", maxReason)
	}
	return nil
}

// ReportEvent stores a report of an event by a member of its room.
// spec: client-server-api#post_matrixclientv3roomsroomidreporteventid
func (e *Engine) ReportEvent(ctx context.Context, who Reader, room id.Room, name id.Event, reason string, body jsontext.Value) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	if len(body) > maxReason {
		body = jsontext.Value("{}")
	}
	err := e.look(ctx, who, room, func(tx *store.Tx, v *View) error {
		if !v.Joined() {
			return errcode.NotFound("you are not in room %s", room)
		}
		_, err := e.VisibleEvent(tx, v, name)
		return err
	})
	if err != nil {
		return unseen(err, "event %s is not known, or not for you to see", name)
	}
	return e.store.Update(ctx, func(tx *store.Tx) error {
		return tx.Reports.InsertEvent(store.EventReport{
			ReceivedMS: now(), Room: room, Event: name, Reporter: who.User, Reason: reason, Content: body,
		})
	})
}

// ReportRoom stores a report of a room. Of a room that is not known here there
// is nothing to store, and nobody learns of that.
// spec: client-server-api#post_matrixclientv3roomsroomidreport
func (e *Engine) ReportRoom(ctx context.Context, who Reader, room id.Room, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return e.store.Update(ctx, func(tx *store.Tx) error {
		if _, ok, err := tx.Rooms.Find(room); err != nil || !ok {
			return err
		}
		return tx.Reports.InsertRoom(now(), room, who.User, reason)
	})
}

// ReportUser stores a report of a user, local or from any room; of anybody else
// there is nothing to store, and nobody learns of that.
// spec: client-server-api#post_matrixclientv3usersuseridreport
func (e *Engine) ReportUser(ctx context.Context, who Reader, target id.User, reason string) error {
	if err := checkReason(reason); err != nil {
		return err
	}
	return e.store.Update(ctx, func(tx *store.Tx) error {
		_, known, err := tx.IDs.FindUser(target)
		if err == nil && !known {
			_, known, err = tx.Users.Get(target)
		}
		if err != nil || !known {
			return err
		}
		return tx.Reports.InsertUser(now(), target, who.User, reason)
	})
}
