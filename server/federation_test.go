package server

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hearth/config"
	"hearth/matrix/id"
)

// federationOf reads a configuration and makes the client's options of it.
func federationOf(t *testing.T, yaml string) (*config.Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.yaml")
	if err := os.WriteFile(path, []byte("server_name: a.example\n"+yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	c, warnings, err := config.Load(path)
	if len(warnings) > 0 {
		t.Error(warnings)
	}
	return c, err
}

func TestAddressesOfOtherServers(t *testing.T) {
	const private, public = "192.168.1.1", "1.1.1.1"
	for _, test := range []struct {
		yaml                      string
		servers, files, publicToo bool // private addresses are permitted for; public ones are
	}{
		{"", true, false, true},
		{"ip_range_blacklist: []", true, true, true},
		{"ip_range_blacklist: [192.168.0.0/16]", false, false, true},
		{"ip_range_blacklist: [192.168.0.0/16]\nip_range_whitelist: [192.168.1.1]", true, true, true},
		{"federation_ip_range_blacklist: [192.168.0.0/16, 1.0.0.0/8]", false, false, false},
		{"ip_range_blacklist: [192.168.0.0/16]\nfederation_ip_range_blacklist: []", true, false, true},
	} {
		c, err := federationOf(t, test.yaml)
		if err != nil {
			t.Fatal(err)
		}
		o, err := remoteOptions(c, config.SigningKey{}, "1")
		if err != nil {
			t.Fatal(err)
		}
		if got := o.Rules.Permits(netip.MustParseAddr(private)); got != test.servers {
			t.Errorf("%q: servers at private addresses: %v", test.yaml, got)
		}
		if got := o.RedirectRules.Permits(netip.MustParseAddr(private)); got != test.files {
			t.Errorf("%q: files at private addresses: %v", test.yaml, got)
		}
		if got := o.Rules.Permits(netip.MustParseAddr(public)); got != test.publicToo {
			t.Errorf("%q: servers at public addresses: %v", test.yaml, got)
		}
	}
}

func TestWhomToFederateWith(t *testing.T) {
	for yaml, want := range map[string]bool{
		"":                                true,
		"federation_domain_whitelist: []": false,
		"federation_domain_whitelist: [b.example]": true,
		"federation_domain_whitelist: [c.example]": false,
	} {
		c, err := federationOf(t, yaml)
		if err != nil {
			t.Fatal(err)
		}
		o, err := remoteOptions(c, config.SigningKey{}, "1")
		if err != nil {
			t.Fatal(err)
		}
		if got := o.Permit == nil || o.Permit("b.example"); got != want {
			t.Errorf("%q: %v", yaml, got)
		}
	}
}

// Whoever sets nothing has the keys of servers that are gone from where nearly all others have them.
func TestWhoIsAskedForKeysOfServersThatAreGone(t *testing.T) {
	for _, test := range []struct {
		own        id.Server
		yaml, want string
	}{
		{"a.example", "", "[matrix.org]"},
		{"a.example", "trusted_key_servers:", "[matrix.org]"},
		{"a.example", "trusted_key_servers: []", "[]"},
		{"a.example", "trusted_key_servers: [{server_name: k.example}]", "[k.example]"},
		{"matrix.org", "", "[]"},
	} {
		c, err := federationOf(t, test.yaml)
		if err != nil {
			t.Fatal(err)
		}
		c.ServerName = test.own
		o, err := remoteOptions(c, config.SigningKey{}, "1")
		if err != nil {
			t.Fatal(err)
		}
		names := []id.Server{}
		for _, k := range o.KeyServers {
			names = append(names, k.Name)
		}
		if got := fmt.Sprint(names); got != test.want {
			t.Errorf("%s, %q: %s, not %s", test.own, test.yaml, got, test.want)
		}
	}
}

func TestKeysAndAuthoritiesOfTheConfiguration(t *testing.T) {
	const public = "Gm8dGTFVDeVS7lUoSe0e4eOOJzz/5aGNqJqmTQeh8pk"
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	dir := t.TempDir()
	ca, empty := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "empty.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := federationOf(t, `old_signing_keys: {"ed25519:a_1": {key: `+public+`, expired_ts: 1767225600000}}
trusted_key_servers: [{server_name: k.example, verify_keys: {"ed25519:1": `+public+`}}, {server_name: l.example}]
federation_client_minimum_tls_version: 1.3
federation_custom_ca_list: [`+ca+`]
`)
	if err != nil {
		t.Fatal(err)
	}
	o, err := remoteOptions(c, config.SigningKey{}, "1")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.OldKeys) != 1 || o.OldKeys[0].ID != "ed25519:a_1" || o.OldKeys[0].Expired != 1767225600000 {
		t.Errorf("old keys %+v", o.OldKeys)
	}
	if len(o.KeyServers) != 2 || o.KeyServers[0].Name != id.Server("k.example") || len(o.KeyServers[0].Keys["ed25519:1"]) != 32 || len(o.KeyServers[1].Keys) != 0 {
		t.Errorf("key servers %+v", o.KeyServers)
	}
	if o.MinTLS != tls.VersionTLS13 || o.CAs == nil {
		t.Errorf("TLS %x, authorities %v", o.MinTLS, o.CAs)
	}
	for yaml, want := range map[string]string{
		`old_signing_keys: {"ed25519:a_1": {key: ` + public + `}}`:                         "old_signing_keys: ed25519:a_1 has no expired_ts",
		`old_signing_keys: {"ed25519:now": {key: ` + public + `, expired_ts: 1}}`:          "old_signing_keys: ed25519:now is in signing_key_path",
		`old_signing_keys: {"ed25519:a_1": {key: AAAA}}`:                                   "old_signing_keys: ed25519:a_1 is not an ed25519 key",
		`old_signing_keys: {"rsa:a_1": {key: ` + public + `}}`:                             "old_signing_keys: rsa:a_1",
		`trusted_key_servers: [{server_name: k.example, verify_keys: {"ed25519:1": "?"}}]`: "trusted_key_servers: k.example",
		`federation_custom_ca_list: [` + empty + `]`:                                       "there is no certificate in it",
		`federation_custom_ca_list: [` + ca + `.no]`:                                       "no such file",
	} {
		c, err := federationOf(t, yaml)
		if err == nil {
			_, err = remoteOptions(c, config.SigningKey{ID: "ed25519:now"}, "1")
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", yaml, err)
		}
	}
}
