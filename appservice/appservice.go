// Package appservice is the server's side of application services: bridges and
// bots that own parts of the names of users, aliases and rooms. It reads their
// registrations, sends them the events that concern them, in order and none
// lost, and asks them what only they know.
//
// It follows the change counter and writes nothing into rooms. What services may
// do as clients is decided elsewhere (package account) with the Registry.
// Start at Registry and Services; queue.go decides what is sent to whom,
// delivery.go sends it.
// spec: application-service-api
package appservice

import (
	"log/slog"
	"time"

	"hearth/matrix/id"
	"hearth/outgoing"
	"hearth/room"
	"hearth/store"
)

// Services sends to application services. Any goroutine may use it.
type Services struct {
	*Registry
	server  id.Server
	store   *store.Store
	rooms   *room.Engine
	client  *outgoing.Client
	queries *queries
	queues  []*queue // of services that have a URL, in the order of the registry
}

const (
	requestTime = 60 * time.Second
	userAgent   = "Hearth"
)

// New makes the service of a registry.
func New(s *store.Store, rooms *room.Engine, registry *Registry) *Services {
	v := &Services{
		Registry: registry, server: rooms.Server(), store: s, rooms: rooms,
		// An operator gave the addresses, so none is refused.
		client: outgoing.New(outgoing.Options{Timeout: requestTime, UserAgent: userAgent}), queries: newQueries(),
	}
	for _, service := range registry.All() {
		if service.URL == "" {
			continue
		}
		v.queues = append(v.queues, &queue{
			service: service, members: map[store.RoomNID]membership{},
			wake: make(chan struct{}, 1), retry: make(chan struct{}, 1),
			log: slog.With("appservice", service.ID),
		})
	}
	return v
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it is awake
	}
}
