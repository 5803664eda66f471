package event

import (
	"crypto/sha256"
	"crypto/subtle"

	"hearth/matrix/canonical"
	"hearth/matrix/roomversion"
	"hearth/matrix/signing"
)

// Redacted is the event without what redaction removes; it has the same id.
// spec: client-server-api#redactions
func (p *PDU) Redacted() (*PDU, error) {
	js := appendRedacted(make([]byte, 0, len(p.JSON)), p.Version, p.Type, p.JSON, true)
	return ParseTrusted(p.Version, p.ID, js)
}

// ReferenceHash covers what redaction leaves of the event, without signatures.
// spec: server-server-api#calculating-the-reference-hash-for-an-event
func (p *PDU) ReferenceHash() [sha256.Size]byte {
	var room [1536]byte // spares most events an allocation
	return sha256.Sum256(p.appendSigned(room[:0]))
}

// appendSigned appends what signatures and the reference hash cover.
func (p *PDU) appendSigned(dst []byte) []byte {
	return appendRedacted(dst, p.Version, p.Type, p.JSON, false)
}

// CheckContentHash says whether the event is whole and unaltered. If not, it
// must be used in redacted form only.
// spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (p *PDU) CheckContentHash() bool {
	text, ok := canonical.GetString(canonical.Get(p.JSON, "hashes"), "sha256")
	if !ok {
		return false
	}
	claimed, err := signing.DecodeBase64(text)
	hash := contentHash(p.JSON)
	return err == nil && subtle.ConstantTimeCompare(claimed, hash[:]) == 1
}

// contentHash hashes a canonical event without hashes and signatures.
// spec: server-server-api#calculating-the-content-hash-for-an-event
func contentHash(js []byte) [sha256.Size]byte {
	var room [1536]byte // spares most events an allocation
	b := append(room[:0], '{')
	for c := canonical.Walk(js); c.Next(); {
		switch string(c.Key) {
		case "hashes", "signatures", "unsigned":
		default:
			b = appendMember(b, c.Key, c.Value)
		}
	}
	return sha256.Sum256(append(b, '}'))
}

// appendRedacted appends the redacted form of a canonical event; it is
// canonical too.
// spec: rooms/v1#redactions, rooms/v11#redactions
func appendRedacted(dst []byte, v *roomversion.Version, typ string, js []byte, signatures bool) []byte {
	dst = append(dst, '{')
	for c := canonical.Walk(js); c.Next(); {
		switch key := string(c.Key); key {
		case "event_id", "type", "room_id", "sender", "state_key", "hashes", "depth",
			"prev_events", "auth_events", "origin_server_ts":
			dst = appendMember(dst, c.Key, c.Value)
		case "signatures":
			if signatures {
				dst = appendMember(dst, c.Key, c.Value)
			}
		case "prev_state", "origin", "membership":
			if !v.UpdatedRedaction {
				dst = appendMember(dst, c.Key, c.Value)
			}
		case "content":
			dst = appendMember(dst, c.Key, nil)
			dst = appendRedactedContent(dst, v, typ, c.Value)
		}
	}
	return append(dst, '}')
}

func appendRedactedContent(dst []byte, v *roomversion.Version, typ string, content []byte) []byte {
	if typ == TypeCreate && v.UpdatedRedaction {
		return append(dst, content...)
	}
	dst = append(dst, '{')
	for c := canonical.Walk(content); c.Next(); {
		switch key := string(c.Key); {
		case typ == TypeMember && key == "third_party_invite" && v.UpdatedRedaction:
			dst = appendRedactedInvite(dst, c.Value)
		case redactionKeeps(v, typ, key):
			dst = appendMember(dst, c.Key, c.Value)
		}
	}
	return append(dst, '}')
}

// appendRedactedInvite keeps the key third_party_invite with only signed in
// it. Without signed it stays as an empty object: the key "is no longer
// redacted, but will only contain the signed key". Synapse does the same; were
// it different here, event ids would be too. spec: rooms/v11#event-format
func appendRedactedInvite(dst, invite []byte) []byte {
	if invite[0] != '{' {
		return dst
	}
	dst = append(appendMember(dst, []byte("third_party_invite"), nil), '{')
	if signed := canonical.Get(invite, "signed"); signed != nil {
		dst = appendMember(dst, []byte("signed"), signed)
	}
	return append(dst, '}')
}

// redactionKeeps says whether redaction keeps a key of an event's content.
func redactionKeeps(v *roomversion.Version, typ, key string) bool {
	switch typ {
	case TypeMember:
		return key == "membership" || key == "join_authorised_via_users_server" && v.KeepsJoinAuthorised
	case TypeCreate:
		return key == "creator"
	case TypeJoinRules:
		return key == "join_rule" || key == "allow" && v.RedactionKeepsAllow
	case TypePowerLevels:
		switch key {
		case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
			return true
		case "invite":
			return v.UpdatedRedaction
		}
	case TypeAliases:
		return key == "aliases" && v.AliasesAuthRule
	case TypeHistoryVisibility:
		return key == "history_visibility"
	case TypeRedaction:
		return key == "redacts" && v.UpdatedRedaction
	}
	return false
}

// appendMember appends a comma if one is needed, the key (already escaped) and the value.
func appendMember(dst, key, value []byte) []byte {
	if len(dst) > 0 && dst[len(dst)-1] != '{' {
		dst = append(dst, ',')
	}
	dst = append(append(append(dst, '"'), key...), `":`...)
	return append(dst, value...)
}
