package ephemeral

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// The types of receipts.
const (
	Read        = "m.read"
	ReadPrivate = "m.read.private"
	FullyRead   = "m.fully_read" // a marker in the room's account data, only sent like a receipt
)

// MainTimeline is the thread id of what is in no thread.
const MainTimeline = "main"

// Receipts moves how far users have read. A sync reads them from the store.
type Receipts struct {
	// Changed, if set before use, hears of public receipts of local users.
	Changed func(room store.RoomNID, user id.User, r Receipt, ts int64)

	store *store.Store

	mu    sync.Mutex
	early []earlyReceipt // wait for their events, the oldest first
}

// NewReceipts makes the service.
func NewReceipts(s *store.Store) *Receipts { return &Receipts{store: s} }

// Receipt says that a user has read up to an event.
type Receipt struct {
	Type   string
	Event  id.Event
	Thread string // a thread root, main, or empty: unthreaded
}

// Send moves a user's receipts in a room forward; none ever moves back.
// spec: client-server-api#post_matrixclientv3roomsroomidreceiptreceipttypeeventid
func (r *Receipts) Send(ctx context.Context, user id.User, room id.Room, receipts ...Receipt) error {
	for _, x := range receipts {
		switch {
		case x.Type != Read && x.Type != ReadPrivate && x.Type != FullyRead:
			return errcode.InvalidParam("there is no receipt type %q", x.Type)
		case x.Thread != "" && x.Type == FullyRead:
			return errcode.InvalidParam("m.fully_read has no thread_id")
		}
		if err := checkThread(x.Thread); err != nil {
			return err
		}
	}
	now := time.Now().UnixMilli()
	var p place
	var news []Receipt
	err := r.store.Update(ctx, func(tx *store.Tx) (err error) {
		if p, err = findPlace(tx, room, user); err != nil {
			return err
		}
		news = nil
		for _, x := range receipts {
			e, err := readEvent(tx, p.room, x)
			if err != nil {
				return err
			}
			if x.Type == FullyRead {
				if err := setFullyRead(tx, user, room, p, e); err != nil {
					return err
				}
				continue
			}
			moved, err := setReceipt(tx, p, x, e, now)
			if err != nil {
				return err
			}
			if moved && x.Type == Read {
				news = append(news, x)
			}
		}
		return nil
	})
	if err == nil && r.Changed != nil {
		for _, x := range news {
			r.Changed(p.room, user, x, now)
		}
	}
	return err
}

func checkThread(thread string) error {
	if thread == "" || thread == MainTimeline {
		return nil
	}
	if _, err := id.ParseEvent(thread); err != nil {
		return errcode.InvalidParam("thread_id: %s", err)
	}
	return nil
}

// Received is a receipt of a user of another server.
type Received struct {
	User   id.User
	Event  id.Event
	Thread string
	TS     int64
}

// receiptsAtOnce bounds how many receipts are written in one go: all other writes wait for it.
const receiptsAtOnce = 100

// Receive moves receipts of users of another server. Those of users who are not
// in the room are passed over; those of events that are not here wait for them a while.
// spec: server-server-api#receipts
func (r *Receipts) Receive(ctx context.Context, room id.Room, receipts []Received) error {
	receipts, err := r.ofMembers(ctx, room, receipts)
	if err != nil {
		return err
	}
	now := time.Now().UnixMilli()
	var early []Received
	for some := range slices.Chunk(receipts, receiptsAtOnce) {
		var unseen []Received
		err := r.store.Update(ctx, func(tx *store.Tx) error {
			unseen = nil
			for _, v := range some {
				if err := receive(tx, room, v, now); errors.Is(err, errUnseen) {
					unseen = append(unseen, v)
				} else if err != nil {
					if _, ok := errors.AsType[*errcode.Error](err); !ok {
						return err
					}
					slog.DebugContext(ctx, "a receipt is passed over", "room", room, "user", v.User, "event", v.Event, "error", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		early = append(early, unseen...)
	}
	if len(early) == 0 {
		return nil
	}
	return r.await(ctx, room, early)
}

// ofMembers leaves out the receipts of those who are not in the room, before anything is written:
// a server may invent any number of them.
func (r *Receipts) ofMembers(ctx context.Context, room id.Room, receipts []Received) (kept []Received, err error) {
	err = r.store.View(ctx, func(tx *store.Tx) error {
		row, known, err := tx.Rooms.Get(room)
		if err != nil || !known {
			return err
		}
		for _, v := range receipts {
			joined, err := tx.Members.MayBeJoined(row, v.User)
			if err != nil {
				return err
			}
			if joined {
				kept = append(kept, v)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for those who have read: %w", err)
	}
	return kept, nil
}

func receive(tx *store.Tx, room id.Room, v Received, now int64) error {
	if err := checkThread(v.Thread); err != nil {
		return err
	}
	if v.Event == "" || len(v.Event) > id.MaxLength {
		return errcode.InvalidParam("the event id is too long, or empty")
	}
	p, err := findPlace(tx, room, v.User)
	if err != nil {
		return err
	}
	if p.user == 0 { // a member of whom nothing was seen yet
		if p.user, err = tx.IDs.User(v.User); err != nil {
			return err
		}
	}
	x := Receipt{Type: Read, Event: v.Event, Thread: v.Thread}
	e, err := readEvent(tx, p.room, x)
	if _, refused := errors.AsType[*errcode.Error](err); refused && p.partial {
		// In a room that was joined just now, most users have read up to events of before.
		if e, err = unseenEvent(tx, x); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	_, err = setReceipt(tx, p, x, e, max(0, min(v.TS, now)))
	return err
}

// unseenEvent stands for an event that was never seen here, of any room; every other has been
// read after it.
func unseenEvent(tx *store.Tx, x Receipt) (e store.Event, err error) {
	_, seen, err := tx.Events.Find(x.Event)
	if err == nil && seen {
		err = errcode.NotFound("the event is not in the room")
	}
	return store.Event{ID: x.Event}, err
}

// readEvent finds the event that was read: it must be in the room's timeline and in the thread.
func readEvent(tx *store.Tx, room store.RoomNID, x Receipt) (store.Event, error) {
	e, ok, err := tx.Events.GetID(x.Event)
	if err != nil {
		return e, err
	}
	if !ok || e.Room == room && e.Position == 0 {
		return e, errUnseen
	}
	if e.Room != room {
		return e, errcode.NotFound("the event is not in the room")
	}
	if x.Thread == "" || x.Thread == string(x.Event) {
		return e, nil
	}
	chain, err := tx.Relations.Chain(e.NID)
	if err == nil && !inThread(chain, x.Thread) {
		err = errcode.InvalidParam("the event is not in that thread")
	}
	return e, err
}

// inThread says whether an event with a chain of relations can be read in a thread.
// Beyond what the spec counts to a thread, what relates to its root in any way may be
// read there, and in the main timeline, where it counts: clients show it in both.
// spec: client-server-api#threaded-read-receipts
func inThread(chain []store.Relation, thread string) bool {
	threaded := false
	for _, r := range chain {
		if string(r.Target) == thread {
			return true
		}
		threaded = threaded || r.RelType == "m.thread"
	}
	return thread == MainTimeline && !threaded
}

// setReceipt says whether it moved.
func setReceipt(tx *store.Tx, p place, x Receipt, e store.Event, now int64) (moved bool, err error) {
	private := x.Type == ReadPrivate
	old, ok, err := tx.Receipts.Get(p.room, p.user, private, x.Thread)
	if err != nil || ok && old.EventPosition >= e.Position {
		return false, err
	}
	err = tx.Receipts.Set(store.Receipt{Room: p.room, User: p.user, Private: private, Thread: x.Thread,
		Event: e.ID, EventPosition: e.Position, TS: now, Position: tx.NextPosition()})
	if err != nil {
		return false, err
	}
	if private {
		tx.Touch(stream.Receipt, p.room, p.user)
		return true, nil
	}
	members, err := tx.Members.LocalJoined(p.room)
	if err == nil {
		tx.Touch(stream.Receipt, p.room, members...)
	}
	return true, err
}

// setFullyRead moves the read marker.
// spec: client-server-api#fully-read-markers
func setFullyRead(tx *store.Tx, user id.User, room id.Room, p place, e store.Event) error {
	content, ok, err := tx.AccountData.GetRoom(user, room, FullyRead)
	if err != nil {
		return err
	}
	if ok {
		name, _ := canonical.GetString(content, "event_id")
		old, ok, err := tx.Events.GetID(id.Event(name))
		if err != nil || ok && old.Room == p.room && old.Position >= e.Position {
			return err
		}
	}
	value := append(canonical.AppendString([]byte(`{"event_id":`), e.ID), '}')
	return tx.AccountData.SetRoom(user, room, FullyRead, value)
}
