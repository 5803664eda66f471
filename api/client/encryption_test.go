package client

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/account"
	"hearth/api/httpx"
	"hearth/e2ee"
	"hearth/ephemeral"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

// people is a server where access tokens are the localparts of users, each with a device of that name.
type people struct {
	t      *testing.T
	store  *store.Store
	api    *API
	router *httpx.Router
}

func newPeople(t *testing.T) people {
	t.Helper()
	hub := stream.NewHub(0)
	s := storetest.Open(t, hub.Publish)
	p := people{t: t, store: s}
	accounts := account.New(s, account.Options{ServerName: storetest.Server, Passwords: account.Passwords{MemoryKiB: 8}})
	hash, err := accounts.HashPassword(t.Context(), "secret")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alice", "bob", "charlie"} {
		err := s.Update(t.Context(), func(tx *store.Tx) error {
			u := id.MakeUser(name, storetest.Server)
			if _, err := tx.Users.Insert(store.User{Name: u, PasswordHash: hash}); err != nil {
				return err
			}
			_, err := tx.Devices.Insert(u, store.Device{ID: id.Device(name)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.api = &API{
		Rooms: room.New(s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32)),
			Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }}),
		Accounts: accounts,
		E2EE:     e2ee.New(s, storetest.Server, e2ee.Remote{}),
		Receipts: ephemeral.NewReceipts(s),
		Typing:   ephemeral.NewTyping(s, hub),
		Presence: ephemeral.NewPresence(s, hub, true),
	}
	p.router = &httpx.Router{Authenticate: func(_ context.Context, token string, _ *http.Request) (httpx.Caller, error) {
		name, guest := strings.CutPrefix(token, "guest-")
		return httpx.Caller{User: id.MakeUser(name, storetest.Server), Device: id.Device(name), Guest: guest}, nil
	}}
	a := p.api
	for _, chapter := range [][]httpx.Route{a.readReceipts(), a.typingNotifications(), a.presence(), a.sendToDeviceMessaging(), a.endToEndEncryption(), a.keyBackups()} {
		p.router.Mount(chapter...)
	}
	return p
}

// call sends a request as somebody and expects a status; the answer must hold each of the wanted texts.
func (p people) call(who string, status int, method, path, body string, want ...string) string {
	p.t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, "/_matrix/client/v3"+path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+who)
	p.router.ServeHTTP(w, r)
	answer := w.Body.String()
	if w.Code != status {
		p.t.Errorf("%s %s: status %d, want %d: %s", method, path, w.Code, status, answer)
	}
	for _, text := range want {
		if !strings.Contains(answer, text) {
			p.t.Errorf("%s %s: %s is not in %s", method, path, text, answer)
		}
	}
	return answer
}

// share makes a room with two members, and a message in it.
func (p people) share(creator, other id.User) (id.Room, id.Event) {
	p.t.Helper()
	r, err := p.api.Rooms.Create(p.t.Context(), room.Creation{Creator: creator, Preset: "public_chat"})
	if err == nil {
		err = p.api.Rooms.Join(p.t.Context(), room.Change{Room: r, Sender: other})
	}
	if err != nil {
		p.t.Fatal(err)
	}
	e, err := p.api.Rooms.Send(p.t.Context(), r, room.Proposal{Sender: creator, Type: "m.room.message", Content: jsontext.Value(`{"msgtype":"m.text","body":"hello"}`)})
	if err != nil {
		p.t.Fatal(err)
	}
	return r, e
}

func testKey(name string) (ed25519.PrivateKey, string) {
	seed := make([]byte, 32)
	copy(seed, name)
	k := ed25519.NewKeyFromSeed(seed)
	return k, signing.EncodeBase64(k.Public().(ed25519.PublicKey))
}

func signed(t *testing.T, object, user, keyID string, k ed25519.PrivateKey) string {
	t.Helper()
	b, err := signing.Sign([]byte(object), id.User(user), id.Key("ed25519:"+keyID), k)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// identity is what a device uploads as device_keys.
func identity(t *testing.T, name string) string {
	k, public := testKey(name)
	user := "@" + name + ":localhost"
	return signed(t, fmt.Sprintf(`{"user_id":%q,"device_id":%q,"algorithms":["m.olm.v1.curve25519-aes-sha2"],"keys":{"ed25519:%s":%q,"curve25519:%[2]s":%[4]q}}`,
		user, name, name, public), user, name, k)
}

func TestKeysAPI(t *testing.T) {
	p := newPeople(t)
	k, public := testKey("alice")
	oneTime := signed(t, fmt.Sprintf(`{"key":%q}`, public), "@alice:localhost", "alice", k)
	p.call("alice", 200, "POST", "/keys/upload", `{}`, `{"one_time_key_counts":{}}`)
	p.call("alice", 200, "POST", "/keys/upload", `{"device_keys":`+identity(t, "alice")+`,"one_time_keys":{"signed_curve25519:A":`+oneTime+`}}`, `{"one_time_key_counts":{"signed_curve25519":1}}`)
	p.call("guest-bob", 200, "POST", "/keys/upload/bob", `{"device_keys":`+identity(t, "bob")+`}`)
	p.call("bob", 400, "POST", "/keys/upload", `{"device_keys":`+identity(t, "alice")+`}`, "M_BAD_JSON")
	p.call("bob", 400, "POST", "/keys/upload", `{"device_keys":{"user_id":"@bob:localhost","device_id":"bob"}}`, "M_BAD_JSON")
	p.call("bob", 400, "POST", "/keys/upload", `{"one_time_keys":5}`, "M_BAD_JSON")

	p.call("bob", 200, "POST", "/keys/query", `{"device_keys":{"@alice:localhost":[],"@charlie:localhost":[]}}`, `"@alice:localhost":{"alice":{`, `"@charlie:localhost":{}`, `"failures":{}`)
	p.call("bob", 200, "POST", "/keys/query", `{"timeout":100,"device_keys":{"@dora:remote":["D"]}}`, `"failures":{"remote":{`)
	p.call("bob", 400, "POST", "/keys/query", `{"device_keys":{"@alice:localhost":{"alice":true}}}`, "M_BAD_JSON")
	p.call("bob", 400, "POST", "/keys/query", `{"device_keys":{"alice":[]}}`, "M_INVALID_PARAM")
	p.call("bob", 400, "POST", "/keys/query", `{}`, "M_MISSING_PARAM")

	p.call("bob", 400, "POST", "/keys/claim", `{}`, "M_MISSING_PARAM")
	const claim = `{"one_time_keys":{"@alice:localhost":{"alice":"signed_curve25519"}}}`
	p.call("bob", 200, "POST", "/keys/claim", claim, `{"@alice:localhost":{"alice":{"signed_curve25519:A":{"key":`)
	p.call("bob", 200, "POST", "/keys/claim", claim, `{"one_time_keys":{},"failures":{}}`)
}

func TestKeysChangesAPI(t *testing.T) {
	p := newPeople(t)
	p.share("@alice:localhost", "@bob:localhost")
	token := func() string {
		var at int64
		err := p.store.View(t.Context(), func(tx *store.Tx) (err error) {
			at, err = tx.ReadPosition()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return stream.Position{Durable: at, Volatile: 7}.String()
	}
	from := token()
	p.call("alice", 200, "POST", "/keys/upload", `{"device_keys":`+identity(t, "alice")+`}`)
	p.call("bob", 200, "GET", "/keys/changes?from="+from+"&to="+token(), "", `{"changed":["@alice:localhost"],"left":[]}`)
	p.call("bob", 200, "GET", "/keys/changes?from="+token()+"&to="+token(), "", `{"changed":[],"left":[]}`)
	p.call("charlie", 200, "GET", "/keys/changes?from="+from+"&to="+token(), "", `{"changed":[],"left":[]}`)
	p.call("bob", 400, "GET", "/keys/changes?from="+from, "", "M_MISSING_PARAM")
	p.call("bob", 400, "GET", "/keys/changes?from=x&to="+from, "", "M_INVALID_PARAM")
}

func TestCrossSigningAPI(t *testing.T) {
	p := newPeople(t)
	master := func(name string) (ed25519.PrivateKey, string, string) {
		k, public := testKey(name)
		return k, public, fmt.Sprintf(`{"user_id":"@alice:localhost","usage":["master"],"keys":{"ed25519:%s":%[1]q}}`, public)
	}
	_, _, first := master("m1")
	k, public, second := master("m2")
	const upload = "/keys/device_signing/upload"
	p.call("guest-alice", 403, "POST", upload, `{"master_key":`+first+`}`, "M_GUEST_ACCESS_FORBIDDEN")
	for range 2 {
		p.call("alice", 200, "POST", upload, `{"master_key":`+first+`}`, `{}`)
	}
	var challenge struct {
		Session string `json:"session"`
	}
	answer := p.call("alice", 401, "POST", upload, `{"master_key":`+second+`}`, `"flows":[{"stages":["m.login.password"]}]`)
	if err := json.Unmarshal([]byte(answer), &challenge); err != nil {
		t.Fatal(err)
	}
	auth := fmt.Sprintf(`{"auth":{"type":"m.login.password","password":"secret","session":%q},"master_key":`, challenge.Session)
	p.call("alice", 403, "POST", upload, auth+first[:len(first)-1]+`,"more":1}}`, "M_FORBIDDEN")
	p.call("alice", 200, "POST", upload, auth+second+`}`, `{}`)
	p.call("bob", 200, "POST", "/keys/query", `{"device_keys":{"@alice:localhost":[]}}`, `"master_keys":{"@alice:localhost":{"keys":{"ed25519:`+public)
	p.call("alice", 400, "POST", upload, `{"self_signing_key":{"user_id":"@alice:localhost","usage":["self_signing"],"keys":{"ed25519:x":"x"}}}`, "M_INVALID_PARAM")

	p.call("alice", 200, "POST", "/keys/upload", `{"device_keys":`+identity(t, "alice")+`}`)
	device, _ := testKey("alice")
	good := signed(t, second, "@alice:localhost", "alice", device)
	p.call("alice", 200, "POST", "/keys/signatures/upload", fmt.Sprintf(`{"@alice:localhost":{%q:%s}}`, public, good), `{"failures":{}}`)
	bad := signed(t, second, "@alice:localhost", "alice", k)
	p.call("alice", 200, "POST", "/keys/signatures/upload", fmt.Sprintf(`{"@alice:localhost":{%q:%s}}`, public, bad),
		fmt.Sprintf(`{"failures":{"@alice:localhost":{%q:{"errcode":"M_INVALID_SIGNATURE","error":`, public))
	p.call("alice", 400, "POST", "/keys/signatures/upload", `{"@alice:localhost":5}`, "M_BAD_JSON")
}

func TestKeyBackupAPI(t *testing.T) {
	p := newPeople(t)
	const version = "/room_keys/version"
	p.call("alice", 404, "GET", version, "", "M_NOT_FOUND")
	p.call("alice", 400, "POST", version, `{"algorithm":"a"}`, "M_MISSING_PARAM")
	p.call("alice", 200, "POST", version, `{"algorithm":"m.megolm_backup.v1","auth_data":{"foo":"bar"}}`, `{"version":"1"}`)
	p.call("alice", 200, "GET", version, "", `{"algorithm":"m.megolm_backup.v1","auth_data":{"foo":"bar"},"count":0,"etag":"0","version":"1"}`)
	p.call("alice", 400, "PUT", version+"/1", `{"version":"2","algorithm":"m.megolm_backup.v1","auth_data":{}}`, "M_INVALID_PARAM")
	p.call("alice", 200, "PUT", version+"/1", `{"version":"1","algorithm":"m.megolm_backup.v1","auth_data":{"x":1}}`, `{}`)
	p.call("alice", 200, "GET", version+"/1", "", `"auth_data":{"x":1}`)
	p.call("bob", 404, "GET", version+"/1", "", "M_NOT_FOUND")

	const keys, room = "/room_keys/keys", "/room_keys/keys/%21a%3Ax"
	const key = `{"first_message_index":1,"forwarded_count":0,"is_verified":true,"session_data":{"c":"d"}}`
	p.call("alice", 400, "PUT", keys, `{"rooms":{}}`, "M_MISSING_PARAM")
	p.call("alice", 400, "PUT", keys+"?version=1", `{}`, "M_MISSING_PARAM")
	p.call("alice", 400, "PUT", keys+"?version=1", `{"rooms":{"a":{"sessions":{}}}}`, "M_INVALID_PARAM")
	p.call("alice", 403, "PUT", keys+"?version=2", `{"rooms":{}}`, "M_WRONG_ROOM_KEYS_VERSION", `"current_version":"1"`)
	p.call("alice", 200, "PUT", keys+"?version=1", `{"rooms":{"!a:x":{"sessions":{"s":`+key+`}}}}`, `{"count":1,"etag":"1"}`)
	p.call("alice", 200, "PUT", room+"?version=1", `{"sessions":{"t":`+key+`}}`, `{"count":2,"etag":"2"}`)
	p.call("alice", 400, "PUT", room+"?version=1", `{}`, "M_BAD_JSON")
	p.call("alice", 200, "PUT", room+"/u?version=1", key, `{"count":3,"etag":"3"}`)
	p.call("alice", 400, "PUT", room+"/u?version=1", `{}`, "M_BAD_JSON")
	p.call("alice", 200, "GET", keys+"?version=1", "", `{"rooms":{"!a:x":{"sessions":{"s":`+key)
	p.call("alice", 200, "GET", room+"?version=1", "", `{"sessions":{"s":`+key)
	p.call("alice", 200, "GET", "/room_keys/keys/%21b%3Ax?version=1", "", `{"sessions":{}}`)
	p.call("alice", 200, "GET", room+"/t?version=1", "", key)
	p.call("alice", 404, "GET", room+"/none?version=1", "", "M_NOT_FOUND")
	p.call("alice", 404, "GET", room+"?version=9", "", "M_NOT_FOUND")
	p.call("alice", 400, "GET", room, "", "M_MISSING_PARAM")
	p.call("alice", 200, "DELETE", room+"/t?version=1", "", `{"count":2,"etag":"4"}`)
	p.call("alice", 200, "DELETE", room+"?version=1", "", `{"count":0,"etag":"5"}`)
	p.call("alice", 200, "DELETE", keys+"?version=1", "", `{"count":0,"etag":"5"}`)
	p.call("alice", 200, "GET", keys+"?version=1", "", `{"rooms":{}}`)
	for range 2 {
		p.call("alice", 200, "DELETE", version+"/1", "", `{}`)
	}
	p.call("alice", 404, "DELETE", version+"/7", "", "M_NOT_FOUND")
}

func TestSendToDeviceAPI(t *testing.T) {
	p := newPeople(t)
	for range 2 {
		p.call("alice", 200, "PUT", "/sendToDevice/m.test/1", `{"messages":{"@bob:localhost":{"*":{"a":1}},"@nobody:localhost":{"X":{}}}}`, `{}`)
	}
	p.call("alice", 400, "PUT", "/sendToDevice/m.test/2", `{}`, "M_MISSING_PARAM")
	p.call("alice", 400, "PUT", "/sendToDevice/m.test/3", `{"messages":{"bob":{"*":{}}}}`, "M_INVALID_PARAM")
	p.call("alice", 400, "PUT", "/sendToDevice/m.test/4", `{"messages":{"@bob:localhost":{"*":"text"}}}`, "M_BAD_JSON")
	var got []string
	err := p.store.View(t.Context(), func(tx *store.Tx) error {
		bob, _, err := tx.IDs.FindUser("@bob:localhost")
		if err != nil {
			return err
		}
		messages, err := tx.ToDevice.List(bob, "bob", 0, 1<<60, 10)
		for _, m := range messages {
			got = append(got, string(m.Event))
		}
		return err
	})
	if err != nil || len(got) != 1 || got[0] != `{"content":{"a":1},"sender":"@alice:localhost","type":"m.test"}` {
		t.Errorf("%v, %v", got, err)
	}
}

func TestReceiptsAPI(t *testing.T) {
	p := newPeople(t)
	r, e := p.share("@alice:localhost", "@bob:localhost")
	path := fmt.Sprintf("/rooms/%s/receipt/", r)
	for _, typ := range []string{"m.read", "m.read.private", "m.fully_read"} {
		p.call("bob", 200, "POST", path+typ+"/"+string(e), "", `{}`)
	}
	p.call("bob", 200, "POST", path+"m.read/"+string(e), `{"thread_id":"main"}`, `{}`)
	for _, thread := range []string{`""`, `5`, `null`, `{}`} {
		p.call("bob", 400, "POST", path+"m.read/"+string(e), `{"thread_id":`+thread+`}`, "M_INVALID_PARAM")
	}
	p.call("bob", 400, "POST", path+"m.fully_read/"+string(e), `{"thread_id":"main"}`, "M_INVALID_PARAM")
	p.call("bob", 400, "POST", path+"m.other/"+string(e), "", "M_INVALID_PARAM")
	p.call("bob", 400, "POST", path+"m.read/noevent", "", "M_INVALID_PARAM")
	p.call("bob", 404, "POST", path+"m.read/$none", "", "M_NOT_FOUND")
	p.call("charlie", 403, "POST", path+"m.read/"+string(e), "", "M_FORBIDDEN")
	markers := fmt.Sprintf("/rooms/%s/read_markers", r)
	p.call("alice", 200, "POST", markers, fmt.Sprintf(`{"m.fully_read":%q,"m.read":%[1]q,"m.read.private":%[1]q}`, e), `{}`)
	p.call("alice", 200, "POST", markers, `{}`, `{}`)
	p.call("alice", 400, "POST", markers, `{"m.read":"x"}`, "M_INVALID_PARAM")
	p.call("charlie", 403, "POST", markers, fmt.Sprintf(`{"m.fully_read":%q}`, e), "M_FORBIDDEN")
}

func TestTypingAPI(t *testing.T) {
	p := newPeople(t)
	r, _ := p.share("@alice:localhost", "@bob:localhost")
	path := fmt.Sprintf("/rooms/%s/typing/", r)
	p.call("alice", 200, "PUT", path+"@alice:localhost", `{"typing":true,"timeout":10000}`, `{}`)
	p.call("alice", 200, "PUT", path+"@alice:localhost", `{"typing":false}`, `{}`)
	p.call("alice", 403, "PUT", path+"@bob:localhost", `{"typing":true}`, "M_FORBIDDEN")
	p.call("charlie", 403, "PUT", path+"@charlie:localhost", `{"typing":true}`, "M_FORBIDDEN")
	p.call("alice", 400, "PUT", path+"@alice:localhost", `{}`, "M_MISSING_PARAM")
	p.call("alice", 400, "PUT", path+"@alice:localhost", `{"typing":1}`, "M_BAD_JSON")
	p.call("alice", 400, "PUT", path+"@alice:localhost", `{"typing":true,"timeout":-5}`, "M_INVALID_PARAM")
	p.call("alice", 200, "PUT", path+"@alice:localhost", `{"typing":true,"timeout":9007199254740991}`, `{}`)
}

func TestPresenceAPI(t *testing.T) {
	p := newPeople(t)
	p.share("@alice:localhost", "@bob:localhost")
	const path = "/presence/@alice:localhost/status"
	p.call("alice", 200, "GET", path, "", `{"presence":"offline"}`)
	p.call("alice", 200, "PUT", path, `{"presence":"online","status_msg":"Testing"}`, `{}`)
	p.call("bob", 200, "GET", path, "", `"presence":"online"`, `"currently_active":true`, `"status_msg":"Testing"`)
	p.call("alice", 200, "PUT", path, `{"presence":"unavailable","status_msg":null}`, `{}`)
	if answer := p.call("bob", 200, "GET", path, "", `"presence":"unavailable"`); strings.Contains(answer, "status_msg") {
		t.Errorf("the status message stays: %s", answer)
	}
	p.call("charlie", 403, "GET", path, "", "M_FORBIDDEN")
	p.call("bob", 403, "PUT", path, `{"presence":"offline"}`, "M_FORBIDDEN")
	p.call("alice", 400, "PUT", path, `{"presence":"away"}`, "M_INVALID_PARAM")
	p.call("alice", 400, "PUT", path, `{}`, "M_MISSING_PARAM")
	var v map[string]jsontext.Value
	if err := json.Unmarshal([]byte(p.call("alice", 413, "PUT", path, `{"presence":"online","status_msg":"`+strings.Repeat("x", 5000)+`"}`, "M_TOO_LARGE")), &v); err != nil {
		t.Error(err)
	}
}
