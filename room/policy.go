package room

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/signing"
	"hearth/store"
)

// This is what every server does in rooms that have a policy server; what that does, if
// it is this server, is in policyserver.go.

// policyServer is the server that a room's state asks to look at every event. Only
// m.room.policy names it: what servers made of the state events of its proposal, which
// have other types, differs, and two of them would split the room.
// spec: server-server-api#policy-servers
type policyServer struct {
	via id.Server
	key ed25519.PublicKey // nil: one that nothing can be signed with
}

// policyKey is the name of every policy server's key.
const policyKey = id.Key("ed25519:policy_server")

// parsePolicy reads who the policy server is; nil: the content names none.
// spec: server-server-api#determining-if-a-policy-server-is-enabled-in-a-room
func parsePolicy(p *event.PDU) *policyServer {
	if p == nil {
		return nil
	}
	via, ok := canonical.GetString(p.Content, "via")
	text, ok2 := canonical.GetString(canonical.Get(p.Content, "public_keys"), "ed25519")
	if !ok || !ok2 || via == "" {
		return nil
	}
	s := &policyServer{via: id.Server(via)}
	if key, err := signing.DecodeBase64(text); err == nil && len(key) == ed25519.PublicKeySize {
		s.key = key
	}
	return s
}

// same says whether two are one server with one key.
func (s *policyServer) same(o *policyServer) bool {
	return s == o || s != nil && o != nil && s.via == o.via && s.key.Equal(o.key)
}

// recommends says whether the event has the server's valid signature, or needs none.
// spec: server-server-api#validating-policy-server-signatures
func (s *policyServer) recommends(p *event.PDU) bool {
	return s == nil || p.Is(event.TypePolicy, "") || p.VerifySignature(s.via, policyKey, s.key) == nil
}

// policyNow is the policy server that the room uses: one that its state names, and
// that has a member there; nil: none.
func (h *Head) policyNow(tx *store.Tx) (*policyServer, error) {
	if h.policy == nil {
		return nil, nil
	}
	nid, ok, err := tx.IDs.FindServer(h.policy.via)
	if err != nil || !ok || !h.servers.has(nid) {
		return nil, err
	}
	return h.policy, nil
}

// policyOf is the policy server of a room as it stands now, all of it committed.
func (e *Engine) policyOf(ctx context.Context, room id.Room) (s *policyServer, err error) {
	h, ok, err := e.Head(ctx, room)
	if err != nil || !ok || h.policy == nil {
		return nil, err
	}
	err = e.store.View(ctx, func(tx *store.Tx) error {
		s, err = h.policyNow(tx)
		return err
	})
	return s, err
}

// signByPolicy asks a policy server for its signature on an event, where it is needed and not
// there. refusal: it did not give one, and why, as a client may be told.
// spec: server-server-api#asking-for-a-policy-server-signature-on-an-event
func (e *Engine) signByPolicy(ctx context.Context, s *policyServer, p *event.PDU) (signed *event.PDU, refusal, err error) {
	if s.recommends(p) {
		return p, nil, nil
	}
	if e.policy.is(s) {
		return e.policy.sign(ctx, p)
	}
	if e.options.Network == nil {
		return p, errcode.Forbidden("the room's policy server %s cannot be asked, since this server does not federate", s.via), nil
	}
	signatures, err := e.options.Network.SignByPolicyServer(ctx, s.via, p)
	if err != nil {
		if ctx.Err() != nil {
			return p, nil, ctx.Err()
		}
		slog.InfoContext(ctx, "event without the policy server's signature", "room", p.Room, "event", p.ID, "policy_server", s.via, "error", err)
		return p, s.refusal(err), nil
	}
	text, ok := signatures[s.via][policyKey]
	if !ok {
		return p, errcode.Forbidden("the room's policy server %s refuses this event", s.via), nil
	}
	sig, err := signing.DecodeBase64(text)
	if err == nil {
		signed, err = p.WithSignature(s.via, policyKey, sig)
	}
	if err != nil || !s.recommends(signed) {
		return p, errcode.Forbidden("the room's policy server %s signed this event with another key than the room has of it", s.via), nil
	}
	return signed, nil, nil
}

// refusal is what a client is told of an error of the policy server: what it said
// itself, or that it could not be asked.
func (s *policyServer) refusal(err error) error {
	answer := (*errcode.Error)(nil)
	switch {
	case !errors.As(err, &answer):
		return errcode.New(502, "M_UNKNOWN", "the room's policy server %s could not be reached", s.via)
	case answer.Code == "M_UNRECOGNIZED": // which would be about this server
		return errcode.Forbidden("%s, which the room's state names as its policy server, is none", s.via)
	case answer.Status >= 500:
		return errcode.New(502, answer.Code, "the room's policy server %s could not answer: %s", s.via, answer.Message)
	}
	return answer
}

// errPolicyMoved ends a write that found another policy server than the one that was asked.
var errPolicyMoved = errors.New("the room has another policy server now")

// notRecommended says why the policy server does not want an event in the room; nil: it does.
// spec: server-server-api#checks-performed-on-receipt-of-a-pdu 7
func (w *writing) notRecommended(tx *store.Tx, a arrival) (reason, err error) {
	s, err := w.head.policyNow(tx)
	if err != nil || s.recommends(a.pdu) {
		return nil, err
	}
	if !s.same(a.asked) {
		return nil, errPolicyMoved
	}
	if a.refusal != nil {
		return a.refusal, nil
	}
	return errcode.Forbidden("the room's policy server %s has not signed the event", s.via), nil
}

// maxPolicies bounds how many policy servers one event is shown, while the room's
// state changes under it.
const maxPolicies = 3

// receiveSigned has an event judged once the room's policy server was asked for the
// signature that it may lack, which happens before the room is locked.
func (e *Engine) receiveSigned(ctx context.Context, a arrival) (got verdict, err error) {
	for attempt := 1; ; attempt++ {
		if a.asked, err = e.policyOf(ctx, a.pdu.Room); err != nil {
			return got, err
		}
		if a.pdu, a.refusal, err = e.signByPolicy(ctx, a.asked, a.pdu); err != nil {
			return got, err
		}
		err = e.write(ctx, a.pdu.Room, func(w *writing) (err error) {
			got, err = w.receive(ctx, a)
			return err
		})
		if !errors.Is(err, errPolicyMoved) || attempt == maxPolicies {
			return got, err
		}
	}
}

// errUnsigned ends a write whose events a policy server has to sign first.
var errUnsigned = errors.New("the room's policy server has to sign the event first")

// compose is write for the events of users here. In a room with a policy server they
// are drafted, signed by it while the room is not locked, and then made part of it: where the
// room went on meanwhile, beside what came.
func (e *Engine) compose(ctx context.Context, room id.Room, build func(*writing) error) error {
	err := e.write(ctx, room, func(w *writing) error {
		if err := build(w); err != nil {
			return err
		}
		return w.wantSignatures(ctx)
	})
	if !errors.Is(err, errUnsigned) {
		return err
	}
	// One after another: a request that is repeated while its first event is at the policy
	// server must find that, and what a user says must stay in order.
	unlock, err := e.signing.lock(ctx, room)
	if err != nil {
		return err
	}
	defer unlock()
	for attempt := 1; ; attempt++ {
		var draft *writing
		err := e.write(ctx, room, func(w *writing) error {
			if err := build(w); err != nil {
				return err
			}
			draft = w
			return w.wantSignatures(ctx)
		})
		if !errors.Is(err, errUnsigned) {
			return err
		}
		signed, err := e.signDraft(ctx, draft)
		if err != nil {
			return err
		}
		err = e.write(ctx, room, func(w *writing) error { return w.place(ctx, draft, signed, build) })
		if !errors.Is(err, errOvertaken) || attempt == maxAttempts {
			return err
		}
	}
}

// wantSignatures makes sure that the policy server has signed all events of the write set.
func (w *writing) wantSignatures(ctx context.Context) error {
	if w.base.policy == nil || len(w.entries) == 0 {
		return nil
	}
	return w.engine.store.View(ctx, func(tx *store.Tx) error {
		s, err := w.base.policyNow(tx)
		if err != nil {
			return err
		}
		for _, en := range w.entries {
			if !s.recommends(en.event.PDU) {
				w.asks = s
				return errUnsigned
			}
		}
		return nil
	})
}

// signDraft has the policy server sign the events of a draft; an error is what the
// client is told.
func (e *Engine) signDraft(ctx context.Context, draft *writing) ([]*event.PDU, error) {
	signed := make([]*event.PDU, len(draft.entries))
	for i, en := range draft.entries {
		p, refusal, err := e.signByPolicy(ctx, draft.asks, en.event.PDU)
		if err := errors.Join(err, refusal); err != nil {
			return nil, err
		}
		signed[i] = p
	}
	return signed, nil
}

// errOvertaken ends a write whose draft does not fit the room any more.
var errOvertaken = errors.New("the room has moved on from where the events were drafted")

// place makes a draft part of the room. If that stands where it did, build runs again,
// and gets the signed events for those it makes. If not, one event takes its place as if it came
// from another server; of several, each refers to those before, so that they are drafted anew.
func (w *writing) place(ctx context.Context, draft *writing, signed []*event.PDU, build func(*writing) error) error {
	if w.base == draft.base {
		w.ready = signed
		if err := build(w); err != nil {
			return err
		}
		if len(w.ready) > 0 {
			return errOvertaken
		}
		return w.wantSignatures(ctx)
	}
	if len(signed) != 1 || len(draft.also) > 0 {
		return errOvertaken
	}
	got, err := w.receive(ctx, arrival{pdu: signed[0], asked: draft.asks, forward: true})
	switch {
	case errors.Is(err, errMissingPrev), errors.Is(err, errPolicyMoved):
		return fmt.Errorf("%w: %w", errOvertaken, err)
	case err != nil:
		return err
	case got.reason != nil:
		return got.reason
	}
	en, drafted := &w.entries[len(w.entries)-1], draft.entries[0]
	en.txn, en.event.Txn = drafted.txn, drafted.event.Txn
	return nil
}

// signedAs is the signed form of the event that a proposal made when it was drafted; nil: none is there.
func (w *writing) signedAs(p Proposal) *event.PDU {
	if len(w.ready) == 0 {
		return nil
	}
	pdu := w.ready[0]
	content, err := canonical.Append(nil, p.Content, canonical.Options{Strict: w.head.Version.StrictCanonicalJSON})
	if err != nil || pdu.Type != p.Type || pdu.Sender != p.Sender || pdu.IsState() != (p.StateKey != nil) ||
		p.StateKey != nil && *pdu.StateKey != *p.StateKey || !slices.Equal(pdu.Content, jsontext.Value(content)) {
		return nil
	}
	w.ready = w.ready[1:]
	return pdu
}
