package remote

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/outgoing"
	"hearth/room"
	"hearth/store"
)

// collect makes a function that notes the events of an answer.
func collect(state, auth *[]string) func(room.StatePart, jsontext.Value) error {
	return func(part room.StatePart, raw jsontext.Value) error {
		list := state
		if part == room.InAuthChain {
			list = auth
		}
		*list = append(*list, string(raw))
		return nil
	}
}

func TestMakeMembership(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	b.handle["GET /_matrix/federation/v1/make_join/!r:b.example/@u:a.example"] = answer(`{"room_version":"11","event":{"type":"m.room.member"}}`)
	b.handle["GET /_matrix/federation/v1/make_leave/!r:b.example/@u:a.example"] = answer(`{"event":{"type":"m.room.member"}}`)
	b.handle["GET /_matrix/federation/v1/make_knock/!r:b.example/@u:a.example"] = func(rw http.ResponseWriter, _ *http.Request) {
		rw.WriteHeader(400)
		io.WriteString(rw, `{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"too old","room_version":"99","soft_logout":true}`)
	}
	versions := []string{"10", "11"}
	join, err := a.MakeMembership(t.Context(), "b.example", store.Join, "!r:b.example", "@u:a.example", versions)
	if err != nil || join.RoomVersion != "11" || string(join.Event) != `{"type":"m.room.member"}` {
		t.Error(join, err)
	}
	if leave, err := a.MakeMembership(t.Context(), "b.example", store.Leave, "!r:b.example", "@u:a.example", nil); err != nil || leave.RoomVersion != "" {
		t.Error(leave, err)
	}
	_, err = a.MakeMembership(t.Context(), "b.example", store.Knock, "!r:b.example", "@u:a.example", versions)
	e, ok := errors.AsType[*errcode.Error](err)
	if !ok || e.Status != 400 || e.Code != "M_INCOMPATIBLE_ROOM_VERSION" || len(e.Extra) != 1 || e.Extra["room_version"] != "99" {
		t.Errorf("%+v", e)
	}
	want := []string{
		"GET /_matrix/federation/v1/make_join/%21r:b.example/@u:a.example?ver=10&ver=11",
		"GET /_matrix/federation/v1/make_leave/%21r:b.example/@u:a.example",
		"GET /_matrix/federation/v1/make_knock/%21r:b.example/@u:a.example?ver=10&ver=11",
	}
	if got := b.requests(); !slices.Equal(got, want) {
		t.Errorf("asked %q", got)
	}
}

func TestSendJoin(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	p := eventBy(t, "11", "a.example", "ed25519:1", a.key, 1)
	path := "/_matrix/federation/v2/send_join/" + string(p.Room) + "/" + string(p.ID)
	body := ""
	b.handle["PUT "+path] = func(rw http.ResponseWriter, r *http.Request) {
		body = r.Header.Get("Test-Body")
		io.WriteString(rw, `{"auth_chain":[{"a":1}],"new":{"x":[1,{"state":[]}]},"members_omitted":true,"servers_in_room":["b.example","not a name","c.example"],
			"origin":"b.example","state":[{"b":1},{"b":2}],"event":{"e":1}}`)
	}
	var state, auth []string
	got, err := a.SendJoin(t.Context(), "b.example", p, true, collect(&state, &auth))
	if err != nil {
		t.Fatal(err)
	}
	if body != string(p.JSON) || b.requests()[0] != "PUT "+strings.NewReplacer("!", "%21").Replace(path)+"?omit_members=true" {
		t.Errorf("asked %q with %s", b.requests(), body)
	}
	if !slices.Equal(state, []string{`{"b":1}`, `{"b":2}`}) || !slices.Equal(auth, []string{`{"a":1}`}) {
		t.Errorf("state %v, auth chain %v", state, auth)
	}
	if string(got.Event) != `{"e":1}` || got.Origin != "b.example" || !got.MembersOmitted || !slices.Equal(got.ServersInRoom, []id.Server{"b.example", "c.example"}) {
		t.Errorf("%+v", got)
	}
}

// TestOlderServersAreAskedTheOldWay is for those that do not know version 2 of an endpoint.
func TestOlderServersAreAskedTheOldWay(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	p := eventBy(t, "2", "a.example", "ed25519:1", a.key, 1)
	at := string(p.Room) + "/" + string(p.ID)
	b.handle["PUT /_matrix/federation/v1/send_join/"+at] = answer(`[200,{"state":[{"b":1}],"auth_chain":[]}]`)
	b.handle["PUT /_matrix/federation/v1/send_leave/"+at] = answer(`[200,{}]`)
	invite := ""
	b.handle["PUT /_matrix/federation/v1/invite/"+at] = func(rw http.ResponseWriter, r *http.Request) {
		invite = r.Header.Get("Test-Body")
		io.WriteString(rw, `[200,{"event":{"signed":true}}]`)
	}
	var state, auth []string
	if _, err := a.SendJoin(t.Context(), "b.example", p, true, collect(&state, &auth)); err != nil || len(state) != 1 {
		t.Error(state, err)
	}
	if err := a.SendLeave(t.Context(), "b.example", p); err != nil {
		t.Error(err)
	}
	if ev, err := a.SendInvite(t.Context(), "b.example", p, jsontext.Value(`[{"type":"x"}]`)); err != nil || string(ev) != `{"signed":true}` {
		t.Error(string(ev), err)
	}
	if want := strings.TrimSuffix(string(p.JSON), "}") + `,"unsigned":{"invite_room_state":[{"type":"x"}]}}`; invite != want {
		t.Errorf("invited with %s", invite)
	}
	// Some refuse what they do not know with other errors.
	for _, status := range []int{400, 404} {
		b.handle["PUT /_matrix/federation/v2/invite/"+at] = func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(status)
			io.WriteString(rw, `{"errcode":"M_BAD_JSON","error":"no event"}`)
		}
		if ev, err := a.SendInvite(t.Context(), "b.example", p, nil); err != nil || string(ev) != `{"signed":true}` {
			t.Error(status, string(ev), err)
		}
	}
	delete(b.handle, "PUT /_matrix/federation/v1/invite/"+at)
	if _, err := a.SendInvite(t.Context(), "b.example", p, nil); err == nil || !strings.Contains(err.Error(), "no event") {
		t.Errorf("a server without the first version refuses an invite, and says %v", err)
	}
	delete(b.handle, "PUT /_matrix/federation/v2/invite/"+at)
	// Later room versions cannot be said in version 1.
	if _, err := a.SendInvite(t.Context(), "b.example", eventBy(t, "11", "a.example", "ed25519:1", a.key, 1), nil); !unrecognized(err) {
		t.Error(err)
	}
}

func TestSendInviteAndKnock(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	p := eventBy(t, "11", "a.example", "ed25519:1", a.key, 1)
	at := string(p.Room) + "/" + string(p.ID)
	body := ""
	b.handle["PUT /_matrix/federation/v2/invite/"+at] = func(rw http.ResponseWriter, r *http.Request) {
		body = r.Header.Get("Test-Body")
		io.WriteString(rw, `{"event":{"signed":true}}`)
	}
	b.handle["PUT /_matrix/federation/v1/send_knock/"+at] = answer(`{"knock_room_state":[{"type":"x"}]}`)
	ev, err := a.SendInvite(t.Context(), "b.example", p, jsontext.Value(`[{"type":"x"}]`))
	if err != nil || string(ev) != `{"signed":true}` {
		t.Error(string(ev), err)
	}
	if want := `{"room_version":"11","event":` + string(p.JSON) + `,"invite_room_state":[{"type":"x"}]}`; body != want {
		t.Errorf("invited with %s", body)
	}
	if state, err := a.SendKnock(t.Context(), "b.example", p); err != nil || string(state) != `[{"type":"x"}]` {
		t.Error(string(state), err)
	}
}

func TestBadAnswersToAJoin(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	p := eventBy(t, "11", "a.example", "ed25519:1", a.key, 1)
	body := ""
	b.handle["PUT /_matrix/federation/v2/send_join/"+string(p.Room)+"/"+string(p.ID)] = func(rw http.ResponseWriter, _ *http.Request) { io.WriteString(rw, body) }
	for name, test := range map[string]struct {
		body    string
		fromOne bool // it is the answer that is wrong, not the connection
	}{
		"empty":              {``, false},
		"broken off":         {`{"state":[{"a":1},`, false},
		"no object":          {`[]`, true},
		"no JSON":            {`{"state":[{"a":1}x`, true},
		"keys twice":         {`{"state":[],"state":[]}`, true},
		"more after it":      {`{"state":[]} {}`, true},
		"state that is none": {`{"state":{}}`, true},
		"an endless event":   {`{"state":[{"a":"` + strings.Repeat("x", maxWireEvent+1<<20) + `"}]}`, true},
		"an endless word":    {`{"` + strings.Repeat("x", maxWireEvent+1<<20) + `":1}`, true},
	} {
		body = test.body
		_, err := a.SendJoin(t.Context(), "b.example", p, false, func(room.StatePart, jsontext.Value) error { return nil })
		e, ok := errors.AsType[*Error](err)
		if !ok || Unreachable(err) == test.fromOne {
			t.Errorf("%s: %v", name, err)
		} else if test.fromOne && e.Status != 200 {
			t.Errorf("%s: status %d", name, e.Status)
		}
	}
	body = `{"state":[{"a":1},{"a":2}]}`
	mine := errors.New("mine")
	if _, err := a.SendJoin(t.Context(), "b.example", p, false, func(room.StatePart, jsontext.Value) error { return mine }); err != mine {
		t.Errorf("an error of our own became %v", err)
	}
}

// flood is an endless source of parts, of which some are read.
type flood struct {
	head, part, tail string
	parts            int
	comma            bool
	rest             string
}

func (f *flood) Read(p []byte) (int, error) {
	for f.rest == "" {
		switch {
		case f.head != "":
			f.rest, f.head = f.head, ""
		case f.parts > 0 && f.comma:
			f.rest, f.comma = ",", false
		case f.parts > 0:
			f.rest = f.part
			f.parts--
			f.comma = true
		case f.tail != "":
			f.rest, f.tail = f.tail, ""
		default:
			return 0, io.EOF
		}
	}
	n := copy(p, f.rest)
	f.rest = f.rest[n:]
	return n, nil
}

// TestStateIsReadInConstantMemory counts what is allocated for an answer of 100 MB.
func TestStateIsReadInConstantMemory(t *testing.T) {
	ev := `{"type":"m.room.member","content":{"displayname":"` + strings.Repeat("x", 900) + `"}}`
	source := &flood{head: `{"auth_chain":[],"state":[`, part: ev, parts: 100_000, tail: `]}`}
	n := 0
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	s := newStateReader(source)
	_, err := s.joinAnswer(false, func(_ room.StatePart, raw jsontext.Value) error {
		if len(raw) == len(ev) {
			n++
		}
		return nil
	})
	runtime.ReadMemStats(&after)
	if err := s.failure("b.example", err); err != nil || n != 100_000 {
		t.Fatal(n, err)
	}
	if spent := after.TotalAlloc - before.TotalAlloc; spent > spare<<20 {
		t.Errorf("%d bytes were allocated", spent)
	}
}

// names writes members of an object, each with a name of its own.
func names(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"%d":0,`, i)
	}
	return b.String() + `"last":0`
}

// What no endpoint has in its answer is no way to make this server remember any amount.
func TestWhatIsSkippedTakesBoundedMemory(t *testing.T) {
	for name, source := range map[string]*flood{
		"an object with many names":       {head: `{"x":{` + names(200_000) + `,`, part: `"x":0`, parts: 1 << 20, tail: `}}`},
		"objects in each other":           {head: `{"x":{`, part: `"` + strings.Repeat("x", 1000) + `":{"y":0`, parts: 5000},
		"what stands for a status, in v1": {head: `[{` + names(200_000) + `,`, part: `"x":0`, parts: 1 << 20, tail: `},{}]`},
	} {
		counted := &counter{Reader: source}
		s := newStateReader(counted)
		_, err := s.joinAnswer(source.head[0] == '[', func(room.StatePart, jsontext.Value) error { return nil })
		if e, ok := errors.AsType[*Error](s.failure("b.example", err)); !ok || e.Status != 200 || counted.n > 3*maxWireEvent {
			t.Errorf("%s: %v after %d bytes", name, err, counted.n)
		}
	}
	// A list is skipped as it is read where it matters.
	s := newStateReader(&flood{head: `{"x":[`, part: `{"a":1}`, parts: 200_000, tail: `],"origin":"b.example"}`})
	if a, err := s.joinAnswer(false, nil); s.failure("b.example", err) != nil || a.Origin != "b.example" {
		t.Error(a, err)
	}
}

// counter counts what is read.
type counter struct {
	io.Reader
	n int
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += n
	return n, err
}

// A decoder that looks for names that are there twice keeps those of the last object at each
// depth, for as long as it lives.
func TestEventsThatAreReadLeaveNothing(t *testing.T) {
	many := names(30_000)
	body := io.Reader(strings.NewReader(`{"state":[0`))
	for depth := 100; depth > 0; depth-- {
		body = io.MultiReader(body, strings.NewReader(`,`+strings.Repeat(`{"a":`, depth)+`{`), strings.NewReader(many), strings.NewReader(`}`+strings.Repeat(`}`, depth)))
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newStateReader(io.MultiReader(body, strings.NewReader(`]}`)))
	_, err := s.joinAnswer(false, func(room.StatePart, jsontext.Value) error { return nil })
	runtime.GC()
	runtime.ReadMemStats(&after)
	if err := s.failure("b.example", err); err != nil {
		t.Fatal(err)
	}
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 20<<20 {
		t.Errorf("%d MiB are held after all is read", held>>20)
	}
}

// TestIDsOfALargeRoom: the state of a room with 50,000 members, by ids, costs not much more than the ids.
func TestIDsOfALargeRoom(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	list := func(n int) string {
		var l strings.Builder
		for i := range n {
			fmt.Fprintf(&l, `,"$%043d"`, i)
		}
		return "[" + l.String()[1:] + "]"
	}
	b.handle["GET /_matrix/federation/v1/state_ids/!r"] = answer(`{"pdu_ids":` + list(60_000) + `,"auth_chain_ids":` + list(50_000) + `}`)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	state, chain, err := a.GetRoomStateIDs(t.Context(), "b.example", "!r", "$e")
	runtime.ReadMemStats(&after)
	if err != nil || len(state) != 60_000 || len(chain) != 50_000 || chain[49_999] != "$0000000000000000000000000000000000000049999" {
		t.Fatal(len(state), len(chain), err)
	}
	if spent := after.TotalAlloc - before.TotalAlloc; spent > 30*spare<<20 {
		t.Errorf("%d MiB were allocated for 5 MB of ids", spent>>20)
	}
}

func TestStateOfARoom(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	b.handle["GET /_matrix/federation/v1/state/!r"] = answer(`{"pdus":[{"b":1}],"auth_chain":[{"a":1},{"a":2}]}`)
	b.handle["GET /_matrix/federation/v1/state_ids/!r"] = answer(`{"pdu_ids":["$1"],"auth_chain_ids":["$2","$3"]}`)
	b.handle["GET /_matrix/federation/v1/event_auth/!r/$e/1"] = answer(`{"auth_chain":[{"a":1}]}`)
	b.handle["GET /_matrix/federation/v1/event/$e/1"] = answer(`{"origin":"b.example","origin_server_ts":1,"pdus":[{"e":1.0}]}`)
	b.handle["GET /_matrix/federation/v1/backfill/!r"] = answer(`{"origin":"b.example","origin_server_ts":1,"pdus":[{"e":1},{"e":2}]}`)
	b.handle["GET /_matrix/federation/v1/timestamp_to_event/!r"] = answer(`{"event_id":"$1","origin_server_ts":5}`)
	missing := ""
	b.handle["POST /_matrix/federation/v1/get_missing_events/!r"] = func(rw http.ResponseWriter, r *http.Request) {
		missing = r.Header.Get("Test-Body")
		io.WriteString(rw, `{"events":[{"e":1}]}`)
	}
	ctx := t.Context()
	var state, auth []string
	if err := a.GetRoomState(ctx, "b.example", "!r", "$e/1", collect(&state, &auth)); err != nil || len(state) != 1 || len(auth) != 2 {
		t.Error(state, auth, err)
	}
	if s, c, err := a.GetRoomStateIDs(ctx, "b.example", "!r", "$e/1"); err != nil || len(s) != 1 || len(c) != 2 {
		t.Error(s, c, err)
	}
	if c, err := a.GetEventAuth(ctx, "b.example", "!r", "$e/1"); err != nil || len(c) != 1 {
		t.Error(c, err)
	}
	if e, err := a.GetEvent(ctx, "b.example", "$e/1"); err != nil || string(e) != `{"e":1.0}` {
		t.Error(string(e), err)
	}
	if list, err := a.Backfill(ctx, "b.example", "!r", []id.Event{"$1", "$2"}, 50); err != nil || len(list) != 2 {
		t.Error(list, err)
	}
	if e, ts, err := a.TimestampToEvent(ctx, "b.example", "!r", 7, true); err != nil || e != "$1" || ts != 5 {
		t.Error(e, ts, err)
	}
	q := room.MissingEvents{Earliest: []id.Event{"$1"}, Latest: []id.Event{"$2"}, Limit: 10}
	if list, err := a.GetMissingEvents(ctx, "b.example", "!r", q); err != nil || len(list) != 1 || missing != `{"earliest_events":["$1"],"latest_events":["$2"],"limit":10}` {
		t.Error(list, missing, err)
	}
	want := []string{
		"GET /_matrix/federation/v1/state/%21r?event_id=%24e%2F1",
		"GET /_matrix/federation/v1/state_ids/%21r?event_id=%24e%2F1",
		"GET /_matrix/federation/v1/event_auth/%21r/$e%2F1",
		"GET /_matrix/federation/v1/event/$e%2F1",
		"GET /_matrix/federation/v1/backfill/%21r?limit=50&v=%241&v=%242",
		"GET /_matrix/federation/v1/timestamp_to_event/%21r?dir=b&ts=7",
		"POST /_matrix/federation/v1/get_missing_events/%21r",
	}
	if got := b.requests(); !slices.Equal(got, want) {
		t.Errorf("asked %q", got)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	b.handle["GET /_matrix/federation/v1/query/profile"] = func(rw http.ResponseWriter, _ *http.Request) {
		io.Copy(rw, &flood{head: `{"x":[`, part: `"` + strings.Repeat("x", 1000) + `"`, parts: 1 << 30})
	}
	if _, err := a.QueryProfile(t.Context(), "b.example", "@u:b.example", ""); !errors.Is(err, outgoing.ErrTooLarge) {
		t.Error(err)
	}
}

func TestErrorsOfOtherServers(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	for _, test := range []struct {
		status       int
		body         string
		wantStatus   int
		wantCode     string
		unrecognized bool
	}{
		{403, `{"errcode":"M_FORBIDDEN","error":"no"}`, 403, "M_FORBIDDEN", false},
		{404, `{"errcode":"M_NOT_FOUND","error":"no"}`, 404, "M_NOT_FOUND", false},
		{404, `{"errcode":"M_UNRECOGNIZED"}`, 404, "M_UNRECOGNIZED", true},
		{400, `{"errcode":"M_UNRECOGNIZED"}`, 400, "M_UNRECOGNIZED", true},
		{404, `<html>`, 404, "M_UNRECOGNIZED", true},
		{405, ``, 405, "M_UNRECOGNIZED", true},
		{400, `[]`, 400, "M_UNKNOWN", false},
		{500, `{"errcode":"M_UNKNOWN"}`, 500, "M_UNKNOWN", false},
		// That a login is not valid is not for another server to say.
		{401, `{"errcode":"M_UNKNOWN_TOKEN","soft_logout":true}`, 502, "M_UNKNOWN", false},
		{401, `{"errcode":"M_UNAUTHORIZED"}`, 502, "M_UNAUTHORIZED", false},
		{302, `{}`, 502, "M_UNKNOWN", false},
	} {
		b.handle["GET /_matrix/federation/v1/query/profile"] = func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", "https://c.example/")
			rw.WriteHeader(test.status)
			io.WriteString(rw, test.body)
		}
		_, err := a.QueryProfile(t.Context(), "b.example", "@u:b.example", "")
		e, ok := errors.AsType[*errcode.Error](err)
		if !ok || e.Status != test.wantStatus || e.Code != test.wantCode || e.Extra["soft_logout"] != nil || unrecognized(err) != test.unrecognized {
			t.Errorf("%d %s became %v", test.status, test.body, err)
		}
		if r, ok := errors.AsType[*Error](err); !ok || r.Server != "b.example" || r.Status != test.status {
			t.Errorf("%d %s became %v", test.status, test.body, err)
		}
	}
}

// What is wrong with an event that this server has made is not what is wrong with a client's request.
func TestClientsAreNotBlamedForWhatTheirServerMakes(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	p := eventBy(t, "11", "a.example", "ed25519:1", a.key, 1)
	ctx := t.Context()
	handIn := map[string]func() error{
		"PUT /_matrix/federation/v2/send_join/": func() error {
			_, err := a.SendJoin(ctx, "b.example", p, false, nil)
			return err
		},
		"PUT /_matrix/federation/v1/send_knock/": func() error { _, err := a.SendKnock(ctx, "b.example", p); return err },
		"PUT /_matrix/federation/v2/send_leave/": func() error { return a.SendLeave(ctx, "b.example", p) },
		"PUT /_matrix/federation/v2/invite/":     func() error { _, err := a.SendInvite(ctx, "b.example", p, nil); return err },
	}
	for code, status := range map[string]int{"M_INVALID_PARAM": 502, "M_MISSING_PARAM": 502, "M_FORBIDDEN": 400, "M_INCOMPATIBLE_ROOM_VERSION": 400} {
		refuse := func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(400)
			io.WriteString(rw, `{"errcode":"`+code+`","error":"because"}`)
		}
		for endpoint, call := range handIn {
			b.handle[endpoint+string(p.Room)+"/"+string(p.ID)] = refuse
			e, ok := errors.AsType[*errcode.Error](ForClient(call()))
			if !ok || e.Status != status || !strings.Contains(e.Message, "because") {
				t.Errorf("%s answers %s: a client is told %v", endpoint, code, e)
			}
		}
		// It is the client who says where a list goes on.
		b.handle["GET /_matrix/federation/v1/publicRooms"] = refuse
		_, err := a.GetPublicRooms(ctx, "b.example", PublicRoomsQuery{Since: "nowhere"})
		if e, ok := errors.AsType[*errcode.Error](ForClient(err)); !ok || e.Status != 400 || e.Code != code {
			t.Errorf("public rooms: %s became %v", code, e)
		}
	}
}

func TestQueries(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	bodies := map[string]string{}
	serve := func(endpoint, body string) {
		b.handle[endpoint] = func(rw http.ResponseWriter, r *http.Request) {
			bodies[endpoint] = r.Header.Get("Test-Body")
			io.WriteString(rw, body)
		}
	}
	const fed = " /_matrix/federation/v1/"
	serve("GET"+fed+"query/directory", `{"room_id":"!r","servers":["b.example","bad name"]}`)
	serve("GET"+fed+"publicRooms", `{"chunk":[{"room_id":"!r"}],"next_batch":"n"}`)
	serve("POST"+fed+"publicRooms", `{"chunk":[],"total_room_count_estimate":7}`)
	serve("POST"+fed+"user/keys/query", `{"device_keys":{"@u:b.example":{"D":{}}},"master_keys":{}}`)
	serve("POST"+fed+"user/keys/claim", `{"one_time_keys":{"@u:b.example":{"D":{"signed_curve25519:1":{}}}}}`)
	serve("GET"+fed+"hierarchy/!r", `{"room":{"room_id":"!r"},"children":[{}],"inaccessible_children":["!x"]}`)
	serve("GET /_matrix/federation/unstable/rooms/!r/complexity", `{"v1":1.5}`)
	serve("POST /_matrix/policy/v1/sign", `{"b.example":{"ed25519:policy_server":"sig"}}`)
	ctx := t.Context()
	if r, servers, err := a.QueryDirectory(ctx, "b.example", "#x:b.example"); err != nil || r != "!r" || len(servers) != 1 {
		t.Error(r, servers, err)
	}
	if p, err := a.GetPublicRooms(ctx, "b.example", PublicRoomsQuery{Limit: 5, Since: "s"}); err != nil || len(p.Chunk) != 1 || p.NextBatch != "n" {
		t.Error(p, err)
	}
	if p, err := a.GetPublicRooms(ctx, "b.example", PublicRoomsQuery{Limit: 5, Filter: jsontext.Value(`{"generic_search_term":"x"}`)}); err != nil || *p.Total != 7 {
		t.Error(p, err)
	}
	if k, err := a.QueryKeys(ctx, "b.example", map[id.User][]id.Device{"@u:b.example": {}}); err != nil || len(k.DeviceKeys["@u:b.example"]) != 1 {
		t.Error(k, err)
	}
	if k, err := a.ClaimKeys(ctx, "b.example", map[id.User]map[id.Device]string{"@u:b.example": {"D": "signed_curve25519"}}); err != nil || len(k["@u:b.example"]) != 1 {
		t.Error(k, err)
	}
	if h, err := a.GetHierarchy(ctx, "b.example", "!r", true); err != nil || len(h.Children) != 1 || len(h.Inaccessible) != 1 {
		t.Error(h, err)
	}
	if v, err := a.GetRoomComplexity(ctx, "b.example", "!r"); err != nil || v != 1.5 {
		t.Error(v, err)
	}
	if s, err := a.SignByPolicyServer(ctx, "b.example", eventBy(t, "11", "a.example", "ed25519:1", a.key, 1)); err != nil || s["b.example"]["ed25519:policy_server"] != "sig" {
		t.Error(s, err)
	}
	for endpoint, want := range map[string]string{
		"POST" + fed + "publicRooms":     `{"limit":5,"filter":{"generic_search_term":"x"}}`,
		"POST" + fed + "user/keys/query": `{"device_keys":{"@u:b.example":[]}}`,
		"POST" + fed + "user/keys/claim": `{"one_time_keys":{"@u:b.example":{"D":"signed_curve25519"}}}`,
	} {
		if bodies[endpoint] != want {
			t.Errorf("%s with %s", endpoint, bodies[endpoint])
		}
	}
	if got := b.requests()[1]; got != "GET /_matrix/federation/v1/publicRooms?limit=5&since=s" {
		t.Error(got)
	}
}

func TestMedia(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("a.example"), w.peer("b.example")
	old := w.peer("old.example")
	parts := func(second string) http.HandlerFunc {
		return func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", `multipart/mixed; boundary="x y"`)
			io.WriteString(rw, "--x y\r\nContent-Type: application/json\r\n\r\n{}\r\n--x y\r\n"+second+"\r\n--x y--\r\n")
		}
	}
	b.handle["GET /_matrix/federation/v1/media/download/m1"] = parts("Content-Type: text/plain\r\nContent-Disposition: inline\r\n\r\nhello")
	b.handle["GET /_matrix/federation/v1/media/thumbnail/m1"] = parts("Content-Type: image/png\r\n\r\npicture")
	b.handle["GET /_matrix/federation/v1/media/download/m2"] = parts("Location: https://cdn.example/file?x=y\r\n\r\n")
	b.handle["GET /_matrix/federation/v1/media/download/m3"] = parts("Location: http://cdn.example/file\r\n\r\n")
	b.handle["GET /_matrix/federation/v1/media/download/m4"] = answer("hello")
	w.serve("cdn.example:443", "cdn.example", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery != "x=y" || r.Header.Get("Authorization") != "" {
			rw.WriteHeader(403)
		}
		rw.Header().Set("Content-Type", "image/gif")
		io.WriteString(rw, "elsewhere")
	})
	delete(w.places, "old.example:8448")
	w.serve("old.example:8448", "old.example", func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_matrix/media/v3/download/old.example/m1" || r.Header.Get("Authorization") != "" || r.URL.Query().Get("allow_remote") != "false" {
			old.ServeHTTP(rw, r)
			return
		}
		rw.Header().Set("Content-Type", "text/css")
		io.WriteString(rw, "old")
	})
	w.serve("plain.example:8448", "plain.example", func(rw http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/_matrix/federation/v1/media/download/m1":
			http.Error(rw, "what?", http.StatusBadRequest)
		case "/_matrix/federation/v1/media/download/m2":
			refuse(rw, errcode.InvalidParam("no such name"))
		default:
			io.WriteString(rw, "plain")
		}
	})
	for _, test := range []struct {
		from            id.Server
		file            string
		thumbnail       bool
		kind, body      string
		wantUnreachable bool
		wantError       bool
	}{
		{from: "b.example", file: "m1", kind: "text/plain", body: "hello"},
		{from: "b.example", file: "m1", thumbnail: true, kind: "image/png", body: "picture"},
		{from: "b.example", file: "m2", kind: "image/gif", body: "elsewhere"},
		{from: "b.example", file: "m3", wantError: true},
		{from: "b.example", file: "m4", wantError: true},
		{from: "b.example", file: "none", wantError: true},
		{from: "old.example", file: "m1", kind: "text/css", body: "old"},
		{from: "plain.example", file: "m1", kind: "text/plain; charset=utf-8", body: "plain"},
		{from: "plain.example", file: "m2", wantError: true},
	} {
		f, err := a.MediaDownload(t.Context(), test.from, test.file, time.Second)
		if test.thumbnail {
			f, err = a.MediaThumbnail(t.Context(), test.from, test.file, Thumbnail{Width: 64, Height: 64, Method: "crop"}, time.Second)
		}
		if (err != nil) != test.wantError {
			t.Errorf("%s: %v", test.file, err)
		}
		if err != nil {
			continue
		}
		body, err := io.ReadAll(f.Body)
		f.Body.Close()
		if err != nil || string(body) != test.body || f.ContentType != test.kind {
			t.Errorf("%s: %s %q, %v", test.file, f.ContentType, body, err)
		}
	}
}

func FuzzJoinAnswer(f *testing.F) {
	f.Add([]byte(`{"state":[{"a":1}],"auth_chain":[],"event":{},"origin":"a","members_omitted":true,"servers_in_room":["a"]}`), false)
	f.Add([]byte(`[200,{"state":null}]`), true)
	f.Fuzz(func(t *testing.T, body []byte, wrapped bool) {
		s := newStateReader(strings.NewReader(string(body)))
		_, err := s.joinAnswer(wrapped, func(_ room.StatePart, raw jsontext.Value) error {
			if !raw.IsValid(jsontext.AllowDuplicateNames(true)) {
				return fmt.Errorf("%q is not valid", raw)
			}
			return nil
		})
		err = s.failure("a.example", err)
		if s.mine != nil {
			t.Error(err)
		}
	})
}
