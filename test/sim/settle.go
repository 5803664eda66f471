package sim

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-json-experiment/json"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/stream"
)

// maxRounds is how many times everybody may have to speak until all know all.
const maxRounds = 12

// settle heals the network. Nobody is hostile any more, nothing is lost; everybody says
// something and hears the others, until nothing changes.
func (w *World) settle() {
	w.calm, w.gone, w.side = true, true, map[id.Server]int{}
	w.note("all is calm")
	w.drainHonest()
	w.gather()
	for range maxRounds {
		for _, s := range w.honest() {
			delete(s.queues, w.hostile().Name)
		}
		w.drainHonest()
		whole := true
		for _, s := range w.honest() {
			whole = s.complete() && whole
		}
		if whole && w.agreed() {
			return
		}
		for _, s := range w.outsidersFirst() {
			// All of them: others may have soft-failed a join, and with it all that this
			// user says. What somebody else says after it has it count.
			for _, user := range s.joined() {
				_ = w.say(s, user)
				w.drainHonest()
			}
		}
	}
}

// gather lets those join once more who are out, as far as the founder of the room can help it.
func (w *World) gather() {
	host := w.servers[0]
	founder := host.user("alice")
	w.set(host, founder, event.TypeJoinRules, `{"join_rule":"public"}`)
	for _, s := range w.honest() {
		if len(s.joined()) > 0 {
			continue
		}
		user := s.user("bob")
		c := room.Change{Room: w.room, Sender: founder, Target: user}
		w.wantTold(host.engine.Unban(w.ctx, c), "the founder unbans "+string(user))
		err := s.engine.Join(w.ctx, room.Change{Room: w.room, Sender: user, Via: []id.Server{host.Name}})
		w.note("%s joins again: %v", user, err)
		w.wantTold(err, string(user)+" joins again")
		w.watchResidence()
	}
	w.drainHonest()
}

func (w *World) drainHonest() {
	for busy := true; busy; {
		busy = false
		for _, s := range w.honest() {
			for _, to := range w.honest() {
				busy = s.send(to) || busy
			}
		}
	}
}

// in are the honest servers that are in the room: the most that regard each other so. A server
// may believe to be in a room whose other servers hold that its users are out, or those at least
// who are in by its own state: they soft-fail all that these say. It cannot know better until
// somebody joins anew. Nor can one whose state is partial for good, because nobody who could tell
// the members regards it as being in the room.
func (w *World) in() (best []*Server) {
	regards := map[*Server]map[id.Server]bool{}
	for _, s := range w.honest() {
		if len(s.joined()) == 0 || s.isPartial() {
			continue
		}
		regards[s] = map[id.Server]bool{}
		for t, p := range s.scene(w.room).state {
			if t.Type == event.TypeMember && p.Membership() == event.MembershipJoin {
				of := w.server(id.User(t.Key).Server())
				regards[s][of.Name] = regards[s][of.Name] || slices.Contains(of.joined(), id.User(t.Key))
			}
		}
	}
	for set := range 1 << len(w.honest()) {
		var list []*Server
		for i, s := range w.honest() {
			if set&(1<<i) != 0 {
				list = append(list, s)
			}
		}
		whole := !slices.ContainsFunc(list, func(a *Server) bool {
			return slices.ContainsFunc(list, func(b *Server) bool { return !regards[a][b.Name] })
		})
		if whole && len(list) > len(best) {
			best = list
		}
	}
	return best
}

// outsidersFirst are the honest servers, first those that are not in the room: some of the others
// may accept what these say nevertheless, and tell it to the rest by what they say after it.
func (w *World) outsidersFirst() []*Server {
	in := w.in()
	return append(slices.DeleteFunc(slices.Clone(w.honest()), func(s *Server) bool { return slices.Contains(in, s) }), in...)
}

func tipsOf(c scene) (names []id.Event) {
	for _, p := range c.tips {
		names = append(names, p.ID)
	}
	slices.Sort(names)
	return names
}

func stateOf(c scene) map[event.StateTuple]id.Event {
	state := map[event.StateTuple]id.Event{}
	for t, p := range c.state {
		state[t] = p.ID
	}
	return state
}

func (w *World) agreed() bool {
	list := w.in()
	if len(list) == 0 {
		return true
	}
	first := list[0].scene(w.room)
	for _, s := range list[1:] {
		c := s.scene(w.room)
		if !maps.Equal(stateOf(first), stateOf(c)) || !slices.Equal(tipsOf(first), tipsOf(c)) {
			return false
		}
	}
	return true
}

// check is what must hold in the end.
func (w *World) check() {
	list := w.in()
	if len(list) == 0 {
		w.t.Error("nobody is left in the room")
		return
	}
	first := list[0].scene(w.room)
	w.t.Logf("%d of %d servers are in the room, which has %d events and a state of %d; %d were acknowledged, %d forged",
		len(list), len(w.honest()), len(first.timeline), len(first.state), len(w.acked), len(w.forged))
	for _, s := range list[1:] {
		c := s.scene(w.room)
		if a, b := tipsOf(first), tipsOf(c); !slices.Equal(a, b) {
			w.t.Errorf("extremities: %s has %v, %s has %v", list[0].Name, a, s.Name, b)
		}
		a, b := stateOf(first), stateOf(c)
		for t := range merged(a, b) {
			if a[t] != b[t] {
				w.t.Errorf("%s %q: %s has %s, %s has %s", t.Type, t.Key, list[0].Name, describe(first.state[t]), s.Name, describe(c.state[t]))
			}
		}
	}
	for _, s := range list {
		w.checkAcknowledged(s, list)
	}
	for _, s := range w.servers {
		w.checkStore(s)
	}
}

func merged(a, b map[event.StateTuple]id.Event) map[event.StateTuple]id.Event {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

func describe(p *event.PDU) string {
	if p == nil {
		return "nothing"
	}
	return fmt.Sprintf("%s by %s at %s: %s", p.ID, p.Sender, time.UnixMilli(p.OriginServerTS).UTC().Format("04:05.000"), p.Content)
}

// checkAcknowledged looks for what users were told was sent, while the server and theirs were in
// the room: who was put out meanwhile may have said things that nobody accepts or passes on.
// What lies behind a gap it may have to fetch first, as it does for who scrolls back.
func (w *World) checkAcknowledged(s *Server, among []*Server) {
	for scrolled := false; ; scrolled = true {
		missing := w.missing(s, among)
		if len(missing) == 0 {
			return
		}
		if scrolled {
			for _, a := range missing {
				w.t.Errorf("%s lacks %s, which %s acknowledged at %s:%s", s.Name, a.event, a.by.Name, a.at.Format("04:05.000"), w.opinions(a.event))
			}
			return
		}
		s.scrollBack(s.joined()[0], 500)
	}
}

func (w *World) missing(s *Server, among []*Server) (list []ack) {
	w.must(s.store.View(w.ctx, func(tx *store.Tx) error {
		for _, a := range w.acked {
			if !a.at.After(s.resident) || !a.at.After(a.by.resident) || !slices.Contains(among, a.by) {
				continue
			}
			if a.partial && a.by.tookBack(a.event) {
				continue
			}
			row, ok, err := tx.Events.Know(a.event)
			if err != nil {
				return err
			}
			if !ok || row.Flags&(store.Outlier|store.Rejected) != 0 {
				list = append(list, a)
			}
		}
		return nil
	}))
	return list
}

// tookBack says whether a server does not accept an event.
func (s *Server) tookBack(name id.Event) (did bool) {
	s.w.must(s.store.View(s.w.ctx, func(tx *store.Tx) error {
		row, _, err := tx.Events.Know(name)
		did = row.Flags&(store.Rejected|store.SoftFailed) != 0
		return err
	}))
	return did
}

// scrollBack has a user read the newest pages of history, which has gaps filled.
func (s *Server) scrollBack(user id.User, pages int) {
	w := s.w
	reader := room.Reader{User: user}
	p := room.Page{Back: true, Limit: 5} // of a page with several gaps, only the newest is filled
	for range pages {
		body, err := s.engine.ReadMessages(w.ctx, reader, w.room, p)
		if err != nil {
			w.t.Errorf("%s reads messages: %v", reader.User, err)
			return
		}
		var page struct {
			End string `json:"end"`
		}
		if w.must(json.Unmarshal(body, &page)); page.End == "" {
			return
		}
		from, err := stream.ParsePosition(page.End)
		w.must(err)
		p.From = &from
	}
}

func (w *World) checkStore(s *Server) {
	faults, err := s.store.Check(w.ctx)
	w.must(err)
	for _, f := range faults {
		w.t.Errorf("%s: %s", s.Name, f)
	}
	w.must(s.store.View(w.ctx, func(tx *store.Tx) error {
		for name, what := range w.forged {
			if _, ok, err := tx.Events.Know(name); err != nil {
				return err
			} else if ok {
				w.t.Errorf("%s keeps %s, which is %s", s.Name, name, what)
			}
		}
		return nil
	}))
}
