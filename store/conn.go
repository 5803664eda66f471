package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
)

// dialect is what differs between the two databases and cannot be said in SQL.
type dialect struct {
	name       string
	beginRead  string
	beginWrite string
}

var (
	sqlite   = dialect{"sqlite", "BEGIN", "BEGIN IMMEDIATE"}
	postgres = dialect{"postgres", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", "BEGIN"}
)

// conn is one connection with its prepared statements. One goroutine at a time.
type conn struct {
	dialect dialect
	raw     *sql.Conn
	stmts   map[string]*sql.Stmt
	reading bool // rows are being read
}

func (s *Store) connect(ctx context.Context) (*conn, error) {
	raw, err := s.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	return &conn{dialect: s.dialect, raw: raw, stmts: map[string]*sql.Stmt{}}, nil
}

func (c *conn) close() {
	for _, st := range c.stmts {
		st.Close()
	}
	c.raw.Close()
}

// background: a request's context would cost as much as the query itself, and
// queries are short. Waiting for a connection does heed it.
var background = context.Background()

func (c *conn) exec(text string) error {
	_, err := c.raw.ExecContext(background, text)
	return err
}

// errNested: PostgreSQL sends the rows of one query before it takes the next. SQLite would do both at
// once, so without this only those on PostgreSQL would notice.
var errNested = errors.New("a query amid the rows of another")

// stmt prepares a query once for each connection. Queries are constants, so there are few.
func (c *conn) stmt(query string) (*sql.Stmt, error) {
	if c.reading {
		return nil, fmt.Errorf("%w: %s", errNested, query)
	}
	if st, ok := c.stmts[query]; ok {
		return st, nil
	}
	st, err := c.raw.PrepareContext(background, c.dialect.only(query))
	if err != nil {
		return nil, fmt.Errorf("prepare %q: %w", query, err)
	}
	c.stmts[query] = st
	return st, nil
}

// only drops the lines marked for the other database: "-- only: sqlite" or "-- only: postgres" at their end.
func (d dialect) only(text string) string {
	if !strings.Contains(text, "-- only: ") {
		return text
	}
	var b strings.Builder
	for line := range strings.Lines(text) {
		if _, which, marked := strings.Cut(line, "-- only: "); !marked || strings.TrimSpace(which) == d.name {
			b.WriteString(line)
		}
	}
	return b.String()
}

// scanner is a row.
type scanner interface{ Scan(dest ...any) error }

// exec runs a statement and says how many rows it changed.
func (tx *Tx) exec(query string, args ...any) (int64, error) {
	st, err := tx.conn.stmt(query)
	if err != nil {
		return 0, err
	}
	res, err := st.ExecContext(background, tx.conn.dialect.textArgs(args)...)
	if err != nil {
		return 0, err
	}
	return res.RowsAffected()
}

// one reads the first row; false: there is none.
func one[T any](tx *Tx, scan func(scanner) (T, error), query string, args ...any) (T, bool, error) {
	var zero T
	st, err := tx.conn.stmt(query)
	if err != nil {
		return zero, false, err
	}
	v, err := scan(tx.conn.dialect.row(st.QueryRowContext(background, tx.conn.dialect.textArgs(args)...)))
	switch {
	case err == sql.ErrNoRows:
		return zero, false, nil
	case err != nil:
		return zero, false, err
	}
	return v, true, nil
}

// each calls fn for each row; fn may not query.
func each(tx *Tx, fn func(scanner) error, query string, args ...any) error {
	st, err := tx.conn.stmt(query)
	if err != nil {
		return err
	}
	rows, err := st.QueryContext(background, tx.conn.dialect.textArgs(args)...)
	if err != nil {
		return err
	}
	tx.conn.reading = true
	defer func() { tx.conn.reading = false }()
	defer rows.Close()
	row := tx.conn.dialect.row(rows)
	for rows.Next() {
		if err := fn(row); err != nil {
			return err
		}
	}
	return rows.Err()
}

// list reads all rows.
func list[T any](tx *Tx, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	var all []T
	err := each(tx, func(r scanner) error {
		v, err := scan(r)
		if err == nil {
			all = append(all, v)
		}
		return err
	}, query, args...)
	return all, err
}

// value scans a row of one column.
func value[T any](r scanner) (v T, err error) { err = r.Scan(&v); return }
