package authrules

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	gmsl "github.com/matrix-org/gomatrixserverlib"
	"github.com/matrix-org/gomatrixserverlib/spec"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// Other implementations judge the same events in the same rooms. Where they come
// to another verdict, the difference is named below with the words of the
// specification that Hearth follows; one that has no name fails.

var testKey = ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))

// A trial is an event and the state it is judged against.
type trial struct {
	version *roomversion.Version
	create  *event.PDU
	state   map[event.StateTuple]*event.PDU
	ev      *event.PDU
}

func (c *trial) verdict() error {
	var list []AuthEvent
	s := StateOf(c.create)
	for _, a := range c.authEvents() {
		list = append(list, AuthEvent{PDU: a})
		s.Set(a)
	}
	if err := CheckAuthEvents(c.ev, list); err != nil {
		return err
	}
	return Check(c.ev, s)
}

func (c *trial) authEvents() []*event.PDU {
	var list []*event.PDU
	for _, t := range Needed(c.version, DraftOf(c.ev)) {
		if a := c.state[t]; a != nil {
			list = append(list, a)
		}
	}
	return list
}

func (c *trial) String() string {
	var b strings.Builder
	for _, a := range c.authEvents() {
		fmt.Fprintf(&b, "  %s\n", a.JSON)
	}
	return fmt.Sprintf("version %s, create %s, event %s, auth events:\n%s", c.version.ID, c.create.JSON, c.ev.JSON, b.String())
}

func (c *trial) membership(user string) string {
	if ev := c.state[event.StateTuple{Type: event.TypeMember, Key: user}]; ev != nil {
		return ev.Membership()
	}
	return ""
}

func (c *trial) joinRule() string {
	return joinRuleOf(c.state[event.StateTuple{Type: event.TypeJoinRules}])
}

func (c *trial) levels() *PowerLevels {
	p, err := ParsePowerLevels(c.version, c.create, c.state[event.StateTuple{Type: event.TypePowerLevels}])
	if err != nil {
		panic(err)
	}
	return p
}

// trials makes rooms and events at random, the same ones in every run.
type trials struct {
	*rand.Rand
	version *roomversion.Version
	n       int
	room    *trial // the latest, without its event
	levels  *drawnLevels
}

func newTrials(v *roomversion.Version, seed uint64) *trials {
	return &trials{Rand: rand.New(rand.NewPCG(seed, uint64(v.Number))), version: v}
}

func pick[T any](g *trials, from ...T) T { return from[g.IntN(len(from))] }

func (g *trials) oneIn(n int) bool { return g.IntN(n) == 0 }

var trialUsers = []string{"@alice:a", "@bob:b", "@charlie:c", "@dora:d"}

func (g *trials) user() string { return pick(g, trialUsers...) }

// next is another event; every few events it is one in another room.
func (g *trials) next(perRoom int) *trial {
	if g.room == nil || g.oneIn(perRoom) {
		g.newRoom()
	}
	c := *g.room
	c.ev = g.judgedEvent(&c)
	return &c
}

func (g *trials) newRoom() {
	c := &trial{version: g.version, state: map[event.StateTuple]*event.PDU{}}
	g.room, g.levels = c, nil
	c.create = g.createEvent(c)
	put := func(typ, key, sender, content string) {
		ev := g.build(c, typ, &key, sender, content)
		c.state[ev.Tuple()] = ev
	}
	c.state[c.create.Tuple()] = c.create
	for _, u := range trialUsers {
		if m := pick(g, "", "join", "join", "join", "join", "join", "join", "leave", "invite", "ban", "knock"); m != "" {
			put(event.TypeMember, u, u, `{"membership":"`+m+`"}`)
		}
	}
	if !g.oneIn(6) {
		g.levels = g.drawLevels()
		if g.version.PrivilegedCreators {
			for _, u := range Creators(c.create) {
				delete(g.levels.users, string(u))
			}
		}
		put(event.TypePowerLevels, "", "@alice:a", g.levels.String())
	}
	if !g.oneIn(10) {
		put(event.TypeJoinRules, "", "@alice:a", `{"join_rule":"`+pick(g, "public", "invite", "knock", "restricted", "knock_restricted", "private")+`"}`)
	}
	if g.oneIn(2) {
		public := base64.RawStdEncoding.EncodeToString(testKey.Public().(ed25519.PublicKey))
		put(event.TypeThirdPartyInvite, "abc", g.user(), `{"display_name":"x","key_validity_url":"https://is/","public_key":"`+public+`","public_keys":[{"public_key":"`+public+`"}]}`)
	}
}

func (g *trials) createEvent(c *trial) *event.PDU {
	content := []string{`"room_version":"` + g.version.ID + `"`}
	if g.version.CreatorInContent {
		content = append(content, `"creator":"@alice:a"`)
	}
	if g.oneIn(12) {
		content = append(content, `"m.federate":`+pick(g, "true", "false"))
	}
	if g.version.PrivilegedCreators && g.oneIn(4) {
		content = append(content, `"additional_creators":["@bob:b"]`)
	}
	return g.build(c, event.TypeCreate, new(string), "@alice:a", "{"+strings.Join(content, ",")+"}")
}

func (g *trials) build(c *trial, typ string, key *string, sender, content string) *event.PDU {
	g.n++
	server := id.User(sender).Server()
	proto := event.Proto{Type: typ, StateKey: key, Sender: id.User(sender), Content: jsontext.Value(content), OriginServerTS: int64(g.n), Depth: 1}
	switch {
	case !g.version.RoomIDIsCreateEventID:
		proto.Room = "!room:a"
	case c.create != nil:
		proto.Room = c.create.Room
	}
	if g.version.EventID == roomversion.EventIDField {
		proto.EventID = id.Event(fmt.Sprintf("$%d:%s", g.n, server))
	}
	if c.create != nil {
		proto.PrevEvents = []event.Ref{{ID: pick(g, "$x:a", "$x:a", "$x:a", c.create.ID)}}
	}
	for _, t := range Needed(g.version, Draft{Type: typ, StateKey: key, Sender: proto.Sender, Content: proto.Content}) {
		if a := c.state[t]; a != nil {
			proto.AuthEvents = append(proto.AuthEvents, a.Ref())
		}
	}
	if typ == event.TypeRedaction {
		proto.Redacts = pick[id.Event](g, "$y:a", "$y:b", "$y:c")
	}
	ev, err := event.Build(g.version, proto, server, "ed25519:1", testKey)
	if err != nil {
		panic(err)
	}
	if via, ok := JoinAuthorisedVia(ev); ok {
		if ev, err = ev.AddSignature(via.Server(), "ed25519:1", testKey); err != nil {
			panic(err)
		}
	}
	return ev
}

func (g *trials) judgedEvent(c *trial) *event.PDU {
	key := func(s string) *string { return &s }
	sender := pick(g, "@alice:a", g.user())
	switch g.IntN(14) {
	case 0, 1, 2, 3, 4:
		target := pick(g, sender, g.user())
		return g.build(c, event.TypeMember, &target, sender, g.member(target))
	case 5, 6, 7, 12, 13:
		levels := g.drawLevels()
		if g.levels != nil {
			levels = g.levels.altered(g)
		}
		return g.build(c, event.TypePowerLevels, key(""), sender, levels.String())
	case 8:
		return g.build(c, event.TypeRedaction, nil, sender, `{}`)
	case 9:
		return g.build(c, event.TypeAliases, key(pick(g, "a", "b", "")), sender, `{"aliases":[]}`)
	case 10:
		return g.build(c, pick(g, event.TypeTopic, "m.x"), key(pick(g, "", g.user())), sender, `{}`)
	default:
		return g.build(c, pick(g, event.TypeThirdPartyInvite, "m.room.message"), key("token"), sender, `{}`)
	}
}

func (g *trials) member(target string) string {
	m := pick(g, "join", "join", "join", "invite", "leave", "ban", "knock", "dance")
	switch {
	case m == "join" && g.oneIn(4):
		return `{"join_authorised_via_users_server":"` + g.user() + `","membership":"join"}`
	case m == "invite" && g.oneIn(2):
		message := `{"mxid":"` + pick(g, target, target, "@zoe:z") + `","token":"` + pick(g, "abc", "abc", "xyz") + `"}`
		signature := base64.RawStdEncoding.EncodeToString(ed25519.Sign(testKey, []byte(message)))
		signed := strings.Replace(message, `,"token"`, `,"signatures":{"is":{"ed25519:0":"`+signature+`"}},"token"`, 1)
		return `{"membership":"invite","third_party_invite":{"display_name":"x","signed":` + signed + `}}`
	}
	return `{"membership":"` + m + `"}`
}

// drawnLevels are power levels with values as they are written.
type drawnLevels struct {
	named                        map[string]string
	users, events, notifications map[string]string
}

func (g *trials) level() string {
	n := pick(g, 0, 25, 50, 75, 100)
	if !g.version.IntegerPowerLevels && g.oneIn(8) {
		return pick(g, fmt.Sprintf(`"%d"`, n), fmt.Sprintf(`" %d "`, n), fmt.Sprintf(`"0%d"`, n))
	}
	return fmt.Sprint(n)
}

func (g *trials) drawLevels() *drawnLevels {
	l := &drawnLevels{named: map[string]string{}, users: map[string]string{}, events: map[string]string{}, notifications: map[string]string{}}
	if !g.version.PrivilegedCreators {
		l.users["@alice:a"] = "100"
	}
	for range 6 {
		l.alter(g)
	}
	return l
}

func (l *drawnLevels) altered(g *trials) *drawnLevels {
	out := &drawnLevels{named: maps.Clone(l.named), users: maps.Clone(l.users), events: maps.Clone(l.events), notifications: maps.Clone(l.notifications)}
	for range g.IntN(3) {
		out.alter(g)
	}
	return out
}

func (l *drawnLevels) alter(g *trials) {
	set := func(m map[string]string, key string) {
		if m[key] = g.level(); g.oneIn(4) {
			delete(m, key)
		}
	}
	switch g.IntN(5) {
	case 0, 1:
		set(l.named, pick(g, levelNames[:]...))
	case 2, 3:
		if u := g.user(); u != "@alice:a" || g.oneIn(8) {
			set(l.users, u)
		}
	default:
		if g.oneIn(3) {
			set(l.notifications, "room")
		} else {
			set(l.events, pick(g, event.TypeTopic, "m.room.message", event.TypePowerLevels, event.TypeRedaction))
		}
	}
}

func (l *drawnLevels) String() string {
	object := func(m map[string]string) string {
		var parts []string
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, `"`+k+`":`+m[k])
		}
		return strings.Join(parts, ",")
	}
	named := object(l.named)
	if named != "" {
		named += ","
	}
	return `{` + named + `"events":{` + object(l.events) + `},"notifications":{` + object(l.notifications) + `},"users":{` + object(l.users) + `}}`
}

// A departure is a known difference of another implementation.
type departure struct {
	spec    string // what the specification says
	theirs  string // what they do
	applies func(c *trial) bool
}

// compare tries many events and demands a reason for every other verdict.
func compare(t *testing.T, departures []departure, theirs func(t testing.TB, c *trial) error) {
	const seed, rooms, events = 1, 12, 20
	seen := make([]int, len(departures))
	for _, v := range roomversion.All() {
		g := newTrials(v, seed)
		allowed := 0
		for range rooms * events {
			c := g.next(events)
			ours := c.verdict()
			if ours == nil {
				allowed++
			}
			other := theirs(t, c)
			if (ours == nil) == (other == nil) {
				continue
			}
			why := slices.IndexFunc(departures, func(d departure) bool { return d.applies(c) })
			if why < 0 {
				t.Fatalf("seed %d, version %s: we say %v, they say %v\n%s", seed, v.ID, ours, other, c)
			}
			seen[why]++
		}
		if allowed < rooms*events/8 || allowed > rooms*events*7/8 {
			t.Errorf("version %s: %d of %d events are allowed, which tests little", v.ID, allowed, rooms*events)
		}
	}
	for i, n := range seen {
		t.Logf("%d times they %s, though the specification says: %s", n, departures[i].theirs, departures[i].spec)
	}
}

// What departures ask of a trial.

func (c *trial) is(typ string) bool { return c.ev.Type == typ }

func (c *trial) isMember(membership string) bool {
	return c.is(event.TypeMember) && c.ev.Membership() == membership
}

func (c *trial) isOwn() bool { return *c.ev.StateKey == string(c.ev.Sender) }

func (c *trial) current() string { return c.membership(*c.ev.StateKey) }

func (c *trial) isFirstJoin() bool {
	return c.isMember("join") && c.ev.PrevEvents[0] == c.create.ID && *c.ev.StateKey == "@alice:a"
}

func (c *trial) isThirdPartyInvite() bool {
	return c.isMember("invite") && c.ev.ContentValue("third_party_invite") != nil
}

// knowsJoinRule says whether the join rule means something in the room's version.
func (c *trial) knowsJoinRule() bool {
	switch c.joinRule() {
	case "public", "invite":
		return true
	case "knock":
		return c.version.Knock
	case "restricted":
		return c.version.RestrictedJoins
	case "knock_restricted":
		return c.version.KnockRestricted
	}
	return false
}

// altered lists what a power levels event changes, by names such as users.@alice:a.
func (c *trial) altered() []alteration {
	old, next := c.levels(), &PowerLevels{}
	if !c.is(event.TypePowerLevels) || old.Event == nil || next.parse(c.version, c.ev.Content) != nil {
		return nil
	}
	list := slices.Concat(
		alterations("events.", old.events, next.events),
		alterations("notifications.", old.notifications, next.notifications),
		alterations("users.", old.users, next.users))
	for i, name := range levelNames {
		if a := (alteration{name, old.named[i], next.named[i]}); a.before != a.after {
			list = append(list, a)
		}
	}
	return list
}

func (c *trial) alters(f func(a alteration) bool) bool { return slices.ContainsFunc(c.altered(), f) }

// CVE-2022-31152: rules that differ from the specification split rooms.
func TestGomatrixserverlibAgrees(t *testing.T) {
	departures := []departure{
		{
			"If the only previous event is an m.room.create and the state_key is the creator, allow.",
			"ask that the creator sends the first join",
			func(c *trial) bool { return c.isFirstJoin() && !c.isOwn() },
		}, {
			"If the join_rule is public, allow.",
			"let nobody join who knocks",
			func(c *trial) bool { return c.isMember("join") && c.joinRule() == "public" && c.current() == "knock" },
		}, {
			"If the join_rule is … Otherwise, reject.",
			"let the invited join under every rule, such as private and those that later versions brought",
			func(c *trial) bool { return c.isMember("join") && !c.knowsJoinRule() },
		}, {
			"If target user is banned, reject.",
			"let a third party invite bring back the banned",
			func(c *trial) bool { return c.isThirdPartyInvite() && c.current() == "ban" },
		}, {
			"If sender does not match sender of the m.room.third_party_invite, reject.",
			"do not ask who offered the third party invite",
			func(c *trial) bool {
				offer := c.state[event.StateTuple{Type: event.TypeThirdPartyInvite, Key: "abc"}]
				return c.isThirdPartyInvite() && offer != nil && offer.Sender != c.ev.Sender
			},
		}, {
			"If the sender matches state_key, allow if and only if that user's current membership state is invite, join, or knock.",
			"let users leave twice, and take back knocks in versions without these",
			func(c *trial) bool { return c.isMember("leave") && c.isOwn() },
		}, {
			"If the sender's power level is greater than or equal to the kick level, and the target user's power level is less than the sender's power level, allow.",
			"ask less of who lifts a ban",
			func(c *trial) bool { return c.isMember("leave") && c.current() == "ban" },
		}, {
			"If the join_rule is anything other than knock, reject.",
			"let users knock under knock_restricted before version 10",
			func(c *trial) bool {
				return c.isMember("knock") && c.joinRule() == "knock_restricted" && !c.version.KnockRestricted
			},
		}, {
			"Rule 4, which related specifically to events of type m.room.aliases, is removed. m.room.aliases events must still pass authorisation checks relating to state events.",
			"have that rule in all versions",
			func(c *trial) bool { return c.is(event.TypeAliases) && !c.version.AliasesAuthRule },
		}, {
			"For the properties users_default, … check if they were added, changed or removed.",
			"do not check users_default",
			func(c *trial) bool { return c.alters(func(a alteration) bool { return a.name == "users_default" }) },
		}, {
			"For each entry being added to, or changed in … For each entry being changed in, or removed from …",
			"take the default for a level that is not given, so that adding or removing may seem to be a change of another kind",
			func(c *trial) bool {
				return c.alters(func(a alteration) bool { return !a.before.given || !a.after.given })
			},
		}, {
			"If the current value is greater than the sender's current power level, reject.",
			"reject a change of notifications that have the sender's very level",
			func(c *trial) bool {
				return c.alters(func(a alteration) bool {
					return strings.HasPrefix(a.name, "notifications.") && a.before.value == c.levels().UserLevel(c.ev.Sender)
				})
			},
		}, {
			"The power level of room creators is infinitely high.",
			"have creators change notifications with the power of others",
			func(c *trial) bool {
				return c.levels().IsCreator(c.ev.Sender) && c.alters(func(a alteration) bool { return strings.HasPrefix(a.name, "notifications.") })
			},
		},
	}
	parsed := map[*event.PDU]gmsl.PDU{}
	compare(t, departures, func(t testing.TB, c *trial) error {
		parse := func(ev *event.PDU) gmsl.PDU {
			if p, ok := parsed[ev]; ok {
				return p
			}
			p, err := gmsl.MustGetRoomVersion(gmsl.RoomVersion(c.version.ID)).NewEventFromTrustedJSON(ev.JSON, false)
			if err != nil {
				t.Fatalf("%s: %v", ev.JSON, err)
			}
			parsed[ev] = p
			return p
		}
		auth := []gmsl.PDU{parse(c.create)}
		for _, a := range c.authEvents() {
			if a != c.create {
				auth = append(auth, parse(a))
			}
		}
		provider, err := gmsl.NewAuthEvents(auth)
		if err != nil {
			t.Fatal(err)
		}
		return gmsl.Allowed(parse(c.ev), provider, func(_ spec.RoomID, sender spec.SenderID) (*spec.UserID, error) {
			return spec.NewUserID(string(sender), true)
		})
	})
}
