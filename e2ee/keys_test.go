package e2ee_test

import (
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"

	"hearth/e2ee"
	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/stream"
)

// CVE-2025-61672: one malformed upload broke sending to other servers.
func TestMalformedDeviceKeysAreRefused(t *testing.T) {
	w := newWorld(t)
	good := string(w.signedIdentity(alice, "alice"))
	swap := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for what, c := range map[string]struct{ keys, code string }{
		"no object":             {`[]`, "M_BAD_JSON"},
		"only ids":              {`{"user_id":"@alice:localhost","device_id":"alice"}`, "M_BAD_JSON"},
		"another user":          {swap(`"user_id":"@alice:localhost"`, `"user_id":"@bob:localhost"`), "M_BAD_JSON"},
		"another device":        {swap(`"device_id":"alice"`, `"device_id":"bob"`), "M_BAD_JSON"},
		"key of another device": {swap(`"curve25519:alice"`, `"curve25519:bob"`), "M_BAD_JSON"},
		"no fingerprint":        {swap(`"ed25519:alice"`, `"curve448:alice"`), "M_BAD_JSON"},
		"algorithms no list":    {swap(`"algorithms":[`, `"x":[`), "M_BAD_JSON"},
		"key no base64":         {swap(`"curve25519:alice":"`, `"curve25519:alice":"!`), "M_BAD_JSON"},
		"a float":               {swap(`{"algorithms"`, `{"a":1.5,"algorithms"`), "M_BAD_JSON"},
		"bad signature":         {swap(`m.olm.v1`, `m.olm.v2`), "M_INVALID_SIGNATURE"},
		"too large":             {swap(`m.olm.v1`, strings.Repeat("x", 20_000)), "M_TOO_LARGE"},
	} {
		t.Run(what, func(t *testing.T) {
			_, err := w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{Device: jsontext.Value(c.keys)})
			status := 400
			if c.code == "M_TOO_LARGE" {
				status = 413
			}
			w.refused(err, status, c.code)
		})
	}
	_, err := w.UploadKeys(t.Context(), alice, "", e2ee.KeyUpload{})
	w.refused(err, 400, "M_INVALID_PARAM")
	_, err = w.UploadKeys(t.Context(), alice, "GONE", e2ee.KeyUpload{Device: w.signedIdentity(alice, "GONE")})
	w.refused(err, 404, "M_NOT_FOUND")
}

func TestMalformedOneTimeKeysAreRefused(t *testing.T) {
	w := newWorld(t)
	w.publish(alice, "alice")
	good := w.oneTimeKey(alice, "alice", "1", "")
	for what, c := range map[string]struct{ name, key, code string }{
		"no key id":         {"signed_curve25519", string(good), "M_INVALID_PARAM"},
		"NUL":               {"signed_curve25519:\x00", string(good), "M_INVALID_PARAM"},
		"number":            {"x:1", `5`, "M_BAD_JSON"},
		"unsigned":          {"signed_curve25519:1", `{"key":"zKbLg+NrIjpnagy+pIY6uPL4ZwEG2v+8F9lmgsnlZzs"}`, "M_BAD_JSON"},
		"short":             {"signed_curve25519:1", `{"key":"AAAA","signatures":{}}`, "M_BAD_JSON"},
		"signed by another": {"signed_curve25519:1", strings.Replace(string(good), `"key":"M`, `"key":"N`, 1), "M_INVALID_SIGNATURE"},
	} {
		t.Run(what, func(t *testing.T) {
			for _, up := range []e2ee.KeyUpload{{OneTime: map[string]jsontext.Value{c.name: jsontext.Value(c.key)}}, {Fallback: map[string]jsontext.Value{c.name: jsontext.Value(c.key)}}} {
				_, err := w.UploadKeys(t.Context(), alice, "alice", up)
				w.refused(err, 400, c.code)
			}
		})
	}
	_, err := w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{Fallback: map[string]jsontext.Value{"x:1": jsontext.Value(`"a"`), "x:2": jsontext.Value(`"b"`)}})
	w.refused(err, 400, "M_INVALID_PARAM")
}

func TestOneTimeKeysAreNeverOverwrittenNorGivenTwice(t *testing.T) {
	w := newWorld(t)
	w.publish(alice, "alice")
	upload := func(names ...string) (map[string]int64, error) {
		keys := map[string]jsontext.Value{}
		for _, n := range names {
			keys["signed_curve25519:"+n] = w.oneTimeKey(alice, "alice", n, "")
		}
		return w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{OneTime: keys})
	}
	for _, c := range []struct {
		names []string
		want  int64
	}{{[]string{"A", "B", "C"}, 3}, {[]string{"A", "B", "C"}, 3}, {[]string{"B", "C", "D"}, 4}, {nil, 4}} {
		counts, err := upload(c.names...)
		w.must(err)
		if counts["signed_curve25519"] != c.want {
			t.Errorf("after %v the counts are %v", c.names, counts)
		}
	}
	_, err := w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{OneTime: map[string]jsontext.Value{"signed_curve25519:A": w.oneTimeKey(alice, "alice", "other", "")}})
	w.refused(err, 400, "M_INVALID_PARAM")

	claim := func() (name string) {
		r, err := w.ClaimKeys(t.Context(), map[id.User]map[id.Device]string{alice: {"alice": "signed_curve25519"}}, 0)
		w.must(err)
		for n := range r.OneTimeKeys[alice]["alice"] {
			name = n
		}
		return name
	}
	seen := map[string]bool{}
	for range 4 {
		name := claim()
		if name == "" || seen[name] {
			t.Errorf("claimed %q again", name)
		}
		seen[name] = true
	}
	if _, told := w.heard[stream.Keys][w.nid(alice)]; !told {
		t.Error("alice does not hear that her keys were used")
	}
	counts, err := upload("A", "B", "C", "D") // the response of the first time was lost
	w.must(err)
	if counts["signed_curve25519"] != 0 || claim() != "" {
		t.Errorf("claimed keys came back: %v", counts)
	}
}

func TestFallbackKeysAreGivenAgainAndAgain(t *testing.T) {
	w := newWorld(t)
	w.publish(alice, "alice")
	fallback := w.oneTimeKey(alice, "alice", "f", `,"fallback":true`)
	_, err := w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{
		OneTime:  map[string]jsontext.Value{"signed_curve25519:A": w.oneTimeKey(alice, "alice", "A", "")},
		Fallback: map[string]jsontext.Value{"signed_curve25519:F": fallback},
	})
	w.must(err)
	unused := func() (types []string) {
		w.view(func(tx *store.Tx) (err error) {
			types, err = tx.DeviceKeys.UnusedFallbacks(w.nid(alice), "alice")
			return err
		})
		return types
	}
	if diff := cmp.Diff([]string{"signed_curve25519"}, unused()); diff != "" {
		t.Error(diff)
	}
	var got []string
	for range 3 {
		r, err := w.ClaimKeys(t.Context(), map[id.User]map[id.Device]string{alice: {"alice": "signed_curve25519", "NONE": "signed_curve25519"}}, 0)
		w.must(err)
		got = append(got, strings.Join(keysOf(r.OneTimeKeys[alice]["alice"]), ","))
		if len(r.OneTimeKeys[alice]) != 1 {
			t.Error("a device that does not exist has keys")
		}
	}
	if diff := cmp.Diff([]string{"signed_curve25519:A", "signed_curve25519:F", "signed_curve25519:F"}, got); diff != "" {
		t.Error(diff)
	}
	if len(unused()) != 0 {
		t.Error("the fallback key is still called unused")
	}
}

func keysOf[V any](m map[string]V) (names []string) {
	for k := range m {
		names = append(names, k)
	}
	return names
}

func TestANewIdentityVoidsTheOneTimeKeysOfTheOld(t *testing.T) {
	w := newWorld(t)
	w.publish(alice, "alice")
	_, err := w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{OneTime: map[string]jsontext.Value{"signed_curve25519:A": w.oneTimeKey(alice, "alice", "A", "")}})
	w.must(err)
	k := key("another")
	counts, err := w.UploadKeys(t.Context(), alice, "alice", e2ee.KeyUpload{Device: w.sign(identity(alice, "alice", k), alice, "alice", k)})
	w.must(err)
	if counts["signed_curve25519"] != 0 {
		t.Errorf("counts: %v", counts)
	}
}

func TestQueryShowsDevicesWithNames(t *testing.T) {
	w := newWorld(t)
	w.publish(alice, "alice")
	w.device(alice, "SECOND")
	w.publish(alice, "SECOND")
	r, err := w.QueryKeys(t.Context(), bob, map[id.User][]id.Device{alice: {"alice"}, bob: {}, "@nobody:localhost": {}}, 0)
	w.must(err)
	if n := len(r.DeviceKeys[alice]); n != 1 {
		t.Errorf("%d devices of alice", n)
	}
	for _, u := range []id.User{bob, "@nobody:localhost"} {
		if devices, ok := r.DeviceKeys[u]; !ok || len(devices) != 0 {
			t.Errorf("%s has %v, %v", u, devices, ok)
		}
	}
	shown := r.DeviceKeys[alice]["alice"]
	var got map[string]jsontext.Value
	w.must(json.Unmarshal(shown, &got))
	if string(got["unsigned"]) != `{"device_display_name":"Device of @alice:localhost"}` {
		t.Errorf("unsigned is %s", got["unsigned"])
	}
	delete(got, "unsigned")
	if text(t, got) != string(w.signedIdentity(alice, "alice")) {
		t.Errorf("shown %s", text(t, got))
	}
	all, err := w.QueryKeys(t.Context(), bob, map[id.User][]id.Device{alice: {}}, 0)
	w.must(err)
	if n := len(all.DeviceKeys[alice]); n != 2 {
		t.Errorf("%d devices of alice", n)
	}
}

// TestDeletedDeviceLeavesNothing: the keys go and those who saw them hear of it.
func TestDeletedDeviceLeavesNothing(t *testing.T) {
	w := newWorld(t)
	w.share(alice, bob)
	w.publish(alice, "alice")
	before := w.position()
	w.must(w.SendToDevice(t.Context(), e2ee.Message{Sender: bob, Type: "m.x"}, "bob", "1", messages(alice, "alice")))
	w.update(func(tx *store.Tx) error { return w.DevicesDeleted(tx, alice, []id.Device{"alice"}) })
	r, err := w.QueryKeys(t.Context(), bob, map[id.User][]id.Device{alice: {}}, 0)
	w.must(err)
	if len(r.DeviceKeys[alice]) != 0 {
		t.Error("keys are left")
	}
	if got := w.waiting(alice, "alice", 0); len(got) != 0 {
		t.Errorf("messages are left: %v", got)
	}
	if lists := w.lists(bob, before); len(lists.Changed) != 1 || w.heard[stream.DeviceList][w.nid(bob)] <= before {
		t.Errorf("bob does not hear of it: %+v", lists)
	}
}

func FuzzUploadKeys(f *testing.F) {
	f.Add(`{"user_id":"@alice:localhost","device_id":"alice","algorithms":[],"keys":{"ed25519:alice":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"},"signatures":{}}`, `x:1`, `"k"`)
	f.Add(`{}`, `signed_curve25519:A`, `{"key":"zKbLg+NrIjpnagy+pIY6uPL4ZwEG2v+8F9lmgsnlZzs","signatures":{"@alice:localhost":{"ed25519:alice":"x"}}}`)
	f.Fuzz(func(t *testing.T, device, name, key string) {
		keys, err := e2ee.ParseUpload(alice, "alice", e2ee.KeyUpload{Device: jsontext.Value(device), OneTime: map[string]jsontext.Value{name: jsontext.Value(key)}})
		if err == nil && keys != nil && !canonical.Valid(keys) {
			t.Errorf("stored %s", keys)
		}
	})
}
