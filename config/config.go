// Package config is the program's configuration: one struct whose tags hold
// each option's key, default and text. Keys are Synapse's where Synapse has the
// option; the rest is under hearth:.
//
// No package reads a global configuration: cmd/hearth loads it once and hands
// each constructor its piece. Start at Config, then Load.
package config

import (
	"reflect"

	"hearth/matrix/id"
)

// Config is every option. A field without a default tag defaults to its zero value.
type Config struct {
	_                    struct{}                 `section:"Server"`
	ServerName           id.Server                `yaml:"server_name" doc:"The name after the colon in user ids. It can never change. The only key that must be set."`
	PublicBaseURL        string                   `yaml:"public_baseurl" doc:"Where clients reach this server. Default: https://<server_name>/."`
	Listeners            []Listener               `yaml:"listeners" doc:"Where to listen. Default: port 8008 on loopback behind a proxy, and port 8448 with TLS on every address when a certificate is set."`
	TLSCertificatePath   string                   `yaml:"tls_certificate_path" doc:"PEM file with the certificate and its chain. It is read again when it changes."`
	TLSPrivateKeyPath    string                   `yaml:"tls_private_key_path" doc:"PEM file with the key of the certificate."`
	SigningKeyPath       string                   `yaml:"signing_key_path" doc:"The key that signs this server's events, in Synapse's format; made when missing. Of several, one a line, the first signs, and all are published. Default: <server_name>.signing.key in hearth.data_dir."`
	TrustedKeyServers    []KeyServer              `yaml:"trusted_key_servers" default:"[{server_name: matrix.org}]" doc:"Servers asked for the keys of servers that do not answer themselves, and of very many at once; [] asks nobody."`
	OldSigningKeys       map[string]OldSigningKey `yaml:"old_signing_keys" doc:"Keys that this server signed with before, so that others can still verify its old events: by key id such as ed25519:a_1, each with key (the public key in base64) and expired_ts (when it was last used, in milliseconds since 1970)."`
	ServeServerWellKnown bool                     `yaml:"serve_server_wellknown" default:"true" doc:"Tell other homeservers to use the host and port of public_baseurl."`
	ExtraClientWellKnown map[string]any           `yaml:"extra_well_known_client_content" doc:"Further keys of /.well-known/matrix/client."`
	AdminContact         string                   `yaml:"admin_contact" doc:"How to reach the administrator, such as mailto:admin@example.org; shown to users in /.well-known/matrix/support."`
	Database             Database                 `yaml:"database" doc:"Where data is kept. Default: SQLite, homeserver.db in hearth.data_dir."`
	AppServiceFiles      []string                 `yaml:"app_service_config_files" doc:"Registration files of bridges and other application services."`

	_                            struct{}         `section:"Federation"`
	FederationDomainWhitelist    []id.Server      `yaml:"federation_domain_whitelist" doc:"The only servers to federate with; an empty list: none. Default: all."`
	FederationVerifyCertificates bool             `yaml:"federation_verify_certificates" default:"true" doc:"Must stay on: without it anybody on the way could read and change what servers say to each other."`
	FederationMinimumTLS         string           `yaml:"federation_client_minimum_tls_version" default:"1.2" allowed:"1 1.0 1.1 1.2 1.3" doc:"The oldest TLS version that is spoken to other servers."`
	FederationCAs                []string         `yaml:"federation_custom_ca_list" doc:"PEM files of authorities whose certificates are trusted beside those of the system."`
	IPRangeDeny                  []IPRange        `yaml:"ip_range_blacklist" doc:"Addresses that other servers may not have, nor URLs that they hand over. Default: none for servers; all that are not public for URLs."`
	IPRangeAllow                 []IPRange        `yaml:"ip_range_whitelist" doc:"Exceptions from it."`
	FederationIPRangeDeny        []IPRange        `yaml:"federation_ip_range_blacklist" doc:"Addresses that other servers may not have. Default: ip_range_blacklist."`
	PublicRoomsToServers         bool             `yaml:"allow_public_rooms_over_federation" default:"false" doc:"Show the list of public rooms to other servers, and so to everybody."`
	LimitRemoteRooms             LimitRemoteRooms `yaml:"limit_remote_rooms" doc:"Keep users out of rooms of other servers that are too large for this one."`
	ProfilesToServers            bool             `yaml:"allow_profile_lookup_over_federation" default:"true" doc:"Tell other servers the names and pictures of users."`
	DeviceNamesToServers         bool             `yaml:"allow_device_name_lookup_over_federation" default:"false" doc:"Tell other servers the names of users' devices, such as Alice's telephone."`

	_                         struct{}       `section:"Accounts"`
	EnableRegistration        bool           `yaml:"enable_registration" default:"false" doc:"Let people make accounts by themselves."`
	RegistrationUnverified    bool           `yaml:"enable_registration_without_verification" default:"false" doc:"Let anybody at all do so. Spammers look for such servers."`
	RegistrationRequiresToken bool           `yaml:"registration_requires_token" default:"false" doc:"Let those register who have a registration token."`
	RegistrationSharedSecret  string         `yaml:"registration_shared_secret" doc:"Who knows it can make accounts and administrators with register_new_matrix_user."`
	RegistrationSecretPath    string         `yaml:"registration_shared_secret_path" doc:"A file that holds the secret; made when missing."`
	SessionLifetime           Duration       `yaml:"session_lifetime" default:"0" doc:"How long a login lasts; 0: until logging out."`
	AccessTokenLifetime       Duration       `yaml:"refreshable_access_token_lifetime" default:"5m" doc:"How long the access tokens of clients that refresh them last."`
	RefreshTokenLifetime      Duration       `yaml:"refresh_token_lifetime" default:"0" doc:"How long refresh tokens last; 0: for ever."`
	PlainTokenLifetime        Duration       `yaml:"nonrefreshable_access_token_lifetime" default:"0" doc:"How long the access tokens of other clients last; 0: for ever."`
	AllowGuestAccess          bool           `yaml:"allow_guest_access" default:"false" doc:"Let people look around without an account."`
	AutoJoinRooms             []string       `yaml:"auto_join_rooms" doc:"Room aliases that new users join."`
	Password                  PasswordConfig `yaml:"password_config" doc:"Logging in with passwords."`

	_                  struct{}      `section:"Rooms"`
	DefaultRoomVersion string        `yaml:"default_room_version" default:"12" doc:"The version of new rooms."`
	EncryptedByDefault string        `yaml:"encryption_enabled_by_default_for_room_type" default:"off" allowed:"off all invite" doc:"Which new rooms are encrypted even where the client does not ask for it."`
	Presence           Presence      `yaml:"presence" doc:"Who is online."`
	UsePresence        bool          `yaml:"use_presence" default:"true" doc:"The former name of presence.enabled: either switches it off."`
	EnableSearch       bool          `yaml:"enable_search" default:"true" doc:"Let users search for words in unencrypted messages. What was sent while it is off is not found later."`
	UserDirectory      UserDirectory `yaml:"user_directory" doc:"The search for people."`

	_              struct{} `section:"Media"`
	MediaStorePath string   `yaml:"media_store_path" doc:"The folder of uploaded files. Default: media in hearth.data_dir."`
	MaxUploadSize  Size     `yaml:"max_upload_size" default:"50M" doc:"The largest file that may be uploaded."`
	MaxImagePixels Size     `yaml:"max_image_pixels" default:"32M" doc:"Larger images get no thumbnails."`

	AuthenticatedMedia       bool                `yaml:"enable_authenticated_media" default:"true" doc:"Show files uploaded from now on only to those who are logged in."`
	MaxPendingUploads        int                 `yaml:"max_pending_media_uploads" default:"5" doc:"How many media ids a user may have reserved without uploading the file."`
	UnusedExpirationTime     Duration            `yaml:"unused_expiration_time" default:"1d" doc:"How long such an id waits for its file."`
	MediaUploadLimits        []MediaUploadLimit  `yaml:"media_upload_limits" doc:"How much each user may upload."`
	MediaRetention           MediaRetention      `yaml:"media_retention" doc:"How long files are kept that nobody asks for."`
	URLPreviewEnabled        bool                `yaml:"url_preview_enabled" default:"false" doc:"Fetch pages that users link to and show what they are. The server then visits addresses that its users choose."`
	URLPreviewDeny           []IPRange           `yaml:"url_preview_ip_range_blacklist" doc:"Addresses that are not visited for it. Default: all that are not public."`
	URLPreviewAllow          []IPRange           `yaml:"url_preview_ip_range_whitelist" doc:"Exceptions from it."`
	URLPreviewBlocked        []map[string]string `yaml:"url_preview_url_blacklist" doc:"URLs without preview: patterns for scheme, username, netloc, hostname, port, path or query, all of which must match. They are globs, or regular expressions if they begin with ^."`
	URLPreviewAcceptLanguage []string            `yaml:"url_preview_accept_language" doc:"Languages that pages are asked for in. Default: en."`
	MaxSpiderSize            Size                `yaml:"max_spider_size" default:"10M" doc:"The largest page or picture that is fetched for a preview."`

	_                struct{} `section:"Calls"`
	TURNURIs         []string `yaml:"turn_uris" doc:"TURN servers that relay calls, such as turn:turn.example.org?transport=udp."`
	TURNSharedSecret string   `yaml:"turn_shared_secret" doc:"The secret shared with the TURN server."`
	TURNSecretPath   string   `yaml:"turn_shared_secret_path" doc:"A file that holds it."`
	TURNUsername     string   `yaml:"turn_username" doc:"User name, for a TURN server without a shared secret."`
	TURNPassword     string   `yaml:"turn_password" doc:"Password, for a TURN server without a shared secret."`
	TURNUserLifetime Duration `yaml:"turn_user_lifetime" default:"1h" doc:"How long credentials are valid."`
	TURNAllowGuests  bool     `yaml:"turn_allow_guests" default:"true" doc:"Let guests make calls."`

	_                 struct{}     `section:"Rate limits"`
	RCMessage         Rate         `yaml:"rc_message" default:"{per_second: 0.2, burst_count: 10}" doc:"Messages of a user."`
	RCRegistration    Rate         `yaml:"rc_registration" default:"{per_second: 0.17, burst_count: 3}" doc:"Registrations from an address."`
	RCTokenValidity   Rate         `yaml:"rc_registration_token_validity" default:"{per_second: 0.1, burst_count: 5}" doc:"Questions from an address whether a registration token is valid."`
	RCLogin           RCLogin      `yaml:"rc_login" doc:"Logins."`
	RCJoins           RCJoins      `yaml:"rc_joins" doc:"Joins of a user."`
	RCJoinsPerRoom    Rate         `yaml:"rc_joins_per_room" default:"{per_second: 1, burst_count: 10}" doc:"Joins to a room."`
	RCInvites         RCInvites    `yaml:"rc_invites" doc:"Invites."`
	RCAdminRedaction  Rate         `yaml:"rc_admin_redaction" default:"{per_second: 1, burst_count: 50}" doc:"Redactions of others' messages by a user."`
	RCThirdParty      Rate         `yaml:"rc_3pid_validation" default:"{per_second: 0.003, burst_count: 5}" doc:"Mails sent to prove an address."`
	RCMediaCreate     Rate         `yaml:"rc_media_create" default:"{per_second: 10, burst_count: 50}" doc:"Media ids reserved by a user."`
	RCReports         Rate         `yaml:"rc_reports" default:"{per_second: 1, burst_count: 5}" doc:"Reports by a user."`
	RCRoomCreation    Rate         `yaml:"rc_room_creation" default:"{per_second: 0.016, burst_count: 10}" doc:"Rooms made by a user."`
	RCUserDirectory   Rate         `yaml:"rc_user_directory" default:"{per_second: 0.016, burst_count: 200}" doc:"Searches for people by a user."`
	RCFederation      RCFederation `yaml:"rc_federation" doc:"Requests of another server."`
	RCDelayedEventMgt Rate         `yaml:"rc_delayed_event_mgmt" default:"{per_second: 1, burst_count: 5}" doc:"Changes of delayed events by a user."`

	_      struct{} `section:"Hearth's own"`
	Hearth Hearth   `yaml:"hearth" doc:"Options that only Hearth has."`
}

// Listener is one place to listen, as in Synapse's file.
type Listener struct {
	Port          int        `yaml:"port" doc:"TCP port."`
	BindAddresses []string   `yaml:"bind_addresses" doc:"Addresses; default: all."`
	BindAddress   string     `yaml:"bind_address" doc:"One address."`
	Type          string     `yaml:"type" default:"http" allowed:"http metrics manhole" doc:"Only http listeners are served."`
	TLS           bool       `yaml:"tls" default:"false" doc:"Serve HTTPS with tls_certificate_path."`
	XForwarded    bool       `yaml:"x_forwarded" default:"false" doc:"Behind a proxy that sets X-Forwarded-For."`
	Resources     []Resource `yaml:"resources" doc:"Accepted for Synapse's sake: every listener serves everything."`
}

type Resource struct {
	Names    []string `yaml:"names" doc:"Ignored."`
	Compress bool     `yaml:"compress" default:"false" doc:"Ignored."`
}

type KeyServer struct {
	ServerName       id.Server         `yaml:"server_name" doc:"Its name."`
	VerifyKeys       map[string]string `yaml:"verify_keys" doc:"Its known keys, by key id."`
	AcceptUnverified bool              `yaml:"accept_keys_insecurely" default:"false" doc:"Accepted for Synapse's sake; signatures are always checked."`
}

// OldSigningKey is the public half of a key that is no longer used.
type OldSigningKey struct {
	Key     string `yaml:"key" doc:"The public key in base64."`
	Expired int    `yaml:"expired_ts" doc:"When it was last used, in milliseconds since 1970."`
}

type Database struct {
	Name string         `yaml:"name" default:"sqlite3" allowed:"sqlite3 psycopg2" doc:"sqlite3, or psycopg2 for PostgreSQL."`
	Args map[string]any `yaml:"args" doc:"database: the file, for sqlite3; libpq's keywords for psycopg2; cp_max bounds the connections."`
}

type PasswordConfig struct {
	Enabled string         `yaml:"enabled" default:"true" allowed:"true false only_for_reauth" doc:"Whether users log in with passwords."`
	Local   bool           `yaml:"localdb_enabled" default:"true" doc:"Whether passwords are looked up in the own database."`
	Pepper  string         `yaml:"pepper" doc:"A secret that is mixed into every password. It can never change."`
	Policy  PasswordPolicy `yaml:"policy" doc:"What new passwords must have."`
}

type PasswordPolicy struct {
	Enabled   bool `yaml:"enabled" default:"false" doc:"Enforce the policy."`
	MinLength int  `yaml:"minimum_length" default:"0" doc:"Shortest length."`
	Digit     bool `yaml:"require_digit" default:"false" doc:"Want a digit."`
	Symbol    bool `yaml:"require_symbol" default:"false" doc:"Want something that is neither letter nor digit."`
	Lowercase bool `yaml:"require_lowercase" default:"false" doc:"Want a small letter."`
	Uppercase bool `yaml:"require_uppercase" default:"false" doc:"Want a capital letter."`
}

type MediaUploadLimit struct {
	TimePeriod Duration `yaml:"time_period" doc:"The span of time."`
	MaxSize    Size     `yaml:"max_size" doc:"How many bytes in it."`
}

type MediaRetention struct {
	Local  Duration `yaml:"local_media_lifetime" default:"0" doc:"Files uploaded here; 0: for ever."`
	Remote Duration `yaml:"remote_media_lifetime" default:"30d" doc:"Copies of other servers' files, which are fetched again when needed; 0: for ever."`
}

type LimitRemoteRooms struct {
	Enabled       bool    `yaml:"enabled" default:"false" doc:"Do so."`
	Complexity    float64 `yaml:"complexity" default:"1.0" doc:"The most that a room may cost: 1 is 500 entries in its state, such as members."`
	Error         string  `yaml:"complexity_error" default:"This room is too large for this server to join." doc:"What users are told."`
	AdminsCanJoin bool    `yaml:"admins_can_join" default:"false" doc:"Let administrators join all the same."`
}

type UserDirectory struct {
	Enabled        bool `yaml:"enabled" default:"true" doc:"Let users search for people."`
	SearchAllUsers bool `yaml:"search_all_users" default:"false" doc:"Also find local users who share no room with the searcher and are in none that is open to everybody."`
}

type Presence struct {
	Enabled bool `yaml:"enabled" default:"true" doc:"Show who is online."`
}

type RCLogin struct {
	Address        Rate `yaml:"address" default:"{per_second: 0.003, burst_count: 5}" doc:"By address."`
	Account        Rate `yaml:"account" default:"{per_second: 0.003, burst_count: 5}" doc:"By account."`
	FailedAttempts Rate `yaml:"failed_attempts" default:"{per_second: 0.17, burst_count: 3}" doc:"Failures, by account."`
}

type RCJoins struct {
	Local  Rate `yaml:"local" default:"{per_second: 0.1, burst_count: 10}" doc:"Rooms that this server is in."`
	Remote Rate `yaml:"remote" default:"{per_second: 0.01, burst_count: 10}" doc:"Rooms of other servers."`
}

type RCInvites struct {
	PerRoom   Rate `yaml:"per_room" default:"{per_second: 0.3, burst_count: 10}" doc:"By room, of users here."`
	PerUser   Rate `yaml:"per_user" default:"{per_second: 0.003, burst_count: 5}" doc:"By invited user."`
	PerIssuer Rate `yaml:"per_issuer" default:"{per_second: 0.3, burst_count: 10}" doc:"By inviting user."`
}

type RCFederation struct {
	Concurrent  int `yaml:"concurrent" default:"10" doc:"How many are answered at once, and as many with files or whole rooms; 0: any number."`
	RejectLimit int `yaml:"reject_limit" default:"200" doc:"How many more wait. What comes on top of them is refused, and the other server tries again."`
}

// Hearth is what Synapse has no key for.
type Hearth struct {
	DataDir     string `yaml:"data_dir" default:"data" doc:"The folder of everything that is kept: database, keys, media."`
	MemoryLimit Size   `yaml:"memory_limit" default:"0" doc:"How much memory to aim for, such as 512M; 0: as much as it takes."`
	LogLevel    string `yaml:"log_level" default:"info" allowed:"debug info warn error" doc:"The least important lines that are logged."`
	LogFormat   string `yaml:"log_format" default:"text" allowed:"text json" doc:"How log lines look."`
	Argon2      Argon2 `yaml:"argon2" doc:"The cost of password hashes."`
	// LegacyMentions is for clients that do not tell whom a message mentions.
	LegacyMentions bool    `yaml:"legacy_mentions" default:"false" doc:"Also notify users of messages that merely contain their name or @room, as Matrix did before v1.17."`
	Terms          []Terms `yaml:"terms" doc:"Documents that people must accept when they register."`
	SupportPage    string  `yaml:"support_page" doc:"A page that helps users, shown in /.well-known/matrix/support."`

	PolicyServer PolicyServer `yaml:"policy_server" doc:"What this server does for rooms that name it as their policy server; see policy-server.md."`
}

// PolicyServer keeps what is not wanted out of rooms that ask for it.
type PolicyServer struct {
	Enabled     bool      `yaml:"enabled" default:"true" doc:"Be the policy server of rooms whose m.room.policy names this server with its key, and in which one of its users is."`
	DenyUsers   []string  `yaml:"deny_users" doc:"Users whose events are refused there, such as '@spam*:*'; * stands for any characters, ? for one."`
	DenyServers []string  `yaml:"deny_servers" doc:"Servers whose users' events are refused there, such as '*.evil.example'."`
	DenyText    []Pattern `yaml:"deny_text" doc:"Regular expressions, in the syntax of RE2, of what no unencrypted message may say there; (?i) before one makes capitals and small letters the same."`
	MaxMentions int       `yaml:"max_mentions" default:"0" doc:"How many users a message may mention there; 0: any number."`
}

// Terms is one document in one language.
type Terms struct {
	ID       string `yaml:"id" doc:"Which document it is, such as privacy_policy; the same for all languages."`
	Version  string `yaml:"version" default:"1.0" doc:"Its version."`
	Language string `yaml:"language" default:"en" doc:"Its language."`
	Name     string `yaml:"name" doc:"What people see."`
	URL      string `yaml:"url" doc:"Where it can be read."`
}

type Argon2 struct {
	Memory  Size `yaml:"memory" default:"19M" doc:"Memory of one hash."`
	Time    int  `yaml:"time" default:"2" doc:"Passes over the memory."`
	Threads int  `yaml:"threads" default:"1" doc:"Threads of one hash."`
}

// WithoutRateLimits switches every rate limit off, for servers that only their
// owner can reach.
func (c *Config) WithoutRateLimits() {
	clearRates(reflect.ValueOf(c).Elem())
	c.RCFederation = RCFederation{}
}

func clearRates(v reflect.Value) {
	if v.Type() == reflect.TypeFor[Rate]() {
		v.SetZero()
	} else if v.Kind() == reflect.Struct {
		for i := range v.NumField() {
			if v.Type().Field(i).Name != "_" {
				clearRates(v.Field(i))
			}
		}
	}
}
