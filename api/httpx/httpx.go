// Package httpx is all the HTTP plumbing of the APIs: routes as values, typed
// requests, authentication, limits, CORS, errors, request logs. A handler is a
// function from a Caller and a request struct to a response struct; nothing
// else in api/ touches headers, tokens or status codes.
//
// It must not know any service: what it needs of them are func fields of
// Router. Start at Handle (declare), Router.Mount (serve) and Route.serve (the
// life of a request).
package httpx

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"runtime"
	"strings"

	"hearth/matrix/id"
)

// Auth says who may call a route.
type Auth int

const (
	None       Auth = iota // anybody; a token is not looked at
	Optional               // anybody; a token that is given must be valid
	Guest                  // users and guests
	User                   // users, not guests
	Admin                  // administrators of this server
	Appservice             // application services
	Server                 // other homeservers, by signed request
)

func (a Auth) String() string {
	return [...]string{"none", "optional", "guest", "user", "admin", "appservice", "server"}[a]
}

// Caller is who makes a request, proven by the router before a handler runs.
type Caller struct {
	User       id.User
	Device     id.Device
	TokenID    int64
	Guest      bool
	Admin      bool
	Suspended  bool   // may read, leave and log out; see UnlessSuspended
	AppService string // id of the application service that acts as User
	Unlimited  bool   // rate limits do not apply
	Server     id.Server

	IP        string // of the client, behind a trusted proxy too
	UserAgent string
}

// Network is what the address of a caller is counted under.
func (c Caller) Network() string { return networkOf(c.IP) }

// Router serves a table of routes. Its fields are set before Mount.
type Router struct {
	// Authenticate finds the caller of a token. The query of r may ask to act
	// as another user or device, which is for the function to allow or refuse.
	// spec: application-service-api#identity-assertion
	Authenticate func(ctx context.Context, token string, r *http.Request) (Caller, error)
	// AuthenticateServer checks the signature of a request of another homeserver.
	AuthenticateServer func(ctx context.Context, r *http.Request, body []byte) (Caller, error)
	Limits             *Limiter // nil: no limits
	Servers            *Turns   // of other homeservers, see turnOf; nil: no limits
	Echoes             Echoes
	Log                *slog.Logger

	few                  crowd
	ofUsers, ofStrangers *bodies
	mux                  *http.ServeMux
	routes               []Route
}

// Route is one line of an API's table of contents.
type Route struct {
	Method string
	Path   string
	Auth   Auth
	Limit  Limit
	Name   string // of the handler; the spec's operationId
	// Takes is the request struct, for those who walk the table; nil for Raw.
	Takes reflect.Type

	aliases   []string
	maxBody   int64
	forActive bool
	reads     bool // the handler reads the body by itself
	comesBack bool
	streams   bool // the handler writes the response by itself, which may be long
	few       bool
	invoke    func(rq *request) error
}

// MaxBody bounds request bodies unless a route says otherwise with WithMaxBody.
// Larger than any event by far; key uploads and backups are the big ones.
const MaxBody = 8 << 20

// Handle declares a route whose function takes and returns values. Fields of
// Req are filled by their tags:
//
//	path:"roomId"     the decoded path segment
//	query:"limit"     a query parameter; pointers stay nil when it is absent
//	header:"X-Thing"  a header
//	body:"."          the whole body: any type, jsontext.Value for the raw object
//	body:"stream"     the unread body as io.Reader; it is the handler's to bound
//	json:"name"       one field of the body
//
// A response is sent with status 200, or with that of its method HTTPStatus() int.
//
// An interactively authenticated endpoint takes `Auth jsontext.Value
// `json:"auth"“ and answers with an *errcode.Error of status 401 without a
// code (or with that of the failed stage), and flows, params, session and
// completed in Extra.
// spec: client-server-api#user-interactive-authentication-api
func Handle[Req, Resp any](pattern string, auth Auth, limit Limit, fn func(context.Context, Caller, Req) (Resp, error)) Route {
	rt := newRoute(pattern, auth, limit, fn)
	plan := planOf[Req](rt)
	rt.reads = plan.stream >= 0
	rt.Takes = reflect.TypeFor[Req]()
	rt.invoke = func(rq *request) error {
		var req Req
		if err := plan.fill(rq, reflect.ValueOf(&req).Elem()); err != nil {
			return err
		}
		resp, err := fn(rq.r.Context(), rq.caller, req)
		if err != nil {
			return err
		}
		status := http.StatusOK
		if s, ok := any(resp).(interface{ HTTPStatus() int }); ok {
			status = s.HTTPStatus()
		}
		return writeJSON(rq.w, status, resp)
	}
	return rt
}

// Stream declares a route that writes its response itself: files, redirects,
// pages. An error that is returned before the first byte becomes the response.
func Stream[Req any](pattern string, auth Auth, limit Limit, fn func(ctx context.Context, w http.ResponseWriter, c Caller, req Req) error) Route {
	rt := newRoute(pattern, auth, limit, fn)
	plan := planOf[Req](rt)
	rt.reads, rt.streams = plan.stream >= 0, true
	rt.Takes = reflect.TypeFor[Req]()
	rt.invoke = func(rq *request) error {
		var req Req
		if err := plan.fill(rq, reflect.ValueOf(&req).Elem()); err != nil {
			return err
		}
		return fn(rq.r.Context(), rq.w, rq.caller, req)
	}
	return rt
}

// Raw declares a route that reads and writes by itself.
func Raw(pattern string, auth Auth, limit Limit, fn func(w http.ResponseWriter, r *http.Request, c Caller) error) Route {
	rt := newRoute(pattern, auth, limit, fn)
	rt.reads = true
	rt.invoke = func(rq *request) error { return fn(rq.w, rq.r, rq.caller) }
	return rt
}

// Also serves the route under more paths, such as an unstable prefix.
func (rt Route) Also(paths ...string) Route {
	rt.aliases = append(append([]string(nil), rt.aliases...), paths...)
	return rt
}

// Paths are all that the route is served under, but for those of r0.
func (rt Route) Paths() []string { return append([]string{rt.Path}, rt.aliases...) }

// UnlessSuspended refuses suspended users.
// spec: client-server-api#account-suspension
func (rt Route) UnlessSuspended() Route {
	rt.forActive = true
	return rt
}

// ComesBack says that what a device does here comes back to it by /sync, see Echoes.
func (rt Route) ComesBack() Route {
	rt.comesBack = true
	return rt
}

// FewAtOnce bounds how many requests of those who need not say who they are, to all such
// routes, are worked on at a time. That lasts until the response is taken, for which there is
// not much time.
func (rt Route) FewAtOnce() Route {
	rt.few = true
	return rt
}

// WithMaxBody bounds the body of this route; zero leaves the bound to the handler.
func (rt Route) WithMaxBody(n int64) Route {
	rt.maxBody = n
	return rt
}

func newRoute(pattern string, auth Auth, limit Limit, fn any) Route {
	method, path, ok := strings.Cut(pattern, " ")
	if !ok || !strings.HasPrefix(path, "/") {
		panic("httpx: pattern must be METHOD /path: " + pattern)
	}
	return Route{Method: method, Path: path, Auth: auth, Limit: limit, Name: functionName(fn), maxBody: MaxBody}
}

// functionName is "sendMessage" for the method value (*API).sendMessage.
func functionName(fn any) string {
	name := runtime.FuncForPC(reflect.ValueOf(fn).Pointer()).Name()
	name = strings.TrimSuffix(name, "-fm")
	return name[strings.LastIndexByte(name, '.')+1:]
}

// Mount adds routes. Declared v3 paths answer under r0 too, for clients that
// were written before Matrix 1.1.
func (rr *Router) Mount(routes ...Route) {
	if rr.mux == nil {
		rr.mux = http.NewServeMux()
		rr.few.requests = newShare(maxFew)
		rr.ofUsers = newBodies(maxFirstOfUsers, maxRestOfUsers)
		rr.ofStrangers = newBodies(maxFirstOfStrangers, maxRestOfStrangers)
	}
	for _, rt := range routes {
		rr.routes = append(rr.routes, rt)
		h := &mounted{rr, rt}
		for _, p := range rt.Paths() {
			rr.mux.Handle(rt.Method+" "+p, h)
			if old, ok := oldPath(p); ok {
				rr.mux.Handle(rt.Method+" "+old, h)
			}
		}
	}
}

// Routes lists what is mounted.
func (rr *Router) Routes() []Route { return rr.routes }

func oldPath(p string) (string, bool) {
	for _, api := range []string{"/_matrix/client/", "/_matrix/media/"} {
		if rest, ok := strings.CutPrefix(p, api+"v3/"); ok {
			return api + "r0/" + rest, true
		}
	}
	return "", false
}

type mounted struct {
	router *Router
	route  Route
}

func (m *mounted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m.route.serve(m.router, w.(*response), r)
}

// ServeHTTP serves clients that connect directly; see BehindProxy.
func (rr *Router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rr.answer(w, r, addressOf(r.RemoteAddr))
}

// BehindProxy serves clients that come through a proxy which tells their
// address in X-Forwarded-For. The last address counts: the one our proxy saw.
func (rr *Router) BehindProxy() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rr.answer(w, r, forwardedFor(r))
	})
}

func (rr *Router) answer(w http.ResponseWriter, r *http.Request, ip string) {
	rs := &response{ResponseWriter: w}
	r = r.WithContext(withRequest(r.Context(), ip))
	defer rr.recoverPanic(rs, r)
	if isOpenToBrowsers(r.URL.Path) {
		setCORS(rs.Header())
		if r.Method == http.MethodOptions {
			rs.WriteHeader(http.StatusNoContent)
			return
		}
	}
	// ServeMux would answer an unclean path with a redirect, which no Matrix
	// client expects; such a path is unknown.
	if p := r.URL.EscapedPath(); rr.mux == nil || !isClean(p) {
		rr.unrecognized(rs, http.StatusNotFound)
		return
	}
	h, _ := rr.mux.Handler(r)
	if _, ok := h.(*mounted); !ok {
		probe := &statusProbe{header: http.Header{}}
		h.ServeHTTP(probe, r)
		if probe.status == http.StatusMethodNotAllowed {
			rs.Header().Set("Allow", probe.header.Get("Allow"))
			rr.unrecognized(rs, http.StatusMethodNotAllowed)
			return
		}
		rr.unrecognized(rs, http.StatusNotFound)
		return
	}
	rr.mux.ServeHTTP(rs, r)
}

func isClean(p string) bool {
	if p == "" || p[0] != '/' {
		return false
	}
	c := path.Clean(p)
	return p == c || p == c+"/"
}

// statusProbe asks ServeMux whether a path is unknown or only the method is.
type statusProbe struct {
	header http.Header
	status int
}

func (p *statusProbe) Header() http.Header         { return p.header }
func (p *statusProbe) Write(b []byte) (int, error) { return len(b), nil }
func (p *statusProbe) WriteHeader(status int)      { p.status = status }
