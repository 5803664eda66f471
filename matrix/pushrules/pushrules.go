// Package pushrules decides which events notify a user, and how: the rulesets, the
// predefined rules, editing them, and matching them against events.
//
// It must not look anything up nor deliver anything. Start at Rules, which is one
// user's rules as the API shows and changes them, and at Compile, which makes them
// ready for matching.
// spec: client-server-api#push-rules
package pushrules

import "github.com/go-json-experiment/json/jsontext"

// Kind is the kind of a rule.
type Kind string

// The kinds, in the order in which they are checked.
const (
	Override  Kind = "override"
	Content   Kind = "content"
	Room      Kind = "room"
	Sender    Kind = "sender"
	Underride Kind = "underride"
)

// Kinds lists all kinds in the order in which they are checked.
var Kinds = []Kind{Override, Content, Room, Sender, Underride}

// Rule is one push rule, as the API and account data show it. Conditions and
// actions are kept as they were given, so that what we do not know survives.
type Rule struct {
	RuleID     string           `json:"rule_id"`
	Default    bool             `json:"default"`
	Enabled    bool             `json:"enabled"`
	Actions    []jsontext.Value `json:"actions"`
	Conditions []jsontext.Value `json:"conditions,omitzero"` // of override and underride rules
	Pattern    *string          `json:"pattern,omitzero"`    // of content rules
}

// Ruleset is all rules of a user, the most important first in each kind.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Rulesets is the answer to GET /pushrules/ and the content of m.push_rules.
// spec: client-server-api#mpush_rules
type Rulesets struct {
	Global Ruleset `json:"global"`
}

// of returns the rules of one kind, nil if there is no such kind.
func (s *Ruleset) of(kind Kind) *[]Rule {
	switch kind {
	case Override:
		return &s.Override
	case Content:
		return &s.Content
	case Room:
		return &s.Room
	case Sender:
		return &s.Sender
	case Underride:
		return &s.Underride
	}
	return nil
}

// OfKind returns the rules of one kind, which is never nil; false: there is no such kind.
func (s *Ruleset) OfKind(kind Kind) ([]Rule, bool) {
	rules := s.of(kind)
	if rules == nil {
		return nil, false
	}
	return append([]Rule{}, *rules...), true
}

// Find returns a rule, nil if there is none.
func (s *Ruleset) Find(kind Kind, ruleID string) *Rule {
	rules := s.of(kind)
	if rules == nil {
		return nil
	}
	for i := range *rules {
		if (*rules)[i].RuleID == ruleID {
			return &(*rules)[i]
		}
	}
	return nil
}
