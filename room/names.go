package room

import (
	"context"
	"errors"
	"sync"

	"hearth/matrix/event"
	"hearth/store"
)

// names are the numbers by which the store knows what a proposal names.
type names struct {
	sender store.UserNID
	typ    store.TypeNID
	key    store.StateKey
}

var errNoName = errors.New("a name has no number yet")

// withNames calls fn in a reading transaction with the proposal's names, after
// making those that no event has borne before.
func (e *Engine) withNames(ctx context.Context, p Proposal, fn func(*store.Tx, names) error) error {
	read := func() error {
		return e.store.View(ctx, func(tx *store.Tx) error {
			n, ok, err := findNames(tx, p)
			if err != nil {
				return err
			}
			if !ok {
				return errNoName
			}
			return fn(tx, n)
		})
	}
	if err := read(); err != errNoName {
		return err
	}
	// What no event can bear must not be kept, whoever asks for it.
	if err := event.CheckNames(p.Type, p.StateKey); err != nil {
		return err
	}
	if err := e.store.Update(ctx, func(tx *store.Tx) error { return makeNames(tx, p) }); err != nil {
		return err
	}
	return read()
}

func findNames(tx *store.Tx, p Proposal) (n names, ok bool, err error) {
	if n.sender, ok, err = tx.IDs.FindUser(p.Sender); err != nil || !ok {
		return n, false, err
	}
	if n.typ, ok, err = tx.IDs.FindType(p.Type); err != nil || !ok {
		return n, false, err
	}
	if p.StateKey != nil {
		n.key, ok, err = tx.IDs.FindStateKey(event.StateTuple{Type: p.Type, Key: *p.StateKey})
	}
	return n, ok, err
}

func makeNames(tx *store.Tx, p Proposal) error {
	if _, err := tx.IDs.User(p.Sender); err != nil {
		return err
	}
	if _, err := tx.IDs.Type(p.Type); err != nil || p.StateKey == nil {
		return err
	}
	_, err := tx.IDs.StateKey(event.StateTuple{Type: p.Type, Key: *p.StateKey})
	return err
}

// nidBlock gives out event nids from blocks, so that an event can be named
// before its commit. What is left of a block at a restart is never used.
type nidBlock struct {
	mu         sync.Mutex
	from, upTo store.EventNID
}

const nidBlockSize = 1000

func (b *nidBlock) next(ctx context.Context, s *store.Store) (store.EventNID, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.from == b.upTo {
		err := s.Update(ctx, func(tx *store.Tx) (err error) {
			b.from, err = tx.Events.ReserveNIDs(nidBlockSize)
			return err
		})
		if err != nil {
			b.upTo = b.from
			return 0, err
		}
		b.upTo = b.from + nidBlockSize
	}
	b.from++
	return b.from - 1, nil
}
