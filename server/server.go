// Package server wires all services of a homeserver: it is the one place that
// knows every other package. cmd/hearth runs what it makes, and so do tests.
//
// It opens no socket, reads no file of configuration and has no rule of its
// own. Start at New.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"hearth/account"
	"hearth/api/admin"
	"hearth/api/client"
	"hearth/api/federation"
	"hearth/api/httpx"
	mediaapi "hearth/api/media"
	"hearth/appservice"
	"hearth/clientsync"
	"hearth/config"
	"hearth/directory"
	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/media"
	"hearth/push"
	"hearth/remote"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// Server is all services, wired.
type Server struct {
	Config    *config.Config
	Log       *slog.Logger
	Store     *store.Store
	Hub       *stream.Hub
	Limits    *httpx.Limiter
	Accounts  *account.Accounts
	Remote    *remote.Client
	Sender    *remote.Sender
	Rooms     *room.Engine
	Directory *directory.Directory
	Push      *push.Service
	E2EE      *e2ee.Service
	Receipts  *ephemeral.Receipts
	Typing    *ephemeral.Typing
	Presence  *ephemeral.Presence
	Media     *media.Repository
	Services  *appservice.Services
	Router    *httpx.Router

	version string
}

// New makes every service, from the bottom up, and mounts the APIs.
func New(ctx context.Context, cfg *config.Config, log *slog.Logger, version string) (_ *Server, err error) {
	if err := os.MkdirAll(cfg.Hearth.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make data folder: %w", err)
	}
	incoming, err := emptyFolder(cfg.Hearth.DataDir, "incoming")
	if err != nil {
		return nil, err
	}
	key, err := config.LoadSigningKey(cfg.SigningKeyPath)
	if err != nil {
		return nil, err
	}
	others, err := remoteOptions(cfg, key, version)
	if err != nil {
		return nil, err
	}
	policy, err := policyServer(cfg, others.Permit)
	if err != nil {
		return nil, err
	}
	registry, err := appservice.Load(cfg.AppServiceFiles, cfg.ServerName)
	if err != nil {
		return nil, err
	}
	s := &Server{Config: cfg, Log: log, version: version, Limits: httpx.NewLimiter(rates(cfg))}
	if err := s.openStore(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Store.Close())
		}
	}()
	s.Accounts = account.New(s.Store, accountOptions(cfg))
	s.Remote = remote.New(s.Store, others)
	s.E2EE = e2ee.New(s.Store, cfg.ServerName, s.keysElsewhere())
	s.E2EE.NamesToServers = cfg.DeviceNamesToServers
	s.Sender = remote.NewSender(s.Store, remote.SenderOptions{
		Server: cfg.ServerName, Send: s.Remote.SendTransaction, Reach: s.Remote.Reach, MissedKeys: s.E2EE.MissedKeys, Allow: others.Permit,
	})
	s.Remote.Alive = s.Sender.Up
	s.Rooms = room.New(s.Store, room.Options{
		Server: cfg.ServerName, KeyID: key.ID, Key: key.Private,
		DefaultVersion: cfg.DefaultRoomVersion,
		EncryptPresets: encryptPresets(cfg),
		NoSearch:       !cfg.EnableSearch,
		TempDir:        incoming,
		Network:        s.Remote,
		PolicyServer:   policy,
		Profile:        s.profile,
	})
	s.Directory = directory.New(s.Store, s.Rooms, directory.Options{
		Remote:     s.Remote,
		Services:   serviceIDs(registry),
		QueryAlias: func(ctx context.Context, a id.Alias) (bool, error) { return s.Services.QueryAlias(ctx, a) },
		HideUsers:  !cfg.UserDirectory.Enabled, AllUsers: cfg.UserDirectory.SearchAllUsers,
	})
	s.Push = push.New(s.Store, s.Rooms, push.Options{Predefined: pushrules.Predefined{LegacyMentions: cfg.Hearth.LegacyMentions}})
	s.Receipts = ephemeral.NewReceipts(s.Store)
	s.Typing = ephemeral.NewTyping(s.Store, s.Hub)
	s.Presence = ephemeral.NewPresence(s.Store, s.Hub, cfg.Presence.Enabled)
	files := mediaOptions(cfg, version)
	files.Remote = s.remoteFile
	if s.Media, err = media.New(s.Store, files); err != nil {
		return nil, err
	}
	s.Services = appservice.New(s.Store, s.Rooms, registry)
	s.connect()
	s.tellOthers()
	s.mount()
	return s, s.startServices(ctx)
}

// emptyFolder makes a folder for files that do not outlive the process.
func emptyFolder(in, name string) (string, error) {
	dir := filepath.Join(in, name)
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("empty %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make %s: %w", dir, err)
	}
	return dir, nil
}

// openStore opens the database and the hub, each of which needs the other.
func (s *Server) openStore(ctx context.Context) (err error) {
	o, err := storeOptions(s.Config)
	if err != nil {
		return err
	}
	// Nothing is committed before hub is set: Open has no writers yet.
	o.Published = func(c stream.Commit) (wake func()) { return s.Hub.Publish(c) }
	if s.Store, err = store.Open(ctx, o); err != nil {
		return err
	}
	s.Hub = stream.NewHub(s.Store.Position())
	return nil
}

// connect sets what services do for one another: siblings do not know each other.
func (s *Server) connect() {
	s.Accounts.Registered = append(s.Accounts.Registered, s.autoJoin)
	s.Accounts.ProfileChanged = append(s.Accounts.ProfileChanged, s.Rooms.UpdateProfile)
	s.Accounts.Deactivated = append(s.Accounts.Deactivated, s.leaveAll, s.Push.Deactivated)
	s.Accounts.RemoteProfile = s.remoteProfile
	s.Accounts.QueryUser = s.Services.QueryUser
	s.Accounts.IsCrossSigningKey = e2ee.IsCrossSigningKey
	s.Accounts.DeviceChanged = append(s.Accounts.DeviceChanged, s.E2EE.DeviceChanged)
	s.Accounts.DevicesDeleted = append(s.Accounts.DevicesDeleted, s.E2EE.DevicesDeleted, s.Push.DevicesDeleted)
	s.Accounts.FindAppservice = func(token string) (account.Appservice, bool) {
		v, ok := s.Services.ByToken(token)
		if !ok {
			return account.Appservice{}, false
		}
		return accountOf(v), true
	}
	s.Accounts.ExclusiveTo = func(u id.User) (string, bool) {
		v, ok := s.Services.ExclusiveUser(u)
		if !ok {
			return "", false
		}
		return v.ID, true
	}
	s.Accounts.PasswordAttempt = func(u id.User, failed bool) error {
		if failed {
			return s.Limits.Take(httpx.LoginFailedAttempts, string(u))
		}
		return s.Limits.Check(httpx.LoginFailedAttempts, string(u))
	}
}

// mount makes the router of all APIs.
func (s *Server) mount() {
	s.Router = &httpx.Router{Limits: s.Limits, Log: s.Log}
	clients := &client.API{
		Options:   clientOptions(s.Config, s.Rooms.PolicyKey()),
		Limits:    s.Limits,
		Accounts:  s.Accounts,
		Rooms:     s.Rooms,
		Directory: s.Directory,
		Sync:      clientsync.New(s.Store, s.Rooms, s.Hub, s.syncOptions()),
		Push:      s.Push,
		Services:  s.Services,
		E2EE:      s.E2EE,
		Receipts:  s.Receipts,
		Typing:    s.Typing,
		Presence:  s.Presence,

		RoomUpgraded: s.Push.CopyRoom,
		Echoes:       &s.Router.Echoes,
	}
	if s.Config.LimitRemoteRooms.Enabled {
		clients.Join = s.joinWithinLimit
	}
	s.Router.Authenticate = clients.Authenticate
	s.Router.AuthenticateServer = s.authenticateServer
	s.Router.Servers = httpx.NewTurns(s.Config.RCFederation.Concurrent, s.Config.RCFederation.RejectLimit)
	tools := &admin.API{Accounts: s.Accounts}
	servers := &federation.API{
		ServerName: s.Config.ServerName, Version: s.version, Keys: s.Remote.Keys,

		Limits:       s.Limits,
		Rooms:        s.Rooms,
		Directory:    s.Directory,
		Accounts:     s.Accounts,
		Media:        s.Media,
		E2EE:         s.E2EE,
		Receipts:     s.Receipts,
		Typing:       s.Typing,
		Presence:     s.Presence,
		Transactions: federation.NewTransactions(),

		HidePublicRooms: !s.Config.PublicRoomsToServers,
		HideProfiles:    !s.Config.ProfilesToServers,
	}
	if s.Config.ServeServerWellKnown {
		servers.Delegate = s.Config.PublicBaseURL
	}
	s.Router.Mount(clients.Routes()...)
	s.Router.Mount((&mediaapi.API{Repository: s.Media}).Routes()...)
	s.Router.Mount(tools.Routes()...)
	s.Router.Mount(servers.Routes()...)
}

// Follow starts every background loop.
func (s *Server) Follow(loops *Runner) {
	loops.Start("media", s.Media.Run)
	loops.Start("application services", func(ctx context.Context) error { return s.Services.Run(ctx, s.Hub) })
	for _, v := range s.Services.All() {
		loops.Start("application service "+v.ID, func(ctx context.Context) error { return s.Services.Deliver(ctx, v.ID) })
	}
	loops.Start("members of rooms just joined", s.Rooms.CompleteStates)
	loops.Start("joins and leaves that go on alone", s.Rooms.Attend)
	loops.Start("index of words", s.Rooms.RunIndex)
	loops.Start("push rules of upgraded rooms", func(ctx context.Context) error { return push.NewUpgrades(s.Push).Run(ctx, s.Hub) })
	loops.Start("presence", s.Presence.Run)
	loops.Start("typing", s.Typing.Run)
	loops.Start("receipts that came early", func(ctx context.Context) error { return s.Receipts.Follow(ctx, s.Hub) })
	loops.Start("connections to other servers", s.Remote.Run)
	loops.Start("sending to other servers", func(ctx context.Context) error { return s.Sender.Run(ctx, s.Hub) })
	loops.Start("device lists", func(ctx context.Context) error { return s.E2EE.Follow(ctx, s.Hub) })
	loops.Start("device lists of other servers", s.E2EE.FetchStale)
}

// startServices makes the users of application services themselves.
func (s *Server) startServices(ctx context.Context) error {
	for _, v := range s.Services.All() {
		if err := s.Accounts.MakeSender(ctx, accountOf(v)); err != nil {
			return fmt.Errorf("make %s: %w", v.Sender, err)
		}
	}
	return s.Services.Begin(ctx, s.Hub.Now().Durable)
}

func serviceIDs(r *appservice.Registry) (list []string) {
	for _, v := range r.All() {
		list = append(list, v.ID)
	}
	return list
}

func accountOf(v *appservice.Service) account.Appservice {
	return account.Appservice{ID: v.ID, Sender: v.Sender, RateLimited: v.RateLimited, Owns: v.OwnsUser}
}

func (s *Server) profile(ctx context.Context, u id.User) (p room.Profile, err error) {
	p.DisplayName, p.AvatarURL, err = s.Accounts.DisplayNameAndAvatar(ctx, u)
	return p, err
}

// autoJoin puts a new user into the rooms that everybody shall be in. A room
// that cannot be joined is for the administrator to mend; the account stands.
func (s *Server) autoJoin(ctx context.Context, u id.User) error {
	for _, name := range s.Config.AutoJoinRooms {
		alias, err := id.ParseAlias(name)
		if err == nil {
			var r id.Room
			if r, _, err = s.Directory.Resolve(ctx, alias); err == nil {
				err = s.Rooms.Join(ctx, room.Change{Room: r, Sender: u, Target: u})
			}
		}
		if err != nil {
			s.Log.Warn("auto_join_rooms", "room", name, "user", u, "error", err)
		}
	}
	return nil
}

// leaveAll takes a deactivated user out of every room.
func (s *Server) leaveAll(ctx context.Context, u id.User, _ bool) error {
	var errs []error
	for _, m := range []store.Membership{store.Join, store.Invite, store.Knock} {
		rooms, err := s.Rooms.RoomsOf(ctx, u, m)
		errs = append(errs, err)
		for _, r := range rooms {
			if err := s.Rooms.Leave(ctx, room.Change{Room: r, Sender: u, Target: u}); err != nil {
				errs = append(errs, fmt.Errorf("leave %s: %w", r, err))
			}
		}
	}
	return errors.Join(errs...)
}
