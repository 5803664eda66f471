package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite docs/configuration.md")

// folder writes files, given as name and text in turn, and returns its path.
func folder(t *testing.T, files ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMinimalFile(t *testing.T) {
	dir := folder(t, "homeserver.yaml", "server_name: example.org\n")
	c, warnings, err := Load(dir + "/homeserver.yaml")
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if c.PublicBaseURL != "https://example.org/" || c.MaxUploadSize != 50<<20 || c.RCMessage != (Rate{0.2, 10}) ||
		time.Duration(c.TURNUserLifetime) != time.Hour || c.SigningKeyPath != "data/example.org.signing.key" || c.Password.Enabled != "true" {
		t.Errorf("%+v", c)
	}
	want := []Listener{{Port: 8008, BindAddresses: []string{"127.0.0.1", "::1"}, Type: "http", XForwarded: true}}
	if d := cmp.Diff(want, c.Listeners); d != "" {
		t.Error(d)
	}
}

func TestFileOfADebianSynapse(t *testing.T) {
	dir := folder(t, "homeserver.yaml", `
pid_file: "/var/run/matrix-synapse.pid"
listeners:
  - port: 8008
    tls: false
    type: http
    x_forwarded: true
    bind_addresses: ['::1', '127.0.0.1']
    resources:
      - names: [client, federation]
        compress: false
database:
  name: psycopg2
  args: {user: synapse, password: x, dbname: synapse, host: localhost, cp_min: 5, cp_max: 10}
log_config: "/etc/matrix-synapse/log.yaml"
media_store_path: /var/lib/matrix-synapse/media
max_upload_size: 100M
signing_key_path: "/etc/matrix-synapse/homeserver.signing.key"
trusted_key_servers:
  - server_name: "matrix.org"
rc_login:
  address: {per_second: 0.15, burst_count: 5}
`, "conf.d/server_name.yaml", "server_name: example.org\n",
		"conf.d/report_stats.yaml", "report_stats: false\n",
		"conf.d/zz.yaml", "max_upload_size: 20M\nrc_login: {account: {per_second: 1, burst_count: 7}}\n")
	c, warnings, err := Load(dir + "/homeserver.yaml")
	if err != nil || len(warnings) != 0 {
		t.Fatal(err, warnings)
	}
	if c.MaxUploadSize != 20<<20 {
		t.Errorf("a later file does not win: %s", c.MaxUploadSize)
	}
	if c.RCLogin.Account.Burst != 7 || c.RCLogin.Address != (Rate{0.003, 5}) {
		t.Errorf("top-level keys are replaced as a whole: %+v", c.RCLogin)
	}
	if got := c.Listeners[0].Addresses(); !reflect.DeepEqual(got, []string{"[::1]:8008", "127.0.0.1:8008"}) {
		t.Errorf("addresses %v", got)
	}
}

// What is switched off by the name that it had before is off.
func TestOldNameOfPresence(t *testing.T) {
	for yaml, want := range map[string]bool{"": true, "use_presence: true": true, "use_presence: false": false, "presence: {enabled: false}": false} {
		c, warnings, err := Load(folder(t, "a.yaml", "server_name: x\n"+yaml) + "/a.yaml")
		if err != nil || len(warnings) > 0 || c.Presence.Enabled != want {
			t.Errorf("%q: %v %v %v", yaml, c.Presence, warnings, err)
		}
	}
}

func TestUnknownKeysWarn(t *testing.T) {
	dir := folder(t, "a.yaml", "server_name: x\nmax_upload_sise: 5M\nrc_login: {adress: {per_second: 1}}\nzzz: 1\n")
	_, warnings, err := Load(dir + "/a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		dir + "/a.yaml: unknown key max_upload_sise is ignored; did you mean max_upload_size?",
		dir + "/a.yaml: unknown key rc_login.adress is ignored; did you mean address?",
		dir + "/a.yaml: unknown key zzz is ignored",
	}
	if d := cmp.Diff(want, warnings); d != "" {
		t.Error(d)
	}
}

func TestWrongValuesStopTheStart(t *testing.T) {
	for _, test := range []struct{ yaml, want string }{
		{"server_name: x\nmax_upload_size: 50Q", `a.yaml: max_upload_size: "50Q" is not a size; write 512K`},
		{"server_name: x\nturn_user_lifetime: soon", `turn_user_lifetime: "soon" is not a duration`},
		{"server_name: x\nenable_registration: maybe", `enable_registration: "maybe" is neither true nor false`},
		{"server_name: x\nrc_message: {per_second: fast}", `rc_message.per_second: "fast" is not a number`},
		{"server_name: x\nlisteners: 8008", `listeners: 8008 is not a list`},
		{"server_name: x\nlisteners: [{port: 0}]", `listeners[0].port`},
		{"server_name: x\nlisteners: [{port: 8448, tls: true}]", `listeners[0].tls: needs tls_certificate_path`},
		{"server_name: x\ndatabase: {name: mysql}", `database.name: "mysql" is not allowed; it may be sqlite3, psycopg2`},
		{"server_name: 'x y'", `server_name: "x y" is not a server name`},
		{"max_upload_size: 5M", `server_name: is not set`},
		{"server_name: x\nenable_registration: true", `enable_registration: is on for anybody`},
		{"server_name: x\ndefault_room_version: '99'", `there is no room version "99"`},
		{"server_name: x\nblock_non_admin_invites: true", `block_non_admin_invites: is not supported yet`},
		{"server_name: x\nsigning_key: ed25519 a_1 AAAA", `signing_key: is not supported yet`},
		{"server_name: x\nfederation_domain_whitelist: ['a b']", `federation_domain_whitelist[0]: "a b" is not a server name`},
		{"server_name: x\nfederation_verify_certificates: false", `federation_verify_certificates: cannot be switched off`},
		{"server_name: x\npublic_baseurl: example.org", `public_baseurl`},
		{"server_name: [x", `a.yaml`},
		{"server_name: x\nturn_shared_secret: a\nturn_shared_secret_path: b", "set only one"},
	} {
		dir := folder(t, "a.yaml", test.yaml)
		if _, _, err := Load(dir + "/a.yaml"); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.yaml, err, test.want)
		}
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	dir := folder(t, "a.yaml", "max_upload_size: big\nenable_registration: 7\n")
	_, _, err := Read(dir + "/a.yaml")
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("%v", err)
	}
}

func TestRefusedKeysMayBeOff(t *testing.T) {
	dir := folder(t, "a.yaml", "server_name: x\nmodules: []\nretention: {enabled: false}\nspam_checker:\n")
	if _, _, err := Load(dir + "/a.yaml"); err != nil {
		t.Error(err)
	}
}

func TestValues(t *testing.T) {
	for _, test := range []struct {
		in   any
		want time.Duration
	}{{"10m", 10 * time.Minute}, {uint64(1500), 1500 * time.Millisecond}, {"2w", 14 * 24 * time.Hour}, {"1y", 365 * 24 * time.Hour}} {
		if got, err := parseDuration(test.in); err != nil || time.Duration(got) != test.want {
			t.Errorf("%v: %v %v", test.in, got, err)
		}
	}
	for _, test := range []struct {
		in   any
		want Size
	}{{"50M", 50 << 20}, {"1g", 1 << 30}, {"10KiB", 10 << 10}, {uint64(7), 7}, {"9", 9}} {
		if got, err := parseSize(test.in); err != nil || got != test.want {
			t.Errorf("%v: %v %v", test.in, got, err)
		}
	}
	for _, bad := range []any{"", "m", "-1m", "999999999999y", "1.5h", true, []any{}} {
		if _, err := parseDuration(bad); err == nil {
			t.Errorf("%v is taken for a duration", bad)
		}
	}
	for _, bad := range []any{"", "M", "-1M", "99999999999G", "5MX", "B", 1.5} {
		if _, err := parseSize(bad); err == nil {
			t.Errorf("%v is taken for a size", bad)
		}
	}
	if got := Duration(90*time.Minute).String() + " " + Size(50<<20).String(); got != "90m 50M" {
		t.Error(got)
	}
}

func TestSecretIsMadeOnce(t *testing.T) {
	dir := folder(t)
	yaml := "server_name: x\nregistration_shared_secret_path: " + dir + "/secret\n"
	if err := os.WriteFile(dir+"/a.yaml", []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	first, _, err := Load(dir + "/a.yaml")
	if err != nil || len(first.RegistrationSharedSecret) < 32 {
		t.Fatal(err)
	}
	if again, _, _ := Load(dir + "/a.yaml"); again.RegistrationSharedSecret != first.RegistrationSharedSecret {
		t.Error("the secret changed")
	}
}

func TestSigningKey(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys", "x.signing.key")
	made, err := LoadSigningKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	read, err := LoadSigningKey(path)
	if err != nil || read.ID != made.ID || !read.Private.Equal(made.Private) || !strings.HasPrefix(string(read.ID), "ed25519:a_") {
		t.Errorf("%v %v %v", read.ID, made.ID, err)
	}
	for _, bad := range []string{"", "rsa a_1 AAAA", "ed25519 a_1", "ed25519 a_1 AAAA", "ed25519 a:1 " + strings.Repeat("A", 43)} {
		p := folder(t, "k", bad) + "/k"
		if _, err := LoadSigningKey(p); err == nil {
			t.Errorf("%q is taken for a key", bad)
		}
	}
	p := folder(t, "k", "ed25519 old "+strings.Repeat("A", 43)+"=\n") + "/k"
	if k, err := LoadSigningKey(p); err != nil || k.ID != "ed25519:old" {
		t.Error(k.ID, err)
	}
	// A file may have several: the first signs.
	a, b := "ed25519 a_1 "+strings.Repeat("A", 43)+"\n", "ed25519 b_2 "+strings.Repeat("B", 42)+"A\n"
	p = folder(t, "k", "# mine\n"+a+"\n"+b) + "/k"
	if k, err := LoadSigningKey(p); err != nil || k.ID != "ed25519:a_1" || len(k.Further) != 1 || k.Further["ed25519:b_2"] == nil {
		t.Errorf("%v %v %v", k.ID, k.Further, err)
	}
	for _, bad := range []string{a + "ed25519 b_2 AAAA", a + "rubbish", a + a} {
		if _, err := LoadSigningKey(folder(t, "k", bad) + "/k"); err == nil {
			t.Errorf("%q is taken for keys", bad)
		}
	}
}

func TestEveryOptionIsDescribed(t *testing.T) {
	for _, o := range Options() {
		if o.Doc == "" || o.Section == "" {
			t.Errorf("%s lacks a text or a section", o.Key)
		}
		for _, text := range []string{o.Key, o.Doc} {
			if strings.Contains(text, "|") {
				t.Errorf("%s breaks the table", o.Key)
			}
		}
	}
	if text, ok := Describe("max_upload_size"); !ok || !strings.Contains(text, "50M") {
		t.Error(text)
	}
	if _, ok := Describe("no_such_key"); ok {
		t.Error("described a key that does not exist")
	}
}

func TestReferenceIsCurrent(t *testing.T) {
	const path = "../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil || string(b) != Reference() {
		t.Errorf("docs/configuration.md is not current (%v): run make generate", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add("server_name: x\n")
	f.Add("rc_message: {per_second: 1}\nlisteners: [{port: 1}]\n")
	f.Add("hearth: 5\ndatabase: []\nmax_upload_size: {}\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "a.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, _, _ = Read(path) // must not panic
	})
}

func TestRangesOfAddresses(t *testing.T) {
	dir := folder(t, "a.yaml", "server_name: x\nip_range_blacklist: [10.1.2.3/8, '::1']\nurl_preview_ip_range_blacklist: []\n")
	c, _, err := Load(dir + "/a.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.IPRangeDeny) != 2 || c.IPRangeDeny[0].String() != "10.0.0.0/8" || c.IPRangeDeny[1].String() != "::1/128" {
		t.Errorf("ranges %v", c.IPRangeDeny)
	}
	// An empty list is not the same as none.
	if c.URLPreviewDeny == nil || c.FederationIPRangeDeny != nil {
		t.Errorf("%#v and %#v", c.URLPreviewDeny, c.FederationIPRangeDeny)
	}
}

func TestPolicyKey(t *testing.T) {
	c := Default()
	c.ServerName, c.Hearth.DataDir = "example.org", t.TempDir()
	made, err := c.LoadPolicyKey()
	if err != nil {
		t.Fatal(err)
	}
	read, err := c.LoadPolicyKey()
	if err != nil || !read.Equal(made) {
		t.Errorf("the key changed: %v", err)
	}
	path := filepath.Join(c.Hearth.DataDir, "example.org.policy.key")
	if text, err := os.ReadFile(path); err != nil || !strings.HasPrefix(string(text), "ed25519 policy_server ") {
		t.Errorf("%q %v", text, err)
	}
	// The key that signs everything else shall not be taken for it by a copy.
	if err := os.WriteFile(path, []byte("ed25519 a_1 "+strings.Repeat("B", 43)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.LoadPolicyKey(); err == nil {
		t.Error("a key of another name is taken")
	}
}

func TestPolicyServerOptions(t *testing.T) {
	dir := folder(t, "a.yaml", `server_name: x
hearth:
  policy_server:
    deny_users: ['@spam*:*']
    deny_servers: [evil.example]
    deny_text: ['(?i)buy\s+now']
    max_mentions: 10
`, "b.yaml", "server_name: x\nhearth: {policy_server: {deny_text: ['(?=x)']}}\n")
	c, warnings, err := Load(dir + "/a.yaml")
	if err != nil || len(warnings) > 0 {
		t.Fatal(err, warnings)
	}
	p := c.Hearth.PolicyServer
	if !p.Enabled || len(p.DenyUsers) != 1 || len(p.DenyServers) != 1 || p.MaxMentions != 10 || len(p.DenyText) != 1 || !p.DenyText[0].MatchString("BUY now") {
		t.Errorf("%+v", p)
	}
	if _, _, err := Load(dir + "/b.yaml"); err == nil || !strings.Contains(err.Error(), "hearth.policy_server.deny_text[0]") {
		t.Errorf("%v", err)
	}
}
