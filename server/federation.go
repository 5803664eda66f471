package server

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"os"
	"slices"
	"time"

	"hearth/api/httpx"
	"hearth/config"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/media"
	"hearth/outgoing"
	"hearth/remote"
)

var tlsVersions = map[string]uint16{
	"1": tls.VersionTLS10, "1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13,
}

func remoteOptions(cfg *config.Config, key config.SigningKey, version string) (o remote.Options, err error) {
	o = remote.Options{
		Server: cfg.ServerName, KeyID: key.ID, Key: key.Private, FurtherKeys: key.Further,
		UserAgent:     "Hearth/" + version,
		MinTLS:        tlsVersions[cfg.FederationMinimumTLS],
		Rules:         outgoing.Rules{Deny: prefixes(cfg.IPRangeDeny), Allow: prefixes(cfg.IPRangeAllow)},
		RedirectRules: outgoing.Rules{Deny: outgoing.Private, Allow: prefixes(cfg.IPRangeAllow)},
	}
	// An empty list means what it says; only a missing one is the default.
	if cfg.FederationIPRangeDeny != nil {
		o.Rules.Deny = prefixes(cfg.FederationIPRangeDeny)
	}
	if cfg.IPRangeDeny != nil {
		o.RedirectRules.Deny = prefixes(cfg.IPRangeDeny)
	}
	if only := cfg.FederationDomainWhitelist; only != nil {
		o.Permit = func(s id.Server) bool { return slices.Contains(only, s) }
	}
	if o.CAs, err = authorities(cfg.FederationCAs); err != nil {
		return o, err
	}
	for name, old := range cfg.OldSigningKeys {
		public, err := publicKey(id.Key(name), old.Key)
		if err != nil {
			return o, fmt.Errorf("old_signing_keys: %w", err)
		}
		if _, further := key.Further[id.Key(name)]; further || id.Key(name) == key.ID {
			return o, fmt.Errorf("old_signing_keys: %s is in signing_key_path, so it is in use", name)
		}
		if old.Expired <= 0 { // others would take none of our keys then
			return o, fmt.Errorf("old_signing_keys: %s has no expired_ts", name)
		}
		o.OldKeys = append(o.OldKeys, remote.OldKey{ID: id.Key(name), Public: public, Expired: int64(old.Expired)})
	}
	for _, s := range cfg.TrustedKeyServers {
		if s.ServerName == cfg.ServerName {
			continue // matrix.org, by default
		}
		n := remote.KeyServer{Name: s.ServerName, Keys: map[id.Key]ed25519.PublicKey{}}
		for name, text := range s.VerifyKeys {
			if n.Keys[id.Key(name)], err = publicKey(id.Key(name), text); err != nil {
				return o, fmt.Errorf("trusted_key_servers: %s: %w", s.ServerName, err)
			}
		}
		o.KeyServers = append(o.KeyServers, n)
	}
	return o, nil
}

func publicKey(name id.Key, text string) (ed25519.PublicKey, error) {
	b, err := signing.DecodeBase64(text)
	if err != nil || len(b) != ed25519.PublicKeySize || name.Algorithm() != signing.Algorithm {
		return nil, fmt.Errorf("%s is not an ed25519 key in base64", name)
	}
	return b, nil
}

// authorities are those of the system with those of files; nil: the system's alone.
func authorities(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("read the system's certificates: %w", err)
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err == nil && !pool.AppendCertsFromPEM(pem) {
			err = errors.New("there is no certificate in it")
		}
		if err != nil {
			return nil, fmt.Errorf("federation_custom_ca_list: %s: %w", file, err)
		}
	}
	return pool, nil
}

// authenticateServer finds out which server sent a request.
func (s *Server) authenticateServer(ctx context.Context, r *http.Request, body []byte) (httpx.Caller, error) {
	origin, err := s.Remote.AuthenticateRequest(ctx, r, body)
	return httpx.Caller{Server: origin}, err
}

// remoteProfile asks another server for a profile, or one field of it.
func (s *Server) remoteProfile(ctx context.Context, u id.User, field string) (map[string]any, error) {
	answer, err := s.Remote.QueryProfile(ctx, u.Server(), u, field)
	if err != nil {
		return nil, remote.ForClient(err)
	}
	p := make(map[string]any, len(answer))
	for k, v := range answer {
		// Clients rely on these two being text, and servers send null for none.
		if v.Kind() == 'n' || v.Kind() != '"' && (k == "displayname" || k == "avatar_url") {
			continue
		}
		p[k] = v
	}
	return p, nil
}

// remoteFile fetches a file from the server that has it.
func (s *Server) remoteFile(ctx context.Context, from id.Server, mediaID string, wait time.Duration) (*media.RemoteFile, error) {
	f, err := s.Remote.MediaDownload(ctx, from, mediaID, wait)
	if err != nil {
		return nil, remote.ForClient(err)
	}
	return &media.RemoteFile{Body: f.Body, Type: f.ContentType, Name: fileName(f.Disposition)}, nil
}

// fileName is the name in a Content-Disposition header, if it has one.
func fileName(disposition string) string {
	_, params, err := mime.ParseMediaType(disposition)
	if err != nil {
		return ""
	}
	return params["filename"]
}
