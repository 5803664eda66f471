package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"hearth/config"
	"hearth/server"
)

func freePort(t *testing.T) int {
	t.Helper()
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	return socket.Addr().(*net.TCPAddr).Port
}

// start runs a server on a free port and returns its URL; it stops with the test.
func start(t *testing.T, change func(*config.Config)) string {
	t.Helper()
	cfg := localConfig(t.TempDir(), freePort(t))
	if change != nil {
		change(cfg)
	}
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- run(ctx, cfg, slog.New(slog.DiscardHandler), func(*server.Server) error { close(ready); return nil })
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return strings.TrimSuffix(cfg.PublicBaseURL, "/")
}

func execute(t *testing.T, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := command(args[0])
	var out bytes.Buffer
	cmd.SetArgs(args[1:])
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func TestServerStartsTwiceOnItsData(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		t.Run("start", func(t *testing.T) {
			url := start(t, func(c *config.Config) { c.Hearth.DataDir = dir })
			if out, err := execute(t, "", "hearth", "healthcheck", "--url", url); err != nil {
				t.Error(out, err)
			}
		})
	}
}

func TestUnknownEndpoint(t *testing.T) {
	resp, err := oneShot.Get(start(t, nil) + "/_matrix/client/v3/nothing")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); resp.StatusCode != 404 || !strings.Contains(string(b), "M_UNRECOGNIZED") {
		t.Errorf("%d %s", resp.StatusCode, b)
	}
}

func TestTakenPortStopsTheStart(t *testing.T) {
	socket, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	cfg := localConfig(t.TempDir(), socket.Addr().(*net.TCPAddr).Port)
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), cfg, slog.New(slog.DiscardHandler), nil); err == nil || !strings.Contains(err.Error(), "listen on") {
		t.Error(err)
	}
}

func TestConfigCommands(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "homeserver.yaml")
	if err := os.WriteFile(file, []byte("server_name: example.org\nserver_nam: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := execute(t, "", "hearth", "config", "check", "-c", file)
	if err != nil || !strings.Contains(out, "did you mean server_name?") || !strings.Contains(out, "example.org is good") {
		t.Error(out, err)
	}
	if out, err := execute(t, "", "hearth", "config", "describe", "max_upload_size"); err != nil || !strings.Contains(out, "50M") {
		t.Error(out, err)
	}
	if _, err := execute(t, "", "hearth", "config", "describe", "nothing"); err == nil {
		t.Error("described a key that does not exist")
	}
}

// sharedSecretServer answers as Synapse's documentation says, to check what the tool sends.
func sharedSecretServer(t *testing.T, got *map[string]any) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" {
			io.WriteString(w, `{"nonce":"abcd"}`)
			return
		}
		if err := json.UnmarshalRead(r.Body, got); err != nil {
			t.Error(err)
		}
		if (*got)["username"] == "taken" {
			w.WriteHeader(400)
			io.WriteString(w, `{"errcode":"M_USER_IN_USE","error":"in use"}`)
			return
		}
		io.WriteString(w, `{"user_id":"@x:y"}`)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestRegisterTool(t *testing.T) {
	var got map[string]any
	url := sharedSecretServer(t, &got)
	dir := t.TempDir()
	secretFile := filepath.Join(dir, "secret.yaml")
	if err := os.WriteFile(secretFile, []byte("registration_shared_secret: shared\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, stdin string
		args        []string
		user, mac   string
		admin       bool
		out, err    string
	}{
		{name: "flags", args: []string{"-u", "alice", "-p", "secret", "--no-admin", "-k", "shared", url}, user: "alice",
			mac: "58c0383c69c361c4162db4e3e2f086d5a4cd937b", out: "Success!"},
		{name: "questions", stdin: "bob\npw\npw\nyes\n", args: []string{"-c", secretFile, url}, user: "bob", admin: true,
			out: "New user localpart [root]: Password: \nConfirm password: \nMake admin [no]: Sending registration request...\nSuccess!\n"},
		{name: "default answers", stdin: "\npw\npw\n\n", args: []string{"-c", secretFile, url}, user: "root", out: "Success!"},
		{name: "different passwords", stdin: "bob\npw\npv\n", args: []string{"-c", secretFile, url}, err: "do not match"},
		{name: "taken", args: []string{"-u", "taken", "-p", "x", "-a", "-k", "shared", url}, err: "M_USER_IN_USE"},
		{name: "taken is fine", args: []string{"-u", "taken", "-p", "x", "-a", "-k", "shared", "--exists-ok", url}, user: "taken", admin: true, out: "already exists"},
		{name: "both secrets", args: []string{"-c", secretFile, "-k", "shared", url}, err: "none of the others can be"},
		{name: "no secret", args: []string{url}, err: "at least one of the flags"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got = nil
			out, err := execute(t, test.stdin, append([]string{"register_new_matrix_user"}, test.args...)...)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Fatalf("got %v, want %s", err, test.err)
				}
				return
			}
			if err != nil || !strings.Contains(out, test.out) {
				t.Fatalf("%v\n%s", err, out)
			}
			if got["username"] != test.user || got["admin"] != test.admin {
				t.Errorf("sent %v", got)
			}
			if test.mac != "" && got["mac"] != test.mac {
				t.Errorf("mac %v", got["mac"])
			}
		})
	}
}

func TestRegisterToolReadsTheListener(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	if err := os.WriteFile(file, []byte("registration_shared_secret: s\nlisteners: [{port: 9999, tls: true}, {port: 8118}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := registration{configs: []string{file}}
	if err := r.readConfig(io.Discard); err != nil || r.url != "http://localhost:8118" {
		t.Error(r.url, err)
	}
	var note bytes.Buffer
	r = registration{secret: "s"}
	if err := r.readConfig(&note); err != nil || r.url != "http://localhost:8008" || note.Len() == 0 {
		t.Error(r.url, err, note.String())
	}
	if err := (&registration{}).ask(bufio.NewReader(strings.NewReader("")), io.Discard); err == nil {
		t.Error("no answers, no error")
	}
}

// oneShot keeps no connections: one to a server that has stopped would be used for the next.
var oneShot = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// post sends a JSON body and reads the answer.
func post(t *testing.T, url, body string, into any) int {
	t.Helper()
	resp, err := oneShot.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.UnmarshalRead(resp.Body, into); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return resp.StatusCode
}

// An operator's first steps: a secret in conf.d, the tool, a login.
func TestRegisterToolMakesAnAdmin(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "registration_shared_secret.yaml")
	if err := os.WriteFile(file, []byte("registration_shared_secret: shared\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	url := start(t, func(c *config.Config) { c.RegistrationSharedSecret = "shared" })
	out, err := execute(t, "Charlie\npassword\npassword\nyes\n", "register_new_matrix_user", "-c", file, url)
	if err != nil {
		t.Fatal(out, err)
	}
	var session struct {
		Token string `json:"access_token"`
		User  string `json:"user_id"`
	}
	const login = `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"charlie"},"password":"password"}`
	if code := post(t, url+"/_matrix/client/v3/login", login, &session); code != 200 || session.User != "@charlie:localhost" || session.Token == "" {
		t.Errorf("%d %+v", code, session)
	}
	if _, err := execute(t, "", "register_new_matrix_user", "-u", "bob", "-p", "x", "--no-admin", "-k", "wrong", url); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a wrong secret: %v", err)
	}
}

// What goes wrong after the sockets are open ends the program; it does not hang.
func TestAStartThatFailsLateEnds(t *testing.T) {
	cfg := localConfig(t.TempDir(), freePort(t))
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	late := errors.New("late")
	err := run(t.Context(), cfg, slog.New(slog.DiscardHandler), func(*server.Server) error { return late })
	if !errors.Is(err, late) {
		t.Error(err)
	}
	if _, err := oneShot.Get(cfg.PublicBaseURL); err == nil {
		t.Error("it still answers")
	}
}

func TestLocalUsersCanLogIn(t *testing.T) {
	var users string
	dir := t.TempDir()
	cfg := localConfig(dir, freePort(t))
	if err := cfg.Complete(); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start knows the first one's passwords
		ctx, stop := context.WithCancel(t.Context())
		err := run(ctx, cfg, slog.New(slog.DiscardHandler), func(s *server.Server) (err error) {
			defer stop()
			users, err = localUsers(ctx, s)
			if err != nil {
				return err
			}
			for line := range strings.Lines(users) {
				f := strings.Fields(line)
				var session map[string]any
				body := `{"type":"m.login.password","identifier":{"type":"m.id.user","user":"` + f[0] + `"},"password":"` + f[1] + `"}`
				if code := post(t, cfg.PublicBaseURL+"_matrix/client/v3/login", body, &session); code != 200 {
					t.Errorf("%s: %d %v", f[0], code, session)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if strings.Count(users, "\n") != 2 {
		t.Errorf("users %q", users)
	}
}
