package server

import (
	"context"
	"log/slog"
	"strings"
	"testing"
)

func TestRunnerRestartsWhatPanics(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	r := NewRunner(log)
	if err := r.once(func(context.Context) error { panic("boom") }); err == nil || !strings.Contains(err.Error(), "boom") {
		t.Error(err)
	}
	r.Start("ends", func(context.Context) error { return nil })
	r.Start("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	r.Close()
}

func TestConnectionsAreBounded(t *testing.T) {
	for yaml, want := range map[string]int{
		"database: {name: psycopg2, args: {cp_max: 10}}": 9,
		"database: {name: psycopg2, args: {cp_max: 1}}":  2, // reading needs two
		"database: {name: psycopg2}":                     0, // as many as cores
		"database: {name: psycopg2, args: {cp_max: x}}":  -1,
	} {
		c, err := federationOf(t, yaml)
		if err != nil {
			t.Fatal(err)
		}
		if o, err := storeOptions(c); err == nil && o.Readers != want || (err != nil) != (want < 0) {
			t.Errorf("%s: %d readers, %v", yaml, o.Readers, err)
		}
	}
}

func TestPostgresConnectionString(t *testing.T) {
	got := postgresDSN(map[string]any{"user": "a", "cp_max": 10, "password": `it's\`})
	for _, part := range []string{`user='a' `, `password='it\'s\\' `} {
		if !strings.Contains(got, part) {
			t.Errorf("%s lacks %s", got, part)
		}
	}
	if strings.Contains(got, "cp_max") {
		t.Error(got)
	}
}
