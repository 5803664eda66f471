package server

import (
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"hearth/config"
	"hearth/matrix/id"
)

// StartPair starts two servers that reach each other and nobody else.
func StartPair(t testing.TB, change ...func(*config.Config)) (a, b *Server) {
	t.Helper()
	list := StartFederation(t, 2, change...)
	return list[0], list[1]
}

// StartFederation starts servers that reach each other as those of the world do,
// over TLS and with signed requests, and nobody else. Each is named 127.0.0.1 with
// the port on which it listens. change may ask for something else of all of them.
func StartFederation(t testing.TB, n int, change ...func(*config.Config)) []*Server {
	t.Helper()
	sockets := make([]*httptest.Server, n)
	names := make([]id.Server, n)
	for i := range sockets {
		// The port is part of the name, which the server must know before it starts.
		sockets[i] = httptest.NewUnstartedServer(nil)
		names[i] = id.Server(sockets[i].Listener.Addr().(*net.TCPAddr).String())
		sockets[i].EnableHTTP2 = true
	}
	authority := writeAuthority(t)
	servers := make([]*Server, n)
	for i := range servers {
		servers[i] = Start(t, append([]func(*config.Config){func(c *config.Config) {
			c.ServerName = names[i]
			c.PublicBaseURL = "https://" + string(names[i]) + "/"
			c.FederationDomainWhitelist = names
			c.FederationIPRangeDeny = []config.IPRange{} // they are on loopback
			c.FederationCAs = []string{authority}
		}}, change...)...)
		sockets[i].Config.Handler = servers[i].Router
		sockets[i].StartTLS()
		t.Cleanup(sockets[i].Close)
	}
	return servers
}

// writeAuthority writes the certificate that httptest's servers have, which signed
// itself, and returns the file.
func writeAuthority(t testing.TB) string {
	t.Helper()
	s := httptest.NewTLSServer(http.NotFoundHandler())
	defer s.Close()
	file := filepath.Join(t.TempDir(), "authority.pem")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
