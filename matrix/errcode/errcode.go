// Package errcode holds the only errors that are shown outside: Matrix error
// codes with their HTTP status. Any other error becomes a 500 M_UNKNOWN whose
// text is logged and never sent.
//
// It must not import anything of ours. Start at Error; httpx writes it.
package errcode

import "fmt"

// The HTTP statuses used here; net/http has them too, but the protocol
// packages do not depend on it.
const (
	statusBadRequest            = 400
	statusUnauthorized          = 401
	statusForbidden             = 403
	statusNotFound              = 404
	statusRequestEntityTooLarge = 413
	statusTooManyRequests       = 429
)

// Error is an error whose text and code may be seen by a client or another server.
// spec: client-server-api#standard-error-response
type Error struct {
	Status  int            // HTTP status
	Code    string         // M_FORBIDDEN, …
	Message string         // a sentence for people
	Extra   map[string]any // further top-level keys: retry_after_ms, soft_logout, room_version, …
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// With returns a copy of e that carries one more top-level key.
func (e *Error) With(key string, value any) *Error {
	c := *e
	c.Extra = make(map[string]any, len(e.Extra)+1)
	for k, v := range e.Extra {
		c.Extra[k] = v
	}
	c.Extra[key] = value
	return &c
}

// New makes an error of any status and code; the constructors below are for the common ones.
func New(status int, code, format string, a ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, a...)}
}

func Forbidden(format string, a ...any) *Error {
	return New(statusForbidden, "M_FORBIDDEN", format, a...)
}
func NotFound(format string, a ...any) *Error {
	return New(statusNotFound, "M_NOT_FOUND", format, a...)
}
func Unrecognized(format string, a ...any) *Error {
	return New(statusNotFound, "M_UNRECOGNIZED", format, a...)
}
func NotJSON(format string, a ...any) *Error {
	return New(statusBadRequest, "M_NOT_JSON", format, a...)
}
func BadJSON(format string, a ...any) *Error {
	return New(statusBadRequest, "M_BAD_JSON", format, a...)
}
func InvalidParam(format string, a ...any) *Error {
	return New(statusBadRequest, "M_INVALID_PARAM", format, a...)
}
func MissingParam(format string, a ...any) *Error {
	return New(statusBadRequest, "M_MISSING_PARAM", format, a...)
}
func MissingToken(format string, a ...any) *Error {
	return New(statusUnauthorized, "M_MISSING_TOKEN", format, a...)
}
func UnknownToken(format string, a ...any) *Error {
	return New(statusUnauthorized, "M_UNKNOWN_TOKEN", format, a...)
}
func Unauthorized(format string, a ...any) *Error {
	return New(statusUnauthorized, "M_UNAUTHORIZED", format, a...)
}
func TooLarge(format string, a ...any) *Error {
	return New(statusRequestEntityTooLarge, "M_TOO_LARGE", format, a...)
}
func BadState(format string, a ...any) *Error {
	return New(statusBadRequest, "M_BAD_STATE", format, a...)
}
func InvalidUsername(format string, a ...any) *Error {
	return New(statusBadRequest, "M_INVALID_USERNAME", format, a...)
}
func UserInUse(format string, a ...any) *Error {
	return New(statusBadRequest, "M_USER_IN_USE", format, a...)
}
func Exclusive(format string, a ...any) *Error {
	return New(statusBadRequest, "M_EXCLUSIVE", format, a...)
}
func RoomInUse(format string, a ...any) *Error {
	return New(statusBadRequest, "M_ROOM_IN_USE", format, a...)
}
func UnsupportedRoomVersion(format string, a ...any) *Error {
	return New(statusBadRequest, "M_UNSUPPORTED_ROOM_VERSION", format, a...)
}

// UserSuspended refuses what a suspended account may not do.
// spec: client-server-api#account-suspension
func UserSuspended() *Error {
	return New(403, "M_USER_SUSPENDED", "you cannot do this while your account is suspended")
}

// LimitExceeded tells a client to come back after retryAfterMS milliseconds.
// httpx also writes it as a Retry-After header.
// spec: client-server-api#rate-limiting
func LimitExceeded(retryAfterMS int64) *Error {
	return New(statusTooManyRequests, "M_LIMIT_EXCEEDED", "too many requests").With("retry_after_ms", retryAfterMS)
}
