package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/config"
)

// writeCertificate makes a self-signed pair for localhost with a serial number.
func writeCertificate(t *testing.T, dir string, serial int64) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.key": {Type: "PRIVATE KEY", Bytes: private}, "tls.crt": {Type: "CERTIFICATE", Bytes: der}} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		// File systems may not tell two writes apart by their time.
		if err := os.Chtimes(path, time.Time{}, time.Unix(1_000_000+serial, 0)); err != nil {
			t.Fatal(err)
		}
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHTTPS(t *testing.T) {
	dir := t.TempDir()
	trusted := x509.NewCertPool()
	trusted.AddCert(writeCertificate(t, dir, 1))
	url := start(t, func(c *config.Config) {
		c.TLSCertificatePath, c.TLSPrivateKeyPath = dir+"/tls.crt", dir+"/tls.key"
		c.Listeners[0].TLS = true
		c.PublicBaseURL = strings.Replace(c.PublicBaseURL, "http://", "https://", 1)
	})
	get := func() *http.Response {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted}, ForceAttemptHTTP2: true}}
		defer client.CloseIdleConnections()
		resp, err := client.Get(url + "/_matrix/federation/v1/version")
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	if resp := get(); resp.StatusCode != 200 || resp.ProtoMajor != 2 || resp.TLS.PeerCertificates[0].SerialNumber.Int64() != 1 {
		t.Errorf("%d over %s", resp.StatusCode, resp.Proto)
	}
	trusted.AddCert(writeCertificate(t, dir, 2))
	if got := get().TLS.PeerCertificates[0].SerialNumber.Int64(); got != 2 {
		t.Errorf("after renewal certificate %d is served", got)
	}
	if err := os.WriteFile(dir+"/tls.crt", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := get().TLS.PeerCertificates[0].SerialNumber.Int64(); got != 2 {
		t.Errorf("while it is renewed certificate %d is served", got)
	}
}

// While the file cannot be read, the log says so when that begins and once a minute, not with
// every connection.
func TestABrokenCertificateDoesNotFloodTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		writeCertificate(t, dir, 1)
		var log bytes.Buffer
		c := &certificate{certFile: dir + "/tls.crt", keyFile: dir + "/tls.key", log: slog.New(slog.NewTextHandler(&log, nil))}
		shake := func(times, want int) {
			t.Helper()
			log.Reset()
			for range times {
				if pair, err := c.get(nil); err != nil || pair == nil {
					t.Fatal(pair, err)
				}
			}
			if n := strings.Count(log.String(), "\n"); n != want {
				t.Errorf("%d lines for %d connections:\n%s", n, times, log.String())
			}
		}
		shake(1, 0)
		if err := os.WriteFile(c.certFile, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		shake(100, 1)
		time.Sleep(59 * time.Second)
		shake(100, 0)
		time.Sleep(time.Second)
		shake(100, 1)
		writeCertificate(t, dir, 2)
		shake(1, 0)
		if err := os.Remove(c.certFile); err != nil {
			t.Fatal(err)
		}
		shake(100, 1)
	})
}

func TestMissingCertificateStopsTheStart(t *testing.T) {
	cfg := localConfig(t.TempDir(), 1)
	cfg.Listeners = []config.Listener{{Port: 8448, TLS: true, Type: "http"}}
	cfg.TLSCertificatePath, cfg.TLSPrivateKeyPath = "/nowhere.crt", "/nowhere.key"
	if _, err := listen(cfg, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "TLS certificate") {
		t.Error(err)
	}
}
