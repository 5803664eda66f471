package store

import (
	"context"
	"errors"
	"fmt"

	"hearth/stream"
)

// maxBatch bounds how many writes share one database transaction: enough to
// make the cost of reaching the disk small, few enough to keep waits short.
const maxBatch = 64

// Pending is a write that waits for its commit.
type Pending struct {
	fn       func(*Tx) error
	err      error
	panicked any
	done     chan struct{}
}

// Update runs fn in a transaction and returns when it is on disk, or with the
// error of fn or of the commit; then nothing of it is. Several updates share
// one transaction, each in a savepoint of its own, in the order of their calls.
// fn must not wait for anything but the database, and not keep tx. When ctx has ended
// already there is no write; when it ends later, Update returns what became of the
// write all the same: fn uses what the caller goes on with.
func (s *Store) Update(ctx context.Context, fn func(*Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.Enqueue(fn).outcome()
}

// Enqueue puts a write in the queue; writes are committed in the order of Enqueue.
func (s *Store) Enqueue(fn func(*Tx) error) *Pending {
	p := &Pending{fn: fn, done: make(chan struct{})}
	select {
	case <-s.closing:
		p.finish(ErrClosed)
		return p
	default:
	}
	select {
	case s.queue <- p:
	case <-s.closing:
		p.finish(ErrClosed)
	}
	return p
}

// Done is closed when the write is committed or has failed.
func (p *Pending) Done() <-chan struct{} { return p.done }

// Wait returns the write's outcome. A panic of the write's function goes on here.
func (p *Pending) Wait(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return p.outcome()
}

func (p *Pending) outcome() error {
	<-p.done
	if p.panicked != nil {
		panic(p.panicked)
	}
	return p.err
}

func (p *Pending) finish(err error) {
	p.err = err
	close(p.done)
}

// commitLoop commits whatever has queued up as one transaction, at once when idle.
func (s *Store) commitLoop() {
	defer s.done.Done()
	batch := make([]*Pending, 0, maxBatch)
	for {
		batch = batch[:0]
		select {
		case p := <-s.queue:
			batch = append(batch, p)
		case <-s.closing:
			s.drain()
			return
		}
	fill:
		for len(batch) < maxBatch {
			select {
			case p := <-s.queue:
				batch = append(batch, p)
			default:
				break fill
			}
		}
		s.commit(batch)
	}
}

// drain commits what was queued before Close.
func (s *Store) drain() {
	for {
		select {
		case p := <-s.queue:
			s.commit([]*Pending{p})
		default:
			return
		}
	}
}

// commit runs a batch. Writes that fail by themselves are rolled back alone; if
// the transaction fails, all of them have.
func (s *Store) commit(batch []*Pending) {
	tx := newTx(s, s.writer)
	tx.writing = true
	outcome := make([]error, len(batch))
	err := tx.begin()
	for i, p := range batch {
		if err != nil {
			break
		}
		outcome[i], err = tx.savepoint(p)
	}
	if err == nil {
		err = tx.commit()
	}
	wake := func() {}
	if err != nil {
		err = fmt.Errorf("commit: %w", err)
		if e := s.writer.exec("ROLLBACK"); e != nil {
			err = s.revive(s.writer, errors.Join(err, e))
		}
	} else {
		wake = s.publish(tx)
	}
	for i, p := range batch {
		if err != nil {
			p.finish(err)
		} else {
			p.finish(outcome[i])
		}
	}
	wake()
}

// publish makes a commit known and returns what wakes those who wait for it.
func (s *Store) publish(tx *Tx) (wake func()) {
	for _, fn := range tx.afterCommit {
		fn()
	}
	if s.published == nil || tx.position == tx.began && len(tx.changes) == 0 {
		return func() {}
	}
	return s.published(stream.Commit{Position: tx.position, Changes: tx.changes})
}

const (
	readPosition = `SELECT position FROM stream_position
		FOR UPDATE -- only: postgres`
	writePosition    = `UPDATE stream_position SET position = $1`
	snapshotPosition = `SELECT position FROM stream_position`
)

func (s *Store) readPosition() (int64, error) {
	p, _, err := one(newTx(s, s.writer), value[int64], snapshotPosition)
	return p, err
}

// begin takes the row of the counter, which on PostgreSQL makes writers of all
// nodes take turns, so that order of positions is order of commits.
func (tx *Tx) begin() error {
	if err := tx.conn.exec(tx.conn.dialect.beginWrite); err != nil {
		return err
	}
	p, ok, err := one(tx, value[int64], readPosition)
	if err == nil && !ok {
		err = errors.New("the change counter is missing")
	}
	tx.began, tx.position = p, p
	return err
}

func (tx *Tx) commit() error {
	if tx.position != tx.began {
		if _, err := tx.exec(writePosition, tx.position); err != nil {
			return err
		}
	}
	return tx.conn.exec("COMMIT")
}

// savepoint runs one write. The first error is the write's own, the second the transaction's.
func (tx *Tx) savepoint(p *Pending) (own, fatal error) {
	position, changes, after := tx.position, len(tx.changes), len(tx.afterCommit)
	if err := tx.conn.exec("SAVEPOINT w"); err != nil {
		return nil, err
	}
	if own = tx.call(p); own == nil {
		return nil, tx.conn.exec("RELEASE SAVEPOINT w")
	}
	tx.position, tx.changes, tx.afterCommit = position, tx.changes[:changes], tx.afterCommit[:after]
	if err := tx.conn.exec("ROLLBACK TO SAVEPOINT w"); err != nil {
		// SQLite has ended the whole transaction by itself: the disk is full, say.
		return own, errors.Join(own, err)
	}
	return own, tx.conn.exec("RELEASE SAVEPOINT w")
}

func (tx *Tx) call(p *Pending) (err error) {
	defer func() {
		if r := recover(); r != nil {
			p.panicked, err = r, fmt.Errorf("panic: %v", r)
		}
	}()
	return p.fn(tx)
}
