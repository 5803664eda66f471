package media

import (
	"context"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/media"
)

func (a *API) getContentAuthed(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.download(w, r, true)
}

func (a *API) getContentOverrideNameAuthed(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.download(w, r, true)
}

func (a *API) getContent(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.download(w, r, false)
}

func (a *API) getContentOverrideName(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.download(w, r, false)
}

func (a *API) download(w http.ResponseWriter, r *http.Request, loggedIn bool) error {
	q, _, err := fileRequest(r, loggedIn)
	if err != nil {
		return err
	}
	f, err := a.Repository.Download(r.Context(), q)
	if err != nil {
		return err
	}
	defer f.Close()
	if name := r.PathValue("fileName"); name != "" {
		f.Name = name
	}
	serve(w, r, f)
	return nil
}

func (a *API) getContentThumbnailAuthed(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.thumbnail(w, r, true)
}

func (a *API) getContentThumbnail(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.thumbnail(w, r, false)
}

func (a *API) thumbnail(w http.ResponseWriter, r *http.Request, loggedIn bool) error {
	q, query, err := fileRequest(r, loggedIn)
	if err != nil {
		return err
	}
	var size media.Size
	if size.Width, err = positive(query, "width"); err != nil {
		return err
	}
	if size.Height, err = positive(query, "height"); err != nil {
		return err
	}
	switch query.Get("method") {
	case "crop":
		size.Crop = true
	case "scale", "":
	default:
		return errcode.InvalidParam("method must be crop or scale")
	}
	if size.Animated, err = boolean(query, "animated", false); err != nil {
		return err
	}
	f, err := a.Repository.Thumbnail(r.Context(), q, size)
	if err != nil {
		return err
	}
	defer f.Close()
	serve(w, r, f)
	return nil
}

// serve writes a file, or the range of it that is asked for, with headers that
// keep it from doing anything in a browser but being shown.
// spec: client-server-api#content-repo-client-behaviour
func serve(w http.ResponseWriter, r *http.Request, f *media.File) {
	h := w.Header()
	h.Set("Content-Type", f.Type)
	h.Set("Content-Disposition", Disposition(f.Type, f.Name))
	h.Set("Content-Security-Policy", "sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; style-src 'unsafe-inline'; object-src 'self';")
	h.Set("Cross-Origin-Resource-Policy", "cross-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Robots-Tag", "noindex, nofollow, noarchive, noimageindex")
	// A media id never gets other bytes; a day leaves a quarantine its effect.
	scope := "public"
	if f.LoggedIn {
		scope = "private"
	}
	h.Set("Cache-Control", scope+", max-age=86400, immutable")
	h.Set("ETag", strconv.Quote(f.ETag))
	http.ServeContent(w, r, "", f.Modified, f)
}

// inline are the types that no browser runs scripts of.
// spec: client-server-api#serving-inline-content
var inline = map[string]bool{
	"text/css": true, "text/plain": true, "text/csv": true, "application/json": true, "application/ld+json": true,
	"image/jpeg": true, "image/gif": true, "image/png": true, "image/apng": true, "image/webp": true, "image/avif": true,
	"video/mp4": true, "video/webm": true, "video/ogg": true, "video/quicktime": true,
	"audio/mp4": true, "audio/webm": true, "audio/aac": true, "audio/mpeg": true, "audio/ogg": true, "audio/wave": true,
	"audio/wav": true, "audio/x-wav": true, "audio/x-pn-wav": true, "audio/flac": true, "audio/x-flac": true,
}

// Disposition is a Content-Disposition header. A name that is a token is
// written as such, any other in the extended form, which needs no quoting.
// rfc: 6266 4.1, rfc: 8187 3.2
func Disposition(contentType, name string) string {
	d := "attachment"
	// ParseMediaType lowers the case, so that no spelling slips through.
	if kind, _, err := mime.ParseMediaType(contentType); err == nil && inline[kind] {
		d = "inline"
	}
	switch {
	case name == "":
		return d
	case all(name, isTokenChar):
		return d + "; filename=" + name
	}
	var b strings.Builder
	b.WriteString(d + "; filename*=utf-8''")
	for i := range len(name) {
		if c := name[i]; isAttrChar(c) {
			b.WriteByte(c)
		} else {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

func all(s string, ok func(byte) bool) bool {
	for i := range len(s) {
		if !ok(s[i]) {
			return false
		}
	}
	return true
}

func isAttrChar(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$&+-.^_`|~", c) >= 0
}

func isTokenChar(c byte) bool { return isAttrChar(c) || strings.IndexByte("%'*", c) >= 0 }

type urlPreviewRequest struct {
	URL string `query:"url"`
	// TS is a point in time; what is at hand is returned, as the spec allows.
	TS int64 `query:"ts"`
}

func (a *API) getUrlPreviewAuthed(ctx context.Context, _ httpx.Caller, q urlPreviewRequest) (jsontext.Value, error) {
	if q.URL == "" {
		return nil, errcode.MissingParam("url is missing")
	}
	return a.Repository.Preview(ctx, q.URL)
}

func (a *API) getUrlPreview(ctx context.Context, c httpx.Caller, q urlPreviewRequest) (jsontext.Value, error) {
	return a.getUrlPreviewAuthed(ctx, c, q)
}

type configResponse struct {
	UploadSize int64 `json:"m.upload.size"`
}

func (a *API) getConfigAuthed(context.Context, httpx.Caller, struct{}) (configResponse, error) {
	return configResponse{a.Repository.MaxUpload()}, nil
}

func (a *API) getConfig(ctx context.Context, c httpx.Caller, q struct{}) (configResponse, error) {
	return a.getConfigAuthed(ctx, c, q)
}
