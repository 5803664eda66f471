package pushrules

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// RoomContext is what rules ask about the room and the people, beside the event.
type RoomContext struct {
	MemberCount int    // joined members now
	DisplayName string // of the rules' owner in the room; empty if none
	// MayNotify says whether a sender has the power that the room's power levels
	// now ask for notifications of a kind, such as room. nil: nobody has.
	MayNotify func(sender id.User, kind string) bool
}

// Match is the rule that decides about an event.
type Match struct {
	Kind    Kind
	RuleID  string
	Actions Actions
}

// Actions is what a rule asks for.
// spec: client-server-api#actions
type Actions struct {
	Notify    bool
	Highlight bool
	Sound     string // empty: none
	// Tweaks are all that the rule sets, sound and highlight too, for push gateways.
	Tweaks map[string]jsontext.Value
	// Raw is the list as the rule has it.
	Raw []jsontext.Value
}

// Compiled is a user's ruleset ready for matching. It is immutable.
type Compiled struct {
	user                         id.User
	override, content, underride []compiledRule
	room, sender                 map[string]*Match
	asksDisplayName              bool
}

type compiledRule struct {
	match      Match
	conditions []condition
}

// Compile prepares the rules of user. Disabled rules are left out.
func Compile(user id.User, rules *Ruleset) *Compiled {
	c := &Compiled{
		user:      user,
		override:  compileRules(Override, rules.Override, listedConditions),
		content:   compileRules(Content, rules.Content, contentCondition),
		room:      compileByID(Room, rules.Room),
		sender:    compileByID(Sender, rules.Sender),
		underride: compileRules(Underride, rules.Underride, listedConditions),
	}
	for _, r := range slices.Concat(c.override, c.underride) {
		c.asksDisplayName = c.asksDisplayName || slices.Contains(r.conditions, condition(containsDisplayName{}))
	}
	return c
}

// AsksDisplayName says whether RoomContext.DisplayName makes any difference.
func (c *Compiled) AsksDisplayName() bool { return c.asksDisplayName }

// Evaluate returns the first rule that matches, nil if none does or if the event
// is the user's own: these never notify.
// spec: client-server-api#push-rules
func (c *Compiled) Evaluate(e *Event, r *RoomContext) *Match {
	if e.Sender == c.user {
		return nil
	}
	if m := firstMatch(c.override, e, r); m != nil {
		return m
	}
	if m := firstMatch(c.content, e, r); m != nil {
		return m
	}
	if m := c.room[string(e.Room)]; m != nil {
		return m
	}
	if m := c.sender[string(e.Sender)]; m != nil {
		return m
	}
	return firstMatch(c.underride, e, r)
}

func firstMatch(rules []compiledRule, e *Event, r *RoomContext) *Match {
next:
	for i := range rules {
		for _, c := range rules[i].conditions {
			if !c.holds(e, r) {
				continue next
			}
		}
		return &rules[i].match
	}
	return nil
}

func compileRules(kind Kind, rules []Rule, conditions func(*Rule) []condition) []compiledRule {
	var compiled []compiledRule
	for i := range rules {
		if r := &rules[i]; r.Enabled {
			match := Match{Kind: kind, RuleID: r.RuleID, Actions: parseActions(r.Actions)}
			compiled = append(compiled, compiledRule{match, conditions(r)})
		}
	}
	return compiled
}

// compileByID is for the kinds whose rule id says what they match.
func compileByID(kind Kind, rules []Rule) map[string]*Match {
	byID := map[string]*Match{}
	for i := range rules {
		if r := &rules[i]; r.Enabled && byID[r.RuleID] == nil {
			byID[r.RuleID] = &Match{Kind: kind, RuleID: r.RuleID, Actions: parseActions(r.Actions)}
		}
	}
	return byID
}

// parseActions leaves out what it does not know, dont_notify and coalesce too.
// spec: client-server-api#historical-actions
func parseActions(raw []jsontext.Value) Actions {
	a := Actions{Raw: raw}
	for _, v := range raw {
		var tweak struct {
			Name  string         `json:"set_tweak"`
			Value jsontext.Value `json:"value"`
		}
		switch v.Kind() {
		case '"':
			a.Notify = a.Notify || string(v) == `"notify"`
			continue
		case '{':
			if json.Unmarshal(v, &tweak) != nil || tweak.Name == "" {
				continue
			}
		default:
			continue
		}
		if tweak.Name == "highlight" {
			if tweak.Value == nil {
				tweak.Value = jsontext.Value("true")
			}
			a.Highlight = tweak.Value.Kind() == 't'
		}
		if tweak.Value == nil {
			tweak.Value = jsontext.Value("null")
		}
		if tweak.Name == "sound" && tweak.Value.Kind() == '"' {
			if sound, err := jsontext.AppendUnquote(nil, tweak.Value); err == nil {
				a.Sound = string(sound)
			}
		}
		if a.Tweaks == nil {
			a.Tweaks = map[string]jsontext.Value{}
		}
		a.Tweaks[tweak.Name] = tweak.Value
	}
	return a
}

// condition is one compiled condition of a rule.
type condition interface {
	holds(*Event, *RoomContext) bool
}

func listedConditions(r *Rule) []condition {
	conditions := make([]condition, len(r.Conditions))
	for i, raw := range r.Conditions {
		conditions[i] = compileCondition(raw)
	}
	return conditions
}

// contentCondition is the one that every content rule has.
func contentCondition(r *Rule) []condition {
	if r.Pattern == nil {
		return []condition{never{}}
	}
	return []condition{matchBody{compileGlob(*r.Pattern)}}
}

// compileCondition turns what it does not understand into never.
// spec: client-server-api#conditions-1
func compileCondition(raw jsontext.Value) condition {
	var c struct {
		Kind    string         `json:"kind"`
		Key     *string        `json:"key"`
		Pattern *string        `json:"pattern"`
		Is      *string        `json:"is"`
		Value   jsontext.Value `json:"value"`
	}
	if json.Unmarshal(raw, &c) != nil {
		return never{}
	}
	switch c.Kind {
	case "event_match":
		if c.Key != nil && c.Pattern != nil {
			return compileEventMatch(event.PropertyPath(*c.Key), *c.Pattern)
		}
	case "event_property_is":
		if want, ok := plainValue(c.Value); ok && c.Key != nil {
			return propertyIs{event.PropertyPath(*c.Key), want}
		}
	case "event_property_contains":
		if want, ok := plainValue(c.Value); ok && c.Key != nil {
			return propertyContains{event.PropertyPath(*c.Key), want}
		}
	case "contains_display_name":
		return containsDisplayName{}
	case "room_member_count":
		if c.Is != nil {
			return compileMemberCount(*c.Is)
		}
	case "sender_notification_permission":
		if c.Key != nil {
			return senderPermission{*c.Key}
		}
	}
	return never{}
}

// plainValue accepts the values that properties can be compared with.
func plainValue(raw jsontext.Value) (v value, ok bool) {
	v.kind = raw.Kind()
	switch v.kind {
	case '"':
		text, err := jsontext.AppendUnquote(nil, raw)
		v.text = string(text)
		return v, err == nil
	case '0':
		v.text = string(raw)
		_, ok = v.integer()
		return v, ok
	case 't', 'f', 'n':
		return v, true
	}
	return v, false
}

type never struct{}

func (never) holds(*Event, *RoomContext) bool { return false }

func compileEventMatch(path []string, pattern string) condition {
	switch {
	case slices.Equal(path, contentBody):
		return matchBody{compileGlob(pattern)}
	case !strings.ContainsAny(pattern, "*?"):
		return matchLiteral{path, fold(pattern)}
	}
	return matchGlob{path, compileGlob(pattern)}
}

type matchBody struct{ pattern glob }

func (c matchBody) holds(e *Event, _ *RoomContext) bool {
	body, ok := e.foldedBody()
	return ok && c.pattern.matchesWords(body)
}

type matchLiteral struct {
	path []string
	text string
}

func (c matchLiteral) holds(e *Event, _ *RoomContext) bool {
	text, ok := e.folded(c.path)
	return ok && text == c.text
}

type matchGlob struct {
	path    []string
	pattern glob
}

func (c matchGlob) holds(e *Event, _ *RoomContext) bool {
	text, ok := e.folded(c.path)
	return ok && c.pattern.matches(text)
}

type propertyIs struct {
	path []string
	want value
}

func (c propertyIs) holds(e *Event, _ *RoomContext) bool { return e.find(c.path).equals(c.want) }

type propertyContains struct {
	path []string
	want value
}

func (c propertyContains) holds(e *Event, _ *RoomContext) bool {
	return slices.ContainsFunc(e.find(c.path).elements, func(v value) bool { return v.equals(c.want) })
}

type containsDisplayName struct{}

func (containsDisplayName) holds(e *Event, r *RoomContext) bool {
	body, ok := e.foldedBody()
	if !ok || r.DisplayName == "" {
		return false
	}
	name := glob{[]segment{{literal: fold(r.DisplayName)}}} // stars in a name are stars
	name.segments[0].failure = failures(name.segments[0].literal)
	return name.matchesWords(body)
}

type memberCount struct {
	holdsFor func(int) bool
}

func (c memberCount) holds(_ *Event, r *RoomContext) bool { return c.holdsFor(r.MemberCount) }

func compileMemberCount(is string) condition {
	digits := strings.TrimLeft(is, "<>=")
	n, err := strconv.Atoi(digits)
	if err != nil || digits[0] < '0' || digits[0] > '9' {
		return never{}
	}
	switch is[:len(is)-len(digits)] {
	case "", "==":
		return memberCount{func(count int) bool { return count == n }}
	case "<":
		return memberCount{func(count int) bool { return count < n }}
	case "<=":
		return memberCount{func(count int) bool { return count <= n }}
	case ">":
		return memberCount{func(count int) bool { return count > n }}
	case ">=":
		return memberCount{func(count int) bool { return count >= n }}
	}
	return never{}
}

type senderPermission struct{ key string }

func (c senderPermission) holds(e *Event, r *RoomContext) bool {
	return r.MayNotify != nil && r.MayNotify(e.Sender, c.key)
}
