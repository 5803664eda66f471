package errcode_test

import (
	"errors"
	"fmt"
	"testing"

	"hearth/matrix/errcode"
)

// spec: client-server-api#standard-error-response
func TestStatusAndCode(t *testing.T) {
	for _, tt := range []struct {
		err    *errcode.Error
		status int
		code   string
	}{
		{errcode.Forbidden("x"), 403, "M_FORBIDDEN"},
		{errcode.NotFound("x"), 404, "M_NOT_FOUND"},
		{errcode.Unrecognized("x"), 404, "M_UNRECOGNIZED"},
		{errcode.NotJSON("x"), 400, "M_NOT_JSON"},
		{errcode.BadJSON("x"), 400, "M_BAD_JSON"},
		{errcode.InvalidParam("x"), 400, "M_INVALID_PARAM"},
		{errcode.MissingParam("x"), 400, "M_MISSING_PARAM"},
		{errcode.MissingToken("x"), 401, "M_MISSING_TOKEN"},
		{errcode.UnknownToken("x"), 401, "M_UNKNOWN_TOKEN"},
		{errcode.Unauthorized("x"), 401, "M_UNAUTHORIZED"},
		{errcode.TooLarge("x"), 413, "M_TOO_LARGE"},
		{errcode.BadState("x"), 400, "M_BAD_STATE"},
		{errcode.InvalidUsername("x"), 400, "M_INVALID_USERNAME"},
		{errcode.UserInUse("x"), 400, "M_USER_IN_USE"},
		{errcode.Exclusive("x"), 400, "M_EXCLUSIVE"},
		{errcode.RoomInUse("x"), 400, "M_ROOM_IN_USE"},
		{errcode.UnsupportedRoomVersion("x"), 400, "M_UNSUPPORTED_ROOM_VERSION"},
		{errcode.LimitExceeded(7), 429, "M_LIMIT_EXCEEDED"},
		{errcode.New(418, "ORG.EXAMPLE", "x"), 418, "ORG.EXAMPLE"},
	} {
		if tt.err.Status != tt.status || tt.err.Code != tt.code || tt.err.Message == "" {
			t.Errorf("got %d %v, want %d %s", tt.err.Status, tt.err, tt.status, tt.code)
		}
	}
	if got := errcode.LimitExceeded(7).Extra["retry_after_ms"]; got != int64(7) {
		t.Errorf("retry_after_ms is %v", got)
	}
}

func TestFormatAndWrap(t *testing.T) {
	err := errcode.Forbidden("user %s is banned", "@bob:other.org")
	if err.Error() != "M_FORBIDDEN: user @bob:other.org is banned" {
		t.Errorf("it reads %q", err)
	}
	found, ok := errors.AsType[*errcode.Error](fmt.Errorf("join: %w", err))
	if !ok || found != err {
		t.Errorf("wrapped, it is %v", found)
	}
}

// Errors may be shared, so With must not change its receiver.
func TestWithCopies(t *testing.T) {
	base := errcode.UnknownToken("gone")
	soft := base.With("soft_logout", true)
	both := soft.With("x", 1)
	if len(base.Extra) != 0 || len(soft.Extra) != 1 || len(both.Extra) != 2 || both.Extra["soft_logout"] != true || both.Code != base.Code {
		t.Errorf("%v, %v, %v", base.Extra, soft.Extra, both.Extra)
	}
}
