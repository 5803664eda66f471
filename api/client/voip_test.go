package client

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hearth/api/httpx"
)

func TestTurnCredentialsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &API{Options: Options{TURN: TURN{URIs: []string{"turn:turn.example.org"}, Secret: "secret", Lifetime: time.Hour}}}
		got, err := a.getTurnServer(t.Context(), httpx.Caller{User: "@alice:localhost"}, none{})
		if err != nil || got.TTL != 3600 || len(got.URIs) != 1 {
			t.Fatalf("%+v %v", got, err)
		}
		if want := "946688400:@alice:localhost"; got.Username != want { // an hour after the bubble's midnight
			t.Errorf("username %s, want %s", got.Username, want)
		}
		mac := hmac.New(sha1.New, []byte("secret"))
		mac.Write([]byte(got.Username))
		if want := base64.StdEncoding.EncodeToString(mac.Sum(nil)); got.Password != want {
			t.Errorf("password %s, want %s", got.Password, want)
		}
		if _, err := a.getTurnServer(t.Context(), httpx.Caller{Guest: true}, none{}); err == nil || !strings.Contains(err.Error(), "guests") {
			t.Errorf("a guest gets %v", err)
		}
	})
}

func TestTurnWithoutServers(t *testing.T) {
	for _, turn := range []TURN{{}, {Secret: "secret"}, {URIs: []string{"turn:x"}}} {
		got, err := (&API{Options: Options{TURN: turn}}).getTurnServer(t.Context(), httpx.Caller{}, none{})
		if err != nil || got.Username != "" || got.URIs != nil {
			t.Errorf("%+v: %+v %v", turn, got, err)
		}
	}
	fixed := TURN{URIs: []string{"turn:x"}, Username: "u", Password: "p", Lifetime: time.Minute}
	if got, err := (&API{Options: Options{TURN: fixed}}).getTurnServer(t.Context(), httpx.Caller{}, none{}); err != nil || got.Username != "u" || got.Password != "p" || got.TTL != 60 {
		t.Errorf("%+v %v", got, err)
	}
}
