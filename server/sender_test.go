package server

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

// Who never did anything was not active just now.
func TestOtherServersAreNotToldOfActivityThatNeverWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub := stream.NewHub(0)
		s := &Server{Store: storetest.Open(t, hub.Publish), Log: slog.Default()}
		var sent []string
		s.Sender = remote.NewSender(s.Store, remote.SenderOptions{Server: storetest.Server, Send: func(_ context.Context, _ id.Server, _ string, body []byte) (map[id.Event]string, error) {
			sent = append(sent, string(body))
			return nil, nil
		}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Sender.Run(ctx, hub) }()
		synctest.Wait()
		const alice = id.User("@alice:localhost")
		var nid store.UserNID
		err := s.Store.Update(t.Context(), func(tx *store.Tx) error {
			if _, err := tx.Users.Insert(store.User{Name: alice, CreatedS: time.Now().Add(-time.Hour).Unix()}); err != nil {
				return err
			}
			room, err := tx.Rooms.Insert("!a:localhost", alice, "11")
			if err != nil {
				return err
			}
			if nid, err = tx.IDs.User(alice); err != nil {
				return err
			}
			for _, name := range []id.Server{storetest.Server, "hs1.example"} {
				server, err := tx.IDs.Server(name)
				if err != nil {
					return err
				}
				if err := tx.RoomServers.Add(room, server, 1); err != nil {
					return err
				}
			}
			return tx.Members.Set(store.Member{Room: room, User: nid, Membership: store.Join, Event: 1, Position: 1, Local: true})
		})
		if err != nil {
			t.Fatal(err)
		}
		ago := int64(5000)
		for _, test := range []struct {
			status ephemeral.Status
			want   string
		}{
			{ephemeral.Status{Presence: ephemeral.Unavailable}, `"last_active_ago":3600000`},
			{ephemeral.Status{Presence: ephemeral.Online, LastActiveAgo: &ago}, `"last_active_ago":5000`},
		} {
			sent = nil
			s.tellPresence(alice, nid, test.status)
			time.Sleep(10 * time.Second)
			synctest.Wait()
			if len(sent) != 1 || !strings.Contains(sent[0], test.want) {
				t.Errorf("of %+v another server is told %v", test.status, sent)
			}
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
