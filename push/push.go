// Package push is what users are notified about: their push rules and pushers,
// the counts of what they have not read, the list of their notifications.
//
// It follows what happens in rooms and writes nothing there. What a rule means is
// decided by matrix/pushrules. Start at Service.Rules and Service.Unread.
// spec: client-server-api#push-notifications
package push

import (
	"context"
	"fmt"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/maypok86/otter/v2"

	"hearth/matrix/id"
	"hearth/matrix/pushrules"
	"hearth/room"
	"hearth/store"
)

// Options is what a service is told when it is made.
type Options struct {
	Predefined pushrules.Predefined
	// Bounds in bytes of what is kept in memory: users' rules, events made ready for
	// rules, counts of the unread. 0: 16, 8 and 16 MB.
	RulesCacheBytes, EventCacheBytes, UnreadCacheBytes int
}

// Service answers all questions about notifications. All methods may be called
// from any goroutine.
type Service struct {
	store   *store.Store
	rooms   *room.Engine
	options Options
	rules   *otter.Cache[id.User, *compiled]
	events  *otter.Cache[store.EventNID, *sighting]
	unread  *otter.Cache[place, *tally]
}

// compiled is a user's rules ready for use.
type compiled struct {
	rules *pushrules.Compiled
	bytes int
}

// New makes a service on an open store.
func New(s *store.Store, rooms *room.Engine, o Options) *Service {
	return &Service{
		store: s, rooms: rooms, options: o,
		rules: otter.Must(&otter.Options[id.User, *compiled]{
			MaximumWeight: bound(o.RulesCacheBytes, 16<<20),
			Weigher:       func(_ id.User, c *compiled) uint32 { return uint32(c.bytes) },
		}),
		events: otter.Must(&otter.Options[store.EventNID, *sighting]{
			MaximumWeight: bound(o.EventCacheBytes, 8<<20),
			Weigher:       func(_ store.EventNID, s *sighting) uint32 { return s.weight() },
		}),
		unread: otter.Must(&otter.Options[place, *tally]{
			MaximumWeight: bound(o.UnreadCacheBytes, 16<<20),
			Weigher:       func(_ place, t *tally) uint32 { return t.weight() },
		}),
	}
}

func bound(given, otherwise int) uint64 {
	if given == 0 {
		return uint64(otherwise)
	}
	return uint64(given)
}

// Rules are the compiled rules of a local user.
func (s *Service) Rules(tx *store.Tx, user id.User) (*pushrules.Compiled, error) {
	if c, ok := s.rules.GetIfPresent(user); ok {
		return c.rules, nil
	}
	rules, stored, err := s.load(tx, user)
	if err != nil {
		return nil, err
	}
	// Only if absent: an edit whose commit this snapshot does not have may have put
	// newer rules there.
	c, _ := s.rules.SetIfAbsent(user, compile(user, rules, len(stored.JSON)))
	return c.rules, nil
}

func compile(user id.User, rules *pushrules.Rules, size int) *compiled {
	set := rules.Ruleset()
	const predefined = 16 << 10 // what the predefined rules take once compiled
	return &compiled{pushrules.Compile(user, &set), predefined + 4*size}
}

// load reads a user's rules.
func (s *Service) load(tx *store.Tx, user id.User) (*pushrules.Rules, store.StoredRules, error) {
	stored, ok, err := tx.Push.Rules(user)
	if err != nil {
		return nil, stored, fmt.Errorf("read push rules of %s: %w", user, err)
	}
	var custom pushrules.Custom
	if ok {
		if custom, err = pushrules.Parse(stored.JSON); err != nil {
			return nil, stored, fmt.Errorf("push rules of %s: %w", user, err)
		}
	}
	return pushrules.New(s.options.Predefined.For(user), custom), stored, nil
}

// AccountData is the content of m.push_rules, which no table of account data holds;
// false: it did not change after a position. After 0 there is always one.
// spec: client-server-api#push-rules-events
func (s *Service) AccountData(tx *store.Tx, user id.User, after int64) (jsontext.Value, bool, error) {
	rules, stored, err := s.load(tx, user)
	if err != nil || after > 0 && stored.Position <= after {
		return nil, false, err
	}
	content, err := json.Marshal(pushrules.Rulesets{Global: rules.Ruleset()})
	return content, err == nil, err
}

// Ruleset is all rules of a user.
func (s *Service) Ruleset(ctx context.Context, user id.User) (set pushrules.Ruleset, err error) {
	rules, err := s.read(ctx, user)
	if err != nil {
		return set, err
	}
	return rules.Ruleset(), nil
}

// Rule is one rule of a user.
func (s *Service) Rule(ctx context.Context, user id.User, kind pushrules.Kind, ruleID string) (pushrules.Rule, error) {
	rules, err := s.read(ctx, user)
	if err != nil {
		return pushrules.Rule{}, err
	}
	return rules.Get(kind, ruleID)
}

func (s *Service) read(ctx context.Context, user id.User) (rules *pushrules.Rules, err error) {
	err = s.store.View(ctx, func(tx *store.Tx) error {
		rules, _, err = s.load(tx, user)
		return err
	})
	return rules, err
}

// PutRule creates or changes a rule of the user's own; see pushrules.Rules.Put.
func (s *Service) PutRule(ctx context.Context, user id.User, kind pushrules.Kind, rule pushrules.Rule, before, after string) error {
	return s.edit(ctx, user, func(r *pushrules.Rules) error { return r.Put(kind, rule, before, after) })
}

// DeleteRule removes a rule of the user's own.
func (s *Service) DeleteRule(ctx context.Context, user id.User, kind pushrules.Kind, ruleID string) error {
	return s.edit(ctx, user, func(r *pushrules.Rules) error { return r.Delete(kind, ruleID) })
}

// SetRuleEnabled switches a rule on or off.
func (s *Service) SetRuleEnabled(ctx context.Context, user id.User, kind pushrules.Kind, ruleID string, enabled bool) error {
	return s.edit(ctx, user, func(r *pushrules.Rules) error { return r.SetEnabled(kind, ruleID, enabled) })
}

// SetRuleActions changes what a rule does.
func (s *Service) SetRuleActions(ctx context.Context, user id.User, kind pushrules.Kind, ruleID string, actions []jsontext.Value) error {
	return s.edit(ctx, user, func(r *pushrules.Rules) error { return r.SetActions(kind, ruleID, actions) })
}

func (s *Service) edit(ctx context.Context, user id.User, change func(*pushrules.Rules) error) error {
	return s.store.Update(ctx, func(tx *store.Tx) error {
		rules, _, err := s.load(tx, user)
		if err != nil {
			return err
		}
		if err := change(rules); err != nil {
			return err
		}
		return s.save(tx, user, rules)
	})
}

func (s *Service) save(tx *store.Tx, user id.User, rules *pushrules.Rules) error {
	stored, err := rules.Custom().JSON()
	if err != nil {
		return fmt.Errorf("write push rules of %s: %w", user, err)
	}
	if _, err := tx.Push.SetRules(user, stored); err != nil {
		return fmt.Errorf("store push rules of %s: %w", user, err)
	}
	fresh := compile(user, rules, len(stored))
	tx.AfterCommit(func() { s.rules.Set(user, fresh) })
	return nil
}
