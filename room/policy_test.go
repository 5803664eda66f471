package room_test

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/room"
	"hearth/store/storetest"
)

// keyOfPolicy is the key that rooms have of their policy server.
var keyOfPolicy = ed25519.NewKeyFromSeed([]byte(strings.Repeat("p", ed25519.SeedSize)))

const keyIDOfPolicy = id.Key("ed25519:policy_server")

func policyContent(via id.Server, key ed25519.PrivateKey) string {
	return fmt.Sprintf(`{"via":%q,"public_keys":{"ed25519":%q}}`, via, signing.EncodeBase64(key.Public().(ed25519.PublicKey)))
}

// newGuarded is a room whose policy server is the peer.
func newGuarded(t *testing.T, version string) *peer {
	t.Helper()
	p := newPeer(t, storetest.Open(t, nil), version)
	p.policy = p.agree
	p.local(event.TypePolicy, policyContent(elsewhere, keyOfPolicy))
	if len(p.asked) > 0 {
		t.Errorf("to set the policy server, %v was asked", p.asked)
	}
	return p
}

// agree signs whatever it is shown.
func (p *peer) agree(pdu *event.PDU) (map[id.Server]map[id.Key]string, error) {
	signed, err := pdu.AddSignature(elsewhere, keyIDOfPolicy, keyOfPolicy)
	if err != nil {
		return nil, err
	}
	return map[id.Server]map[id.Key]string{elsewhere: {keyIDOfPolicy: signatureOf(signed)}}, nil
}

func signatureOf(pdu *event.PDU) string {
	var text string
	for _, s := range strings.Split(string(pdu.JSON), `"ed25519:policy_server":"`)[1:] {
		text, _, _ = strings.Cut(s, `"`)
	}
	return text
}

func refuse(*event.PDU) (map[id.Server]map[id.Key]string, error) {
	return nil, errcode.Forbidden("spam is not wanted here")
}

func (p *peer) tries(body string) error {
	_, err := p.e.Send(p.t.Context(), p.room, room.Proposal{
		Sender: alice, Type: "m.room.message", Content: jsontext.Value(fmt.Sprintf(`{"body":%q,"msgtype":"m.text"}`, body))})
	return err
}

// wantSigned checks that the newest event is signed by the policy server.
func (p *peer) wantSigned() {
	p.t.Helper()
	all := timeline(p.t, p.s, p.e, p.room)
	pdu := all[len(all)-1].PDU
	if err := pdu.VerifySignature(elsewhere, keyIDOfPolicy, keyOfPolicy.Public().(ed25519.PublicKey)); err != nil {
		p.t.Errorf("%s: %v", pdu.JSON, err)
	}
	if !pdu.CheckContentHash() || len(pdu.SignatureKeys(pdu.Sender.Server())) == 0 {
		p.t.Errorf("%s is not what was signed", pdu.JSON)
	}
}

// spec: server-server-api#asking-for-a-policy-server-signature-on-an-event
func TestThePolicyServerSignsWhatIsSaidHere(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		t.Run("version "+version, func(t *testing.T) {
			p := newGuarded(t, version)
			p.text("hello")
			p.wantSigned()
			p.local("m.room.name", `{"name":"guarded"}`)
			p.wantSigned()
			p.want("m.room.name", "", `{"name":"guarded"}`)
			// A server that knows nothing in memory sees the same.
			fresh := *p
			fresh.e = room.New(p.s, room.Options{Server: storetest.Server, KeyID: "ed25519:1", Key: p.key, Network: p})
			fresh.text("again")
			fresh.wantSigned()
		})
	}
}

// tuw 1.8.3: state that the policy server refused was in force here all the same.
func TestTuw1_8_3_RefusedStateIsNotApplied(t *testing.T) {
	p := newGuarded(t, "11")
	p.policy = refuse
	err := p.tries("spam")
	if refused := (*errcode.Error)(nil); !errors.As(err, &refused) || refused.Status != 403 || refused.Code != "M_FORBIDDEN" || refused.Message != "spam is not wanted here" {
		t.Errorf("the client is told %v, not what the policy server said", err)
	}
	key := ""
	before := p.newest()
	_, err = p.e.Send(t.Context(), p.room, room.Proposal{Sender: alice, Type: "m.room.name", StateKey: &key, Content: jsontext.Value(`{"name":"spam"}`)})
	wantCode(t, err, "M_FORBIDDEN")
	wantCode(t, p.e.Invite(t.Context(), room.Change{Room: p.room, Sender: alice, Target: bob}), "M_FORBIDDEN")
	wantCode(t, p.e.Invite(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteBob}), "M_FORBIDDEN")
	p.want("m.room.name", "", "")
	if p.newest() != before {
		t.Error("an event that was refused is in the timeline")
	}
	// Nobody is asked when the policy server is dismissed.
	p.local(event.TypePolicy, `{}`)
	p.text("free")
	p.wantShown("free")
}

func TestAnswersOfPolicyServers(t *testing.T) {
	p := newGuarded(t, "11")
	other := ed25519.NewKeyFromSeed([]byte(strings.Repeat("q", ed25519.SeedSize)))
	for name, test := range map[string]struct {
		policy func(*event.PDU) (map[id.Server]map[id.Key]string, error)
		status int
		code   string
	}{
		"none": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) { return nil, nil }, 403, "M_FORBIDDEN"},
		"of another": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) {
			return map[id.Server]map[id.Key]string{"x": {keyIDOfPolicy: "AA"}}, nil
		}, 403, "M_FORBIDDEN"},
		"malformed": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) {
			return map[id.Server]map[id.Key]string{elsewhere: {keyIDOfPolicy: "?"}}, nil
		}, 403, "M_FORBIDDEN"},
		"other key": {func(pdu *event.PDU) (map[id.Server]map[id.Key]string, error) {
			s, err := pdu.AddSignature(elsewhere, keyIDOfPolicy, other)
			return map[id.Server]map[id.Key]string{elsewhere: {keyIDOfPolicy: signatureOf(s)}}, err
		}, 403, "M_FORBIDDEN"},
		"limits": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) {
			return nil, errcode.New(429, "M_LIMIT_EXCEEDED", "slow down")
		}, 429, "M_LIMIT_EXCEEDED"},
		"not one": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) {
			return nil, errcode.New(404, "M_UNRECOGNIZED", "what?")
		}, 403, "M_FORBIDDEN"},
		"broken": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) {
			return nil, errcode.New(500, "M_UNKNOWN", "ouch")
		}, 502, "M_UNKNOWN"},
		"not reachable": {func(*event.PDU) (map[id.Server]map[id.Key]string, error) { return nil, errors.New("no route to host") }, 502, "M_UNKNOWN"},
	} {
		p.policy = test.policy
		err := p.tries(name)
		if told := (*errcode.Error)(nil); !errors.As(err, &told) || told.Status != test.status || told.Code != test.code {
			t.Errorf("%s: %v, want %d %s", name, err, test.status, test.code)
		}
		arrived := p.say(name, p.newest())
		p.deliver(arrived) // a soft failure is not told
	}
	p.wantShown()
}

// con#1481: where there is a stable and an unstable policy event, servers took one or
// the other, and the room split.
func TestCon1481_OnlyTheStablePolicyEventCounts(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.policy = refuse
	p.local("org.matrix.msc4284.policy", fmt.Sprintf(`{"via":%q,"public_key":"AA"}`, elsewhere))
	p.text("unstable only")
	p.policy = p.agree
	p.local(event.TypePolicy, policyContent(elsewhere, keyOfPolicy))
	p.local("org.matrix.msc4284.policy", `{"via":"third.example","public_key":"AA"}`)
	p.text("both")
	p.wantSigned()
	p.wantShown("unstable only", "both")
}

// spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
func TestWhatIsNoPolicyServer(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "11")
	p.policy = refuse
	for _, content := range []string{
		`{}`, `{"via":7,"public_keys":{"ed25519":"AA"}}`, `{"via":"elsewhere.example"}`, `{"via":"elsewhere.example","public_keys":"AA"}`,
		`{"via":"elsewhere.example","public_keys":{"ed25519":7}}`, policyContent("nobody.example", keyOfPolicy),
	} {
		p.local(event.TypePolicy, content)
		p.must(p.tries(content))
	}
	p.local(event.TypePolicy, policyContent(elsewhere, keyOfPolicy))
	wantCode(t, p.tries("guarded"), "M_FORBIDDEN")
	// It withdraws by leaving the room, to which it has to consent itself.
	p.policy = p.agree
	p.must(p.leave())
	p.policy = refuse
	p.must(p.tries("free again"))
}

// spec: server-server-api#validating-policy-server-signatures
func TestTheEventsOfOthersNeedThePolicyServersSignature(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		p.policy = p.agree
		p.local(event.TypePolicy, policyContent(elsewhere, keyOfPolicy))
		signed, err := p.say("signed", p.newest()).AddSignature(elsewhere, keyIDOfPolicy, keyOfPolicy)
		p.must(err)
		p.deliver(signed)
		if slices.Contains(p.asked, "policy") {
			t.Error("the policy server is asked although it has signed")
		}
		p.deliver(p.say("unsigned", p.newest()))
		p.wantSigned()
		stale, err := p.say("signed with a key that is no more", p.newest()).AddSignature(elsewhere, keyIDOfPolicy, p.key)
		p.must(err)
		p.deliver(stale)
		p.wantSigned()
		p.policy = refuse
		last := p.newest()
		refused := p.say("refused", last)
		p.deliver(refused)
		p.wantExtremities(last)
		p.wantShown("signed", "unsigned", "signed with a key that is no more")
	})
}

// A user whom the policy server does not want in the room does not come in here either.
func TestAJoinThatIsHandedInIsShownToThePolicyServer(t *testing.T) {
	p := newGuarded(t, "11")
	template, err := p.e.MakeJoin(t.Context(), p.approach(remoteBob))
	p.must(err)
	p.policy = refuse
	_, err = p.e.SendJoin(t.Context(), p.handIn(p.complete(template, nil)), false)
	wantCode(t, err, "M_FORBIDDEN")
	p.want(event.TypeMember, string(remoteBob), "")
	p.policy = p.agree
	_, err = p.e.SendJoin(t.Context(), p.handIn(p.complete(template, func(proto *event.Proto) { proto.OriginServerTS++ })), false)
	p.must(err)
	p.want(event.TypeMember, string(remoteBob), `{"membership":"join"}`)
	p.wantSigned()
}

// While the policy server thinks, the room goes on: what others say arrives, and what is
// signed then takes its place beside it.
func TestTheRoomGoesOnWhileThePolicyServerThinks(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		p.policy = p.agree
		p.local(event.TypePolicy, policyContent(elsewhere, keyOfPolicy))
		root := p.newest()
		p.policy = func(pdu *event.PDU) (map[id.Server]map[id.Key]string, error) {
			p.policy = p.agree
			p.deliver(p.say("meanwhile", root))
			return p.agree(pdu)
		}
		proposal := room.Proposal{Sender: alice, Type: "m.room.message", Content: jsontext.Value(`{"body":"said first","msgtype":"m.text"}`),
			Txn: &room.Txn{Device: "A", ID: "t1", Endpoint: "send"}}
		sent, err := p.e.Send(t.Context(), p.room, proposal)
		p.must(err)
		p.learn()
		p.wantShown("meanwhile", "said first")
		p.wantSigned()
		if p.events[sent].PrevEvents[0] != root {
			t.Errorf("%s", p.events[sent].JSON)
		}
		if again, err := p.e.Send(t.Context(), p.room, proposal); again != sent || err != nil {
			t.Errorf("the same transaction made %s: %v", again, err)
		}
		// One that the room no longer allows by then is refused.
		p.policy = func(pdu *event.PDU) (map[id.Server]map[id.Key]string, error) {
			p.policy = p.agree
			p.local(event.TypePolicy, `{}`)
			p.local(event.TypePolicy, policyContent(elsewhere, p.key))
			return p.agree(pdu)
		}
		if err := p.tries("for another key"); err == nil {
			t.Error("it was sent without the signature that the room asks for now")
		}
	})
}

// What goes out of a room's state by itself, in a user's name, is shown to the policy
// server as what the user sends is.
func TestACanonicalAliasThatIsDroppedIsShownToThePolicyServer(t *testing.T) {
	p := newGuarded(t, "11")
	p.local(event.TypeCanonicalAlias, `{"alias":"#gone:`+string(storetest.Server)+`"}`)
	p.must(p.e.DropCanonicalAlias(t.Context(), p.room, id.Alias("#gone:"+storetest.Server), alice))
	p.learn()
	p.want(event.TypeCanonicalAlias, "", `{}`)
	p.wantSigned()
}
