package pushrules

import (
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
)

// Bounds of what a user may store. All rules go to every device whenever one
// changes, and each message is matched against them.
const (
	MaxRules   = 2000      // rules of the user's own
	MaxRule    = 16 << 10  // bytes of one rule as JSON
	MaxPattern = 1 << 10   // bytes of one pattern
	MaxTotal   = 512 << 10 // bytes of the user's own rules as JSON
	maxRuleID  = 255       // bytes
)

// Custom is what one user made of the predefined rules; it is what is stored.
type Custom struct {
	Own     Ruleset           `json:"own"`
	Changed map[string]Change `json:"changed,omitempty"` // of server-default rules, by "kind/rule id"
}

// Change is what a user changed of a server-default rule.
type Change struct {
	Enabled *bool             `json:"enabled,omitzero"`
	Actions *[]jsontext.Value `json:"actions,omitzero"`
}

// Rules is one user's rules: the predefined ones and what the user made of them.
// Errors of its methods are meant for the client.
type Rules struct {
	predefined Ruleset
	custom     Custom
}

// New puts stored rules on top of the predefined ones. It takes ownership of custom.
func New(predefined Ruleset, custom Custom) *Rules {
	return &Rules{predefined, custom}
}

// Custom is what there is to store.
func (r *Rules) Custom() Custom { return r.custom }

// Ruleset is the whole as clients see it: the user's own rules before the
// server-default ones, but .m.rule.master before all.
// spec: client-server-api#predefined-rules
func (r *Rules) Ruleset() Ruleset {
	var s Ruleset
	for _, kind := range Kinds {
		defaults := slices.Clone(*r.predefined.of(kind))
		for i := range defaults {
			r.custom.Changed[changeKey(kind, defaults[i].RuleID)].apply(&defaults[i])
		}
		first := 0
		if len(defaults) > 0 && defaults[0].RuleID == master {
			first = 1
		}
		*s.of(kind) = slices.Concat(defaults[:first], *r.custom.Own.of(kind), defaults[first:])
	}
	return s
}

func changeKey(kind Kind, ruleID string) string { return string(kind) + "/" + ruleID }

func (c Change) apply(r *Rule) {
	if c.Enabled != nil {
		r.Enabled = *c.Enabled
	}
	if c.Actions != nil {
		r.Actions = *c.Actions
	}
}

// Get returns one rule, or M_NOT_FOUND.
func (r *Rules) Get(kind Kind, ruleID string) (Rule, error) {
	if own := r.custom.Own.Find(kind, ruleID); own != nil {
		return *own, nil
	}
	if d := r.predefined.Find(kind, ruleID); d != nil {
		rule := *d
		r.custom.Changed[changeKey(kind, ruleID)].apply(&rule)
		return rule, nil
	}
	return Rule{}, errcode.NotFound("there is no %s rule %q", kind, ruleID)
}

// Put creates or changes a rule of the user's own. Of rule only the id, actions,
// conditions and pattern count. before and after, where not empty, name own rules
// of the same kind: the rule goes right before the one, else right after the other.
// spec: client-server-api#put_matrixclientv3pushrulesglobalkindruleid
func (r *Rules) Put(kind Kind, rule Rule, before, after string) error {
	list := r.custom.Own.of(kind)
	if list == nil {
		return errcode.InvalidParam("%q is no kind of push rule", kind)
	}
	if err := check(kind, &rule); err != nil {
		return err
	}
	rules := slices.Clone(*list) // Rulesets that were handed out share the old one
	rule.Default, rule.Enabled = false, true
	at := index(rules, rule.RuleID)
	if at >= 0 {
		rule.Enabled = rules[at].Enabled
	}
	switch {
	case before != "" || after != "":
		if at >= 0 {
			rules = slices.Delete(rules, at, at+1)
		}
		place, err := placeOf(rules, before, after)
		if err != nil {
			return err
		}
		rules = slices.Insert(rules, place, rule)
	case at >= 0:
		rules[at] = rule
	default:
		rules = slices.Insert(rules, 0, rule)
	}
	return r.set(kind, rules)
}

// set replaces the user's own rules of a kind, within bounds.
func (r *Rules) set(kind Kind, rules []Rule) error {
	own := r.custom.Own
	*own.of(kind) = rules
	count, size := 0, 0
	for _, k := range Kinds {
		for _, rule := range *own.of(k) {
			count++
			size += rule.size()
		}
	}
	switch {
	case count > MaxRules:
		return errcode.TooLarge("there may be no more than %d push rules", MaxRules)
	case size > MaxTotal:
		return errcode.TooLarge("all push rules together may have no more than %d bytes", MaxTotal)
	}
	r.custom.Own = own
	return nil
}

// placeOf says where a rule goes that is to stand before one rule or after another.
func placeOf(rules []Rule, before, after string) (int, error) {
	beside := before
	if beside == "" {
		beside = after
	}
	at := index(rules, beside)
	switch {
	case at < 0:
		return 0, errcode.New(400, "M_UNKNOWN", "before/after rule not found: %s", beside)
	case before == "":
		return at + 1, nil
	}
	return at, nil
}

func index(rules []Rule, ruleID string) int {
	return slices.IndexFunc(rules, func(r Rule) bool { return r.RuleID == ruleID })
}

// Delete removes a rule of the user's own.
func (r *Rules) Delete(kind Kind, ruleID string) error {
	if _, err := r.Get(kind, ruleID); err != nil {
		return err
	}
	list := r.custom.Own.of(kind)
	at := index(*list, ruleID)
	if at < 0 {
		return errcode.InvalidParam("server-default rules cannot be deleted, only disabled")
	}
	*list = slices.Delete(slices.Clone(*list), at, at+1)
	return nil
}

// SetEnabled switches a rule on or off, a server-default one too.
func (r *Rules) SetEnabled(kind Kind, ruleID string, enabled bool) error {
	return r.change(kind, ruleID, Change{Enabled: &enabled})
}

// SetActions changes what a rule does, a server-default one too.
func (r *Rules) SetActions(kind Kind, ruleID string, actions []jsontext.Value) error {
	actions = compact(actions)
	if err := checkActions(actions); err != nil {
		return err
	}
	if size := sizeOf(actions); size > MaxRule {
		return errcode.TooLarge("a push rule may have no more than %d bytes", MaxRule)
	}
	return r.change(kind, ruleID, Change{Actions: &actions})
}

func (r *Rules) change(kind Kind, ruleID string, change Change) error {
	rule, err := r.Get(kind, ruleID)
	if err != nil {
		return err
	}
	if rule.Default {
		c := r.custom.Changed[changeKey(kind, ruleID)]
		if change.Enabled != nil {
			c.Enabled = change.Enabled
		}
		if change.Actions != nil {
			c.Actions = change.Actions
		}
		if r.custom.Changed == nil {
			r.custom.Changed = map[string]Change{}
		}
		r.custom.Changed[changeKey(kind, ruleID)] = c
		return nil
	}
	rules := slices.Clone(*r.custom.Own.of(kind))
	change.apply(&rules[index(rules, ruleID)])
	return r.set(kind, rules)
}

// check validates a rule that a client wants to store and drops what its kind does not have.
func check(kind Kind, rule *Rule) error {
	if err := checkRuleID(rule.RuleID); err != nil {
		return err
	}
	if rule.Actions == nil {
		return errcode.MissingParam("a push rule needs actions")
	}
	rule.Actions = compact(rule.Actions)
	if err := checkActions(rule.Actions); err != nil {
		return err
	}
	if kind != Content {
		rule.Pattern = nil
	}
	switch kind {
	case Override, Underride:
		if rule.Conditions == nil {
			rule.Conditions = []jsontext.Value{}
		}
		rule.Conditions = compact(rule.Conditions)
		if err := checkConditions(rule.Conditions); err != nil {
			return err
		}
	case Content:
		rule.Conditions = nil
		if rule.Pattern == nil {
			return errcode.MissingParam("a content rule needs a pattern")
		}
		if err := checkPattern(*rule.Pattern); err != nil {
			return err
		}
	default:
		rule.Conditions = nil
	}
	if rule.size() > MaxRule {
		return errcode.TooLarge("a push rule may have no more than %d bytes", MaxRule)
	}
	return nil
}

func checkRuleID(ruleID string) error {
	switch {
	case ruleID == "":
		return errcode.InvalidParam("a push rule needs an id")
	case ruleID[0] == '.':
		return errcode.InvalidParam("ids that start with a dot are for server-default rules")
	case strings.ContainsAny(ruleID, `/\`):
		return errcode.InvalidParam("the id of a push rule may not have slashes or backslashes")
	case len(ruleID) > maxRuleID:
		return errcode.InvalidParam("the id of a push rule may have no more than %d bytes", maxRuleID)
	}
	return nil
}

// compact copies values without white space and needless escapes.
func compact(values []jsontext.Value) []jsontext.Value {
	compacted := make([]jsontext.Value, len(values))
	for i, v := range values {
		v = v.Clone()
		if v.Format(jsontext.CanonicalizeRawInts(false), jsontext.PreserveRawStrings(false)) == nil {
			compacted[i] = v
		} // else nil, which no check accepts
	}
	return compacted
}

// spec: client-server-api#actions
func checkActions(actions []jsontext.Value) error {
	for _, a := range actions {
		switch a.Kind() {
		case '"':
			switch string(a) {
			case `"notify"`, `"dont_notify"`, `"coalesce"`:
			default:
				return errcode.InvalidParam("unknown action %s", a)
			}
		case '{':
			var tweak struct {
				Name string `json:"set_tweak"`
			}
			if json.Unmarshal(a, &tweak) != nil || tweak.Name == "" {
				return errcode.InvalidParam("an action that is an object needs set_tweak")
			}
		default:
			return errcode.InvalidParam("an action is a string or an object")
		}
	}
	return nil
}

// checkConditions lets unknown kinds through: they never match, and newer clients may use them.
func checkConditions(conditions []jsontext.Value) error {
	for _, raw := range conditions {
		var c struct {
			Kind    string `json:"kind"`
			Pattern string `json:"pattern"`
		}
		if err := json.Unmarshal(raw, &c); err != nil {
			return errcode.InvalidParam("bad condition: %s", err)
		}
		if c.Kind == "" {
			return errcode.InvalidParam("a condition needs a kind")
		}
		if err := checkPattern(c.Pattern); err != nil {
			return err
		}
	}
	return nil
}

func checkPattern(pattern string) error {
	if len(pattern) > MaxPattern {
		return errcode.TooLarge("a pattern may have no more than %d bytes", MaxPattern)
	}
	return nil
}

// size is about what the rule takes as JSON.
func (r *Rule) size() int {
	size := len(`{"rule_id":"","default":false,"enabled":false,"actions":[],"conditions":[]}`) +
		len(r.RuleID) + sizeOf(r.Actions) + sizeOf(r.Conditions)
	if r.Pattern != nil {
		size += len(*r.Pattern)
	}
	return size
}

func sizeOf(values []jsontext.Value) (size int) {
	for _, v := range values {
		size += len(v) + 1
	}
	return size
}

// Parse reads what Custom was stored as.
func Parse(stored []byte) (Custom, error) {
	var c Custom
	if err := json.Unmarshal(stored, &c); err != nil {
		return Custom{}, fmt.Errorf("read stored push rules: %w", err)
	}
	return c, nil
}

// JSON is what to store.
func (c Custom) JSON() ([]byte, error) { return json.Marshal(c) }
