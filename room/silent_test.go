package room_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// quiet is a peer of which some servers take requests and do not answer.
type quiet struct {
	*peer
	silent map[id.Server]bool // nil: all are
}

// quiet has the peer's server ask others that are silent.
func (p *peer) quiet(silent map[id.Server]bool) {
	p.e = room.New(p.s, room.Options{
		Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: quiet{p, silent},
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil },
	})
}

func (q quiet) hush(ctx context.Context, server id.Server) error {
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
