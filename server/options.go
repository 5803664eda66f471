package server

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/client"
	"hearth/api/httpx"
	"hearth/config"
	"hearth/matrix/id"
	"hearth/media"
	"hearth/outgoing"
	"hearth/room"
	"hearth/store"
)

func storeOptions(cfg *config.Config) (store.Options, error) {
	o := store.Options{Server: cfg.ServerName}
	switch cfg.Database.Name {
	case "psycopg2":
		o.Postgres = postgresDSN(cfg.Database.Args)
		if most, ok := cfg.Database.Args["cp_max"]; ok {
			n, err := strconv.Atoi(fmt.Sprint(most))
			if err != nil || n < 1 {
				return o, fmt.Errorf("database.args.cp_max: %v is no number of connections", most)
			}
			o.Readers = max(2, n-1) // one writes
		}
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

// policyServer is what this server does as one for rooms that name it; nil: nothing.
func policyServer(cfg *config.Config, permit func(id.Server) bool) (*room.PolicyServer, error) {
	p := cfg.Hearth.PolicyServer
	if !p.Enabled {
		return nil, nil
	}
	key, err := cfg.LoadPolicyKey()
	if err != nil {
		return nil, fmt.Errorf("key of the policy server: %w", err)
	}
	o := &room.PolicyServer{Key: key, DenyUsers: p.DenyUsers, DenyServers: p.DenyServers, MaxMentions: p.MaxMentions, Permit: permit}
	for _, pattern := range p.DenyText {
		o.DenyText = append(o.DenyText, pattern.Regexp)
	}
	return o, nil
}

func clientOptions(cfg *config.Config, policyKey ed25519.PublicKey) client.Options {
	o := client.Options{
		ServerName:         cfg.ServerName,
		BaseURL:            cfg.PublicBaseURL,
		DefaultRoomVersion: cfg.DefaultRoomVersion,
		PasswordChange:     cfg.Password.Enabled == "true" && cfg.Password.Local,
		WellKnown:          map[string]jsontext.Value{},
		Support:            client.Support{Page: cfg.Hearth.SupportPage},
		PolicyKey:          policyKey,
		TURN: client.TURN{
			URIs: cfg.TURNURIs, Secret: cfg.TURNSharedSecret, Username: cfg.TURNUsername, Password: cfg.TURNPassword,
			Lifetime: time.Duration(cfg.TURNUserLifetime), Guests: cfg.TURNAllowGuests,
		},
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

func accountOptions(cfg *config.Config) account.Options {
	a := cfg.Hearth.Argon2
	o := account.Options{
		ServerName:          cfg.ServerName,
		EnableRegistration:  cfg.EnableRegistration,
		WithoutVerification: cfg.RegistrationUnverified,
		RequireToken:        cfg.RegistrationRequiresToken,
		SharedSecret:        cfg.RegistrationSharedSecret,
		AllowGuests:         cfg.AllowGuestAccess,
		SessionLifetime:     time.Duration(cfg.SessionLifetime),
		AccessLifetime:      time.Duration(cfg.AccessTokenLifetime),
		RefreshLifetime:     time.Duration(cfg.RefreshTokenLifetime),
		PlainLifetime:       time.Duration(cfg.PlainTokenLifetime),
		Passwords: account.Passwords{
			NoLogin:   cfg.Password.Enabled != "true" || !cfg.Password.Local,
			NoReauth:  cfg.Password.Enabled == "false" || !cfg.Password.Local,
			Pepper:    cfg.Password.Pepper,
			MemoryKiB: uint32(a.Memory / 1024), Time: uint32(a.Time), Threads: uint8(a.Threads),
		},
	}
	for _, t := range cfg.Hearth.Terms {
		if o.Terms == nil {
			o.Terms = map[string]account.Policy{}
		}
		p, ok := o.Terms[t.ID]
		if !ok {
			p = account.Policy{Version: t.Version, Translations: map[string]account.PolicyText{}}
			o.Terms[t.ID] = p
		}
		p.Translations[t.Language] = account.PolicyText{Name: t.Name, URL: t.URL}
	}
	if p := cfg.Password.Policy; p.Enabled {
		o.Passwords.MinLength = p.MinLength
		o.Passwords.WantDigit, o.Passwords.WantSymbol = p.Digit, p.Symbol
		o.Passwords.WantLower, o.Passwords.WantUpper = p.Lowercase, p.Uppercase
	}
	return o
}

func mediaOptions(cfg *config.Config, version string) media.Options {
	o := media.Options{
		Server: cfg.ServerName, Dir: cfg.MediaStorePath,
		MaxUpload: int64(cfg.MaxUploadSize), MaxPixels: int64(cfg.MaxImagePixels),
		Authenticated:   cfg.AuthenticatedMedia,
		PendingLifetime: time.Duration(cfg.UnusedExpirationTime), MaxPending: cfg.MaxPendingUploads,
		LocalLifetime: time.Duration(cfg.MediaRetention.Local), RemoteLifetime: time.Duration(cfg.MediaRetention.Remote),
		Previews: media.PreviewOptions{
			Enabled: cfg.URLPreviewEnabled,
			Rules:   outgoing.Rules{Deny: outgoing.Private, Allow: prefixes(cfg.URLPreviewAllow)},
			Blocked: cfg.URLPreviewBlocked, MaxSize: int64(cfg.MaxSpiderSize), AcceptLanguage: cfg.URLPreviewAcceptLanguage,
			UserAgent: "Hearth/" + version + " (link preview)",
		},
	}
	// An empty list means what it says; only a missing one is the default.
	if cfg.URLPreviewDeny != nil {
		o.Previews.Rules.Deny = prefixes(cfg.URLPreviewDeny)
	}
	for _, l := range cfg.MediaUploadLimits {
		o.Quotas = append(o.Quotas, media.Quota{Period: time.Duration(l.TimePeriod), Size: int64(l.MaxSize)})
	}
	return o
}

func prefixes(ranges []config.IPRange) (list []netip.Prefix) {
	for _, r := range ranges {
		list = append(list, r.Prefix)
	}
	return list
}

// encryptPresets are the kinds of rooms that are encrypted by default.
func encryptPresets(cfg *config.Config) []string {
	switch cfg.EncryptedByDefault {
	case "all":
		return []string{"private_chat", "trusted_private_chat", "public_chat"}
	case "invite":
		return []string{"private_chat", "trusted_private_chat"}
	}
	return nil
}
