package room_test

import (
	"context"
	"crypto/ed25519"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store/storetest"
)

// An operator may want rooms encrypted whatever the client asks for.
func TestEncryptedPresets(t *testing.T) {
	s := storetest.Open(t, nil)
	e := room.New(s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: ed25519.NewKeyFromSeed(make([]byte, 32)), EncryptPresets: []string{"private_chat"},
		Profile: func(context.Context, id.User) (room.Profile, error) { return room.Profile{}, nil }})
	theirs := room.InitialState{Type: event.TypeEncryption, Content: jsontext.Value(`{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_msgs":7}`)}
	for _, test := range []struct {
		name     string
		creation room.Creation
		want     string // the content of the room's m.room.encryption
	}{
		{"by default", room.Creation{}, `{"algorithm":"m.megolm.v1.aes-sha2"}`},
		{"as the client says", room.Creation{InitialState: []room.InitialState{theirs}}, `{"algorithm":"m.megolm.v1.aes-sha2","rotation_period_msgs":7}`},
		{"not in other rooms", room.Creation{Preset: "public_chat"}, ``},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.creation.Creator = alice
			name, err := e.Create(t.Context(), test.creation)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			for _, ev := range timeline(t, s, e, name) {
				if ev.PDU.Type == event.TypeEncryption {
					got += string(ev.PDU.Content)
				}
			}
			if got != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
