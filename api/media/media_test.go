package media

import (
	"bytes"
	"context"
	"fmt"
	"image"
	"image/png"
	"io"
	"mime"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/media"
	"hearth/outgoing"
	"hearth/store/storetest"
)

// server is a router with the API, where a user's token is the localpart.
func server(t testing.TB, o media.Options) http.Handler {
	o.Server, o.Dir, o.Authenticated = storetest.Server, t.TempDir(), true
	r, err := media.New(storetest.Open(t, nil), o)
	if err != nil {
		t.Fatal(err)
	}
	router := &httpx.Router{Authenticate: func(_ context.Context, token string, _ *http.Request) (httpx.Caller, error) {
		if token == "nobody" {
			return httpx.Caller{}, errcode.UnknownToken("no such token")
		}
		return httpx.Caller{User: id.MakeUser(token, storetest.Server), Guest: token == "guest"}, nil
	}}
	router.Mount((&API{Repository: r}).Routes()...)
	return router
}

func call(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	if !strings.Contains(target, "access_token") {
		r.Header.Set("Authorization", "Bearer alice")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func wantError(t testing.TB, w *httptest.ResponseRecorder, status int, code string) {
	t.Helper()
	if w.Code != status || !strings.Contains(w.Body.String(), `"errcode":"`+code+`"`) {
		t.Errorf("got %d %s, want %d %s", w.Code, w.Body, status, code)
	}
}

// upload returns the path of the file: server and media id.
func upload(t testing.TB, h http.Handler, name, kind, body string) string {
	t.Helper()
	w := call(h, "POST", "/_matrix/media/v3/upload?filename="+url.QueryEscape(name), body, "Content-Type", kind)
	var resp struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &resp); err != nil || w.Code != 200 {
		t.Fatal(w.Code, w.Body)
	}
	path, ok := strings.CutPrefix(resp.URI, "mxc://")
	if !ok {
		t.Fatal(resp.URI)
	}
	return path
}

const download = "/_matrix/client/v1/media/download/"

func TestHeaders(t *testing.T) {
	h := server(t, media.Options{})
	w := call(h, "GET", download+upload(t, h, "a.png", "image/png", "bytes"), "")
	if w.Code != 200 || w.Body.String() != "bytes" {
		t.Fatal(w.Code, w.Body)
	}
	for k, want := range map[string]string{
		"Content-Type":                 "image/png",
		"Content-Length":               "5",
		"Content-Disposition":          "inline; filename=a.png",
		"Cross-Origin-Resource-Policy": "cross-origin",
		"X-Content-Type-Options":       "nosniff",
		"Cache-Control":                "private, max-age=86400, immutable",
		"Access-Control-Allow-Origin":  "*",
		"Accept-Ranges":                "bytes",
	} {
		if got := w.Header().Get(k); got != want {
			t.Errorf("%s: %q", k, got)
		}
	}
	if csp := w.Header().Get("Content-Security-Policy"); !strings.HasPrefix(csp, "sandbox; default-src 'none'; script-src 'none';") {
		t.Errorf("Content-Security-Policy: %q", csp)
	}
}

func TestRangesAndCaches(t *testing.T) {
	h := server(t, media.Options{})
	path := download + upload(t, h, "", "video/mp4", "0123456789")
	w := call(h, "GET", path, "", "Range", "bytes=2-4")
	if w.Code != 206 || w.Body.String() != "234" || w.Header().Get("Content-Range") != "bytes 2-4/10" {
		t.Errorf("range: %d %q %v", w.Code, w.Body, w.Header())
	}
	if w := call(h, "GET", path, "", "Range", "bytes=20-"); w.Code != 416 {
		t.Errorf("range beyond the end: %d", w.Code)
	}
	etag := w.Header().Get("ETag")
	if w := call(h, "GET", path, "", "If-None-Match", etag); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("cached: %d", w.Code)
	}
	if w := call(h, "HEAD", path, ""); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "10" {
		t.Errorf("HEAD: %d %v", w.Code, w.Header())
	}
}

// spec: client-server-api#serving-inline-content
func TestOnlyHarmlessTypesAreInline(t *testing.T) {
	h := server(t, media.Options{})
	for kind, want := range map[string]string{
		"image/png": "inline", "Text/Plain; charset=utf-8": "inline", "IMAGE/JPEG": "inline", "audio/x-flac": "inline",
		"text/html": "attachment", "image/svg+xml": "attachment", "image/svg": "attachment", "application/pdf": "attachment",
		"application/xhtml+xml": "attachment", "Image/SVG+xml": "attachment", "text/javascript": "attachment", "": "attachment",
	} {
		w := call(h, "GET", download+upload(t, h, "", kind, "<script>"), "")
		if got, _, err := mime.ParseMediaType(w.Header().Get("Content-Disposition")); got != want || err != nil {
			t.Errorf("%q: %q %v", kind, got, err)
		}
		if kind == "" {
			kind = "application/octet-stream"
		}
		if got := w.Header().Get("Content-Type"); got != kind {
			t.Errorf("%q is served as %q", kind, got)
		}
	}
	w := call(h, "GET", download+upload(t, h, "", "no type\r\nX-Evil: 1", "x"), "")
	if got := w.Header(); got.Get("Content-Type") != "application/octet-stream" || got.Get("X-Evil") != "" {
		t.Errorf("%v", got)
	}
}

func TestFileNames(t *testing.T) {
	h := server(t, media.Options{})
	for _, name := range []string{"ascii", "name with spaces", "name;with;semicolons", `quo"te\s.txt`, "\U0001F414", "päper.pdf", "100%.txt", "a/b.png"} {
		path := download + upload(t, h, name, "image/png", "x")
		_, params, err := mime.ParseMediaType(call(h, "GET", path, "").Header().Get("Content-Disposition"))
		if err != nil || params["filename"] != name {
			t.Errorf("%q: %v %v", name, params, err)
		}
		w := call(h, "GET", path+"/"+url.PathEscape("other "+name), "")
		_, params, err = mime.ParseMediaType(w.Header().Get("Content-Disposition"))
		if err != nil || params["filename"] != "other "+name {
			t.Errorf("other %q: %d %v %v", name, w.Code, params, err)
		}
	}
	w := call(h, "GET", download+upload(t, h, "\U0001F414", "image/png", "x"), "")
	if got := w.Header().Get("Content-Disposition"); got != "inline; filename*=utf-8''%F0%9F%90%94" {
		t.Errorf("unicode: %s", got)
	}
	if got := call(h, "GET", download+upload(t, h, "", "image/png", "x"), "").Header().Get("Content-Disposition"); got != "inline" {
		t.Errorf("no name: %s", got)
	}
	wantError(t, call(h, "POST", "/_matrix/media/v3/upload?filename=%ff", "x"), 400, "M_INVALID_PARAM")
}

func TestWhoMayDoWhat(t *testing.T) {
	h := server(t, media.Options{})
	path := upload(t, h, "", "image/png", "x")
	for _, target := range []string{download + path, "/_matrix/client/v1/media/thumbnail/" + path, "/_matrix/client/v1/media/config"} {
		wantError(t, call(h, "GET", target, "", "Authorization", ""), 401, "M_MISSING_TOKEN")
		wantError(t, call(h, "GET", target+"?access_token=nobody", "", "Authorization", ""), 401, "M_UNKNOWN_TOKEN")
	}
	wantError(t, call(h, "POST", "/_matrix/media/v3/upload", "x", "Authorization", ""), 401, "M_MISSING_TOKEN")
	if w := call(h, "GET", download+path, "", "Authorization", "Bearer guest"); w.Code != 200 {
		t.Errorf("guest: %d", w.Code)
	}
	for _, old := range []string{"v3", "r0", "v1"} {
		wantError(t, call(h, "GET", "/_matrix/media/"+old+"/download/"+path, "", "Authorization", ""), 404, "M_NOT_FOUND")
		wantError(t, call(h, "GET", "/_matrix/media/"+old+"/thumbnail/"+path+"?width=1&height=1", "", "Authorization", ""), 404, "M_NOT_FOUND")
	}
}

func TestBadRequests(t *testing.T) {
	h := server(t, media.Options{MaxUpload: 10})
	path := upload(t, h, "", "image/png", "0123456789")
	for _, test := range []struct {
		target string
		status int
		code   string
	}{
		{download + "localhost/unknown", 404, "M_NOT_FOUND"},
		{download + "other.example/abc", 404, "M_NOT_FOUND"},
		{download + "localhost/..%2f..%2fetc%2fpasswd", 404, "M_NOT_FOUND"},
		{download + "localhost/a%00b", 404, "M_NOT_FOUND"},
		{download + "%2e%2e%2f/abc", 400, "M_INVALID_PARAM"},
		{download + path + "?timeout_ms=soon", 400, "M_INVALID_PARAM"},
		{download + path + "?timeout_ms=-1", 400, "M_INVALID_PARAM"},
		{download + path + "?allow_remote=maybe", 400, "M_INVALID_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path, 400, "M_MISSING_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path + "?width=10", 400, "M_MISSING_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path + "?width=10&height=-1", 400, "M_INVALID_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path + "?width=1.5&height=1", 400, "M_INVALID_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path + "?width=99999999999&height=1", 400, "M_INVALID_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path + "?width=10&height=10&method=stretch", 400, "M_INVALID_PARAM"},
		{"/_matrix/client/v1/media/thumbnail/" + path + "?width=10&height=10", 400, "M_UNKNOWN"},
		{"/_matrix/client/v1/media/preview_url?url=http://127.0.0.1", 404, "M_UNRECOGNIZED"},
	} {
		t.Run(test.target, func(t *testing.T) { wantError(t, call(h, "GET", test.target, ""), test.status, test.code) })
	}
	wantError(t, call(h, "POST", "/_matrix/media/v3/upload", "0123456789+"), 413, "M_TOO_LARGE")
	w := call(h, "GET", "/_matrix/client/v1/media/config", "")
	if got := w.Body.String(); got != `{"m.upload.size":10}` {
		t.Errorf("config: %s", got)
	}
}

// spec: client-server-api#post_matrixmediav1create
func TestUploadToAnIDCreatedBefore(t *testing.T) {
	h := server(t, media.Options{})
	var created struct {
		URI     string `json:"content_uri"`
		Expires int64  `json:"unused_expires_at"`
	}
	w := call(h, "POST", "/_matrix/media/v1/create", "")
	if err := json.Unmarshal(w.Body.Bytes(), &created); err != nil || created.Expires == 0 {
		t.Fatal(w.Code, w.Body)
	}
	path := strings.TrimPrefix(created.URI, "mxc://")
	wantError(t, call(h, "GET", download+path+"?timeout_ms=0", ""), 504, "M_NOT_YET_UPLOADED")
	wantError(t, call(h, "GET", "/_matrix/media/v3/download/"+path+"?timeout_ms=0", ""), 504, "M_NOT_YET_UPLOADED")
	wantError(t, call(h, "PUT", "/_matrix/media/v3/upload/"+path, "x", "Authorization", "Bearer bob"), 403, "M_FORBIDDEN")
	wantError(t, call(h, "PUT", "/_matrix/media/v3/upload/localhost/unknown", "x"), 404, "M_NOT_FOUND")
	if w := call(h, "PUT", "/_matrix/media/v3/upload/"+path+"?filename=test.png", "bytes", "Content-Type", "image/png"); w.Code != 200 || w.Body.String() != "{}" {
		t.Fatal(w.Code, w.Body)
	}
	wantError(t, call(h, "PUT", "/_matrix/media/v3/upload/"+path, "x"), 409, "M_CANNOT_OVERWRITE_MEDIA")
	w = call(h, "GET", download+path, "")
	if w.Body.String() != "bytes" || w.Header().Get("Content-Type") != "image/png" || w.Header().Get("Content-Disposition") != "inline; filename=test.png" {
		t.Errorf("%q %v", w.Body, w.Header())
	}
}

func TestThumbnailIsServedInline(t *testing.T) {
	h := server(t, media.Options{})
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, 400, 200))); err != nil {
		t.Fatal(err)
	}
	path := upload(t, h, "big.png", "image/png", b.String())
	w := call(h, "GET", "/_matrix/client/v1/media/thumbnail/"+path+"?width=96&height=96&method=crop", "")
	config, err := png.DecodeConfig(w.Body)
	if err != nil || config.Width != 96 || config.Height != 96 {
		t.Errorf("%d %+v %v", w.Code, config, err)
	}
	if got := w.Header().Get("Content-Disposition"); got != "inline; filename=thumbnail.png" {
		t.Errorf("%s", got)
	}
}

// A file goes through a real connection, longer than any buffer on the way.
func TestStreaming(t *testing.T) {
	srv := httptest.NewServer(server(t, media.Options{}))
	defer srv.Close()
	const size = 20 << 20
	r, _ := http.NewRequest("POST", srv.URL+"/_matrix/media/v3/upload?access_token=alice", io.LimitReader(zeros{}, size))
	resp, err := srv.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	var uploaded struct {
		URI string `json:"content_uri"`
	}
	if err := json.UnmarshalRead(resp.Body, &uploaded); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp, err = srv.Client().Get(srv.URL + download + strings.TrimPrefix(uploaded.URI, "mxc://") + "?access_token=alice")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
		t.Errorf("got %d bytes, %v", n, err)
	}
	pr, pw := io.Pipe()
	r, _ = http.NewRequest("POST", srv.URL+"/_matrix/media/v3/upload?access_token=alice", pr)
	r.ContentLength = 100
	go func() {
		fmt.Fprint(pw, "only a part")
		pw.CloseWithError(io.ErrClosedPipe)
	}()
	if resp, err := srv.Client().Do(r); err == nil {
		resp.Body.Close()
		t.Errorf("half an upload: %d", resp.StatusCode)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func loopbackOnly() outgoing.Rules {
	return outgoing.Rules{Deny: outgoing.Private, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
}

func TestURLPreview(t *testing.T) {
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 279, 129))); err != nil {
		t.Fatal(err)
	}
	asked := map[string]int{}
	pages := map[string]string{
		"/rock.html": `<html prefix="og: http://ogp.me/ns#"><head><title>The Rock (1996)</title>
			<meta property="og:title" content="The Rock" /><meta property="og:type" content="video.movie" />
			<meta property="og:url" content="http://www.imdb.com/title/tt0117500/" />
			<meta property="og:image" content="test.png" /><meta property="og:image:width" content="9"/></head><body></body></html>`,
		"/plain.html":  "<title>\n A  page &amp; more\n</title><meta name=description content='what it is'><meta name='twitter:image' content='/none.png'>",
		"/nested.html": strings.Repeat("<div><span>", 50_000) + "<meta property='og:title' content='deep'>",
		"/latin.html":  "<title>h\xf6he</title>",
	}
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked[r.URL.Path]++
		switch page := pages[r.URL.Path]; {
		case r.URL.Path == "/latin.html":
			w.Header().Set("Content-Type", "text/html; charset=iso-8859-1")
			io.WriteString(w, page)
		case page != "":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, page)
		case r.URL.Path == "/test.png":
			w.Header().Set("Content-Type", "image/png")
			w.Write(picture.Bytes())
		case r.URL.Path == "/text":
			w.Header().Set("Content-Type", "text/plain")
		case r.URL.Path == "/inside":
			http.Redirect(w, r, "http://10.0.0.1/secret", http.StatusFound)
		case r.URL.Path == "/huge.png":
			w.Header().Set("Content-Type", "image/png")
			io.Copy(w, io.LimitReader(zeros{}, 1<<20))
		default:
			w.WriteHeader(404)
		}
	}))
	defer web.Close()
	h := server(t, media.Options{Previews: media.PreviewOptions{
		Enabled: true, Rules: loopbackOnly(), MaxSize: 1 << 19, Blocked: []map[string]string{{"path": "/private*"}, {"netloc": `^example\.`}},
	}})
	preview := func(target string) (*httptest.ResponseRecorder, map[string]any) {
		if !strings.Contains(target, "://") {
			target = web.URL + target
		}
		w := call(h, "GET", "/_matrix/client/v1/media/preview_url?url="+url.QueryEscape(target), "")
		var og map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &og); err != nil {
			t.Errorf("%s: %s", target, w.Body)
		}
		return w, og
	}
	_, og := preview("/rock.html#fragment")
	image, _ := og["og:image"].(string)
	for k, want := range map[string]any{
		"og:title": "The Rock", "og:type": "video.movie", "og:url": "http://www.imdb.com/title/tt0117500/", "og:image:type": "image/png",
		"og:image:width": 279.0, "og:image:height": 129.0, "matrix:image:size": float64(picture.Len()),
	} {
		if og[k] != want {
			t.Errorf("%s: %v", k, og[k])
		}
	}
	path, ok := strings.CutPrefix(image, "mxc://")
	if w := call(h, "GET", download+path, ""); !ok || w.Body.Len() != picture.Len() {
		t.Errorf("picture %s: %d", image, w.Code)
	}
	if w := call(h, "GET", "/_matrix/media/v3/preview_url?url="+url.QueryEscape(web.URL+"/rock.html"), ""); w.Code != 200 || asked["/rock.html"] != 1 {
		t.Errorf("%d, asked %d times", w.Code, asked["/rock.html"])
	}
	for target, want := range map[string]string{
		"/plain.html":  `{"og:description":"what it is","og:title":"A page & more"}`,
		"/nested.html": `{"og:title":"deep"}`,
		"/latin.html":  `{"og:title":"höhe"}`,
		"/text":        `{}`,
	} {
		if w, _ := preview(target); w.Code != 200 || w.Body.String() != want {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	for target, want := range map[string]int{
		"/missing": 502, "/inside": 502, "/huge.png": 502, "http://127.0.0.2/": 502, "http://[::1]/": 502, "http://localhost.invalid/": 502,
		"/private/page": 403, "http://example.org/": 403, "ftp://x/": 400, "file:///etc/passwd": 400, "http://": 400, "%": 400,
	} {
		if w, _ := preview(target); w.Code != want {
			t.Errorf("%s: %d %s", target, w.Code, w.Body)
		}
	}
	wantError(t, call(h, "GET", "/_matrix/client/v1/media/preview_url", ""), 400, "M_MISSING_PARAM")
}

func BenchmarkDownload(b *testing.B) {
	srv := httptest.NewServer(server(b, media.Options{}))
	defer srv.Close()
	for _, size := range []int{10 << 10, 10 << 20} {
		path := upload(b, srv.Config.Handler, "", "image/png", strings.Repeat("x", size))
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				resp, err := srv.Client().Get(srv.URL + download + path + "?access_token=alice")
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, resp.Body); err != nil {
					b.Fatal(err)
				}
				resp.Body.Close()
			}
		})
	}
}
