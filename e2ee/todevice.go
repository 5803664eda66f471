package e2ee

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// Message is what all messages of one sending have in common.
type Message struct {
	Sender id.User
	Type   string
}

// AllDevices stands for each device of a user.
const AllDevices id.Device = "*"

const (
	maxToDevice      = 64 << 10 // bytes of one message, as of an event
	maxToDeviceBytes = 32 << 20 // of all messages that one request queues
	txnMemory        = 24 * time.Hour
	messageMemory    = 7 * 24 * time.Hour // of the ids of other servers' messages
	// maxRemembered is about how many ids of one server's messages are remembered. It repeats those that
	// it sent last and was not answered.
	maxRemembered = 10_000
)

// SendToDevice queues messages for devices. The same transaction of the same
// device again sends nothing. Devices that do not exist are passed over.
// spec: client-server-api#put_matrixclientv3sendtodeviceeventtypetxnid
func (s *Service) SendToDevice(ctx context.Context, m Message, device id.Device, txnID string, to map[id.User]map[id.Device]jsontext.Value) error {
	if !validName(m.Type) || !validName(txnID) {
		return errcode.InvalidParam("the event type or the transaction id is too long")
	}
	if err := checkMessages(to); err != nil {
		return err
	}
	local, remote := splitLocal(s, to)
	local, err := s.inUse(ctx, local)
	if err != nil {
		return err
	}
	now := time.Now()
	return s.store.Update(ctx, func(tx *store.Tx) error {
		sender, err := tx.IDs.User(m.Sender)
		if err != nil {
			return err
		}
		if err := tx.ToDevice.ExpireTransactions(now.Add(-txnMemory).UnixMilli()); err != nil {
			return err
		}
		fresh, err := tx.ToDevice.InsertTransaction(sender, device, m.Type, txnID, now.UnixMilli())
		if err != nil || !fresh {
			return err
		}
		here, err := deliveries(tx, local)
		if err != nil {
			return err
		}
		if err := s.queue(tx, m, here); err != nil {
			return err
		}
		return s.queueForServers(tx, m, remote)
	})
}

func checkMessages(to map[id.User]map[id.Device]jsontext.Value) error {
	if len(to) > maxAsked {
		return errcode.TooLarge("the messages are for more than %d users", maxAsked)
	}
	size := 0
	for _, devices := range to {
		for _, content := range devices {
			if content.Kind() != '{' {
				return errcode.BadJSON("a message is not an object")
			}
			if len(content) > maxToDevice {
				return errcode.TooLarge("a message is larger than %d bytes", maxToDevice)
			}
			if size += len(content); size > maxToDeviceBytes {
				return errcode.TooLarge("the messages are more than %d bytes", maxToDeviceBytes)
			}
		}
	}
	return nil
}

// ReceiveToDevice queues what another server sent to users of this one, once for
// each message id.
// spec: server-server-api#send-to-device-messaging
func (s *Service) ReceiveToDevice(ctx context.Context, origin id.Server, messageID string, m Message, to map[id.User]map[id.Device]jsontext.Value) error {
	if !validName(m.Type) || !validName(messageID) {
		return errcode.InvalidParam("the event type or the message id is too long")
	}
	if err := checkMessages(to); err != nil {
		return err
	}
	local, _ := splitLocal(s, to)
	local, err := s.inUse(ctx, local)
	if err != nil || len(local) == 0 {
		return err
	}
	now := time.Now()
	return s.receive(ctx, func(tx *store.Tx) error {
		here, err := deliveries(tx, local)
		if err != nil || len(here) == 0 {
			return err
		}
		fresh, err := s.isFresh(tx, origin, messageID, now)
		if err != nil || !fresh {
			return err
		}
		return s.queue(tx, m, here)
	})
}

// isFresh notes the id of another server's message, and says whether it is new.
func (s *Service) isFresh(tx *store.Tx, origin id.Server, messageID string, now time.Time) (bool, error) {
	server, err := tx.IDs.Server(origin)
	if err != nil {
		return false, err
	}
	if err := tx.ToDevice.ExpireReceived(now.Add(-messageMemory).UnixMilli()); err != nil {
		return false, err
	}
	fresh, err := tx.ToDevice.InsertReceived(server, messageID, now.UnixMilli())
	if err != nil || !fresh {
		return false, err
	}
	if s.uncounted[server]++; s.uncounted[server] >= weighEvery {
		delete(s.uncounted, server)
		err = tx.ToDevice.TrimReceived(server, maxRemembered)
	}
	return true, err
}

// inUse leaves out whom nothing can be delivered to, before anything is written: all other writes wait
// for one that looks for thousands who do not exist.
func (s *Service) inUse(ctx context.Context, to map[id.User]map[id.Device]jsontext.Value) (map[id.User]map[id.Device]jsontext.Value, error) {
	if len(to) == 0 {
		return nil, nil
	}
	there := make(map[id.User]map[id.Device]jsontext.Value, len(to))
	err := s.store.View(ctx, func(tx *store.Tx) error {
		users, err := tx.Users.InUse(slices.Collect(maps.Keys(to)))
		for _, user := range users {
			there[user] = to[user]
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("look for receivers of messages: %w", err)
	}
	return there, nil
}

// delivery is a message for a local device.
type delivery struct {
	user    id.User
	device  id.Device
	content jsontext.Value
}

// deliveries finds the devices that messages are for.
func deliveries(tx *store.Tx, to map[id.User]map[id.Device]jsontext.Value) (all []delivery, err error) {
	size := 0
	for user, messages := range to {
		devices, err := receiving(tx, user)
		if err != nil {
			return nil, err
		}
		for _, d := range devices {
			content, ok := messages[d.ID]
			if !ok {
				content, ok = messages[AllDevices]
			}
			if !ok {
				continue
			}
			if size += len(content); size > maxToDeviceBytes {
				return nil, errcode.TooLarge("the messages are more than %d bytes", maxToDeviceBytes)
			}
			all = append(all, delivery{user, d.ID, content})
		}
	}
	return all, nil
}

// queue writes messages to the queues of local devices.
func (s *Service) queue(tx *store.Tx, m Message, to []delivery) error {
	var receivers []store.UserNID
	for i, d := range to {
		nid, err := tx.IDs.User(d.user)
		if err != nil {
			return err
		}
		if err := tx.ToDevice.Insert(nid, d.device, toDeviceEvent(m, d.content)); err != nil {
			return fmt.Errorf("queue message for %s: %w", d.user, err)
		}
		if err := s.grown(tx, nid, d.device); err != nil {
			return fmt.Errorf("trim the queue of %s: %w", d.user, err)
		}
		if i == 0 || to[i-1].user != d.user {
			receivers = append(receivers, nid)
		}
	}
	tx.Touch(stream.ToDevice, 0, receivers...)
	return nil
}

// receiving lists the devices of a user whose account is active.
func receiving(tx *store.Tx, user id.User) ([]store.Device, error) {
	u, ok, err := tx.Users.Get(user)
	if err != nil || !ok || u.Deactivated {
		return nil, err
	}
	return tx.Devices.List(user)
}
