package e2ee

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/store"
)

// What waits for a device that does not fetch it is bounded: else every device that somebody lost would
// grow for ever. In a busy week of a user in hundreds of encrypted rooms there come some thousand messages,
// most of them keys of messages: who has been away for longer gets the rest from the key backup.
//
// Anybody may send to any device. So when a queue is full, those make room who take most of it, by their
// oldest messages: of each server all its users together, which it may invent, of this one each user. Who
// floods a device pushes out only what is of himself.
const (
	maxQueuedBytes = 32 << 20
	maxQueued      = 10_000                     // messages, for none counts less than
	leastWeight    = maxQueuedBytes / maxQueued // bytes
	// keptQueued is what is left of a queue that was full, so that it is not read again at once.
	keptQueued = maxQueuedBytes / 10 * 9
	// weighEvery is after how many messages it is found out whether a queue is full.
	weighEvery = 64
)

type queueKey struct {
	user   store.UserNID
	device id.Device
}

// grown counts a message that was queued for a device, and makes room where that is due.
func (s *Service) grown(tx *store.Tx, user store.UserNID, device id.Device) error {
	key := queueKey{user, device}
	if s.unweighed[key]++; s.unweighed[key] < weighEvery {
		return nil
	}
	delete(s.unweighed, key)
	weight, err := tx.ToDevice.Weight(user, device, leastWeight)
	if err != nil || weight <= maxQueuedBytes {
		return err
	}
	return s.makeRoom(tx, user, device)
}

// share is what somebody takes of a queue.
type share struct {
	weight   int
	messages []waiting // the oldest first
}

type waiting struct {
	position int64
	weight   int
}

// makeRoom deletes the oldest messages of those who take most of a queue.
func (s *Service) makeRoom(tx *store.Tx, user store.UserNID, device id.Device) error {
	shares := map[string]*share{}
	err := tx.ToDevice.Each(user, device, func(m store.ToDeviceMessage) {
		from := senderOf(m.Event)
		party := string(from)
		if !s.isLocal(from) {
			party = string(from.Server())
		}
		if shares[party] == nil {
			shares[party] = &share{}
		}
		weight := max(len(m.Event), leastWeight)
		shares[party].weight += weight
		shares[party].messages = append(shares[party].messages, waiting{m.Position, weight})
	})
	if err != nil {
		return err
	}
	return tx.ToDevice.DeleteAt(user, device, overweight(slices.Collect(maps.Values(shares)), keptQueued))
}

// overweight is the positions of the messages that must go to leave so many bytes.
func overweight(shares []*share, kept int) (gone []int64) {
	slices.SortFunc(shares, func(a, b *share) int {
		return cmp.Or(cmp.Compare(b.weight, a.weight), cmp.Compare(a.messages[0].position, b.messages[0].position))
	})
	// Who takes less than an equal share leaves the rest of it to the others.
	total, fair := 0, kept
	for i, left := len(shares)-1, kept; i >= 0; i-- {
		if fair = left / (i + 1); shares[i].weight > fair {
			break
		}
		left -= shares[i].weight
	}
	for _, s := range shares {
		total += s.weight
	}
	for _, s := range shares {
		for s.weight > fair && total > kept {
			m := s.messages[0]
			gone = append(gone, m.position)
			s.messages = s.messages[1:]
			s.weight -= m.weight
			total -= m.weight
		}
	}
	return gone
}

const (
	senderKey = `,"sender":`
	typeKey   = `,"type":`
)

func toDeviceEvent(m Message, content jsontext.Value) []byte {
	e := append(make([]byte, 0, len(content)+128), `{"content":`...)
	e = append(append(e, content...), senderKey...)
	e = append(canonical.AppendString(e, m.Sender), typeKey...)
	return append(canonical.AppendString(e, m.Type), '}')
}

// senderOf reads who sent what toDeviceEvent made, without reading the content: behind it are only two
// strings, in which a quote has a backslash before it.
func senderOf(e []byte) id.User {
	from, to := bytes.LastIndex(e, []byte(senderKey)), bytes.LastIndex(e, []byte(typeKey))
	if from < 0 || to < from {
		return ""
	}
	sender, _ := canonical.String(e[from+len(senderKey) : to])
	return id.User(sender)
}
