package appservice

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

const (
	queryTries = 2
	// unknownTime is for how long a name is not asked for again that no service knows, and
	// maxUnknown how many of those are remembered: anybody may invent names.
	unknownTime = 30 * time.Second
	maxUnknown  = 10_000
)

// queries asks services for names in their namespaces that are not known here. Of many
// who want the same, one asks.
type queries struct {
	group   singleflight.Group
	unknown *otter.Cache[string, struct{}] // by path
}

func newQueries() *queries {
	return &queries{unknown: otter.Must(&otter.Options[string, struct{}]{
		MaximumSize: maxUnknown, ExpiryCalculator: otter.ExpiryWriting[string, struct{}](unknownTime),
	})}
}

// QueryUser asks the services that a user of this server may belong to for the user, whom
// nobody knows here; true: one of them has made it.
// spec: application-service-api#get_matrixappv1usersuserid
func (v *Services) QueryUser(ctx context.Context, u id.User) (made bool, err error) {
	return v.query(ctx, "/_matrix/app/v1/users/"+url.PathEscape(string(u)), func(s *Service) bool { return s.OwnsUser(u) })
}

// QueryAlias asks the services that an alias of this server may belong to for a room with
// it; true: one of them has made it.
// spec: application-service-api#get_matrixappv1roomsroomalias
func (v *Services) QueryAlias(ctx context.Context, a id.Alias) (made bool, err error) {
	return v.query(ctx, "/_matrix/app/v1/rooms/"+url.PathEscape(string(a)), func(s *Service) bool { return a.Server() == v.server && s.OwnsAlias(a) })
}

func (v *Services) query(ctx context.Context, path string, owns func(*Service) bool) (made bool, err error) {
	var services []*Service
	for _, s := range v.All() {
		if s.URL != "" && owns(s) {
			services = append(services, s)
		}
	}
	if len(services) == 0 {
		return false, nil
	}
	if _, unknown := v.queries.unknown.GetIfPresent(path); unknown {
		return false, nil
	}
	answer := v.queries.group.DoChan(path, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookupTime)
		defer cancel()
		made, err := v.ask(ctx, services, path)
		if err == nil && !made {
			v.queries.unknown.Set(path, struct{}{})
		}
		return made, err
	})
	select {
	case a := <-answer:
		return a.Val.(bool), a.Err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// ask asks one service after the other until one has made what is asked for. One that does not
// answer may have wanted to.
func (v *Services) ask(ctx context.Context, services []*Service, path string) (made bool, err error) {
	for _, s := range services {
		for range queryTries {
			var a *answer
			if a, err = v.request(ctx, s, http.MethodGet, path, nil, nil); err == nil {
				if a.status == http.StatusOK {
					return true, nil
				}
				break
			}
			slog.WarnContext(ctx, "application service does not say whether it knows a name", "appservice", s.ID, "path", path, "error", err)
		}
	}
	if err != nil {
		return false, errcode.New(http.StatusRequestTimeout, "M_UNKNOWN", "the bridge that this may belong to does not answer")
	}
	return false, nil
}
