package remote

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// pipes is a listener whose connections are in memory, so that they obey a fake clock.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	mu     sync.Mutex
	far    []*buffer
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, b := net.Pipe()
	far := buffered(b)
	p.mu.Lock()
	p.far = append(p.far, far)
	p.mu.Unlock()
	select {
	case p.conns <- far:
		return buffered(near), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// hangUp ends what the server has to say. http.Server.Close holds a lock while it says goodbye, for
// which a goroutine waits that a fake clock takes for busy: no time would pass until all is written.
func (p *pipes) hangUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, b := range p.far {
		b.Close()
	}
}

// buffer makes writes to a pipe not wait for the other end, as a network does.
type buffer struct {
	net.Conn
	out  chan []byte
	end  chan struct{}
	once sync.Once
}

func buffered(c net.Conn) *buffer {
	b := &buffer{Conn: c, out: make(chan []byte, 16), end: make(chan struct{})}
	go func() {
		defer c.Close()
		for {
			select {
			case p := <-b.out:
				if _, err := c.Write(p); err != nil {
					b.Close()
					return
				}
			case <-b.end:
				for len(b.out) > 0 {
					c.Write(<-b.out)
				}
				return
			}
		}
	}()
	return b
}

func (b *buffer) Write(p []byte) (int, error) {
	select {
	case <-b.end:
		return 0, net.ErrClosed
	default:
	}
	select {
	case b.out <- bytes.Clone(p):
		return len(p), nil
	case <-b.end:
		return 0, net.ErrClosed
	}
}

func (b *buffer) Close() error {
	b.once.Do(func() {
		close(b.end)
		b.SetWriteDeadline(time.Now().Add(time.Second))
	})
	return nil
}

// hostile makes a client in a world in which every server is one that answers with a
// function, to be run under a fake clock.
func hostile(t *testing.T, h http.HandlerFunc) (c *Client, close func()) {
	t.Helper()
	w := newWorld(t)
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	list := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	reading := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then it is noticed that the other side has gone
		h(rw, r)
	})
	server := &http.Server{Handler: reading, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	go server.Serve(tls.NewListener(list, &tls.Config{Certificates: []tls.Certificate{w.certificate("b.example")}}))
	c = New(storetest.Open(t, nil), Options{Server: "a.example", KeyID: "ed25519:1", Key: key, CAs: w.roots, Dial: list.dial})
	return c, func() {
		c.Close()
		list.hangUp()
		server.Close()
		time.Sleep(5 * time.Minute) // whatever is under way ends by itself
	}
}

const enemy = id.Server("b.example:8448")

// calls has each kind of request that other servers are sent.
func calls(t *testing.T) map[string]func(context.Context, *Client) error {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	pdu := eventBy(t, "11", "a.example", "ed25519:1", key, 1)
	const user = id.User("@bob:b.example:8448")
	told := 0
	each := func(room.StatePart, jsontext.Value) error {
		if told++; told%100_000 == 0 {
			return errcode.New(http.StatusBadGateway, "M_UNKNOWN", "as package room bounds it")
		}
		return nil
	}
	file := func(f *File, err error) error {
		if err != nil {
			return err
		}
		defer f.Body.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(f.Body, 50<<20+1))
		if err != nil || n > 50<<20 {
			err = errcode.New(http.StatusBadGateway, "M_UNKNOWN", "as package media has it")
		}
		return err
	}
	list := map[string]func(context.Context, *Client) error{
		"transaction": func(ctx context.Context, c *Client) error {
			_, err := c.SendTransaction(ctx, enemy, "1", []byte(`{"pdus":[]}`))
			return err
		},
		"profile": func(ctx context.Context, c *Client) error { _, err := c.QueryProfile(ctx, enemy, user, ""); return err },
		"directory": func(ctx context.Context, c *Client) error {
			_, _, err := c.QueryDirectory(ctx, enemy, "#a:b.example:8448")
			return err
		},
		"public rooms": func(ctx context.Context, c *Client) error {
			_, err := c.GetPublicRooms(ctx, enemy, PublicRoomsQuery{})
			return err
		},
		"devices": func(ctx context.Context, c *Client) error { _, err := c.GetUserDevices(ctx, enemy, user); return err },
		"keys": func(ctx context.Context, c *Client) error {
			_, err := c.QueryKeys(ctx, enemy, map[id.User][]id.Device{user: {}})
			return err
		},
		"claim": func(ctx context.Context, c *Client) error {
			_, err := c.ClaimKeys(ctx, enemy, map[id.User]map[id.Device]string{user: {"A": "signed_curve25519"}})
			return err
		},
		"hierarchy": func(ctx context.Context, c *Client) error {
			_, err := c.GetHierarchy(ctx, enemy, "!r:b.example", false)
			return err
		},
		"version": func(ctx context.Context, c *Client) error { _, err := c.GetVersion(ctx, enemy); return err },
		"complexity": func(ctx context.Context, c *Client) error {
			_, err := c.GetRoomComplexity(ctx, enemy, "!r:b.example")
			return err
		},
		"send_join": func(ctx context.Context, c *Client) error {
			_, err := c.SendJoin(ctx, enemy, pdu, true, each)
			return err
		},
		"send_knock": func(ctx context.Context, c *Client) error { _, err := c.SendKnock(ctx, enemy, pdu); return err },
		"send_leave": func(ctx context.Context, c *Client) error { return c.SendLeave(ctx, enemy, pdu) },
		"invite":     func(ctx context.Context, c *Client) error { _, err := c.SendInvite(ctx, enemy, pdu, nil); return err },
		"exchange": func(ctx context.Context, c *Client) error {
			return c.ExchangeThirdPartyInvite(ctx, enemy, "!r:b.example", jsontext.Value("{}"))
		},
		"missing events": func(ctx context.Context, c *Client) error {
			_, err := c.GetMissingEvents(ctx, enemy, "!r:b.example", room.MissingEvents{Limit: 10})
			return err
		},
		"backfill": func(ctx context.Context, c *Client) error {
			_, err := c.Backfill(ctx, enemy, "!r:b.example", []id.Event{"$1"}, 100)
			return err
		},
		"event": func(ctx context.Context, c *Client) error { _, err := c.GetEvent(ctx, enemy, "$1"); return err },
		"event_auth": func(ctx context.Context, c *Client) error {
			_, err := c.GetEventAuth(ctx, enemy, "!r:b.example", "$1")
			return err
		},
		"state_ids": func(ctx context.Context, c *Client) error {
			_, _, err := c.GetRoomStateIDs(ctx, enemy, "!r:b.example", "$1")
			return err
		},
		"state": func(ctx context.Context, c *Client) error {
			return c.GetRoomState(ctx, enemy, "!r:b.example", "$1", each)
		},
		"timestamp": func(ctx context.Context, c *Client) error {
			_, _, err := c.TimestampToEvent(ctx, enemy, "!r:b.example", 1, true)
			return err
		},
		"policy": func(ctx context.Context, c *Client) error {
			_, err := c.SignByPolicyServer(ctx, enemy, pdu)
			return err
		},
		"file": func(ctx context.Context, c *Client) error {
			return file(c.MediaDownload(ctx, enemy, "m", 20*time.Second))
		},
		"thumbnail": func(ctx context.Context, c *Client) error {
			return file(c.MediaThumbnail(ctx, enemy, "m", Thumbnail{Width: 9, Height: 9}, 20*time.Second))
		},
		"server keys": func(ctx context.Context, c *Client) error { return c.Keys.refresh(ctx, enemy, enemy, forEvents) },
	}
	for name, m := range map[string]store.Membership{"make_join": store.Join, "make_leave": store.Leave, "make_knock": store.Knock} {
		list[name] = func(ctx context.Context, c *Client) error {
			_, err := c.MakeMembership(ctx, enemy, m, "!r:b.example", "@alice:a.example", []string{"11"})
			return err
		}
	}
	return list
}

// endless writes the same for as long as it is read.
func endless(head, part string) http.HandlerFunc {
	many := []byte(strings.Repeat(part, 1+16<<10/len(part)))
	return func(rw http.ResponseWriter, _ *http.Request) {
		for _, err := io.WriteString(rw, head); err == nil; {
			_, err = rw.Write(many)
		}
	}
}

// drip writes a byte each second for as long as it is read.
func drip(status int, kind, head, part string) http.HandlerFunc {
	return func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", kind)
		rw.WriteHeader(status)
		io.WriteString(rw, head)
		for r.Context().Err() == nil {
			io.WriteString(rw, part)
			rw.(http.Flusher).Flush()
			time.Sleep(time.Second)
		}
	}
}

// raw answers with what is no HTTP, or not all of it.
func raw(fn func(net.Conn)) http.HandlerFunc {
	return func(rw http.ResponseWriter, _ *http.Request) {
		conn, _, err := rw.(http.Hijacker).Hijack()
		if err == nil {
			fn(conn)
			conn.Close()
		}
	}
}

func bomb() []byte {
	var b bytes.Buffer
	z, _ := gzip.NewWriterLevel(&b, gzip.BestCompression)
	z.Write([]byte(`{"x":"`))
	for range 200 {
		z.Write(bytes.Repeat([]byte(" "), 1<<20))
	}
	z.Close()
	return b.Bytes()
}

// within is how long some kinds of request may take; all others a minute. What is streamed
// may take a little longer than until the answer begins.
var within = map[string]time.Duration{
	"transaction": slowTime, "missing events": slowTime, "backfill": slowTime, "event_auth": slowTime, "state_ids": slowTime,
	"state": slowTime + time.Minute, "send_leave": leaveTime, "make_leave": leaveTime, "send_join": joinTime + time.Minute, "file": 2 * time.Minute, "thumbnail": 2 * time.Minute,
}

// costs is what some kinds of request may allocate, in MiB; all others ten. The answers of
// the first are large by nature; of files, nothing is kept in memory.
var costs = map[string]uint64{
	"event_auth": 120, "state_ids": 100, "backfill": 120, "missing events": 50, "public rooms": 80, "hierarchy": 80, "devices": 20, "keys": 20,
	"file": 150, "thumbnail": 150,
}

// fine is what some requests need no answer of.
var fine = map[string]bool{
	"null/exchange": true, "null/profile": true, "null/send_leave": true, "null/transaction": true, "null/public rooms": true, "null/keys": true, "null/claim": true,
	"null/version": true, "null/complexity": true, "null/missing events": true, "null/backfill": true, "null/event_auth": true,
	"null/state_ids": true, "null/policy": true, "a list/exchange": true, "a list/send_leave": true, "a list/transaction": true,
}

// Whatever a server answers, and however slowly, it costs little time and memory, and a
// client is told that this server was no use.
func TestHostileServers(t *testing.T) {
	const parts = `multipart/mixed; boundary="x"`
	const head = "--x\r\n\r\n{}\r\n--x\r\n\r\n"
	packed := bomb()
	for name, h := range map[string]http.HandlerFunc{
		"no answer":        func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"drip":             drip(200, "application/json", `{"pdus":[`, " "),
		"drip of a file":   drip(200, parts, head, "x"),
		"drip of an error": drip(403, "application/json", `{"errcode":"M_FORBIDDEN","error":"`, "x"),
		"drip of headers": raw(func(c net.Conn) {
			for _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX: "); err == nil; time.Sleep(time.Second) {
				_, err = io.WriteString(c, "x")
			}
		}),
		"endless space":  endless(``, " "),
		"endless string": endless(`{"pdus":[{"x":"`, "x"),
		"endless list":   endless(`{"auth_chain":[{}`, ",{}"),
		"endless events": func(rw http.ResponseWriter, r *http.Request) {
			event := `,{"type":"m.room.member","content":{"displayname":"` + strings.Repeat("x", 900) + `"}}`
			switch { // a room's state may be large
			case strings.Contains(r.URL.Path, "/event_auth/"):
				endless(`{"auth_chain":[{}`, event)(rw, r)
			case strings.Contains(r.URL.Path, "/backfill/"):
				endless(`{"pdus":[{}`, event)(rw, r)
			case strings.Contains(r.URL.Path, "/state_ids/"):
				endless(`{"auth_chain_ids":["$x"`, `,"$y"`)(rw, r)
			default:
				rw.WriteHeader(http.StatusBadGateway)
			}
		},
		"endless keys": func(rw http.ResponseWriter, _ *http.Request) {
			io.WriteString(rw, "{")
			for i, err := 0, error(nil); err == nil; i++ {
				_, err = fmt.Fprintf(rw, `"%0100d":0,`, i)
			}
		},
		"endless arrays":  endless(`{"x":`, "["),
		"endless names":   endless(`{"pdus":[`, `{"x":`),
		"endless numbers": endless(`{"x":`, "9"),
		"endless error": func(rw http.ResponseWriter, r *http.Request) {
			rw.WriteHeader(400)
			endless(`{"errcode":"M_X","error":"`, "x")(rw, r)
		},
		"endless error page": func(rw http.ResponseWriter, r *http.Request) { rw.WriteHeader(502); endless(``, "<b>")(rw, r) },
		"endless part": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", parts)
			endless(head, "x")(rw, r)
		},
		"endless part header": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", parts)
			endless("--x\r\nX: ", "x")(rw, r)
		},
		"endless part headers": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Type", parts)
			endless("--x\r\n", "X: x\r\n")(rw, r)
		},
		"endless header": raw(func(c net.Conn) {
			for _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n"); err == nil; {
				_, err = io.WriteString(c, "X: x\r\n")
			}
		}),
		"endless early hints": raw(func(c net.Conn) {
			for err := error(nil); err == nil; {
				_, err = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
			}
		}),
		"a bomb": func(rw http.ResponseWriter, r *http.Request) {
			rw.Header().Set("Content-Encoding", "gzip")
			rw.Write(packed)
		},
		"redirects": func(rw http.ResponseWriter, r *http.Request) { http.Redirect(rw, r, r.URL.Path, http.StatusFound) },
		"a page": func(rw http.ResponseWriter, _ *http.Request) {
			io.WriteString(rw, "<!DOCTYPE html><title>hello</title>")
		},
		"an error page": func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(http.StatusBadGateway)
			io.WriteString(rw, "<!DOCTYPE html><title>hello</title>")
		},
		"no body": func(http.ResponseWriter, *http.Request) {},
		"null":    func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "null") },
		"a list":  func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, "[1,[]]") },
		"half": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100")
			io.WriteString(rw, `{"pdus":[`)
		},
		"the bare end": raw(func(net.Conn) {}),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, stop := hostile(t, h)
				defer stop()
				for what, call := range calls(t) {
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					start := time.Now()
					err := call(t.Context(), c)
					took := time.Since(start)
					runtime.ReadMemStats(&after)
					c.Up(enemy)
					if most, ok := within[what]; took > most && (ok || took > time.Minute) {
						t.Errorf("%s took %v", what, took)
					}
					if spent := after.TotalAlloc - before.TotalAlloc; spent > spare*max(costs[what], 10)<<20 {
						t.Errorf("%s cost %d MiB", what, spent>>20)
					}
					if err == nil {
						if !fine[name+"/"+what] {
							t.Errorf("%s succeeded", what)
						}
						continue
					}
					e, ok := errors.AsType[*errcode.Error](ForClient(err))
					refused := strings.Contains(name, "error") && ok && e.Status >= 400 && e.Status < 500
					if !ok || e.Status != http.StatusBadGateway && !refused {
						t.Errorf("%s: a client is told %v", what, ForClient(err))
					}
				}
			})
		})
	}
}
