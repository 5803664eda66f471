package filter

import (
	"bytes"
	"fmt"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
)

// fieldTree is event_fields as a tree of property names. A name with a nil tree is
// wanted whole.
type fieldTree struct {
	names map[string]*fieldTree
}

// newFieldTree is nil if all fields are wanted. An empty list asks for nothing, which
// is of no use to anyone: as a server may include more than requested, it gets all.
func newFieldTree(fields []string) *fieldTree {
	if len(fields) == 0 {
		return nil
	}
	root := &fieldTree{map[string]*fieldTree{}}
	for _, field := range fields {
		root.add(event.PropertyPath(field))
	}
	return root
}

func (t *fieldTree) add(path []string) {
	for i, name := range path {
		next, known := t.names[name]
		switch {
		case known && next == nil:
			return // the whole is wanted already
		case i == len(path)-1:
			t.names[name] = nil
		case !known:
			next = &fieldTree{map[string]*fieldTree{}}
			t.names[name] = next
		}
		t = next
	}
}

// SelectsFields says whether Select takes anything away.
func (f *Filter) SelectsFields() bool { return f.fields != nil }

// Select appends to dst the event in client format with the fields only that
// event_fields asks for.
// spec: client-server-api#post_matrixclientv3useruseridfilter event_fields
func (f *Filter) Select(dst []byte, event []byte) ([]byte, error) {
	if f.fields == nil {
		return append(dst, event...), nil
	}
	d := jsontext.NewDecoder(bytes.NewBuffer(event), jsontext.AllowDuplicateNames(true))
	dst, err := f.fields.copyObject(dst, d)
	if err != nil {
		return nil, fmt.Errorf("select fields of an event: %w", err)
	}
	return dst, nil
}

// copyObject copies the wanted members of the value that comes next. A value that is
// no object has none; it is left out.
func (t *fieldTree) copyObject(dst []byte, d *jsontext.Decoder) ([]byte, error) {
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	dst = append(dst, '{')
	empty := true
	for d.PeekKind() != '}' {
		raw, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		name, err := jsontext.AppendUnquote(nil, raw)
		if err != nil {
			return nil, err
		}
		below, wanted := t.names[string(name)]
		if !wanted || below != nil && d.PeekKind() != '{' {
			if err := d.SkipValue(); err != nil {
				return nil, err
			}
			continue
		}
		if !empty {
			dst = append(dst, ',')
		}
		empty = false
		dst = append(append(dst, raw...), ':')
		if below != nil {
			if dst, err = below.copyObject(dst, d); err != nil {
				return nil, err
			}
			continue
		}
		whole, err := d.ReadValue()
		if err != nil {
			return nil, err
		}
		dst = append(dst, whole...)
	}
	if _, err := d.ReadToken(); err != nil {
		return nil, err
	}
	return append(dst, '}'), nil
}
