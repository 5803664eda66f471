package federation

import (
	"bufio"
	"context"
	"net/http"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/room"
)

// objectWriter writes one JSON object piece by piece, so that no answer is ever
// whole in memory. The first error stops it; end returns that.
type objectWriter struct {
	w    *bufio.Writer
	some bool
	err  error
}

func newObjectWriter(w http.ResponseWriter) *objectWriter {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return &objectWriter{w: bufio.NewWriterSize(w, 64<<10)}
}

func (o *objectWriter) write(b string) {
	if o.err == nil {
		_, o.err = o.w.WriteString(b)
	}
}

func (o *objectWriter) key(name string) {
	if o.some {
		o.write(",")
	} else {
		o.write("{")
	}
	o.some = true
	o.write(`"` + name + `":`)
}

// value writes a member whose value is small.
func (o *objectWriter) value(name string, v any) {
	o.key(name)
	b, err := json.Marshal(v)
	if o.err == nil {
		o.err = err
	}
	o.write(string(b))
}

// events writes a member that is an array of events.
func (o *objectWriter) events(ctx context.Context, name string, list room.EventList) {
	if o.err != nil {
		return
	}
	o.key(name)
	o.write("[")
	first := true
	err := list.Each(ctx, func(raw jsontext.Value) error {
		if !first {
			o.write(",")
		}
		first = false
		if o.err == nil {
			_, o.err = o.w.Write(raw)
		}
		return o.err
	})
	if o.err == nil {
		o.err = err
	}
	o.write("]")
}

func (o *objectWriter) end() error {
	if !o.some {
		o.write("{")
	}
	o.write("}")
	return o.flush()
}

func (o *objectWriter) flush() error {
	if o.err == nil {
		o.err = o.w.Flush()
	}
	return o.err
}
