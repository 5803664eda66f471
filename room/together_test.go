package room_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
	"hearth/stream"
)

// ruled is a room in which Charlie, of the other server, has the power of an admin.
func (p *peer) ruled() (root id.Event) {
	p.t.Helper()
	return p.local(event.TypePowerLevels, p.levels(`"@none:elsewhere.example":0`))
}

// levels are power levels by which Charlie is an admin, and others have what is given.
func (p *peer) levels(others string) string {
	admins := fmt.Sprintf(`%q:100,%q:100`, alice, remoteCharlie)
	if p.v.PrivilegedCreators {
		admins = fmt.Sprintf(`%q:100`, remoteCharlie)
	}
	return fmt.Sprintf(`{"users":{%s,%s}}`, admins, others)
}

func (p *peer) sayAs(user id.User, body string, prev ...id.Event) *event.PDU {
	p.t.Helper()
	return p.build(user, "m.room.message", nil, fmt.Sprintf(`{"msgtype":"m.text","body":%q}`, body), prev...)
}

// wantMemory checks that the engine has events in memory as one does that reads them anew.
func (p *peer) wantMemory() {
	p.t.Helper()
	fresh := room.New(p.s, room.Options{Server: storetest.Server})
	want := timeline(p.t, p.s, fresh, p.room)
	for i, got := range timeline(p.t, p.s, p.e, p.room) {
		if x, y := fmt.Sprintf("%+v", got.Event), fmt.Sprintf("%+v", want[i].Event); x != y || !bytes.Equal(got.PDU.JSON, want[i].PDU.JSON) {
			p.t.Errorf("in memory: %s %s\nstored: %s %s", x, got.PDU.JSON, y, want[i].PDU.JSON)
		}
	}
}

// Within a transaction, each event is judged by what those before it have made of the room.
func TestATransactionChangesWhatItsOwnEventsMayDo(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.ruled()
		bob := p.member(remoteBob, "join", root)
		early := p.set(remoteBob, "m.room.topic", `{"topic":"too early"}`, bob.ID)
		// The peer knows no rules: what is refused is no part of the state, so it builds on what is before.
		delete(p.after[early.ID], event.StateTuple{Type: "m.room.topic"})
		raised := p.set(remoteCharlie, event.TypePowerLevels, p.levels(fmt.Sprintf("%q:50", remoteBob)), bob.ID)
		topic := p.set(remoteBob, "m.room.topic", `{"topic":"by Bob"}`, raised.ID)
		lowered := p.set(remoteCharlie, event.TypePowerLevels, p.levels(fmt.Sprintf("%q:0", remoteBob)), topic.ID)
		late := p.set(remoteBob, "m.room.topic", `{"topic":"too late"}`, lowered.ID)
		p.after[late.ID] = p.after[lowered.ID]
		ban := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteBob)), `{"membership":"ban"}`, late.ID)
		behind := p.sayAs(remoteBob, "said beside the ban", late.ID)
		end := p.say("end", ban.ID)

		results := p.send(bob, early, raised, topic, lowered, late, ban, behind, end)
		for name, code := range map[id.Event]string{early.ID: "M_FORBIDDEN", late.ID: "M_FORBIDDEN"} {
			wantCode(t, results[name], code)
			p.wantFlags(name, store.Rejected)
			delete(results, name)
		}
		for name, err := range results {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		p.wantFlags(behind.ID, store.SoftFailed)
		p.want("m.room.topic", "", `{"topic":"by Bob"}`)
		p.want(event.TypeMember, string(remoteBob), `{"membership":"ban"}`)
		p.wantShown("end")
		p.wantExtremities(end.ID)
		p.wantMemory()
	})
}

// One bad event of a transaction is no matter of the others, whatever is wrong with it.
func TestOneBadEventOfATransaction(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.newest()
		one := p.say("one", root)
		coup := p.set(remoteCharlie, event.TypePowerLevels, p.levels(`"@none:elsewhere.example":0`), one.ID)
		p.after[coup.ID] = p.after[one.ID]
		two := p.say("two", one.ID)
		forged := p.say("forged", two.ID)
		p.forged[forged.ID] = true
		three := p.say("three", two.ID)
		unobtainable := p.say("after something that is kept back", p.say("kept back", three.ID).ID)
		p.hides[unobtainable.PrevEvents[0]] = true
		four := p.say("four", three.ID)
		results := p.e.Receive(t.Context(), elsewhere, p.room, []jsontext.Value{
			p.raw(one.ID), p.raw(coup.ID), jsontext.Value(`{"type":7}`), p.raw(two.ID), p.raw(forged.ID), p.raw(three.ID),
			p.raw(two.ID), p.raw(unobtainable.ID), p.raw(four.ID),
		})
		wantCode(t, results[coup.ID], "M_FORBIDDEN")
		wantCode(t, results[forged.ID], "M_FORBIDDEN")
		for _, pdu := range []*event.PDU{one, two, three, four, unobtainable} {
			if err, told := results[pdu.ID]; err != nil || !told {
				t.Errorf("%s: %v, told %t", pdu.ContentString("body"), err, told)
			}
		}
		p.wantShown("one", "two", "three", "four")
		p.wantExtremities(four.ID)
		// All of it once more changes nothing, and the rejected one is as good as known.
		p.deliver(one, coup, two, three, four)
		p.wantShown("one", "two", "three", "four")
	})
}

// Where ids are chosen, one may be that of an event of another room: what it is among
// goes on.
func TestTheIDOfAnotherRoomsEventInATransaction(t *testing.T) {
	p := newPeer(t, storetest.Open(t, nil), "1")
	other, err := p.e.Create(t.Context(), room.Creation{Creator: alice, Version: "1"})
	p.must(err)
	one := p.say("one", p.newest())
	proto := event.Proto{Room: p.room, Type: "m.room.message", Sender: remoteCharlie, Content: jsontext.Value(`{}`), OriginServerTS: 1, Depth: 100,
		EventID: p.inRoom(other).newest(), PrevEvents: []event.Ref{one.Ref()}}
	for _, name := range one.AuthEvents {
		proto.AuthEvents = append(proto.AuthEvents, p.events[name].Ref())
	}
	thief, err := event.Build(p.v, proto, elsewhere, "ed25519:1", p.key)
	p.must(err)
	two, three := p.say("two", one.ID), p.say("three", one.ID)
	p.deliver(one, two, thief, three)
	p.wantShown("one", "two", "three")
}

// What is missing before an event in the middle of a transaction is fetched, and all is in order.
func TestAGapInTheMiddleOfATransaction(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.ruled()
		one := p.say("one", root)
		topic := p.set(remoteCharlie, "m.room.topic", `{"topic":"missing"}`, one.ID)
		three := p.say("three", p.say("two", topic.ID).ID)
		four := p.say("four", three.ID)
		p.deliver(one, three, four)
		p.wantShown("one", "two", "three", "four")
		p.want("m.room.topic", "", `{"topic":"missing"}`)
		p.wantExtremities(four.ID)
		p.wantMemory()
	})
}

// An event that a soft-failed one before it in the transaction made known to be missing is
// no news when it comes later in the same transaction.
func TestWhatIsMissingComesInTheSameTransaction(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.member(remoteBob, "join", p.newest())
		p.deliver(root)
		hidden := p.say("hidden", root.ID)
		late := p.say("soft-failed", hidden.ID)
		later := p.say("soft-failed too", late.ID)
		p.must(p.e.Ban(t.Context(), room.Change{Room: p.room, Sender: alice, Target: remoteCharlie}))
		p.learn()
		ban := p.newest()
		p.hides[hidden.ID] = true
		p.deliver(later) // has the one before it fetched, and what that says of the state
		p.wantFlags(late.ID, store.SoftFailed)
		p.deliver(p.sayAs(remoteBob, "news", later.ID, ban), hidden)
		p.wantFlags(hidden.ID, 0)
		p.wantShown("news", "hidden")
	})
}

// A fork within a transaction: branches with different states, and an event that joins them.
func TestAForkWithinATransaction(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.ruled()
		bob := p.member(remoteBob, "join", root)
		topic := p.set(remoteCharlie, "m.room.topic", `{"topic":"of one branch"}`, bob.ID)
		kick := p.build(remoteCharlie, event.TypeMember, ptr(string(remoteBob)), `{"membership":"leave"}`, topic.ID)
		name := p.set(remoteCharlie, "m.room.name", `{"name":"of the other"}`, bob.ID)
		said := p.sayAs(remoteBob, "in the other branch", name.ID)
		p.deliver(bob, topic, kick, name, said)
		p.wantExtremities(kick.ID, name.ID)
		p.wantFlags(said.ID, store.SoftFailed)
		state := maps.Clone(p.after[kick.ID])
		state[name.Tuple()] = name
		merged := p.merge(state, kick.ID, said.ID)
		end := p.say("end", merged.ID)
		p.deliver(merged, end)
		p.want("m.room.topic", "", `{"topic":"of one branch"}`)
		p.want("m.room.name", "", `{"name":"of the other"}`)
		p.want(event.TypeMember, string(remoteBob), `{"membership":"leave"}`)
		p.wantExtremities(end.ID)
		p.wantMemory()
	})
}

// A redaction and what it redacts may come in one transaction, the redaction first or last.
func TestARedactionInTheTransactionOfItsTarget(t *testing.T) {
	for _, first := range []bool{false, true} {
		t.Run(fmt.Sprintf("redaction first: %t", first), func(t *testing.T) {
			eachResolution(t, func(t *testing.T, p *peer) {
				root := p.say("root", p.newest())
				content := fmt.Sprintf(`{"body":"secret","msgtype":"m.text","m.relates_to":{"rel_type":"m.thread","event_id":%q}}`, root.ID)
				secret := p.build(remoteCharlie, "m.room.message", nil, content, root.ID)
				redaction := p.redact(secret, fmt.Sprintf(`{"redacts":%q}`, secret.ID))
				batch := []*event.PDU{root, secret, redaction}
				if first {
					batch = []*event.PDU{root, redaction, secret}
				}
				p.deliver(batch...)
				p.wantShown("root", "")
				p.wantMemory()
				p.must(p.s.View(t.Context(), func(tx *store.Tx) error {
					row, ok, err := tx.Events.GetID(secret.ID)
					if strings.Contains(string(row.JSON), "secret") || row.RedactedBy == 0 || !ok {
						t.Errorf("stored is %s, redacted by %d", row.JSON, row.RedactedBy)
					}
					return err
				}))
				script := &script{T: t, s: p.s, e: p.e, name: p.room}
				if got := script.thread(alice, root.ID); got != "none" {
					t.Errorf("the thread of the redacted event is %s", got)
				}
			})
		})
	}
}

// A policy server that the transaction itself sets is asked for what comes after it.
func TestATransactionThatSetsThePolicyServer(t *testing.T) {
	eachResolution(t, func(t *testing.T, p *peer) {
		root := p.ruled()
		p.policy = p.agree
		one := p.say("one", root)
		policy := p.set(remoteCharlie, event.TypePolicy, policyContent(elsewhere, keyOfPolicy), one.ID)
		two := p.say("two", policy.ID)
		p.deliver(one, policy, two)
		p.wantShown("one", "two")
		p.wantSigned()
		p.policy = refuse
		three := p.say("three", two.ID)
		signed, err := p.say("four", two.ID).AddSignature(elsewhere, keyIDOfPolicy, keyOfPolicy)
		p.must(err)
		p.send(three, signed)
		p.wantShown("one", "two", "four")
		p.wantFlags(three.ID, store.SoftFailed)
	})
}

// Whoever waits is woken once for a transaction, and then all of it is there.
func TestATransactionIsOneCommit(t *testing.T) {
	var mu sync.Mutex
	var commits []stream.Commit
	s := storetest.Open(t, func(c stream.Commit) func() {
		mu.Lock()
		defer mu.Unlock()
		commits = append(commits, c)
		return func() {}
	})
	p := newPeer(t, s, "11")
	root := p.ruled()
	var batch []*event.PDU
	var bodies []string
	for i := range 50 {
		pdu := p.say(fmt.Sprint(i), root)
		if i%10 == 9 {
			pdu = p.set(remoteCharlie, "m.room.topic", fmt.Sprintf(`{"topic":"%d"}`, i), root)
		} else {
			bodies = append(bodies, fmt.Sprint(i))
		}
		root, batch = pdu.ID, append(batch, pdu)
	}
	mu.Lock()
	commits = nil
	mu.Unlock()
	p.deliver(batch...)
	p.wantShown(bodies...)
	p.wantMemory()
	all := timeline(t, s, p.e, p.room)
	mu.Lock()
	defer mu.Unlock()
	if len(commits) != 1 || commits[0].Position != all[len(all)-1].Position {
		t.Errorf("%d commits: %v", len(commits), commits)
	}
}

// Events that arrive in transactions have the outcome that they have one by one, in the same order.
func TestTogetherAndOneByOneHaveOneOutcome(t *testing.T) {
	for _, version := range []string{"6", "10", "11", "12"} {
		for seed := *tangleSeed; seed < *tangleSeed+*tangleSeeds; seed++ {
			t.Run(fmt.Sprintf("version %s, seed %d", version, seed), func(t *testing.T) {
				g := newTangle(t, version, seed)
				together := g.witness(0)
				stores := []*store.Store{g.s}
				singly := g.witness(1)
				stores = append(stores, g.s)
				g.start = len(g.made) - 1
				for range 150 {
					g.step()
					if g.IntN(4) == 0 {
						g.refer()
					}
				}
				g.merge()
				for order := slices.Clone(g.made[g.start+1:]); len(order) > 0; {
					batch := order[:min(len(order), 1+g.IntN(50))]
					order = order[len(batch):]
					g.Shuffle(len(batch), func(i, j int) { batch[i], batch[j] = batch[j], batch[i] })
					results := g.receive(together, batch...)
					for _, pdu := range asJudged(batch) {
						got, want := results[pdu.ID], g.receive(singly, pdu)[pdu.ID]
						if fmt.Sprint(got) != fmt.Sprint(want) {
							t.Errorf("%s: %v, by itself: %v", g.describe(pdu), got, want)
						}
					}
				}
				got, want := g.outcome(stores[0], together), g.outcome(stores[1], singly)
				for i := range got {
					if got[i] != want[i] {
						t.Errorf("together: %s\none by one: %s", got[i], want[i])
					}
				}
				g.compare(stateOf(t, stores[0], together, g.room), stateOf(t, stores[1], singly, g.room), "the state")
			})
		}
	}
}

func (g *tangle) receive(e *room.Engine, pdus ...*event.PDU) map[id.Event]error {
	raws := make([]jsontext.Value, len(pdus))
	for i, pdu := range pdus {
		raws[i] = g.raw(pdu.ID)
	}
	return e.Receive(g.t.Context(), elsewhere, g.room, raws)
}

// refer has the admin redact some event, or react to it, be it before that or not.
func (g *tangle) refer() {
	prev := g.parents()
	target := g.made[max(g.start, len(g.made)-1-g.IntN(20))]
	proto := event.Proto{Room: g.room, Type: event.TypeRedaction, Sender: g.admin, Redacts: target.ID, OriginServerTS: 1,
		Content: jsontext.Value(fmt.Sprintf(`{"redacts":%q}`, target.ID))}
	if g.IntN(2) == 0 {
		proto.Type, proto.Redacts = "m.reaction", ""
		proto.Content = jsontext.Value(fmt.Sprintf(`{"m.relates_to":{"rel_type":"m.annotation","event_id":%q,"key":"%d"}}`, target.ID, g.IntN(1000)))
	}
	var depths []int64
	for _, name := range prev {
		proto.PrevEvents = append(proto.PrevEvents, g.events[name].Ref())
		depths = append(depths, g.events[name].Depth)
	}
	proto.Depth = event.NextDepth(g.v, depths...)
	state := g.meet(prev)
	for _, t := range authrules.Needed(g.v, authrules.Draft{Type: proto.Type, Sender: g.admin, Content: proto.Content}) {
		if a := state[t]; a != nil {
			proto.AuthEvents = append(proto.AuthEvents, a.Ref())
		}
	}
	pdu, err := event.Build(g.v, proto, elsewhere, "ed25519:1", g.key)
	g.must(err)
	g.know(pdu)
	g.made, g.heads = append(g.made, pdu), append(g.heads, pdu.ID)
}

// asJudged puts the events of a transaction in the order in which servers judge them: the first
// of which all before it have been judged, again and again.
func asJudged(pdus []*event.PDU) (sorted []*event.PDU) {
	left := slices.Clone(pdus)
	for len(left) > 0 {
		i := slices.IndexFunc(left, func(pdu *event.PDU) bool {
			return !slices.ContainsFunc(left, func(other *event.PDU) bool { return slices.Contains(pdu.PrevEvents, other.ID) })
		})
		sorted, left = append(sorted, left[i]), slices.Delete(left, i, i+1)
	}
	return sorted
}

// outcome is what a server has made of the tangle's events, in memory and stored.
func (g *tangle) outcome(s *store.Store, e *room.Engine) (lines []string) {
	g.t.Helper()
	place := map[id.Event]int{}
	for _, ev := range timeline(g.t, s, e, g.room) {
		place[ev.ID] = len(place)
	}
	first := place[g.made[g.start].ID]
	g.must(s.View(g.t.Context(), func(tx *store.Tx) error {
		for _, pdu := range g.made[g.start+1:] {
			row, _, err := tx.Events.GetID(pdu.ID)
			if err != nil {
				return err
			}
			kept, err := e.Events(tx, []store.EventNID{row.NID})
			if err != nil {
				return err
			}
			in := kept[0]
			if in.Position != row.Position || in.RedactedBy != row.RedactedBy || !bytes.Equal(in.PDU.JSON, row.JSON) || in.StateBefore != row.StateBefore || in.Flags != row.Flags {
				g.t.Errorf("%s is %+v in memory, %+v stored", g.describe(pdu), in.Event, row)
			}
			related, err := tx.Relations.Related(row.Room, []id.Event{pdu.ID})
			if err != nil {
				return err
			}
			at := -1
			if row.Position != 0 {
				at = place[pdu.ID] - first
			}
			lines = append(lines, fmt.Sprintf("%s: flags %b, place %d, redacted %t, related %v: %s", pdu.ID, row.Flags, at, row.RedactedBy != 0, related[pdu.ID], row.JSON))
		}
		return nil
	}))
	return lines
}
