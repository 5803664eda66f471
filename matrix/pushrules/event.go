package pushrules

import (
	"bytes"
	"io"
	"strconv"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
)

// Event is what rules see of an event. Its content is parsed when a rule first
// asks for it, and once only: make one Event for all members of a room. It may
// be shared between goroutines; its fields must not change after first use.
type Event struct {
	Type           string
	StateKey       *string // nil: not a state event
	Sender         id.User
	Room           id.Room
	ID             id.Event
	OriginServerTS int64
	Content        jsontext.Value

	parsing  sync.Once
	content  value
	folding  sync.Once
	typ      string // folded
	body     string // folded
	hasBody  bool
	stateKey string // folded
}

// NewEvent is the view of a PDU.
func NewEvent(p *event.PDU) *Event {
	return &Event{
		Type: p.Type, StateKey: p.StateKey, Sender: p.Sender, Room: p.Room, ID: p.ID,
		OriginServerTS: p.OriginServerTS, Content: p.Content,
	}
}

// value is one JSON value of an event.
type value struct {
	kind     jsontext.Kind // 0: absent
	text     string        // of a string; of a number as it is written
	members  map[string]value
	elements []value
}

var contentBody = []string{"content", "body"}

// find returns the property at path, absent if there is none.
func (e *Event) find(path []string) value {
	if path[0] == "content" {
		e.parsing.Do(e.parse)
		v := e.content
		for _, name := range path[1:] {
			v = v.members[name]
		}
		return v
	}
	if len(path) > 1 {
		return value{}
	}
	switch path[0] {
	case "type":
		return value{kind: '"', text: e.Type}
	case "sender":
		return value{kind: '"', text: string(e.Sender)}
	case "room_id":
		return value{kind: '"', text: string(e.Room)}
	case "event_id":
		return value{kind: '"', text: string(e.ID)}
	case "state_key":
		if e.StateKey != nil {
			return value{kind: '"', text: *e.StateKey}
		}
	case "origin_server_ts":
		return value{kind: '0', text: strconv.FormatInt(e.OriginServerTS, 10)}
	}
	return value{}
}

// folded returns what event_match compares: the string at path without regard to case.
func (e *Event) folded(path []string) (text string, ok bool) {
	e.folding.Do(e.foldCommon)
	switch {
	case len(path) == 1 && path[0] == "type":
		return e.typ, true
	case len(path) == 1 && path[0] == "state_key":
		return e.stateKey, e.StateKey != nil
	}
	v := e.find(path)
	if v.kind != '"' {
		return "", false
	}
	return fold(v.text), true
}

// foldedBody is content.body, folded once for all rules of all users.
func (e *Event) foldedBody() (text string, ok bool) {
	e.parsing.Do(e.parse)
	return e.body, e.hasBody
}

func (e *Event) foldCommon() {
	e.typ = fold(e.Type)
	if e.StateKey != nil {
		e.stateKey = fold(*e.StateKey)
	}
}

func (e *Event) parse() {
	d := jsontext.NewDecoder(bytes.NewBuffer(e.Content), jsontext.AllowDuplicateNames(true))
	content, err := readValue(d)
	if err != nil {
		return // no event of a room has such content; no property of it matches
	}
	e.content = content
	if body := content.members["body"]; body.kind == '"' {
		e.body, e.hasBody = fold(body.text), true
	}
}

func readValue(d *jsontext.Decoder) (value, error) {
	t, err := d.ReadToken()
	if err != nil {
		return value{}, err
	}
	v := value{kind: t.Kind()}
	switch v.kind {
	case '"', '0':
		v.text = t.String()
	case '{':
		v.members = map[string]value{}
		for d.PeekKind() != '}' {
			name, err := d.ReadToken()
			if err != nil {
				return value{}, err
			}
			key := name.String()
			if v.members[key], err = readValue(d); err != nil {
				return value{}, err
			}
		}
		_, err = d.ReadToken()
	case '[':
		for d.PeekKind() != ']' {
			element, err := readValue(d)
			if err != nil {
				return value{}, err
			}
			v.elements = append(v.elements, element)
		}
		_, err = d.ReadToken()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return v, err
}

// equals compares strings, integers, booleans and null exactly; no other values are equal.
// spec: client-server-api#conditions-1 event_property_is
func (v value) equals(want value) bool {
	switch v.kind {
	case '"':
		return want.kind == '"' && v.text == want.text
	case '0':
		n, ok := v.integer()
		m, wanted := want.integer()
		return ok && wanted && n == m
	case 't', 'f', 'n':
		return v.kind == want.kind
	}
	return false
}

// integer is the value as canonical JSON has integers; floats are none.
// spec: appendices#canonical-json
func (v value) integer() (int64, bool) {
	if v.kind != '0' {
		return 0, false
	}
	n, err := strconv.ParseInt(v.text, 10, 64)
	return n, err == nil && n > -1<<53 && n < 1<<53
}
