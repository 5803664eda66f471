//go:build interop

package interop_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

// together is a room that all have joined.
func together(t *testing.T, creator *user, others ...*user) string {
	t.Helper()
	room := creator.create(obj{"preset": "public_chat"})
	for _, o := range others {
		o.join(room, creator.server())
	}
	for _, u := range append(others, creator) {
		for _, o := range append(others, creator) {
			u.sees(room, o, "join")
		}
	}
	return room
}

func TestTypingReceiptsPresence(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := together(t, alice, bob)
		for _, u := range [][2]*user{{alice, bob}, {bob, alice}} {
			one, other := u[0], u[1]
			typing := p("/v3/rooms/%s/typing/%s", room, one.id)
			one.must("PUT", typing, obj{"typing": true, "timeout": 30000})
			other.until("typing", func() bool { return slices.Contains(other.room(room).Typing, any(one.id)) })
			one.must("PUT", typing, obj{"typing": false})
			other.until("the end of typing", func() bool { return len(other.room(room).Typing) == 0 })

			said := other.says(room, "read this")
			one.until("the message", func() bool {
				return slices.ContainsFunc(one.room(room).Timeline, func(e event) bool { return e.ID == said })
			})
			one.must("POST", p("/v3/rooms/%s/receipt/m.read/%s", room, said), obj{})
			other.until("the receipt", func() bool { return other.room(room).Receipts[one.id] == said })

			one.must("PUT", p("/v3/presence/%s/status", one.id), obj{"presence": "unavailable", "status_msg": "tea"})
			other.until("the presence", func() bool { return other.presence[one.id] == "unavailable" })
		}
	})
}

func TestProfiles(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := together(t, alice, bob)
		bob.must("PUT", p("/v3/profile/%s/displayname", bob.id), obj{"displayname": "Bob the Builder"})
		alice.until("the new name", func() bool {
			return alice.room(room).State[[2]string{"m.room.member", bob.id}].Content["displayname"] == "Bob the Builder"
		})
		if r := alice.must("GET", p("/v3/profile/%s", bob.id), nil); r["displayname"] != "Bob the Builder" {
			t.Errorf("bob's profile is %v", r)
		}
		status, r := alice.call("GET", p("/v3/profile/%s/displayname", "@nobody:"+bob.server()), nil)
		if status != 404 {
			t.Errorf("the profile of nobody: %d %v", status, r)
		}
	})
}

// spec: server-server-api#content-repository
func TestMedia(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		picture := image.NewRGBA(image.Rect(0, 0, 400, 300))
		for i := range 400 * 300 {
			picture.Set(i%400, i/400, color.RGBA{uint8(i), uint8(i >> 8), 77, 255})
		}
		var file bytes.Buffer
		if err := png.Encode(&file, picture); err != nil {
			t.Fatal(err)
		}
		status, _, reply := alice.raw("POST", "/_matrix/media/v3/upload?filename=tea%20%C3%BC.png", "image/png", file.Bytes())
		var uploaded struct {
			URI string `json:"content_uri"`
		}
		if err := json.Unmarshal(reply, &uploaded); err != nil || status != 200 {
			t.Fatalf("upload: %d %s: %v", status, reply, err)
		}
		media := strings.TrimPrefix(uploaded.URI, "mxc://")
		status, header, reply := bob.raw("GET", "/_matrix/client/v1/media/download/"+media, "", nil)
		if status != 200 || !bytes.Equal(reply, file.Bytes()) || header.Get("Content-Type") != "image/png" {
			t.Errorf("download: %d %d bytes %v", status, len(reply), header)
		}
		if d := header.Get("Content-Disposition"); !strings.Contains(d, "tea") {
			t.Errorf("the file is called %q", d)
		}
		status, header, reply = bob.raw("GET", "/_matrix/client/v1/media/thumbnail/"+media+"?width=96&height=96&method=crop", "", nil)
		thumbnail, _, err := image.DecodeConfig(bytes.NewReader(reply))
		if status != 200 || err != nil || thumbnail.Width != 96 || thumbnail.Height != 96 {
			t.Errorf("thumbnail: %d %v %v %v", status, header, thumbnail, err)
		}
		if status, _, reply := bob.raw("GET", "/_matrix/client/v1/media/download/"+alice.server()+"/nothing", "", nil); status != 404 {
			t.Errorf("a file that is not there: %d %s", status, reply)
		}
	})
}

// key looks like a key of a kind that nothing can be signed with.
func key(text string) string {
	return base64.RawStdEncoding.EncodeToString(fmt.Appendf(nil, "%32s", text))
}

// uploadKeys gives a user's device keys: one to be used once, one for ever.
func uploadKeys(u *user) {
	u.t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		u.t.Fatal(err)
	}
	signed := func(o obj) obj {
		content, err := json.Marshal(o, json.Deterministic(true))
		if err != nil {
			u.t.Fatal(err)
		}
		signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(private, content))
		o["signatures"] = obj{u.id: obj{"ed25519:" + u.device: signature}}
		return o
	}
	u.must("POST", "/v3/keys/upload", obj{
		"device_keys": signed(obj{
			"user_id": u.id, "device_id": u.device, "algorithms": []string{"m.olm.v1.curve25519-aes-sha2"},
			"keys": obj{
				"curve25519:" + u.device: key("curve"),
				"ed25519:" + u.device:    base64.RawStdEncoding.EncodeToString(public),
			},
		}),
		"one_time_keys": obj{"signed_curve25519:AAAA": signed(obj{"key": key("once")})},
		"fallback_keys": obj{"signed_curve25519:BBBB": signed(obj{"key": key("always"), "fallback": true})},
	})
}

// spec: server-server-api#end-to-end-encryption
func TestDeviceKeys(t *testing.T) {
	bothWays(t, func(t *testing.T, here, there string) {
		alice, bob := register(t, here, "alice"), register(t, there, "bob")
		room := together(t, alice, bob)
		alice.until("rest", func() bool { return true })
		delete(alice.changed, bob.id)
		uploadKeys(bob)
		alice.until("news of bob's devices", func() bool { return alice.changed[bob.id] })
		query := func() any {
			r := alice.must("POST", "/v3/keys/query", obj{"device_keys": obj{bob.id: []string{}}})
			return at(r, "device_keys", bob.id)
		}
		if d := query(); at(d, bob.device, "keys", "curve25519:"+bob.device) != key("curve") {
			t.Errorf("bob's devices are %v", d)
		}
		for _, want := range []string{"once", "always", "always"} {
			r := alice.must("POST", "/v3/keys/claim", obj{"one_time_keys": obj{bob.id: obj{bob.device: "signed_curve25519"}}})
			keys, _ := at(r, "one_time_keys", bob.id, bob.device).(obj)
			if len(keys) != 1 {
				t.Fatalf("claimed %v", r)
			}
			for _, k := range keys {
				if at(k, "key") != key(want) {
					t.Errorf("claimed %v, want %s", r, want)
				}
			}
		}
		delete(alice.changed, bob.id)
		bob.must("PUT", p("/v3/devices/%s", bob.device), obj{"display_name": "Bob's telephone"})
		alice.until("the device's name", func() bool { return alice.changed[bob.id] })
		query()

		for i := range 3 {
			alice.must("PUT", p("/v3/sendToDevice/com.example.hello/%s", fmt.Sprint(i)),
				obj{"messages": obj{bob.id: obj{bob.device: obj{"n": i}}}})
		}
		bob.until("the messages", func() bool { return len(bob.toDevice) >= 3 })
		for i, e := range bob.toDevice {
			if e.Sender != alice.id || e.Type != "com.example.hello" || e.Content["n"] != float64(i) {
				t.Errorf("message %d: %v", i, e)
			}
		}

		// A device that is gone, and one of who comes later.
		delete(alice.changed, bob.id)
		second := *bob
		bob.must("POST", "/v3/logout", obj{})
		alice.until("the end of bob's device", func() bool { return alice.changed[second.id] })
		alice.eventually("bob to have no device", func() bool { d, _ := query().(obj); return len(d) == 0 })
		charlie := register(t, there, "charlie")
		uploadKeys(charlie)
		charlie.join(room, alice.server())
		alice.until("news of charlie's devices", func() bool { return alice.changed[charlie.id] })
		r := alice.must("POST", "/v3/keys/query", obj{"device_keys": obj{charlie.id: []string{}}})
		if at(r, "device_keys", charlie.id, charlie.device) == nil {
			t.Errorf("charlie's devices are %v", r)
		}
	})
}
