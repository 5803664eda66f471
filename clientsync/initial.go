package clientsync

import (
	"context"
	"errors"
	"fmt"
	"io"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/filter"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// InitialRequest asks for what the deprecated /initialSync tells: everything at once, in
// the form that clients had before /sync. News come by Events then.
type InitialRequest struct {
	User     id.User
	Device   id.Device
	Archived bool // also the rooms that the user has left
	Limit    int  // of messages of each room
}

// InitialSync answers the deprecated /initialSync by writing a JSON object to out. An
// error that is returned after the first write cuts the object off.
// spec: client-server-api#get_matrixclientv3initialsync
func (s *Syncer) InitialSync(ctx context.Context, r InitialRequest, out io.Writer) error {
	y, err := s.prepare(ctx, Request{User: r.User, Device: r.Device, SetPresence: "offline"}) // which sets none
	if err != nil {
		return err
	}
	y.filter = &filter.Filter{}
	y.filter.Room.IncludeLeave = r.Archived
	y.w.init(out, &s.buffers)
	defer y.w.release(&s.buffers)
	if err := y.buildInitial(ctx, r); err != nil {
		return fmt.Errorf("initial sync of %s: %w", r.User, err)
	}
	return y.w.flush()
}

// buildInitial makes the answer. As in build, timelines end where the first snapshot
// was; that is the token with which the client goes on.
func (y *response) buildInitial(ctx context.Context, r InitialRequest) error {
	var jobs []job
	y.w.b = append(y.w.b, '{')
	err := y.s.store.View(ctx, func(tx *store.Tx) (err error) {
		if err = y.begin(ctx, tx); err != nil {
			return err
		}
		if jobs, err = y.initialJobs(tx, r.Archived); err != nil {
			return err
		}
		rows, err := y.accountRows(tx)
		if err != nil {
			return err
		}
		return y.w.array("account_data", func() error {
			for _, row := range rows {
				y.w.accountData(row)
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	y.w.key("end")
	y.w.b = canonical.AppendString(y.w.b, y.now.Position.String())
	page := room.Page{Back: true, From: &y.now.Position, Limit: r.Limit}
	err = y.w.array("rooms", func() error {
		return y.eachRoom(ctx, nil, jobs, func(_ context.Context, tx *store.Tx, j *job) error { return y.initialRoom(tx, j, page) })
	})
	if err != nil {
		return err
	}
	err = y.s.store.View(ctx, y.initialPresence)
	y.w.b = append(y.w.b, '}')
	return err
}

// initialJobs are the rooms that the answer has: there is no knocking in it, and no room
// that somebody else has taken the user out of unless those are asked for.
func (y *response) initialJobs(tx *store.Tx, archived bool) ([]job, error) {
	all, err := y.jobs(tx)
	jobs := all[:0]
	for _, j := range all {
		if s := j.section(); s == joinSection || s == inviteSection || s == leaveSection && archived {
			jobs = append(jobs, j)
		}
	}
	return jobs, err
}

func (y *response) initialRoom(tx *store.Tx, j *job, page room.Page) error {
	if j.section() == inviteSection {
		return y.initialInvite(tx, j)
	}
	row, _, err := tx.Rooms.GetNID(j.member.Room)
	if err != nil {
		return err
	}
	view, err := y.s.rooms.View(tx, row, y.user)
	if err != nil {
		return err
	}
	view.Device, view.Ignored = string(y.req.Device), y.ignored
	mark := len(y.w.b)
	y.w.comma()
	y.w.b, err = y.s.rooms.AppendInitial(y.w.b, tx, view, y.req.User, page)
	if refused := (*errcode.Error)(nil); errors.As(err, &refused) {
		// Who has declined an invite was never in the room, and by now they may have forgotten it.
		y.w.b = y.w.b[:mark]
		return nil
	}
	return err
}

func (y *response) initialInvite(tx *store.Tx, j *job) error {
	events, err := y.s.rooms.Events(tx, []store.EventNID{j.member.Event})
	if err != nil || y.ignored[events[0].Sender] {
		return err
	}
	y.w.comma()
	members := event.AppendStringMember(event.AppendStringMember(nil, "room_id", j.room), "membership", j.member.Membership.String())
	members = event.AppendMember(members, "invite", event.AppendClient(nil, events[0].PDU, event.ClientOptions{Now: y.clock}))
	y.w.b = append(append(append(y.w.b, '{'), members...), '}')
	return nil
}

func (y *response) initialPresence(tx *store.Tx) (err error) {
	var all []Presence
	if y.s.options.Presence != nil {
		if all, err = y.s.options.Presence(tx, y.user, 0); err != nil {
			return fmt.Errorf("presence: %w", err)
		}
	}
	return y.w.array("presence", func() error {
		for _, p := range all {
			y.w.presence(p)
		}
		return nil
	})
}
