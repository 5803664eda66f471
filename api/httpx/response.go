package httpx

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
)

// response remembers whether anything was sent yet, and does not wait for ever
// for a client that stopped reading.
type response struct {
	http.ResponseWriter
	status   int
	hurry    bool // all of it must be taken in the time of one piece
	extended bool
}

const (
	writeTime  = time.Minute // for one piece to be taken
	writePiece = 64 << 10
)

func (w *response) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (n int, err error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	for {
		w.extend()
		piece := b[:min(len(b), writePiece)]
		wrote, err := w.ResponseWriter.Write(piece)
		n, b = n+wrote, b[len(piece):]
		if err != nil || len(b) == 0 {
			return n, err
		}
	}
}

// extend gives the client time to take what is written next. It is called
// before anything is written, since the deadline of the request before on the
// same connection still stands.
func (w *response) extend() {
	if w.hurry && w.extended {
		return
	}
	w.extended = true
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTime)) // a recorder in tests has none
}

// Unwrap lets http.ResponseController find deadlines and Flush.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func writeJSON(w http.ResponseWriter, status int, v any) error {
	var body []byte
	switch v := v.(type) {
	case jsontext.Value:
		body = v
	default:
		var buf bytes.Buffer
		if err := json.MarshalWrite(&buf, v, json.Deterministic(true)); err != nil {
			return fmt.Errorf("write %T: %w", v, err)
		}
		body = buf.Bytes()
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if h.Get("Cache-Control") == "" {
		h.Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	// What fails from here on is the connection, which the client notices itself.
	_, _ = w.Write(body)
	return nil
}

// WriteJSON answers 200, for routes that write by themselves.
func WriteJSON(w http.ResponseWriter, v any) error { return writeJSON(w, http.StatusOK, v) }

// spec: client-server-api#standard-error-response
func writeError(w http.ResponseWriter, e *errcode.Error) error {
	body := make(map[string]any, len(e.Extra)+2)
	for k, v := range e.Extra {
		body[k] = v
	}
	// The first answer of interactive authentication is no failure and has no code.
	if e.Code != "" {
		body["errcode"], body["error"] = e.Code, e.Message
	}
	// spec: client-server-api#rate-limiting
	if ms, ok := body["retry_after_ms"].(int64); ok {
		w.Header().Set("Retry-After", strconv.FormatInt((ms+999)/1000, 10))
	}
	return writeJSON(w, e.Status, body)
}

// spec: client-server-api#web-browser-clients
func setCORS(h http.Header) {
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Access-Control-Allow-Methods", "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS")
	h.Set("Access-Control-Allow-Headers", "X-Requested-With, Content-Type, Authorization, Date, If-None-Match, If-Match")
	h.Set("Access-Control-Expose-Headers", "ETag, Retry-After")
	h.Set("Access-Control-Max-Age", "86400")
}

func isOpenToBrowsers(path string) bool {
	for _, prefix := range []string{"/_matrix/", "/.well-known/", "/_synapse/client/"} {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
