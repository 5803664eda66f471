package garbage_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/test/server"
)

// Requests that no client library sends, byte by byte.
func TestSockets(t *testing.T) {
	s := server.Start(t)
	alice := s.Register("alice")
	// Alice's requests, on sockets.
	listener := httptest.NewServer(s.Router)
	goroutines, _ := usage()
	address := listener.Listener.Addr().String()
	head := func(method, path string, more ...string) string {
		return fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n%s\r\n", method, path, alice.Token, strings.Join(more, ""))
	}
	const (
		create  = "/_matrix/client/v3/createRoom"
		profile = "/_matrix/client/v3/profile/@alice:localhost/displayname"
		chunked = "Transfer-Encoding: chunked\r\n"
	)
	for _, test := range []struct {
		name, request string
		hangUp        bool   // after the request, of which more was announced
		status        int    // 0: the connection just ends
		code          string // "": whatever net/http says
	}{
		{"longer than announced", head("PUT", profile, "Content-Length: 5\r\n", "Connection: close\r\n") + `{"displayname":"x"}`, false, 400, "M_NOT_JSON"},
		{"shorter than announced", head("PUT", profile, "Content-Length: 500\r\n") + `{"displayname":"x"}`, true, 400, "M_NOT_JSON"},
		{"nothing of what is announced", head("POST", create, "Content-Length: 500\r\n"), true, 400, "M_NOT_JSON"},
		{"announced too large", head("POST", create, "Content-Length: 99999999999\r\n", "Connection: close\r\n"), false, 413, "M_TOO_LARGE"},
		{"announced beyond numbers", head("POST", create, "Content-Length: 99999999999999999999\r\n"), false, 400, ""},
		{"announced below zero", head("POST", create, "Content-Length: -1\r\n"), false, 400, ""},
		{"two lengths", head("POST", create, "Content-Length: 1\r\nContent-Length: 2\r\n"), false, 400, ""},
		{"chunks", head("PUT", profile, chunked, "Connection: close\r\n") + "13\r\n{\"displayname\":\"x\"}\r\n0\r\n\r\n", false, 200, ""},
		{"chunks too large", head("PUT", profile, chunked, "Connection: close\r\n") + strings.Repeat("100000\r\n"+strings.Repeat(" ", 1<<20)+"\r\n", httpx.MaxBody>>20+1), false, 413, "M_TOO_LARGE"},
		{"a chunk that lies", head("PUT", profile, chunked, "Connection: close\r\n") + "3\r\n{\"displayname\":\"x\"}\r\n0\r\n\r\n", false, 400, "M_NOT_JSON"},
		{"chunks that end early", head("PUT", profile, chunked) + "13\r\n{\"displayname\":", true, 400, "M_NOT_JSON"},
		{"both", head("PUT", profile, chunked, "Content-Length: 2\r\n", "Connection: close\r\n") + "0\r\n\r\n", false, 400, ""},
		{"unknown encoding", head("PUT", profile, "Transfer-Encoding: gzip\r\n"), false, 501, ""},
		{"bad escapes in the path", head("GET", "/_matrix/client/v3/profile/%zz"), false, 400, ""},
		{"NUL in the path", head("GET", "/_matrix/client/v3/profile/\x00"), false, 400, ""},
		{"a long path", head("GET", "/_matrix/client/v3/profile/"+strings.Repeat("x", 2<<20)), false, 431, ""},
		{"long headers", head("GET", "/_matrix/client/versions", "X-A: "+strings.Repeat("x", 2<<20)+"\r\n"), false, 431, ""},
		{"another protocol", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", true, 400, ""},
		{"no request", "", true, 0, ""},
		{"half a request", "POST /_matrix/client/v3/log", true, 400, ""},
		{"an unknown method", head("BREW", create, "Connection: close\r\n"), false, 405, "M_UNRECOGNIZED"},
		{"the absolute form", head("GET", "http://127.0.0.1:1/_matrix/client/versions", "Connection: close\r\n"), false, 200, ""},
		{"a wait that is hung up on", head("GET", "/_matrix/client/v3/sync?timeout=60000&since=", "Connection: close\r\n"), true, -1, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// A server that has answered already may not read the rest.
			written := make(chan struct{})
			go func() {
				defer close(written)
				_, _ = io.WriteString(conn, test.request)
				if test.hangUp {
					_ = conn.(*net.TCPConn).CloseWrite()
				}
			}()
			defer func() { conn.Close(); <-written }()
			if test.status < 0 {
				return
			}
			r, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if test.status == 0 {
				if err == nil {
					t.Errorf("answered with %d", r.StatusCode)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Fatal(err)
			}
			if r.StatusCode != test.status || !strings.Contains(string(body), test.code) {
				t.Errorf("got %d %s, want %d %s", r.StatusCode, body, test.status, test.code)
			}
			if test.code != "" && !jsontext.Value(body).IsValid() {
				t.Errorf("not JSON: %s", body)
			}
		})
	}
	listener.Close()
	(&world{t: t}).checkUsage(goroutines, 1<<40)
}
