package main

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// database is the configuration of a database on the PostgreSQL server that POSTGRES names, a URL;
// empty without one. Each container has its own there. The suite makes images of containers that it
// has prepared: one that starts from such an image begins with a copy of the other's database.
func database() (string, error) {
	base := os.Getenv("POSTGRES")
	if base == "" {
		return "", nil
	}
	u, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("POSTGRES: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(host))
	own, file := fmt.Sprintf("hearth_%x", sum[:8]), filepath.Join(data, "database")
	template := "template0"
	if b, err := os.ReadFile(file); err == nil {
		template = string(b)
	}
	if template != own {
		if err := copyDatabase(u.String(), own, template); err != nil {
			return "", fmt.Errorf("make database: %w", err)
		}
		if err := os.WriteFile(file, []byte(own), 0o600); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("database: {name: psycopg2, args: {host: %q, port: %q, user: %q, database: %s}}\n", u.Hostname(), u.Port(), u.User.Username(), own), nil
}

// copyDatabase waits until the server of the template has stopped: nobody may use it meanwhile.
func copyDatabase(dsn, name, template string) error {
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return err
	}
	defer db.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		_, err = db.Exec("CREATE DATABASE " + name + " TEMPLATE " + template + " ENCODING 'UTF8'")
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
