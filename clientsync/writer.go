package clientsync

import (
	"io"
	"sync"

	"hearth/matrix/canonical"
)

// flushSize is from when on what is written goes out, wherever that is possible.
const flushSize = 256 << 10

// maxPooled keeps the buffer of one huge answer from staying for ever.
const maxPooled = 1 << 20

// writer builds JSON by appending. Raw values given to it are JSON already.
type writer struct {
	b    []byte
	out  io.Writer
	sent int64 // bytes that have gone out
	last byte  // of what has gone out
}

func (w *writer) init(out io.Writer, pool *sync.Pool) {
	*w = writer{out: out, b: (*pool.Get().(*[]byte))[:0]}
}

func (w *writer) release(pool *sync.Pool) {
	if b := w.b; cap(b) <= maxPooled {
		pool.Put(&b)
	}
	w.b = nil
}

// flush sends what was built so far.
func (w *writer) flush() error {
	if len(w.b) == 0 {
		return nil
	}
	w.last = w.b[len(w.b)-1]
	n, err := w.out.Write(w.b)
	w.sent += int64(n)
	w.b = w.b[:0]
	return err
}

// flushFull sends what was built if it is much.
func (w *writer) flushFull() error {
	if len(w.b) < flushSize {
		return nil
	}
	return w.flush()
}

// reopen takes back the end of the object that was written last, so that it can have further members.
func (w *writer) reopen() { w.b = w.b[:len(w.b)-1] }

func (w *writer) size() int64 { return w.sent + int64(len(w.b)) }

// comma separates a member or element from the one before it.
func (w *writer) comma() {
	last := w.last
	if n := len(w.b); n > 0 {
		last = w.b[n-1]
	}
	if last != '{' && last != '[' && last != ':' && last != 0 {
		w.b = append(w.b, ',')
	}
}

func (w *writer) key(k string) {
	w.comma()
	w.b = append(canonical.AppendString(w.b, k), ':')
}

func (w *writer) raw(key string, json []byte) {
	w.key(key)
	w.b = append(w.b, json...)
}

// object writes a member whose value is an object; if fn wrote nothing into it, neither is it.
func (w *writer) object(key string, fn func() error) error { return w.nested(key, "{", "}", false, fn) }

// events writes {"events":[…]} as a member; unless always is set, only if fn wrote any.
func (w *writer) events(key string, always bool, fn func() error) error {
	return w.nested(key, `{"events":[`, `]}`, always, fn)
}

// array writes a member whose value is an array, of nothing too.
func (w *writer) array(key string, fn func() error) error { return w.nested(key, "[", "]", true, fn) }

func (w *writer) nested(key, open, closing string, always bool, fn func() error) error {
	mark, sent := len(w.b), w.sent
	w.key(key)
	w.b = append(w.b, open...)
	inside := w.size()
	if err := fn(); err != nil {
		return err
	}
	if w.size() == inside && !always && w.sent == sent {
		w.b = w.b[:mark]
		return nil
	}
	w.b = append(w.b, closing...)
	return nil
}
