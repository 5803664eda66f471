package client

import "hearth/api/httpx"

// Routes is the table of contents of the API, in the order of the spec.
func (a *API) Routes() []httpx.Route {
	var table []httpx.Route
	for _, chapter := range [][]httpx.Route{
		a.discovery(),
	} {
		table = append(table, chapter...)
	}
	return table
}

// spec: client-server-api#server-discovery
func (a *API) discovery() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("GET /.well-known/matrix/client", httpx.None, httpx.NoLimit, a.getWellknown),
		httpx.Handle("GET /.well-known/matrix/server", httpx.None, httpx.NoLimit, a.getWellknownServer),
		httpx.Handle("GET /.well-known/matrix/support", httpx.None, httpx.NoLimit, a.getWellknownSupport),
		httpx.Handle("GET /_matrix/client/versions", httpx.Optional, httpx.NoLimit, a.getVersions),
		httpx.Handle("GET /_matrix/client/v3/capabilities", httpx.Guest, httpx.NoLimit, a.getCapabilities),
	}
}
