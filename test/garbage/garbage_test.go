// Package garbage_test throws generated garbage at every route that is mounted:
// whatever comes, the answer is an error of the specification, never a failure
// of the server, and nothing of it stays in memory.
//
// HEARTH_GARBAGE_SEED and HEARTH_GARBAGE_ROUNDS (requests for each route) give
// other runs than the usual one. Start at TestEveryRoute.
package garbage_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/test/server"
)

func setting(t *testing.T, name string, usual uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func TestEveryRoute(t *testing.T) {
	seed, rounds := setting(t, "HEARTH_GARBAGE_SEED", 1), setting(t, "HEARTH_GARBAGE_ROUNDS", 20)
	if testing.Short() {
		rounds = min(rounds, 6)
	}
	t.Logf("HEARTH_GARBAGE_SEED=%d HEARTH_GARBAGE_ROUNDS=%d", seed, rounds)
	w := newWorld(t, seed)
	routes := w.server.Router.Routes()
	w.throw(routes, 2) // fills the caches, which may keep what they hold
	goroutines, heap := usage()
	w.throw(routes, int(rounds))
	w.checkUsage(goroutines, heap)
	w.logAnswers()
}

// logAnswers shows how far the requests came: where all are refused, nothing
// was tried but the first checks.
func (w *world) logAnswers() {
	reached := 0
	for _, name := range slices.Sorted(maps.Keys(w.answers)) {
		if w.answers[name][http.StatusOK] > 0 {
			reached++
		}
		w.t.Log(name, w.answers[name])
	}
	w.t.Logf("%d of %d routes did what was asked", reached, len(w.answers))
}

// world is a server, and what a request may name on it.
type world struct {
	generator
	t      *testing.T
	server *server.Server
	// clients are two who share a room, and an administrator.
	clients []*server.Client
	users   int // that were made so far
	// answers counts by the name of a route and the status.
	answers map[string]map[int]int
}

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{t: t, server: server.Start(t), generator: generator{Rand: rand.New(rand.NewPCG(seed, seed))}, answers: map[string]map[int]int{}}
	w.populate()
	return w
}

// populate makes users whom garbage has not locked out, deactivated or stripped
// of their power yet, and a room of theirs with something in it.
func (w *world) populate() {
	w.users++
	a, b := w.server.Register(fmt.Sprintf("alice%d", w.users)), w.server.Register(fmt.Sprintf("bob%d", w.users))
	w.clients = []*server.Client{a, b, w.administrator()}
	w.known = map[string][]string{
		"eventType":  {"m.room.message", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.encryption", "m.room.name", "m.reaction", "m.room.redaction", "m.room.canonical_alias", "m.room.aliases", "m.space.child", "m.room.server_acl", "m.room.tombstone", "m.room.create", "m.room.third_party_invite", "m.direct", "m.ignored_user_list", "m.push_rules", "m.fully_read", "m.room.pinned_events", "m.custom"},
		"type":       {"m.login.password", "m.login.dummy", "m.login.token", "m.id.user", "m.room.member", "m.room.message", "m.direct", "m.ignored_user_list", "m.call.invite"},
		"userId":     {a.User, b.User, a.User, "@nobody:localhost"},
		"deviceId":   {a.Device, b.Device, "NEW"},
		"serverName": {"localhost", "127.0.0.1:1"},
		"kind":       {"override", "underride", "content", "room", "sender", "user", "guest"},
		"ruleId":     {".m.rule.master", ".m.rule.message", "mine", "other"},
		"scope":      {"global"}, "dir": {"f", "b"}, "format": {"event", "content", "raw"},
		"refresh_token": {w.refreshToken(a)}, "filterId": {"0", "1", `{"room":{"timeline":{"limit":3}}}`, `{"lazy_load_members":true}`},
		"receiptType": {"m.read", "m.read.private", "m.fully_read"}, "relType": {"m.annotation", "m.thread", "m.replace", "m.reference"},
		"membership": {"join", "leave", "invite", "ban", "knock"}, "not_membership": {"leave"},
		"stateKey": {"", a.User, b.User, "x"}, "txnId": {"1", "2", "3"}, "tag": {"m.favourite", "u.work"}, "keyName": {"displayname", "avatar_url", "m.tz", "x.y"},
		"timeout": {"0", "0", "50000"}, "preset": {"private_chat", "public_chat", "trusted_private_chat"}, "visibility": {"public", "private"},
		"room_version": {"1", "6", "10", "11", "12"}, "new_version": {"9", "11", "12"}, "method": {"scale", "crop"}, "presence": {"online", "offline", "unavailable"},
		"algorithm": {"m.megolm_backup.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"}, "version": {"1", "2"}, "sessionId": {"s"},
		"username": {a.User, "charlie", strings.Repeat("c", 200)}, "password": {server.Password}, "authType": {"m.login.dummy", "m.login.terms", "m.login.recaptcha", "m.login.password"},
		"include": {"all", "participated"}, "mxc": {"mxc://localhost/abc"},
		"app_id": {"app"}, "pushkey": {"key"}, "device_display_name": {"d"}, "app_display_name": {"a"}, "lang": {"en"}, "display_name": {"d"},
	}
	w.room()
}

// refreshToken logs a user in once more.
func (w *world) refreshToken(c *server.Client) string {
	r := w.server.MustDo("POST", "/_matrix/client/v3/login", "", server.Object{"type": "m.login.password", "refresh_token": true,
		"identifier": server.Object{"type": "m.id.user", "user": c.User}, "password": server.Password})
	return r["refresh_token"].(string)
}

// administrator makes one as operators do.
func (w *world) administrator() *server.Client {
	const path = "/_synapse/admin/v1/register"
	nonce := w.server.MustDo("GET", path, "", nil)["nonce"].(string)
	name := fmt.Sprintf("root%d", w.users)
	mac := hmac.New(sha1.New, []byte("secret"))
	fmt.Fprintf(mac, "%s\x00%s\x00%s\x00admin", nonce, name, server.Password)
	w.server.MustDo("POST", path, "", server.Object{"nonce": nonce, "username": name, "password": server.Password, "admin": true, "mac": hex.EncodeToString(mac.Sum(nil))})
	return w.server.Login(name)
}

// room makes another room for the clients of now, or for others if these cannot.
func (w *world) room() {
	a, b := w.clients[0], w.clients[1]
	alias := fmt.Sprintf("a%d", w.Uint64())
	status, created := a.Do("POST", "/_matrix/client/v3/createRoom", server.Object{"preset": "public_chat", "room_alias_name": alias})
	if status != http.StatusOK {
		w.populate() // suspended, for example
		return
	}
	room := created["room_id"].(string)
	path := "/_matrix/client/v3/rooms/" + url.PathEscape(room)
	if status, _ := b.Do("POST", path+"/join", server.Object{}); status != http.StatusOK {
		w.populate()
		return
	}
	known := map[string][]string{"roomId": {room}, "roomAlias": {"#" + alias + ":localhost", "#new:localhost"}}
	for i := range 2 {
		r := a.MustDo("PUT", fmt.Sprintf("%s/send/m.room.message/t%d", path, i), server.Object{"msgtype": "m.text", "body": "x"})
		known["eventId"] = append(known["eventId"], r["event_id"].(string))
	}
	at := a.MustDo("GET", "/_matrix/client/v3/sync?timeout=0", nil)["next_batch"].(string)
	page := a.MustDo("GET", path+"/messages?dir=b&limit=2", nil)
	known["from"] = []string{at, at, page["start"].(string), page["end"].(string), "s1", "s0_0"}
	maps.Copy(w.known, known)
	w.words = strings.NewReplacer("!ROOM", room, "$EVENT", known["eventId"][0], "OTHERUSER", b.User, "OTHER", b.Device, "USER", a.User, "DEV", a.Device,
		"PASSWORD", server.Password, "REFRESH", w.known["refresh_token"][0])
}

// throw sends so much garbage to each route.
func (w *world) throw(routes []httpx.Route, rounds int) {
	for _, rt := range routes {
		w.room()
		for range rounds {
			for _, path := range rt.Paths() {
				w.request(rt, path)
			}
			if rt.Method != http.MethodGet {
				w.repopulate()
			}
		}
	}
}

// repopulate makes other users where one cannot go on.
func (w *world) repopulate() {
	for _, c := range w.clients {
		if status, _ := c.Do("GET", "/_matrix/client/v3/account/whoami", nil); status != http.StatusOK {
			w.populate()
			return
		}
	}
	if status, _ := w.clients[0].Do("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(w.known["roomId"][0])+"/joined_members", nil); status != http.StatusOK {
		w.room()
	}
}

// request makes one request for a route and checks the answer.
func (w *world) request(rt httpx.Route, path string) {
	w.t.Helper()
	fields := map[string]map[string]reflect.Type{"path": {}, "query": {}, "header": {}}
	if rt.Takes != nil {
		for i := range rt.Takes.NumField() {
			f := rt.Takes.Field(i)
			for tag, named := range fields {
				if name, ok := f.Tag.Lookup(tag); ok {
					named[name] = f.Type
				}
			}
		}
	}
	w.care = pick(&w.generator, []int{1, 4, 20, 1000})
	raw := w.path(path, fields["path"])
	unescaped, err := url.PathUnescape(raw)
	if err != nil {
		w.t.Fatal(err)
	}
	r := &http.Request{
		Method: rt.Method, URL: &url.URL{Path: unescaped, RawPath: raw, RawQuery: w.query(fields["query"])},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Host: "localhost:8008", RemoteAddr: "127.0.0.1:1", Body: http.NoBody,
	}
	r.RequestURI = r.URL.RequestURI()
	var body []byte
	if rt.Method != http.MethodGet || w.oneIn(10) {
		t := rt.Takes
		if t == nil || t.NumField() == 0 {
			t = rawValue
		}
		body = w.body(rt.Name, t)
		r.Body = http.NoBody
		if len(body) > 0 {
			r.Body = readCloser{bytes.NewReader(body)}
		}
		r.ContentLength = int64(len(body))
		if w.wrong(10) {
			r.ContentLength = pick(&w.generator, []int64{-1, 0, 1, 1 << 20, 1 << 40})
		}
	}
	w.headers(r, rt.Auth, fields["header"])

	// Whoever would wait for something hangs up soon.
	ctx, cancel := context.WithTimeout(w.t.Context(), time.Minute)
	defer cancel()
	_, waits := fields["query"]["timeout"]
	if waits {
		defer time.AfterFunc(5*time.Millisecond, cancel).Stop()
	}
	answer := httptest.NewRecorder()
	w.server.Router.ServeHTTP(answer, r.WithContext(ctx))
	if waits && ctx.Err() != nil {
		return // who has hung up gets no answer, or a part of one
	}
	if w.answers[rt.Name] == nil {
		w.answers[rt.Name] = map[int]int{}
	}
	w.answers[rt.Name][answer.Code]++
	if fault := faultOf(answer, rt); fault != "" {
		w.t.Errorf("%s\n%s %s %v\n%s\n%d %s", fault, r.Method, clip(r.RequestURI), r.Header, clip(string(body)), answer.Code, clip(answer.Body.String()))
	}
}

type readCloser struct{ *bytes.Reader }

func (readCloser) Close() error { return nil }

func (w *world) headers(r *http.Request, auth httpx.Auth, takes map[string]reflect.Type) {
	for _, name := range slices.Sorted(maps.Keys(takes)) {
		if !w.oneIn(3) {
			r.Header[http.CanonicalHeaderKey(name)] = []string{w.text(name, takes[name])}
		}
	}
	if w.wrong(4) {
		r.Header.Set("Content-Type", pick(&w.generator, []string{"application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json; charset=utf-16", "\x00", strings.Repeat("a/", 3000)}))
	}
	if w.wrong(20) {
		r.Header.Set("Content-Encoding", pick(&w.generator, []string{"gzip", "br", "identity", "x"}))
	}
	switch n := w.IntN(12); {
	case auth == httpx.Admin && n < 9:
		r.Header.Set("Authorization", "Bearer "+w.clients[2].Token)
	case n < 10:
		r.Header.Set("Authorization", "Bearer "+w.clients[n%3%2].Token)
	case n == 10:
		r.Header.Set("Authorization", pick(&w.generator, []string{"Bearer", "Bearer ", "Bearer x", "Basic YTpi", "Bearer \x00", "X-Matrix origin=localhost", "Bearer " + strings.Repeat("x", 100_000)}))
	}
}

// faultOf says what is wrong with an answer.
func faultOf(answer *httptest.ResponseRecorder, rt httpx.Route) string {
	status, body := answer.Code, jsontext.Value(answer.Body.Bytes())
	code := ""
	if strings.HasPrefix(answer.Header().Get("Content-Type"), "application/json") {
		if rt.Method == http.MethodHead {
			return ""
		}
		if !body.IsValid() {
			return "the answer is not valid JSON"
		}
		if status >= 400 {
			var e struct {
				Code  string         `json:"errcode"`
				Text  string         `json:"error"`
				Flows jsontext.Value `json:"flows"`
			}
			if err := json.Unmarshal(body, &e); err != nil {
				return "the error is of no known form: " + err.Error()
			}
			challenge := status == http.StatusUnauthorized && e.Flows != nil
			if !challenge && (e.Code == "" || e.Text == "") {
				return "the error has no errcode or no error"
			}
			code = e.Code
		}
	} else if status >= 400 && !strings.Contains(rt.Path, "/fallback/") {
		return "the error is " + answer.Header().Get("Content-Type") + ", not JSON"
	}
	switch {
	case status < 500:
		return ""
	case status == http.StatusGatewayTimeout && code == "M_NOT_YET_UPLOADED":
		return "" // spec: client-server-api#get_matrixclientv1mediadownloadservernamemediaid
	case status == http.StatusBadGateway:
		return "" // what another server has cannot be had
	}
	return "the server failed"
}

func clip(s string) string {
	if len(s) > 3000 {
		return strconv.Quote(s[:3000]) + "…"
	}
	return s
}

// usage is what is in use once everybody has gone.
func usage() (goroutines int, heap uint64) {
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return runtime.NumGoroutine(), m.HeapAlloc
}

// Goroutines that end by themselves, such as those of database connections,
// and caches up to their bounds may come and go.
const (
	someGoroutines = 20
	someHeap       = 48 << 20
)

func (w *world) checkUsage(goroutines int, heap uint64) {
	w.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		g, h := usage()
		if g <= goroutines+someGoroutines && h <= heap+someHeap {
			w.t.Logf("goroutines: %d, then %d; heap: %d MB, then %d MB", goroutines, g, heap>>20, h>>20)
			return
		}
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			w.t.Fatalf("goroutines: %d, then %d; heap: %d MB, then %d MB\n%s", goroutines, g, heap>>20, h>>20, buf[:runtime.Stack(buf, true)])
		}
	}
}
