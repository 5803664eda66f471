package pushrules

import (
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// CopyRoom gives a room the user's own rules about the room that it replaces: the
// room rule, and override and underride rules with a condition on the room's id,
// which is how clients mute. Rules that are there already stay. It says whether
// anything changed; what does not fit within the bounds is left out.
// spec: client-server-api#server-behaviour-19
func (r *Rules) CopyRoom(from, to id.Room) (changed bool) {
	for _, kind := range []Kind{Override, Room, Underride} {
		rules := *r.custom.Own.of(kind)
		var all []Rule
		for _, rule := range rules {
			all = append(all, rule)
			copied, ok := copyFor(kind, rule, from, to)
			if ok && index(rules, copied.RuleID) < 0 && len(copied.RuleID) <= maxRuleID {
				all = append(all, copied)
			}
		}
		if len(all) > len(rules) && r.set(kind, all) == nil {
			changed = true
		}
	}
	return changed
}

// copyFor makes the copy of a rule; false: the rule is not about the room.
func copyFor(kind Kind, rule Rule, from, to id.Room) (Rule, bool) {
	if kind == Room {
		about := rule.RuleID == string(from)
		rule.RuleID = string(to)
		return rule, about
	}
	at := slices.IndexFunc(rule.Conditions, func(raw jsontext.Value) bool { return isAboutRoom(raw, from) })
	if at < 0 {
		return rule, false
	}
	rule.Conditions = slices.Clone(rule.Conditions)
	rule.Conditions[at] = eventMatch("room_id", string(to))
	if strings.Contains(rule.RuleID, string(from)) {
		rule.RuleID = strings.ReplaceAll(rule.RuleID, string(from), string(to))
	} else {
		rule.RuleID += "." + string(to)
	}
	return rule, true
}

func isAboutRoom(raw jsontext.Value, room id.Room) bool {
	var c struct {
		Kind    string `json:"kind"`
		Key     string `json:"key"`
		Pattern string `json:"pattern"`
	}
	return json.Unmarshal(raw, &c) == nil && c.Kind == "event_match" && c.Key == "room_id" && c.Pattern == string(room)
}
