package media

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/outgoing"
	"hearth/store"
)

// PreviewOptions say whether and how URLs are previewed.
type PreviewOptions struct {
	Enabled bool
	Rules   outgoing.Rules // addresses that must not be asked, unless they are allowed
	// Blocked are URLs that get no preview: each entry has patterns for parts of
	// a URL (scheme, username, netloc, hostname, port, path, query), all of which must
	// match. A pattern is a glob, or a regular expression if it starts with ^.
	Blocked        []map[string]string
	MaxSize        int64    // of a page or a picture, in bytes; 0: 10 MiB
	AcceptLanguage []string // none: en
	UserAgent      string
}

const (
	previewTime      = 20 * time.Second
	previewRedirects = 5
	previewSlots     = 8
	previewKept      = time.Hour
	failureKept      = time.Minute
	previewCache     = 4 << 20 // bytes
)

// previews remembers what was found, and runs one fetch for all who ask meanwhile.
type previews struct {
	o       PreviewOptions
	client  *outgoing.Client
	blocked []urlPattern
	slots   chan struct{}

	mu    sync.Mutex
	known map[string]*preview
	size  int // of known, in bytes
}

type preview struct {
	done    chan struct{} // closed when body and err are set
	body    jsontext.Value
	err     error
	expires time.Time
}

func newPreviews(o PreviewOptions) (*previews, error) {
	if o.MaxSize == 0 {
		o.MaxSize = 10 << 20
	}
	if len(o.AcceptLanguage) == 0 {
		o.AcceptLanguage = []string{"en"}
	}
	p := &previews{o: o, slots: make(chan struct{}, previewSlots), known: map[string]*preview{}}
	for _, entry := range o.Blocked {
		pattern, err := parseURLPattern(entry)
		if err != nil {
			return nil, fmt.Errorf("URLs without preview: %w", err)
		}
		p.blocked = append(p.blocked, pattern)
	}
	p.client = outgoing.New(outgoing.Options{
		Rules: o.Rules, Redirects: previewRedirects, Timeout: previewTime, UserAgent: o.UserAgent, Permit: p.permit,
	})
	return p, nil
}

var errBlocked = errors.New("the URL is blocked by the configuration")

func (p *previews) permit(u *url.URL) error {
	for _, b := range p.blocked {
		if b.matches(u) {
			return errBlocked
		}
	}
	return nil
}

// Preview says what a URL leads to, as OpenGraph properties; a picture among
// them becomes a file of ours.
// spec: client-server-api#get_matrixclientv1mediapreview_url
func (r *Repository) Preview(ctx context.Context, address string) (jsontext.Value, error) {
	p := r.previews
	if !p.o.Enabled {
		return nil, errcode.Unrecognized("this server makes no previews")
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errcode.InvalidParam("url must be an http or https URL")
	}
	u.User, u.Fragment = nil, ""
	found, mine := p.find(u.String())
	if !mine {
		select {
		case <-found.done:
			return found.body, found.err
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	// Others may wait for this fetch, so it outlives its first caller.
	found.body, found.err = r.makePreview(context.WithoutCancel(ctx), u)
	p.keep(u.String(), found)
	return found.body, found.err
}

// find returns what is known or being fetched; or makes an entry for the caller to fill.
func (p *previews) find(address string) (found *preview, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if e := p.known[address]; e != nil && (e.expires.IsZero() || now.Before(e.expires)) {
		return e, false
	}
	e := &preview{done: make(chan struct{})}
	p.forget(address)
	p.known[address] = e
	p.size += len(address)
	return e, true
}

func (p *previews) keep(address string, e *preview) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e.expires = time.Now().Add(previewKept)
	if e.err != nil {
		e.expires = time.Now().Add(failureKept)
	}
	p.size += len(e.body)
	close(e.done)
	for other, old := range p.known { // in random order
		if p.size <= previewCache {
			return
		}
		if other != address && !old.expires.IsZero() {
			p.forget(other)
		}
	}
}

func (p *previews) forget(address string) {
	if e := p.known[address]; e != nil {
		p.size -= len(address) + len(e.body)
		delete(p.known, address)
	}
}

func (r *Repository) makePreview(ctx context.Context, u *url.URL) (jsontext.Value, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*previewTime)
	defer cancel()
	select {
	case r.previews.slots <- struct{}{}:
		defer func() { <-r.previews.slots }()
	case <-ctx.Done():
		return nil, previewFailed(u, ctx.Err())
	}
	properties, err := r.readPage(ctx, u)
	if err != nil {
		return nil, previewFailed(u, err)
	}
	return json.Marshal(properties, json.Deterministic(true))
}

// previewFailed tells no more than that: what exactly is where must not be
// learnt by asking for previews.
func previewFailed(u *url.URL, err error) error {
	if errors.Is(err, errBlocked) {
		return errcode.Forbidden("this URL gets no preview")
	}
	slog.Debug("no preview", "url", u.Redacted(), "error", err)
	return errcode.New(http.StatusBadGateway, "M_UNKNOWN", "the URL could not be fetched")
}

func (r *Repository) readPage(ctx context.Context, u *url.URL) (map[string]any, error) {
	resp, kind, err := r.previews.get(ctx, u, "text/html, application/xhtml+xml, image/*;q=0.9, */*;q=0.5")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case kind == "text/html" || kind == "application/xhtml+xml":
		page, err := readOpenGraph(resp.Body, resp.Header.Get("Content-Type"))
		if err != nil {
			return nil, err
		}
		r.addPicture(ctx, page, u, resp.Request.URL)
		return page, nil
	case strings.HasPrefix(kind, "image/"):
		page := map[string]any{}
		return page, r.keepPicture(ctx, page, u, resp, kind)
	}
	return map[string]any{}, nil
}

func (p *previews) get(ctx context.Context, u *url.URL, accept string) (resp *http.Response, kind string, err error) {
	header := http.Header{"Accept": {accept}, "Accept-Language": {strings.Join(p.o.AcceptLanguage, ", ")}}
	resp, err = p.client.Get(ctx, u.String(), header)
	if err != nil {
		return nil, "", err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, "", fmt.Errorf("status %d", resp.StatusCode)
	}
	kind, _, err = mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil {
		kind = "" // as good as none
	}
	return resp, kind, nil
}

// addPicture fetches the picture that a page names. Without it the preview has
// no picture; what the page says of its size goes either way.
func (r *Repository) addPicture(ctx context.Context, page map[string]any, preview, base *url.URL) {
	address := firstString(page, "og:image", "og:image:secure_url", "og:image:url")
	for k := range page {
		if k == "og:image" || strings.HasPrefix(k, "og:image:") {
			delete(page, k)
		}
	}
	if address == "" {
		return
	}
	ref, err := url.Parse(address)
	if err != nil {
		return
	}
	u := base.ResolveReference(ref)
	u.User = nil
	resp, kind, err := r.previews.get(ctx, u, "image/*")
	if err == nil {
		defer resp.Body.Close()
		if !strings.HasPrefix(kind, "image/") {
			err = fmt.Errorf("picture of type %q", kind)
		} else {
			err = r.keepPicture(ctx, page, preview, resp, kind)
		}
	}
	if err != nil {
		slog.Debug("no picture for a preview", "url", u.Redacted(), "error", err)
	}
}

// keepPicture stores a picture as a file of ours and adds what is known of it.
func (r *Repository) keepPicture(ctx context.Context, page map[string]any, preview *url.URL, resp *http.Response, kind string) error {
	d, err := r.files.write(outgoing.Limit(resp.Body, r.previews.o.MaxSize), r.previews.o.MaxSize)
	if err != nil {
		return err
	}
	defer d.discard()
	pic, err := inspect(d.tmp, d.length)
	if err == nil {
		kind = pic.contentType()
		page["og:image:width"], page["og:image:height"] = pic.uprightSize()
	}
	m := store.MediaFile{
		ID: newMediaID(), Type: Meta{Type: kind}.clean().Type, Length: d.length, SHA256: d.sha,
		Created: now(), URL: preview.String(), Authenticated: r.o.Authenticated,
	}
	if err := r.keep(ctx, d, func(tx *store.Tx, _ *draft) error { return tx.Media.Insert(m) }); err != nil {
		return err
	}
	page["og:image"], page["og:image:type"], page["matrix:image:size"] = r.URI(m.ID), m.Type, m.Length
	return nil
}

func firstString(page map[string]any, keys ...string) string {
	for _, k := range keys {
		if s, ok := page[k].(string); ok && s != "" {
			return s
		}
	}
	return ""
}

// urlPattern matches parts of URLs.
type urlPattern map[string]*regexp.Regexp

var urlParts = map[string]func(*url.URL) string{
	"scheme":   func(u *url.URL) string { return u.Scheme },
	"username": func(u *url.URL) string { return u.User.Username() },
	"netloc":   func(u *url.URL) string { return u.Host },
	"hostname": func(u *url.URL) string { return u.Hostname() },
	"port":     func(u *url.URL) string { return u.Port() },
	"path":     func(u *url.URL) string { return u.Path },
	"query":    func(u *url.URL) string { return u.RawQuery },
}

func parseURLPattern(entry map[string]string) (urlPattern, error) {
	p := urlPattern{}
	for part, pattern := range entry {
		if urlParts[part] == nil {
			return nil, fmt.Errorf("a URL has no part %q", part)
		}
		if !strings.HasPrefix(pattern, "^") {
			pattern = regexp.QuoteMeta(pattern)
			pattern = `^(?:` + strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(pattern) + `)$`
		}
		re, err := regexp.Compile("(?s)" + pattern)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", part, err)
		}
		p[part] = re
	}
	return p, nil
}

func (p urlPattern) matches(u *url.URL) bool {
	for part, re := range p {
		if !re.MatchString(urlParts[part](u)) {
			return false
		}
	}
	return len(p) > 0
}
