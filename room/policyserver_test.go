package room_test

import (
	"crypto/ed25519"
	"strings"
	"testing"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store/storetest"
)

// newWatched is a room whose policy server is this server, with other rules in options.
func newWatched(t *testing.T, o room.PolicyServer) *peer {
	t.Helper()
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.policy = refuse // no other server is to be asked
	o.Key = keyOfPolicy
	p.e = room.New(p.s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: p, PolicyServer: &o})
	p.local(event.TypePolicy, policyContent(storetest.Server, keyOfPolicy))
	return p
}

func (p *peer) wantSignedHere() {
	p.t.Helper()
	all := timeline(p.t, p.s, p.e, p.room)
	pdu := all[len(all)-1].PDU
	if err := pdu.VerifySignature(storetest.Server, keyIDOfPolicy, keyOfPolicy.Public().(ed25519.PublicKey)); err != nil {
		p.t.Errorf("%s: %v", pdu.JSON, err)
	}
	if len(pdu.SignatureKeys(pdu.Sender.Server())) == 0 {
		p.t.Errorf("%s has lost its sender's signature", pdu.JSON)
	}
}

// spec: server-server-api#asking-for-a-policy-server-signature-on-an-event
func TestOwnPolicyServerIsNotAskedByTheNetwork(t *testing.T) {
	p := newWatched(t, room.PolicyServer{})
	p.text("hello")
	p.wantSignedHere()
	p.local("m.room.name", `{"name":"watched"}`)
	p.wantSignedHere()
	p.deliver(p.say("from elsewhere", p.newest()))
	p.wantSignedHere()
	p.wantShown("hello", "from elsewhere")
	// One with another key is another, even if it has this server's name.
	p.local(event.TypePolicy, policyContent(storetest.Server, p.key))
	wantCode(t, p.tries("refused"), "M_FORBIDDEN")
}

func TestWhomAPolicyServerRefuses(t *testing.T) {
	for name, o := range map[string]room.PolicyServer{
		"a user":                       {DenyUsers: []string{strings.ToUpper(string(remoteBob))}},
		"users":                        {DenyUsers: []string{"@bo?:*"}},
		"a server":                     {DenyServers: []string{string(elsewhere)}},
		"servers":                      {DenyServers: []string{"*" + string(elsewhere[1:])}},
		"one that is not talked to":    {Permit: func(id.Server) bool { return false }},
		"a server, and another's user": {DenyServers: []string{"third.example", string(elsewhere)}, DenyUsers: []string{"@x:y"}},
	} {
		p := newWatched(t, o)
		p.text("of this server")
		joined := p.newest()
		p.deliver(p.member(remoteBob, "join", joined))
		p.want(event.TypeMember, string(remoteBob), "")
		p.wantExtremities(joined)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	p := newWatched(t, room.PolicyServer{DenyUsers: []string{"@bobby:*", "bob"}, DenyServers: []string{"lsewhere.example", "x." + string(elsewhere)}})
	p.deliver(p.member(remoteBob, "join", p.newest()))
	p.want(event.TypeMember, string(remoteBob), `{"membership":"join"}`)
	p.wantSignedHere()
}
