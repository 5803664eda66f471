package server

import (
	"context"

	"hearth/clientsync"
	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/store"
)

// syncOptions brings together what /sync tells of what other services know.
func (s *Server) syncOptions() clientsync.Options {
	return clientsync.Options{
		Typing: s.Typing.In,
		Presence: func(tx *store.Tx, user store.UserNID, after int64) ([]clientsync.Presence, error) {
			events, err := s.Presence.Events(tx, user, after)
			all := make([]clientsync.Presence, len(events))
			for i, e := range events {
				all[i] = clientsync.Presence(e)
			}
			return all, err
		},
		SetPresence: func(ctx context.Context, user id.User, device id.Device, presence string) error {
			return s.Presence.Syncing(ctx, user, device, ephemeral.State(presence))
		},
		PushRules: s.Push.AccountData,
		Unread: func(ctx context.Context, tx *store.Tx, user store.UserNID, room store.RoomNID, upTo int64) (clientsync.Unread, error) {
			counts, err := s.Push.Unread(ctx, tx, user, room, upTo)
			u := clientsync.Unread{Main: clientsync.Count(counts.Main), Threads: make(map[id.Event]clientsync.Count, len(counts.Threads))}
			for root, c := range counts.Threads {
				u.Threads[root] = clientsync.Count(c)
			}
			return u, err
		},
		DeviceLists: func(tx *store.Tx, user store.UserNID, after int64, rooms []store.RoomNID) (changed, left []id.User, err error) {
			lists, err := e2ee.GetDeviceLists(tx, user, after, rooms)
			return lists.Changed, lists.Left, err
		},
	}
}
