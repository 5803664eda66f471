package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/room"
)

// joinWithinLimit joins a room unless it is one of other servers that costs more
// than limit_remote_rooms allows. Where none of them says what it costs, that is seen
// after the join.
func (s *Server) joinWithinLimit(ctx context.Context, c httpx.Caller, change room.Change) error {
	limit := s.Config.LimitRemoteRooms
	change.Target = change.Sender
	here, err := s.Directory.Resident(ctx, change.Room)
	if err != nil {
		return err
	}
	if here || c.Admin && limit.AdminsCanJoin {
		return s.Rooms.Join(ctx, change)
	}
	tooLarge := errcode.New(http.StatusBadRequest, "M_RESOURCE_LIMIT_EXCEEDED", "%s", limit.Error)
	if s.Config.AdminContact != "" {
		tooLarge = tooLarge.With("admin_contact", s.Config.AdminContact)
	}
	points, known, err := s.Directory.RemoteComplexity(ctx, change.Room, change.Sender, change.Via)
	switch {
	case err != nil:
		return err
	case known && points > limit.Complexity:
		return tooLarge
	}
	if !known {
		ctx = context.WithoutCancel(ctx) // the join goes on without the client, so what comes after it has to
	}
	if err := s.Rooms.Join(ctx, change); err != nil || known {
		return err
	}
	if points, err = s.Directory.OwnComplexity(ctx, change.Room); err != nil || points <= limit.Complexity {
		return err
	}
	if err := s.Rooms.Leave(ctx, room.Change{Room: change.Room, Sender: change.Sender, Target: change.Sender}); err != nil {
		return errors.Join(tooLarge, fmt.Errorf("leave %s, which is too large: %w", change.Room, err))
	}
	return tooLarge
}
