package e2ee

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Remote asks other servers about their users. What they answer is not trusted: it
// is checked here. A func that is nil reaches nobody.
type Remote struct {
	QueryKeys  func(ctx context.Context, to id.Server, users map[id.User][]id.Device) (ServerQuery, error)
	ClaimKeys  func(ctx context.Context, to id.Server, claims map[id.User]map[id.Device]string) (map[id.User]map[id.Device]map[string]jsontext.Value, error)
	GetDevices func(ctx context.Context, to id.Server, user id.User) (UserDevices, error)
}

const (
	// defaultTimeout is how long other servers are waited for, unless a client asks
	// for another time.
	// spec: client-server-api#post_matrixclientv3keysquery
	defaultTimeout = 10 * time.Second
	maxTimeout     = 60 * time.Second
	// maxServersAsked bounds the servers that one request asks at the same time.
	maxServersAsked = 50
	// maxUsersAsked bounds the users that one request asks a server for: its answer is bounded,
	// and what it says of them is lost as a whole if it is larger or comes late.
	maxUsersAsked = 250
)

var errUnreachable = errors.New("this server does not reach other servers")

// question is that servers are being asked for a user's keys.
type question struct {
	askers  int
	changed bool // an update came meanwhile: the answer may be older
}

// ask notes a question about users; answered ends it.
func (s *Service) ask(users []id.User) (questions map[id.User]*question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	questions = make(map[id.User]*question, len(users))
	for _, u := range users {
		q := s.asking[u]
		if q == nil {
			q = &question{}
			s.asking[u] = q
		}
		q.askers++
		questions[u] = q
	}
	return questions
}

func (s *Service) answered(questions map[id.User]*question) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for u, q := range questions {
		if q.askers--; q.askers == 0 && s.asking[u] == q {
			delete(s.asking, u)
		}
	}
}

// changed notes that a user's keys changed: what is being asked for now may be old.
func (s *Service) changed(user id.User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if q := s.asking[user]; q != nil {
		q.changed = true
		delete(s.asking, user)
	}
}

func (s *Service) isCurrent(q *question) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !q.changed
}

// timeoutOf is how long a client wants to wait.
func timeoutOf(ms int64) time.Duration {
	if ms <= 0 {
		return defaultTimeout
	}
	return min(time.Duration(min(ms, maxTimeout.Milliseconds()))*time.Millisecond, maxTimeout)
}

// eachServer asks the servers of users, some side by side and each for some users at a time,
// until its time is over, and notes which failed. The answers are taken one after the other.
func eachServer[V, Answer any](ctx context.Context, timeoutMS int64, asked map[id.User]V, failures map[id.Server]Failure,
	ask func(ctx context.Context, to id.Server, users map[id.User]V) (Answer, error), take func(users map[id.User]V, answer Answer)) {
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(timeoutMS))
	defer cancel()
	byServer := map[id.Server]map[id.User]V{}
	for u, v := range asked {
		if byServer[u.Server()] == nil {
			byServer[u.Server()] = map[id.User]V{}
		}
		byServer[u.Server()][u] = v
	}
	var mu sync.Mutex
	note := func(server id.Server, users map[id.User]V, answer Answer, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			failures[server] = failureOf(ctx, server, err)
			return
		}
		take(users, answer)
	}
	slots := make(chan struct{}, maxServersAsked)
	var all sync.WaitGroup
	for server, users := range byServer {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if err := ctx.Err(); err != nil {
			var none Answer
			note(server, users, none, err)
			continue
		}
		all.Go(func() {
			defer func() { <-slots }()
			for some := range slices.Chunk(slices.Sorted(maps.Keys(users)), maxUsersAsked) {
				part := make(map[id.User]V, len(some))
				for _, u := range some {
					part[u] = users[u]
				}
				var answer Answer
				err := ctx.Err()
				if err == nil {
					answer, err = ask(ctx, server, part)
				}
				note(server, part, answer, err)
			}
		})
	}
	all.Wait()
}

// failureOf is what a client is told of a server that did not answer.
func failureOf(ctx context.Context, server id.Server, err error) Failure {
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return Failure{e.Message}
	}
	if errors.Is(err, errUnreachable) {
		return Failure{err.Error()}
	}
	slog.DebugContext(ctx, "another server was asked for keys", "server", server, "error", err)
	return Failure{"the server could not be reached"}
}

// queryRemote adds the keys of users of other servers: those that are kept and
// followed from the store, the others from their servers.
func (s *Service) queryRemote(ctx context.Context, result QueryResult, caller id.User, asked map[id.User][]id.Device, timeoutMS int64) error {
	kept, unknown, sharing, err := s.sortOut(ctx, caller, asked)
	if err != nil {
		return err
	}
	if err := s.queryStored(ctx, result, caller, kept, true); err != nil {
		return err
	}
	ask := func(ctx context.Context, to id.Server, users map[id.User][]id.Device) (map[id.User]*userKeys, error) {
		if result.elsewhere.gone.Load() {
			return nil, errTooMuch
		}
		return s.queryServer(ctx, to, users, sharing)
	}
	eachServer(ctx, timeoutMS, unknown, result.Failures, ask, func(users map[id.User][]id.Device, answer map[id.User]*userKeys) {
		for user, keys := range answer {
			keys.show(result, user, users[user])
			result.bound(user)
		}
	})
	return ctx.Err()
}

// sortOut says which users' keys are kept, which must be asked for, and which of
// these share a room with the caller.
func (s *Service) sortOut(ctx context.Context, caller id.User, asked map[id.User][]id.Device) (kept, unknown map[id.User][]id.Device, sharing map[id.User]bool, err error) {
	kept, unknown, sharing = map[id.User][]id.Device{}, map[id.User][]id.Device{}, map[id.User]bool{}
	err = s.store.View(ctx, func(tx *store.Tx) error {
		viewer, _, err := tx.IDs.FindUser(caller)
		if err != nil {
			return err
		}
		for user, devices := range asked {
			nid, known, err := tx.IDs.FindUser(user)
			if err != nil {
				return err
			}
			if known {
				l, ok, err := tx.RemoteLists.Get(nid)
				if err != nil {
					return err
				}
				if ok && !l.Stale {
					// Follow forgets lists a little after the last room was left.
					if ok, err = tx.RemoteLists.Shares(nid, 0); err != nil {
						return err
					}
				}
				if ok && !l.Stale {
					kept[user] = devices
					continue
				}
				if sharing[user], err = tx.Members.ShareRoom(viewer, nid); err != nil {
					return err
				}
			}
			unknown[user] = devices
		}
		return nil
	})
	return kept, unknown, sharing, err
}

// queryServer asks a server for keys of its users, and keeps those of users who
// share a room.
func (s *Service) queryServer(ctx context.Context, to id.Server, users map[id.User][]id.Device, sharing map[id.User]bool) (map[id.User]*userKeys, error) {
	if s.remote.QueryKeys == nil {
		return nil, errUnreachable
	}
	question := make(map[id.User][]id.Device, len(users))
	var keep []id.User
	for u, devices := range users {
		if sharing[u] { // kept lists are whole
			devices = nil
			keep = append(keep, u)
		}
		if devices == nil {
			devices = []id.Device{}
		}
		question[u] = devices
	}
	slices.Sort(keep)
	open := s.ask(keep)
	defer s.answered(open)
	answer, err := s.remote.QueryKeys(ctx, to, question)
	if err != nil {
		return nil, err
	}
	all := make(map[id.User]*userKeys, len(users))
	for u := range users {
		all[u] = checkAnswer(u, answer)
	}
	if len(keep) == 0 {
		return all, nil
	}
	// What was asked for is worth keeping even if the client is gone.
	err = s.store.Update(context.WithoutCancel(ctx), func(tx *store.Tx) error {
		for _, u := range keep {
			if !s.isCurrent(open[u]) {
				continue
			}
			if err := keepList(tx, u, all[u], 0); err != nil {
				return fmt.Errorf("keep the keys of %s: %w", u, err)
			}
		}
		return nil
	})
	return all, err
}

// claimRemote claims keys of users of other servers.
func (s *Service) claimRemote(ctx context.Context, result ClaimResult, asked map[id.User]map[id.Device]string, timeoutMS int64) {
	type keysOf = map[id.User]map[id.Device]map[string]jsontext.Value
	ask := func(ctx context.Context, to id.Server, claims map[id.User]map[id.Device]string) (keysOf, error) {
		if s.remote.ClaimKeys == nil {
			return nil, errUnreachable
		}
		return s.remote.ClaimKeys(ctx, to, claims)
	}
	eachServer(ctx, timeoutMS, asked, result.Failures, ask, func(claims map[id.User]map[id.Device]string, answer keysOf) {
		for user, devices := range claims {
			keys := map[id.Device]map[string]jsontext.Value{}
			for device := range devices {
				if k := answer[user][device]; len(k) == 1 {
					keys[device] = k
				}
			}
			if len(keys) > 0 {
				result.OneTimeKeys[user] = keys
			}
		}
	})
}
