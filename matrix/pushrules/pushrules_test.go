package pushrules

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

const (
	alice = id.User("@alice:example.org")
	bob   = id.User("@bob:example.org")
	room  = id.Room("!room:example.org")
)

func message(content string) *Event {
	return &Event{Type: "m.room.message", Sender: bob, Room: room, ID: "$e", Content: jsontext.Value(content)}
}

func state(typ, key, content string) *Event {
	return &Event{Type: typ, StateKey: &key, Sender: bob, Room: room, Content: jsontext.Value(content)}
}

func TestPredefinedRules(t *testing.T) {
	crowd := RoomContext{MemberCount: 3, DisplayName: "Alice (she)"}
	pair := RoomContext{MemberCount: 2}
	moderator := RoomContext{MemberCount: 3, MayNotify: func(sender id.User, kind string) bool { return sender == bob && kind == "room" }}
	strict := RoomContext{MemberCount: 3, MayNotify: func(id.User, string) bool { return false }}
	typed := func(typ, content string) *Event {
		e := message(content)
		e.Type = typ
		return e
	}
	tests := []struct {
		name string
		e    *Event
		in   RoomContext
		rule string // empty: none matches
		want string // n notify, h highlight, sound after a colon
	}{
		{"message in a group", message(`{"body":"hi"}`), crowd, ".m.rule.message", "n"},
		{"message of two", message(`{"body":"hi"}`), pair, ".m.rule.room_one_to_one", "n:default"},
		{"notice", message(`{"body":"hi","msgtype":"m.notice"}`), pair, ".m.rule.suppress_notices", ""},
		{"mention", message(`{"body":"hi","m.mentions":{"user_ids":["@x:y","@alice:example.org"]}}`), crowd, ".m.rule.is_user_mention", "nh:default"},
		{"mention of others", message(`{"body":"hi","m.mentions":{"user_ids":["@alice:example.com"]}}`), crowd, ".m.rule.message", "n"},
		{"mentions that are no list", message(`{"m.mentions":{"user_ids":"@alice:example.org"}}`), crowd, ".m.rule.message", "n"},
		{"mention of the room", message(`{"m.mentions":{"room":true}}`), moderator, ".m.rule.is_room_mention", "nh"},
		{"mention of the room by a nobody", message(`{"m.mentions":{"room":true}}`), crowd, ".m.rule.message", "n"},
		{"mention of a strict room", message(`{"m.mentions":{"room":true}}`), strict, ".m.rule.message", "n"},
		{"room is not true", message(`{"m.mentions":{"room":1}}`), moderator, ".m.rule.message", "n"},
		{"names in the text are no mention", message(`{"body":"alice @room"}`), moderator, ".m.rule.message", "n"},
		{"edit", message(`{"body":"* hi","m.relates_to":{"rel_type":"m.replace","event_id":"$x"}}`), crowd, ".m.rule.suppress_edits", ""},
		{"edit that mentions", message(`{"m.mentions":{"user_ids":["@alice:example.org"]},"m.relates_to":{"rel_type":"m.replace"}}`), crowd, ".m.rule.is_user_mention", "nh:default"},
		{"reaction", typed("m.reaction", `{}`), pair, ".m.rule.reaction", ""},
		{"encrypted", typed("m.room.encrypted", `{}`), crowd, ".m.rule.encrypted", "n"},
		{"call", typed("m.call.invite", `{}`), crowd, ".m.rule.call", "n:ring"},
		{"poll", typed("org.matrix.msc3381.poll.start", `{}`), crowd, ".org.matrix.msc3930.rule.poll_start", "n"},
		{"poll of two", typed("org.matrix.msc3381.poll.end", `{}`), pair, ".org.matrix.msc3930.rule.poll_end_one_to_one", "n:default"},
		{"poll response", typed("org.matrix.msc3381.poll.response", `{}`), pair, ".org.matrix.msc3930.rule.poll_response", ""},
		{"invite", state("m.room.member", string(alice), `{"membership":"invite"}`), crowd, ".m.rule.invite_for_me", "n:default"},
		{"invite of others", state("m.room.member", "@x:y", `{"membership":"invite"}`), crowd, ".m.rule.member_event", ""},
		{"tombstone", state("m.room.tombstone", "", `{}`), crowd, ".m.rule.tombstone", "nh"},
		{"tombstone of another key", state("m.room.tombstone", "x", `{}`), crowd, "", ""},
		{"tombstone that is no state", typed("m.room.tombstone", `{}`), crowd, "", ""},
		{"server ACL", state("m.room.server_acl", "", `{}`), pair, ".m.rule.room.server_acl", ""},
		{"topic", state("m.room.topic", "", `{}`), pair, "", ""},
		{"own message", &Event{Type: "m.room.message", Sender: alice, Content: jsontext.Value(`{}`)}, pair, "", ""},
	}
	defaults := Default(alice)
	c := Compile(alice, &defaults)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			rule, got := show(c.Evaluate(test.e, &test.in))
			if rule != test.rule || got != test.want {
				t.Errorf("%s %q, want %s %q", rule, got, test.rule, test.want)
			}
		})
	}
}

func show(m *Match) (rule, actions string) {
	if m == nil {
		return "", ""
	}
	if m.Actions.Notify {
		actions += "n"
	}
	if m.Actions.Highlight {
		actions += "h"
	}
	if m.Actions.Sound != "" {
		actions += ":" + m.Actions.Sound
	}
	return m.RuleID, actions
}

func TestLegacyMentions(t *testing.T) {
	defaults := Predefined{LegacyMentions: true}.For(alice)
	c := Compile(alice, &defaults)
	if plain := Default(alice); !c.AsksDisplayName() || Compile(alice, &plain).AsksDisplayName() {
		t.Error("it is wrong who asks for display names")
	}
	for body, want := range map[string]string{
		"hi Alice!":              ".m.rule.contains_user_name",
		"hi al ice (she/they)":   ".m.rule.contains_display_name",
		"hi AL ICE (SHE/THEY), ": ".m.rule.contains_display_name",
		"hi al icex":             ".m.rule.message",
		"dear @room":             ".m.rule.roomnotif",
	} {
		in := RoomContext{MemberCount: 9, DisplayName: "Al ice (she/they)", MayNotify: func(id.User, string) bool { return true }}
		if rule, _ := show(c.Evaluate(message(fmt.Sprintf(`{"body":%q}`, body)), &in)); rule != want {
			t.Errorf("%q: %s, want %s", body, rule, want)
		}
	}
}

func TestConditions(t *testing.T) {
	e := &Event{
		Type: "m.room.message", Sender: bob, Room: room, OriginServerTS: 5,
		Content: jsontext.Value(`{"body":"An example event","topic":"Lunch plans","n":3,"big":9007199254740993,"f":1.5,"t":true,"nil":null,
			"list":["a",1,true,null,{"x":1},["a"]],"m.x":{"a\\b":{"c":"Deep"}},"o":{}}`),
	}
	tests := []struct {
		condition string
		want      bool
	}{
		{`{"kind":"event_match","key":"content.topic","pattern":"lunc?*"}`, true},
		{`{"kind":"event_match","key":"content.topic","pattern":"lunch"}`, false},
		{`{"kind":"event_match","key":"content.body","pattern":"EX*PLE"}`, true},
		{`{"kind":"event_match","key":"content.body","pattern":"xample"}`, false},
		{`{"kind":"event_match","key":"content.absent","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.n","pattern":"3"}`, false},
		{`{"kind":"event_match","key":"content.nil","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.topic.x","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"content.m\\.x.a\\\\b.c","pattern":"deep"}`, true},
		{`{"kind":"event_match","key":"state_key","pattern":"*"}`, false},
		{`{"kind":"event_match","key":"room_id","pattern":"!ROOM:*"}`, true},
		{`{"kind":"event_match","key":"sender","pattern":"@bob:example.org"}`, true},
		{`{"kind":"event_match","key":"type"}`, false},
		{`{"kind":"event_match","pattern":"*"}`, false},
		{`{"kind":"event_property_is","key":"content.t","value":true}`, true},
		{`{"kind":"event_property_is","key":"content.t","value":"true"}`, false},
		{`{"kind":"event_property_is","key":"content.n","value":3}`, true},
		{`{"kind":"event_property_is","key":"content.n","value":3.0}`, false},
		{`{"kind":"event_property_is","key":"content.f","value":1.5}`, false},
		{`{"kind":"event_property_is","key":"content.big","value":9007199254740993}`, false},
		{`{"kind":"event_property_is","key":"content.nil","value":null}`, true},
		{`{"kind":"event_property_is","key":"content.absent","value":null}`, false},
		{`{"kind":"event_property_is","key":"content.topic","value":"lunch plans"}`, false},
		{`{"kind":"event_property_is","key":"content.topic","value":"Lunch plans"}`, true},
		{`{"kind":"event_property_is","key":"content.o","value":{}}`, false},
		{`{"kind":"event_property_is","key":"content.t"}`, false},
		{`{"kind":"event_property_is","key":"origin_server_ts","value":5}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":"a"}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":1}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":null}`, true},
		{`{"kind":"event_property_contains","key":"content.list","value":false}`, false},
		{`{"kind":"event_property_contains","key":"content.list","value":["a"]}`, false},
		{`{"kind":"event_property_contains","key":"content.topic","value":"Lunch plans"}`, false},
		{`{"kind":"room_member_count","is":"4"}`, true},
		{`{"kind":"room_member_count","is":"==4"}`, true},
		{`{"kind":"room_member_count","is":"<4"}`, false},
		{`{"kind":"room_member_count","is":"<=4"}`, true},
		{`{"kind":"room_member_count","is":">3"}`, true},
		{`{"kind":"room_member_count","is":">=5"}`, false},
		{`{"kind":"room_member_count","is":"=4"}`, false},
		{`{"kind":"room_member_count","is":"+4"}`, false},
		{`{"kind":"room_member_count","is":"four"}`, false},
		{`{"kind":"room_member_count","is":""}`, false},
		{`{"kind":"room_member_count","is":4}`, false},
		{`{"kind":"room_member_count"}`, false},
		{`{"kind":"sender_notification_permission","key":"room"}`, true},
		{`{"kind":"sender_notification_permission","key":"other"}`, false},
		{`{"kind":"sender_notification_permission"}`, false},
		{`{"kind":"contains_display_name"}`, true},
		{`{"kind":"org.example.unknown"}`, false},
		{`{}`, false},
		{`7`, false},
	}
	in := RoomContext{MemberCount: 4, DisplayName: "EVENT", MayNotify: func(_ id.User, kind string) bool { return kind == "room" }}
	for _, test := range tests {
		rules := Ruleset{Override: []Rule{{RuleID: "r", Enabled: true, Conditions: []jsontext.Value{jsontext.Value(test.condition)}}}}
		if got := Compile(alice, &rules).Evaluate(e, &in) != nil; got != test.want {
			t.Errorf("%s: %v, want %v", test.condition, got, test.want)
		}
	}
}

func TestKindsAreCheckedInOrder(t *testing.T) {
	cake := "cake"
	rules := Ruleset{
		Override:  []Rule{{RuleID: "o", Enabled: true, Conditions: []jsontext.Value{}}},
		Content:   []Rule{{RuleID: "no pattern", Enabled: true}, {RuleID: "c", Enabled: true, Pattern: &cake}},
		Room:      []Rule{{RuleID: "!other:example.org", Enabled: true}, {RuleID: string(room), Enabled: true}},
		Sender:    []Rule{{RuleID: string(bob), Enabled: true}},
		Underride: []Rule{{RuleID: "u", Enabled: true}},
	}
	for _, kind := range Kinds {
		m := Compile(alice, &rules).Evaluate(message(`{"body":"Cake!"}`), &RoomContext{})
		if m == nil || m.Kind != kind {
			t.Fatalf("%+v matched, want a rule of %s", m, kind)
		}
		list := *rules.of(kind)
		list[len(list)-1].Enabled = false // disabled rules never match
	}
	if m := Compile(alice, &rules).Evaluate(message(`{"body":"cake"}`), &RoomContext{}); m != nil {
		t.Errorf("disabled rule %s matched", m.RuleID)
	}
}

func TestActions(t *testing.T) {
	tests := map[string]string{
		`[]`:                                     "",
		`["notify"]`:                             "n",
		`["dont_notify"]`:                        "",
		`["dont_notify","notify"]`:               "n",
		`["coalesce",{"set_tweak":"highlight"}]`: "h",
		`[{"set_tweak":"highlight","value":false}]`:                                              "",
		`["notify",{"set_tweak":"highlight","value":true}]`:                                      "nh",
		`["notify",{"set_tweak":"sound","value":"b\u0069ng"},{"set_tweak":"light","value":[1]}]`: "n:bing",
	}
	for actions, want := range tests {
		var raw []jsontext.Value
		if err := json.Unmarshal([]byte(actions), &raw); err != nil {
			t.Fatal(err)
		}
		a := parseActions(raw)
		if _, got := show(&Match{Actions: a}); got != want {
			t.Errorf("%s: %q, want %q", actions, got, want)
		}
		if strings.Contains(actions, `"light"`) && string(a.Tweaks["light"]) != "[1]" {
			t.Errorf("%s: tweaks %v lack the one that is not ours", actions, a.Tweaks)
		}
	}
}

func values(raw ...string) []jsontext.Value {
	v := make([]jsontext.Value, len(raw))
	for i, s := range raw {
		v[i] = jsontext.Value(s)
	}
	return v
}

func ids(rules []Rule) string {
	var b []string
	for _, r := range rules {
		if !r.Default || r.RuleID == master {
			b = append(b, r.RuleID)
		}
	}
	return strings.Join(b, " ")
}

func TestPutPlacesRules(t *testing.T) {
	r := New(Default(alice), Custom{})
	put := func(id, before, after, want string) {
		t.Helper()
		if err := r.Put(Override, Rule{RuleID: id, Actions: values(`"notify"`)}, before, after); err != nil {
			t.Fatal(err)
		}
		s := r.Ruleset()
		if got := ids(s.Override); got != want {
			t.Errorf("order %q, want %q", got, want)
		}
	}
	put("a", "", "", ".m.rule.master a")
	put("b", "", "", ".m.rule.master b a")
	put("c", "a", "", ".m.rule.master b c a")
	put("d", "", "b", ".m.rule.master b d c a")
	put("a", "", "", ".m.rule.master b d c a") // an update stays where it is
	put("a", "b", "", ".m.rule.master a b d c")
	put("b", "", "c", ".m.rule.master a d c b")
	put("e", "c", "a", ".m.rule.master a d e c b") // both: before counts
}

func TestPutRefuses(t *testing.T) {
	r := New(Default(alice), Custom{})
	long := strings.Repeat("x", MaxPattern+1)
	cake := "cake"
	tests := []struct {
		name          string
		kind          Kind
		rule          Rule
		before, after string
		code          string
	}{
		{"unknown kind", "postcontent", Rule{RuleID: "a", Actions: values()}, "", "", "M_INVALID_PARAM"},
		{"server-default id", Override, Rule{RuleID: ".m.rule.master", Actions: values()}, "", "", "M_INVALID_PARAM"},
		{"slash", Override, Rule{RuleID: "a/b", Actions: values()}, "", "", "M_INVALID_PARAM"},
		{"backslash", Override, Rule{RuleID: `a\b`, Actions: values()}, "", "", "M_INVALID_PARAM"},
		{"no id", Override, Rule{Actions: values()}, "", "", "M_INVALID_PARAM"},
		{"long id", Override, Rule{RuleID: long, Actions: values()}, "", "", "M_INVALID_PARAM"},
		{"no actions", Override, Rule{RuleID: "a"}, "", "", "M_MISSING_PARAM"},
		{"unknown action", Override, Rule{RuleID: "a", Actions: values(`"x"`)}, "", "", "M_INVALID_PARAM"},
		{"action without tweak", Override, Rule{RuleID: "a", Actions: values(`{"value":1}`)}, "", "", "M_INVALID_PARAM"},
		{"action that is a number", Override, Rule{RuleID: "a", Actions: values(`1`)}, "", "", "M_INVALID_PARAM"},
		{"condition without kind", Underride, Rule{RuleID: "a", Actions: values(), Conditions: values(`{}`)}, "", "", "M_INVALID_PARAM"},
		{"condition that is no object", Underride, Rule{RuleID: "a", Actions: values(), Conditions: values(`1`)}, "", "", "M_INVALID_PARAM"},
		{"no pattern", Content, Rule{RuleID: "a", Actions: values()}, "", "", "M_MISSING_PARAM"},
		{"long pattern", Content, Rule{RuleID: "a", Actions: values(), Pattern: &long}, "", "", "M_TOO_LARGE"},
		{"large rule", Room, Rule{RuleID: "a", Actions: values(`{"set_tweak":"` + strings.Repeat("x", MaxRule) + `"}`)}, "", "", "M_TOO_LARGE"},
		{"before nothing", Content, Rule{RuleID: "a", Actions: values(), Pattern: &cake}, "b", "", "M_UNKNOWN"},
		{"after nothing", Content, Rule{RuleID: "a", Actions: values(), Pattern: &cake}, "", "b", "M_UNKNOWN"},
		{"before itself", Content, Rule{RuleID: "a", Actions: values(), Pattern: &cake}, "a", "", "M_UNKNOWN"},
		{"before a server-default rule", Override, Rule{RuleID: "a", Actions: values()}, ".m.rule.reaction", "", "M_UNKNOWN"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			wantCode(t, r.Put(test.kind, test.rule, test.before, test.after), test.code)
		})
	}
	if own := r.Custom().Own; ids(slices.Concat(own.Override, own.Content, own.Room, own.Sender, own.Underride)) != "" {
		t.Errorf("refused rules were stored: %+v", own)
	}
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	var e *errcode.Error
	if !errors.As(err, &e) || e.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func TestBoundsOfAllRules(t *testing.T) {
	r := New(Default(alice), Custom{})
	for i := range MaxRules {
		if err := r.Put(Room, Rule{RuleID: fmt.Sprint("!", i), Actions: values()}, "", ""); err != nil {
			t.Fatal(err)
		}
	}
	wantCode(t, r.Put(Sender, Rule{RuleID: "@x:y", Actions: values()}, "", ""), "M_TOO_LARGE")
	if err := r.Put(Room, Rule{RuleID: "!7", Actions: values(`"notify"`)}, "", ""); err != nil {
		t.Errorf("a rule cannot be changed when there are as many as may be: %v", err)
	}
	r = New(Default(alice), Custom{})
	big := values(`{"set_tweak":"` + strings.Repeat("x", MaxRule/2) + `"}`)
	var err error
	for i := 0; i < MaxRules && err == nil; i++ {
		err = r.Put(Room, Rule{RuleID: fmt.Sprint("!", i), Actions: big}, "", "")
	}
	wantCode(t, err, "M_TOO_LARGE")
}

func TestEditing(t *testing.T) {
	r := New(Default(alice), Custom{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(r.Put(Room, Rule{RuleID: "!r", Actions: values(` "dont_notify" `), Conditions: values(`{}`)}, "", ""))
	must(r.SetEnabled(Room, "!r", false))
	must(r.Put(Room, Rule{RuleID: "!r", Actions: values(`{"set_tweak" : "sound"}`)}, "", ""))
	got, err := r.Get(Room, "!r")
	must(err)
	if got.Enabled || got.Default || got.Conditions != nil || string(got.Actions[0]) != `{"set_tweak":"sound"}` {
		t.Errorf("changed rule is %+v; it must stay disabled", got)
	}
	before := r.Ruleset()
	must(r.SetEnabled(Override, master, true))
	must(r.SetActions(Underride, ".m.rule.message", values()))
	must(r.SetEnabled(Underride, ".m.rule.message", false))
	must(r.SetActions(Room, "!r", values(`"notify"`)))
	if before.Override[0].Enabled || string(before.Room[0].Actions[0]) == `"notify"` {
		t.Error("a ruleset changed that was handed out before")
	}

	stored, err := r.Custom().JSON()
	must(err)
	custom, err := Parse(stored)
	must(err)
	r = New(Default(alice), custom)
	s := r.Ruleset()
	message := s.Find(Underride, ".m.rule.message")
	if !s.Override[0].Enabled || message.Enabled || len(message.Actions) != 0 || string(s.Room[0].Actions[0]) != `"notify"` {
		t.Errorf("changes were lost: %s", stored)
	}

	wantCode(t, r.Delete(Override, master), "M_INVALID_PARAM")
	wantCode(t, r.Delete(Override, "x"), "M_NOT_FOUND")
	wantCode(t, r.Delete("x", "x"), "M_NOT_FOUND")
	wantCode(t, r.SetEnabled(Content, "x", true), "M_NOT_FOUND")
	wantCode(t, r.SetActions(Override, ".m.rule.message", values()), "M_NOT_FOUND") // it is an underride rule
	wantCode(t, r.SetActions(Room, "!r", values(`"x"`)), "M_INVALID_PARAM")
	must(r.Delete(Room, "!r"))
	if _, err := r.Get(Room, "!r"); err == nil {
		t.Error("the rule is still there")
	}
}

func TestCopyRoom(t *testing.T) {
	r := New(Default(alice), Custom{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	if r.CopyRoom("!old:x", "!new:x") {
		t.Error("rules changed although none was about the room")
	}
	about := func(pattern string) []jsontext.Value {
		return values(`{"kind":"event_match","key":"type","pattern":"m.room.message"}`, `{"kind":"event_match","key":"room_id","pattern":"`+pattern+`"}`)
	}
	must(r.Put(Room, Rule{RuleID: "!old:x", Actions: values(`"dont_notify"`)}, "", ""))
	must(r.SetEnabled(Room, "!old:x", false))
	must(r.Put(Override, Rule{RuleID: "!old:x", Actions: values(), Conditions: about("!old:x")}, "", ""))
	must(r.Put(Override, Rule{RuleID: "mine", Actions: values(), Conditions: about("!old:x")}, "", ""))
	must(r.Put(Override, Rule{RuleID: "other", Actions: values(), Conditions: about("!old:xy")}, "", ""))
	must(r.Put(Override, Rule{RuleID: "all", Actions: values(`"notify"`)}, "", ""))
	for first := range 2 { // the second time there is nothing to do
		if changed := r.CopyRoom("!old:x", "!new:x"); changed != (first == 0) {
			t.Errorf("changed: %v", changed)
		}
		s := r.Ruleset()
		copied, err := r.Get(Room, "!new:x")
		if err != nil || copied.Enabled || string(copied.Actions[0]) != `"dont_notify"` || len(s.Room) != 2 {
			t.Errorf("room rules are %+v", s.Room)
		}
		if got := ids(s.Override); got != ".m.rule.master all other mine mine.!new:x !old:x !new:x" {
			t.Errorf("override rules are %q", got)
		}
		muted, err := r.Get(Override, "!new:x")
		if err != nil || !slices.EqualFunc(muted.Conditions, about("!new:x"), func(a, b jsontext.Value) bool { return string(a) == string(b) }) {
			t.Errorf("copied rule is %+v", muted)
		}
	}
}

// The whole of a new user's rules, as clients get them.
func TestDefaultJSON(t *testing.T) {
	got, err := json.Marshal(Rulesets{New(Default(alice), Custom{}).Ruleset()}, jsontext.WithIndent("  "))
	if err != nil {
		t.Fatal(err)
	}
	const file = "testdata/default.json"
	if os.Getenv("REWRITE") != "" {
		if err := os.WriteFile(file, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got)+"\n" != string(want) {
		t.Errorf("default rules differ from %s:\n%s", file, got)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"own":{"override":[{"rule_id":"a","actions":["notify"],"conditions":[{"kind":"event_match","key":"content.a\\.b","pattern":"a*?"}],"enabled":true}]}}`, `{"a.b":"x"}`)
	f.Add(`{"changed":{"override/.m.rule.master":{"enabled":true}}}`, `{"body":[{}]}`)
	f.Fuzz(func(t *testing.T, stored, content string) {
		custom, err := Parse([]byte(stored))
		if err != nil {
			return
		}
		rules := New(Default(alice), custom).Ruleset()
		Compile(alice, &rules).Evaluate(message(content), &RoomContext{MemberCount: 2, DisplayName: content})
	})
}

func BenchmarkEvaluate(b *testing.B) {
	defaults := Default(alice)
	c := Compile(alice, &defaults)
	in := RoomContext{MemberCount: 1000}
	e := message(`{"body":"a message of middling length, about as long as people write","msgtype":"m.text","m.mentions":{}}`)
	b.ReportAllocs()
	for b.Loop() {
		c.Evaluate(e, &in)
	}
}

func BenchmarkParseAndEvaluate(b *testing.B) {
	defaults := Default(alice)
	c := Compile(alice, &defaults)
	in := RoomContext{MemberCount: 1000}
	b.ReportAllocs()
	for b.Loop() {
		c.Evaluate(message(`{"body":"a message of middling length, about as long as people write","msgtype":"m.text","m.mentions":{}}`), &in)
	}
}

func BenchmarkCompile(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		rules := New(Default(alice), Custom{}).Ruleset()
		Compile(alice, &rules)
	}
}
