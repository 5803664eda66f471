package config

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"

	"hearth/matrix/roomversion"
)

// setting is one top-level key and the last file that set it.
type setting struct {
	file  string
	value any
}

// Load reads a configuration that a server can start with. Each path is a file
// or a folder of *.yaml files; when there is one path and it is a file, the
// folder conf.d beside it is read too. Later files win, by top-level key. The
// warnings are for the log.
func Load(paths ...string) (*Config, []string, error) {
	if len(paths) == 1 {
		dir := filepath.Join(filepath.Dir(paths[0]), "conf.d")
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			paths = append(paths, dir)
		}
	}
	c, warnings, err := Read(paths...)
	if err != nil {
		return nil, warnings, err
	}
	if err := c.Complete(); err != nil {
		return nil, warnings, fmt.Errorf("%s: %w", strings.Join(paths, ", "), err)
	}
	return c, warnings, nil
}

// Default is the configuration that empty files give; it lacks a server name.
func Default() *Config {
	c := &Config{}
	setDefaults(reflect.ValueOf(c).Elem(), "")
	return c
}

// Read merges files without asking whether a server could start with them.
func Read(paths ...string) (*Config, []string, error) {
	files, err := expand(paths)
	if err != nil {
		return nil, nil, err
	}
	settings := map[string]setting{}
	for _, file := range files {
		if err := readFile(file, settings); err != nil {
			return nil, nil, err
		}
	}
	return decode(settings)
}

func expand(paths []string) (files []string, err error) {
	for _, p := range paths {
		st, err := os.Stat(p)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		if !st.IsDir() {
			files = append(files, p)
			continue
		}
		entries, err := filepath.Glob(filepath.Join(p, "*.yaml"))
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		slices.Sort(entries)
		files = append(files, entries...)
	}
	return files, nil
}

func readFile(file string, into map[string]setting) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	var top map[string]any
	if err := yaml.Unmarshal(b, &top); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: %s", file, yaml.FormatError(err, false, true))
	}
	for key, v := range top {
		into[key] = setting{file, v}
	}
	return nil
}

func decode(settings map[string]setting) (*Config, []string, error) {
	c := Default()
	top := reflect.ValueOf(c).Elem()
	var d decoder
	for _, key := range sortedKeys(settings) {
		s := settings[key]
		d.file = s.file
		if i, f, ok := fieldOf(top.Type(), key); ok {
			d.value(key, s.value, top.Field(i), f.Tag)
		} else if why, ok := refused[key]; ok && !isOff(s.value) {
			d.fail(key, "is not supported yet, and starting without it would be unsafe: %s", why)
		} else if !ignored[key] && !ok {
			d.warnings = append(d.warnings, fmt.Sprintf("%s: unknown key %s is ignored%s", s.file, key, suggestion(key, keysOf(top.Type()))))
		}
	}
	return c, d.warnings, errors.Join(d.errs...)
}

// Complete fills in what follows from other keys and checks what must fit together.
func (c *Config) Complete() error {
	if c.ServerName == "" {
		return errors.New("server_name: is not set; it is the name after the colon in user ids, such as example.org")
	}
	if c.PublicBaseURL == "" {
		c.PublicBaseURL = "https://" + string(c.ServerName) + "/"
	}
	u, err := url.Parse(c.PublicBaseURL)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" {
		return fmt.Errorf("public_baseurl: %q is not a URL such as https://matrix.example.org/", c.PublicBaseURL)
	}
	if !strings.HasSuffix(c.PublicBaseURL, "/") {
		c.PublicBaseURL += "/"
	}
	inData := func(path *string, name string) {
		if *path == "" {
			*path = filepath.Join(c.Hearth.DataDir, name)
		}
	}
	inData(&c.SigningKeyPath, string(c.ServerName)+".signing.key")
	inData(&c.MediaStorePath, "media")
	if _, ok := roomversion.Get(c.DefaultRoomVersion); !ok {
		return fmt.Errorf("default_room_version: there is no room version %q", c.DefaultRoomVersion)
	}
	if !c.FederationVerifyCertificates {
		return errors.New("federation_verify_certificates: cannot be switched off: anybody on the way could read and change what servers say to each other; name your own authority in federation_custom_ca_list instead")
	}
	c.Presence.Enabled = c.Presence.Enabled && c.UsePresence
	for i, uri := range c.TURNURIs {
		if !strings.HasPrefix(uri, "turn:") && !strings.HasPrefix(uri, "turns:") && !strings.HasPrefix(uri, "stun:") && !strings.HasPrefix(uri, "stuns:") {
			return fmt.Errorf("turn_uris[%d]: %q must start with turn:, turns:, stun: or stuns:", i, uri)
		}
	}
	return errors.Join(c.checkRegistration(), c.checkArgon2(), c.completeListeners(), c.secretsFromFiles())
}

func (c *Config) checkRegistration() error {
	if c.EnableRegistration && !c.RegistrationUnverified && !c.RegistrationRequiresToken {
		return errors.New("enable_registration: is on for anybody; also set registration_requires_token: true, or, if you mean it, enable_registration_without_verification: true")
	}
	return nil
}

func (c *Config) checkArgon2() error {
	a := c.Hearth.Argon2
	if a.Time < 1 || a.Time > 100 || a.Threads < 1 || a.Threads > 64 || a.Memory < 8<<10 || a.Memory > 4<<30 {
		return errors.New("hearth.argon2: memory may be 8K to 4G, time 1 to 100, threads 1 to 64")
	}
	return nil
}

func (c *Config) completeListeners() error {
	hasCertificate := c.TLSCertificatePath != "" && c.TLSPrivateKeyPath != ""
	if (c.TLSCertificatePath == "") != (c.TLSPrivateKeyPath == "") {
		return errors.New("tls_certificate_path and tls_private_key_path: one is set without the other")
	}
	if c.Listeners == nil {
		c.Listeners = []Listener{{Port: 8008, BindAddresses: []string{"127.0.0.1", "::1"}, Type: "http", XForwarded: true}}
		if hasCertificate {
			c.Listeners = append(c.Listeners, Listener{Port: 8448, Type: "http", TLS: true})
		}
	}
	served := 0
	for i := range c.Listeners {
		l := &c.Listeners[i]
		if l.BindAddress != "" {
			l.BindAddresses = append(l.BindAddresses, l.BindAddress)
		}
		if len(l.BindAddresses) == 0 {
			l.BindAddresses = []string{""}
		}
		if l.Type != "http" {
			continue
		}
		served++
		if l.Port < 1 || l.Port > 65535 {
			return fmt.Errorf("listeners[%d].port: must be set, 1 to 65535", i)
		}
		if l.TLS && !hasCertificate {
			return fmt.Errorf("listeners[%d].tls: needs tls_certificate_path and tls_private_key_path", i)
		}
	}
	if served == 0 {
		return errors.New("listeners: there is no listener of type http")
	}
	return nil
}

// Addresses lists host:port pairs to listen on.
func (l Listener) Addresses() (list []string) {
	for _, a := range l.BindAddresses {
		list = append(list, net.JoinHostPort(a, strconv.Itoa(l.Port)))
	}
	return list
}

func (c *Config) secretsFromFiles() error {
	if c.RegistrationSharedSecret != "" && c.RegistrationSecretPath != "" {
		return errors.New("registration_shared_secret and registration_shared_secret_path: set only one")
	}
	if c.TURNSharedSecret != "" && c.TURNSecretPath != "" {
		return errors.New("turn_shared_secret and turn_shared_secret_path: set only one")
	}
	if path := c.RegistrationSecretPath; path != "" {
		secret, err := readSecret(path)
		if errors.Is(err, os.ErrNotExist) {
			secret = rand.Text() + rand.Text()
			err = os.WriteFile(path, []byte(secret+"\n"), 0o600)
		}
		if err != nil {
			return fmt.Errorf("registration_shared_secret_path: %w", err)
		}
		c.RegistrationSharedSecret = secret
	}
	if path := c.TURNSecretPath; path != "" {
		secret, err := readSecret(path)
		if err != nil {
			return fmt.Errorf("turn_shared_secret_path: %w", err)
		}
		c.TURNSharedSecret = secret
	}
	return nil
}

func readSecret(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return "", fmt.Errorf("%s is empty", path)
	}
	return string(b), nil
}

func isOff(v any) bool {
	switch v := v.(type) {
	case nil:
		return true
	case bool:
		return !v
	case []any:
		return len(v) == 0
	case map[string]any:
		enabled, has := v["enabled"]
		return len(v) == 0 || has && isOff(enabled)
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// SharedSecret is the registration secret, for a tool that is given some of
// the server's files. Unlike Load it makes nothing.
func (c *Config) SharedSecret() (string, error) {
	if c.RegistrationSharedSecret != "" && c.RegistrationSecretPath != "" {
		return "", errors.New("registration_shared_secret and registration_shared_secret_path: set only one")
	}
	if c.RegistrationSecretPath == "" {
		return c.RegistrationSharedSecret, nil
	}
	secret, err := readSecret(c.RegistrationSecretPath)
	if err != nil {
		return "", fmt.Errorf("registration_shared_secret_path: %w", err)
	}
	return secret, nil
}
