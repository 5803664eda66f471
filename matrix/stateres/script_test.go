package stateres

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// The scripts tell what becomes of rooms whose servers disagreed for a while.
// Run with -rewrite to write down what happens now.
//
//	room version=12        starts a room and has events sent to it, one a line:
//	                       name  after which events  sender  what  [auth=names] [ts=number]
//	send                   more events
//	state after=(a,b)      the state after some events, resolved
//	resolve                the same of states given as lists of names, one a line
//
// CVE-2025-49090: version 2.1 keeps the state from being reset (problems A and B of MSC4297).
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		var s *script
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "room":
				var version string
				d.ScanArgs(t, "version", &version)
				s = &script{testRoom: newTestRoom(t, version), after: map[string]state{"-": nil}}
				return s.send(d.Input)
			case "send":
				return s.send(d.Input)
			case "state":
				var names []string
				for _, a := range d.CmdArgs {
					names = append(names, a.Vals...)
				}
				return s.tell(s.join(names))
			case "resolve":
				var states []state
				for line := range strings.Lines(d.Input) {
					states = append(states, s.contrived(strings.Split(strings.TrimSpace(line), ",")))
				}
				return s.tell(s.mustResolve(states...))
			}
			t.Fatalf("%s: no command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

type script struct {
	*testRoom
	after map[string]state // by the names of events
}

// send has events sent and tells which ones the rules refuse. A refused event
// does not change the state, but others may follow it.
func (s *script) send(lines string) string {
	var out strings.Builder
	for line := range strings.Lines(lines) {
		words := strings.Fields(strings.TrimSpace(line))
		if len(words) == 0 {
			continue
		}
		name := words[0]
		previous := strings.Split(words[1], ",")
		before := s.join(previous)
		ev := s.parse(name, words[2], words[3:])
		for _, p := range previous {
			if p != "-" {
				ev.PrevEvents = append(ev.PrevEvents, id.Event("$"+p))
			}
		}
		if ev.Version, ev.Room = s.version, s.room(); ev.AuthEvents == nil {
			s.add(ev, before)
		} else {
			s.insert(ev)
		}
		if err := s.check(ev, before); err != nil {
			fmt.Fprintf(&out, "%s is rejected: %s\n", name, err)
			s.after[name] = before
			continue
		}
		s.after[name] = before.after(ev)
	}
	return out.String()
}

// parse reads what somebody sends.
func (s *script) parse(name, sender string, words []string) *event.PDU {
	ts := int64(len(s.events))
	var auth []id.Event
	words = slices.DeleteFunc(words, func(w string) bool {
		if names, ok := strings.CutPrefix(w, "auth="); ok {
			for n := range strings.SplitSeq(names, ",") {
				auth = append(auth, id.Event("$"+n))
			}
			return true
		}
		if number, ok := strings.CutPrefix(w, "ts="); ok {
			ts, _ = strconv.ParseInt(number, 10, 64)
			return true
		}
		return false
	})
	rest := strings.Join(words[1:], " ")
	ev := func(typ, key, content string) *event.PDU {
		ev := stateEvent(name, typ, key, user(sender), content, ts)
		ev.AuthEvents = auth
		return ev
	}
	switch what := words[0]; what {
	case "create":
		return ev(event.TypeCreate, "", `{"creator":"`+user(sender)+`","room_version":"`+s.version.ID+`"}`)
	case "join", "leave", "knock":
		return ev(event.TypeMember, user(sender), `{"membership":"`+what+`"}`)
	case "invite", "ban":
		return ev(event.TypeMember, user(rest), `{"membership":"`+what+`"}`)
	case "kick":
		return ev(event.TypeMember, user(rest), `{"membership":"leave"}`)
	case "levels":
		return ev(event.TypePowerLevels, "", s.levels(words[1:]))
	case "rule":
		return ev(event.TypeJoinRules, "", `{"join_rule":"`+rest+`"}`)
	case "topic":
		return ev(event.TypeTopic, "", `{"topic":"`+rest+`"}`)
	default:
		s.t.Fatalf("%s: nobody can %s", name, what)
		return nil
	}
}

// levels reads power levels such as "bob=50 charlie=50".
func (s *script) levels(words []string) string {
	var users []string
	for _, w := range words {
		name, level, _ := strings.Cut(w, "=")
		users = append(users, strconv.Quote(user(name))+":"+level)
	}
	slices.Sort(users)
	return `{"users":{` + strings.Join(users, ",") + `}}`
}

// user makes bob the user of that name on a server of his own.
func user(name string) string { return "@" + name + ":" + name[:1] }

// join is the state after events.
func (s *script) join(names []string) state {
	var states []state
	for _, n := range names {
		st, ok := s.after[n]
		if !ok {
			s.t.Fatalf("there is no event %s", n)
		}
		states = append(states, st)
	}
	if len(states) == 1 {
		return states[0]
	}
	return s.mustResolve(states...)
}

// contrived is a state made of events by hand.
func (s *script) contrived(names []string) state {
	st := state{}
	for _, n := range names {
		st = st.after(s.event(id.Event("$" + strings.TrimSpace(n))))
	}
	return st
}

func (s *script) tell(st state) string {
	var lines []string
	for t, i := range st {
		ev := s.event(i)
		line := strings.TrimPrefix(t.Type, "m.room.")
		if t.Key != "" {
			line += " " + strings.TrimPrefix(t.Key, "@")
		}
		if m := ev.Membership(); m != "" {
			line += " " + m
		}
		lines = append(lines, fmt.Sprintf("%-32s %s", line, i[1:]))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}
