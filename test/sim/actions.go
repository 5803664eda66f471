package sim

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

type pub = ed25519.PublicKey

func denied(err error) bool {
	d := (*authrules.Denied)(nil)
	return errors.As(err, &d)
}

// act has a user of a server do something.
func (w *World) act(s *Server) {
	user := s.user(pick(w, "alice", "alice", "bob"))
	about := pick(w, w.servers...).user(pick(w, "alice", "bob"))
	c := room.Change{Room: w.room, Sender: user, Target: about, Via: []id.Server{pick(w, others(w.servers, s)...).Name, w.servers[0].Name}}
	if about == user { // who leaves, leaves
		return
	}
	what, err := "", error(nil)
	switch n := w.rand.IntN(100); {
	case n < 38:
		w.say(s, user)
		return
	case n < 40:
		if in := s.joined(); len(in) > 0 {
			w.note("%s reads what was said", in[0])
			s.scrollBack(in[0], 1+w.rand.IntN(5))
		}
		return
	case n < 58:
		what = "joins"
		err = s.engine.Join(w.ctx, c)
	case n < 60:
		if user == w.servers[0].user("alice") {
			return // somebody must be there at the end
		}
		what = "leaves"
		err = s.engine.Leave(w.ctx, c)
	case n < 66:
		what = "invites"
		err = s.engine.Invite(w.ctx, c)
	case n < 68:
		what = "kicks"
		err = s.engine.Kick(w.ctx, c)
	case n < 69:
		what = "bans"
		err = s.engine.Ban(w.ctx, c)
	case n < 74:
		what = "unbans"
		err = s.engine.Unban(w.ctx, c)
	case n < 80:
		w.grant(s, user, about, pick(w, 0, 0, 25, 50, 60))
		return
	case n < 84:
		w.set(s, user, event.TypeJoinRules, fmt.Sprintf(`{"join_rule":%q}`, pick(w, "public", "public", "invite")))
		return
	case n < 92:
		w.set(s, user, pick(w, "m.room.topic", "m.room.name"), fmt.Sprintf(`{"topic":"%d","name":"x"}`, w.rand.IntN(1e6)))
		return
	case n < 94:
		w.set(s, user, event.TypeHistoryVisibility, fmt.Sprintf(`{"history_visibility":%q}`, pick(w, "shared", "joined", "invited")))
		return
	default:
		if len(w.acked) == 0 {
			return
		}
		_, err = s.engine.Redact(w.ctx, w.room, room.Proposal{Sender: user, Content: jsontext.Value(`{}`), Redacts: pick(w, w.acked...).event})
		what = "redacts"
	}
	w.note("%s %s (%s): %v", user, what, about, err)
	w.wantTold(err, fmt.Sprintf("%s %s %s", user, what, about))
	w.watchResidence()
}

// propose sends an event, and remembers it if that was acknowledged.
func (w *World) propose(s *Server, p room.Proposal) error {
	sent, err := s.engine.Send(w.ctx, w.room, p)
	w.note("%s sends %s %s: %s %v", p.Sender, p.Type, p.Content, sent, err)
	w.wantTold(err, fmt.Sprintf("%s sends %s", p.Sender, p.Type))
	if err == nil {
		w.acked = append(w.acked, ack{sent, s, s.madeAt(sent), s.isPartial()})
	}
	w.watchResidence()
	return err
}

// isPartial says whether the server lacks members of the room.
func (s *Server) isPartial() bool {
	h, ok, err := s.engine.Head(s.w.ctx, s.w.room)
	s.w.must(err)
	return ok && h.Partial.Version != 0
}

// madeAt is when an event of the server was made: state that is set again as it is makes
// no new one.
func (s *Server) madeAt(name id.Event) (at time.Time) {
	s.w.must(s.store.View(s.w.ctx, func(tx *store.Tx) error {
		row, _, err := tx.Events.Know(name)
		if err != nil {
			return err
		}
		events, err := s.engine.Events(tx, []store.EventNID{row.NID})
		if err == nil {
			at = time.UnixMilli(events[0].PDU.OriginServerTS)
		}
		return err
	}))
	return at
}

func (w *World) say(s *Server, user id.User) error {
	return w.propose(s, room.Proposal{Sender: user, Type: "m.room.message", Content: jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, w.rand.IntN(1e6)))})
}

func (w *World) set(s *Server, user id.User, typ, content string) {
	key := ""
	_ = w.propose(s, room.Proposal{Sender: user, Type: typ, StateKey: &key, Content: jsontext.Value(content)})
}

// grant gives a user power, as far as the one who does it may.
func (w *World) grant(s *Server, by, to id.User, level int) {
	h, ok, err := s.engine.Head(w.ctx, w.room)
	w.must(err)
	if !ok || h.PowerLevels == nil || to == w.servers[0].user("alice") {
		return
	}
	var content map[string]jsontext.Value
	w.must(json.Unmarshal(h.PowerLevels.Content, &content))
	var users map[id.User]int64
	if content["users"] != nil {
		w.must(json.Unmarshal(content["users"], &users))
	}
	if users == nil {
		users = map[id.User]int64{}
	}
	users[to] = int64(level)
	if content["users"], err = json.Marshal(users, json.Deterministic(true)); err == nil {
		var raw []byte
		raw, err = json.Marshal(content, json.Deterministic(true))
		w.set(s, by, event.TypePowerLevels, string(raw))
	}
	w.must(err)
}

// joined are the users of a server who are in the room, as it sees it.
func (s *Server) joined() (users []id.User) {
	h, ok, err := s.engine.Head(s.w.ctx, s.w.room)
	s.w.must(err)
	if !ok {
		return nil
	}
	s.w.must(s.store.View(s.w.ctx, func(tx *store.Tx) error {
		for _, nid := range h.Locals {
			name, err := tx.IDs.UserID(nid)
			if err != nil {
				return err
			}
			users = append(users, name)
		}
		return nil
	}))
	return users
}
