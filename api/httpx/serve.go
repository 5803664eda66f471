package httpx

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"time"

	"hearth/matrix/authrules"
	"hearth/matrix/errcode"
)

// request is one request on its way through a route.
type request struct {
	w      *response
	r      *http.Request
	route  *Route
	caller Caller
	body   []byte
	read   bool // body holds the whole body

	bodies *bodies
	whose  string // that its body is counted for
	held   int64  // bytes of memory that its body takes
}

// serve is the life of a request: caller, limit, typed request, function, response.
func (rt *Route) serve(rr *Router, w *response, r *http.Request) {
	start := time.Now()
	rq := &request{w: w, r: r, route: rt, bodies: rr.ofStrangers, whose: networkOf(ClientIP(r.Context()))}
	defer func() { rq.bodies.give(rq.whose, rq.held) }()
	err := rt.authenticate(rr, rq)
	if err == nil {
		err = rr.limit(rt.Limit, rq.caller)
	}
	if err == nil && rq.caller.Server != "" {
		var done func()
		if done, err = rr.Servers.Take(r.Context(), rt.turnOf(rq.caller)); err == nil {
			defer done()
		}
	}
	if err == nil && rt.few {
		if err = rr.few.enter(rq.caller.Network()); err == nil {
			defer rr.few.leave(rq.caller.Network())
			w.hurry = true
		}
	}
	if err == nil && rt.comesBack {
		done := rr.Echoes.begin(rq.caller)
		defer func() {
			_ = http.NewResponseController(w).Flush() // who cannot be reached waits for no answer
			done()
		}()
	}
	if err == nil {
		if rt.reads {
			r.Body = &patientBody{r.Body, http.NewResponseController(w)}
		}
		err = rt.invoke(rq)
	}
	if err != nil {
		rr.writeError(rq, err)
	}
	rr.log().DebugContext(r.Context(), "request", "id", RequestID(r.Context()), "method", r.Method, "route", rt.Path,
		"status", w.status, "took", time.Since(start), "user", rq.caller.User, "ip", rq.caller.IP)
}

// turnOf is what another homeserver takes turns under: long answers, which it may read as
// slowly as it likes, have turns of their own and hold up nothing else that it asks.
func (rt *Route) turnOf(c Caller) string {
	if rt.streams {
		return string(c.Server) + " (long answers)" // no name has a space
	}
	return string(c.Server)
}

// spec: client-server-api#client-authentication
func (rt *Route) authenticate(rr *Router, rq *request) (err error) {
	ctx := rq.r.Context()
	token := tokenOf(rq.r)
	switch {
	case rt.Auth == Server:
		if rr.AuthenticateServer == nil {
			return errcode.Unrecognized("this server does not federate")
		}
		if err := rq.readBody(); err != nil {
			return err
		}
		rq.caller, err = rr.AuthenticateServer(ctx, rq.r, rq.body)
	case rt.Auth == None, rt.Auth == Optional && token == "":
	case token == "":
		err = errcode.MissingToken("no access token was given")
	case rr.Authenticate == nil:
		err = errcode.UnknownToken("the access token is not known")
	default:
		if rq.caller, err = rr.Authenticate(ctx, token, rq.r); err == nil {
			rq.bodies, rq.whose = rr.ofUsers, string(rq.caller.User)
		}
	}
	rq.caller.IP, rq.caller.UserAgent = ClientIP(ctx), rq.r.UserAgent()
	if err != nil {
		return err
	}
	switch {
	case rt.Auth == User && rq.caller.Guest:
		// spec: client-server-api#guest-access
		return errcode.New(http.StatusForbidden, "M_GUEST_ACCESS_FORBIDDEN", "guests may not do this")
	case rt.Auth == Admin && !rq.caller.Admin:
		return errcode.Forbidden("you are not a server admin")
	case rt.forActive && rq.caller.Suspended:
		return errcode.UserSuspended()
	case rt.Auth == Appservice && rq.caller.AppService == "":
		return errcode.Forbidden("only application services may do this")
	}
	return nil
}

func tokenOf(r *http.Request) string {
	if scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	// Deprecated, and still sent by older clients.
	// spec: client-server-api#using-access-tokens
	return r.URL.Query().Get("access_token")
}

// writeError is the one place where an error becomes a response.
func (rr *Router) writeError(rq *request, err error) {
	ctx := rq.r.Context()
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return // the client has gone
	}
	log := rr.log().With("id", RequestID(ctx), "route", rq.route.Method+" "+rq.route.Path, "user", rq.caller.User)
	e := rr.toError(ctx, log, err)
	if rq.w.status != 0 {
		log.DebugContext(ctx, "response broke off", "error", err)
		// What was sent so far must not pass for the whole.
		panic(http.ErrAbortHandler)
	}
	if err := writeError(rq.w, e); err != nil {
		log.DebugContext(ctx, "write error response", "error", err)
	}
}

// forClient is an error of something beyond this server, which knows what a client may be told.
type forClient interface {
	error
	ForClient() *errcode.Error
}

func (rr *Router) toError(ctx context.Context, log *slog.Logger, err error) *errcode.Error {
	if e, ok := errors.AsType[forClient](err); ok {
		log.InfoContext(ctx, "request failed elsewhere", "error", err)
		return e.ForClient()
	}
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return e
	}
	if d, ok := errors.AsType[*authrules.Denied](err); ok {
		log.InfoContext(ctx, "event refused", "rule", d.Rule, "error", err)
		return errcode.Forbidden("%s", d.Reason)
	}
	log.ErrorContext(ctx, "request failed", "error", err)
	return internalError()
}

func internalError() *errcode.Error {
	return errcode.New(http.StatusInternalServerError, "M_UNKNOWN", "Internal server error")
}

func (rr *Router) recoverPanic(w *response, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	rr.log().ErrorContext(r.Context(), "panic", "id", RequestID(r.Context()), "method", r.Method, "path", r.URL.Path,
		"panic", p, "stack", string(debug.Stack()))
	if w.status != 0 {
		panic(http.ErrAbortHandler) // as in writeError
	}
	_ = writeError(w, internalError()) // nobody is left to tell
}

// spec: client-server-api#common-error-codes M_UNRECOGNIZED
func (rr *Router) unrecognized(w *response, status int) {
	_ = writeError(w, errcode.New(status, "M_UNRECOGNIZED", "Unrecognized request")) // a broken connection needs no log
}

func (rr *Router) log() *slog.Logger {
	if rr.Log != nil {
		return rr.Log
	}
	return slog.Default()
}
