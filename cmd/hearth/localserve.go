package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"hearth/account"
	"hearth/config"
	"hearth/matrix/id"
	"hearth/server"
)

func localserveCommand() *cobra.Command {
	dir, port := "data", 8008
	cmd := &cobra.Command{
		Use:   "localserve",
		Short: "Run a server for trying out on this machine, with two users",
		Long: "Runs a server named localhost for this machine alone: SQLite in ./data, open registration, no rate\n" +
			"limits, users alice and bob. Nothing leaves the machine. Delete the folder to start afresh.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg := localConfig(dir, port)
			if err := cfg.Complete(); err != nil {
				return err
			}
			log := newLog(cfg, cmd.ErrOrStderr())
			return run(cmd.Context(), cfg, log, func(s *server.Server) error {
				users, err := localUsers(cmd.Context(), s)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "\nHearth is ready. Point a Matrix client (Element, Cinny, gomuks, …) at\n\n    %s\n\nand log in with one of these names and passwords:\n\n%s\n",
					cfg.PublicBaseURL, users)
				return err
			})
		},
	}
	cmd.Flags().StringVar(&dir, "data", dir, "folder for everything that is kept")
	cmd.Flags().IntVar(&port, "port", port, "port on 127.0.0.1")
	return cmd
}

// localConfig is open to whoever can reach it, which is this machine alone.
func localConfig(dir string, port int) *config.Config {
	cfg := config.Default()
	cfg.ServerName = "localhost"
	cfg.PublicBaseURL = "http://localhost:" + strconv.Itoa(port) + "/"
	cfg.Listeners = []config.Listener{{Port: port, BindAddresses: []string{"127.0.0.1"}, Type: "http"}}
	cfg.Hearth.DataDir = filepath.Clean(dir)
	cfg.EnableRegistration, cfg.RegistrationUnverified = true, true
	cfg.AllowGuestAccess = true
	cfg.WithoutRateLimits()
	return cfg
}

// localUsers makes alice and bob at the first start, and tells their passwords
// at each: they are kept beside the data, which is for trying out.
func localUsers(ctx context.Context, s *server.Server) (string, error) {
	passwords, err := localPasswords(filepath.Join(s.Config.Hearth.DataDir, "users.txt"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(passwords) {
		var name, password string
		if _, err := fmt.Sscan(line, &name, &password); err != nil {
			return "", fmt.Errorf("read users.txt: %w", err)
		}
		_, exists, err := s.Accounts.GetUser(ctx, id.MakeUser(name, s.Config.ServerName))
		if err != nil {
			return "", err
		}
		if exists {
			continue
		}
		hash, err := s.Accounts.HashPassword(ctx, password)
		if err != nil {
			return "", err
		}
		if _, err := s.Accounts.Register(ctx, account.Registration{Username: name, PasswordHash: hash, InhibitLogin: true}); err != nil {
			return "", fmt.Errorf("make %s: %w", name, err)
		}
	}
	return passwords, nil
}

// localPasswords reads lines of name and password, and writes them first where
// there are none.
func localPasswords(file string) (string, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, os.ErrNotExist) {
		for _, name := range []string{"alice", "bob"} {
			b = fmt.Appendf(b, "    %-6s %s\n", name, strings.ToLower(rand.Text()[:12]))
		}
		err = os.WriteFile(file, b, 0o600)
	}
	return string(b), err
}
