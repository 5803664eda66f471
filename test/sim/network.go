package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// link is what a server reaches others by.
type link struct {
	w    *World
	from *Server
}

var _ room.Network = link{}

func (w *World) parted(a, b *Server) bool { return w.side[a.Name] != w.side[b.Name] }

// ask reaches a server, after some time or not at all.
func (l link) ask(to id.Server) (*Server, error) {
	w, s := l.w, l.w.server(to)
	if s == nil || s == l.from || w.parted(l.from, s) || w.gone && s.hostile {
		return nil, errcode.New(502, "M_UNKNOWN", "%s cannot be reached", to)
	}
	if !w.calm && w.chance(20) {
		return nil, errcode.New(504, "M_UNKNOWN", "%s does not answer", to)
	}
	time.Sleep(time.Duration(w.rand.IntN(50)) * time.Millisecond)
	return s, nil
}

// lies says whether a server answers this time what it should not.
func (l link) lies(s *Server) bool { return s.hostile && !l.w.calm && l.w.chance(2) }

func (l link) VerifyEvents(_ context.Context, _ id.Server, events []*event.PDU) []error {
	errs := make([]error, len(events))
	for i, p := range events {
		for _, name := range p.SigningServers() {
			s := l.w.server(name)
			if s == nil {
				errs[i] = fmt.Errorf("no such server: %s", name)
				continue
			}
			errs[i] = errors.Join(errs[i], p.VerifySignature(name, "ed25519:1", s.key.Public().(pub)))
		}
	}
	return errs
}

func (l link) GetMissingEvents(ctx context.Context, from id.Server, name id.Room, q room.MissingEvents) ([]jsontext.Value, error) {
	s, err := l.ask(from)
	if err != nil {
		return nil, err
	}
	if l.lies(s) {
		return s.nonsense(), nil
	}
	return s.engine.ServeMissingEvents(ctx, l.from.Name, name, q)
}

func (l link) Backfill(ctx context.Context, from id.Server, name id.Room, before []id.Event, limit int) ([]jsontext.Value, error) {
	s, err := l.ask(from)
	if err != nil {
		return nil, err
	}
	if l.lies(s) {
		return s.nonsense(), nil
	}
	return s.engine.ServeBackfill(ctx, l.from.Name, name, before, limit)
}

func (l link) GetEvent(ctx context.Context, from id.Server, e id.Event) (jsontext.Value, error) {
	s, err := l.ask(from)
	if err != nil {
		return nil, err
	}
	if l.lies(s) {
		return raw(pick(l.w, s.scene(l.w.room).timeline...)), nil
	}
	return s.engine.ServeEvent(ctx, l.from.Name, e)
}

func (l link) GetEventAuth(ctx context.Context, from id.Server, name id.Room, e id.Event) (list []jsontext.Value, err error) {
	s, err := l.ask(from)
	if err != nil {
		return nil, err
	}
	if l.lies(s) {
		return s.nonsense(), nil
	}
	chain, err := s.engine.ServeAuthChain(ctx, l.from.Name, name, e)
	if err != nil {
		return nil, err
	}
	err = chain.Each(ctx, func(raw jsontext.Value) error { list = append(list, slices.Clone(raw)); return nil })
	return list, err
}

func (l link) GetRoomStateIDs(ctx context.Context, from id.Server, name id.Room, at id.Event) (state, chain []id.Event, err error) {
	s, err := l.ask(from)
	if err != nil {
		return nil, nil, err
	}
	a, err := s.engine.ServeState(ctx, l.from.Name, name, at)
	if err != nil {
		return nil, nil, err
	}
	if state, err = a.State.IDs(ctx); err == nil {
		chain, err = a.AuthChain.IDs(ctx)
	}
	return state, chain, err
}

func (l link) GetRoomState(ctx context.Context, from id.Server, name id.Room, at id.Event, each func(room.StatePart, jsontext.Value) error) error {
	s, err := l.ask(from)
	if err != nil {
		return err
	}
	a, err := s.engine.ServeState(ctx, l.from.Name, name, at)
	if err != nil {
		return err
	}
	return tell(ctx, a, each)
}

func tell(ctx context.Context, a room.StateAnswer, each func(room.StatePart, jsontext.Value) error) error {
	if err := a.State.Each(ctx, func(raw jsontext.Value) error { return each(room.InState, raw) }); err != nil {
		return err
	}
	return a.AuthChain.Each(ctx, func(raw jsontext.Value) error { return each(room.InAuthChain, raw) })
}

func (l link) TimestampToEvent(context.Context, id.Server, id.Room, int64, bool) (id.Event, int64, error) {
	return "", 0, errcode.NotFound("nobody asks this here")
}

func (l link) Down(id.Server) (until time.Time, down bool) { return until, false }

func (l link) MakeMembership(ctx context.Context, to id.Server, m store.Membership, name id.Room, user id.User, versions []string) (room.Template, error) {
	s, err := l.ask(to)
	if err != nil {
		return room.Template{}, err
	}
	a := room.Approach{Origin: l.from.Name, Room: name, User: user, Versions: versions}
	switch m {
	case store.Join:
		return s.engine.MakeJoin(ctx, a)
	case store.Knock:
		return s.engine.MakeKnock(ctx, a)
	}
	return s.engine.MakeLeave(ctx, a)
}

func (l link) handIn(p *event.PDU) room.HandIn {
	return room.HandIn{Origin: l.from.Name, Room: p.Room, Event: p.ID, Raw: event.AppendFederation(nil, p, nil)}
}

func (l link) SendJoin(ctx context.Context, to id.Server, join *event.PDU, omit bool, each func(room.StatePart, jsontext.Value) error) (a room.JoinAnswer, err error) {
	s, err := l.ask(to)
	if err != nil {
		return a, err
	}
	welcome, err := s.engine.SendJoin(ctx, l.handIn(join), omit)
	if err != nil {
		return a, err
	}
	if !l.w.calm && l.w.chance(15) {
		return a, errcode.New(504, "M_UNKNOWN", "the answer of %s is lost", to)
	}
	return room.JoinAnswer{Event: welcome.Event, Origin: to, MembersOmitted: welcome.MembersOmitted, ServersInRoom: welcome.Servers}, tell(ctx, welcome.StateAnswer, each)
}

func (l link) SendKnock(ctx context.Context, to id.Server, knock *event.PDU) (jsontext.Value, error) {
	return nil, errcode.NotFound("nobody knocks here")
}

func (l link) SendLeave(ctx context.Context, to id.Server, leave *event.PDU) error {
	s, err := l.ask(to)
	if err != nil {
		return err
	}
	return s.engine.SendLeave(ctx, l.handIn(leave))
}

func (l link) SendInvite(ctx context.Context, to id.Server, invite *event.PDU, _ jsontext.Value) (jsontext.Value, error) {
	s, err := l.ask(to)
	if err != nil {
		return nil, err
	}
	in := room.Invitation{HandIn: l.handIn(invite), Version: invite.Version.ID}
	in.State, err = l.createEvent(ctx, invite.Room)
	if err != nil {
		return nil, err
	}
	return s.engine.ReceiveInvite(ctx, in)
}

// createEvent is what goes with an invite.
func (l link) createEvent(ctx context.Context, name id.Room) (list []jsontext.Value, err error) {
	h, ok, err := l.from.engine.Head(ctx, name)
	if err == nil && ok && h.Create != nil {
		list = []jsontext.Value{event.AppendFederation(nil, h.Create, nil)}
	}
	return list, err
}

func (l link) SignByPolicyServer(context.Context, id.Server, *event.PDU) (map[id.Server]map[id.Key]string, error) {
	return nil, errcode.NotFound("there is no policy server here")
}

func (l link) ExchangeThirdPartyInvite(context.Context, id.Server, id.Room, jsontext.Value) error {
	return errcode.NotFound("nobody invites third parties here")
}
