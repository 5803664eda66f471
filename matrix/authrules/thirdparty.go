package authrules

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
)

// checkThirdPartyInvite judges an invite that redeems one which was sent to an
// e-mail address or the like.
// spec: rooms/v12#authorisation-rules 5.4.1
func checkThirdPartyInvite(ev *event.PDU, invite []byte, state *State) error {
	v := ev.Version
	if state.membership(*ev.StateKey) == event.MembershipBan {
		return deny(memberRule(v, memberInvite, 1, 1), "%s is banned", *ev.StateKey)
	}
	signed := canonical.Get(invite, "signed")
	if signed == nil {
		return deny(memberRule(v, memberInvite, 1, 2), "third_party_invite has no signed property")
	}
	rawMXID, rawToken := canonical.Get(signed, "mxid"), canonical.Get(signed, "token")
	if rawMXID == nil || rawToken == nil {
		return deny(memberRule(v, memberInvite, 1, 3), "signed lacks mxid or token")
	}
	if mxid, ok := canonical.String(rawMXID); !ok || mxid != *ev.StateKey {
		return deny(memberRule(v, memberInvite, 1, 4), "mxid is not %s", *ev.StateKey)
	}
	token, isString := canonical.String(rawToken)
	offer := lookUp(state.ThirdPartyInvites, token)
	if !isString || offer == nil {
		return deny(memberRule(v, memberInvite, 1, 5), "there is no third party invite with this token")
	}
	if offer.Sender != ev.Sender {
		return deny(memberRule(v, memberInvite, 1, 6), "the third party invite was not sent by %s", ev.Sender)
	}
	if !isSigned(signed, inviteKeys(offer.Content)) {
		return deny(memberRule(v, memberInvite, 1, 8), "no signature is of a key of the third party invite")
	}
	return nil
}

// inviteKeys are the public keys that a third party invite trusts.
// spec: client-server-api#mroomthird_party_invite
func inviteKeys(content []byte) []ed25519.PublicKey {
	var keys []ed25519.PublicKey
	add := func(object []byte) {
		s, _ := canonical.GetString(object, "public_key")
		if key, ok := decodeBase64(s); ok && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	add(content)
	for c := canonical.Walk(canonical.Get(content, "public_keys")); c.Next(); {
		add(c.Value)
	}
	return keys
}

// maxVerifications bounds the work that one hostile invite can cause: each of
// its signatures may be by each of the keys. Real ones have one or two of both.
const maxVerifications = 1000

// isSigned says whether any signature of a signed object is by any of the keys.
// The object is in canonical form, being a part of a PDU.
func isSigned(signed []byte, keys []ed25519.PublicKey) bool {
	message := withoutSignatures(signed)
	left := maxVerifications
	for server := canonical.Walk(canonical.Get(signed, "signatures")); server.Next(); {
		for entry := canonical.Walk(server.Value); entry.Next(); {
			s, _ := canonical.String(entry.Value)
			signature, ok := decodeBase64(s)
			if !ok || len(signature) != ed25519.SignatureSize {
				continue
			}
			for _, key := range keys {
				if left--; left < 0 {
					return false
				}
				if ed25519.Verify(key, message, signature) {
					return true
				}
			}
		}
	}
	return false
}

// withoutSignatures is what is signed of an object in canonical form.
// spec: appendices#signing-json
func withoutSignatures(object []byte) []byte {
	out := []byte{'{'}
	for c := canonical.Walk(object); c.Next(); {
		if c.KeyIs("signatures") || c.KeyIs("unsigned") {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(append(append(out, '"'), c.Key...), `":`...)
		out = append(out, c.Value...)
	}
	return append(out, '}')
}

// decodeBase64 reads both alphabets, padded or not: invites come from identity
// servers of all ages.
// spec: appendices#unpadded-base64
func decodeBase64(s string) ([]byte, bool) {
	s = strings.TrimRight(s, "=")
	s = strings.NewReplacer("-", "+", "_", "/").Replace(s)
	b, err := base64.RawStdEncoding.DecodeString(s)
	return b, err == nil
}
