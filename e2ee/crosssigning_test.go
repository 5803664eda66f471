package e2ee_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/e2ee"
	"hearth/matrix/canonical"
	"hearth/matrix/id"
)

var errAsked = errors.New("authentication was asked for")

// crossKey is a public cross-signing key, signed by another key if there is one.
func (w *world) crossKey(u id.User, usage string, k, by ed25519.PrivateKey) jsontext.Value {
	object := fmt.Sprintf(`{"keys":{"ed25519:%s":%[1]q},"usage":[%q],"user_id":%q}`, public(k), usage, u)
	if by == nil {
		return jsontext.Value(object)
	}
	return w.sign(object, u, public(by), by)
}

// crossSign publishes a whole set made from a seed.
func (w *world) crossSign(u id.User, seed string) (master, self, user ed25519.PrivateKey) {
	w.t.Helper()
	master, self, user = key(seed+" master"), key(seed+" self"), key(seed+" user")
	w.must(w.UploadCrossSigning(w.t.Context(), u, w.set(u, master, self, user), func() error { return nil }))
	return
}

func (w *world) set(u id.User, master, self, user ed25519.PrivateKey) e2ee.CrossSigningUpload {
	return e2ee.CrossSigningUpload{Master: w.crossKey(u, "master", master, nil),
		SelfSigning: w.crossKey(u, "self_signing", self, master), UserSigning: w.crossKey(u, "user_signing", user, master)}
}

// TestCrossSigningAuthentication follows MSC3967: only a change of keys that are there needs it.
func TestCrossSigningAuthentication(t *testing.T) {
	w := newWorld(t)
	master, self, user := key("m"), key("s"), key("u")
	ask := func() error { return errAsked }
	first := e2ee.CrossSigningUpload{Master: w.crossKey(alice, "master", master, nil)}
	for range 2 { // the same again needs none either
		w.must(w.UploadCrossSigning(t.Context(), alice, first, ask))
	}
	whole := w.set(alice, master, self, user)
	more := e2ee.CrossSigningUpload{SelfSigning: whole.SelfSigning}
	for what, up := range map[string]e2ee.CrossSigningUpload{
		"another master key": {Master: w.crossKey(alice, "master", key("m2"), nil)},
		"a further key":      more,
		"same and further":   whole,
	} {
		if err := w.UploadCrossSigning(t.Context(), alice, up, ask); !errors.Is(err, errAsked) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w.must(w.UploadCrossSigning(t.Context(), alice, more, func() error { return nil }))
	w.must(w.UploadCrossSigning(t.Context(), alice, more, ask))
	r, err := w.QueryKeys(t.Context(), alice, map[id.User][]id.Device{alice: {}}, 0)
	w.must(err)
	if string(r.SelfSigningKeys[alice]) != string(whole.SelfSigning) || string(r.MasterKeys[alice]) != string(first.Master) {
		t.Errorf("keys are %s, %s", r.MasterKeys[alice], r.SelfSigningKeys[alice])
	}
}

func TestCrossSigningKeysAreChecked(t *testing.T) {
	w := newWorld(t)
	master, other := key("m"), key("o")
	good := w.crossKey(alice, "master", master, nil)
	w.device(alice, id.Device(public(key("taken"))))
	for what, c := range map[string]struct {
		up     e2ee.CrossSigningUpload
		status int
		code   string
	}{
		"nothing":              {e2ee.CrossSigningUpload{}, 400, "M_MISSING_PARAM"},
		"no master key":        {e2ee.CrossSigningUpload{SelfSigning: w.crossKey(alice, "self_signing", other, master)}, 400, "M_MISSING_PARAM"},
		"unsigned":             {e2ee.CrossSigningUpload{Master: good, SelfSigning: w.crossKey(alice, "self_signing", other, nil)}, 400, "M_INVALID_SIGNATURE"},
		"signed by itself":     {e2ee.CrossSigningUpload{Master: good, UserSigning: w.crossKey(alice, "user_signing", other, other)}, 400, "M_INVALID_SIGNATURE"},
		"another user":         {e2ee.CrossSigningUpload{Master: w.crossKey(bob, "master", master, nil)}, 400, "M_INVALID_PARAM"},
		"another usage":        {e2ee.CrossSigningUpload{Master: w.crossKey(alice, "self_signing", master, nil)}, 400, "M_INVALID_PARAM"},
		"name is not the key":  {e2ee.CrossSigningUpload{Master: jsontext.Value(strings.Replace(string(good), "ed25519:", "ed25519:x", 1))}, 400, "M_INVALID_PARAM"},
		"no object":            {e2ee.CrossSigningUpload{Master: jsontext.Value(`"x"`)}, 400, "M_BAD_JSON"},
		"keys of a wrong type": {e2ee.CrossSigningUpload{Master: jsontext.Value(`{"user_id":"@alice:localhost","usage":["master"],"keys":5}`)}, 400, "M_BAD_JSON"},
		"same as a device id":  {e2ee.CrossSigningUpload{Master: w.crossKey(alice, "master", key("taken"), nil)}, 403, "M_FORBIDDEN"},
	} {
		t.Run(what, func(t *testing.T) {
			w.refused(w.UploadCrossSigning(t.Context(), alice, c.up, func() error { return nil }), c.status, c.code)
		})
	}
}

// tuw#552: signatures were kept without a look at them.
func TestOnlyThreeKindsOfSignaturesAreTaken(t *testing.T) {
	w := newWorld(t)
	master, self, user := w.crossSign(alice, "a")
	bobMaster, _, bobUser := w.crossSign(bob, "b")
	w.publish(alice, "alice")
	w.publish(bob, "bob")
	aliceDevice, bobDevice := key(string(alice)+"alice"), key(string(bob)+"bob")
	ownDevice := identity(alice, "alice", aliceDevice)
	ownMaster := string(w.crossKey(alice, "master", master, nil))
	theirMaster := string(w.crossKey(bob, "master", bobMaster, nil))
	theirDevice := identity(bob, "bob", bobDevice)
	for what, c := range map[string]struct {
		target id.User
		keyID  string
		object jsontext.Value
		code   string // empty: taken
	}{
		"self-signing key on own device":       {alice, "alice", w.sign(ownDevice, alice, public(self), self), ""},
		"own device on own master key":         {alice, public(master), w.sign(ownMaster, alice, "alice", aliceDevice), ""},
		"user-signing key on other master":     {bob, public(bobMaster), w.sign(theirMaster, alice, public(user), user), ""},
		"user-signing key on own device":       {alice, "alice", w.sign(ownDevice, alice, public(user), user), "M_INVALID_SIGNATURE"},
		"master key on own device":             {alice, "alice", w.sign(ownDevice, alice, public(master), master), "M_INVALID_SIGNATURE"},
		"own device on other master key":       {bob, public(bobMaster), w.sign(theirMaster, alice, "alice", aliceDevice), "M_INVALID_SIGNATURE"},
		"self-signing key on other master key": {bob, public(bobMaster), w.sign(theirMaster, alice, public(self), self), "M_INVALID_SIGNATURE"},
		"anything on other device":             {bob, "bob", w.sign(theirDevice, alice, public(user), user), "M_NOT_FOUND"},
		"in the name of another":               {bob, public(bobMaster), w.sign(theirMaster, bob, public(bobUser), bobUser), "M_INVALID_SIGNATURE"},
		"forged":                               {alice, "alice", w.sign(ownDevice, alice, public(self), user), "M_INVALID_SIGNATURE"},
		"another object":                       {alice, "alice", w.sign(strings.Replace(ownDevice, "m.olm", "m.mlo", 1), alice, public(self), self), "M_INVALID_PARAM"},
		"unknown key":                          {alice, "NONE", w.sign(ownDevice, alice, public(self), self), "M_NOT_FOUND"},
		"unknown user":                         {"@nobody:localhost", public(bobMaster), w.sign(theirMaster, alice, public(user), user), "M_NOT_FOUND"},
		"no object":                            {alice, "alice", jsontext.Value(`5`), "M_BAD_JSON"},
	} {
		t.Run(what, func(t *testing.T) {
			failures, err := w.UploadSignatures(t.Context(), alice, map[id.User]map[string]jsontext.Value{c.target: {c.keyID: c.object}})
			w.must(err)
			if got := failures[c.target][c.keyID].Code; got != c.code {
				t.Errorf("got %q, want %q", got, c.code)
			}
		})
	}

	seenBy := func(viewer id.User, keyID string, object func(e2ee.QueryResult) jsontext.Value) bool {
		r, err := w.QueryKeys(t.Context(), viewer, map[id.User][]id.Device{alice: {}, bob: {}}, 0)
		w.must(err)
		return canonical.Get(canonical.Get(canonical.Get(object(r), "signatures"), string(alice)), "ed25519:"+keyID) != nil
	}
	device := func(r e2ee.QueryResult) jsontext.Value { return r.DeviceKeys[alice]["alice"] }
	mine := func(r e2ee.QueryResult) jsontext.Value { return r.MasterKeys[alice] }
	theirs := func(r e2ee.QueryResult) jsontext.Value { return r.MasterKeys[bob] }
	for _, viewer := range []id.User{alice, bob, charlie} {
		if !seenBy(viewer, public(self), device) || !seenBy(viewer, "alice", device) || !seenBy(viewer, "alice", mine) {
			t.Errorf("%s does not see signatures that all may see", viewer)
		}
		if seenBy(viewer, public(user), theirs) != (viewer == alice) {
			t.Errorf("%s sees whom alice trusts, or alice does not", viewer)
		}
		r, err := w.QueryKeys(t.Context(), viewer, map[id.User][]id.Device{alice: {}}, 0)
		w.must(err)
		if _, ok := r.UserSigningKeys[alice]; ok != (viewer == alice) {
			t.Errorf("user-signing key of alice as seen by %s: %v", viewer, ok)
		}
	}
}

// TestResetVoidsOldSignatures: signatures by and on keys that are replaced are gone.
func TestResetVoidsOldSignatures(t *testing.T) {
	w := newWorld(t)
	w.publish(alice, "alice")
	_, self, _ := w.crossSign(alice, "old")
	_, err := w.UploadSignatures(t.Context(), alice, map[id.User]map[string]jsontext.Value{
		alice: {"alice": w.sign(identity(alice, "alice", key(string(alice)+"alice")), alice, public(self), self)}})
	w.must(err)
	w.crossSign(alice, "new")
	r, err := w.QueryKeys(t.Context(), bob, map[id.User][]id.Device{alice: {}}, 0)
	w.must(err)
	if strings.Contains(string(r.DeviceKeys[alice]["alice"]), public(self)) {
		t.Errorf("still signed by the old key: %s", r.DeviceKeys[alice]["alice"])
	}
}

// TestDeviceIDsDoNotCollideWithCrossSigningKeys, which live in one namespace.
func TestDeviceIDsDoNotCollideWithCrossSigningKeys(t *testing.T) {
	w := newWorld(t)
	master, _, _ := w.crossSign(alice, "a")
	d := id.Device(public(master))
	w.device(alice, d)
	_, err := w.UploadKeys(t.Context(), alice, d, e2ee.KeyUpload{Device: w.signedIdentity(alice, d)})
	w.refused(err, 403, "M_FORBIDDEN")
}
