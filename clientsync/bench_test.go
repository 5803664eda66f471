package clientsync_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"hearth/clientsync"
	"hearth/matrix/id"
)

const manyRooms = 2000

// account makes an account in many rooms.
func account(b *testing.B, s *server) (rooms []id.Room) {
	b.Helper()
	var wg sync.WaitGroup
	rooms = make([]id.Room, manyRooms)
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < manyRooms; i += 16 {
				rooms[i] = s.publicRoom(alice)
				s.join(rooms[i], bob)
			}
		})
	}
	wg.Wait()
	return rooms
}

// One message in one of 2,000 rooms, told to one member.
func BenchmarkIncremental(b *testing.B) {
	s := newServer(b)
	rooms := account(b, s)
	for name, filter := range map[string]string{"plain": "", "lazy": lazy} {
		for _, memory := range []string{"remembered", "from the store"} {
			b.Run(name+"/"+memory, func(b *testing.B) {
				since := s.sync(bob, "", withFilter(filter)).NextBatch
				n := 0
				for b.Loop() {
					b.StopTimer()
					s.say(rooms[n%manyRooms], alice, "hello")
					if n++; memory == "from the store" {
						s.restart()
					}
					b.StartTimer()
					since = s.next(request(bob, since, withFilter(filter)))
				}
			})
		}
	}
}

// next syncs, looks that there was news, and returns the next token.
func (s *server) next(r clientsync.Request) string {
	var out bytes.Buffer
	if err := s.syncer.Sync(context.Background(), r, &out); err != nil || !bytes.Contains(out.Bytes(), []byte(`"timeline"`)) {
		s.t.Error(err, out.String())
	}
	_, token, _ := bytes.Cut(out.Bytes(), []byte(`"next_batch":"`))
	return string(bytes.TrimSuffix(token, []byte(`"}`)))
}

// The whole of 2,000 rooms.
func BenchmarkFirst(b *testing.B) {
	s := newServer(b)
	account(b, s)
	for name, filter := range map[string]string{"plain": "", "lazy": lazy} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.ok(s.syncer.Sync(context.Background(), request(bob, "", withFilter(filter)), io.Discard))
			}
		})
	}
}

// One message told to 1,000 local members who wait for it.
func BenchmarkFanout(b *testing.B) {
	const members = 1000
	s := newServer(b)
	r := s.publicRoom(alice)
	users := make([]id.User, members)
	var wg sync.WaitGroup
	for i := range users {
		users[i] = id.User(fmt.Sprintf("@user%d:localhost", i))
		wg.Go(func() { s.join(r, users[i]) })
	}
	wg.Wait()
	since := make([]string, members)
	for i, u := range users {
		since[i] = s.sync(u, "").NextBatch
	}
	for b.Loop() {
		for i, u := range users {
			wg.Go(func() {
				since[i] = s.next(request(u, since[i], waiting(time.Minute)))
			})
		}
		s.say(r, alice, "hello")
		wg.Wait()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/members, "µs/member")
}
