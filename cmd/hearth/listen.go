package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"hearth/api/httpx"
	"hearth/config"
	"hearth/server"
)

// web is the listeners and the server behind them.
type web struct {
	servers []*http.Server
	sockets []net.Listener
	urls    []string
}

// listen opens every socket before any request is served, so that a port that
// is taken stops the start.
func listen(cfg *config.Config, rr *httpx.Router, log *slog.Logger) (*web, error) {
	w := &web{}
	for _, l := range cfg.Listeners {
		if l.Type != "http" {
			log.Warn("listener is not served", "port", l.Port, "type", l.Type)
			continue
		}
		srv := &http.Server{
			Handler:           rr,
			ReadHeaderTimeout: 15 * time.Second,
			IdleTimeout:       2 * time.Minute,
			MaxHeaderBytes:    64 << 10,
			ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		if l.XForwarded {
			srv.Handler = rr.BehindProxy()
		}
		scheme := "http"
		if l.TLS {
			scheme = "https"
			pair := &certificate{certFile: cfg.TLSCertificatePath, keyFile: cfg.TLSPrivateKeyPath, log: log}
			if _, err := pair.get(nil); err != nil {
				return nil, errors.Join(err, w.close())
			}
			srv.TLSConfig = &tls.Config{GetCertificate: pair.get, NextProtos: []string{"h2", "http/1.1"}}
		}
		for _, addr := range l.Addresses() {
			if err := w.open(srv, scheme, addr, log); err != nil {
				return nil, errors.Join(err, w.close())
			}
		}
	}
	if len(w.sockets) == 0 {
		return nil, errors.New("no listener could be opened")
	}
	return w, nil
}

func (w *web) open(srv *http.Server, scheme, addr string, log *slog.Logger) error {
	socket, err := net.Listen("tcp", addr)
	if err != nil {
		// A machine without IPv6 still serves IPv4.
		if host, _, _ := net.SplitHostPort(addr); host == "::1" {
			log.Warn("not listening", "address", addr, "error", err)
			return nil
		}
		return fmt.Errorf("listen on %s: %w", addr, err)
	}
	w.urls = append(w.urls, scheme+"://"+socket.Addr().String())
	if srv.TLSConfig != nil {
		socket = tls.NewListener(socket, srv.TLSConfig)
	}
	w.servers = append(w.servers, srv)
	w.sockets = append(w.sockets, socket)
	return nil
}

func (w *web) serve(r *server.Runner) {
	for i, socket := range w.sockets {
		srv := w.servers[i]
		r.Start("serve "+w.urls[i], func(context.Context) error {
			if err := srv.Serve(socket); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
}

// shutdown lets running requests end within the time of ctx.
func (w *web) shutdown(ctx context.Context) error {
	var wg sync.WaitGroup
	errs := make([]error, len(w.servers))
	for i, srv := range w.servers {
		wg.Go(func() {
			if errs[i] = srv.Shutdown(ctx); errs[i] != nil {
				errs[i] = errors.Join(errs[i], srv.Close())
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (w *web) close() (err error) {
	for _, s := range w.sockets {
		err = errors.Join(err, s.Close())
	}
	return err
}

// certificate is a key pair that is read again when its file changes, as it
// does when it is renewed.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	changed time.Time
	pair    *tls.Certificate
	warned  time.Time // when the log last said that it cannot be read; zero: it can
}

// warnEvery is how often the log says that the certificate cannot be read.
const warnEvery = time.Minute

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := os.Stat(c.certFile)
	if err == nil && c.pair != nil && st.ModTime().Equal(c.changed) {
		return c.pair, nil
	}
	var pair tls.Certificate
	if err == nil {
		pair, err = tls.LoadX509KeyPair(c.certFile, c.keyFile)
	}
	switch {
	case err == nil:
		c.pair, c.changed, c.warned = &pair, st.ModTime(), time.Time{}
	case c.pair == nil:
		return nil, fmt.Errorf("read TLS certificate: %w", err)
	default: // half-written, perhaps; the old one serves until the new one is whole
		if now := time.Now(); c.warned.IsZero() || now.Sub(c.warned) >= warnEvery {
			c.log.Warn("read TLS certificate again", "file", c.certFile, "error", err)
			c.warned = now
		}
	}
	return c.pair, nil
}
