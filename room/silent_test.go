package room_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// quiet is a peer of which some servers take requests and do not answer.
type quiet struct {
	*peer
	silent map[id.Server]bool // nil: all are
	gone   map[id.Server]bool // of these that is known
}

// quiet has the peer's server ask others that are silent.
func (p *peer) quiet(silent map[id.Server]bool) { p.asks(quiet{peer: p, silent: silent}) }

func (p *peer) asks(q quiet) {
	p.e = room.New(p.s, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: q,
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
}

func (q quiet) hush(ctx context.Context, server id.Server) error {
	if q.gone[server] {
		return &remote.Error{Server: server, Err: remote.ErrDown}
	}
	if q.silent != nil && !q.silent[server] {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (q quiet) MakeMembership(ctx context.Context, to id.Server, m store.Membership, r id.Room, u id.User, versions []string) (room.Template, error) {
	if err := q.hush(ctx, to); err != nil {
		return room.Template{}, err
	}
	return q.peer.MakeMembership(ctx, to, m, r, u, versions)
}

func (q quiet) Backfill(ctx context.Context, from id.Server, r id.Room, before []id.Event, limit int) ([]jsontext.Value, error) {
	if err := q.hush(ctx, from); err != nil {
		return nil, err
	}
	return q.peer.Backfill(ctx, from, r, before, limit)
}

func (q quiet) GetEvent(ctx context.Context, from id.Server, e id.Event) (jsontext.Value, error) {
	if err := q.hush(ctx, from); err != nil {
		return nil, err
	}
	return q.peer.GetEvent(ctx, from, e)
}

func (q quiet) GetRoomStateIDs(ctx context.Context, from id.Server, r id.Room, at id.Event) (state, chain []id.Event, err error) {
	if err := q.hush(ctx, from); err != nil {
		return nil, nil, err
	}
	return q.peer.GetRoomStateIDs(ctx, from, r, at)
}

func (q quiet) TimestampToEvent(ctx context.Context, from id.Server, r id.Room, ts int64, back bool) (id.Event, int64, error) {
	if err := q.hush(ctx, from); err != nil {
		return "", 0, err
	}
	return q.peer.TimestampToEvent(ctx, from, r, ts, back)
}

// Whoever invites chooses the servers that hear of the refusal: it must not rest on them, nor on
// whether the client waits for them.
func TestAnInviteIsRefusedWhateverItsServersDo(t *testing.T) {
	for what, patience := range map[string]time.Duration{"by who waits": time.Hour, "by who hangs up": time.Second} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, storetest.Open(t, nil), "11")
				in := p.invitation(nil)
				for i := range 15 {
					in.State = append(in.State, jsontext.Value(fmt.Sprintf(`{"type":"m.room.topic","state_key":"%d","sender":"@charlie:s%d.example","content":{}}`, i, i)))
				}
				_, err := p.e.ReceiveInvite(t.Context(), in)
				p.must(err)
				p.quiet(nil)
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				defer cancel()
				start := time.Now()
				if err := p.e.Leave(ctx, room.Change{Room: in.Room, Sender: alice}); err != nil && ctx.Err() == nil {
					t.Error(err)
				}
				time.Sleep(15*time.Second - time.Since(start))
				if m, _ := p.outside(in.Room); m != store.Leave {
					t.Errorf("after %v alice's membership is %v", time.Since(start), m)
				}
			})
		})
	}
}

// slow is the guest's network, of which a test holds up requests.
type slow struct {
	*guest
	hold func(ctx context.Context, what string, server id.Server) error
	sent atomic.Int32 // joins
}

func (s *slow) MakeMembership(ctx context.Context, to id.Server, m store.Membership, r id.Room, u id.User, versions []string) (room.Template, error) {
	if err := s.hold(ctx, "make", to); err != nil {
		return room.Template{}, err
	}
	return s.guest.MakeMembership(ctx, to, m, r, u, versions)
}

func (s *slow) SendJoin(ctx context.Context, to id.Server, join *event.PDU, omit bool, each func(room.StatePart, jsontext.Value) error) (room.JoinAnswer, error) {
	s.sent.Add(1)
	a, err := s.guest.SendJoin(ctx, to, join, omit, each)
	if err == nil {
		err = s.hold(ctx, "send", to)
	}
	return a, err
}

func (s *slow) GetRoomStateIDs(ctx context.Context, from id.Server, r id.Room, at id.Event) (state, chain []id.Event, err error) {
	if err := s.hold(ctx, "state", from); err != nil {
		return nil, nil, err
	}
	return s.guest.GetRoomStateIDs(ctx, from, r, at)
}

// slowly has the guest's engine ask others that hold up its requests.
func (g *guest) slowly(hold func(ctx context.Context, what string, server id.Server) error) *slow {
	g.rests()
	s := &slow{guest: g, hold: hold}
	g.e = room.New(g.s, room.Options{
		Server: guestServer, KeyID: "ed25519:1", Key: g.key, Network: s, TempDir: g.t.TempDir(),
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
	return s
}

func takes(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Clients and proxies do not wait for as long as it takes to join a large room. They find it there
// when they ask again.
func TestAJoinGoesOnThoughItsClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPeer(t, storetest.Open(t, nil), "11").guest()
		s := g.slowly(func(ctx context.Context, what string, _ id.Server) error {
			if what == "send" {
				return takes(ctx, 100*time.Second)
			}
			return nil
		})
		start := time.Now()
		join := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			return g.e.Join(ctx, room.Change{Room: g.room, Sender: guestBob, Via: []id.Server{storetest.Server}})
		}
		for range 3 {
			if err := join(); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		}
		if err := join(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 100*time.Second || s.sent.Load() != 1 {
			t.Errorf("joined after %v, by %d joins", took, s.sent.Load())
		}
		if rooms, err := g.e.Joined(t.Context(), guestBob); err != nil || !slices.Equal(rooms, []id.Room{g.room}) {
			t.Errorf("bob is in %v, %v", rooms, err)
		}
	})
}

// Servers that seem down are asked, since they may be back, but not while others can help.
func TestAJoinAsksServersThatSeemDownLast(t *testing.T) {
	for what, servers := range map[string]struct {
		silent, down []id.Server
		refusal      error
		took         time.Duration
	}{
		"others help":             {[]id.Server{"a.example", "b.example"}, []id.Server{"a.example", "b.example"}, nil, 0},
		"others refuse":           {[]id.Server{"a.example", "b.example"}, []id.Server{"a.example", "b.example"}, errcode.Forbidden("no"), 0},
		"it is back":              {nil, []id.Server{storetest.Server}, nil, 0},
		"it is back, others not":  {[]id.Server{"a.example", "b.example"}, []id.Server{"a.example", "b.example", storetest.Server}, nil, 20 * time.Second},
		"others were not seen so": {[]id.Server{"a.example"}, []id.Server{storetest.Server}, nil, 10 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newPeer(t, storetest.Open(t, nil), "11").guest()
				g.slowly(func(ctx context.Context, _ string, to id.Server) error {
					if slices.Contains(servers.silent, to) {
						return takes(ctx, time.Hour)
					}
					if to != storetest.Server {
						return errors.New("no route to host")
					}
					return servers.refusal
				})
				g.seemDown = map[id.Server]bool{}
				for _, s := range servers.down {
					g.seemDown[s] = true
				}
				start := time.Now()
				err := g.e.Join(t.Context(), room.Change{Room: g.room, Sender: guestBob, Via: []id.Server{"a.example", "b.example", storetest.Server}})
				if took := time.Since(start); !errors.Is(err, servers.refusal) || took != servers.took {
					t.Errorf("it took %v: %v", took, err)
				}
			})
		})
	}
}

// Who joins by way of another server a room that others here are in is a member there as soon as
// that takes the join.
func TestAJoinThroughAnotherServerGoesOnThoughItsClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, storetest.Open(t, nil), "11")
		p.local("m.room.name", `{"name":"n"}`)
		p.learn()
		p.deliver(p.member("@bob:elsewhere.example", "join", p.newest()))
		g := p.guest()
		s := g.slowly(func(ctx context.Context, what string, _ id.Server) error { return takes(ctx, 20*time.Second) })
		g.join(guestBob)
		s.sent.Store(0)
		join := func(patience time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			return g.e.Join(ctx, room.Change{Room: g.room, Sender: guestAlice})
		}
		if err := join(30 * time.Second); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if err := join(30 * time.Second); err != nil || s.sent.Load() != 1 {
			t.Errorf("%d joins, %v", s.sent.Load(), err)
		}
		if !g.shows(g.newest()) {
			t.Error("the join is not here")
		}
	})
}

// What nobody waits for does not outlive the server.
func TestAJoinThatGoesOnAloneEndsWithTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPeer(t, storetest.Open(t, nil), "11").guest()
		asked := 0
		g.slowly(func(ctx context.Context, _ string, _ id.Server) error { asked++; return takes(ctx, time.Hour) })
		serving, stop := context.WithCancel(t.Context())
		go func() {
			defer stop()
			takes(t.Context(), time.Minute)
		}()
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		join := func(ctx context.Context) error {
			return g.e.Join(ctx, room.Change{Room: g.room, Sender: guestBob, Via: []id.Server{storetest.Server}})
		}
		if err := join(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		g.must(g.e.Attend(serving))
		if took := time.Since(start); took != time.Minute || asked != 1 {
			t.Errorf("stopped after %v, with %d requests", took, asked)
		}
		if err := join(t.Context()); err == nil || time.Since(start) != time.Minute {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// Servers that do not answer do not keep anybody waiting for long where another lets them in.
func TestAJoinIsNotHeldUpBySilentServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPeer(t, storetest.Open(t, nil), "11").guest()
		silent := []id.Server{"a.example", "b.example", "c.example"}
		g.slowly(func(ctx context.Context, what string, server id.Server) error {
			switch {
			case slices.Contains(silent, server):
				return errors.Join(takes(ctx, 30*time.Second), errors.New("there was no answer in time"))
			case what == "make":
				return takes(ctx, 20*time.Second) // nobody else is left
			}
			return nil
		})
		start := time.Now()
		g.must(g.e.Join(t.Context(), room.Change{Room: g.room, Sender: guestBob, Via: append(silent, storetest.Server)}))
		if took := time.Since(start); took > 50*time.Second {
			t.Errorf("joined after %v", took)
		}
	})
}

// A server that is asked whether it tells the same of a room as another, and does not say, does not
// keep the room's state incomplete for as long as it likes.
func TestAServerThatDoesNotConfirmAStateIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, storetest.Open(t, nil), "11")
		p.local("m.room.name", `{"name":"n"}`)
		p.learn()
		for _, server := range []string{"elsewhere.example", "third.example", "fourth.example"} {
			p.deliver(p.member(id.User("@alice:"+server), "join", p.newest()))
		}
		g := p.guest()
		g.refuse[storetest.Server] = true // which let us in
		var asked []id.Server
		g.slowly(func(ctx context.Context, what string, server id.Server) error {
			if what != "state" || server == storetest.Server {
				return nil
			}
			if !slices.Contains(asked, server) {
				asked = append(asked, server)
			}
			if len(asked) > 1 && asked[1] == server { // the first has told the state
				return takes(ctx, 24*time.Hour)
			}
			return nil
		})
		joined := g.join(guestBob)
		close(g.told)
		start := time.Now()
		whole, err := g.e.CompleteState(t.Context(), g.room)
		if took := time.Since(start); err != nil || !whole || took > 20*time.Minute {
			t.Errorf("after %v the state is whole: %t, %v", took, whole, err)
		}
		g.wantState(joined)
	})
}

// leaveGaps has the server miss events, and be with three others in the room.
func (p *peer) leaveGaps(n int) {
	p.t.Helper()
	for _, server := range []string{"third.example", "fourth.example"} {
		p.deliver(p.member(id.User("@charlie:"+server), "join", p.newest()))
	}
	last := p.newest()
	for i := range n {
		hidden := p.say(fmt.Sprintf("hidden %d", i), last)
		p.hides[hidden.ID] = true
		said := p.say(fmt.Sprint(i), p.say("-", hidden.ID).ID)
		p.deliver(said)
		last = said.ID
	}
}

// Whoever scrolls back waits for other servers once for a page, and not for one that does not answer
// while there are others.
func TestHistoryIsNotHeldUpBySilentServers(t *testing.T) {
	const older = "hidden 0, hidden 1, hidden 2, hidden 3, hidden 4, hidden 5, "
	for what, test := range map[string]struct {
		limit  int
		silent map[id.Server]bool
		within time.Duration
		shown  string
	}{
		"all are silent": {100, nil, 15 * time.Second, ""},
		"one is silent":  {3, map[id.Server]bool{elsewhere: true}, 5 * time.Second, older},
		"none is silent": {3, map[id.Server]bool{}, 0, older},
		"two are silent": {3, map[id.Server]bool{elsewhere: true, "third.example": true}, 10 * time.Second, older},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, storetest.Open(t, nil), "11")
				p.leaveGaps(6)
				const before = "-, 0, -, 1, -, 2, -, 3, -, 4, "
				if got := strings.Join(p.shown(), ", "); got != before+"-, 5" {
					t.Fatal(got)
				}
				p.quiet(test.silent)
				start := time.Now()
				_, err := p.e.ReadMessages(t.Context(), room.Reader{User: alice}, p.room, room.Page{Back: true, Limit: test.limit})
				p.must(err)
				if took := time.Since(start); took > test.within {
					t.Errorf("took %v", took)
				}
				if got := strings.Join(p.shown(), ", "); got != before+test.shown+"-, 5" {
					t.Error(got)
				}
			})
		})
	}
}

// Nor does whoever looks for a time.
func TestATimeIsNotHeldUpBySilentServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, storetest.Open(t, nil), "11")
		p.leaveGaps(1)
		p.quiet(map[id.Server]bool{elsewhere: true})
		start := time.Now()
		_, err := p.e.EventAt(t.Context(), room.Reader{User: alice}, p.room, p.events[p.newest()].OriginServerTS-2, true)
		p.must(err)
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// refusing is the guest's network, in which other servers answer with errors.
type refusing struct {
	*guest
	answers map[id.Server]*errcode.Error
}

func (r refusing) MakeMembership(_ context.Context, to id.Server, _ store.Membership, _ id.Room, _ id.User, _ []string) (room.Template, error) {
	return room.Template{}, &remote.Error{Server: to, Status: r.answers[to].Status, Err: r.answers[to]}
}

// That another server does not have an endpoint must not look as if this one had none. And what such
// a server says of a room is worth less than what others do.
func TestAServerWithoutTheEndpointIsNotThisOne(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	unknown := errcode.Unrecognized("what?")
	for what, test := range map[string]struct {
		answers map[id.Server]*errcode.Error
		code    string
	}{
		"nobody has it":        {map[id.Server]*errcode.Error{"a.example": unknown, storetest.Server: unknown}, "M_NOT_FOUND"},
		"somebody refuses":     {map[id.Server]*errcode.Error{"a.example": unknown, storetest.Server: errcode.Forbidden("you are banned")}, "M_FORBIDDEN"},
		"somebody has trouble": {map[id.Server]*errcode.Error{"a.example": unknown, storetest.Server: errcode.New(500, "M_UNKNOWN", "oh")}, "M_UNKNOWN"},
		"the other way round":  {map[id.Server]*errcode.Error{"a.example": errcode.New(500, "M_UNKNOWN", "oh"), storetest.Server: unknown}, "M_UNKNOWN"},
	} {
		t.Run(what, func(t *testing.T) {
			e := room.New(p.s, room.Options{Server: guestServer, KeyID: "ed25519:1", Key: p.key, Network: refusing{&guest{peer: p}, test.answers}})
			for _, enter := range []func(context.Context, room.Change) error{e.Join, e.Knock} {
				err := enter(t.Context(), room.Change{Room: "!unknown:localhost", Sender: guestBob, Via: []id.Server{"a.example"}})
				wantCode(t, remote.ForClient(err), test.code)
			}
		})
	}
}

// A server in the room sends what is said as soon as it has let somebody in, and only once.
func TestWhatIsSaidDuringAJoinIsThereAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPeer(t, storetest.Open(t, nil), "11").guest()
		var welcome *event.PDU
		g.slowly(func(ctx context.Context, what string, _ id.Server) error {
			if what != "send" {
				return nil
			}
			welcome = g.say("welcome", g.newest())
			go g.receive(welcome)
			return takes(ctx, 20*time.Second)
		})
		g.join(guestBob)
		synctest.Wait()
		if !g.shows(welcome.ID) {
			t.Error("the welcome is lost")
		}
	})
}

// Whoever lets somebody in slowly does not hold up for long what others send.
func TestASlowJoinHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newPeer(t, storetest.Open(t, nil), "11").guest()
		g.slowly(func(ctx context.Context, what string, _ id.Server) error {
			if what != "send" {
				return nil
			}
			start := time.Now()
			g.receive(g.say("welcome", g.newest()))
			if took := time.Since(start); took != time.Minute {
				t.Errorf("the transaction took %v", took)
			}
			return nil
		})
		g.join(guestBob)
	})
}

// In an old room most servers are gone, and those that came first first.
func TestHistoryIsHadWhereMostServersAreGone(t *testing.T) {
	for what, spoke := range map[string]bool{"of whoever spoke lately": true, "of any": false} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPeer(t, storetest.Open(t, nil), "11")
				gone := map[id.Server]bool{elsewhere: true, "third.example": true}
				for i := range 8 {
					server := id.Server(fmt.Sprintf("s%d.example", i))
					gone[server] = true
					p.deliver(p.member(id.User("@bob:"+server), "join", p.newest()))
				}
				p.leaveGaps(1)
				q := quiet{peer: p, gone: gone, silent: map[id.Server]bool{}}
				if spoke {
					p.deliver(p.build("@charlie:fourth.example", "m.room.message", nil, `{"msgtype":"m.text","body":"lately"}`, p.newest()))
					q.gone, q.silent = nil, gone
				}
				p.asks(q)
				_, err := p.e.ReadMessages(t.Context(), room.Reader{User: alice}, p.room, room.Page{Back: true, Limit: 100})
				p.must(err)
				if got := strings.Join(p.shown(), ", "); !strings.Contains(got, "hidden 0") {
					t.Error(got)
				}
			})
		})
	}
}

// A server that made an event and then says nothing does not hold up what others say after it, who
// know the state there as well.
func TestAStateIsNotHeldUpBySilentServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPeer(t, storetest.Open(t, nil), "11")
		p.deliver(p.member("@mallory:third.example", "join", p.newest()))
		last := p.newest()
		p.quiet(map[id.Server]bool{"third.example": true})
		for i := range 3 {
			hidden := p.say("hidden", last)
			p.hides[hidden.ID] = true
			trap := p.build("@mallory:third.example", "m.room.message", nil, `{"msgtype":"m.text","body":"trap"}`, hidden.ID)
			said := p.say("honest", trap.ID)
			start := time.Now()
			p.deliver(said)
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("took %v", took)
			}
			if got := p.shown(); len(got) != 2*(i+1) || got[len(got)-1] != "honest" {
				t.Errorf("shown is %v", got)
			}
			last = said.ID
		}
	})
}

// What a server refers to that is in no room here is not kept for it.
func TestNothingIsKeptThatAStrangerMakesUp(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		p.local("m.room.join_rules", `{"join_rule":"invite"}`)
		p.learn()
		at := p.newest()
		const mallory = id.User("@mallory:evil.example")
		join := p.member(mallory, "join", at)
		said := p.citing(join, p.proto(mallory, "m.room.message", nil, `{"body":"let me in"}`, at))
		p.e.Receive(t.Context(), mallory.Server(), p.room, []jsontext.Value{p.raw(said.ID)})
		p.must(p.s.View(t.Context(), func(tx *store.Tx) error {
			for _, made := range []*event.PDU{join, said} {
				if _, known, err := tx.Events.Know(made.ID); err != nil || known {
					t.Errorf("%s is kept, %v", made.Type, err)
				}
			}
			return nil
		}))
	})
}
