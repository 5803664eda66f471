package room_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// crowd lets many users join.
func (s *script) crowd(n int) (users []id.User) {
	s.Helper()
	for i := range n {
		users = append(users, id.User(fmt.Sprintf("@member%03d:localhost", i)))
	}
	s.join(users...)
	return users
}

// pausing is a reader who takes the first piece and then waits.
type pausing struct {
	bytes.Buffer
	pause func() error
}

func (p *pausing) Write(b []byte) (int, error) {
	if pause := p.pause; pause != nil {
		p.pause = nil
		if err := pause(); err != nil {
			return 0, err
		}
	}
	return p.Buffer.Write(b)
}

// lists are the answers that can be long.
func (s *script) lists() map[string]func(context.Context, io.Writer) error {
	who := room.Reader{User: alice}
	return map[string]func(context.Context, io.Writer) error{
		"state": func(ctx context.Context, out io.Writer) error { return s.e.ReadState(ctx, who, s.name, out) },
		"members": func(ctx context.Context, out io.Writer) error {
			return s.e.ReadMembers(ctx, who, s.name, room.MemberChoice{}, out)
		},
		"joined members": func(ctx context.Context, out io.Writer) error { return s.e.ReadJoinedMembers(ctx, who, s.name, out) },
	}
}

func TestListIsOfOneMomentHoweverLongItTakes(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		users := s.crowd(450)
		for name, read := range s.lists() {
			late := id.User("@late-for-" + strings.ReplaceAll(name, " ", "-") + ":localhost")
			out := pausing{pause: func() error {
				s.leave(users[0])
				s.leave(users[449])
				s.join(late)
				return nil
			}}
			if err := read(t.Context(), &out); err != nil {
				t.Fatal(err)
			}
			if !jsontext.Value(out.Bytes()).IsValid() {
				t.Errorf("%s: not JSON", name)
			}
			for _, u := range append(slices.Clone(users), alice) {
				if !strings.Contains(out.String(), `"`+string(u)+`"`) {
					t.Errorf("%s: without %s", name, u)
				}
			}
			if strings.Contains(out.String(), string(late)) {
				t.Errorf("%s: has who came later", name)
			}
			s.join(users[0], users[449])
		}
	})
}

func TestSlowReadersKeepNobodyFromTheStore(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		s.crowd(450)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		many := 4*runtime.GOMAXPROCS(0) + 4 // more than there are connections
		var begun, ended sync.WaitGroup
		goOn := make(chan struct{})
		for range many {
			for name, read := range s.lists() {
				begun.Add(1)
				ended.Go(func() {
					here := sync.OnceFunc(begun.Done)
					defer here() // also where it fails
					out := pausing{pause: func() error {
						here()
						select {
						case <-goOn:
							return nil
						case <-ctx.Done():
							return ctx.Err()
						}
					}}
					if err := read(ctx, &out); err != nil || !jsontext.Value(out.Bytes()).IsValid() {
						t.Errorf("%s: %v", name, err)
					}
				})
			}
		}
		begun.Wait()
		s.say(alice, "hello")
		s.messages(alice, room.Page{Back: true, Limit: 1})
		close(goOn)
		ended.Wait()
	})
}

func TestListEndsWithTheReader(t *testing.T) {
	storetest.Each(t, func(t *testing.T, st *store.Store) {
		s := newScript(t, st, "shared")
		s.crowd(450)
		gone := errors.New("gone")
		for name, read := range s.lists() {
			out := pausing{pause: func() error { return gone }}
			if err := read(t.Context(), &out); !errors.Is(err, gone) || out.Len() > 0 {
				t.Errorf("%s: %v, and %d bytes were written", name, err, out.Len())
			}
		}
	})
}
