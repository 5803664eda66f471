package store

import (
	"reflect"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
)

// PostgreSQL's text has no NUL and only UTF-8; names and keys of events may have the one, and what
// comes in addresses of requests the other. They are written with an escape there, each string as
// one of its own, so that no two become equal: a rune of private use, and one for the byte; itself
// twice. Strings without these are as they are, for whoever reads the database.

const (
	textEscape = '\uE000'
	textByte   = '\uE100' // and the byte
)

// textArgs are the arguments of a query with what text cannot have escaped.
func (d dialect) textArgs(args []any) []any {
	if d.name != postgres.name {
		return args
	}
	copied := false
	for i, a := range args {
		s, ok := stringOf(a)
		if !ok || isPlainText(s) {
			continue
		}
		if !copied {
			args, copied = append([]any(nil), args...), true
		}
		args[i] = escapeText(s)
	}
	return args
}

// stringOf is the text of an argument, if it is one.
func stringOf(a any) (s string, ok bool) {
	switch a := a.(type) {
	case string:
		return a, true
	case []byte, int64, nil:
		return "", false
	}
	v := reflect.ValueOf(a)
	if v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	if v.Kind() != reflect.String {
		return "", false
	}
	return v.String(), true
}

func isPlainText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsAny(s, "\x00"+string(textEscape))
}

func escapeText(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case r == 0 || r == utf8.RuneError && n == 1:
			b.WriteRune(textEscape)
			b.WriteRune(textByte + rune(s[0]))
		case r == textEscape:
			b.WriteRune(textEscape)
			b.WriteRune(textEscape)
		default:
			b.WriteString(s[:n])
		}
		s = s[n:]
	}
	return b.String()
}

func unescapeText(s string) string {
	var b strings.Builder
	escaped := false
	for _, r := range s {
		switch {
		case !escaped && r == textEscape:
			escaped = true
			continue
		case escaped && r >= textByte && r <= textByte+0xFF:
			b.WriteByte(byte(r - textByte))
		default:
			b.WriteRune(r)
		}
		escaped = false
	}
	return b.String()
}

// textList is a list of texts as a parameter of a query, in JSON.
func textList[T ~string](tx *Tx, list []T) (any, error) {
	if tx.conn.dialect.name != postgres.name {
		param, err := json.Marshal(list)
		return string(param), err
	}
	escaped := make([]string, len(list))
	for i, s := range list {
		escaped[i] = escapeText(string(s))
	}
	return json.Marshal(escaped) // as bytes, which are not escaped again
}

// row is a row as a dialect has it.
func (d dialect) row(r scanner) scanner {
	if d.name != postgres.name {
		return r
	}
	return textRow{r}
}

// textRow undoes the escape.
type textRow struct{ scanner }

func (r textRow) Scan(dest ...any) error {
	if err := r.scanner.Scan(dest...); err != nil {
		return err
	}
	for _, d := range dest {
		switch d.(type) {
		case *int64, *[]byte:
			continue
		}
		v := reflect.ValueOf(d).Elem()
		if v.Kind() == reflect.Pointer && !v.IsNil() { // NULL or a text
			v = v.Elem()
		}
		if v.Kind() == reflect.String && strings.ContainsRune(v.String(), textEscape) {
			v.SetString(unescapeText(v.String()))
		}
	}
	return nil
}
