package filter

import (
	"errors"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
)

func TestParseRefuses(t *testing.T) {
	for data, code := range map[string]string{
		`{"presence":"not_an_object"}`:                          "M_BAD_JSON",
		`{"room":{"timeline":"not_an_object"}}`:                 "M_BAD_JSON",
		`{"room":{"account_data":"not_an_object"}}`:             "M_BAD_JSON",
		`{"room":{"timeline":{"rooms":"not_a_list"}}}`:          "M_BAD_JSON",
		`{"room":{"timeline":{"not_senders":"not_a_list"}}}`:    "M_BAD_JSON",
		`{"room":{"timeline":{"types":[1]}}}`:                   "M_BAD_JSON",
		`{"room":{"timeline":{"rooms":["not_a_room_id"]}}}`:     "M_BAD_JSON",
		`{"room":{"timeline":{"senders":["not_a_sender_id"]}}}`: "M_BAD_JSON",
		`{"room":{"not_rooms":["@a:b"]}}`:                       "M_BAD_JSON",
		`{"room":{"timeline":{"limit":-1}}}`:                    "M_BAD_JSON",
		`{"room":{"timeline":{"limit":1.5}}}`:                   "M_BAD_JSON",
		`{"room":{"include_leave":"yes"}}`:                      "M_BAD_JSON",
		`{"event_format":"xml"}`:                                "M_BAD_JSON",
		`{"event_fields":"type"}`:                               "M_BAD_JSON",
		`[]`:                                                    "M_BAD_JSON",
		`null`:                                                  "M_BAD_JSON",
		`7`:                                                     "M_BAD_JSON",
		`{`:                                                     "M_NOT_JSON",
		``:                                                      "M_NOT_JSON",
		`{"a":1,"a":2}`:                                         "M_NOT_JSON",
		`{"x":"` + strings.Repeat("x", MaxSize) + `"}`:          "M_TOO_LARGE",
		`{"room":{"timeline":{"senders":["@a:b"],"limit":"ten"}}}`:   "M_BAD_JSON",
		`{"room":{"state":{"lazy_load_members":1}}}`:                 "M_BAD_JSON",
		`{"room":{"state":{"org.matrix.msc3874.rel_types":"x"}}}`:    "M_BAD_JSON",
		`{"room":{"state":{"related_by_senders":["not_a_sender"]}}}`: "M_BAD_JSON",
	} {
		_, err := Parse([]byte(data))
		var e *errcode.Error
		if !errors.As(err, &e) || e.Code != code {
			t.Errorf("%.60s: %v, want %s", data, err, code)
		}
	}
	if _, err := ParseRoomEventFilter([]byte(`{"types":{}}`)); err == nil {
		t.Error("a bad filter of room events was taken")
	}
}

func TestParse(t *testing.T) {
	f, err := Parse([]byte(`{
		"room":{"rooms":["!a:b","!c:d"],"not_rooms":["!c:d"],"include_leave":true,
			"state":{"lazy_load_members":true,"include_redundant_members":true},
			"timeline":{"limit":10,"unread_thread_notifications":true,"unknown":1}},
		"presence":{"types":["m.presence"],"not_senders":["@alice:b"]},
		"account_data":{"types":[]},
		"event_format":"federation","org.example.new":{}}`))
	if err != nil {
		t.Fatal(err)
	}
	for name, ok := range map[string]bool{
		"federation format":  f.EventFormat == FormatFederation,
		"leave":              f.Room.IncludeLeave,
		"lazy members":       f.Room.State.LazyLoadMembers && f.Room.State.IncludeRedundantMembers,
		"threads":            f.Room.Timeline.UnreadThreadNotifications && !f.Room.State.UnreadThreadNotifications,
		"room that is named": f.Room.MatchRoom("!a:b"),
		"excluded room":      !f.Room.MatchRoom("!c:d"),
		"other room":         !f.Room.MatchRoom("!e:f"),
		"presence of bob":    f.Presence.Match("m.presence", "@bob:b"),
		"presence of alice":  !f.Presence.Match("m.presence", "@alice:b"),
		"no types":           !f.AccountData.Match("m.direct", ""),
		"limit":              f.Room.Timeline.LimitOr(20, 100) == 10,
		"greatest limit":     f.Room.Timeline.LimitOr(20, 5) == 5,
		"no limit":           f.Room.State.LimitOr(20, 100) == 20,
	} {
		if !ok {
			t.Errorf("%s is wrong", name)
		}
	}
}

func TestZeroFilterLetsAllThrough(t *testing.T) {
	var f Filter
	e := Event{Type: "m.room.message", Sender: "@a:b", Room: "!a:b", Content: jsontext.Value(`{}`)}
	if !f.Room.MatchRoom("!a:b") || !f.Room.Timeline.Match(&e) || !f.Presence.Match("m.presence", "@a:b") || f.SelectsFields() {
		t.Error("the zero filter holds something back")
	}
}

func TestMatch(t *testing.T) {
	plain := Event{"m.room.message", "@alice:b", "!a:b", jsontext.Value(`{"body":"hi"}`)}
	image := Event{"m.room.message", "@alice:b", "!a:b", jsontext.Value(`{"body":"cat","url":"mxc://a/b"}`)}
	threaded := Event{"m.room.message", "@bob:b", "!a:b", jsontext.Value(`{"m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}`)}
	name := Event{"m.room.name", "@bob:b", "!c:d", jsontext.Value(`{"name":"x","m.relates_to":7}`)}
	all := []Event{plain, image, threaded, name}
	for _, test := range []struct{ filter, passes string }{ // p, i, t, n
		{`{}`, "pitn"},
		{`{"types":[]}`, ""},
		{`{"types":["m.room.message"]}`, "pit"},
		{`{"types":["m.room.*"]}`, "pitn"},
		{`{"types":["m.*.na*e"]}`, "n"},
		{`{"types":["*"],"not_types":["m.room.message"]}`, "n"},
		{`{"types":["m.room.message"],"not_types":["*.message"]}`, ""},
		{`{"not_types":["m.room"]}`, "pitn"},
		{`{"senders":["@alice:b"]}`, "pi"},
		{`{"senders":["@alice:b","@bob:b"],"not_senders":["@alice:b"]}`, "tn"},
		{`{"senders":[]}`, ""},
		{`{"rooms":["!c:d"]}`, "n"},
		{`{"not_rooms":["!c:d"]}`, "pit"},
		{`{"contains_url":true}`, "i"},
		{`{"contains_url":false}`, "ptn"},
		{`{"org.matrix.msc3874.rel_types":["m.thread"]}`, "t"},
		{`{"org.matrix.msc3874.not_rel_types":["m.thread"]}`, "pin"},
		{`{"org.matrix.msc3874.not_rel_types":["m.replace"]}`, "pitn"},
		{`{"types":null,"senders":null}`, "pitn"},
	} {
		f, err := ParseRoomEventFilter([]byte(test.filter))
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for i := range all {
			if f.Match(&all[i]) {
				got += "pitn"[i : i+1]
			}
		}
		if got != test.passes {
			t.Errorf("%s lets %q through, want %q", test.filter, got, test.passes)
		}
	}
}

func TestMatchRelated(t *testing.T) {
	relations := []Relation{{"m.thread", "@alice:b"}, {"m.annotation", "@bob:b"}}
	for data, want := range map[string]bool{
		`{}`:                                     true,
		`{"related_by_rel_types":["m.thread"]}`:  true,
		`{"related_by_rel_types":["m.replace"]}`: false,
		`{"related_by_senders":["@bob:b"]}`:      true,
		`{"related_by_senders":["@bob:b"],"related_by_rel_types":["m.thread"]}`: false,
	} {
		f, err := ParseRoomEventFilter([]byte(data))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.MatchRelated(relations); got != want {
			t.Errorf("%s: %v", data, got)
		}
	}
}

func TestSelect(t *testing.T) {
	const event = `{"type":"m.x","sender":"@a:b","content":{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$a"},"n":{"a\\b":1}},"unsigned":{"age":5}}`
	for fields, want := range map[string]string{
		`[]`:                       event,
		`["type"]`:                 `{"type":"m.x"}`,
		`["content.body","type"]`:  `{"type":"m.x","content":{"body":"hi"}}`,
		`["content.body.x"]`:       `{"content":{}}`,
		`["nothing"]`:              `{}`,
		`["content","content.n"]`:  `{"content":{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$a"},"n":{"a\\b":1}}}`,
		`["content.n","content"]`:  `{"content":{"body":"hi","m.relates_to":{"rel_type":"m.thread","event_id":"$a"},"n":{"a\\b":1}}}`,
		`["content.n.a\\\\b"]`:     `{"content":{"n":{"a\\b":1}}}`,
		`["unsigned.age","type."]`: `{"unsigned":{"age":5}}`,
		`["content.m\\.relates_to.rel_type","content.m\\.relates_to.event_id"]`: `{"content":{"m.relates_to":{"rel_type":"m.thread","event_id":"$a"}}}`,
	} {
		f, err := Parse([]byte(`{"event_fields":` + fields + `}`))
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Select(nil, []byte(event))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s %v, want %s", fields, got, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(`{"event_fields":["content.a\\.b.c"],"room":{"timeline":{"types":["m.*","*"],"contains_url":true}}}`, `{"content":{"a.b":{"c":[1,2]}}}`)
	f.Add(`{"room":{"timeline":{"org.matrix.msc3874.rel_types":["a"]}}}`, `{"m.relates_to":{}}`)
	f.Fuzz(func(t *testing.T, data, event string) {
		filter, err := Parse([]byte(data))
		if err != nil {
			var e *errcode.Error
			if !errors.As(err, &e) {
				t.Errorf("%v is no error for clients", err)
			}
			return
		}
		filter.Room.Timeline.Match(&Event{Type: event, Content: jsontext.Value(event)})
		if jsontext.Value(event).IsValid() && jsontext.Value(event).Kind() == '{' {
			selected, err := filter.Select(nil, []byte(event))
			if err != nil || !jsontext.Value(selected).IsValid() {
				t.Errorf("fields of %s by %s: %s %v", event, data, selected, err)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	f, err := ParseRoomEventFilter([]byte(`{"types":["m.room.*","m.reaction","m.sticker"],"not_senders":["@spam:b"],"not_rooms":["!x:y"]}`))
	if err != nil {
		b.Fatal(err)
	}
	e := Event{"m.room.message", id.User("@alice:b"), "!a:b", jsontext.Value(`{"body":"hi"}`)}
	for b.Loop() {
		f.Match(&e)
	}
}
