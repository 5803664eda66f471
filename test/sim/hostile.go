package sim

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/authrules"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// scene is a room as the hostile server sees it.
type scene struct {
	timeline []*event.PDU
	tips     []*event.PDU
	state    map[event.StateTuple]*event.PDU
}

func (s *Server) scene(name id.Room) scene {
	c := scene{state: map[event.StateTuple]*event.PDU{}}
	h, ok, err := s.engine.Head(s.w.ctx, name)
	s.w.must(err)
	if !ok || h.Create == nil {
		return c
	}
	s.w.must(s.store.View(s.w.ctx, func(tx *store.Tx) error {
		load := func(nids []store.EventNID) (list []*event.PDU, err error) {
			events, err := s.engine.Events(tx, nids)
			for _, ev := range events {
				list = append(list, ev.PDU)
			}
			return list, err
		}
		if c.tips, err = load(h.Extremities); err != nil {
			return err
		}
		var nids []store.EventNID
		h.State.All(func(_ store.StateKey, nid store.EventNID) bool { nids = append(nids, nid); return true })
		state, err := load(nids)
		for _, p := range state {
			c.state[p.Tuple()] = p
		}
		if err != nil {
			return err
		}
		places, err := tx.Events.TimelineUp(h.NID, 0, 1<<60, 1000)
		if err != nil {
			return err
		}
		nids = nil
		for _, p := range places {
			nids = append(nids, p.NID)
		}
		c.timeline, err = load(nids)
		return err
	}))
	return c
}

// forge makes an event as one likes.
func (s *Server) forge(c scene, sender id.User, typ string, key *string, content string, change func(*event.Proto)) *event.PDU {
	w := s.w
	proto := event.Proto{Room: w.room, Type: typ, StateKey: key, Sender: sender, Content: jsontext.Value(content), OriginServerTS: time.Now().UnixMilli()}
	var depths []int64
	for _, p := range c.tips[:min(len(c.tips), 20)] {
		proto.PrevEvents = append(proto.PrevEvents, p.Ref())
		depths = append(depths, p.Depth)
	}
	proto.Depth = event.NextDepth(w.version, depths...)
	for _, t := range authrules.Needed(w.version, authrules.Draft{Type: typ, StateKey: key, Sender: sender, Content: proto.Content}) {
		if a := c.state[t]; a != nil {
			proto.AuthEvents = append(proto.AuthEvents, a.Ref())
		}
	}
	if w.version.EventID == roomversion.EventIDField {
		proto.EventID = id.Event(fmt.Sprintf("$%d:%s", w.rand.Int64(), s.Name))
	}
	if change != nil {
		change(&proto)
	}
	p, err := event.Build(w.version, proto, s.Name, "ed25519:1", s.key)
	if err != nil {
		return nil // it is not even an event
	}
	return p
}

// attack sends something that it should not to a server.
func (w *World) attack(to *Server) {
	s := w.hostile()
	c := s.scene(w.room)
	if len(c.tips) == 0 || w.parted(s, to) {
		return
	}
	me := s.user("alice")
	what, raws := s.attacks(c, to, me)
	w.note("attack on %s: %s (%d events)", to.Name, what, len(raws))
	if len(raws) == 0 {
		return
	}
	results := to.engine.Receive(w.ctx, s.Name, w.room, raws)
	for name, err := range results {
		w.wantTold(err, what+" "+string(name))
	}
	w.watchResidence()
}

func raw(p *event.PDU) jsontext.Value { return event.AppendFederation(nil, p, nil) }

func raws(list ...*event.PDU) (all []jsontext.Value) {
	for _, p := range list {
		if p != nil {
			all = append(all, raw(p))
		}
	}
	return all
}

// forgedAs notes an event that nobody may keep, as long as it is none that is real.
func (w *World) forgedAs(p *event.PDU, what string) *event.PDU {
	if p != nil {
		w.forged[p.ID] = what
	}
	return p
}

func (s *Server) attacks(c scene, to *Server, me id.User) (what string, list []jsontext.Value) {
	w := s.w
	message, key := "m.room.message", ""
	text := fmt.Sprintf(`{"msgtype":"m.text","body":"%d"}`, w.rand.IntN(1e6))
	topic := fmt.Sprintf(`{"topic":"hostile %d"}`, w.rand.IntN(1e6))
	old := pick(w, c.timeline...)
	at := func(p *event.PDU) func(*event.Proto) {
		return func(proto *event.Proto) { proto.PrevEvents, proto.Depth = []event.Ref{p.Ref()}, p.Depth+1 }
	}
	switch w.rand.IntN(16) {
	case 0:
		p := w.forgedAs(s.forge(c, pick(w, w.honest()...).user("alice"), message, nil, text, nil), "in the name of another server's user")
		return "wrongly signed", raws(p)
	case 1:
		p := w.forgedAs(s.forge(c, me, message, nil, text, nil), "unsigned")
		r := raw(p)
		at := bytes.Index(r, []byte(`"signatures":`))
		return "unsigned", []jsontext.Value{append(slices.Clone(r[:at]), []byte(`"signatures":{}`+string(r[at+bytes.IndexByte(r[at:], '}')+2:]))...)}
	case 2:
		fake := &Server{w: w, Name: s.Name, key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}
		return "signed by a wrong key", raws(w.forgedAs(fake.forge(c, me, event.TypePowerLevels, &key, `{"users":{}}`, nil), "signed by a wrong key"))
	case 3:
		return "replayed", raws(old, pick(w, c.timeline...))
	case 4:
		other := s.scene(w.other)
		return "of another room", raws(pick(w, other.timeline...))
	case 5:
		r := string(raw(s.forge(c, me, message, nil, text, nil)))
		i := strings.Index(r, `"depth":`) + len(`"depth":`)
		end := i + strings.IndexAny(r[i:], ",}")
		return "of a depth of 2^63", []jsontext.Value{jsontext.Value(r[:i] + pick(w, "9223372036854775808", "-1", "1.5", `"7"`, "1e400") + r[end:])}
	case 6:
		return "of the greatest depth", raws(s.forge(c, me, message, nil, text, func(p *event.Proto) { p.Depth = w.version.MaxDepth() }))
	case 7:
		a, b := id.Event(fmt.Sprintf("$cycle%d:%s", w.rand.Int64(), s.Name)), id.Event(fmt.Sprintf("$cycle%d:%s", w.rand.Int64(), s.Name))
		if w.version.EventID != roomversion.EventIDField {
			return "after events that are nowhere", raws(s.forge(c, me, message, nil, text, func(p *event.Proto) { p.PrevEvents = []event.Ref{{ID: "$" + id.Event(strings.Repeat("A", 43))}} }))
		}
		circle := func(own, other id.Event) *event.PDU {
			return s.forge(c, me, message, nil, text, func(p *event.Proto) {
				p.EventID, p.PrevEvents = own, append(p.PrevEvents[:min(1, len(p.PrevEvents))], event.Ref{ID: other})
			})
		}
		return "in a circle", raws(circle(a, b), circle(b, a))
	case 8:
		return "forked", raws(s.forge(c, me, message, nil, text, at(old)), s.forge(c, me, "m.room.topic", &key, topic, at(old)))
	case 9:
		bad := s.forge(c, me, event.TypePowerLevels, &key, fmt.Sprintf(`{"users":{%q:9000}}`, me), nil)
		return "citing a rejected event", raws(bad, s.forge(c, me, "m.room.topic", &key, topic, func(p *event.Proto) {
			p.AuthEvents = slices.DeleteFunc(p.AuthEvents, func(r event.Ref) bool {
				l := c.state[event.StateTuple{Type: event.TypePowerLevels}]
				return l != nil && r.ID == l.ID
			})
			p.AuthEvents = append(p.AuthEvents, bad.Ref())
		}), s.forge(c, me, message, nil, text, at(bad)))
	case 10:
		// To each server something else, so that each builds on other things.
		return "different for each", raws(s.forge(c, me, "m.room.topic", &key, topic, nil), s.forge(c, me, event.TypeMember, ptr(string(me)), fmt.Sprintf(`{"membership":"join","displayname":"%d"}`, w.rand.IntN(100)), nil))
	case 11:
		p := raw(s.forge(c, me, message, nil, text, nil))
		return "oversized", []jsontext.Value{jsontext.Value(strings.Replace(string(p), `"body":"`, `"body":"`+strings.Repeat("x", 70_000), 1))}
	case 12:
		many := func(p *event.Proto) {
			for range 25 {
				p.PrevEvents, p.AuthEvents = append(p.PrevEvents, pick(w, c.timeline...).Ref()), append(p.AuthEvents, pick(w, c.timeline...).Ref())
			}
		}
		return "with too many references", raws(s.forge(c, me, message, nil, text, many))
	case 13:
		r := string(raw(s.forge(c, me, message, nil, text, nil)))
		return "tampered with", []jsontext.Value{jsontext.Value(strings.Replace(r, `"body":"`, `"body":"not `, 1))}
	case 14:
		return "about others", raws(
			s.forge(c, me, event.TypeMember, ptr(string(to.user("alice"))), fmt.Sprintf(`{"membership":%q}`, pick(w, "leave", "ban", "invite")), nil),
			s.forge(c, me, event.TypeRedaction, nil, `{}`, func(p *event.Proto) { p.Redacts = old.ID }))
	}
	return "nonsense", s.nonsense()
}

func ptr[T any](v T) *T { return &v }

// nonsense is what the hostile server answers instead of what it was asked for.
func (s *Server) nonsense() []jsontext.Value {
	w := s.w
	c := s.scene(w.room)
	if len(c.tips) == 0 {
		return []jsontext.Value{jsontext.Value(`{}`)}
	}
	lie := w.forgedAs(s.forge(c, w.servers[0].user("alice"), event.TypePowerLevels, ptr(""), fmt.Sprintf(`{"users":{%q:100}}`, s.user("alice")), nil), "made up in an answer")
	list := []jsontext.Value{
		jsontext.Value(`{}`), jsontext.Value(`[]`), jsontext.Value(`null`), jsontext.Value(`{"type":{},"depth":[1]}`),
		raw(pick(w, c.timeline...)),
	}
	list = append(list, raws(lie, pick(w, s.scene(w.other).timeline...))...)
	w.rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}
