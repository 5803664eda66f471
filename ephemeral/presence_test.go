package ephemeral_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/google/go-cmp/cmp"

	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// status is a user's presence as caller sees it.
func (w *world) status(p *ephemeral.Presence, caller, user id.User) string {
	w.t.Helper()
	synctest.Wait()
	s, err := p.Get(w.t.Context(), caller, user)
	w.must(err)
	b, err := json.Marshal(s)
	w.must(err)
	return string(b)
}

// syncs is one sync of a device that lasts some time.
func (w *world) syncs(p *ephemeral.Presence, u id.User, d id.Device, state ephemeral.State, lasting time.Duration) {
	w.t.Helper()
	ctx, end := context.WithCancel(w.t.Context())
	w.must(p.Syncing(ctx, u, d, state))
	time.Sleep(lasting)
	end()
	synctest.Wait()
}

func TestPresenceFollowsSyncsAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.share(alice, bob)
		p := ephemeral.NewPresence(w.store, w.hub, true)
		expect := func(what, want string) {
			t.Helper()
			if got := w.status(p, bob, alice); got != want {
				t.Errorf("%s: %s, want %s", what, got, want)
			}
		}
		expect("never seen", `{"presence":"offline"}`)
		w.syncs(p, alice, "A", ephemeral.Offline, 0)
		expect("syncing without being seen", `{"presence":"offline"}`)

		w.syncs(p, alice, "A", ephemeral.Online, 20*time.Second)
		expect("syncing", `{"presence":"online","last_active_ago":20000,"currently_active":true}`)
		time.Sleep(29 * time.Second)
		expect("between two syncs", `{"presence":"online","last_active_ago":49000,"currently_active":true}`)
		time.Sleep(time.Second)
		expect("gone", `{"presence":"offline","last_active_ago":50000}`)

		w.must(p.Set(t.Context(), alice, "A", ephemeral.Unavailable, "at lunch"))
		expect("at lunch", `{"presence":"unavailable","last_active_ago":50000,"status_msg":"at lunch"}`)
		w.syncs(p, alice, "B", ephemeral.Online, 0)
		expect("the other device is used", `{"presence":"online","last_active_ago":0,"currently_active":true,"status_msg":"at lunch"}`)
		w.must(p.Set(t.Context(), alice, "B", ephemeral.Offline, ""))
		expect("that one says good-bye", `{"presence":"unavailable","last_active_ago":0}`)
		w.must(p.Active(t.Context(), alice, "A"))
		expect("a message is sent", `{"presence":"online","last_active_ago":0,"currently_active":true}`)
	})
}

func TestPresenceBecomesIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.share(alice, bob)
		p := ephemeral.NewPresence(w.store, w.hub, true)
		w.must(p.Syncing(t.Context(), alice, "A", ephemeral.Online))
		for _, c := range []struct {
			after time.Duration
			want  string
		}{
			{59 * time.Second, `{"presence":"online","last_active_ago":59000,"currently_active":true}`},
			{time.Minute, `{"presence":"online","last_active_ago":60000,"currently_active":false}`},
			{299 * time.Second, `{"presence":"online","last_active_ago":299000,"currently_active":false}`},
			{300 * time.Second, `{"presence":"unavailable","last_active_ago":300000}`},
		} {
			start := time.Now()
			before := w.hub.Now()
			time.Sleep(c.after)
			if got := w.status(p, bob, alice); got != c.want {
				t.Errorf("after %s: %s, want %s", c.after, got, c.want)
			}
			if c.after > 299*time.Second && w.hub.Now().Volatile-before.Volatile != 2 {
				t.Errorf("others were told %d times, not when the activity and the idle time ended", w.hub.Now().Volatile-before.Volatile)
			}
			w.must(p.Active(t.Context(), alice, "A"))
			if time.Since(start) != c.after {
				t.Error("time went on")
			}
		}
	})
}

func TestPresenceIsSeenByThoseWhoShareARoom(t *testing.T) {
	w := newWorld(t)
	w.share(alice, bob)
	w.share(charlie)
	p := ephemeral.NewPresence(w.store, w.hub, true)
	start := w.hub.Now()
	for _, u := range []id.User{alice, bob, charlie} {
		w.hub.Since(w.nid(u), start)
	}
	senders := func(viewer id.User, after int64) (got []string) {
		w.view(func(tx *store.Tx) error {
			events, err := p.Events(tx, w.nid(viewer), after)
			for _, e := range events {
				var s ephemeral.Status
				w.must(json.Unmarshal(e.Content, &s))
				got = append(got, string(e.Sender)+" "+string(s.Presence))
			}
			return err
		})
		return got
	}
	w.must(p.Set(t.Context(), alice, "A", ephemeral.Online, ""))
	for viewer, want := range map[id.User][]string{alice: {"@alice:localhost online"}, bob: {"@alice:localhost online"}, charlie: nil} {
		if diff := cmp.Diff(want, senders(viewer, start.Volatile)); diff != "" {
			t.Errorf("%s: %s", viewer, diff)
		}
		if diff := cmp.Diff(want, senders(viewer, 0)); diff != "" {
			t.Errorf("%s at first: %s", viewer, diff)
		}
		c, _ := w.hub.Since(w.nid(viewer), start)
		if c.Kinds[stream.Presence] != (want != nil) {
			t.Errorf("%s is told: %v", viewer, c.Kinds[stream.Presence])
		}
	}
	if got := senders(bob, w.hub.Now().Volatile); got != nil {
		t.Errorf("told again: %v", got)
	}
	now := w.hub.Now().Volatile
	w.must(p.Set(t.Context(), alice, "A", ephemeral.Offline, ""))
	if diff := cmp.Diff([]string{"@alice:localhost offline"}, senders(bob, now)); diff != "" {
		t.Error(diff)
	}
	if got := senders(bob, 0); got != nil {
		t.Errorf("a first sync shows who is offline: %v", got)
	}
	for _, user := range []id.User{alice, "@nobody:localhost"} {
		_, err := p.Get(t.Context(), charlie, user)
		w.refused(err, 403, "M_FORBIDDEN")
	}
}

func TestPresenceIsKeptOverRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.share(alice, bob)
		p := ephemeral.NewPresence(w.store, w.hub, true)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		w.must(p.Set(t.Context(), alice, "A", ephemeral.Online, "hello"))
		stop()
		w.must(<-ended)
		time.Sleep(time.Hour)
		again := ephemeral.NewPresence(w.store, w.hub, true)
		if got, want := w.status(again, bob, alice), `{"presence":"offline","last_active_ago":3600000,"status_msg":"hello"}`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
		w.syncs(again, alice, "A", ephemeral.Online, 0)
		if got, want := w.status(again, bob, alice), `{"presence":"online","last_active_ago":0,"currently_active":true,"status_msg":"hello"}`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func TestPresenceCanBeSwitchedOff(t *testing.T) {
	w := newWorld(t)
	w.share(alice, bob)
	p := ephemeral.NewPresence(w.store, w.hub, false)
	before := w.hub.Now()
	w.must(p.Set(t.Context(), alice, "A", ephemeral.Online, "hello"))
	s, err := p.Get(t.Context(), bob, alice)
	w.must(err)
	if s != (ephemeral.Status{Presence: ephemeral.Offline}) || w.hub.Now() != before {
		t.Errorf("%+v", s)
	}
}
