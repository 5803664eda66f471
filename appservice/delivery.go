package appservice

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// Attempts at a service that does not answer are made after a second, two,
// four… up to maxPause apart.
const (
	firstPause = time.Second
	maxPause   = time.Minute
)

// transaction is what one request to a service carries.
type transaction struct {
	id   string
	txn  int64
	upTo int64 // position of its last event
	body []byte
	// strangers are users of the service by their names, of whom the events are the first word.
	strangers []id.User
}

// Deliver sends a service what is queued for it, one transaction after the
// other, until the context ends. There is one of it for each service.
// spec: application-service-api#pushing-events
func (v *Services) Deliver(ctx context.Context, service string) error {
	q := v.queueOf(service)
	if q == nil {
		return nil // it wants to hear nothing
	}
	state, err := v.state(ctx, service)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if state.Failures > 0 {
			q.pause(ctx, time.UnixMilli(state.RetryTS))
		}
		t, err := v.next(ctx, q)
		if err != nil {
			return fmt.Errorf("read the queue of application service %s: %w", service, err)
		}
		if t == nil {
			select {
			case <-q.wake:
			case <-ctx.Done():
			}
			continue
		}
		if err := v.attempt(ctx, q, &state, t); err != nil {
			return fmt.Errorf("note what application service %s has got: %w", service, err)
		}
	}
	return nil
}

func (v *Services) queueOf(service string) *queue {
	for _, q := range v.queues {
		if q.service.ID == service {
			return q
		}
	}
	return nil
}

// state reads how it goes with a service.
func (v *Services) state(ctx context.Context, service string) (state store.AppserviceState, err error) {
	err = v.store.View(ctx, func(tx *store.Tx) error {
		state, _, err = tx.Appservices.Get(service)
		return err
	})
	return state, err
}

// pause waits until a time, or until there is reason to try at once.
func (q *queue) pause(ctx context.Context, until time.Time) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-q.retry:
	case <-ctx.Done():
	}
}

// attempt sends a transaction until it is taken, or once if it is not, and notes the outcome.
func (v *Services) attempt(ctx context.Context, q *queue, state *store.AppserviceState, t *transaction) error {
	for {
		v.meet(ctx, t.strangers)
		err := v.send(ctx, q.service, t)
		if errors.Is(err, context.Canceled) {
			return nil // it will be sent again, the same
		}
		if err == nil {
			if state.Failures > 0 {
				q.log.Info("application service is back", "attempts", state.Failures)
			}
			state.Failures, state.RetryTS, state.LastTxn = 0, 0, t.txn
			return v.note(q, *state, t.upTo)
		}
		if state.Failures == 0 {
			q.log.Warn("application service does not take events; trying again", "error", err)
		}
		state.Failures++
		pause := min(maxPause, firstPause<<min(state.Failures-1, 10))
		state.RetryTS = time.Now().Add(pause).UnixMilli()
		if err := v.note(q, *state, 0); err != nil {
			return err
		}
		q.pause(ctx, time.UnixMilli(state.RetryTS))
		if ctx.Err() != nil {
			return nil
		}
	}
}

func (v *Services) note(q *queue, state store.AppserviceState, upTo int64) error {
	// What a service has taken must be noted even while the server stops.
	return v.store.Update(context.Background(), func(tx *store.Tx) error {
		if err := tx.Appservices.Set(state); err != nil || upTo == 0 {
			return err
		}
		return tx.Appservices.Unqueue(q.service.ID, upTo)
	})
}

// next makes the next transaction of a queue; nil: there is none.
func (v *Services) next(ctx context.Context, q *queue) (t *transaction, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	err = v.store.View(ctx, func(tx *store.Tx) error {
		queued, err := tx.Appservices.ListQueue(q.service.ID, maxTransaction)
		if err != nil || len(queued) == 0 {
			return err
		}
		n := 0
		for n < len(queued) && queued[n].Txn == queued[0].Txn {
			n++
		}
		t = &transaction{id: strconv.FormatInt(queued[0].Txn, 10), txn: queued[0].Txn, upTo: queued[n-1].Position}
		return v.render(tx, q.service, queued[:n], t)
	})
	if err == nil && t != nil && t.txn == q.txn {
		q.txn, q.size = q.txn+1, 0 // from now on it stays as it is
	}
	return t, err
}

// render writes the body of a transaction, and notes whom it is about.
func (v *Services) render(tx *store.Tx, s *Service, queued []store.QueuedEvent, t *transaction) error {
	now := time.Now().UnixMilli()
	body := []byte(`{"events":[`)
	first := true
	for _, queued := range queued {
		events, err := v.rooms.Events(tx, []store.EventNID{queued.Event})
		if err != nil {
			if _, there, e := tx.Events.Get(queued.Event); e == nil && !there {
				continue // its room was purged
			}
			return err
		}
		if !first {
			body = append(body, ',')
		}
		first = false
		extra, err := invitation(tx, s, events[0])
		if err != nil {
			return err
		}
		if body, err = v.rooms.AppendEventForService(body, tx, events[0], now, extra); err != nil {
			return err
		}
		if p := events[0].PDU; p.Type == event.TypeMember && p.StateKey != nil && id.User(*p.StateKey) != s.Sender && s.OwnsUser(id.User(*p.StateKey)) {
			if _, known, err := tx.Users.Get(id.User(*p.StateKey)); err != nil {
				return err
			} else if !known {
				t.strangers = append(t.strangers, id.User(*p.StateKey))
			}
		}
	}
	t.body = append(body, "]}"...)
	return nil
}

// invitation tells a service what one of its users may see of a room it is invited to.
func invitation(tx *store.Tx, s *Service, ev *room.Event) (unsigned []byte, err error) {
	p := ev.PDU
	if p.Type != event.TypeMember || p.StateKey == nil || p.Membership() != "invite" || !s.OwnsUser(id.User(*p.StateKey)) {
		return nil, nil
	}
	user, ok, err := tx.IDs.FindUser(id.User(*p.StateKey))
	if err != nil || !ok {
		return nil, err
	}
	stripped, ok, err := tx.Members.Stripped(ev.Room, user)
	if err != nil || !ok {
		return nil, err
	}
	return event.AppendMember(nil, "invite_room_state", stripped), nil
}

// meet asks for users of whom the events of a transaction are the first word, such as an invite
// of somebody in another network: the service may want to make them before it hears of it.
// spec: application-service-api#get_matrixappv1usersuserid
func (v *Services) meet(ctx context.Context, strangers []id.User) {
	for _, u := range strangers {
		if _, err := v.QueryUser(ctx, u); err != nil {
			slog.DebugContext(ctx, "application service was not asked for a user", "user", u, "error", err)
		}
	}
}

// send makes one attempt.
// spec: application-service-api#put_matrixappv1transactionstxnid
func (v *Services) send(ctx context.Context, s *Service, t *transaction) error {
	resp, err := v.request(ctx, s, http.MethodPut, "/_matrix/app/v1/transactions/"+url.PathEscape(t.id), nil, t.body)
	if err != nil {
		return err
	}
	if resp.status != http.StatusOK {
		return fmt.Errorf("it answered with status %d: %.200q", resp.status, resp.body)
	}
	return nil
}

// answer is what a service says.
type answer struct {
	status int
	body   jsontext.Value
}
