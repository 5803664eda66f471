package config

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Option is one key as people read about it.
type Option struct {
	Section string
	Key     string // dotted
	Kind    string
	Default string
	Allowed []string
	Doc     string
}

// Options lists every key in the order of the struct.
func Options() []Option {
	return optionsOf(reflect.TypeFor[Config](), "", "")
}

func optionsOf(t reflect.Type, prefix, section string) (list []Option) {
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Name == "_" {
			section = f.Tag.Get("section")
			continue
		}
		o := Option{
			Section: section, Key: prefix + f.Tag.Get("yaml"), Kind: kindOf(f.Type),
			Default: f.Tag.Get("default"), Allowed: strings.Fields(f.Tag.Get("allowed")), Doc: f.Tag.Get("doc"),
		}
		list = append(list, o)
		switch elem := f.Type; {
		case elem == reflect.TypeFor[Rate]():
		case elem.Kind() == reflect.Struct:
			list = append(list, optionsOf(elem, o.Key+".", section)...)
		case elem.Kind() == reflect.Slice && reflect.PointerTo(elem.Elem()).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		case elem.Kind() == reflect.Slice && elem.Elem().Kind() == reflect.Struct:
			list = append(list, optionsOf(elem.Elem(), o.Key+"[].", section)...)
		}
	}
	return list
}

func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[Duration](), reflect.TypeFor[time.Duration]():
		return "duration"
	case reflect.TypeFor[Size]():
		return "size"
	case reflect.TypeFor[Rate]():
		return "rate"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Float64:
		return "number"
	case reflect.Slice:
		return "list"
	case reflect.Map, reflect.Struct:
		return "group"
	}
	return "text"
}

// Describe explains the keys that are or start with key; all of them for "".
func Describe(key string) (string, bool) {
	var b strings.Builder
	for _, o := range Options() {
		if key != "" && o.Key != key && !strings.HasPrefix(o.Key, key+".") && !strings.HasPrefix(o.Key, key+"[]") {
			continue
		}
		fmt.Fprintf(&b, "%s (%s", o.Key, o.Kind)
		if o.Default != "" {
			fmt.Fprintf(&b, ", default %s", o.Default)
		}
		if len(o.Allowed) > 0 {
			fmt.Fprintf(&b, "; one of %s", strings.Join(o.Allowed, ", "))
		}
		fmt.Fprintf(&b, ")\n    %s\n", o.Doc)
	}
	return b.String(), b.Len() > 0
}

// Reference is docs/configuration.md.
func Reference() string {
	var b strings.Builder
	b.WriteString("# Configuration\n\nGenerated from `config/config.go`; `hearth config describe KEY` says the same.\n\n" +
		"Hearth reads YAML: the file given with `--config`, then `conf.d/*.yaml` beside it in the order of their names. " +
		"A later file replaces a top-level key as a whole. Keys are Synapse's where Synapse has the option. " +
		"Durations are written `30s`, `10m`, `1h`, `1d`, `1w`, `1y` or in milliseconds, sizes `512K`, `50M`, `1G`, " +
		"rates `{per_second: 0.2, burst_count: 10}`. Unknown keys are warned about; a wrong value stops the start.\n")
	section := ""
	for _, o := range Options() {
		if o.Section != section {
			section = o.Section
			fmt.Fprintf(&b, "\n## %s\n\n| key | kind | default | |\n|---|---|---|---|\n", section)
		}
		def := cmp.Or(o.Default, " ")
		if def != " " {
			def = "`" + def + "`"
		}
		doc := o.Doc
		if len(o.Allowed) > 0 {
			doc += " One of `" + strings.Join(o.Allowed, "`, `") + "`."
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", o.Key, o.Kind, def, doc)
	}
	return b.String()
}
