package remote

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"hearth/matrix/id"
	"hearth/store"
)

// strangers is the keys of servers that are in no room here and have signed no event that was
// seen: they ask something, or somebody asks about them. Who has a wildcard domain has as many
// as he likes, so that they are in memory alone and the oldest go first.
type strangers struct {
	mu        sync.Mutex
	documents map[id.Server]*keyDocument
	order     []id.Server
	bytes     int
}

// strangersInMemory bounds them, in bytes.
const strangersInMemory = 16 << 20

func (d *keyDocument) weight() int { return len(d.json) + 200*len(d.keys) + 1000 }

func (s *strangers) find(server id.Server) *keyDocument {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.documents[server]
}

// add keeps a document, unless it is of a notary and a newer one is there.
func (s *strangers) add(doc *keyDocument, direct bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.documents[doc.server]; old != nil {
		if !direct && old.validUntil > doc.validUntil {
			return
		}
		s.drop(doc.server)
	}
	if s.documents == nil {
		s.documents = map[id.Server]*keyDocument{}
	}
	s.documents[doc.server] = doc
	s.order = append(s.order, doc.server)
	for s.bytes += doc.weight(); s.bytes > strangersInMemory; {
		s.drop(s.order[0])
	}
}

func (s *strangers) forget(server id.Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop(server)
}

// drop takes a document away. The caller holds the lock.
func (s *strangers) drop(server id.Server) {
	doc := s.documents[server]
	if doc == nil {
		return
	}
	s.bytes -= doc.weight()
	delete(s.documents, server)
	i := slices.Index(s.order, server)
	s.order = slices.Delete(s.order, i, i+1)
}

// isStranger says whether a server is in no room here and has no keys that are kept.
func (k *Keys) isStranger(ctx context.Context, server id.Server) (strange bool, err error) {
	err = k.store.View(ctx, func(tx *store.Tx) error {
		keys, err := tx.ServerKeys.List(server)
		if err != nil || len(keys) > 0 {
			return err
		}
		nid, seen, err := tx.IDs.FindServer(server)
		if err != nil || !seen {
			strange = err == nil
			return err
		}
		rooms, err := tx.RoomServers.RoomsOf(nid)
		strange = len(rooms) == 0
		return err
	})
	if err != nil {
		return false, fmt.Errorf("read keys of %s: %w", server, err)
	}
	return strange, nil
}

// take keeps what a document tells, see keep: of a stranger in memory.
func (k *Keys) take(ctx context.Context, doc *keyDocument, direct bool, why purpose) error {
	if why != forEvents {
		strange, err := k.isStranger(ctx, doc.server)
		if err != nil {
			return err
		}
		if strange {
			if len(doc.json) > largestUsual {
				return fmt.Errorf("keys of %s: the document of a stranger has %d bytes", doc.server, len(doc.json))
			}
			k.strangers.add(doc, direct)
			return nil
		}
	}
	return k.keep(ctx, doc, direct)
}

// knownOfStranger is what is known of the keys of a server of which nothing is kept. What
// events are verified with is kept from then on.
func (k *Keys) knownOfStranger(ctx context.Context, server id.Server, why purpose) (keySet, error) {
	doc := k.strangers.find(server)
	if doc == nil {
		return nil, nil
	}
	if why == forEvents {
		// Whoever told of it, what may have been kept meanwhile is not replaced.
		if err := k.keep(ctx, doc, false); err != nil {
			return nil, err
		}
	}
	return merge(keySet{}, doc, true), nil
}
