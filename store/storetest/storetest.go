// Package storetest opens throw-away databases for tests: SQLite always,
// PostgreSQL where HEARTH_TEST_POSTGRES names a server. Where HEARTH_TEST_DATABASE is
// postgres besides, those tests run on it that are about no database in particular. It holds nothing else.
package storetest

import (
	"context"
	"crypto/rand"
	"database/sql"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hearth/store"
	"hearth/stream"
)

// Server is the name of the server whose databases these are.
const Server = "localhost"

// Each runs a test on each database there is.
func Each(t *testing.T, test func(*testing.T, *store.Store)) { EachWith(t, nil, test) }

// EachWith is Each with a function that hears of commits.
func EachWith(t *testing.T, published func(stream.Commit) (wake func()), test func(*testing.T, *store.Store)) {
	t.Run("sqlite", func(t *testing.T) { test(t, Open(t, published)) })
	t.Run("postgres", func(t *testing.T) { test(t, OpenPostgres(t, published)) })
}

// OnPostgres says whether tests that are about no database in particular shall run on PostgreSQL.
func OnPostgres() bool { return os.Getenv("HEARTH_TEST_DATABASE") == "postgres" }

// Open opens an empty database that is gone after the test: on SQLite, but for OnPostgres.
func Open(t testing.TB, published func(stream.Commit) (wake func())) *store.Store {
	if OnPostgres() {
		return OpenPostgres(t, published)
	}
	return open(t, store.Options{SQLite: filepath.Join(t.TempDir(), "homeserver.db"), Published: published})
}

// OpenPostgres opens an empty schema of the server that HEARTH_TEST_POSTGRES
// names (a postgres:// URL), or skips the test.
func OpenPostgres(t testing.TB, published func(stream.Commit) (wake func())) *store.Store {
	return open(t, store.Options{Postgres: PostgresSchema(t), Published: published})
}

// PostgresSchema makes that schema and returns its URL, for a test that opens it itself.
func PostgresSchema(t testing.TB) string {
	base := os.Getenv("HEARTH_TEST_POSTGRES")
	if base == "" {
		if os.Getenv("HEARTH_CI") != "" {
			t.Fatal("HEARTH_TEST_POSTGRES is not set")
		}
		t.Skip("skipped: HEARTH_TEST_POSTGRES names no PostgreSQL server")
	}
	schema := "t" + strings.ToLower(rand.Text())
	db, err := sql.Open("pgx", base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("CREATE SCHEMA " + schema); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_, err := db.Exec("DROP SCHEMA " + schema + " CASCADE")
		if err != nil {
			t.Error(err)
		}
		db.Close()
	})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	q.Set("search_path", schema)
	u.RawQuery = q.Encode()
	return u.String()
}

func open(t testing.TB, o store.Options) *store.Store {
	o.Server = Server
	s, err := store.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// Check fails the test for every fault in the database. Tests whose data come
// from the services call it at their end; those of the store itself make rooms
// by hand that are not whole.
func Check(t testing.TB, s *store.Store) {
	t.Helper()
	faults, err := s.Check(context.Background())
	if err != nil {
		t.Error(err)
	}
	for _, f := range faults {
		t.Error(f)
	}
}
