package room

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"hearth/matrix/id"
	"hearth/store"
)

// Which of the servers in a room the engine asks for what it lacks, in which order, and for how long it
// waits for one of them.

// spokeLately is how many of the newest events of a room show which of its servers are there.
const spokeLately = 50

// residents lists servers in a room: some to be asked first, then those whose users spoke last, as in large
// old rooms most of the others have been gone for years, then the others, and behind them those that could not
// be reached lately.
func (e *Engine) residents(tx *store.Tx, room store.RoomNID, first []id.Server, limit int) (list []id.Server, err error) {
	list = slices.Clone(first)
	var down []id.Server
	defer func() { list = append(list, down[:min(len(down), max(0, limit-len(list)))]...) }()
	add := func(s id.Server) bool {
		switch {
		case s == e.options.Server || slices.Contains(list, s) || slices.Contains(down, s):
		case !e.seemsDown(s):
			list = append(list, s)
		case len(down) < limit:
			down = append(down, s)
		}
		return len(list) < limit
	}
	places, err := tx.Events.TimelineDown(room, 0, maxPosition, spokeLately)
	if err != nil {
		return nil, err
	}
	events, err := e.Events(tx, nidsOf(places))
	if err != nil {
		return nil, err
	}
	for _, ev := range events {
		s := ev.PDU.Sender.Server()
		if slices.Contains(list, s) {
			continue
		}
		in, err := hasServer(tx, room, s)
		if err != nil || in && !add(s) {
			return list, err
		}
	}
	nids, err := tx.RoomServers.OfRoom(room)
	if err != nil {
		return nil, err
	}
	for _, nid := range nids {
		s, err := tx.IDs.ServerName(nid)
		if err != nil || !add(s) {
			return list, err
		}
	}
	return list, nil
}

// hasServer says whether a server has a user in a room, as far as is known here.
func hasServer(tx *store.Tx, room store.RoomNID, server id.Server) (bool, error) {
	nid, ok, err := tx.IDs.FindServer(server)
	if err != nil || !ok {
		return false, err
	}
	return tx.RoomServers.In(room, nid)
}

// hasServer says whether a server has a user in a room, as far as is known here.
func (e *Engine) hasServer(ctx context.Context, room id.Room, server id.Server) (in bool, err error) {
	err = e.store.View(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(room)
		if err != nil || !ok {
			return err
		}
		in, err = hasServer(tx, nid, server)
		return err
	})
	return in, err
}

// patient bounds one question to a server; 0: it has as long as ctx.
func patient(ctx context.Context, within time.Duration) (context.Context, context.CancelFunc) {
	if within == 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, within)
}

// reply is what came of asking the n-th of some servers.
type reply[T any] struct {
	n     int
	value T
	err   error
}

// inTurn asks one server after the other, and yields what they say, until ctx ends: the next is asked when
// one has answered, or has been silent for a while. That one may still answer meanwhile: a large answer takes its
// time, but one server must not hold up what the others could tell at once.
func inTurn[T any](ctx context.Context, servers []id.Server, silence time.Duration, ask func(context.Context, id.Server) (T, error)) iter.Seq[reply[T]] {
	return func(yield func(reply[T]) bool) {
		ctx, cancel := context.WithCancel(ctx)
		replies := make(chan reply[T], len(servers))
		var asking sync.WaitGroup
		defer asking.Wait()
		defer cancel()
		asked, waiting := 0, 0
		next := time.NewTimer(0)
		defer next.Stop()
		for asked < len(servers) || waiting > 0 {
			select {
			case <-next.C:
				if asked == len(servers) {
					continue
				}
				n := asked
				asking.Go(func() {
					value, err := ask(ctx, servers[n])
					replies <- reply[T]{n, value, err}
				})
				asked++
				waiting++
				next.Reset(silence)
			case r := <-replies:
				waiting--
				if !yield(r) {
					return
				}
				if r.n == asked-1 {
					next.Reset(0)
				}
			case <-ctx.Done():
				return
			}
		}
	}
}
