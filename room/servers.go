package room

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"

	"hearth/matrix/id"
	"hearth/store"
)

// servers are those with joined members in a room. It is immutable, but for what it
// remembers of the set that the store has for it.
type servers struct {
	list   []store.ServerCount // in order of nids
	others atomic.Int64        // the set of all but this server; 0: not known yet; nobody
}

const nobody = -1

func readServers(tx *store.Tx, room store.RoomNID) (*servers, error) {
	list, err := tx.RoomServers.Counts(room)
	return &servers{list: list}, err
}

// has says whether a server has a joined member.
func (s *servers) has(server store.ServerNID) bool {
	_, found := slices.BinarySearchFunc(s.list, server, func(c store.ServerCount, nid store.ServerNID) int { return cmp.Compare(c.Server, nid) })
	return found
}

// with is the servers once members have joined, or left below zero.
func (s *servers) with(joins map[store.ServerNID]int64) *servers {
	counts := make(map[store.ServerNID]store.ServerCount, len(s.list)+len(joins))
	changed, others := false, false
	for _, c := range s.list {
		counts[c.Server] = c
	}
	for server, n := range joins {
		if n == 0 {
			continue
		}
		before := counts[server]
		after := store.ServerCount{Server: server, Joined: before.Joined + n, Told: before.Told}
		counts[server] = after
		changed = true
		others = others || isIn(before) != isIn(after)
	}
	if !changed {
		return s
	}
	next := &servers{list: make([]store.ServerCount, 0, len(counts))}
	for _, server := range slices.Sorted(maps.Keys(counts)) {
		if isIn(counts[server]) {
			next.list = append(next.list, counts[server])
		}
	}
	if !others {
		next.others.Store(s.others.Load())
	}
	return next
}

// isIn says whether a server is in the room, as far as is known.
func isIn(c store.ServerCount) bool { return c.Joined > 0 || c.Told }

// told is the servers once another server has said that some more are in the room.
func (s *servers) told(names []store.ServerNID) *servers {
	next := &servers{list: slices.Clone(s.list)}
	for _, n := range names {
		i, found := slices.BinarySearchFunc(next.list, n, func(c store.ServerCount, n store.ServerNID) int { return int(c.Server - n) })
		if !found {
			next.list = slices.Insert(next.list, i, store.ServerCount{Server: n})
		}
		next.list[i].Told = true
	}
	return next
}

// untold is the servers without what another server said.
func (s *servers) untold() *servers {
	next := &servers{}
	for _, c := range s.list {
		if c.Told = false; isIn(c) {
			next.list = append(next.list, c)
		}
	}
	return next
}

// mostlyIn refuses a state in which half of the servers are missing that are told to be
// in the room: who tells it keeps members back.
func (s *servers) mostlyIn(state *servers) error {
	told, missing := 0, 0
	for _, c := range s.list {
		if !c.Told {
			continue
		}
		told++
		_, found := slices.BinarySearchFunc(state.list, c, func(a, b store.ServerCount) int { return int(a.Server - b.Server) })
		if !found {
			missing++
		}
	}
	if told > 0 && 2*missing >= told {
		return fmt.Errorf("%d of the %d servers in the room have no members in the state that was told", missing, told)
	}
	return nil
}

// destinations is the set of servers that are told of what happens: all but this
// one, and the one that knows already; outsiders are told as well. 0: nobody.
func (s *servers) destinations(tx *store.Tx, self, origin id.Server, outsiders ...store.ServerNID) (int64, error) {
	usual := origin == "" && len(outsiders) == 0
	if set := s.others.Load(); set != 0 && usual {
		return max(set, 0), nil
	}
	without := make([]store.ServerNID, 0, 2)
	for _, name := range []id.Server{self, origin} {
		if name == "" {
			continue
		}
		nid, ok, err := tx.IDs.FindServer(name)
		if err != nil {
			return 0, err
		}
		if ok {
			without = append(without, nid)
		}
	}
	others := make([]store.ServerNID, 0, len(s.list))
	for _, c := range s.list {
		if !slices.Contains(without, c.Server) {
			others = append(others, c.Server)
		}
	}
	for _, nid := range outsiders {
		if i, found := slices.BinarySearch(others, nid); !found && !slices.Contains(without, nid) {
			others = slices.Insert(others, i, nid)
		}
	}
	if len(others) == 0 {
		if usual {
			s.others.Store(nobody)
		}
		return 0, nil
	}
	set, err := tx.Outgoing.Set(others)
	if err == nil && usual {
		tx.AfterCommit(func() { s.others.Store(set) })
	}
	return set, err
}
