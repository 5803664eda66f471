package event_test

import (
	"strings"
	"testing"

	"hearth/matrix/event"
)

func TestClientFormat(t *testing.T) {
	v := version(t, "12")
	proto := message(v, `{"name":"Räum"}`)
	proto.Type, proto.StateKey = event.TypeName, ptr("")
	p := build(t, v, proto)
	eventID := `"event_id":"` + string(p.ID) + `"`
	for _, tt := range []struct {
		name string
		o    event.ClientOptions
		want string
	}{
		{"whole", event.ClientOptions{},
			`{"content":{"name":"Räum"},` + eventID + `,"origin_server_ts":1700000000000,"room_id":"!room:example.org","sender":"@alice:example.org","state_key":"","type":"m.room.name"}`},
		{"sync", event.ClientOptions{OmitRoomID: true, Now: 1700000001234},
			`{"content":{"name":"Räum"},` + eventID + `,"origin_server_ts":1700000000000,"sender":"@alice:example.org","state_key":"","type":"m.room.name","unsigned":{"age":1234}}`},
		{"from the future", event.ClientOptions{OmitRoomID: true, Now: 5},
			`{"content":{"name":"Räum"},` + eventID + `,"origin_server_ts":1700000000000,"sender":"@alice:example.org","state_key":"","type":"m.room.name","unsigned":{"age":0}}`},
		{"unsigned", event.ClientOptions{OmitRoomID: true, Now: 1700000000001, Unsigned: event.AppendMember(event.AppendStringMember(nil, "transaction_id", `t"1`), "prev_content", []byte(`{"name":"old"}`))},
			`{"content":{"name":"Räum"},` + eventID + `,"origin_server_ts":1700000000000,"sender":"@alice:example.org","state_key":"","type":"m.room.name","unsigned":{"age":1,"transaction_id":"t\"1","prev_content":{"name":"old"}}}`},
	} {
		if got := string(event.AppendClient([]byte("x"), p, tt.o)); got != "x"+tt.want {
			t.Errorf("%s\n got %s\nwant x%s", tt.name, got, tt.want)
		}
	}
	if got, want := string(event.AppendStripped(nil, p)), `{"content":{"name":"Räum"},"sender":"@alice:example.org","state_key":"","type":"m.room.name"}`; got != want {
		t.Errorf("stripped\n got %s\nwant %s", got, want)
	}
	if got := string(event.AppendFederation(nil, p, nil)); got != string(p.JSON) {
		t.Errorf("for servers: %s", got)
	}
	if got := string(event.AppendFederation(nil, p, []byte(`"age":1`))); got != strings.TrimSuffix(string(p.JSON), "}")+`,"unsigned":{"age":1}}` {
		t.Errorf("for servers with unsigned: %s", got)
	}
}

// What only servers use must not reach clients.
func TestClientFormatHidesFederation(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		p, err := event.Parse(v, raw(v, map[string]string{"origin": `"o"`, "prev_state": `[]`, "unsigned": `{"x":1}`}))
		if err != nil {
			t.Fatal(err)
		}
		want := "content event_id origin_server_ts room_id sender type"
		if got := strings.Join(topKeys(t, event.AppendClient(nil, p, event.ClientOptions{})), " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

// Clients of any age find the target of a redaction, in any room version.
// spec: rooms/v11#moving-the-redacts-property-of-mroomredaction-events-to-a-content-property
func TestRedactsIsInBothPlacesForClients(t *testing.T) {
	each(t, func(t *testing.T, v *roomVersion) {
		for _, content := range []string{`{}`, `{"reason":"spam"}`, `{"redacts":"$other"}`} {
			proto := message(v, content)
			proto.Type, proto.Redacts = event.TypeRedaction, "$target"
			p := build(t, v, proto)
			js := string(event.AppendClient(nil, p, event.ClientOptions{}))
			if strings.Count(js, `"redacts":"$target"`) != 2 || strings.Contains(js, "$other") || strings.Contains(content, "reason") != strings.Contains(js, `"reason":"spam"`) {
				t.Errorf("%s became %s", content, js)
			}
		}
	})
}

func TestContentHelpers(t *testing.T) {
	v := version(t, "12")
	p, err := event.Parse(v, raw(v, map[string]string{"type": `"m.room.member"`, "state_key": `"@bob:other.org"`,
		"content": `{"membership":"join","displayname":"B\u00f6b \"x\"","n":1,"nested":{"membership":"ban"}}`}))
	if err != nil {
		t.Fatal(err)
	}
	if p.Membership() != "join" || p.ContentString("displayname") != `Böb "x"` || p.ContentString("n") != "" || p.ContentString("missing") != "" {
		t.Errorf("membership %q, displayname %q", p.Membership(), p.ContentString("displayname"))
	}
	if string(p.ContentValue("nested")) != `{"membership":"ban"}` || p.ContentValue("missing") != nil {
		t.Errorf("nested %s", p.ContentValue("nested"))
	}
	if !p.IsState() || !p.Is(event.TypeMember, "@bob:other.org") || p.Tuple() != (event.StateTuple{Type: event.TypeMember, Key: "@bob:other.org"}) {
		t.Errorf("tuple %v", p.Tuple())
	}
	p, err = event.Parse(v, raw(v, map[string]string{"content": `{"membership":"join"}`}))
	if err != nil || p.Membership() != "" || p.IsState() {
		t.Errorf("a message has membership %q (%v)", p.Membership(), err)
	}
}
