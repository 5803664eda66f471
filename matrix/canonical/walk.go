package canonical

import "bytes"

// Cursor steps through the members of an object, or the elements of an array,
// without decoding or copying them:
//
//	for c := canonical.Walk(object); c.Next(); {
//		use(c.Key, c.Value)
//	}
//
// The JSON must be canonical; of any other it may see nonsense, but it never
// reads outside of it.
type Cursor struct {
	Key   []byte // what is between the quotes, still escaped; nil in an array
	Value []byte

	rest   []byte
	object bool
	bad    bool
}

// Walk starts before the first member of an object or element of an array.
// Of anything else there is nothing to see.
func Walk(json []byte) Cursor {
	if len(json) < 2 || json[0] != '{' && json[0] != '[' {
		return Cursor{bad: true}
	}
	return Cursor{rest: json[1:], object: json[0] == '{'}
}

// Malformed says that the walk ended early because what it walked is not
// canonical JSON, or neither object nor array.
func (c *Cursor) Malformed() bool { return c.bad }

// Next steps to the next member or element, and says whether there is one.
func (c *Cursor) Next() bool {
	if c.bad || len(c.rest) == 0 {
		c.bad = true
		return false
	}
	switch c.rest[0] {
	case '}', ']':
		return false
	case ',':
		c.rest = c.rest[1:]
	}
	if c.object {
		end := skipString(c.rest)
		if end < 2 || end >= len(c.rest) || c.rest[end] != ':' {
			c.bad = true
			return false
		}
		c.Key, c.rest = c.rest[1:end-1], c.rest[end+1:]
	}
	end := skipValue(c.rest)
	if end <= 0 || end >= len(c.rest) {
		c.bad = true
		return false
	}
	c.Value, c.rest = c.rest[:end], c.rest[end:]
	return true
}

// KeyIs says whether the key stands for s.
func (c *Cursor) KeyIs(s string) bool {
	if string(c.Key) == s {
		return true
	}
	return bytes.IndexByte(c.Key, '\\') >= 0 && c.KeyString() == s
}

// KeyString is the key without escapes.
func (c *Cursor) KeyString() string {
	if bytes.IndexByte(c.Key, '\\') < 0 {
		return string(c.Key)
	}
	return string(unescape(make([]byte, 0, len(c.Key)), c.Key))
}

// Get finds the value of a key of an object; nil if it has none.
func Get(object []byte, key string) []byte {
	if len(object) == 0 || object[0] != '{' {
		return nil
	}
	for c := Walk(object); c.Next(); {
		if c.KeyIs(key) {
			return c.Value
		}
	}
	return nil
}

// String decodes a string value; false if the value is not a string.
func String(value []byte) (string, bool) {
	if len(value) < 2 || value[0] != '"' {
		return "", false
	}
	inner := value[1 : len(value)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return string(inner), true
	}
	return string(unescape(make([]byte, 0, len(inner)), inner)), true
}

// GetString is String of Get.
func GetString(object []byte, key string) (string, bool) { return String(Get(object, key)) }

// skipString is the length of the string at the start of b, quotes included; 0 if there is none.
func skipString(b []byte) int {
	if len(b) == 0 || b[0] != '"' {
		return 0
	}
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			return i + 1
		case '\\':
			i++
		}
	}
	return 0
}

// skipValue is the length of the value at the start of b; 0 if there is none.
func skipValue(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	switch b[0] {
	case '"':
		return skipString(b)
	case '{', '[':
		return skipNested(b)
	}
	for i, c := range b {
		if c == ',' || c == '}' || c == ']' {
			return i
		}
	}
	return 0
}

func skipNested(b []byte) int {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		case '"':
			n := skipString(b[i:])
			if n == 0 {
				return 0
			}
			i += n - 1
		}
	}
	return 0
}
