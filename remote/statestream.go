package remote

import (
	"errors"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/outgoing"
	"hearth/room"
)

const (
	// maxState bounds the answers that carry a room's whole state.
	maxState = 1 << 30
	// maxWireEvent bounds one event in them: the largest event with every letter
	// escaped, and some unsigned data.
	maxWireEvent = 8 * event.MaxSize
	// maxServersInRoom bounds a list of servers.
	maxServersInRoom = 200_000
	// maxMembers bounds the keys of an answer, of which no endpoint has many.
	maxMembers = 100
)

// stateReader reads an answer with many events or their ids one at a time, in
// memory for little more than the largest of them. Whether a value in it has a key twice
// is for those to say who are given it, as event.Parse does.
type stateReader struct {
	dec  *jsontext.Decoder
	mine error // of the function that is given the events
}

func newStateReader(body io.Reader) *stateReader {
	s := &stateReader{}
	// To find names that are there twice, the decoder would keep all names of each object
	// that it is in, and of the last one that it saw at each depth.
	s.dec = jsontext.NewDecoder(&valueLimit{body: body, reader: s}, jsontext.AllowDuplicateNames(true))
	return s
}

// valueLimit ends reading when the decoder keeps too much: a value that does not end.
type valueLimit struct {
	body   io.Reader
	reader *stateReader
	read   int64
}

func (l *valueLimit) Read(p []byte) (int, error) {
	if l.reader.dec != nil && l.read-l.reader.dec.InputOffset() > maxWireEvent {
		return 0, outgoing.ErrTooLarge
	}
	n, err := l.body.Read(p)
	l.read += int64(n)
	return n, err
}

var errShape = errors.New("the answer is not of the expected shape")

// read reads an object; the functions read the values of the keys that matter, none of
// which may be there twice.
func (s *stateReader) read(members map[string]func() error) error {
	if err := s.expect('{'); err != nil {
		return err
	}
	seen := map[string]bool{}
	for n := 0; s.dec.PeekKind() == '"'; n++ {
		if n == maxMembers {
			return errShape
		}
		token, err := s.dec.ReadToken()
		if err != nil {
			return err
		}
		read, name := s.skip, token.String()
		if known := members[name]; known != nil {
			if seen[name] {
				return fmt.Errorf("%w: %s is there twice", errShape, name)
			}
			seen[name], read = true, known
		}
		if err := read(); err != nil {
			return err
		}
	}
	return s.expect('}')
}

// skip reads a value that does not matter: whatever it has, it takes no more memory than one
// that does.
func (s *stateReader) skip() error {
	if s.dec.PeekKind() == '[' {
		return s.array(func(jsontext.Value) error { return nil })
	}
	_, err := s.dec.ReadValue()
	return err
}

// expect reads one token, which must be of a kind.
func (s *stateReader) expect(kind jsontext.Kind) error {
	t, err := s.dec.ReadToken()
	if err == nil && t.Kind() != kind {
		err = errShape
	}
	return err
}

// array reads an array, each value of which is handed over. The value must not
// be kept without copying.
func (s *stateReader) array(each func(jsontext.Value) error) error {
	if s.dec.PeekKind() == 'n' { // null, as servers write an empty list by mistake
		return s.expect('n')
	}
	if err := s.expect('['); err != nil {
		return err
	}
	for k := s.dec.PeekKind(); k != ']' && k != 0; k = s.dec.PeekKind() {
		v, err := s.dec.ReadValue()
		if err != nil {
			return err
		}
		if err := each(v); err != nil {
			return err
		}
	}
	return s.expect(']')
}

func (s *stateReader) events(part room.StatePart, each func(room.StatePart, jsontext.Value) error) error {
	return s.array(func(v jsontext.Value) error {
		s.mine = each(part, v)
		return s.mine
	})
}

// list reads an array of events, at most so many, into a list.
func (s *stateReader) list(into *[]jsontext.Value, most int) func() error {
	return func() error {
		*into = nil
		return s.array(func(v jsontext.Value) error {
			if len(*into) == most {
				return outgoing.ErrTooLarge
			}
			*into = append(*into, v.Clone())
			return nil
		})
	}
}

// ids reads an array of event ids into a list, of which there may be so many more.
func (s *stateReader) ids(into *[]id.Event, left *int) func() error {
	return func() error {
		return s.array(func(v jsontext.Value) error {
			var name id.Event
			if *left--; *left < 0 {
				return outgoing.ErrTooLarge
			}
			if err := json.Unmarshal(v, &name); err != nil {
				return fmt.Errorf("%w: %w", errShape, err)
			}
			*into = append(*into, name)
			return nil
		})
	}
}

// value reads one value as a copy.
func (s *stateReader) value(into *jsontext.Value) error {
	v, err := s.dec.ReadValue()
	*into = v.Clone()
	return err
}

// end checks that nothing follows.
func (s *stateReader) end() error {
	_, err := s.dec.ReadToken()
	if err == nil {
		return errShape
	}
	if err == io.EOF {
		return nil
	}
	return err
}

// failure tells whose fault an error is: what the function that got the events
// returned stays as it is.
func (s *stateReader) failure(server id.Server, err error) error {
	if err == nil {
		err = s.end()
	}
	if err == nil || s.mine != nil {
		return s.mine
	}
	syntax, ok := errors.AsType[*jsontext.SyntacticError](err)
	if ok && !errors.Is(syntax, io.ErrUnexpectedEOF) || errors.Is(err, errShape) || errors.Is(err, outgoing.ErrTooLarge) {
		return badAnswer(server, err)
	}
	return &Error{Server: server, Err: err}
}
