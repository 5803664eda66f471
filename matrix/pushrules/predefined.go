package pushrules

import (
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
)

// Predefined says which of the optional server-default rules users get.
type Predefined struct {
	// LegacyMentions adds the rules that v1.17 removed, which look for the user's
	// names and @room in the text of messages.
	// spec: changelog/v1.17 MSC4210
	LegacyMentions bool
}

const master = ".m.rule.master"

// For returns the server-default rules of a user, in order.
// spec: client-server-api#predefined-rules
func (p Predefined) For(user id.User) Ruleset {
	mention := []jsontext.Value{notify, sound("default"), highlight}
	var s Ruleset
	s.Override = []Rule{
		off(conditional(master, nil)),
		// msc: 4028 puts this one before all others. It is off until a client that
		// counts by itself asks for it: on, it would undo mute settings of encrypted rooms.
		off(conditional(".org.matrix.msc4028.encrypted_event", list(notify), eventMatch("type", "m.room.encrypted"))),
		conditional(".m.rule.suppress_notices", nil, eventMatch("content.msgtype", "m.notice")),
		conditional(".m.rule.invite_for_me", list(notify, sound("default")),
			eventMatch("type", "m.room.member"),
			eventMatch("content.membership", "invite"),
			eventMatch("state_key", string(user))),
		conditional(".m.rule.member_event", nil, eventMatch("type", "m.room.member")),
		conditional(".m.rule.is_user_mention", mention,
			property("event_property_contains", `content.m\.mentions.user_ids`, jsontext.String(string(user)))),
	}
	if p.LegacyMentions {
		s.Override = append(s.Override,
			conditional(".m.rule.contains_display_name", mention, jsontext.Value(`{"kind":"contains_display_name"}`)))
		localpart := user.Localpart()
		s.Content = []Rule{{
			RuleID: ".m.rule.contains_user_name", Default: true, Enabled: true, Actions: mention, Pattern: &localpart,
		}}
	}
	s.Override = append(s.Override, conditional(".m.rule.is_room_mention", list(notify, highlight),
		property("event_property_is", `content.m\.mentions.room`, jsontext.True),
		permission("room")))
	if p.LegacyMentions {
		s.Override = append(s.Override, conditional(".m.rule.roomnotif", list(notify, highlight),
			eventMatch("content.body", "@room"), permission("room")))
	}
	s.Override = append(s.Override,
		conditional(".m.rule.tombstone", list(notify, highlight),
			eventMatch("type", "m.room.tombstone"), eventMatch("state_key", "")),
		conditional(".m.rule.reaction", nil, eventMatch("type", "m.reaction")),
		conditional(".m.rule.room.server_acl", nil,
			eventMatch("type", "m.room.server_acl"), eventMatch("state_key", "")),
		conditional(".m.rule.suppress_edits", nil,
			property("event_property_is", `content.m\.relates_to.rel_type`, jsontext.String("m.replace"))),
		// msc: 3930
		conditional(".org.matrix.msc3930.rule.poll_response", nil,
			eventMatch("type", "org.matrix.msc3381.poll.response")),
	)
	s.Underride = underrides()
	return s
}

// Default returns the rules that the specification and today's clients ask for.
func Default(user id.User) Ruleset { return Predefined{}.For(user) }

func underrides() []Rule {
	oneToOne := jsontext.Value(`{"kind":"room_member_count","is":"2"}`)
	loud, quiet := list(notify, sound("default")), list(notify)
	return []Rule{
		conditional(".m.rule.call", list(notify, sound("ring")), eventMatch("type", "m.call.invite")),
		conditional(".m.rule.encrypted_room_one_to_one", loud, oneToOne, eventMatch("type", "m.room.encrypted")),
		conditional(".m.rule.room_one_to_one", loud, oneToOne, eventMatch("type", "m.room.message")),
		conditional(".m.rule.message", quiet, eventMatch("type", "m.room.message")),
		conditional(".m.rule.encrypted", quiet, eventMatch("type", "m.room.encrypted")),
		// msc: 3930
		conditional(".org.matrix.msc3930.rule.poll_start_one_to_one", loud, oneToOne,
			eventMatch("type", "org.matrix.msc3381.poll.start")),
		conditional(".org.matrix.msc3930.rule.poll_start", quiet, eventMatch("type", "org.matrix.msc3381.poll.start")),
		conditional(".org.matrix.msc3930.rule.poll_end_one_to_one", loud, oneToOne,
			eventMatch("type", "org.matrix.msc3381.poll.end")),
		conditional(".org.matrix.msc3930.rule.poll_end", quiet, eventMatch("type", "org.matrix.msc3381.poll.end")),
	}
}

var (
	notify    = jsontext.Value(`"notify"`)
	highlight = jsontext.Value(`{"set_tweak":"highlight"}`)
)

func sound(name string) jsontext.Value {
	return object("set_tweak", "sound", "value", name)
}

func list(v ...jsontext.Value) []jsontext.Value { return v }

func conditional(ruleID string, actions []jsontext.Value, conditions ...jsontext.Value) Rule {
	if conditions == nil {
		conditions = []jsontext.Value{}
	}
	return Rule{RuleID: ruleID, Default: true, Enabled: true, Actions: actions, Conditions: conditions}
}

func off(r Rule) Rule {
	r.Enabled = false
	return r
}

func eventMatch(key, pattern string) jsontext.Value {
	return object("kind", "event_match", "key", key, "pattern", pattern)
}

func permission(key string) jsontext.Value {
	return object("kind", "sender_notification_permission", "key", key)
}

func property(kind, key string, want jsontext.Token) jsontext.Value {
	o := object("kind", kind, "key", key)
	o = append(o[:len(o)-1], `,"value":`...)
	if want.Kind() == '"' {
		o = appendQuoted(o, want.String())
	} else {
		o = append(o, want.String()...)
	}
	return append(o, '}')
}

// object is a JSON object of string names and string values.
func object(pairs ...string) jsontext.Value {
	o := []byte{'{'}
	for i, text := range pairs {
		if i > 0 {
			o = append(o, ",:"[i%2])
		}
		o = appendQuoted(o, text)
	}
	return append(o, '}')
}

// appendQuoted writes a string of JSON. User ids are valid UTF-8, and so is all else here.
func appendQuoted(b []byte, text string) []byte {
	b, err := jsontext.AppendQuote(b, text)
	if err != nil {
		panic(err)
	}
	return b
}
