// Command entry starts Hearth in a container of the Complement suite: it makes
// the server's certificate from the suite's authority, writes a configuration
// and becomes the server. It runs at every start of a container, on data that
// an earlier start may have left.
//
// It knows the suite's contract and nothing of the server but its
// configuration.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hearth/config"
)

const (
	authority   = "/complement/ca"
	appservices = "/complement/appservice/*.yaml"
	data        = "/data"
	server      = "/hearth"
)

func main() {
	if err := enter(); err != nil {
		fmt.Fprintln(os.Stderr, "entry:", err)
		os.Exit(1)
	}
}

func enter() error {
	name := os.Getenv("SERVER_NAME")
	if name == "" {
		return errors.New("SERVER_NAME is not set")
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := makeCertificate(name); err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	bridges, err := filepath.Glob(appservices)
	if err != nil {
		return err
	}
	db, err := database()
	if err != nil {
		return err
	}
	file := filepath.Join(data, "homeserver.yaml")
	if err := os.WriteFile(file, []byte(configuration(name, bridges)+db), 0o600); err != nil {
		return err
	}
	return syscall.Exec(server, []string{server, "serve", "--config", file}, os.Environ())
}

// configuration is as open as the suite wants it. Four settings are not ours by
// default, for tests that are older than the present specification: they name a
// room's creator in power levels, which room version 12 refuses; they fetch new
// files without logging in; they mention users in the text alone;
// they look for names of devices on other servers.
func configuration(name string, bridges []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, `server_name: %s
public_baseurl: http://%s:8008/
serve_server_wellknown: false
listeners:
  - {port: 8008, type: http}
  - {port: 8448, type: http, tls: true}
tls_certificate_path: %s/tls.crt
tls_private_key_path: %s/tls.key
enable_registration: true
enable_registration_without_verification: true
registration_shared_secret: complement
allow_guest_access: true
presence: {enabled: true}
default_room_version: "11"
enable_authenticated_media: false
allow_device_name_lookup_over_federation: true
url_preview_enabled: true
url_preview_ip_range_blacklist: []
ip_range_blacklist: []
federation_custom_ca_list: [%s/ca.crt]
trusted_key_servers: []
hearth:
  data_dir: %s
  log_level: %s
  legacy_mentions: true
  argon2: {memory: 64K, time: 1, threads: 1}
`, name, name, data, data, authority, data, logLevel())
	for _, o := range config.Options() {
		if o.Kind == "rate" && !strings.Contains(o.Key, ".") {
			fmt.Fprintf(&b, "%s: {per_second: 0, burst_count: 0}\n", o.Key)
		}
	}
	const off = "{per_second: 0, burst_count: 0}"
	fmt.Fprintf(&b, "rc_login: {address: %s, account: %s, failed_attempts: %s}\n", off, off, off)
	fmt.Fprintf(&b, "rc_joins: {local: %s, remote: %s}\n", off, off)
	fmt.Fprintf(&b, "rc_invites: {per_room: %s, per_user: %s, per_issuer: %s}\n", off, off, off)
	if len(bridges) > 0 {
		b.WriteString("app_service_config_files:\n")
		for _, path := range bridges {
			fmt.Fprintf(&b, "  - %q\n", path)
		}
	}
	return b.String()
}

func logLevel() string {
	if level := os.Getenv("HEARTH_LOG_LEVEL"); level != "" {
		return level
	}
	return "warn"
}

// makeCertificate signs one for this start: the authority is another one in
// each run of the suite.
func makeCertificate(name string) error {
	ca, err := tls.LoadX509KeyPair(authority+"/ca.crt", authority+"/ca.key")
	if err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: name},
		DNSNames:     []string{name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(data+"/tls.key", "PRIVATE KEY", keyDER); err != nil {
		return err
	}
	return writePEM(data+"/tls.crt", "CERTIFICATE", der)
}

func writePEM(path, kind string, der []byte) error {
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
