package authrules

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"

	"hearth/matrix/event"
)

// checkThirdPartyInvite judges an invite that redeems one which was sent to an
// e-mail address or the like.
// spec: rooms/v12#authorization-rules 5.4.1
func checkThirdPartyInvite(ev *event.PDU, invite []byte, state *State) error {
	v := ev.Version
	if state.membership(*ev.StateKey) == membershipBan {
		return deny(memberRule(v, memberInvite, 1, 1), "%s is banned", *ev.StateKey)
	}
	signed, ok := find(invite, "signed")
	if !ok {
		return deny(memberRule(v, memberInvite, 1, 2), "third_party_invite has no signed property")
	}
	rawMXID, hasMXID := find(signed, "mxid")
	rawToken, hasToken := find(signed, "token")
	if !hasMXID || !hasToken {
		return deny(memberRule(v, memberInvite, 1, 3), "signed lacks mxid or token")
	}
	if !isText(rawMXID, *ev.StateKey) {
		return deny(memberRule(v, memberInvite, 1, 4), "mxid is not %s", *ev.StateKey)
	}
	token, isString := text(rawToken)
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
	add := func(raw []byte) {
		s, _ := text(raw)
		if key, ok := decodeBase64(s); ok && len(key) == ed25519.PublicKeySize {
			keys = append(keys, key)
		}
	}
	if raw, ok := find(content, "public_key"); ok {
		add(raw)
	}
	raw, _ := find(content, "public_keys")
	list, _ := elements(raw)
	for {
		entry, ok := list.element()
		if !ok {
			return keys
		}
		if raw, ok := find(entry, "public_key"); ok {
			add(raw)
		}
	}
}

// maxVerifications bounds the work that one hostile invite can cause: each of
// its signatures may be by each of the keys. Real ones have one or two of both.
const maxVerifications = 1000

// isSigned says whether any signature of a signed object is by any of the keys.
// The object is in canonical form, being a part of a PDU.
func isSigned(signed []byte, keys []ed25519.PublicKey) bool {
	message := withoutSignatures(signed)
	left := maxVerifications
	signatures, _ := find(signed, "signatures")
	entities, _ := members(signatures)
	for {
		_, byKey, ok := entities.next()
		if !ok {
			return false
		}
		list, _ := members(byKey)
		for {
			_, raw, ok := list.next()
			if !ok {
				break
			}
			s, _ := text(raw)
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
}

// withoutSignatures is what is signed of an object in canonical form.
// spec: appendices#signing-json
func withoutSignatures(object []byte) []byte {
	out := []byte{'{'}
	w, _ := members(object)
	for {
		key, value, ok := w.next()
		if !ok {
			return append(out, '}')
		}
		if isText(key, "signatures") || isText(key, "unsigned") {
			continue
		}
		if len(out) > 1 {
			out = append(out, ',')
		}
		out = append(out, key...)
		out = append(out, ':')
		out = append(out, value...)
	}
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
