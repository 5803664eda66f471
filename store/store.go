// Package store is all the SQL of Hearth, for SQLite and PostgreSQL with one
// text. It keeps and finds; it decides nothing: no rule of the protocol is here.
//
// Start at Store: View reads, Update writes. Tx has one field per group of
// tables, each in a file of its own with its queries on top. What may be seen
// by clients takes a position of the one counter (Tx.NextPosition) and is told
// to the hub after its commit (Tx.Touch).
package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"runtime"
	"sync"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"hearth/matrix/id"
	"hearth/stream"
)

// Options say where the database is.
type Options struct {
	Server   id.Server // our own name, by which local users are known
	SQLite   string    // path of the database file
	Postgres string    // connection string; used when SQLite is empty
	Readers  int       // connections for reading; 0: as many as cores, at least 2
	CacheKB  int       // SQLite page cache of each connection; 0: 2000. The driver takes twice that.
	// Published is called after each commit that changed anything visible, in
	// order of positions, by one goroutine, before the writers are answered; what
	// it returns is called after they are. Neither may block.
	Published func(stream.Commit) (wake func())
}

// Store is an open database. All methods may be called from any goroutine.
type Store struct {
	dialect   dialect
	server    id.Server
	db        *sql.DB
	writer    *conn
	readers   chan *conn
	queue     chan *Pending
	published func(stream.Commit) (wake func())
	position  int64 // of the last commit; the committer's
	names     names
	done      sync.WaitGroup
	closing   chan struct{}
	closeOnce sync.Once
}

// ErrClosed is returned by writes after Close.
var ErrClosed = errors.New("the store is closed")

// Open opens the database, brings its schema up to date and starts the committer.
func Open(ctx context.Context, o Options) (*Store, error) {
	s := &Store{dialect: sqlite, server: o.Server, published: o.Published, queue: make(chan *Pending, 1024), closing: make(chan struct{})}
	driver, dsn := "sqlite", sqliteDSN(o)
	if o.SQLite == "" {
		s.dialect, driver, dsn = postgres, "pgx", o.Postgres
	}
	var err error
	if s.db, err = sql.Open(driver, dsn); err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := s.start(ctx, o); err != nil {
		s.db.Close()
		return nil, err
	}
	return s, nil
}

func (s *Store) start(ctx context.Context, o Options) error {
	var err error
	if s.writer, err = s.connect(ctx); err != nil {
		return fmt.Errorf("open database: %w", err)
	}
	if err := s.migrate(); err != nil {
		return err
	}
	if s.position, err = s.readPosition(); err != nil {
		return err
	}
	n := o.Readers
	if n == 0 {
		n = max(2, runtime.GOMAXPROCS(0))
	}
	s.readers = make(chan *conn, n)
	for range n {
		c, err := s.connect(ctx)
		if err != nil {
			return fmt.Errorf("open database for reading: %w", err)
		}
		s.readers <- c
	}
	s.names.init()
	s.done.Add(1)
	go s.commitLoop()
	return nil
}

// sqliteDSN asks for write-ahead logging with full durability: a commit that
// returned is on disk. The busy timeout lets an operator's sqlite3 program
// write to the live file.
func sqliteDSN(o Options) string {
	cache := o.CacheKB
	if cache == 0 {
		cache = 2000
	}
	q := url.Values{"_pragma": {
		"busy_timeout(5000)", "journal_mode(WAL)", "synchronous(FULL)",
		fmt.Sprintf("cache_size(-%d)", cache), "temp_store(MEMORY)",
	}}
	return "file:" + (&url.URL{Path: o.SQLite}).EscapedPath() + "?" + q.Encode()
}

// Close waits for the reads and writes that are under way and closes the
// database. Reads that come later wait for their contexts to end.
func (s *Store) Close() (err error) {
	s.closeOnce.Do(func() {
		close(s.closing)
		s.done.Wait()
		for range cap(s.readers) {
			(<-s.readers).close()
		}
		s.writer.close()
		err = s.db.Close()
	})
	return err
}

// Position is that of the last commit when the store was opened; hubs start there.
func (s *Store) Position() int64 { return s.position }

// View runs fn on one consistent snapshot. fn must not keep tx.
func (s *Store) View(ctx context.Context, fn func(*Tx) error) (err error) {
	var c *conn
	select {
	case c = <-s.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.readers <- c }()
	if err := c.exec(s.dialect.beginRead); err != nil {
		return fmt.Errorf("begin reading: %w", s.revive(c, err))
	}
	defer func() {
		if e := c.exec("ROLLBACK"); e != nil && err == nil {
			err = fmt.Errorf("end reading: %w", s.revive(c, e))
		}
	}()
	return fn(newTx(s, c))
}

// revive replaces a connection that a restart of PostgreSQL has broken.
func (s *Store) revive(c *conn, cause error) error {
	if s.dialect.name != postgres.name || c.raw.PingContext(context.Background()) == nil {
		return cause
	}
	fresh, err := s.connect(context.Background())
	if err != nil {
		return cause
	}
	slog.Warn("database connection was lost and made anew", "error", cause)
	c.close()
	*c = *fresh
	return cause
}
