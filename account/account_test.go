package account_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/crypto/bcrypt"

	"hearth/account"
	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
	"hearth/store/storetest"
)

const alice = id.User("@alice:localhost")

// cheap hashes keep tests fast.
var cheap = account.Passwords{MemoryKiB: 64, Time: 1, Threads: 1}

func open(t *testing.T, change ...func(*account.Options)) (*account.Accounts, *store.Store) {
	t.Helper()
	s := storetest.Open(t, nil)
	o := account.Options{ServerName: storetest.Server, Passwords: cheap}
	for _, c := range change {
		c(&o)
	}
	return account.New(s, o), s
}

func register(t *testing.T, a *account.Accounts, name, password string) account.Session {
	t.Helper()
	hash, err := a.HashPassword(t.Context(), password)
	if err != nil {
		t.Fatal(err)
	}
	s, err := a.Register(t.Context(), account.Registration{Username: name, PasswordHash: hash})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

func passwordHash(t *testing.T, s *store.Store, u id.User) (hash string) {
	t.Helper()
	err := s.View(t.Context(), func(tx *store.Tx) error {
		row, _, err := tx.Users.Get(u)
		hash = row.PasswordHash
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// Accounts that come from Synapse keep their passwords; the hash is replaced at the next login.
func TestSynapsesHashesWorkOnceMore(t *testing.T) {
	a, s := open(t, func(o *account.Options) { o.Passwords.Pepper = "pepper" })
	long := strings.Repeat("long ", 40)
	for name, password := range map[string]string{"alice": "correct horse", "bob": "Ångström", "charlie": long} {
		peppered := []byte(password + "pepper")
		hash, err := bcrypt.GenerateFromPassword(peppered[:min(72, len(peppered))], bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		synapse := "$2b$" + strings.TrimPrefix(string(hash), "$2a$")
		if _, err := a.Register(t.Context(), account.Registration{Username: name, PasswordHash: synapse, InhibitLogin: true}); err != nil {
			t.Fatal(err)
		}
		u := id.MakeUser(name, storetest.Server)
		if _, err := a.LoginByPassword(t.Context(), u, "wrong", account.DeviceRequest{}); codeOf(err) != "M_FORBIDDEN" {
			t.Errorf("%s: wrong password: %v", name, err)
		}
		if passwordHash(t, s, u) != synapse {
			t.Errorf("%s: a failed login changed the hash", name)
		}
		for range 2 {
			if _, err := a.LoginByPassword(t.Context(), u, password, account.DeviceRequest{}); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if hash := passwordHash(t, s, u); !strings.HasPrefix(hash, "$argon2id$v=19$m=64,t=1,p=1$") {
				t.Errorf("%s: hash was not replaced: %s", name, hash)
			}
		}
	}
}

// The same characters are the same password, whatever keyboard composed them.
func TestPasswordsAreNormalised(t *testing.T) {
	a, _ := open(t)
	register(t, a, "alice", "\u00c5ngstro\u0308m")
	if _, err := a.LoginByPassword(t.Context(), alice, "A\u030angstr\u00f6m", account.DeviceRequest{}); err != nil {
		t.Error(err)
	}
}

func TestBrokenHashesFitNoPassword(t *testing.T) {
	a, _ := open(t)
	for i, hash := range []string{"", "plain", "$argon2id$", "$argon2id$v=19$m=0,t=1,p=1$c2FsdA$a2V5", "$argon2id$v=19$m=99999999,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAA",
		"$argon2i$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAA", "$2b$12$short", "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHQ$"} {
		name := fmt.Sprintf("user%d", i)
		if _, err := a.Register(t.Context(), account.Registration{Username: name, PasswordHash: hash, InhibitLogin: true}); err != nil {
			t.Fatal(err)
		}
		for _, password := range []string{"", "plain", hash} {
			if _, err := a.LoginByPassword(t.Context(), id.MakeUser(name, storetest.Server), password, account.DeviceRequest{}); err == nil {
				t.Errorf("%q lets %q in", hash, password)
			}
		}
	}
}

func authenticate(a *account.Accounts, token string) error {
	_, err := a.Authenticate(context.Background(), account.Request{Token: token})
	return err
}

func TestSessionsEndInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, func(o *account.Options) {
			o.AccessLifetime, o.RefreshLifetime, o.PlainLifetime, o.SessionLifetime = time.Minute, time.Hour, 2*time.Hour, 3*time.Hour
		})
		plain := register(t, a, "alice", "pw")
		refreshing, err := a.LoginByPassword(t.Context(), alice, "pw", account.DeviceRequest{WantRefresh: true})
		if err != nil || refreshing.ExpiresInMS != 60_000 {
			t.Fatalf("%+v %v", refreshing, err)
		}
		if err := errors.Join(authenticate(a, plain.AccessToken), authenticate(a, refreshing.AccessToken)); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		err = authenticate(a, refreshing.AccessToken)
		if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Code != "M_UNKNOWN_TOKEN" || e.Extra["soft_logout"] != true {
			t.Errorf("expired access token: %v", err)
		}
		next, err := a.Refresh(t.Context(), refreshing.RefreshToken)
		if err != nil || authenticate(a, next.AccessToken) != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if _, err := a.Refresh(t.Context(), next.RefreshToken); codeOf(err) != "M_UNKNOWN_TOKEN" {
			t.Errorf("expired refresh token: %v", err)
		}
		if err := authenticate(a, plain.AccessToken); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if err := authenticate(a, plain.AccessToken); codeOf(err) != "M_UNKNOWN_TOKEN" {
			t.Errorf("expired plain token: %v", err)
		}
	})
}

func TestShortLivedSecrets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t, func(o *account.Options) { o.SharedSecret = "s" })
		register(t, a, "alice", "pw")
		login, ms, err := a.MakeLoginToken(t.Context(), alice)
		if err != nil || ms != 120_000 {
			t.Fatal(ms, err)
		}
		openID, s, err := a.MakeOpenIDToken(t.Context(), alice)
		if err != nil || s != 3600 {
			t.Fatal(s, err)
		}
		nonce, err := a.MakeNonce()
		if err != nil {
			t.Fatal(err)
		}
		if u, err := a.OpenIDUser(t.Context(), openID); err != nil || u != alice {
			t.Errorf("%s %v", u, err)
		}
		time.Sleep(2 * time.Minute)
		if _, err := a.LoginByToken(t.Context(), login, account.DeviceRequest{}); codeOf(err) != "M_FORBIDDEN" {
			t.Errorf("login token: %v", err)
		}
		if _, err := a.RegisterBySharedSecret(t.Context(), account.SecretRegistration{Nonce: nonce, Username: "bob", Password: "pw"}); err == nil || !strings.Contains(err.Error(), "unrecognised nonce") {
			t.Errorf("nonce: %v", err)
		}
		time.Sleep(time.Hour)
		if _, err := a.OpenIDUser(t.Context(), openID); codeOf(err) != "M_UNKNOWN_TOKEN" {
			t.Errorf("OpenID token: %v", err)
		}
	})
}

func TestInteractionsExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := open(t)
		register(t, a, "alice", "pw")
		in := account.Interaction{User: alice, Operation: "x", Flows: [][]string{{account.StageDummy, account.StagePassword}}, Auth: jsontext.Value(`{"type":"m.login.dummy"}`)}
		_, err := a.Interact(t.Context(), in)
		session := err.(*errcode.Error).Extra["session"].(string)
		time.Sleep(time.Hour)
		in.Auth = jsontext.Value(`{"type":"m.login.password","password":"pw","session":"` + session + `"}`)
		_, err = a.Interact(t.Context(), in)
		if e, ok := errors.AsType[*errcode.Error](err); !ok || e.Status != 401 || e.Extra["completed"] != nil || e.Extra["session"] == session {
			t.Errorf("%+v", err)
		}
	})
}

// What is kept of an interaction has no password in it.
func TestInteractionsKeepNoPassword(t *testing.T) {
	a, s := open(t)
	in := account.Interaction{Operation: "register", Secret: "plain secret", Params: jsontext.Value(`{"username":"alice"}`), Flows: a.RegistrationFlows(), Mutable: true}
	_, err := a.Interact(t.Context(), in)
	session := err.(*errcode.Error).Extra["session"].(string)
	err = s.View(t.Context(), func(tx *store.Tx) error {
		row, ok, err := tx.Registration.GetInteraction(session)
		if text := fmt.Sprint(row); !ok || strings.Contains(text, "plain secret") || !strings.Contains(text, "$argon2id$") {
			t.Errorf("%s", text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Deactivated accounts have no way in that forgets to ask.
func TestNoWayIntoADeactivatedAccount(t *testing.T) {
	a, s := open(t)
	register(t, a, "alice", "pw")
	session, err := a.LoginByPassword(t.Context(), alice, "pw", account.DeviceRequest{WantRefresh: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Deactivate(t.Context(), alice, false); err != nil {
		t.Fatal(err)
	}
	// Tokens that appear afterwards, by a race or an operator's hand, open nothing.
	err = s.Update(t.Context(), func(tx *store.Tx) error {
		if err := tx.Tokens.InsertLogin("login", alice, 0, 1<<60); err != nil {
			return err
		}
		if _, err := tx.Tokens.InsertRefresh("refresh", store.RefreshToken{User: alice, Device: "D"}); err != nil {
			return err
		}
		_, err := tx.Tokens.InsertAccess("access", store.AccessToken{User: store.User{Name: alice}, Device: "D"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	as := account.Appservice{ID: "as", Owns: func(id.User) bool { return true }}
	a.FindAppservice = func(token string) (account.Appservice, bool) { return as, token == "as" }
	for what, try := range map[string]func() error{
		"password": func() error {
			_, err := a.LoginByPassword(t.Context(), alice, "pw", account.DeviceRequest{})
			return err
		},
		"login token": func() error {
			_, err := a.LoginByToken(t.Context(), "login", account.DeviceRequest{})
			return err
		},
		"appservice": func() error {
			_, err := a.LoginByAppservice(t.Context(), "as", account.Identifier{Type: "m.id.user", User: "alice"}, account.DeviceRequest{})
			return err
		},
		"acting as": func() error {
			_, err := a.Authenticate(t.Context(), account.Request{Token: "as", User: string(alice)})
			return err
		},
		"refresh":     func() error { _, err := a.Refresh(t.Context(), "refresh"); return err },
		"old refresh": func() error { _, err := a.Refresh(t.Context(), session.RefreshToken); return err },
		"access":      func() error { return authenticate(a, "access") },
		"old access":  func() error { return authenticate(a, session.AccessToken) },
	} {
		if e, ok := errors.AsType[*errcode.Error](try()); !ok || e.Status != 401 && e.Status != 403 {
			t.Errorf("%s: %v", what, e)
		}
	}
}

func TestDevicesTakeTheirHooksAlong(t *testing.T) {
	a, _ := open(t)
	var gone []id.Device
	a.DevicesDeleted = append(a.DevicesDeleted, func(_ *store.Tx, u id.User, devices []id.Device) error {
		gone = append(gone, devices...)
		return nil
	})
	a.IsCrossSigningKey = func(_ *store.Tx, _ id.User, d id.Device) (bool, error) { return d == "MASTERKEY", nil }
	first := register(t, a, "alice", "pw")
	if err := a.DeleteDevices(t.Context(), alice, []id.Device{"UNKNOWN"}); err != nil || gone != nil {
		t.Errorf("%v %v", gone, err)
	}
	if err := a.Logout(t.Context(), account.Caller{User: alice, Device: first.Device}); err != nil || len(gone) != 1 || gone[0] != first.Device {
		t.Errorf("%v %v", gone, err)
	}
	_, err := a.LoginByPassword(t.Context(), alice, "pw", account.DeviceRequest{ID: "MASTERKEY"})
	if codeOf(err) != "M_FORBIDDEN" {
		t.Errorf("device named like a cross-signing key: %v", err)
	}
	for _, d := range []account.DeviceRequest{{ID: id.Device(strings.Repeat("x", 513))}, {ID: "a\x00b"}, {DisplayName: strings.Repeat("é", 101)}} {
		if _, err := a.LoginByPassword(t.Context(), alice, "pw", d); codeOf(err) != "M_INVALID_PARAM" {
			t.Errorf("%v: %v", d, err)
		}
	}
	// What a browser says of itself may be anything.
	if _, err := a.LoginByPassword(t.Context(), alice, "pw", account.DeviceRequest{UserAgent: strings.Repeat("\xff", 2000), IP: "::1"}); err != nil {
		t.Error(err)
	}
}

func TestFailedAttemptsAreCounted(t *testing.T) {
	a, _ := open(t)
	register(t, a, "alice", "pw")
	failures := 0
	a.PasswordAttempt = func(u id.User, failed bool) error {
		if u != alice {
			t.Errorf("counted for %s", u)
		}
		if failed {
			failures++
		}
		if failures >= 2 {
			return errcode.LimitExceeded(1000)
		}
		return nil
	}
	for i, want := range []string{"M_FORBIDDEN", "M_LIMIT_EXCEEDED", "M_LIMIT_EXCEEDED"} {
		password := []string{"x", "y", "pw"}[i]
		if _, err := a.LoginByPassword(t.Context(), alice, password, account.DeviceRequest{}); codeOf(err) != want {
			t.Errorf("attempt %d: %v", i, err)
		}
	}
	// Interactive authentication is no way around.
	_, err := a.Interact(t.Context(), account.Interaction{User: alice, Flows: [][]string{{account.StagePassword}}, Auth: jsontext.Value(`{"type":"m.login.password","password":"pw"}`)})
	if codeOf(err) != "M_LIMIT_EXCEEDED" {
		t.Error(err)
	}
}

func TestPhoneNumbersAsPeopleTypeThem(t *testing.T) {
	a, _ := open(t)
	register(t, a, "alice", "pw")
	for _, test := range []struct {
		number, country, typed string
		want                   bool
	}{
		{"447700900123", "GB", "07700 900123", true},
		{"447700900123", "GB", "(0) 7700-900-123", true},
		{"447700900123", "GB", "+44 7700 900123", true},
		{"447700900123", "GB", "0044 7700 900123", true},
		{"447700900123", "FR", "07700 900123", false},
		{"390612345678", "IT", "06 1234 5678", true}, // Italy keeps the zero
		{"12025550123", "US", "202-555-0123", true},
		{"12025550123", "US", "1 202 555 0123", true},
		{"12425550123", "BS", "242 555 0123", true},
		{"12425550123", "BS", "555 0123", true},
		{"79161234567", "RU", "8 916 123-45-67", true},
	} {
		if ok, err := a.AddThreePID(t.Context(), alice, "msisdn", test.number); err != nil || !ok {
			t.Fatal(ok, err)
		}
		u, err := a.Identify(t.Context(), account.Identifier{Type: "m.id.phone", Country: test.country, Phone: test.typed})
		if (err == nil && u == alice) != test.want {
			t.Errorf("%s %s: %s %v", test.country, test.typed, u, err)
		}
		if err := a.DeleteThreePID(t.Context(), alice, "msisdn", test.number); err != nil {
			t.Fatal(err)
		}
	}
	for _, i := range []account.Identifier{{Type: "m.id.phone", Country: "XX", Phone: "123"}, {Type: "m.id.phone", Country: "GB"}, {Type: "m.id.phone", Country: "GB", Phone: strings.Repeat("1", 40)}} {
		if _, err := a.Identify(t.Context(), i); codeOf(err) != "M_INVALID_PARAM" {
			t.Errorf("%v: %v", i, err)
		}
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	s := storetest.Open(b, nil)
	a := account.New(s, account.Options{ServerName: storetest.Server, Passwords: cheap})
	session, err := a.Register(b.Context(), account.Registration{Username: "alice"})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := a.Authenticate(b.Context(), account.Request{Token: session.AccessToken}); err != nil {
			b.Fatal(err)
		}
	}
}
