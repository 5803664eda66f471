package client

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"strconv"
	"time"

	"hearth/api/httpx"
	"hearth/matrix/errcode"
)

// TURN says how clients reach servers that relay their calls.
type TURN struct {
	URIs               []string // none: no relay
	Secret             string   // shared with the servers; makes credentials that end
	Username, Password string   // where there is no shared secret
	Lifetime           time.Duration
	Guests             bool
}

// getTurnServerResponse is empty where there is no relay, as clients expect it.
type getTurnServerResponse struct {
	Username string   `json:"username,omitzero"`
	Password string   `json:"password,omitzero"`
	URIs     []string `json:"uris,omitempty"`
	TTL      int64    `json:"ttl,omitzero"` // seconds
}

// getTurnServer: the credentials are those of the TURN REST API that coturn and others check.
// spec: client-server-api#get_matrixclientv3voipturnserver
func (a *API) getTurnServer(_ context.Context, c httpx.Caller, _ none) (getTurnServerResponse, error) {
	t := a.Options.TURN
	if c.Guest && !t.Guests {
		return getTurnServerResponse{}, errcode.New(403, "M_GUEST_ACCESS_FORBIDDEN", "guests may not make calls here")
	}
	if len(t.URIs) == 0 || t.Secret == "" && t.Username == "" {
		return getTurnServerResponse{}, nil
	}
	r := getTurnServerResponse{t.Username, t.Password, t.URIs, int64(t.Lifetime / time.Second)}
	if t.Secret != "" {
		r.Username = strconv.FormatInt(time.Now().Add(t.Lifetime).Unix(), 10) + ":" + string(c.User)
		mac := hmac.New(sha1.New, []byte(t.Secret))
		mac.Write([]byte(r.Username))
		r.Password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return r, nil
}
