package client

import (
	"context"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/api/httpx"
	"hearth/e2ee"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/stream"
)

// spec: client-server-api#key-management-api

type uploadKeysRequest struct {
	DeviceKeys   jsontext.Value            `json:"device_keys"`
	OneTimeKeys  map[string]jsontext.Value `json:"one_time_keys"`
	FallbackKeys map[string]jsontext.Value `json:"fallback_keys"`
}

type uploadKeysResponse struct {
	Counts map[string]int64 `json:"one_time_key_counts"`
}

func (a *API) uploadKeys(ctx context.Context, c httpx.Caller, r uploadKeysRequest) (uploadKeysResponse, error) {
	counts, err := a.E2EE.UploadKeys(ctx, c.User, c.Device, e2ee.KeyUpload{Device: r.DeviceKeys, OneTime: r.OneTimeKeys, Fallback: r.FallbackKeys})
	return uploadKeysResponse{counts}, err
}

// defaultKeyTimeout is how long other servers may take, in milliseconds.
const defaultKeyTimeout = 10_000

type queryKeysRequest struct {
	Timeout    *int64                  `json:"timeout"`
	DeviceKeys map[id.User][]id.Device `json:"device_keys"`
}

func (a *API) queryKeys(ctx context.Context, c httpx.Caller, r queryKeysRequest) (e2ee.QueryResult, error) {
	if r.DeviceKeys == nil {
		return e2ee.QueryResult{}, errcode.MissingParam("device_keys is missing")
	}
	return a.E2EE.QueryKeys(ctx, c.User, r.DeviceKeys, keyTimeout(r.Timeout))
}

// keyTimeout is what a client asks for, up to a minute.
func keyTimeout(asked *int64) int64 {
	if asked == nil {
		return defaultKeyTimeout
	}
	return max(0, min(*asked, 60_000))
}

type claimKeysRequest struct {
	Timeout     *int64                           `json:"timeout"`
	OneTimeKeys map[id.User]map[id.Device]string `json:"one_time_keys"`
}

func (a *API) claimKeys(ctx context.Context, _ httpx.Caller, r claimKeysRequest) (e2ee.ClaimResult, error) {
	if r.OneTimeKeys == nil {
		return e2ee.ClaimResult{}, errcode.MissingParam("one_time_keys is missing")
	}
	return a.E2EE.ClaimKeys(ctx, r.OneTimeKeys, keyTimeout(r.Timeout))
}

type getKeysChangesRequest struct {
	From string `query:"from"`
	To   string `query:"to"`
}

// getKeysChanges looks from one token to now, whatever the other one says: it
// is a hint, and what is newer than it will only be told again.
func (a *API) getKeysChanges(ctx context.Context, c httpx.Caller, r getKeysChangesRequest) (e2ee.DeviceLists, error) {
	if r.From == "" || r.To == "" {
		return e2ee.DeviceLists{}, errcode.MissingParam("from or to is missing")
	}
	from, err := stream.ParseToken(r.From)
	if err == nil {
		_, err = stream.ParseToken(r.To)
	}
	if err != nil {
		return e2ee.DeviceLists{}, errcode.InvalidParam("from or to is not a token of /sync")
	}
	return a.E2EE.GetKeysChanges(ctx, c.User, from.Durable)
}

// spec: client-server-api#cross-signing

type uploadCrossSigningKeysRequest struct {
	MasterKey      jsontext.Value `json:"master_key"`
	SelfSigningKey jsontext.Value `json:"self_signing_key"`
	UserSigningKey jsontext.Value `json:"user_signing_key"`
	Auth           jsontext.Value `json:"auth"`
}

func (a *API) uploadCrossSigningKeys(ctx context.Context, c httpx.Caller, r uploadCrossSigningKeysRequest) (none, error) {
	up := e2ee.CrossSigningUpload{Master: r.MasterKey, SelfSigning: r.SelfSigningKey, UserSigning: r.UserSigningKey}
	return none{}, a.E2EE.UploadCrossSigning(ctx, c.User, up, func() error {
		if c.AppService != "" {
			return nil // since Matrix 1.17
		}
		return a.interactive(ctx, c, opCrossSigning, r.Auth, &up)
	})
}

type uploadCrossSigningSignaturesRequest struct {
	Signed map[id.User]map[string]jsontext.Value `body:"."`
}

type uploadCrossSigningSignaturesResponse struct {
	Failures e2ee.SignatureFailures `json:"failures"`
}

func (a *API) uploadCrossSigningSignatures(ctx context.Context, c httpx.Caller, r uploadCrossSigningSignaturesRequest) (uploadCrossSigningSignaturesResponse, error) {
	failures, err := a.E2EE.UploadSignatures(ctx, c.User, r.Signed)
	return uploadCrossSigningSignaturesResponse{failures}, err
}
