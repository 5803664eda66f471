package config

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
)

// decoder fills structs from YAML values and collects what is wrong, so that
// one look at the message is enough to mend a file.
type decoder struct {
	file     string
	errs     []error
	warnings []string
}

func (d *decoder) fail(key string, format string, a ...any) {
	d.errs = append(d.errs, fmt.Errorf("%s: %s: %s", d.file, key, fmt.Sprintf(format, a...)))
}

// value decodes v into dst; tag is that of the struct field.
func (d *decoder) value(key string, v any, dst reflect.Value, tag reflect.StructTag) {
	if v == nil { // `key:` with nothing after it
		setDefaults(dst, tag)
		return
	}
	switch p := dst.Addr().Interface().(type) {
	case *Duration:
		take(d, key, p, v, parseDuration)
		return
	case *Size:
		take(d, key, p, v, parseSize)
		return
	case encoding.TextUnmarshaler:
		s, ok := v.(string)
		if !ok {
			d.fail(key, "%s is not text", show(v))
		} else if err := p.UnmarshalText([]byte(s)); err != nil {
			d.fail(key, "%s", err)
		}
		return
	}
	switch dst.Kind() {
	case reflect.String:
		d.text(key, v, dst, tag.Get("allowed"))
	case reflect.Bool:
		b, ok := boolean(v)
		if !ok {
			d.fail(key, "%s is neither true nor false", show(v))
		}
		dst.SetBool(b)
	case reflect.Int:
		n, ok := integer(v)
		if !ok || n < 0 {
			d.fail(key, "%s is not a whole number", show(v))
		}
		dst.SetInt(n)
	case reflect.Float64:
		n, ok := number(v)
		if !ok || n < 0 {
			d.fail(key, "%s is not a number", show(v))
		}
		dst.SetFloat(n)
	case reflect.Slice:
		d.list(key, v, dst)
	case reflect.Map:
		d.mapping(key, v, dst)
	case reflect.Struct:
		d.group(key, v, dst)
	default:
		panic("config: no decoder for " + dst.Type().String())
	}
}

func take[T any](d *decoder, key string, dst *T, v any, parse func(any) (T, error)) {
	parsed, err := parse(v)
	if err != nil {
		d.fail(key, "%s", err)
		return
	}
	*dst = parsed
}

func (d *decoder) text(key string, v any, dst reflect.Value, allowed string) {
	switch v := v.(type) {
	case string:
		dst.SetString(v)
	case map[string]any, []any:
		d.fail(key, "%s is not text", show(v))
		return
	default: // an unquoted number or boolean
		dst.SetString(fmt.Sprint(v))
	}
	if allowed != "" && !slices.Contains(strings.Fields(allowed), dst.String()) {
		d.fail(key, "%q is not allowed; it may be %s", dst.String(), strings.Join(strings.Fields(allowed), ", "))
	}
}

func (d *decoder) list(key string, v any, dst reflect.Value) {
	items, ok := v.([]any)
	if !ok {
		d.fail(key, "%s is not a list", show(v))
		return
	}
	list := reflect.MakeSlice(dst.Type(), len(items), len(items))
	for i, item := range items {
		setDefaults(list.Index(i), "")
		d.value(fmt.Sprintf("%s[%d]", key, i), item, list.Index(i), "")
	}
	dst.Set(list)
}

func (d *decoder) mapping(key string, v any, dst reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.fail(key, "%s is not a group of keys", show(v))
		return
	}
	out := reflect.MakeMap(dst.Type())
	for k, item := range m {
		if dst.Type().Elem().Kind() == reflect.Interface {
			out.SetMapIndex(reflect.ValueOf(k), reflect.ValueOf(&item).Elem())
			continue
		}
		e := reflect.New(dst.Type().Elem()).Elem()
		d.value(key+"."+k, item, e, "")
		out.SetMapIndex(reflect.ValueOf(k), e)
	}
	dst.Set(out)
}

func (d *decoder) group(key string, v any, dst reflect.Value) {
	m, ok := v.(map[string]any)
	if !ok {
		d.fail(key, "%s is not a group of keys", show(v))
		return
	}
	for k, item := range m {
		i, f, ok := fieldOf(dst.Type(), k)
		if !ok {
			if !ignored[key+"."+k] {
				d.warnings = append(d.warnings, fmt.Sprintf("%s: unknown key %s.%s is ignored%s", d.file, key, k, suggestion(k, keysOf(dst.Type()))))
			}
			continue
		}
		d.value(key+"."+k, item, dst.Field(i), f.Tag)
	}
}

// setDefaults sets dst to what its tags say when a file says nothing.
func setDefaults(dst reflect.Value, tag reflect.StructTag) {
	dst.SetZero()
	if text, ok := tag.Lookup("default"); ok {
		var v any
		d := decoder{file: "default"}
		if err := yaml.Unmarshal([]byte(text), &v); err != nil {
			panic(err)
		}
		d.value(text, v, dst, tag)
		if len(d.errs) > 0 {
			panic(errors.Join(d.errs...))
		}
		return
	}
	if _, text := dst.Addr().Interface().(encoding.TextUnmarshaler); text {
		return // its fields are not options
	}
	if dst.Kind() == reflect.Struct {
		for i := range dst.NumField() {
			if f := dst.Type().Field(i); f.Name != "_" {
				setDefaults(dst.Field(i), f.Tag)
			}
		}
	}
}

func fieldOf(t reflect.Type, key string) (int, reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Name != "_" && f.Tag.Get("yaml") == key {
			return i, f, true
		}
	}
	return 0, reflect.StructField{}, false
}

func keysOf(t reflect.Type) (keys []string) {
	for i := range t.NumField() {
		if key := t.Field(i).Tag.Get("yaml"); key != "" {
			keys = append(keys, key)
		}
	}
	return keys
}

// boolean takes YAML 1.1's words too, as Synapse does.
func boolean(v any) (is, ok bool) {
	switch v := v.(type) {
	case bool:
		return v, true
	case string:
		switch strings.ToLower(v) {
		case "yes", "on", "true":
			return true, true
		case "no", "off", "false":
			return false, true
		}
	}
	return false, false
}

func number(v any) (float64, bool) {
	if f, ok := v.(float64); ok {
		return f, true
	}
	n, ok := integer(v)
	return float64(n), ok
}

// suggestion names a known key that differs by a slip or two.
func suggestion(key string, known []string) string {
	best, distance := "", 3
	for _, k := range known {
		if d := editDistance(key, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(diagonal+cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
