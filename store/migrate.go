package store

import (
	"embed"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrate applies what is missing of migrations/NNNN_name.sql, each in a
// transaction of its own, in the order of their numbers. They are append-only:
// a file that has landed is never edited.
func (s *Store) migrate() error {
	tx := newTx(s, s.writer)
	if err := s.writer.exec(`CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY)`); err != nil {
		return fmt.Errorf("prepare migrations: %w", err)
	}
	applied := map[int]bool{}
	done, err := list(tx, value[int], `SELECT version FROM schema_migrations`)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	for _, v := range done {
		applied[v] = true
	}
	files, err := fs.Glob(migrations, "migrations/*.sql") // sorted by name, so by number
	if err != nil {
		return err
	}
	known := map[int]bool{}
	for _, f := range files {
		n, err := strconv.Atoi(strings.TrimPrefix(f, "migrations/")[:4])
		if err != nil || known[n] {
			return fmt.Errorf("migration %s: its name must begin with a number of four digits that no other has", f)
		}
		known[n] = true
		if applied[n] {
			continue
		}
		if err := s.apply(tx, f, n); err != nil {
			return fmt.Errorf("migration %s: %w", f, err)
		}
	}
	for _, v := range done {
		if !known[v] {
			return fmt.Errorf("the database is of a newer Hearth (migration %d): run that version or restore a backup", v)
		}
	}
	return nil
}

func (s *Store) apply(tx *Tx, file string, n int) (err error) {
	text, err := migrations.ReadFile(file)
	if err != nil {
		return err
	}
	if err := s.writer.exec(s.dialect.beginWrite); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = s.writer.exec("ROLLBACK") // the cause is what counts
		}
	}()
	for _, statement := range strings.Split(s.dialect.schema(string(text)), ";\n") {
		if strings.TrimSpace(statement) == "" {
			continue
		}
		if err := s.writer.exec(statement); err != nil {
			return err
		}
	}
	if _, err := tx.exec(`INSERT INTO schema_migrations (version) VALUES ($1)`, n); err != nil {
		return err
	}
	return s.writer.exec("COMMIT")
}

var schemaWords = regexp.MustCompile(`\b(INTEGER|BLOB|WITHOUT ROWID)\b`)

// schema translates a migration: files are written for SQLite, where INTEGER
// has 64 bits and INTEGER PRIMARY KEY is the row's own number.
func (d dialect) schema(text string) string {
	text = d.only(text)
	if d.name == sqlite.name {
		return text
	}
	return schemaWords.ReplaceAllStringFunc(text, func(w string) string {
		switch w {
		case "INTEGER":
			return "BIGINT"
		case "BLOB":
			return "BYTEA"
		}
		return ""
	})
}
