// Package server starts whole servers inside a test, from a configuration, and
// speaks to them as clients do. Responses are checked against the schemas of
// the specification where it is at hand (see test/spec).
//
// It must not reach into the services: what a test wants to know, a client can
// ask. Start at Start and Server.Register.
package server

import (
	"bytes"
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/go-json-experiment/json"

	"hearth/config"
	"hearth/matrix/id"
	"hearth/server"
	"hearth/store/storetest"
	"hearth/test/spec"
)

// Server is a running server.
type Server struct {
	*server.Server
	t   testing.TB
	own sync.Map // handlers of Serve by method and path

	around atomic.Pointer[func(http.ResponseWriter, *http.Request, http.Handler)]
}

// Object is a JSON object.
type Object = map[string]any

// Start starts a server named localhost with open registration and no limits,
// on SQLite in a folder of the test. change may ask for something else.
func Start(t testing.TB, change ...func(*config.Config)) *Server {
	t.Helper()
	cfg := config.Default()
	cfg.ServerName = "localhost"
	cfg.PublicBaseURL = "http://localhost:8008/"
	cfg.Listeners = []config.Listener{{Port: 8008, BindAddresses: []string{"127.0.0.1"}, Type: "http"}} // never opened
	cfg.Hearth.DataDir = t.TempDir()
	cfg.EnableRegistration, cfg.RegistrationUnverified = true, true
	cfg.RegistrationSharedSecret = "secret"
	cfg.Hearth.Argon2 = config.Argon2{Memory: 64 << 10, Time: 1, Threads: 1}
	cfg.FederationDomainWhitelist = []id.Server{} // tests touch no network
	cfg.WithoutRateLimits()
	if storetest.OnPostgres() {
		cfg.Database = database(t)
	}
	for _, c := range change {
		c(cfg)
	}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(output{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s, err := server.New(t.Context(), cfg, log, "test")
	if err != nil {
		t.Fatal(err)
	}
	loops := server.NewRunner(log)
	s.Follow(loops)
	t.Cleanup(func() {
		s.Hub.Release()
		loops.Close()
		if err := s.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Server{Server: s, t: t}
}

// database is an empty one on PostgreSQL.
func database(t testing.TB) config.Database {
	t.Helper()
	u, err := url.Parse(storetest.PostgresSchema(t))
	if err != nil {
		t.Fatal(err)
	}
	args := map[string]any{"host": u.Hostname(), "port": u.Port(), "user": u.User.Username(), "database": strings.TrimPrefix(u.Path, "/")}
	for name, values := range u.Query() {
		args[name] = values[0]
	}
	return config.Database{Name: "psycopg2", Args: args}
}

// SQL changes the database beside the running server, as an operator may.
func (s *Server) SQL(statement string) {
	s.t.Helper()
	driver, dsn := "sqlite", "file:"+filepath.Join(s.Config.Hearth.DataDir, "homeserver.db")+"?_pragma=busy_timeout(5000)"
	if c := s.Config.Database; c.Name == "psycopg2" {
		driver, dsn = "pgx", fmt.Sprintf("host=%s port=%s user=%s dbname=%s search_path=%s",
			c.Args["host"], c.Args["port"], c.Args["user"], c.Args["database"], c.Args["search_path"])
	}
	db, err := sql.Open(driver, dsn)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(statement); err != nil {
		s.t.Fatal(err)
	}
}

// output puts the server's log into the test's.
type output struct{ t testing.TB }

func (o output) Write(b []byte) (int, error) {
	// What a stopping server says after the test has ended is of no interest.
	if o.t.Context().Err() == nil {
		o.t.Log(strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// Raw sends a request with a body as it stands. An empty token is not sent.
func (s *Server) Raw(ctx context.Context, method, path, token, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	s.Router.ServeHTTP(w, r)
	return w
}

// Do sends a request, whose body is nil, a string of JSON or a value, and
// returns status and JSON of the response.
func (s *Server) Do(method, path, token string, body any) (int, Object) {
	s.t.Helper()
	text := ""
	switch b := body.(type) {
	case nil:
	case string:
		text = b
	default:
		v, err := json.Marshal(b)
		if err != nil {
			s.t.Fatal(err)
		}
		text = string(v)
	}
	w := s.Raw(s.t.Context(), method, path, token, text)
	spec.Check(s.t, method, path, w.Code, w.Body.Bytes())
	var object Object
	if err := json.Unmarshal(bytes.TrimSpace(w.Body.Bytes()), &object); err != nil {
		s.t.Fatalf("%s %s: %d: %v in %s", method, path, w.Code, err, w.Body)
	}
	return w.Code, object
}

// MustDo is Do for requests that must succeed.
func (s *Server) MustDo(method, path, token string, body any) Object {
	s.t.Helper()
	status, object := s.Do(method, path, token, body)
	if status != http.StatusOK {
		s.t.Fatalf("%s %s: %d %v", method, path, status, object)
	}
	return object
}

// Password is that of all users who Register makes.
const Password = "correct horse battery staple"

// Client is a logged-in device.
type Client struct {
	s             *Server
	User          string
	Device, Token string
}

// Register makes a user and logs in.
func (s *Server) Register(name string) *Client {
	s.t.Helper()
	r := s.MustDo("POST", "/_matrix/client/v3/register", "", Object{"username": name, "password": Password, "auth": Object{"type": "m.login.dummy"}})
	return s.client(r)
}

// Login logs a user of Register in again, on a new device.
func (s *Server) Login(name string) *Client {
	s.t.Helper()
	return s.client(s.MustDo("POST", "/_matrix/client/v3/login", "", Object{"type": "m.login.password", "identifier": Object{"type": "m.id.user", "user": name}, "password": Password}))
}

func (s *Server) client(r Object) *Client {
	return &Client{s, r["user_id"].(string), r["device_id"].(string), r["access_token"].(string)}
}

// Do sends a request as the client.
func (c *Client) Do(method, path string, body any) (int, Object) {
	c.s.t.Helper()
	return c.s.Do(method, path, c.Token, body)
}

// MustDo sends a request that must succeed.
func (c *Client) MustDo(method, path string, body any) Object {
	c.s.t.Helper()
	return c.s.MustDo(method, path, c.Token, body)
}
