// Package media is the HTTP face of the content repository: the endpoints
// under /_matrix/client/v1/media, and the older ones under /_matrix/media.
//
// It holds no rules of its own: it reads requests, calls package media, and
// writes files with the headers that keep browsers from running them. It must
// not import store. Start at Routes.
// spec: client-server-api#content-repository
package media

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/media"
)

// API answers for a repository.
type API struct {
	Repository *media.Repository
}

// Routes is the table of contents.
func (a *API) Routes() []httpx.Route {
	return []httpx.Route{
		httpx.Raw("POST /_matrix/media/v3/upload", httpx.User, httpx.NoLimit, a.uploadContent).Also("/_matrix/media/v1/upload"),
		httpx.Raw("PUT /_matrix/media/v3/upload/{serverName}/{mediaId}", httpx.User, httpx.NoLimit, a.uploadContentToMXC),
		httpx.Handle("POST /_matrix/media/v1/create", httpx.User, httpx.MediaCreate, a.createContent),

		httpx.Raw("GET /_matrix/client/v1/media/download/{serverName}/{mediaId}", httpx.Guest, httpx.NoLimit, a.getContentAuthed),
		httpx.Raw("GET /_matrix/client/v1/media/download/{serverName}/{mediaId}/{fileName}", httpx.Guest, httpx.NoLimit, a.getContentOverrideNameAuthed),
		httpx.Raw("GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}", httpx.Guest, httpx.NoLimit, a.getContentThumbnailAuthed),
		httpx.Handle("GET /_matrix/client/v1/media/preview_url", httpx.User, httpx.NoLimit, a.getUrlPreviewAuthed),
		httpx.Handle("GET /_matrix/client/v1/media/config", httpx.Guest, httpx.NoLimit, a.getConfigAuthed),

		// Deprecated: they serve what is older than the endpoints above only.
		httpx.Raw("GET /_matrix/media/v3/download/{serverName}/{mediaId}", httpx.None, httpx.NoLimit, a.getContent).
			Also("/_matrix/media/v1/download/{serverName}/{mediaId}"),
		httpx.Raw("GET /_matrix/media/v3/download/{serverName}/{mediaId}/{fileName}", httpx.None, httpx.NoLimit, a.getContentOverrideName).
			Also("/_matrix/media/v1/download/{serverName}/{mediaId}/{fileName}"),
		httpx.Raw("GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}", httpx.None, httpx.NoLimit, a.getContentThumbnail).
			Also("/_matrix/media/v1/thumbnail/{serverName}/{mediaId}"),
		httpx.Handle("GET /_matrix/media/v3/preview_url", httpx.User, httpx.NoLimit, a.getUrlPreview).Also("/_matrix/media/v1/preview_url"),
		httpx.Handle("GET /_matrix/media/v3/config", httpx.Guest, httpx.NoLimit, a.getConfig).Also("/_matrix/media/v1/config"),
	}
}

// defaultTimeout is how long a download waits for its upload unless it says otherwise.
const defaultTimeout = 20 * time.Second

// fileRequest reads what all downloads have in common.
func fileRequest(r *http.Request, loggedIn bool) (q media.Request, query url.Values, err error) {
	query, err = url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, nil, errcode.InvalidParam("the query string is malformed")
	}
	server, err := id.ParseServer(r.PathValue("serverName"))
	if err != nil {
		return q, nil, errcode.InvalidParam("%s", err)
	}
	q = media.Request{Server: server, ID: r.PathValue("mediaId"), LoggedIn: loggedIn, Timeout: defaultTimeout}
	if s := query.Get("timeout_ms"); s != "" {
		ms, err := strconv.ParseInt(s, 10, 64)
		if err != nil || ms < 0 {
			return q, nil, errcode.InvalidParam("timeout_ms must be an integer, not below zero")
		}
		// The repository has a bound of its own; this one is against overflow.
		q.Timeout = time.Duration(min(ms, time.Hour.Milliseconds())) * time.Millisecond
	}
	// Only the old endpoints have it, but it does no harm to others.
	allowed, err := boolean(query, "allow_remote", true)
	q.NoRemote = !allowed
	return q, query, err
}

func boolean(query url.Values, name string, otherwise bool) (bool, error) {
	switch query.Get(name) {
	case "":
		return otherwise, nil
	case "true":
		return true, nil
	case "false":
		return false, nil
	}
	return false, errcode.InvalidParam("%s must be true or false", name)
}

func positive(query url.Values, name string) (int, error) {
	s := query.Get(name)
	if s == "" {
		return 0, errcode.MissingParam("%s is missing", name)
	}
	n, err := strconv.ParseInt(s, 10, 32)
	if err != nil || n <= 0 {
		return 0, errcode.InvalidParam("%s must be an integer above zero", name)
	}
	return int(n), nil
}
