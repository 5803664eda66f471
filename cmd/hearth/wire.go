package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"hearth/account"
	"hearth/api/admin"
	"hearth/api/client"
	"hearth/api/federation"
	"hearth/api/httpx"
	mediaapi "hearth/api/media"
	"hearth/clientsync"
	"hearth/config"
	"hearth/directory"
	"hearth/e2ee"
	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/media"
	"hearth/push"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// server is all services, wired.
type server struct {
	cfg       *config.Config
	log       *slog.Logger
	store     *store.Store
	hub       *stream.Hub
	limits    *httpx.Limiter
	accounts  *account.Accounts
	rooms     *room.Engine
	directory *directory.Directory
	push      *push.Service
	media     *media.Repository
	router    *httpx.Router
}

// build makes every service, from the bottom up, and mounts the APIs.
func build(ctx context.Context, cfg *config.Config, log *slog.Logger) (*server, error) {
	if err := os.MkdirAll(cfg.Hearth.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	key, err := config.LoadSigningKey(cfg.SigningKeyPath)
	if err != nil {
		return nil, err
	}
	s := &server{cfg: cfg, log: log, limits: httpx.NewLimiter(rates(cfg))}
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	s.accounts = account.New(s.store, accountOptions(cfg))
	s.rooms = room.New(s.store, room.Options{
		Server: cfg.ServerName, KeyID: key.ID, Key: key.Private,
		DefaultVersion: cfg.DefaultRoomVersion,
		Profile:        s.profile,
	})
	s.directory = directory.New(s.store, s.rooms)
	s.push = push.New(s.store, s.rooms, push.Options{Predefined: pushrules.Predefined{LegacyMentions: cfg.Hearth.LegacyMentions}})
	if s.media, err = media.New(s.store, mediaOptions(cfg)); err != nil {
		return nil, err
	}
	s.connect()
	s.mount(key)
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

// connect sets what services do for one another: siblings do not know each other.
func (s *server) connect() {
	s.accounts.Registered = append(s.accounts.Registered, s.autoJoin)
	s.accounts.ProfileChanged = append(s.accounts.ProfileChanged, s.rooms.UpdateProfile)
	s.accounts.Deactivated = append(s.accounts.Deactivated, s.leaveAll, s.push.Deactivated)
	s.accounts.IsCrossSigningKey = e2ee.IsCrossSigningKey
	s.accounts.DeviceChanged = append(s.accounts.DeviceChanged, e2ee.DeviceChanged)
	s.accounts.DevicesDeleted = append(s.accounts.DevicesDeleted, e2ee.DevicesDeleted, s.push.DevicesDeleted)
	s.accounts.PasswordAttempt = func(u id.User, failed bool) error {
		if failed {
			return s.limits.Take(httpx.LoginFailedAttempts, string(u))
		}
		return s.limits.Check(httpx.LoginFailedAttempts, string(u))
	}
}

// mount makes the router of all APIs.
func (s *server) mount(key config.SigningKey) {
	s.router = &httpx.Router{Limits: s.limits, Log: s.log}
	clients := &client.API{
		Options:   clientOptions(s.cfg),
		Limits:    s.limits,
		Accounts:  s.accounts,
		Rooms:     s.rooms,
		Directory: s.directory,
		Sync:      clientsync.New(s.store, s.rooms, s.hub, s.syncOptions()),
		Push:      s.push,

		RoomUpgraded: s.push.CopyRoom,
	}
	s.router.Authenticate = clients.Authenticate
	tools := &admin.API{Accounts: s.accounts}
	servers := &federation.API{ServerName: s.cfg.ServerName, Version: version, KeyID: key.ID, Key: key.Private}
	if s.cfg.ServeServerWellKnown {
		servers.Delegate = s.cfg.PublicBaseURL
	}
	s.router.Mount(clients.Routes()...)
	s.router.Mount((&mediaapi.API{Repository: s.media}).Routes()...)
	s.router.Mount(tools.Routes()...)
	s.router.Mount(servers.Routes()...)
}

// follow starts every background loop.
func (s *server) follow(loops *runner) {
	loops.start("media", s.media.Run)
	loops.start("push rules of upgraded rooms", func(ctx context.Context) error { return push.NewUpgrades(s.push).Run(ctx, s.hub) })
}

func (s *server) profile(ctx context.Context, u id.User) (p room.Profile, err error) {
	p.DisplayName, p.AvatarURL, err = s.accounts.DisplayNameAndAvatar(ctx, u)
	return p, err
}

// autoJoin puts a new user into the rooms that everybody shall be in. A room
// that cannot be joined is for the administrator to mend; the account stands.
func (s *server) autoJoin(ctx context.Context, u id.User) error {
	for _, name := range s.cfg.AutoJoinRooms {
		alias, err := id.ParseAlias(name)
		if err == nil {
			var r id.Room
			if r, _, err = s.directory.Resolve(ctx, alias); err == nil {
				err = s.rooms.Join(ctx, room.Change{Room: r, Sender: u, Target: u})
			}
		}
		if err != nil {
			s.log.Warn("auto_join_rooms", "room", name, "user", u, "error", err)
		}
	}
	return nil
}

// leaveAll takes a deactivated user out of every room.
func (s *server) leaveAll(ctx context.Context, u id.User, _ bool) error {
	var errs []error
	for _, m := range []store.Membership{store.Join, store.Invite, store.Knock} {
		rooms, err := s.rooms.RoomsOf(ctx, u, m)
		errs = append(errs, err)
		for _, r := range rooms {
			if err := s.rooms.Leave(ctx, room.Change{Room: r, Sender: u, Target: u}); err != nil {
				errs = append(errs, fmt.Errorf("leave %s: %w", r, err))
			}
		}
	}
	return errors.Join(errs...)
}
