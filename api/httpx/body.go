package httpx

import (
	"bytes"
	"encoding"
	"errors"
	"io"
	"net"
	"net/http"
	"reflect"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
	"hearth/matrix/errcode"
)

// maxNesting keeps later readers of a body from deep recursion; no event type
// of the spec comes near it.
const maxNesting = 200

// A body of the largest size must arrive within bodyTime.
const bodyTime = time.Minute

// readBody reads the whole body once, whatever Content-Length says.
func (rq *request) readBody() error {
	if rq.read {
		return nil
	}
	limit := rq.route.maxBody
	if limit > 0 && rq.r.ContentLength > limit {
		return tooLarge(limit)
	}
	rc := http.NewResponseController(rq.w)
	// A recorder in tests has no deadlines, and a connection that lost its
	// own fails in the read below.
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime))
	src := io.Reader(rq.r.Body)
	if limit > 0 {
		src = http.MaxBytesReader(rq.w, rq.r.Body, limit)
	}
	body, err := rq.readAll(src)
	if err == nil {
		// A deadline that stayed would end a waiting /sync.
		_ = rc.SetReadDeadline(time.Time{})
		rq.body, rq.read = body, true
		return nil
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(limit)
	}
	if e, ok := errors.AsType[*errcode.Error](err); ok {
		return e
	}
	if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
		return errcode.New(http.StatusRequestTimeout, "M_UNKNOWN", "the request body did not arrive in time")
	}
	return errcode.NotJSON("the request body broke off")
}

// patientBody is a body that a handler reads by itself: it may take long, but
// not stand still.
type patientBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

// standstill is how long a body may bring nothing.
const standstill = 30 * time.Second

func (b *patientBody) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(time.Now().Add(standstill)) // as in readBody
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

func tooLarge(limit int64) error {
	return errcode.TooLarge("the request body is larger than %d bytes", limit)
}

// object reads the body as one JSON object. No body at all is an empty object,
// except for PUT, where the content is the point of the request.
func (rq *request) object() (jsontext.Value, error) {
	if err := rq.readBody(); err != nil {
		return nil, err
	}
	v := jsontext.Value(bytes.TrimSpace(rq.body))
	if len(v) == 0 && rq.r.Method != http.MethodPut {
		return jsontext.Value("{}"), nil
	}
	if rq.route.Auth == Server {
		// What other servers send holds events of their users, of which one that
		// nests deeply must not keep out the rest.
		return v, checkObject(v, canonical.MaxDepth)
	}
	return v, checkObject(v, maxNesting)
}

func checkObject(v jsontext.Value, deepest int) error {
	if nesting(v) > deepest {
		return errcode.BadJSON("the request body is nested too deeply")
	}
	dec := jsontext.NewDecoder(bytes.NewReader(v))
	if _, err := dec.ReadValue(); err != nil {
		if errors.Is(err, jsontext.ErrDuplicateName) {
			return errcode.BadJSON("the request body has a repeated key")
		}
		return errcode.NotJSON("the request body is not valid JSON")
	}
	if _, err := dec.ReadToken(); err != io.EOF {
		return errcode.NotJSON("the request body goes on after its JSON value")
	}
	if v.Kind() != '{' {
		return errcode.BadJSON("the request body must be a JSON object")
	}
	return nil
}

// nesting counts brackets outside strings. It may be wrong about text that is
// not JSON, which the decoder refuses afterwards.
func nesting(b []byte) (deepest int) {
	depth, inString := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// decodeBody decodes v, which is valid JSON, so what fails is a field's type or value.
func decodeBody(v jsontext.Value, into any) error {
	// That no key is there twice is checked: without looking for it once more, the decoders that are
	// kept for reuse do not keep all the names of large bodies.
	err := json.Unmarshal(v, into, jsontext.AllowDuplicateNames(true))
	if err == nil {
		return nil
	}
	where := "the request body"
	if se, ok := errors.AsType[*json.SemanticError](err); ok {
		if p := string(se.JSONPointer); p != "" {
			where = p[1:]
		}
		if se.JSONKind == '"' && se.GoType != nil && reflect.PointerTo(se.GoType).Implements(textUnmarshaler) && se.Err != nil {
			return errcode.InvalidParam("%s: %s", where, se.Err)
		}
		if e, ok := errors.AsType[*errcode.Error](se.Err); ok {
			return e
		}
	}
	return errcode.BadJSON("%s is of a wrong type or out of range", where)
}

var textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
