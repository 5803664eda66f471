package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/spf13/cobra"

	"hearth/config"
	"hearth/server"
)

func serveCommand() *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Run the server",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, warnings, err := config.Load(files...)
			if err != nil {
				return err
			}
			log := newLog(cfg, cmd.ErrOrStderr())
			for _, w := range warnings {
				log.Warn(w)
			}
			return run(cmd.Context(), cfg, log, nil)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "config", "c", []string{"homeserver.yaml"}, "configuration file or folder; may be repeated")
	return cmd
}

func newLog(cfg *config.Config, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Hearth.LogLevel)); err != nil {
		panic(err) // the option allows only levels
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.Hearth.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// drainTime is how long running requests may take to end when the server stops.
const drainTime = 8 * time.Second

// run is the server's life. It returns when ctx ends, after everything has
// stopped. ready, if any, is called when requests are served.
func run(ctx context.Context, cfg *config.Config, log *slog.Logger, ready func(*server.Server) error) (err error) {
	slog.SetDefault(log)
	if cfg.Hearth.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(cfg.Hearth.MemoryLimit))
	}
	s, err := server.New(ctx, cfg, log, version)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Store.Close()) }()
	sockets, err := listen(cfg, s.Router, log)
	if err != nil {
		return err
	}
	loops := server.NewRunner(log)
	defer loops.Close() // waits for the sockets, too
	sockets.serve(loops)
	defer func() {
		s.Hub.Release() // waiting /sync requests answer now
		drain, cancel := context.WithTimeout(context.Background(), drainTime)
		defer cancel()
		if err := sockets.shutdown(drain); err != nil {
			log.Warn("requests were cut off", "error", err)
		}
	}()
	s.Follow(loops)
	log.Info("serving", "server_name", cfg.ServerName, "at", sockets.urls, "version", longVersion())
	if ready != nil {
		if err := ready(s); err != nil {
			return err
		}
	}
	<-ctx.Done()
	log.Info("stopping")
	return nil
}
