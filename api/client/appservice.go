package client

import (
	"context"
	"net/http"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/appservice"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// spec: application-service-api#client-server-api-extensions
func (a *API) applicationServices() []httpx.Route {
	return []httpx.Route{
		httpx.Handle("POST /_matrix/client/v1/appservice/{appserviceId}/ping", httpx.Appservice, httpx.NoLimit, a.pingAppservice).
			Also("/_matrix/client/unstable/fi.mau.msc2659/appservice/{appserviceId}/ping"),
		httpx.Handle("GET /_matrix/client/v3/thirdparty/protocols", httpx.User, httpx.NoLimit, a.getProtocols),
		httpx.Handle("GET /_matrix/client/v3/thirdparty/protocol/{protocol}", httpx.User, httpx.NoLimit, a.getProtocolMetadata),
		httpx.Raw("GET /_matrix/client/v3/thirdparty/location/{protocol}", httpx.User, httpx.NoLimit, a.queryLocationByProtocol),
		httpx.Raw("GET /_matrix/client/v3/thirdparty/user/{protocol}", httpx.User, httpx.NoLimit, a.queryUserByProtocol),
		httpx.Handle("GET /_matrix/client/v3/thirdparty/location", httpx.User, httpx.NoLimit, a.queryLocationByAlias),
		httpx.Handle("GET /_matrix/client/v3/thirdparty/user", httpx.User, httpx.NoLimit, a.queryUserByID),
	}
}

type pingAppserviceRequest struct {
	Service string `path:"appserviceId"`
	Txn     string `json:"transaction_id"`
}

type pingAppserviceResponse struct {
	Duration int64 `json:"duration_ms"`
}

func (a *API) pingAppservice(ctx context.Context, c httpx.Caller, r pingAppserviceRequest) (pingAppserviceResponse, error) {
	if c.AppService != r.Service || a.Services == nil {
		return pingAppserviceResponse{}, errcode.Forbidden("the access token is not of this application service")
	}
	took, err := a.Services.Ping(ctx, r.Service, r.Txn)
	return pingAppserviceResponse{took.Milliseconds()}, err
}

func (a *API) getProtocols(ctx context.Context, _ httpx.Caller, _ none) (map[string]jsontext.Value, error) {
	return a.Services.Protocols(ctx)
}

type protocolRequest struct {
	Protocol string `path:"protocol"`
}

func (a *API) getProtocolMetadata(ctx context.Context, _ httpx.Caller, r protocolRequest) (jsontext.Value, error) {
	return a.Services.Protocol(ctx, r.Protocol)
}

func (a *API) queryLocationByProtocol(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.lookUp(w, r, appservice.Locations)
}

func (a *API) queryUserByProtocol(w http.ResponseWriter, r *http.Request, _ httpx.Caller) error {
	return a.lookUp(w, r, appservice.Users)
}

// lookUp passes the fields of the network on, which only its service knows.
func (a *API) lookUp(w http.ResponseWriter, r *http.Request, kind appservice.Kind) error {
	fields := r.URL.Query()
	for _, ours := range []string{"access_token", "user_id", "device_id"} {
		fields.Del(ours)
	}
	found, err := a.Services.LookUp(r.Context(), kind, r.PathValue("protocol"), fields)
	if err != nil {
		return err
	}
	return httpx.WriteJSON(w, found)
}

type aliasQuery struct {
	Alias *id.Alias `query:"alias"`
}

func (a *API) queryLocationByAlias(ctx context.Context, _ httpx.Caller, r aliasQuery) ([]jsontext.Value, error) {
	if r.Alias == nil {
		return nil, errcode.MissingParam("alias is missing")
	}
	return a.Services.LookUpMatrix(ctx, appservice.Locations, string(*r.Alias))
}

type userQuery struct {
	User *id.User `query:"userid"`
}

func (a *API) queryUserByID(ctx context.Context, _ httpx.Caller, r userQuery) ([]jsontext.Value, error) {
	if r.User == nil {
		return nil, errcode.MissingParam("userid is missing")
	}
	return a.Services.LookUpMatrix(ctx, appservice.Users, string(*r.User))
}

// checkAlias keeps the aliases of application services to them.
func (a *API) checkAlias(c httpx.Caller, alias id.Alias) error {
	if a.Services == nil {
		return nil
	}
	return a.Services.CheckAlias(c.AppService, alias)
}
