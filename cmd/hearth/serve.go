package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"hearth/api/client"
	"hearth/api/federation"
	"hearth/api/httpx"
	"hearth/config"
	"hearth/directory"
	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/push"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
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
func run(ctx context.Context, cfg *config.Config, log *slog.Logger, ready func(*server) error) (err error) {
	slog.SetDefault(log)
	if cfg.Hearth.MemoryLimit > 0 {
		debug.SetMemoryLimit(int64(cfg.Hearth.MemoryLimit))
	}
	s, err := build(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.store.Close()) }()
	sockets, err := listen(cfg, s.router, log)
	if err != nil {
		return err
	}
	loops := newRunner(log)
	defer loops.close()
	sockets.serve(loops)
	s.follow(loops)
	log.Info("serving", "server_name", cfg.ServerName, "at", sockets.urls, "version", longVersion())
	if ready != nil {
		if err := ready(s); err != nil {
			return err
		}
	}
	<-ctx.Done()
	log.Info("stopping")
	s.hub.Release() // waiting /sync requests answer now
	drain, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := sockets.shutdown(drain); err != nil {
		log.Warn("requests were cut off", "error", err)
	}
	return nil
}

// server is all services, wired.
type server struct {
	cfg    *config.Config
	log    *slog.Logger
	store  *store.Store
	hub    *stream.Hub
	router *httpx.Router
	push   *push.Service
}

// build makes every service, from the bottom up.
func build(ctx context.Context, cfg *config.Config, log *slog.Logger) (*server, error) {
	if err := os.MkdirAll(cfg.Hearth.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	key, err := config.LoadSigningKey(cfg.SigningKeyPath)
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, log: log}
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	rooms := room.New(s.store, room.Options{Server: cfg.ServerName, KeyID: key.ID, Key: key.Private, DefaultVersion: cfg.DefaultRoomVersion})
	s.push = push.New(s.store, rooms, push.Options{Predefined: pushrules.Predefined{LegacyMentions: cfg.Hearth.LegacyMentions}})
	limits := httpx.NewLimiter(rates(cfg))
	clients := &client.API{
		Options:   clientOptions(cfg),
		Limits:    limits,
		Rooms:     rooms,
		Directory: directory.New(s.store, rooms),
		Push:      s.push,

		RoomUpgraded: s.push.CopyRoom,
	}
	s.router = &httpx.Router{Limits: limits, Log: log}
	s.router.Mount(clients.Routes()...)
	servers := &federation.API{ServerName: cfg.ServerName, Version: version, KeyID: key.ID, Key: key.Private}
	if cfg.ServeServerWellKnown {
		servers.Delegate = cfg.PublicBaseURL
	}
	s.router.Mount(servers.Routes()...)
	return s, nil
}

// openStore opens the database and the hub, each of which needs the other.
func (s *server) openStore(ctx context.Context) (err error) {
	o, err := storeOptions(s.cfg)
	if err != nil {
		return err
	}
	// Nothing is committed before hub is set: Open has no writers yet.
	o.Published = func(c stream.Commit) (wake func()) { return s.hub.Publish(c) }
	if s.store, err = store.Open(ctx, o); err != nil {
		return err
	}
	s.hub = stream.NewHub(s.store.Position())
	return nil
}

// follow starts every background loop.
func (s *server) follow(loops *runner) {
	loops.start("push rules of upgraded rooms", func(ctx context.Context) error { return push.NewUpgrades(s.push).Run(ctx, s.hub) })
}

func storeOptions(cfg *config.Config) (store.Options, error) {
	o := store.Options{Server: cfg.ServerName}
	switch cfg.Database.Name {
	case "psycopg2":
		o.Postgres = postgresDSN(cfg.Database.Args)
	default:
		o.SQLite = filepath.Join(cfg.Hearth.DataDir, "homeserver.db")
		if path, ok := cfg.Database.Args["database"].(string); ok && path != "" {
			if strings.HasPrefix(path, ":memory:") {
				return o, errors.New("database.args.database: a server that forgets everything is not supported")
			}
			o.SQLite = path
		}
	}
	return o, nil
}

// postgresDSN writes libpq keywords as a connection string. Synapse's pool
// options (cp_*) are not libpq's.
func postgresDSN(args map[string]any) string {
	var b strings.Builder
	for k, v := range args {
		switch {
		case k == "database":
			k = "dbname"
		case strings.HasPrefix(k, "cp_"):
			continue
		}
		value := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(fmt.Sprint(v))
		fmt.Fprintf(&b, "%s='%s' ", k, value)
	}
	return b.String()
}

func rates(cfg *config.Config) map[httpx.Limit]httpx.Rate {
	table := map[httpx.Limit]config.Rate{
		httpx.Message:                   cfg.RCMessage,
		httpx.Registration:              cfg.RCRegistration,
		httpx.RegistrationTokenValidity: cfg.RCTokenValidity,
		httpx.LoginAddress:              cfg.RCLogin.Address,
		httpx.LoginAccount:              cfg.RCLogin.Account,
		httpx.LoginFailedAttempts:       cfg.RCLogin.FailedAttempts,
		httpx.JoinsLocal:                cfg.RCJoins.Local,
		httpx.JoinsRemote:               cfg.RCJoins.Remote,
		httpx.JoinsPerRoom:              cfg.RCJoinsPerRoom,
		httpx.InvitesPerRoom:            cfg.RCInvites.PerRoom,
		httpx.InvitesPerUser:            cfg.RCInvites.PerUser,
		httpx.InvitesPerIssuer:          cfg.RCInvites.PerIssuer,
		httpx.AdminRedaction:            cfg.RCAdminRedaction,
		httpx.ThirdPartyValidation:      cfg.RCThirdParty,
		httpx.MediaCreate:               cfg.RCMediaCreate,
		httpx.Reports:                   cfg.RCReports,
		httpx.RoomCreation:              cfg.RCRoomCreation,
		httpx.UserDirectory:             cfg.RCUserDirectory,
		httpx.DelayedEvent:              cfg.RCDelayedEventMgt,
	}
	out := make(map[httpx.Limit]httpx.Rate, len(table))
	for kind, r := range table {
		out[kind] = httpx.Rate{PerSecond: r.PerSecond, Burst: r.Burst}
	}
	return out
}

func clientOptions(cfg *config.Config) client.Options {
	o := client.Options{
		ServerName:         cfg.ServerName,
		BaseURL:            cfg.PublicBaseURL,
		DefaultRoomVersion: cfg.DefaultRoomVersion,
		PasswordChange:     cfg.Password.Enabled == "true" && cfg.Password.Local,
		WellKnown:          map[string]jsontext.Value{},
		Support:            client.Support{Page: cfg.Hearth.SupportPage},
	}
	for k, v := range cfg.ExtraClientWellKnown {
		b, err := json.Marshal(v, json.Deterministic(true))
		if err != nil {
			continue // YAML's values are all JSON values
		}
		o.WellKnown[k] = b
	}
	switch contact := cfg.AdminContact; {
	case strings.HasPrefix(contact, "mailto:"):
		o.Support.Contacts = []client.Contact{{Email: strings.TrimPrefix(contact, "mailto:"), Role: "m.role.admin"}}
	case strings.HasPrefix(contact, "@"):
		o.Support.Contacts = []client.Contact{{Matrix: id.User(contact), Role: "m.role.admin"}}
	}
	return o
}
