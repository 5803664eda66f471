package authrules

import (
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// Rules read one or two keys of contents that event has validated already, and
// do so for every message. Hence this walk over the raw text, which allocates
// nothing. On text that is not JSON it ends early; it never fails.

type bytestring interface{ ~[]byte | ~string }

// A walk goes through the members of a JSON object.
type walk[T bytestring] struct {
	text T
	at   int
}

// members starts a walk; ok is false if the text is not an object.
func members[T bytestring](object T) (w walk[T], ok bool) {
	w = walk[T]{text: object}
	w.space()
	if w.at >= len(object) || object[w.at] != '{' {
		return w, false
	}
	w.at++
	return w, true
}

// elements starts a walk over an array, for element.
func elements[T bytestring](array T) (w walk[T], ok bool) {
	w = walk[T]{text: array}
	w.space()
	if w.at >= len(array) || array[w.at] != '[' {
		return w, false
	}
	w.at++
	return w, true
}

// next gives the next member: its key, a JSON string with its quotes, and the
// text of its value.
func (w *walk[T]) next() (key, value T, ok bool) {
	w.separator()
	if w.at >= len(w.text) || w.text[w.at] != '"' {
		return key, value, false
	}
	key = w.value()
	w.space()
	if w.at >= len(w.text) || w.text[w.at] != ':' {
		return key, value, false
	}
	w.at++
	w.space()
	value = w.value()
	return key, value, len(value) > 0
}

// element gives the next element of an array.
func (w *walk[T]) element() (value T, ok bool) {
	w.separator()
	value = w.value()
	return value, len(value) > 0
}

func (w *walk[T]) space() {
	for w.at < len(w.text) {
		switch w.text[w.at] {
		case ' ', '\t', '\r', '\n':
			w.at++
		default:
			return
		}
	}
}

func (w *walk[T]) separator() {
	w.space()
	if w.at < len(w.text) && w.text[w.at] == ',' {
		w.at++
		w.space()
	}
}

// value steps over one value and returns its text.
func (w *walk[T]) value() T {
	start, depth := w.at, 0
	for w.at < len(w.text) {
		switch w.text[w.at] {
		case '"':
			w.quoted()
			if depth == 0 {
				return w.text[start:w.at]
			}
		case '{', '[':
			depth++
			w.at++
		case '}', ']':
			if depth == 0 {
				return w.text[start:w.at]
			}
			depth--
			w.at++
			if depth == 0 {
				return w.text[start:w.at]
			}
		case ',', ' ', '\t', '\r', '\n', ':':
			if depth == 0 {
				return w.text[start:w.at]
			}
			w.at++
		default:
			w.at++
		}
	}
	return w.text[start:w.at]
}

// quoted steps over a string.
func (w *walk[T]) quoted() {
	for w.at++; w.at < len(w.text); w.at++ {
		switch w.text[w.at] {
		case '\\':
			w.at++
		case '"':
			w.at++
			return
		}
	}
	w.at = len(w.text)
}

// find looks a key up in a JSON object.
func find[T bytestring](object T, name string) (value T, ok bool) {
	w, ok := members(object)
	if !ok {
		return value, false
	}
	for {
		key, value, ok := w.next()
		if !ok {
			return value, false
		}
		if isText(key, name) {
			return value, true
		}
	}
}

// isText says whether a raw JSON value is this string.
func isText[T bytestring](raw T, s string) bool {
	if len(raw) < 2 || raw[0] != '"' {
		return false
	}
	inner := raw[1 : len(raw)-1]
	for i := range len(inner) {
		if inner[i] == '\\' {
			got, ok := text(raw)
			return ok && got == s
		}
		if i >= len(s) || inner[i] != s[i] {
			return false
		}
	}
	return len(inner) == len(s)
}

// text is the string that a raw JSON value is, if it is one.
func text[T bytestring](raw T) (string, bool) {
	if len(raw) < 2 || raw[0] != '"' || raw[len(raw)-1] != '"' {
		return "", false
	}
	inner := string(raw[1 : len(raw)-1])
	if strings.IndexByte(inner, '\\') < 0 {
		return inner, true
	}
	b, err := jsontext.AppendUnquote(nil, raw)
	return string(b), err == nil
}
