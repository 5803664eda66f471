package federation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/errgroup"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
)

// Bounds of a transaction. spec: server-server-api#transactions
const (
	maxPDUs = 50
	maxEDUs = 100
)

// transactionTime bounds the work on one transaction. It goes on when the other
// server gives up waiting: that will ask again, and then the answer is at hand.
const transactionTime = 3 * time.Minute

type sendTransactionRequest struct {
	Txn  string           `path:"txnId"`
	PDUs []jsontext.Value `json:"pdus"`
	EDUs []jsontext.Value `json:"edus"`
}

type transactionAnswer struct {
	PDUs map[id.Event]pduResult `json:"pdus"`
}

type pduResult struct {
	Error string `json:"error,omitzero"`
}

func (a *API) sendTransaction(ctx context.Context, c httpx.Caller, r sendTransactionRequest) (transactionAnswer, error) {
	switch {
	case len(r.PDUs) > maxPDUs:
		return transactionAnswer{}, errcode.InvalidParam("the transaction has more than %d PDUs", maxPDUs)
	case len(r.EDUs) > maxEDUs:
		return transactionAnswer{}, errcode.InvalidParam("the transaction has more than %d EDUs", maxEDUs)
	case len(r.Txn) > id.MaxLength:
		return transactionAnswer{}, errcode.InvalidParam("the transaction id is longer than %d bytes", id.MaxLength)
	}
	return a.Transactions.once(ctx, transaction{c.Server, r.Txn}, len(r.PDUs) > 0, func(done *outcome) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), transactionTime)
		defer cancel()
		first, rest := byNeed(r.EDUs)
		err := a.receiveEDUs(ctx, c.Server, first)
		if !done.judged {
			done.answer.PDUs, done.judged = a.receivePDUs(ctx, c.Server, r.PDUs)
		}
		return errors.Join(err, a.receiveEDUs(ctx, c.Server, rest), ctx.Err())
	})
}

// roomsAtOnce bounds how many rooms of one transaction are worked on side by side:
// one that waits for other servers does not hold up the rest.
const roomsAtOnce = 4

// receivePDUs hands each room its events. What becomes of one is no matter of the others.
// judged: this server failed at none of them.
func (a *API) receivePDUs(ctx context.Context, origin id.Server, pdus []jsontext.Value) (results map[id.Event]pduResult, judged bool) {
	rooms, order := byRoom(pdus)
	answers := make([]map[id.Event]error, len(order))
	var side errgroup.Group
	side.SetLimit(roomsAtOnce)
	for i, room := range order {
		side.Go(func() error {
			answers[i] = a.receiveRoom(ctx, origin, room, rooms[room])
			return nil
		})
	}
	_ = side.Wait() // no room fails another
	results, judged = map[id.Event]pduResult{}, ctx.Err() == nil
	for _, answer := range answers {
		for name, err := range answer {
			if name == "" {
				continue
			}
			results[name] = pduResult{}
			if err != nil {
				text, theirs := refusal(ctx, name, err)
				results[name] = pduResult{Error: text}
				judged = judged && theirs
			}
		}
	}
	return results, judged
}

// byRoom sorts PDUs by their rooms, keeping their order. What names no room is dropped:
// it can be nothing that this server takes part in.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 1
func byRoom(pdus []jsontext.Value) (rooms map[id.Room][]jsontext.Value, order []id.Room) {
	rooms = map[id.Room][]jsontext.Value{}
	for _, raw := range pdus {
		var p struct {
			Room id.Room `json:"room_id"`
		}
		if err := json.Unmarshal(raw, &p); err != nil || p.Room == "" {
			slog.Debug("event without a room", "error", err)
			continue
		}
		if rooms[p.Room] == nil {
			order = append(order, p.Room)
		}
		rooms[p.Room] = append(rooms[p.Room], raw)
	}
	return rooms, order
}

// receiveRoom hands one room its events, if its access control list lets the server in.
// spec: server-server-api#server-access-control-lists-acls
func (a *API) receiveRoom(ctx context.Context, origin id.Server, room id.Room, pdus []jsontext.Value) map[id.Event]error {
	defer func() { // the router's does not reach here
		if p := recover(); p != nil {
			slog.ErrorContext(ctx, "panic", "room", room, "origin", origin, "panic", p, "stack", string(debug.Stack()))
		}
	}()
	err := a.Rooms.CheckACL(ctx, room, origin)
	if err == nil {
		return a.Rooms.Receive(ctx, origin, room, pdus)
	}
	results := map[id.Event]error{}
	v, ok, versionErr := a.Rooms.RoomVersion(ctx, room)
	if versionErr != nil || !ok {
		slog.WarnContext(ctx, "events not received", "room", room, "origin", origin, "error", err)
		return results
	}
	for _, raw := range pdus {
		if p, parseErr := event.Parse(v, raw); parseErr == nil {
			results[p.ID] = err
		}
	}
	return results
}

// refusal is what the other server is told of an event that was not taken; theirs: not because
// this one failed.
func refusal(ctx context.Context, name id.Event, err error) (text string, theirs bool) {
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return e.Message, true
	}
	slog.WarnContext(ctx, "event not received", "event", name, "error", err)
	return "Internal server error", false
}

// Transactions sees to it that the transactions of one server are worked on one after
// the other, and that the events of a repeated one get the first answer.
type Transactions struct {
	outcomes *otter.Cache[transaction, outcome]
	turns    *httpx.Turns
}

type transaction struct {
	origin id.Server
	id     string
}

// outcome is what became of a transaction.
type outcome struct {
	answer   transactionAnswer
	judged   bool // the answer is what a repetition gets too
	answered bool // and the other server got it
}

const (
	// maxWaiting bounds how many transactions of a server are waiting. A server
	// sends one at a time, so that more can only be repetitions.
	maxWaiting = 4
	// rememberedFor and rememberedBytes bound how long answers are remembered.
	rememberedFor   = time.Hour
	rememberedBytes = 8 << 20
)

// NewTransactions makes an empty memory of transactions.
func NewTransactions() *Transactions {
	return &Transactions{
		turns: httpx.NewTurns(1, maxWaiting),
		outcomes: otter.Must(&otter.Options[transaction, outcome]{
			MaximumWeight:    rememberedBytes,
			Weigher:          func(t transaction, o outcome) uint32 { return uint32(200 + len(t.id) + 200*len(o.answer.PDUs)) },
			ExpiryCalculator: otter.ExpiryWriting[transaction, outcome](rememberedFor),
		}),
	}
}

// once calls do unless the transaction was answered before. What failed is done again, but for
// events that were judged: do is given what became of the transaction before. So is done again what has
// no events: Conduit and what came of it name transactions by their content, and that somebody types,
// or has another device, they say each time in the same words. To take an EDU twice does no harm.
func (t *Transactions) once(ctx context.Context, key transaction, hasEvents bool, do func(*outcome) error) (transactionAnswer, error) {
	done, err := t.turns.Take(ctx, string(key.origin))
	if err != nil {
		return transactionAnswer{}, err
	}
	defer done()
	var o outcome
	if hasEvents {
		o, _ = t.outcomes.GetIfPresent(key)
	}
	if o.answered {
		return o.answer, nil
	}
	err = do(&o)
	o.answered = err == nil
	if hasEvents && (o.answered || o.judged) {
		t.outcomes.Set(key, o)
	}
	if err != nil {
		return transactionAnswer{}, fmt.Errorf("transaction %q of %s: %w", key.id, key.origin, err)
	}
	return o.answer, nil
}
