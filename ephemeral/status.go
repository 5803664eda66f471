package ephemeral

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Status is a user's presence as others see it.
type Status struct {
	Presence        State  `json:"presence"`
	LastActiveAgo   *int64 `json:"last_active_ago,omitempty"` // milliseconds
	CurrentlyActive *bool  `json:"currently_active,omitempty"`
	StatusMsg       string `json:"status_msg,omitempty"`
}

func newStatus(state State, currentlyActive bool, statusMsg string, lastActive, now time.Time) Status {
	s := Status{Presence: state, StatusMsg: statusMsg}
	if !lastActive.IsZero() {
		ago := max(0, now.Sub(lastActive).Milliseconds())
		s.LastActiveAgo = &ago
	}
	if state == Online {
		s.CurrentlyActive = &currentlyActive
	}
	return s
}

func (who *person) status(now time.Time) Status {
	return newStatus(who.told.state, who.told.currentlyActive, who.told.statusMsg, who.lastActive, now)
}

// Get is a user's presence for those who share a room with him, and himself.
// spec: client-server-api#get_matrixclientv3presenceuseridstatus
func (p *Presence) Get(ctx context.Context, caller, user id.User) (s Status, err error) {
	err = p.store.View(ctx, func(tx *store.Tx) error {
		viewer, _, err := tx.IDs.FindUser(caller)
		if err != nil {
			return err
		}
		nid, known, err := tx.IDs.FindUser(user)
		if err != nil {
			return err
		}
		sees := caller == user
		if known && !sees {
			if sees, err = tx.Members.ShareRoom(viewer, nid); err != nil {
				return err
			}
		}
		if !sees {
			// The same for users that do not exist.
			return errcode.Forbidden("you may not see the presence of this user")
		}
		s, err = p.lookUp(tx, nid, user)
		return err
	})
	return s, err
}

// lookUp is a user's presence from memory or, of those not seen since the start, as it was saved.
func (p *Presence) lookUp(tx *store.Tx, nid store.UserNID, user id.User) (Status, error) {
	now := time.Now()
	if !p.enabled {
		return Status{Presence: Offline}, nil
	}
	p.mu.Lock()
	who := p.people[user]
	if who != nil {
		defer p.mu.Unlock()
		return who.status(now), nil
	}
	p.mu.Unlock()
	saved, ok, err := tx.Presence.Get(nid)
	if err != nil || !ok {
		return Status{Presence: Offline}, err
	}
	return newStatus(Offline, false, saved.StatusMsg, unMilli(saved.LastActiveTS), now), nil
}

// Event is an m.presence event.
type Event struct {
	Sender  id.User
	Content jsontext.Value
}

// Events makes m.presence events of those whom viewer sees, himself among them,
// and whose presence changed after a volatile position. After 0, the beginning,
// those offline are left out.
func (p *Presence) Events(tx *store.Tx, viewer store.UserNID, after int64) ([]Event, error) {
	type found struct {
		nid    store.UserNID
		user   id.User
		status Status
	}
	var all []found
	now := time.Now()
	p.mu.Lock()
	for _, who := range p.people {
		if who.position > after && (after > 0 || who.told.state != Offline) {
			all = append(all, found{who.nid, who.user, who.status(now)})
		}
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.nid, b.nid) })
	var events []Event
	for _, f := range all {
		if f.nid != viewer {
			sees, err := tx.Members.ShareRoom(viewer, f.nid)
			if err != nil {
				return nil, err
			}
			if !sees {
				continue
			}
		}
		content, err := json.Marshal(f.status)
		if err != nil {
			return nil, err
		}
		events = append(events, Event{f.user, content})
	}
	return events, nil
}
