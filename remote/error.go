package remote

import (
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/go-json-experiment/json"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/outgoing"
)

// Error is the failure of a request to another server.
type Error struct {
	Server id.Server
	// Status is what the server answered with; 0: there was no answer.
	Status int
	// Bare: the answer was none of a Matrix server, as it had no errcode.
	Bare bool
	// Err is an *errcode.Error where the server answered with one.
	Err error

	connected bool // there was a connection
	made      bool // see request
}

func (e *Error) Error() string {
	if e.Status == 0 {
		return fmt.Sprintf("%s: %v", e.Server, e.Err)
	}
	return fmt.Sprintf("%s answered %d: %v", e.Server, e.Status, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Unreachable says whether err means that no homeserver answered: no
// connection, no answer in time, or one of a proxy before it.
func Unreachable(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	_, answered := errors.AsType[*errcode.Error](e.Err)
	return !answered
}

// ForClient is what a client is told of a failure to ask another server.
func ForClient(err error) error {
	if failure, ok := errors.AsType[*Error](err); ok {
		return failure.ForClient()
	}
	return err
}

// ForClient is what that server says of the request itself, or that it was no use.
func (e *Error) ForClient() *errcode.Error {
	answer, answered := errors.AsType[*errcode.Error](e.Err)
	switch {
	case !answered:
		return errcode.New(http.StatusBadGateway, "M_UNKNOWN", "%s could not be reached", e.Server)
	case answer.Code == "M_UNRECOGNIZED":
		// For a client that would mean that this server has no such endpoint.
		return errcode.NotFound("%s does not know it", e.Server)
	case e.made && (answer.Code == "M_INVALID_PARAM" || answer.Code == "M_MISSING_PARAM"):
		// It is this server that made the event, so that the client has done nothing wrong.
		// spec: server-server-api#put_matrixfederationv2send_joinroomideventid
		return errcode.New(http.StatusBadGateway, "M_UNKNOWN", "%s does not take what this server has made: %s", e.Server, answer.Message)
	case answer.Status >= 500 && answer.Status != http.StatusGatewayTimeout:
		return errcode.New(http.StatusBadGateway, answer.Code, "%s could not answer: %s", e.Server, answer.Message)
	}
	return answer
}

// unrecognized says whether the server does not have the endpoint.
// spec: server-server-api#unsupported-endpoints
func unrecognized(err error) bool {
	e, ok := errors.AsType[*errcode.Error](err)
	return ok && e.Code == "M_UNRECOGNIZED"
}

// mayBeOlder says whether a server may have refused an invite because it knows only the
// first version of the endpoint.
// spec: server-server-api#put_matrixfederationv2inviteroomideventid
func mayBeOlder(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && (e.Status == http.StatusBadRequest || e.Status == http.StatusNotFound || unrecognized(err))
}

// isBare says whether a request was refused without a Matrix error: there may be no such
// endpoint, and something else took it for its own.
func isBare(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Bare && e.Status == http.StatusBadRequest
}

// maxErrorBody bounds what is read of an error.
const maxErrorBody = 64 << 10

// passedOn are the further keys of errors that mean something to others than
// those who asked.
var passedOn = map[string]bool{"room_version": true, "retry_after_ms": true}

// answerError reads an answer that is no success.
// spec: server-server-api#api-standards
func answerError(server id.Server, resp *http.Response) *Error {
	failure := &Error{Server: server, Status: resp.StatusCode}
	body, err := io.ReadAll(outgoing.Limit(resp.Body, maxErrorBody))
	var doc map[string]any
	if err == nil {
		err = json.Unmarshal(body, &doc)
	}
	code, _ := doc["errcode"].(string)
	text, _ := doc["error"].(string)
	failure.Bare = code == ""
	switch {
	case code != "":
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed:
		// Servers that have no such endpoint did not always say so in JSON.
		code, text = "M_UNRECOGNIZED", "the server does not know this request"
	case resp.StatusCode >= 500:
		// Of a proxy, or of a server that is no use just now.
		failure.Err = fmt.Errorf("an answer without a Matrix error (%w)", errors.Join(err, errNoCode))
		return failure
	default:
		code, text = "M_UNKNOWN", "the server refused without saying why"
	}
	answer := errcode.New(resp.StatusCode, code, "%s", text)
	for k, v := range doc {
		if passedOn[k] {
			answer = answer.With(k, v)
		}
	}
	failure.Err = publicly(answer)
	return failure
}

var errNoCode = errors.New("no errcode")

// publicly makes an answer to this server harmless for a client to which it is
// passed on: that its login is not valid is not for another server to say.
func publicly(e *errcode.Error) *errcode.Error {
	switch e.Code {
	case "M_UNKNOWN_TOKEN", "M_MISSING_TOKEN", "M_USER_LOCKED", "M_USER_SUSPENDED":
		e.Code = "M_UNKNOWN"
	}
	if e.Status == http.StatusUnauthorized || e.Status < 400 {
		e.Status = http.StatusBadGateway
	}
	return e
}
