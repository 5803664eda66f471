package event

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// Signature names one signature on an event.
type Signature struct {
	Server id.Server
	Key    id.Key
}

// Signatures lists the signatures of algorithms known here; nothing is verified.
func (p *PDU) Signatures() []Signature {
	var list []Signature
	for c := canonical.Walk(canonical.Get(p.JSON, "signatures")); c.Next(); {
		server := id.Server(c.KeyString())
		for _, k := range signing.KeyIDsIn(c.Value) {
			list = append(list, Signature{server, k})
		}
	}
	return list
}

// SignatureKeys lists the keys with which a server has signed.
func (p *PDU) SignatureKeys(server id.Server) []id.Key {
	return signing.KeyIDsIn(canonical.Get(canonical.Get(p.JSON, "signatures"), string(server)))
}

// VerifySignature checks one signature. The error is signing.ErrMissing or
// signing.ErrInvalid, wrapped. The key's period of validity is the caller's
// business.
func (p *PDU) VerifySignature(server id.Server, keyID id.Key, pub ed25519.PublicKey) error {
	return signing.Check(canonical.Get(p.JSON, "signatures"), server, keyID, pub, p.appendSigned(nil))
}

// SigningServers lists the servers whose signatures the event must have. It is
// empty for some third-party invites: their sender is who made the
// m.room.third_party_invite, while any server may have sent the event. So of an event
// whose content hash does not fit, the redacted form is to be asked: whoever hands it on
// could have made such an invite of any other.
//
// The server of content.join_authorised_via_users_server is among them, though
// the rules only reject an event for want of its signature where they drop one
// for want of the others.
// spec: server-server-api#validating-hashes-and-signatures-on-received-events
func (p *PDU) SigningServers() []id.Server {
	var servers []id.Server
	add := func(s id.Server) {
		if !slices.Contains(servers, s) {
			servers = append(servers, s)
		}
	}
	if !p.isThirdPartyInvite() {
		add(p.Sender.Server())
	}
	if s := p.ID.Server(); s != "" { // room versions 1 and 2
		add(s)
	}
	if p.Version.RestrictedJoins && p.Type == TypeMember {
		if v := p.ContentValue("join_authorised_via_users_server"); v != nil {
			// Of what is no user id no server can have signed.
			user, _ := canonical.String(v)
			add(id.User(user).Server())
		}
	}
	return servers
}

func (p *PDU) isThirdPartyInvite() bool {
	return p.Type == TypeMember && p.membership == MembershipInvite && p.ContentValue("third_party_invite") != nil
}

// AddSignature returns the event with one more signature: of the invited
// user's server on an invite, of the authorising server on a restricted join,
// of a policy server. The caller answers for what it signs.
func (p *PDU) AddSignature(server id.Server, keyID id.Key, key ed25519.PrivateKey) (*PDU, error) {
	return p.WithSignature(server, keyID, p.SignatureBy(key))
}

// SignatureBy is a key's signature on the event, for a server that adds it itself.
func (p *PDU) SignatureBy(key ed25519.PrivateKey) []byte {
	return ed25519.Sign(key, p.appendSigned(nil))
}

// WithSignatureOf returns the event with the signature added that another copy
// of it carries. The signature must have been verified.
func (p *PDU) WithSignatureOf(other *PDU, server id.Server, keyID id.Key) (*PDU, error) {
	text, ok := canonical.GetString(canonical.Get(canonical.Get(other.JSON, "signatures"), string(server)), string(keyID))
	if !ok {
		return nil, fmt.Errorf("%s, %s: %w", server, keyID, signing.ErrMissing)
	}
	sig, err := signing.DecodeBase64(text)
	if err != nil {
		return nil, fmt.Errorf("%s, %s: %w", server, keyID, signing.ErrInvalid)
	}
	return p.WithSignature(server, keyID, sig)
}

// WithSignature returns the event with one more signature, which is not verified.
func (p *PDU) WithSignature(server id.Server, keyID id.Key, sig []byte) (*PDU, error) {
	sigs, err := signing.AppendSignatures(nil, canonical.Get(p.JSON, "signatures"), server, keyID, sig)
	if err != nil {
		return nil, err
	}
	js := append(make([]byte, 0, len(p.JSON)+len(sigs)), '{')
	for c := canonical.Walk(p.JSON); c.Next(); {
		if string(c.Key) == "signatures" {
			js = appendMember(js, c.Key, sigs)
		} else {
			js = appendMember(js, c.Key, c.Value)
		}
	}
	return parseCanonical(p.Version, append(js, '}'))
}
