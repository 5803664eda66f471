package room

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"regexp"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/signing"
)

// PolicyServer is what this server needs to be the policy server of rooms: the key that
// they have of it, and what it does not sign.
// spec: server-server-api#policy-servers
type PolicyServer struct {
	Key ed25519.PrivateKey
	// DenyUsers and DenyServers are globs of those whose events are refused. A server is
	// looked for by its name with and without the port.
	DenyUsers, DenyServers []string
	// DenyText is what no message may have in its text.
	DenyText []*regexp.Regexp
	// MaxMentions is how many users a message may mention; 0: any number.
	MaxMentions int
	// Permit says of other servers with whom this one speaks at all; nil: with all.
	Permit func(id.Server) bool
}

// ownPolicy is a PolicyServer at work; nil: this server is none.
type ownPolicy struct {
	PolicyServer
	named          policyServer // as a room's state names it
	users, servers globs
}

func newOwnPolicy(o Options) *ownPolicy {
	if o.PolicyServer == nil {
		return nil
	}
	return &ownPolicy{
		PolicyServer: *o.PolicyServer,
		named:        policyServer{via: o.Server, key: o.PolicyServer.Key.Public().(ed25519.PublicKey)},
		users:        globsOf(o.PolicyServer.DenyUsers),
		servers:      globsOf(o.PolicyServer.DenyServers),
	}
}

// is says whether a room's policy server is this server. One with its name and another
// key may be a program beside it.
func (o *ownPolicy) is(s *policyServer) bool { return o != nil && s != nil && o.named.same(s) }

// sign is signByPolicy where nobody else has to be asked.
func (o *ownPolicy) sign(ctx context.Context, p *event.PDU) (signed *event.PDU, refusal, err error) {
	if refusal := o.refusal(p); refusal != nil {
		o.log(ctx, o.named.via, p, refusal)
		return p, refusal, nil
	}
	signed, err = p.WithSignature(o.named.via, policyKey, p.SignatureBy(o.Key))
	return signed, nil, err
}

func (o *ownPolicy) log(ctx context.Context, origin id.Server, p *event.PDU, refusal error) {
	slog.InfoContext(ctx, "event refused as the room's policy server", "room", p.Room, "event", p.ID, "sender", p.Sender, "origin", origin, "reason", refusal)
}

// PolicyKey is the public key that rooms name this server with as their policy server;
// nil: it is none.
func (e *Engine) PolicyKey() ed25519.PublicKey {
	if e.policy == nil {
		return nil
	}
	return e.policy.named.key
}

// SignAsPolicyServer signs an event that another server is about to send, or got without
// this server's signature; the answer has the signature by server and key id. Whoever
// asks need not be in the room: one that has just joined may ask before its join is here.
// spec: server-server-api#post_matrixpolicyv1sign
func (e *Engine) SignAsPolicyServer(ctx context.Context, origin id.Server, raw jsontext.Value) (map[id.Server]map[id.Key]string, error) {
	o := e.policy
	if o == nil {
		return nil, errcode.Unrecognized("this server is no policy server")
	}
	var in struct {
		Room id.Room `json:"room_id"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return nil, errcode.BadJSON("room_id: %s", err)
	}
	if in.Room == "" {
		return nil, errcode.BadJSON("the event has no room_id")
	}
	s, err := e.policyOf(ctx, in.Room)
	if err != nil {
		return nil, err
	}
	if !o.is(s) {
		return nil, errcode.NotFound("room %s is not known here, or this server is not its policy server", in.Room)
	}
	h, err := e.admit(ctx, origin, in.Room)
	if err != nil {
		return nil, err
	}
	p, err := event.Parse(h.Version, raw)
	if err != nil {
		return nil, err
	}
	if err := p.CheckLimits(); err != nil {
		return nil, err
	}
	if refusal := o.refusal(p); refusal != nil {
		o.log(ctx, origin, p, refusal)
		return nil, refusal
	}
	return map[id.Server]map[id.Key]string{o.named.via: {policyKey: signing.EncodeBase64(p.SignatureBy(o.Key))}}, nil
}

// noSignature is the error by which a policy server does not sign an event.
// spec: server-server-api#post_matrixpolicyv1sign 400
func noSignature(format string, a ...any) error {
	return errcode.New(400, "M_FORBIDDEN", format, a...)
}

// refusal says why an event is not signed; nil: it is. Its texts are shown to the sender.
func (o *ownPolicy) refusal(p *event.PDU) error {
	switch {
	case p.Is(event.TypePolicy, ""):
		return noSignature("m.room.policy itself is not for a policy server to sign")
	case !p.CheckContentHash():
		// The signature would cover the hash only, so that of whatever content.
		return noSignature("the event's content is not that of its hash")
	case p.Is(event.TypeMember, string(p.Sender)) && p.Membership() == event.MembershipLeave:
		return nil // who is not wanted shall be able to go
	case o.denies(p.Sender):
		return noSignature("the policy server of this room does not want events of %s in it", p.Sender)
	}
	return o.refusesContent(p.Content)
}

func (o *ownPolicy) denies(sender id.User) bool {
	server := sender.Server()
	if o.Permit != nil && server != o.named.via && !o.Permit(server) {
		return true
	}
	return o.users.match(strings.ToLower(string(sender))) ||
		o.servers.match(strings.ToLower(string(server))) || o.servers.match(strings.ToLower(hostOf(server)))
}

// refusesContent looks at what a message says, and at what it says instead of another.
func (o *ownPolicy) refusesContent(content jsontext.Value) error {
	for _, c := range [][]byte{content, canonical.Get(content, "m.new_content")} {
		for _, key := range []string{"body", "formatted_body"} {
			text, ok := canonical.GetString(c, key)
			for _, deny := range o.DenyText {
				if ok && deny.MatchString(text) {
					return noSignature("the policy server of this room does not want what the message says")
				}
			}
		}
		if o.MaxMentions == 0 {
			continue
		}
		if n := count(canonical.Get(canonical.Get(c, "m.mentions"), "user_ids")); n > o.MaxMentions {
			return noSignature("the message mentions %d users; in this room it may be %d", n, o.MaxMentions)
		}
	}
	return nil
}

// count is how many entries an array has; what is none has none.
func count(array []byte) (n int) {
	if len(array) == 0 || array[0] != '[' {
		return 0
	}
	for c := canonical.Walk(array); c.Next(); {
		n++
	}
	return n
}
