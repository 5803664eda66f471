package authrules

import (
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"hearth/matrix/canonical"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
)

// CreatorLevel is the level of creators where the room version privileges them:
// above all that a power levels event can give.
const CreatorLevel = math.MaxInt64

// PowerLevels is an m.room.power_levels event compiled for look-ups, or the
// defaults of a room that has none. It does not change and may be shared.
// spec: client-server-api#mroompower_levels
type PowerLevels struct {
	Event *event.PDU // nil: the room has none

	creators      []id.User
	privileged    bool // creators are above all levels
	named         [len(levelNames)]optional
	users         []level
	events        []level
	notifications []level
}

// A level is an entry of one of the maps, which are sorted by name.
type level struct {
	name  string
	value int64
}

type optional struct {
	value int64
	given bool
}

func (o optional) String() string {
	if !o.given {
		return "unset"
	}
	return strconv.FormatInt(o.value, 10)
}

// The levels that are properties of the content themselves.
const (
	usersDefault = iota
	eventsDefault
	stateDefault
	ban
	redact
	kick
	invite
)

var levelNames = [...]string{"users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"}

var defaultLevels = [len(levelNames)]int64{stateDefault: 50, ban: 50, redact: 50, kick: 50}

// ParsePowerLevels compiles a power levels event, nil if the room has none. It
// returns a *Denied if the event is not one that the room version allows.
func ParsePowerLevels(v *roomversion.Version, create, ev *event.PDU) (*PowerLevels, error) {
	p := &PowerLevels{Event: ev, privileged: v.PrivilegedCreators}
	if create != nil {
		p.creators = Creators(create)
	}
	if ev == nil {
		return p, nil
	}
	if err := p.parse(v, ev.Content); err != nil {
		return nil, err
	}
	return p, nil
}

// UserLevel is a user's power.
func (p *PowerLevels) UserLevel(user id.User) int64 {
	if (p.privileged || p.Event == nil) && slices.Contains(p.creators, user) {
		if p.privileged {
			return CreatorLevel
		}
		return 100
	}
	if l, ok := levelOf(p.users, string(user)); ok {
		return l
	}
	return p.get(usersDefault)
}

// UsersFrom lists the users, joined or not, that have at least a level because they are named, as
// creators or by the levels; others says whether those have it too who are not named.
func (p *PowerLevels) UsersFrom(level int64) (named []id.User, others bool) {
	named = slices.Clone(p.creators)
	for _, l := range p.users {
		if !slices.Contains(p.creators, id.User(l.name)) {
			named = append(named, id.User(l.name))
		}
	}
	named = slices.DeleteFunc(named, func(u id.User) bool { return p.UserLevel(u) < level })
	return named, p.get(usersDefault) >= level
}

// IsCreator says whether a user is a creator whom the room version privileges.
func (p *PowerLevels) IsCreator(user id.User) bool {
	return p.privileged && slices.Contains(p.creators, user)
}

// EventLevel is the power needed to send an event. It does not hold for member
// events, nor for third party invites.
// spec: server-server-api#definitions
func (p *PowerLevels) EventLevel(typ string, isState bool) int64 {
	if l, ok := levelOf(p.events, typ); ok {
		return l
	}
	if isState {
		return p.get(stateDefault)
	}
	return p.get(eventsDefault)
}

func (p *PowerLevels) Invite() int64 { return p.get(invite) }
func (p *PowerLevels) Kick() int64   { return p.get(kick) }
func (p *PowerLevels) Ban() int64    { return p.get(ban) }
func (p *PowerLevels) Redact() int64 { return p.get(redact) }

// Notification is the power needed to notify by a key such as room, which
// @room stands for.
// spec: client-server-api#mroompower_levels
func (p *PowerLevels) Notification(key string) int64 {
	if l, ok := levelOf(p.notifications, key); ok {
		return l
	}
	return 50
}

func (p *PowerLevels) get(which int) int64 {
	if l := p.named[which]; l.given {
		return l.value
	}
	return defaultLevels[which]
}

func levelOf(list []level, name string) (int64, bool) {
	i, ok := slices.BinarySearchFunc(list, name, func(l level, name string) int { return strings.Compare(l.name, name) })
	if !ok {
		return 0, false
	}
	return list[i].value, true
}

// parse reads the content and applies those rules that look at nothing else.
// spec: rooms/v12#authorisation-rules 10.1 10.2 10.3 10.4
func (p *PowerLevels) parse(v *roomversion.Version, content []byte) error {
	for i, name := range levelNames {
		raw := canonical.Get(content, name)
		if raw == nil {
			continue
		}
		value, fault := parseLevel(v, raw)
		if err := refuse(v, fault, powerIntegers, name); err != nil {
			return err
		}
		p.named[i] = optional{value, fault == levelFine}
	}
	var err error
	if p.events, err = parseLevels(v, content, "events", true); err != nil {
		return err
	}
	if p.notifications, err = parseLevels(v, content, "notifications", v.NotificationsPLRule); err != nil {
		return err
	}
	return p.parseUsers(v, content)
}

func (p *PowerLevels) parseUsers(v *roomversion.Version, content []byte) error {
	raw := canonical.Get(content, "users")
	if raw == nil {
		return nil
	}
	if raw[0] != '{' {
		return deny(powerRule(v, powerUsers), "users is not an object")
	}
	for c := canonical.Walk(raw); c.Next(); {
		name := c.KeyString()
		if _, err := id.ParseUser(name); err != nil {
			return deny(powerRule(v, powerUsers), "users has %q, which is not a user id", name)
		}
		value, fault := parseLevel(v, c.Value)
		if fault != levelFine {
			return deny(powerRule(v, powerUsers), "the level of %s is not an integer", name)
		}
		p.users = append(p.users, level{name, value})
	}
	p.users = sorted(p.users)
	if v.PrivilegedCreators {
		for _, c := range p.creators {
			if _, listed := levelOf(p.users, string(c)); listed {
				return deny(powerRule(v, powerCreators), "users has the creator %s", c)
			}
		}
	}
	return nil
}

// parseLevels reads one of the maps other than users. If it is not checked, what
// is wrong in it is passed over.
func parseLevels(v *roomversion.Version, content []byte, name string, checked bool) ([]level, error) {
	raw := canonical.Get(content, name)
	if raw == nil {
		return nil, nil
	}
	if raw[0] != '{' {
		if checked && v.IntegerPowerLevels {
			return nil, deny(powerRule(v, powerMapIntegers), "%s is not an object", name)
		}
		return nil, nil
	}
	var list []level
	for c := canonical.Walk(raw); c.Next(); {
		value, fault := parseLevel(v, c.Value)
		if checked {
			if err := refuse(v, fault, powerMapIntegers, name); err != nil {
				return nil, err
			}
		}
		if fault == levelFine {
			list = append(list, level{c.KeyString(), value})
		}
	}
	return sorted(list), nil
}

// refuse decides about a level that cannot be read. The rules of room versions
// before 10 ask only users for integers; elsewhere a value that is no level counts as
// absent. Too large numbers have always been refused.
// spec: rooms/v1#mroompower_levels-events-accept-values-as-floats
func refuse(v *roomversion.Version, fault levelFault, c clause, name string) error {
	switch {
	case fault == levelFine:
		return nil
	case v.IntegerPowerLevels:
		return deny(powerRule(v, c), "%s is or has what is not an integer", name)
	case fault == levelTooLarge:
		return deny(powerRule(v, powerUsers), "%s is or has a number that is too large", name)
	}
	return nil
}

// sorted puts a map in order. Canonical JSON has it in nearly the same one.
func sorted(list []level) []level {
	byName := func(a, b level) int { return strings.Compare(a.name, b.name) }
	if !slices.IsSortedFunc(list, byName) {
		slices.SortFunc(list, byName)
	}
	return list
}

type levelFault uint8

const (
	levelFine     levelFault = iota
	levelMistyped            // not an integer by the rules of the version
	levelTooLarge            // a number that a double cannot hold
)

// parseLevel reads one level, in the forms that the room version knows. Levels
// that do not fit 64 bits become the nearest that does.
// spec: rooms/v1#mroompower_levels-events-accept-values-as-strings
func parseLevel(v *roomversion.Version, raw []byte) (int64, levelFault) {
	if s, ok := canonical.String(raw); ok {
		if v.IntegerPowerLevels {
			return 0, levelMistyped
		}
		return parseText(s)
	}
	if raw[0] != '-' && (raw[0] < '0' || raw[0] > '9') {
		return 0, levelMistyped
	}
	if n, err := strconv.ParseInt(string(raw), 10, 64); err == nil {
		return n, levelFine
	}
	if v.StrictCanonicalJSON {
		return 0, levelMistyped
	}
	return parseFloat(string(raw))
}

// parseText reads a level written as a string: spaces, a sign, digits.
func parseText(s string) (int64, levelFault) {
	s = strings.TrimFunc(s, unicode.IsSpace)
	digits := s
	if s != "" && (s[0] == '+' || s[0] == '-') {
		digits = s[1:]
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, levelMistyped
	}
	n, _ := strconv.ParseInt(s, 10, 64) // out of range gives the nearest
	return n, levelFine
}

// parseFloat reads a number with a fraction or an exponent, and drops the fraction.
// spec: rooms/v1#mroompower_levels-events-accept-values-as-floats
func parseFloat(raw string) (int64, levelFault) {
	f, err := strconv.ParseFloat(raw, 64)
	switch {
	case err != nil && math.IsInf(f, 0):
		return 0, levelTooLarge
	case err != nil:
		return 0, levelMistyped
	case f >= math.MaxInt64:
		return math.MaxInt64, levelFine
	case f <= math.MinInt64:
		return math.MinInt64, levelFine
	}
	return int64(f), levelFine
}
