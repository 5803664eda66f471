package appservice

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/matrix/errcode"
	"hearth/outgoing"
)

// maxAnswer bounds what is read of a service's answer, in bytes.
const maxAnswer = 1 << 20

// request asks a service. The token goes in the header and, for services that
// were written before v1.4 of the specification, in the query.
// spec: application-service-api#authorisation
func (v *Services) request(ctx context.Context, s *Service, method, path string, query url.Values, body []byte) (*answer, error) {
	q := url.Values{}
	for k, values := range query {
		q[k] = values
	}
	q.Set("access_token", s.hsToken)
	var src io.Reader
	if body != nil {
		src = bytes.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, s.URL+path+"?"+q.Encode(), src)
	if err != nil {
		return nil, fmt.Errorf("ask application service %s: %w", s.ID, withoutURL(err))
	}
	r.Header.Set("Authorization", "Bearer "+s.hsToken)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := v.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("ask application service %s: %w", s.ID, withoutURL(err))
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(outgoing.Limit(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of application service %s: %w", s.ID, withoutURL(err))
	}
	return &answer{resp.StatusCode, b}, nil
}

// withoutURL takes the URL out of an error, which has the token.
func withoutURL(err error) error {
	if e, ok := errors.AsType[*url.Error](err); ok {
		return e.Err
	}
	return err
}

// Ping asks a service, which asked us to, whether it hears us.
// spec: client-server-api#post_matrixclientv1appserviceappserviceidping
func (v *Services) Ping(ctx context.Context, service, txn string) (took time.Duration, err error) {
	s, ok := v.ByID(service)
	if !ok {
		return 0, errcode.Forbidden("there is no such application service")
	}
	if s.URL == "" {
		return 0, errcode.New(http.StatusBadRequest, "M_URL_NOT_SET", "the registration of the application service has no url")
	}
	message := map[string]string{}
	if txn != "" {
		message["transaction_id"] = txn
	}
	body, err := json.Marshal(message)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	a, err := v.request(ctx, s, http.MethodPost, "/_matrix/app/v1/ping", nil, body)
	if err != nil {
		return 0, pingFailed(ctx, err)
	}
	if a.status < 200 || a.status > 299 {
		return 0, errcode.New(http.StatusBadGateway, "M_BAD_STATUS", "the application service answered with status %d", a.status).
			With("status", a.status).With("body", string(bytes.ToValidUTF8(a.body[:min(len(a.body), 1000)], []byte("\uFFFD"))))
	}
	if q := v.queueOf(s.ID); q != nil {
		signal(q.retry) // it is there: what waits can go
	}
	return time.Since(start), nil
}

func pingFailed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errcode.New(http.StatusGatewayTimeout, "M_CONNECTION_TIMEOUT", "the application service did not answer in time")
	}
	return errcode.New(http.StatusBadGateway, "M_CONNECTION_FAILED", "%s", err)
}
