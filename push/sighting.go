package push

import (
	"github.com/go-json-experiment/json"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/room"
	"hearth/store"
)

// sighting is an event made ready for the rules of everybody in its room.
type sighting struct {
	pdu    *event.PDU
	view   *pushrules.Event
	thread id.Event // root; empty: the main timeline
}

func (s *sighting) weight() uint32 { return uint32(800 + 3*len(s.pdu.Content)) }

// sight makes an event ready, once for all users.
func (s *Service) sight(tx *store.Tx, ev *room.Event) (*sighting, error) {
	// A redaction puts another PDU in the place of the old one.
	if known, ok := s.events.GetIfPresent(ev.NID); ok && known.pdu == ev.PDU {
		return known, nil
	}
	thread, err := threadOf(tx, ev)
	if err != nil {
		return nil, err
	}
	fresh := &sighting{ev.PDU, pushrules.NewEvent(ev.PDU), thread}
	s.events.Set(ev.NID, fresh)
	return fresh, nil
}

// threadOf finds the root of the thread that an event belongs to: it is in it
// itself, or relates to one that is, at most some hops away. Empty: it belongs to
// the main timeline, as thread roots do. To be redacted changes nothing: what counts
// must not depend on when it is counted.
// spec: client-server-api#threaded-read-receipts
func threadOf(tx *store.Tx, ev *room.Event) (id.Event, error) {
	if ev.IsState || ev.RedactedBy == 0 && canonical.Get(ev.PDU.Content, "m.relates_to") == nil {
		return "", nil
	}
	chain, err := tx.Relations.Chain(ev.NID)
	for _, relation := range chain {
		if relation.RelType == "m.thread" {
			return relation.Target, err
		}
	}
	return "", err
}

// predecessorOf is the room that a create event says its room replaces; empty: none.
func predecessorOf(create *event.PDU) id.Room {
	var predecessor struct {
		Room id.Room `json:"room_id"`
	}
	if raw := create.ContentValue("predecessor"); raw == nil || json.Unmarshal(raw, &predecessor) != nil {
		return "" // what is malformed names no room
	}
	return predecessor.Room
}
