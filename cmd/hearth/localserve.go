package main

import (
	"fmt"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"hearth/config"
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
			return run(cmd.Context(), cfg, log, func(s *server) error {
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "\nhearth is ready: point a Matrix client (Element, Cinny, gomuks, …) at\n\n    %s\n\n", cfg.PublicBaseURL)
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
