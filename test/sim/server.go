package sim

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// Server is a room engine with its store, and what it has to send.
type Server struct {
	w        *World
	Name     id.Server
	key      ed25519.PrivateKey
	database store.Options
	store    *store.Store
	engine   *room.Engine
	hostile  bool
	resident time.Time // since when it is in the room; zero: it is not
	read     int64     // up to where the outgoing items were put into the queues
	queues   map[id.Server][]letter
}

// letter is an event on its way to a server.
type letter struct {
	room id.Room
	id   id.Event
	raw  jsontext.Value
}

func (w *World) start(name id.Server) *Server {
	seed := sha256.Sum256([]byte(name))
	s := &Server{w: w, Name: name, key: ed25519.NewKeyFromSeed(seed[:]), queues: map[id.Server][]letter{}}
	// One connection reads: nothing happens at the same time here.
	s.database = store.Options{Server: name, Readers: 2, CacheKB: 500}
	if w.postgres {
		s.database.Postgres = storetest.PostgresSchema(w.t)
	} else {
		s.database.SQLite = filepath.Join(w.t.TempDir(), "homeserver.db")
	}
	s.open()
	return s
}

func (s *Server) open() {
	var err error
	s.store, err = store.Open(s.w.ctx, s.database)
	s.w.must(err)
	s.engine = room.New(s.store, room.Options{Server: s.Name, KeyID: "ed25519:1", Key: s.key, Network: link{s.w, s}, EventCacheBytes: 256 << 10, NoSearch: true,
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
}

func (s *Server) restart() {
	s.w.note("%s restarts", s.Name)
	s.w.must(s.store.Close())
	s.open()
}

func (s *Server) user(localpart string) id.User {
	return id.User("@" + localpart + ":" + string(s.Name))
}

// complete has the members fetched of rooms that the server has just joined. True: of all.
func (s *Server) complete() bool {
	all := true
	for _, name := range []id.Room{s.w.room, s.w.other} {
		partial := s.isPartial()
		whole, err := s.engine.CompleteState(s.w.ctx, name)
		s.w.must(err)
		if name == s.w.room && partial {
			s.w.note("%s completes the state: %t", s.Name, whole)
		}
		all = all && whole
	}
	s.w.watchResidence()
	return all
}

// collect puts what the engine wants to be sent into the queues.
func (s *Server) collect() {
	s.w.must(s.store.View(s.w.ctx, func(tx *store.Tx) error {
		items, err := tx.Outgoing.After(s.read, 1<<60, 1000)
		if err != nil {
			return err
		}
		for _, item := range items {
			s.read = item.Position
			events, err := s.engine.Events(tx, []store.EventNID{item.Event})
			if err != nil {
				return err
			}
			servers, err := tx.Outgoing.Destinations(item.Set)
			if err != nil {
				return err
			}
			pdu := events[0].PDU
			for _, nid := range servers {
				name, err := tx.IDs.ServerName(nid)
				if err != nil {
					return err
				}
				s.queues[name] = append(s.queues[name], letter{pdu.Room, pdu.ID, event.AppendFederation(nil, pdu, nil)})
			}
		}
		return nil
	}))
}

// maxLetters is as many events as one transaction has.
// spec: server-server-api#transactions
const maxLetters = 50

// send has some of what is queued for a server arrive there, or not. True: something did.
func (s *Server) send(to *Server) bool {
	s.collect()
	w, queue := s.w, s.queues[to.Name]
	if len(queue) == 0 || to == s || w.parted(s, to) {
		return false
	}
	n := min(len(queue), maxLetters)
	if !w.calm {
		n = min(n, 1+w.rand.IntN(10))
	}
	if !w.calm && w.chance(6) { // a later one first
		i := w.rand.IntN(len(queue))
		queue[0], queue[i] = queue[i], queue[0]
	}
	batch := slices.Clone(queue[:n])
	switch {
	case w.calm, !w.chance(5):
		s.queues[to.Name] = slices.Clone(queue[n:])
	case w.chance(3):
		s.queues[to.Name] = slices.Clone(queue[n:])
		w.note("%s loses %d events for %s for good", s.Name, n, to.Name)
		return true
	case w.chance(2):
		return false // lost on the way there
	} // else: lost on the way back, and sent again
	to.receive(s, batch)
	return true
}

// receive takes a transaction in.
func (s *Server) receive(from *Server, batch []letter) {
	byRoom := map[id.Room][]jsontext.Value{}
	var rooms []id.Room
	for _, l := range batch {
		if byRoom[l.room] == nil {
			rooms = append(rooms, l.room)
		}
		byRoom[l.room] = append(byRoom[l.room], l.raw)
	}
	for _, name := range rooms {
		results := s.engine.Receive(s.w.ctx, from.Name, name, byRoom[name])
		for _, l := range batch {
			if err := results[l.id]; err != nil {
				s.w.note("%s from %s: %s: %v", s.Name, from.Name, l.id, err)
				s.w.wantTold(err, "event "+string(l.id))
			}
		}
	}
	s.w.watchResidence()
}

// wantTold makes sure that an error is one that the other side was meant to see.
func (w *World) wantTold(err error, what string) {
	if told := (*errcode.Error)(nil); err == nil || errors.As(err, &told) && told.Status != 500 || denied(err) {
		return
	}
	w.t.Errorf("%s: an error that nobody was meant to see: %v", what, err)
}

// watchResidence notes since when servers are in the room.
func (w *World) watchResidence() {
	for _, s := range w.servers {
		h, ok, err := s.engine.Head(w.ctx, w.room)
		w.must(err)
		switch in := ok && len(h.Locals) > 0; {
		case !in:
			s.resident = time.Time{}
		case s.resident.IsZero():
			s.resident = time.Now()
		}
	}
}
