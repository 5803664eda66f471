package server

import (
	"context"
	"log/slog"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/store"
)

// keysElsewhere is how keys of users of other servers are asked for.
func (s *Server) keysElsewhere() e2ee.Remote {
	return e2ee.Remote{
		QueryKeys: func(ctx context.Context, to id.Server, users map[id.User][]id.Device) (e2ee.ServerQuery, error) {
			answer, err := s.Remote.QueryKeys(ctx, to, users)
			return e2ee.ServerQuery(answer), err
		},
		ClaimKeys: func(ctx context.Context, to id.Server, claims map[id.User]map[id.Device]string) (map[id.User]map[id.Device]map[string]jsontext.Value, error) {
			answer, err := s.Remote.ClaimKeys(ctx, to, claims)
			if err != nil {
				return nil, err
			}
			keys := make(map[id.User]map[id.Device]map[string]jsontext.Value, len(answer))
			for user, devices := range answer {
				keys[user] = make(map[id.Device]map[string]jsontext.Value, len(devices))
				for device, raw := range devices {
					var named map[string]jsontext.Value
					if err := json.Unmarshal(raw, &named); err != nil {
						slog.DebugContext(ctx, "a claimed key is left out", "user", user, "device", device, "error", err)
						continue
					}
					keys[user][device] = named
				}
			}
			return keys, nil
		},
		GetDevices: func(ctx context.Context, to id.Server, user id.User) (e2ee.UserDevices, error) {
			d, err := s.Remote.GetUserDevices(ctx, to, user)
			all := e2ee.UserDevices{User: d.User, StreamID: d.StreamID, MasterKey: d.MasterKey, SelfSigningKey: d.SelfSigningKey}
			for _, one := range d.Devices {
				all.Devices = append(all.Devices, e2ee.UserDevice{ID: one.ID, Name: one.DisplayName, Keys: one.Keys})
			}
			return all, err
		},
	}
}

// tellOthers sets what other servers are told in passing.
func (s *Server) tellOthers() {
	s.Typing.Changed = s.tellTyping
	s.Receipts.Changed = s.tellReceipt
	s.Presence.Changed = s.tellPresence
}

// patience is how long news for some servers may wait for company: the more of
// them there are, the more it saves.
func patience(servers int, most time.Duration) time.Duration {
	return min(time.Duration(servers)*20*time.Millisecond, most)
}

// tell sends news to servers, which list finds with what to say.
func (s *Server) tell(most time.Duration, list func(tx *store.Tx, e *remote.EDU) ([]store.ServerNID, any, error)) {
	ctx := context.Background() // news goes on when the request is over
	var e remote.EDU
	var to []store.ServerNID
	var content any
	err := s.Store.View(ctx, func(tx *store.Tx) (err error) {
		to, content, err = list(tx, &e)
		return err
	})
	if err == nil && len(to) > 1 { // this server is one of them
		e.Patience = patience(len(to), most)
		if e.Content, err = json.Marshal(content, json.Deterministic(true)); err == nil {
			err = s.Sender.Queue(ctx, e, to)
		}
	}
	if err != nil {
		s.Log.Warn("other servers are not told", "type", e.Type, "error", err)
	}
}

// spec: server-server-api#typing-notifications
func (s *Server) tellTyping(room store.RoomNID, user id.User, typing bool) {
	s.tell(time.Second, func(tx *store.Tx, e *remote.EDU) ([]store.ServerNID, any, error) {
		name, err := tx.Rooms.ID(room)
		if err != nil {
			return nil, nil, err
		}
		e.Type, e.Key = "m.typing", string(name)+" "+string(user)
		to, err := tx.RoomServers.OfRoom(room)
		return to, map[string]any{"room_id": name, "user_id": user, "typing": typing}, err
	})
}

// spec: server-server-api#receipts
func (s *Server) tellReceipt(room store.RoomNID, user id.User, r ephemeral.Receipt, ts int64) {
	s.tell(5*time.Second, func(tx *store.Tx, e *remote.EDU) ([]store.ServerNID, any, error) {
		name, err := tx.Rooms.ID(room)
		if err != nil {
			return nil, nil, err
		}
		e.Type, e.Key = "m.receipt", string(name)+" "+string(user)+" "+r.Thread
		data := map[string]any{"ts": ts}
		if r.Thread != "" {
			data["thread_id"] = r.Thread
		}
		content := map[id.Room]any{name: map[string]any{r.Type: map[id.User]any{user: map[string]any{"event_ids": []id.Event{r.Event}, "data": data}}}}
		to, err := tx.RoomServers.OfRoom(room)
		return to, content, err
	})
}

type presencePush struct {
	User            id.User         `json:"user_id"`
	Presence        ephemeral.State `json:"presence"`
	StatusMsg       string          `json:"status_msg,omitempty"`
	LastActiveAgo   int64           `json:"last_active_ago"`
	CurrentlyActive bool            `json:"currently_active"`
}

// spec: server-server-api#presence
func (s *Server) tellPresence(user id.User, nid store.UserNID, status ephemeral.Status) {
	s.tell(5*time.Second, func(tx *store.Tx, e *remote.EDU) ([]store.ServerNID, any, error) {
		e.Type, e.Key = "m.presence", string(user)
		push := presencePush{User: user, Presence: status.Presence, StatusMsg: status.StatusMsg}
		if status.LastActiveAgo != nil {
			push.LastActiveAgo = *status.LastActiveAgo
		} else {
			// The field is required, and what is known is that the account was made.
			account, _, err := tx.Users.Get(user)
			if err != nil {
				return nil, nil, err
			}
			push.LastActiveAgo = max(0, time.Since(time.Unix(account.CreatedS, 0)).Milliseconds())
		}
		push.CurrentlyActive = status.CurrentlyActive != nil && *status.CurrentlyActive
		to, err := tx.RoomServers.Seeing(nid)
		return to, map[string]any{"push": []presencePush{push}}, err
	})
}
