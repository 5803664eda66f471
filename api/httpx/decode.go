package httpx

import (
	"encoding"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
)

// plan is what the tags of a request struct ask for, worked out once per route.
type plan struct {
	path, query, header []boundField
	whole               int          // index of the body:"." field, or -1
	stream              int          // index of the body:"stream" field, or -1
	body                reflect.Type // a struct of the json fields alone, or nil
	bodyFields          []int        // their indexes in the request struct
}

type boundField struct {
	name  string
	index int
}

// planOf panics on a request struct that does not fit its route: a mistake in
// the program, found when the table is built.
func planOf[Req any](rt Route) *plan {
	t := reflect.TypeFor[Req]()
	if t.Kind() != reflect.Struct {
		panic(fmt.Sprintf("httpx: %s: request %s is not a struct", rt.Path, t))
	}
	p := &plan{whole: -1, stream: -1}
	var bodyFields []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		if !f.IsExported() {
			panic(fmt.Sprintf("httpx: %s: field %s is not exported", rt.Path, f.Name))
		}
		if name, ok := f.Tag.Lookup("path"); ok {
			if !strings.Contains(rt.Path, "{"+name+"}") && !strings.Contains(rt.Path, "{"+name+"...}") {
				panic(fmt.Sprintf("httpx: %s has no {%s}", rt.Path, name))
			}
			p.path = append(p.path, boundField{name, i})
		} else if name, ok := f.Tag.Lookup("query"); ok {
			p.query = append(p.query, boundField{name, i})
		} else if name, ok := f.Tag.Lookup("header"); ok {
			p.header = append(p.header, boundField{name, i})
		} else if f.Tag.Get("body") == "." {
			p.whole = i
		} else if f.Tag.Get("body") == "stream" {
			p.stream = i
		} else if tag, ok := f.Tag.Lookup("json"); ok && tag != "-" {
			p.bodyFields = append(p.bodyFields, i)
			f.Anonymous, f.Offset, f.Index = false, 0, nil
			bodyFields = append(bodyFields, f)
		} else if !ok {
			panic(fmt.Sprintf("httpx: %s: field %s has no tag", rt.Path, f.Name))
		}
	}
	if len(bodyFields) > 0 {
		// A type of its own, so that no body can fill a path or query field.
		p.body = reflect.StructOf(bodyFields)
	}
	if (p.body != nil || p.whole >= 0) && (rt.Method == http.MethodGet || rt.Method == http.MethodHead) {
		panic(fmt.Sprintf("httpx: %s %s has no body", rt.Method, rt.Path))
	}
	return p
}

func (p *plan) fill(rq *request, req reflect.Value) error {
	for _, f := range p.path {
		if err := setField(req.Field(f.index), f.name, []string{rq.r.PathValue(f.name)}); err != nil {
			return err
		}
	}
	if len(p.query) > 0 {
		query, err := url.ParseQuery(rq.r.URL.RawQuery)
		if err != nil {
			return errcode.InvalidParam("the query string is malformed")
		}
		for _, f := range p.query {
			if values := query[f.name]; len(values) > 0 {
				if err := setField(req.Field(f.index), f.name, values); err != nil {
					return err
				}
			}
		}
	}
	for _, f := range p.header {
		if values := rq.r.Header.Values(f.name); len(values) > 0 {
			if err := setField(req.Field(f.index), f.name, values); err != nil {
				return err
			}
		}
	}
	return p.fillBody(rq, req)
}

func (p *plan) fillBody(rq *request, req reflect.Value) error {
	if p.stream >= 0 {
		req.Field(p.stream).Set(reflect.ValueOf(io.Reader(rq.r.Body)))
	}
	if p.whole < 0 && p.body == nil {
		return nil
	}
	object, err := rq.object()
	if err != nil {
		return err
	}
	if p.whole >= 0 {
		field := req.Field(p.whole)
		if raw, ok := field.Addr().Interface().(*jsontext.Value); ok {
			*raw = object
		} else if err := decodeBody(object, field.Addr().Interface()); err != nil {
			return err
		}
	}
	if p.body == nil {
		return nil
	}
	body := reflect.New(p.body)
	if err := decodeBody(object, body.Interface()); err != nil {
		return err
	}
	for i, index := range p.bodyFields {
		field := body.Elem().Field(i)
		// PostgreSQL stores no NUL, and no top-level string of the spec may hold one.
		if field.Kind() == reflect.String && strings.IndexByte(field.String(), 0) >= 0 {
			return errcode.InvalidParam("%s has a NUL character", p.body.Field(i).Tag.Get("json"))
		}
		req.Field(index).Set(field)
	}
	return nil
}

func setField(field reflect.Value, name string, values []string) error {
	for _, v := range values {
		if !utf8.ValidString(v) || strings.IndexByte(v, 0) >= 0 {
			return errcode.InvalidParam("%s has characters that are not allowed", name)
		}
	}
	if field.Kind() == reflect.Pointer {
		field.Set(reflect.New(field.Type().Elem()))
		field = field.Elem()
	}
	if _, isText := field.Addr().Interface().(encoding.TextUnmarshaler); field.Kind() == reflect.Slice && !isText {
		list := reflect.MakeSlice(field.Type(), len(values), len(values))
		for i, v := range values {
			if err := setScalar(list.Index(i), name, v); err != nil {
				return err
			}
		}
		field.Set(list)
		return nil
	}
	return setScalar(field, name, values[0])
}

func setScalar(field reflect.Value, name, value string) error {
	if t, ok := field.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if err := t.UnmarshalText([]byte(value)); err != nil {
			return errcode.InvalidParam("%s: %s", name, err)
		}
		return nil
	}
	switch field.Kind() {
	case reflect.String:
		field.SetString(value)
	case reflect.Bool:
		switch value {
		case "true":
			field.SetBool(true)
		case "false":
			field.SetBool(false)
		default:
			return errcode.InvalidParam("%s must be true or false", name)
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(value, 10, field.Type().Bits())
		if err != nil {
			return errcode.InvalidParam("%s must be an integer", name)
		}
		field.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(value, 10, field.Type().Bits())
		if err != nil {
			return errcode.InvalidParam("%s must be an integer, not below zero", name)
		}
		field.SetUint(n)
	default:
		panic(fmt.Sprintf("httpx: field %s has type %s, which no tag can fill", name, field.Type()))
	}
	return nil
}
