package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// edus is the table of what other servers tell beside events, and who takes it.
// Each function finds out that origin may say so; malformed content is an
// *errcode.Error.
// spec: server-server-api#edus
var edus = map[string]eduType{
	"m.typing":             {receive: (*API).receiveTyping},
	"m.receipt":            {receive: (*API).receiveReceipts},
	"m.presence":           {receive: (*API).receivePresence},
	"m.device_list_update": {(*API).receiveDeviceListUpdate, toldOnce},
	"m.signing_key_update": {(*API).receiveSigningKeyUpdate, toldOnce},
	directToDevice:         {(*API).receiveDirectToDevice, toldOnce},
}

type eduType struct {
	receive  func(a *API, ctx context.Context, origin id.Server, content jsontext.Value) error
	toldOnce bool
}

// toldOnce: nothing that comes later makes up for such an EDU. Where this server fails to take it, the
// other one must not hear that it arrived.
const toldOnce = true

const directToDevice = "m.direct_to_device"

// byNeed sorts the EDUs of a transaction, keeping their order. Messages to devices come before the
// events: these may wait long for other servers, and nobody can read them without the keys that such
// messages bring. The rest is about who is in which rooms, and what was said there.
func byNeed(edus []jsontext.Value) (first, rest []jsontext.Value) {
	for _, raw := range edus {
		var edu struct {
			Type string `json:"edu_type"`
		}
		if parse(raw, &edu) == nil && edu.Type == directToDevice {
			first = append(first, raw)
		} else {
			rest = append(rest, raw)
		}
	}
	return first, rest
}

// receiveEDUs takes each of the EDUs, whatever becomes of the others. The error is the first of
// those that must come again.
func (a *API) receiveEDUs(ctx context.Context, origin id.Server, edus []jsontext.Value) (first error) {
	for _, edu := range edus {
		if err := a.receiveEDU(ctx, origin, edu); first == nil {
			first = err
		}
	}
	return first
}

// receiveEDU takes one EDU of a transaction. A malformed one, or one of an unknown
// type, is no matter of the others. The error says that it must come again.
func (a *API) receiveEDU(ctx context.Context, origin id.Server, raw jsontext.Value) error {
	var edu struct {
		Type    string         `json:"edu_type"`
		Content jsontext.Value `json:"content"`
	}
	err := parse(raw, &edu)
	typ, known := edus[edu.Type]
	switch {
	case err != nil:
	case !known:
		err = errcode.Unrecognized("there is no such EDU type here")
	default:
		err = typ.receive(a, ctx, origin, edu.Content)
	}
	_, theirs := errors.AsType[*errcode.Error](err)
	switch {
	case err == nil:
	case theirs:
		slog.DebugContext(ctx, "EDU not received", "type", edu.Type, "origin", origin, "error", err)
	case typ.toldOnce:
		return fmt.Errorf("receive %s: %w", edu.Type, err)
	default:
		slog.WarnContext(ctx, "EDU not received", "type", edu.Type, "origin", origin, "error", err)
	}
	return nil
}

// parse reads what another server wrote.
func parse(raw jsontext.Value, into any) error {
	if err := json.Unmarshal(raw, into); err != nil {
		return errcode.BadJSON("%s", err)
	}
	return nil
}

// ownUser demands that a server speaks of a user of its own.
func ownUser(origin id.Server, user id.User) error {
	if user.Server() != origin {
		return errcode.Forbidden("%s does not speak for %s", origin, user)
	}
	return nil
}

// spec: server-server-api#typing-notifications
func (a *API) receiveTyping(ctx context.Context, origin id.Server, content jsontext.Value) error {
	var c struct {
		Room   id.Room `json:"room_id"`
		User   id.User `json:"user_id"`
		Typing bool    `json:"typing"`
	}
	err := parse(content, &c)
	if err == nil {
		err = ownUser(origin, c.User)
	}
	if err == nil {
		err = a.Rooms.CheckACL(ctx, c.Room, origin)
	}
	if err == nil {
		err = a.Typing.Receive(ctx, c.User, c.Room, c.Typing)
	}
	return err
}

// maxReceipts bounds how many receipts of one m.receipt EDU are taken. The others are passed
// over: users read on.
const maxReceipts = 2000

// spec: server-server-api#receipts
func (a *API) receiveReceipts(ctx context.Context, origin id.Server, content jsontext.Value) error {
	var rooms map[id.Room]map[string]map[id.User]jsontext.Value
	if err := parse(content, &rooms); err != nil {
		return err
	}
	left := maxReceipts
	for room, types := range rooms {
		var receipts []ephemeral.Received
		for user, raw := range types[ephemeral.Read] {
			if left == 0 {
				break
			}
			r, err := parseReceipt(origin, user, raw)
			if err != nil {
				slog.DebugContext(ctx, "receipt not received", "room", room, "user", user, "origin", origin, "error", err)
				continue
			}
			receipts = append(receipts, r)
			left--
		}
		if len(receipts) == 0 {
			continue
		}
		err := a.Rooms.CheckACL(ctx, room, origin)
		if _, refused := errors.AsType[*errcode.Error](err); refused {
			slog.DebugContext(ctx, "receipts not received", "room", room, "origin", origin, "error", err)
			continue
		}
		if err == nil {
			err = a.Receipts.Receive(ctx, room, receipts)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseReceipt(origin id.Server, user id.User, raw jsontext.Value) (ephemeral.Received, error) {
	var c struct {
		Events []id.Event `json:"event_ids"`
		Data   struct {
			TS     int64  `json:"ts"`
			Thread string `json:"thread_id"`
		} `json:"data"`
	}
	err := parse(raw, &c)
	if err == nil {
		err = ownUser(origin, user)
	}
	if err == nil && len(c.Events) == 0 {
		err = errcode.BadJSON("event_ids is empty")
	}
	if err != nil {
		return ephemeral.Received{}, err
	}
	return ephemeral.Received{User: user, Event: c.Events[0], Thread: c.Data.Thread, TS: c.Data.TS}, nil
}

// maxPresences bounds the users of one m.presence EDU.
const maxPresences = 1000

// spec: server-server-api#presence
func (a *API) receivePresence(ctx context.Context, origin id.Server, content jsontext.Value) error {
	var c struct {
		Push []jsontext.Value `json:"push"`
	}
	if err := parse(content, &c); err != nil {
		return err
	}
	if len(c.Push) > maxPresences {
		return errcode.TooLarge("there are more than %d users", maxPresences)
	}
	for _, raw := range c.Push {
		err := a.receivePresenceOf(ctx, origin, raw)
		if _, theirs := errors.AsType[*errcode.Error](err); theirs {
			slog.DebugContext(ctx, "presence not received", "origin", origin, "error", err)
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (a *API) receivePresenceOf(ctx context.Context, origin id.Server, raw jsontext.Value) error {
	var u struct {
		User            id.User `json:"user_id"`
		Presence        string  `json:"presence"`
		StatusMsg       string  `json:"status_msg"`
		LastActiveAgo   int64   `json:"last_active_ago"`
		CurrentlyActive bool    `json:"currently_active"`
	}
	if err := parse(raw, &u); err != nil {
		return err
	}
	if err := ownUser(origin, u.User); err != nil {
		return err
	}
	state, err := ephemeral.ParseState(u.Presence)
	if err != nil {
		return err
	}
	const year = 365 * 24 * time.Hour
	ago := time.Duration(max(0, min(u.LastActiveAgo, year.Milliseconds()))) * time.Millisecond
	return a.Presence.Receive(ctx, u.User, state, u.StatusMsg, ago, u.CurrentlyActive)
}

// spec: server-server-api#device-management
func (a *API) receiveDeviceListUpdate(ctx context.Context, origin id.Server, content jsontext.Value) error {
	var u e2ee.DeviceListUpdate
	err := parse(content, &u)
	if err == nil {
		err = ownUser(origin, u.User)
	}
	if err == nil {
		err = a.E2EE.ReceiveDeviceListUpdate(ctx, u)
	}
	return err
}

// spec: server-server-api#end-to-end-encryption
func (a *API) receiveSigningKeyUpdate(ctx context.Context, origin id.Server, content jsontext.Value) error {
	var u e2ee.SigningKeyUpdate
	err := parse(content, &u)
	if err == nil {
		err = ownUser(origin, u.User)
	}
	if err == nil {
		err = a.E2EE.ReceiveSigningKeyUpdate(ctx, u)
	}
	return err
}

// spec: server-server-api#send-to-device-messaging
func (a *API) receiveDirectToDevice(ctx context.Context, origin id.Server, content jsontext.Value) error {
	var d e2ee.DirectToDevice
	err := parse(content, &d)
	if err == nil {
		err = ownUser(origin, d.Sender)
	}
	if err == nil {
		err = a.E2EE.ReceiveToDevice(ctx, origin, d.MessageID, e2ee.Message{Sender: d.Sender, Type: d.Type}, d.Messages)
	}
	return err
}
