package federation_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/config"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/room"
	"hearth/test/server"
)

type object = server.Object

const prefix = "/_matrix/federation/v1/"

// pair is two servers, with alice on the first and bob on the second.
type pair struct {
	t          *testing.T
	here, away *server.Server
	alice, bob *server.Client
}

func newPair(t *testing.T, change ...func(*config.Config)) *pair {
	t.Helper()
	n := server.NewNetwork(t)
	p := &pair{t: t, here: n.Start(change...), away: n.Start()}
	p.alice, p.bob = p.here.Register("alice"), p.away.Register("bob")
	return p
}

// ask sends a request of the second server to the first.
func (p *pair) ask(method, path string, body any) (int, object) {
	p.t.Helper()
	return p.here.AskJSON(p.away, method, path, body)
}

func (p *pair) mustAsk(method, path string, body any) object {
	p.t.Helper()
	status, answer := p.ask(method, path, body)
	if status != 200 {
		p.t.Fatalf("%s %s: %d %v", method, path, status, answer)
	}
	return answer
}

func (p *pair) wantError(status int, code, method, path string, body any) {
	p.t.Helper()
	if got, answer := p.ask(method, path, body); got != status || answer["errcode"] != code {
		p.t.Errorf("%s %s: %d %v, want %d %s", method, path, got, answer, status, code)
	}
}

func (p *pair) createRoom(keys object) id.Room {
	p.t.Helper()
	return id.Room(p.alice.MustDo("POST", "/_matrix/client/v3/createRoom", keys)["room_id"].(string))
}

// bobJoins makes bob join a room of the first server, and waits until its members are known.
func (p *pair) bobJoins(name id.Room) {
	p.t.Helper()
	if err := p.away.Rooms.Join(p.t.Context(), room.Change{Room: name, Sender: id.User(p.bob.User), Via: []id.Server{p.here.Name()}}); err != nil {
		p.t.Fatal(err)
	}
	p.bob.MustDo("GET", "/_matrix/client/v3/rooms/"+url.PathEscape(string(name))+"/joined_members", nil)
}

func (p *pair) say(name id.Room, body string) string {
	p.t.Helper()
	return p.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+url.PathEscape(string(name))+"/send/m.room.message/"+url.PathEscape(body),
		object{"msgtype": "m.text", "body": body})["event_id"].(string)
}

func escaped[T ~string](s T) string { return url.PathEscape(string(s)) }

func TestRequestsMustBeSigned(t *testing.T) {
	p := newPair(t)
	for _, path := range []string{"query/directory?room_alias=%23a:b", "state/!r:x?event_id=$e", "make_join/!r:x/@u:y", "publicRooms"} {
		w := p.here.Raw(t.Context(), "GET", prefix+path, "", "")
		if w.Code != 401 || !strings.Contains(w.Body.String(), "M_") {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

func TestAJoinOverTheNetworkAndReads(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			p := newPair(t)
			name := p.createRoom(object{"preset": "public_chat", "room_version": version})
			p.bobJoins(name)
			said := p.say(name, "hello")
			in := escaped(name)

			got := p.mustAsk("GET", prefix+"event/"+escaped(said), nil)
			if pdus := got["pdus"].([]any); got["origin"] != string(p.here.Name()) || pdus[0].(object)["content"].(object)["body"] != "hello" {
				t.Errorf("%v", got)
			}
			state := p.mustAsk("GET", prefix+"state/"+in+"?event_id="+url.QueryEscape(said), nil)
			ids := p.mustAsk("GET", prefix+"state_ids/"+in+"?event_id="+url.QueryEscape(said), nil)
			if n := len(state["pdus"].([]any)); n == 0 || n != len(ids["pdu_ids"].([]any)) {
				t.Errorf("%d events, ids %v", n, ids)
			}
			if n := len(state["auth_chain"].([]any)); n == 0 || n != len(ids["auth_chain_ids"].([]any)) {
				t.Errorf("%d events in the auth chain, ids %v", n, ids)
			}
			if chain := p.mustAsk("GET", prefix+"event_auth/"+in+"/"+escaped(said), nil); len(chain["auth_chain"].([]any)) == 0 {
				t.Error("no auth chain")
			}
			if back := p.mustAsk("GET", prefix+"backfill/"+in+"?limit=3&v="+url.QueryEscape(said), nil); len(back["pdus"].([]any)) != 3 {
				t.Errorf("%v", back)
			}
			missing := p.mustAsk("POST", prefix+"get_missing_events/"+in, object{"earliest_events": []string{}, "latest_events": []string{said}, "limit": 2})
			if len(missing["events"].([]any)) != 2 {
				t.Errorf("%v", missing)
			}
			if near := p.mustAsk("GET", prefix+"timestamp_to_event/"+in+"?dir=b&ts=99999999999999", nil); near["event_id"] != said {
				t.Errorf("%v", near)
			}
			p.wantError(404, "M_NOT_FOUND", "GET", prefix+"timestamp_to_event/"+in+"?dir=f&ts=99999999999999", nil)
			p.wantError(400, "M_INVALID_PARAM", "GET", prefix+"timestamp_to_event/"+in+"?dir=x&ts=1", nil)
			p.wantError(400, "M_MISSING_PARAM", "GET", prefix+"state/"+in, nil)
			p.wantError(404, "M_NOT_FOUND", "GET", prefix+"state_ids/"+in+"?event_id=$nothing", nil)
			p.wantError(400, "M_MISSING_PARAM", "GET", prefix+"backfill/"+in+"?limit=3", nil)
			p.wantError(400, "M_MISSING_PARAM", "POST", prefix+"get_missing_events/"+in, object{})
		})
	}
}

func TestOldJoinAndLeave(t *testing.T) {
	p := newPair(t)
	name := p.createRoom(object{"preset": "public_chat", "room_version": "10"})
	made := p.mustAsk("GET", prefix+"make_join/"+escaped(name)+"/"+escaped(p.bob.User)+"?ver=10", nil)
	join := p.complete(made)
	status, answer := p.here.Ask(p.away, "PUT", prefix+"send_join/"+escaped(name)+"/"+escaped(join.ID), []byte(join.JSON))
	var parts []jsontext.Value
	if err := json.Unmarshal(answer, &parts); err != nil || status != 200 || len(parts) != 2 || string(parts[0]) != "200" {
		t.Fatalf("%d %s", status, answer)
	}
	made = p.mustAsk("GET", prefix+"make_leave/"+escaped(name)+"/"+escaped(p.bob.User), nil)
	leave := p.complete(made)
	status, answer = p.here.Ask(p.away, "PUT", prefix+"send_leave/"+escaped(name)+"/"+escaped(leave.ID), []byte(leave.JSON))
	if status != 200 || string(answer) != "[200,{}]" {
		t.Errorf("%d %s", status, answer)
	}
	p.wantError(400, "M_INCOMPATIBLE_ROOM_VERSION", "GET", prefix+"make_join/"+escaped(name)+"/"+escaped(p.bob.User), nil)
	p.wantError(400, "M_BAD_JSON", "PUT", "/_matrix/federation/v2/send_join/"+escaped(name)+"/$e", object{"type": 7})
}

// complete makes an event of a template, as the second server.
func (p *pair) complete(made object) *event.PDU {
	p.t.Helper()
	v, _ := roomversion.Get(made["room_version"].(string))
	e := made["event"].(object)
	content, err := json.Marshal(e["content"])
	if err != nil {
		p.t.Fatal(err)
	}
	key := e["state_key"].(string)
	proto := event.Proto{Room: id.Room(e["room_id"].(string)), Type: e["type"].(string), StateKey: &key, Sender: id.User(e["sender"].(string)),
		Content: content, Depth: int64(e["depth"].(float64)), OriginServerTS: int64(e["origin_server_ts"].(float64))}
	proto.PrevEvents, proto.AuthEvents = refs(e["prev_events"]), refs(e["auth_events"])
	if v.EventID == roomversion.EventIDField {
		proto.EventID = id.Event("$made:" + string(p.away.Name()))
	}
	return p.build(p.away, v, proto)
}

// refs reads a list of a template that names events; in room versions 1 and 2 each with its hash.
func refs(list any) (refs []event.Ref) {
	for _, ref := range list.([]any) {
		if pair, ok := ref.([]any); ok {
			ref = pair[0]
		}
		refs = append(refs, event.Ref{ID: id.Event(ref.(string))})
	}
	return refs
}

func (p *pair) build(by *server.Server, v *roomversion.Version, proto event.Proto) *event.PDU {
	p.t.Helper()
	signer, err := config.LoadSigningKey(by.Config.SigningKeyPath)
	if err != nil {
		p.t.Fatal(err)
	}
	pdu, err := event.Build(v, proto, by.Name(), signer.ID, signer.Private)
	if err != nil {
		p.t.Fatal(err)
	}
	return pdu
}

func TestAnInviteOverTheNetwork(t *testing.T) {
	p := newPair(t)
	invite := func(keys object) (string, object, *event.PDU) {
		v, _ := roomversion.Get("11")
		key := p.bob.User
		pdu := p.build(p.here, v, event.Proto{Room: "!r:elsewhere.example", Type: event.TypeMember, StateKey: &key, Sender: id.User(p.alice.User),
			Content: jsontext.Value(`{"membership":"invite"}`), OriginServerTS: 1, Depth: 1, PrevEvents: []event.Ref{{ID: "$p"}}})
		body := object{"room_version": "11", "event": jsontext.Value(pdu.JSON), "invite_room_state": []any{
			object{"type": "m.room.name", "state_key": "", "sender": p.alice.User, "content": object{"name": "Elsewhere"}}}}
		for k, value := range keys {
			body[k] = value
		}
		return "/_matrix/federation/v2/invite/!r:elsewhere.example/" + escaped(pdu.ID), body, pdu
	}
	path, body, pdu := invite(nil)
	status, answer := p.away.AskJSON(p.here, "PUT", path, body)
	if status != 200 || answer["event"].(object)["signatures"].(object)[string(p.away.Name())] == nil {
		t.Fatalf("%d %v", status, answer)
	}
	sync := p.bob.MustDo("GET", "/_matrix/client/v3/sync", nil)
	state := sync["rooms"].(object)["invite"].(object)["!r:elsewhere.example"].(object)["invite_state"].(object)["events"].([]any)
	if len(state) != 2 || state[0].(object)["content"].(object)["name"] != "Elsewhere" || state[1].(object)["state_key"] != p.bob.User {
		t.Errorf("%v", state)
	}
	path, body, _ = invite(object{"room_version": "99"})
	if status, answer := p.away.AskJSON(p.here, "PUT", path, body); status != 400 || answer["errcode"] != "M_INCOMPATIBLE_ROOM_VERSION" {
		t.Errorf("%d %v", status, answer)
	}
	path, body, _ = invite(nil)
	delete(body, "event")
	if status, answer := p.away.AskJSON(p.here, "PUT", path, body); status != 400 || answer["errcode"] != "M_MISSING_PARAM" {
		t.Errorf("%d %v", status, answer)
	}
	// It is taken back by somebody in the room.
	v, _ := roomversion.Get("11")
	key := p.bob.User
	end := p.build(p.here, v, event.Proto{Room: "!r:elsewhere.example", Type: event.TypeMember, StateKey: &key, Sender: id.User(p.alice.User),
		Content: jsontext.Value(`{"membership":"leave"}`), OriginServerTS: 2, Depth: 2, PrevEvents: []event.Ref{pdu.Ref()}, AuthEvents: []event.Ref{pdu.Ref()}})
	status, answer = p.away.AskJSON(p.here, "PUT", prefix+"send/t1", transaction(p.here, end.JSON))
	if result, ok := answer["pdus"].(object)[string(end.ID)].(object); status != 200 || !ok || len(result) > 0 {
		t.Errorf("%d %v", status, answer)
	}
	sync = p.bob.MustDo("GET", "/_matrix/client/v3/sync?since="+url.QueryEscape(sync["next_batch"].(string)), nil)
	if sync["rooms"].(object)["leave"].(object)["!r:elsewhere.example"] == nil {
		t.Errorf("%v", sync)
	}
}

// Whoever knows a room's id could otherwise keep a whole server out of it.
func TestAnInviteOfAnotherVersionKeepsNobodyOut(t *testing.T) {
	for invited, version := range map[string]string{"1": "11", "6": "10", "11": "1"} {
		p := newPair(t)
		name := p.createRoom(object{"preset": "public_chat", "room_version": version})
		v, _ := roomversion.Get(invited)
		key := p.bob.User
		proto := event.Proto{Room: name, Type: event.TypeMember, StateKey: &key, Sender: id.User(p.alice.User),
			Content: jsontext.Value(`{"membership":"invite"}`), OriginServerTS: 1, Depth: 1, PrevEvents: []event.Ref{{ID: "$p:x"}}}
		if v.EventID == roomversion.EventIDField {
			proto.EventID = id.Event("$invite:" + string(p.here.Name()))
		}
		pdu := p.build(p.here, v, proto)
		status, answer := p.away.AskJSON(p.here, "PUT", "/_matrix/federation/v2/invite/"+escaped(name)+"/"+escaped(pdu.ID),
			object{"room_version": invited, "event": jsontext.Value(pdu.JSON), "invite_room_state": []any{}})
		if status != 200 {
			t.Fatalf("%d %v", status, answer)
		}
		p.bobJoins(name)
		sync := p.bob.MustDo("GET", "/_matrix/client/v3/sync", nil)
		if sync["rooms"].(object)["join"].(object)[string(name)] == nil {
			t.Errorf("%s: %v", version, sync["rooms"])
		}
	}
}

func transaction(from *server.Server, pdus ...[]byte) object {
	list := make([]any, len(pdus))
	for i, pdu := range pdus {
		list[i] = jsontext.Value(pdu)
	}
	return object{"origin": from.Name(), "origin_server_ts": 1, "pdus": list}
}

// message builds a message of bob on the newest event of a room.
func (p *pair) message(name id.Room, body string) *event.PDU {
	p.t.Helper()
	v, proto := p.proto(name, body)
	return p.build(p.away, v, proto)
}

func (p *pair) proto(name id.Room, body string) (*roomversion.Version, event.Proto) {
	p.t.Helper()
	made := p.mustAsk("GET", prefix+"make_leave/"+escaped(name)+"/"+escaped(p.bob.User), nil)
	leave := p.complete(made)
	e := made["event"].(object)
	proto := event.Proto{Room: name, Type: "m.room.message", Sender: id.User(p.bob.User), Depth: leave.Depth, OriginServerTS: leave.OriginServerTS,
		Content: jsontext.Value(fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body))}
	for _, prev := range leave.PrevEvents {
		proto.PrevEvents = append(proto.PrevEvents, event.Ref{ID: prev})
	}
	proto.AuthEvents = refs(e["auth_events"])
	return leave.Version, proto
}

// con#1711, syn 7543: one bad PDU drops none of the others.
func TestATransaction(t *testing.T) {
	p := newPair(t)
	name := p.createRoom(object{"preset": "public_chat", "room_version": "11"})
	p.bobJoins(name)
	one, two := p.message(name, "one"), p.message(name, "two")
	altered := []byte(strings.Replace(string(p.message(name, "three").JSON), string(p.bob.User), string(p.alice.User), 1))
	stranger := []byte(strings.Replace(string(one.JSON), string(name), "!unknown:elsewhere.example", 1))
	body := transaction(p.away, []byte(`{}`), []byte(`7`), one.JSON, altered, stranger, []byte(`{"room_id":"`+string(name)+`"}`), []byte(`{"room_id":7}`), two.JSON)
	body["edus"] = []any{object{"edu_type": "m.unheard_of", "content": object{}}, 7, object{}}
	answer := p.mustAsk("PUT", prefix+"send/txn1", body)
	results := answer["pdus"].(object)
	for _, pdu := range []*event.PDU{one, two} {
		if r, ok := results[string(pdu.ID)].(object); !ok || len(r) > 0 {
			t.Errorf("%s: %v", pdu.ID, results)
		}
	}
	if messages := p.bodies(name); strings.Join(messages, " ") != "one two" {
		t.Errorf("%v", messages)
	}
	// The same once more is the same answer, whatever else it says.
	again := p.mustAsk("PUT", prefix+"send/txn1", transaction(p.away, p.message(name, "four").JSON))
	if fmt.Sprint(again) != fmt.Sprint(answer) {
		t.Errorf("%v, want %v", again, answer)
	}
	if messages := p.bodies(name); len(messages) != 2 {
		t.Errorf("%v", messages)
	}
}

// Conduit and what came of it name a transaction by the hash of its PDUs and EDUs: one without
// events may come again by the same name, and is news.
func TestATransactionWithoutEventsIsNewsEachTime(t *testing.T) {
	p := newPair(t)
	name := p.createRoom(object{"preset": "public_chat", "room_version": "11"})
	p.bobJoins(name)
	for _, typing := range []bool{true, false, true} {
		p.mustAsk("PUT", prefix+fmt.Sprintf("send/hash-%t", typing), object{"origin": p.away.Name(), "origin_server_ts": 1, "edus": []any{
			object{"edu_type": "m.typing", "content": object{"room_id": name, "user_id": p.bob.User, "typing": typing}}}})
		sync := p.alice.MustDo("GET", "/_matrix/client/v3/sync", nil)
		events := sync["rooms"].(object)["join"].(object)[string(name)].(object)["ephemeral"].(object)["events"].([]any)
		if shown := strings.Contains(fmt.Sprint(events), p.bob.User); shown != typing {
			t.Errorf("bob types: %t, but alice sees %v", typing, events)
		}
	}
}

// CVE-2018-16515: an event had to be signed by anybody, not by its sender's server. Here
// bob's server sends what alice and a user of a third server are to have said.
func TestCVE_2018_16515_EventsInAnothersName(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		p := newPair(t)
		name := p.createRoom(object{"preset": "public_chat", "room_version": version})
		p.bobJoins(name)
		v, _ := roomversion.Get(version)
		var forged [][]byte
		for i, sender := range []id.User{id.User(p.alice.User), "@charlie:third.example"} {
			proto := event.Proto{Room: name, Type: "m.room.message", Sender: sender, Content: jsontext.Value(`{"body":"forged","msgtype":"m.text"}`), Depth: 9, OriginServerTS: 1,
				PrevEvents: []event.Ref{{ID: id.Event(p.say(name, fmt.Sprint(i)))}}}
			if v.EventID == roomversion.EventIDField {
				proto.EventID = id.Event(fmt.Sprintf("$%d:%s", i, p.away.Name()))
			}
			forged = append(forged, p.build(p.away, v, proto).JSON)
		}
		answer := p.mustAsk("PUT", prefix+"send/forged", transaction(p.away, forged...))
		results := answer["pdus"].(object)
		if len(results) != 2 {
			t.Errorf("%v", answer)
		}
		for event, result := range results {
			if text, _ := result.(object)["error"].(string); !strings.Contains(text, "not signed") {
				t.Errorf("%s: %v", event, result)
			}
		}
		if bodies := strings.Join(p.bodies(name), " "); bodies != "0 1" {
			t.Errorf("version %s: the room shows %s", version, bodies)
		}
	}
}

func (p *pair) bodies(name id.Room) (list []string) {
	p.t.Helper()
	page := p.alice.MustDo("GET", "/_matrix/client/v3/rooms/"+escaped(name)+"/messages?dir=f&limit=100&filter="+url.QueryEscape(`{"types":["m.room.message"]}`), nil)
	for _, e := range page["chunk"].([]any) {
		body, _ := e.(object)["content"].(object)["body"].(string)
		list = append(list, body)
	}
	return list
}

func TestLimitsOfTransactions(t *testing.T) {
	p := newPair(t)
	many := make([][]byte, 51)
	for i := range many {
		many[i] = []byte(`{}`)
	}
	p.wantError(400, "M_INVALID_PARAM", "PUT", prefix+"send/a", transaction(p.away, many...))
	edus := make([]any, 101)
	for i := range edus {
		edus[i] = object{}
	}
	body := transaction(p.away)
	body["edus"] = edus
	p.wantError(400, "M_INVALID_PARAM", "PUT", prefix+"send/b", body)
	p.wantError(400, "M_BAD_JSON", "PUT", prefix+"send/c", object{"pdus": "none"})
	deep := transaction(p.away, []byte(strings.Repeat(`{"a":`, 500)+`1`+strings.Repeat(`}`, 500)))
	p.mustAsk("PUT", prefix+"send/d", deep)
}

// spec: server-server-api#server-access-control-lists-acls
func TestACLsApplyToEachPDU(t *testing.T) {
	p := newPair(t)
	closed := p.createRoom(object{"preset": "public_chat", "room_version": "11"})
	open := p.createRoom(object{"preset": "public_chat", "room_version": "11"})
	p.bobJoins(closed)
	p.bobJoins(open)
	refused, taken := p.message(closed, "refused"), p.message(open, "taken")
	p.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+escaped(closed)+"/state/m.room.server_acl", object{"allow": []string{"*"}, "deny": []string{"127.0.0.1"}})
	results := p.mustAsk("PUT", prefix+"send/acl", transaction(p.away, refused.JSON, taken.JSON))["pdus"].(object)
	if r := results[string(refused.ID)].(object); r["error"] == nil {
		t.Errorf("%v", results)
	}
	if r := results[string(taken.ID)].(object); len(r) > 0 {
		t.Errorf("%v", results)
	}
	if got := p.bodies(closed); len(got) > 0 {
		t.Errorf("%v", got)
	}
	p.wantError(403, "M_FORBIDDEN", "GET", prefix+"make_join/"+escaped(closed)+"/"+escaped(p.bob.User)+"?ver=11", nil)
	p.wantError(403, "M_FORBIDDEN", "GET", prefix+"state/"+escaped(closed)+"?event_id="+url.QueryEscape(string(refused.PrevEvents[0])), nil)
}

func TestQueries(t *testing.T) {
	p := newPair(t, func(cfg *config.Config) { cfg.PublicRoomsToServers = true })
	name := p.createRoom(object{"preset": "public_chat", "room_version": "11", "room_alias_name": "hall", "name": "The hall", "visibility": "public"})
	p.bobJoins(name)
	alias := "#hall:" + string(p.here.Name())
	found := p.mustAsk("GET", prefix+"query/directory?room_alias="+url.QueryEscape(alias), nil)
	if found["room_id"] != string(name) || fmt.Sprint(found["servers"]) != fmt.Sprint([]any{string(p.here.Name()), string(p.away.Name())}) {
		t.Errorf("%v", found)
	}
	p.wantError(404, "M_NOT_FOUND", "GET", prefix+"query/directory?room_alias="+url.QueryEscape("#none:"+string(p.here.Name())), nil)
	p.wantError(404, "M_NOT_FOUND", "GET", prefix+"query/directory?room_alias="+url.QueryEscape("#hall:elsewhere.example"), nil)
	p.wantError(400, "M_INVALID_PARAM", "GET", prefix+"query/directory?room_alias=hall", nil)

	p.alice.MustDo("PUT", "/_matrix/client/v3/profile/"+escaped(p.alice.User)+"/displayname", object{"displayname": "Alice"})
	if got := p.mustAsk("GET", prefix+"query/profile?user_id="+url.QueryEscape(p.alice.User), nil); got["displayname"] != "Alice" {
		t.Errorf("%v", got)
	}
	if got := p.mustAsk("GET", prefix+"query/profile?field=displayname&user_id="+url.QueryEscape(p.alice.User), nil); len(got) != 1 {
		t.Errorf("%v", got)
	}
	p.wantError(404, "M_NOT_FOUND", "GET", prefix+"query/profile?user_id="+url.QueryEscape("@nobody:"+string(p.here.Name())), nil)
	p.wantError(400, "M_INVALID_PARAM", "GET", prefix+"query/profile?user_id="+url.QueryEscape(p.bob.User), nil)
	p.wantError(404, "M_UNRECOGNIZED", "GET", prefix+"query/weather", nil)

	for _, list := range []object{p.mustAsk("GET", prefix+"publicRooms?limit=5", nil), p.mustAsk("POST", prefix+"publicRooms", object{"filter": object{"generic_search_term": "hall"}})} {
		if chunk := list["chunk"].([]any); len(chunk) != 1 || chunk[0].(object)["room_id"] != string(name) {
			t.Errorf("%v", list)
		}
	}
	if got := p.mustAsk("GET", "/_matrix/federation/unstable/rooms/"+escaped(name)+"/complexity", nil); got["v1"].(float64) <= 0 {
		t.Errorf("%v", got)
	}
	token := p.alice.MustDo("POST", "/_matrix/client/v3/user/"+escaped(p.alice.User)+"/openid/request_token", object{})["access_token"].(string)
	if got := p.mustAsk("GET", prefix+"openid/userinfo?access_token="+token, nil); got["sub"] != p.alice.User {
		t.Errorf("%v", got)
	}
	p.wantError(401, "M_UNKNOWN_TOKEN", "GET", prefix+"openid/userinfo?access_token=x", nil)
	p.wantError(401, "M_MISSING_TOKEN", "GET", prefix+"openid/userinfo", nil)
}

func TestThePublicListIsHiddenUnlessConfigured(t *testing.T) {
	p := newPair(t, func(cfg *config.Config) { cfg.ProfilesToServers = false })
	p.wantError(403, "M_FORBIDDEN", "GET", prefix+"publicRooms", nil)
	p.wantError(403, "M_FORBIDDEN", "GET", prefix+"query/profile?user_id="+url.QueryEscape(p.alice.User), nil)
}

func TestSpacesOfOtherServers(t *testing.T) {
	p := newPair(t)
	open := p.createRoom(object{"preset": "public_chat", "name": "open"})
	closed := p.createRoom(object{"preset": "private_chat", "name": "closed"})
	restricted := p.createRoom(object{"preset": "private_chat", "name": "restricted", "initial_state": []any{object{"type": "m.room.join_rules", "content": object{
		"join_rule": "restricted", "allow": []any{object{"type": "m.room_membership", "room_id": open}}}}}})
	space := p.createRoom(object{"preset": "public_chat", "creation_content": object{"type": "m.space"}})
	for _, child := range []id.Room{open, closed, restricted, "!unknown:elsewhere.example"} {
		p.alice.MustDo("PUT", "/_matrix/client/v3/rooms/"+escaped(space)+"/state/m.space.child/"+escaped(child), object{"via": []any{p.here.Name()}})
	}
	seen := func() (children, inaccessible []any) {
		got := p.mustAsk("GET", prefix+"hierarchy/"+escaped(space), nil)
		if got["room"].(object)["room_type"] != "m.space" || len(got["room"].(object)["children_state"].([]any)) != 4 {
			t.Errorf("%v", got["room"])
		}
		for _, c := range got["children"].([]any) {
			children = append(children, c.(object)["name"])
		}
		return children, got["inaccessible_children"].([]any)
	}
	if children, inaccessible := seen(); fmt.Sprint(children) != "[open]" || len(inaccessible) != 2 {
		t.Errorf("%v %v", children, inaccessible)
	}
	p.bobJoins(open)
	if children, inaccessible := seen(); len(children) != 2 || fmt.Sprint(inaccessible) != "["+string(closed)+"]" {
		t.Errorf("%v %v", children, inaccessible)
	}
	p.wantError(404, "M_NOT_FOUND", "GET", prefix+"hierarchy/"+escaped(closed), nil)
	p.wantError(404, "M_NOT_FOUND", "GET", "/_matrix/federation/unstable/rooms/"+escaped(closed)+"/complexity", nil)
}

func TestFilesForOtherServers(t *testing.T) {
	p := newPair(t)
	uri := p.here.Raw(t.Context(), "POST", "/_matrix/media/v3/upload?filename=note.txt", p.alice.Token, "some text")
	var uploaded struct {
		URI string `json:"content_uri"`
	}
	if err := json.Unmarshal(uri.Body.Bytes(), &uploaded); err != nil {
		t.Fatal(err)
	}
	mediaID := uploaded.URI[strings.LastIndexByte(uploaded.URI, '/')+1:]
	w := p.here.AskRaw(p.away, "GET", prefix+"media/download/"+mediaID)
	kind, parameters, err := mime.ParseMediaType(w.Header().Get("Content-Type"))
	if err != nil || w.Code != 200 || kind != "multipart/mixed" {
		t.Fatalf("%d %s %v", w.Code, w.Header().Get("Content-Type"), err)
	}
	// Synapse 1.163 takes the first header of the file for its type.
	file := w.Body.String()[strings.Index(w.Body.String(), "{}"):]
	if at := strings.Index(file, "Content-Type:"); at < 0 || at > strings.Index(file, "Content-Disposition:") {
		t.Errorf("the type is not the first that is said of the file: %q", file)
	}
	parts := multipart.NewReader(w.Body, parameters["boundary"])
	var bodies []string
	for {
		part, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(part)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, part.Header.Get("Content-Type")+" "+part.Header.Get("Content-Disposition")+" "+string(b))
	}
	if len(bodies) != 2 || bodies[0] != "application/json  {}" || !strings.Contains(bodies[1], "filename=note.txt some text") {
		t.Errorf("%q", bodies)
	}
	p.wantError(404, "M_NOT_FOUND", "GET", prefix+"media/download/nothing", nil)
	p.wantError(400, "M_MISSING_PARAM", "GET", prefix+"media/thumbnail/"+mediaID, nil)
	p.wantError(400, "M_INVALID_PARAM", "GET", prefix+"media/thumbnail/"+mediaID+"?width=1&height=1&method=stretch", nil)
}

// A message to a device is no matter of rooms: keys wait for no server that fills a gap slowly.
func TestMessagesToDevicesWaitForNoEvents(t *testing.T) {
	p := newPair(t)
	name := p.createRoom(object{"preset": "public_chat", "room_version": "11"})
	p.bobJoins(name)
	v, proto := p.proto(name, "after a gap")
	proto.PrevEvents = []event.Ref{{ID: id.Event("$" + strings.Repeat("x", 43))}}
	body := transaction(p.away, p.build(p.away, v, proto).JSON)
	body["edus"] = []any{object{"edu_type": "m.direct_to_device", "content": object{"sender": p.bob.User, "type": "m.room_key", "message_id": "1",
		"messages": object{p.alice.User: object{"*": object{"key": "value"}}}}}}
	meanwhile := make(chan object, 1)
	p.away.Around(func(w http.ResponseWriter, r *http.Request, server http.Handler) {
		if strings.Contains(r.URL.Path, "/get_missing_events/") {
			if _, sync := p.alice.Do("GET", "/_matrix/client/v3/sync", nil); len(meanwhile) == 0 {
				meanwhile <- sync
			}
		}
		server.ServeHTTP(w, r)
	})
	p.mustAsk("PUT", prefix+"send/txn1", body)
	sync := <-meanwhile
	if told, _ := sync["to_device"].(object); told == nil || len(told["events"].([]any)) != 1 {
		t.Errorf("while the server asked for the events that it lacks, alice was sent %v", told)
	}
}

// A server could use up what users of others may invite, here or elsewhere, or who is in a room.
func TestInvitesInAnothersNameUseUpNoLimit(t *testing.T) {
	few := config.Rate{PerSecond: 0.001, Burst: 3}
	p := newPair(t, func(c *config.Config) { c.RCInvites = config.RCInvites{PerRoom: few, PerUser: few, PerIssuer: few} })
	name := p.createRoom(object{"preset": "private_chat", "room_version": "11"})
	charlie := p.here.Register("charlie")
	for _, sender := range []string{p.alice.User, "@dora:third.example"} {
		for range 5 {
			p.wantError(400, "M_INVALID_PARAM", "PUT", "/_matrix/federation/v2/invite/"+escaped(name)+"/$x", object{"room_version": "11", "event": object{
				"type": "m.room.member", "sender": sender, "state_key": charlie.User, "room_id": name, "content": object{"membership": "invite"}}})
		}
	}
	status, answer := p.alice.Do("POST", "/_matrix/client/v3/rooms/"+escaped(name)+"/invite", object{"user_id": charlie.User})
	if status != 200 {
		t.Errorf("alice invites charlie: %d %v", status, answer)
	}

	// A room that many are invited to is held back by the servers in it, if at all.
	v, _ := roomversion.Get("11")
	for i := range 5 {
		user := p.here.Register(fmt.Sprint("user", i)).User
		pdu := p.build(p.away, v, event.Proto{Room: "!busy:elsewhere.example", Type: event.TypeMember, StateKey: &user,
			Sender: id.User(fmt.Sprintf("@bob%d:%s", i, p.away.Name())), Content: jsontext.Value(`{"membership":"invite"}`), OriginServerTS: 1, Depth: 1, PrevEvents: []event.Ref{{ID: "$p"}}})
		p.mustAsk("PUT", "/_matrix/federation/v2/invite/!busy:elsewhere.example/"+escaped(pdu.ID), object{"room_version": "11", "event": jsontext.Value(pdu.JSON)})
	}
}

// Clients show who invites by what goes with the invite.
// spec: client-server-api#stripped-state
func TestAnInviteTellsWhoInvites(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			p := newPair(t)
			p.alice.MustDo("PUT", "/_matrix/client/v3/profile/"+escaped(p.alice.User)+"/displayname", object{"displayname": "Alice of Here"})
			name := p.createRoom(object{"preset": "private_chat", "room_version": version, "invite": []any{p.bob.User}})
			sync := p.bob.MustDo("GET", "/_matrix/client/v3/sync", nil)
			events := sync["rooms"].(object)["invite"].(object)[string(name)].(object)["invite_state"].(object)["events"].([]any)
			if !slices.ContainsFunc(events, func(e any) bool {
				ev := e.(object)
				return ev["state_key"] == p.alice.User && ev["content"].(object)["displayname"] == "Alice of Here"
			}) {
				t.Errorf("%v", events)
			}
		})
	}
}

// Nobody needs to sign for keys. spec: server-server-api#retrieving-server-keys
func TestKeys(t *testing.T) {
	p := newPair(t)
	for _, test := range []struct {
		method, path string
		body         any
		want         []id.Server
	}{
		{"GET", "/_matrix/key/v2/query/" + string(p.away.Name()), nil, []id.Server{p.away.Name()}},
		{"GET", "/_matrix/key/v2/query/" + string(p.away.Name()) + "?minimum_valid_until_ts=1234567890", nil, []id.Server{p.away.Name()}},
		{"POST", "/_matrix/key/v2/query", object{"server_keys": object{string(p.away.Name()): object{}}}, []id.Server{p.away.Name()}},
		{"POST", "/_matrix/key/v2/query", object{"server_keys": object{string(p.here.Name()): object{"ed25519:x": object{"minimum_valid_until_ts": 0}}}}, []id.Server{p.here.Name()}},
		{"POST", "/_matrix/key/v2/query", object{"server_keys": object{"127.0.0.1:1": object{"ed25519:x": object{}}}}, nil},
	} {
		answer := p.mustAsk(test.method, test.path, test.body)
		documents, ok := answer["server_keys"].([]any)
		if !ok || len(documents) != len(test.want) {
			t.Fatalf("%s %s: %v", test.method, test.path, answer)
		}
		for i, d := range documents {
			doc := d.(object)
			signatures := doc["signatures"].(object)
			if doc["server_name"] != string(test.want[i]) || signatures[string(p.here.Name())] == nil || signatures[string(test.want[i])] == nil {
				t.Errorf("%s %s: %v", test.method, test.path, doc)
			}
		}
	}
	own := p.mustAsk("GET", "/_matrix/key/v2/server", nil)
	if former := p.mustAsk("GET", "/_matrix/key/v2/server/ed25519:x", nil); !reflect.DeepEqual(former["verify_keys"], own["verify_keys"]) {
		t.Errorf("asked as it was done formerly, it answers %v", former)
	}
	if keys := own["verify_keys"].(object); len(keys) != 1 || own["server_name"] != string(p.here.Name()) || own["valid_until_ts"] == nil {
		t.Errorf("own keys: %v", own)
	}
	p.wantError(400, "M_INVALID_PARAM", "GET", "/_matrix/key/v2/query/a%20b", nil)
	p.wantError(400, "M_MISSING_PARAM", "POST", "/_matrix/key/v2/query", object{})
}
