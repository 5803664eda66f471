//go:build goexperiment.jsonv2

// mautrix-go's package exists with this experiment only:
// GOEXPERIMENT=jsonv2 go test ./matrix/authrules

package authrules

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json/v2"
	"fmt"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix/federation/eventauth"
	"maunium.net/go/mautrix/federation/pdu"
	mid "maunium.net/go/mautrix/id"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// CVE-2022-31152: rules that differ from the specification split rooms.
func TestMautrixAgrees(t *testing.T) {
	pdu.UseInternalMetaForGetEventID = true
	public := mid.SigningKey(base64.RawStdEncoding.EncodeToString(testKey.Public().(ed25519.PublicKey)))
	getKey := func(string, mid.KeyID, time.Time) (mid.SigningKey, time.Time, error) {
		return public, time.UnixMilli(1 << 50), nil
	}
	departures := []departure{
		{
			"If the only previous event is an m.room.create and the state_key is the creator, allow.",
			"ask that the first join cites the create event alone",
			(*trial).isFirstJoin,
		}, {
			"The public keys are in content of m.room.third_party_invite.",
			"look for the public keys in the invitation, so that none is ever valid",
			(*trial).isThirdPartyInvite,
		}, {
			"Added in version 8: If content has a join_authorised_via_users_server property …",
			"ask for that signature in all versions",
			func(c *trial) bool {
				return c.is(event.TypeMember) && !c.version.RestrictedJoins && c.ev.ContentValue("join_authorised_via_users_server") != nil
			},
		}, {
			"Changed in version 6: For each entry being changed in, or removed from, the events or notifications properties.",
			"check notifications in all versions",
			func(c *trial) bool {
				return !c.version.NotificationsPLRule && c.alters(func(a alteration) bool { return strings.HasPrefix(a.name, "notifications.") })
			},
		}, {
			"If type is m.room.aliases: If event has no state_key, reject. If sender's domain doesn't match state_key, reject. Otherwise, allow.",
			"lack that rule",
			func(c *trial) bool { return c.version.AliasesAuthRule && c.is(event.TypeAliases) },
		}, {
			"If type is m.room.redaction: If the sender's power level is greater than or equal to the redact level, allow. …",
			"lack that rule of versions 1 and 2",
			func(c *trial) bool { return c.version.RedactionAuthRule && c.is(event.TypeRedaction) },
		},
	}
	compare(t, departures, func(t testing.TB, c *trial) (err error) {
		byID := map[mid.EventID]*pdu.PDU{}
		for _, ev := range c.state {
			byID[mid.EventID(ev.ID)] = mautrixPDU(t, ev)
		}
		getEvents := func(ids []mid.EventID) (list []*pdu.PDU, err error) {
			for _, i := range ids {
				list = append(list, byID[i])
			}
			return list, nil
		}
		defer func() {
			if p := recover(); p != nil {
				err = fmt.Errorf("panic: %v", p)
			}
		}()
		return eventauth.Authorize(mid.RoomVersion(c.version.ID), mautrixPDU(t, c.ev), getEvents, getKey)
	})
}

// mautrixPDU is an event for mautrix-go, which has a type of its own for events
// of versions 1 and 2 but judges none of it.
func mautrixPDU(t testing.TB, ev *event.PDU) *pdu.PDU {
	p := new(pdu.PDU)
	if ev.Version.EventID != roomversion.EventIDField {
		if err := json.Unmarshal(ev.JSON, p); err != nil {
			t.Fatal(err)
		}
	} else {
		var v1 pdu.RoomV1PDU
		if err := json.Unmarshal(ev.JSON, &v1); err != nil {
			t.Fatal(err)
		}
		p.Content, p.RoomID, p.Sender, p.StateKey, p.Type = v1.Content, v1.RoomID, v1.Sender, v1.StateKey, v1.Type
		p.AuthEvents, p.PrevEvents = mautrixIDs(ev.AuthEvents), mautrixIDs(ev.PrevEvents)
	}
	p.InternalMeta.EventID = mid.EventID(ev.ID)
	return p
}

func mautrixIDs(ids []id.Event) (list []mid.EventID) {
	for _, i := range ids {
		list = append(list, mid.EventID(i))
	}
	return list
}
