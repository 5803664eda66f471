package client

import (
	"context"
	"net/http"
	"strings"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

// Authenticate is the Router's: it finds the caller of a token. An application
// service says by the query as whom it acts.
// spec: application-service-api#identity-assertion
func (a *API) Authenticate(ctx context.Context, token string, r *http.Request) (httpx.Caller, error) {
	query := r.URL.Query()
	device := query.Get("device_id")
	if device == "" {
		device = query.Get("org.matrix.msc3202.device_id")
	}
	c, err := a.Accounts.Authenticate(ctx, account.Request{Token: token, User: query.Get("user_id"), Device: id.Device(device),
		EvenLocked: isLogout(r.URL.Path), IP: httpx.ClientIP(ctx), UserAgent: r.UserAgent()})
	if err != nil {
		return httpx.Caller{}, err
	}
	return httpx.Caller{User: c.User, Device: c.Device, TokenID: c.TokenID, Guest: c.Guest, Admin: c.Admin, Suspended: c.Suspended,
		AppService: c.Appservice, Unlimited: c.Unlimited}, nil
}

// isLogout: logging out is all that a locked user may do.
// spec: client-server-api#account-locking
func isLogout(path string) bool {
	return strings.HasPrefix(path, "/_matrix/client/") && (strings.HasSuffix(path, "/logout") || strings.HasSuffix(path, "/logout/all"))
}

// accountCaller is the caller as package account knows it.
func accountCaller(c httpx.Caller) account.Caller {
	return account.Caller{User: c.User, Device: c.Device, TokenID: c.TokenID}
}

// own refuses what only the user themselves may do or see.
func own(c httpx.Caller, u id.User) error {
	if c.User != u {
		return errcode.Forbidden("this is of another user")
	}
	return nil
}

// bearer is the token of a request whose route does not look at it.
func bearer(header, query string) string {
	if scheme, token, ok := strings.Cut(header, " "); ok && strings.EqualFold(scheme, "Bearer") {
		return strings.TrimSpace(token)
	}
	return query
}
