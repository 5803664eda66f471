package remote

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
)

// A server may answer 500 because it is in trouble, which passes, or because it chokes on one item,
// which would hold up all others for as long as items are kept. So after a few such answers in a
// row each further attempt is with half as much, and an item that has failed by itself often enough,
// for long enough, is left out if the server takes a transaction without it.
const (
	chokesAfter   = 3
	leaveOutTries = 5
	leaveOutAfter = 30 * time.Minute
	// chokePause is how long it is left alone at most until that is found out.
	chokePause = 8 * time.Minute
)

// refusals is what is remembered of a server's answers of 500.
type refusals struct {
	inRow int       // counts until it takes transactions of any size again
	alone string    // id of the transaction of an item that failed by itself
	tries int       // of that
	since time.Time // the first of them
}

// tooMuch says whether a server refuses the content of a transaction, so that the
// same will never be accepted.
func tooMuch(err error) bool {
	e, ok := errors.AsType[*errcode.Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case "M_BAD_JSON", "M_NOT_JSON", "M_TOO_LARGE":
		return e.Status >= 400 && e.Status < 500
	}
	return e.Status == http.StatusRequestEntityTooLarge
}

// narrow makes transactions smaller until the item is found that a server does not take;
// without it the rest goes on. False: the server takes nothing at all, as when a proxy before
// it loses the bodies of requests, and nothing may be lost by that: it is tried again later.
func (s *Sender) narrow(ctx context.Context, d *recipient, t *transaction, cause error) (going bool) {
	switch {
	case t.items != 1 || t.volatile:
		d.limit = max(1, t.items/2) // what was volatile is gone already
		return true
	case s.takesNothing(ctx, d):
		s.leaveOut(d, t, cause)
		return true
	}
	if ctx.Err() == nil {
		s.fail(d, t.last, cause)
	}
	return false
}

// broke says whether a server answered that something went wrong on its side. Whatever
// stands before it says so with other numbers when it is not there.
func broke(err error) bool {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status == http.StatusInternalServerError
	}
	e, ok := errors.AsType[*errcode.Error](err)
	return ok && e.Status == http.StatusInternalServerError
}

// refused is called when a server broke on a transaction; false: it is tried again later.
func (s *Sender) refused(ctx context.Context, d *recipient, t *transaction, cause error) (going bool) {
	r := &d.refusals
	r.inRow++
	searching := true
	if t.items == 1 && !t.volatile {
		if r.alone != t.id {
			r.alone, r.tries, r.since = t.id, 0, time.Now()
		}
		r.tries++
		if searching = r.tries < leaveOutTries || time.Since(r.since) < leaveOutAfter; !searching && s.takesNothing(ctx, d) {
			s.leaveOut(d, t, cause)
			return true
		}
	}
	if searching {
		s.mu.Lock()
		d.interval = min(d.interval, chokePause/2) // the next pause is twice that
		s.mu.Unlock()
	}
	if r.inRow >= chokesAfter {
		d.limit = max(1, t.items/2)
	}
	if ctx.Err() == nil {
		s.fail(d, t.last, cause)
	}
	return false
}

// takesNothing asks whether a server takes a transaction with nothing in it, for which it needs
// its database as for any other.
func (s *Sender) takesNothing(ctx context.Context, d *recipient) bool {
	s.mu.Lock()
	s.lastEDU++
	t := &transaction{numbers: []int64{s.lastEDU}} // another id each time
	s.mu.Unlock()
	t.finish(s.options.Server)
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	_, err := s.options.Send(ctx, d.name, t.id, t.body)
	return err == nil
}

// leaveOut goes on without the only item of a transaction.
func (s *Sender) leaveOut(d *recipient, t *transaction, cause error) {
	item := []any{"server", d.name, "position", t.last, "error", cause}
	for _, body := range t.edus {
		typ, _ := canonical.GetString(body, "edu_type")
		item = append(item, "edu", typ)
	}
	for _, body := range t.pdus {
		typ, _ := canonical.GetString(body, "type")
		room, _ := canonical.GetString(body, "room_id")
		item = append(item, "event", typ, "room", room)
	}
	slog.Warn("another server does not take an item, which is left out", item...)
	s.accept(d, t)
}
