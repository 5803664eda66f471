package store

import (
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	driver "modernc.org/sqlite"
	result "modernc.org/sqlite/lib"
)

// Unstorable says whether a write failed because the database does not take what was to be written, and
// never will. Whatever else went wrong may go well another time.
func Unstorable(err error) bool {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok && len(e.Code) == 5 {
		switch e.Code[:2] {
		case "21", "22", "23", // cardinality, data, constraints
			"54": // limits: no index takes a row of that length
			return true
		}
	}
	if e, ok := errors.AsType[*driver.Error](err); ok {
		switch e.Code() & 0xFF { // without what extends it
		case result.SQLITE_CONSTRAINT, result.SQLITE_MISMATCH, result.SQLITE_TOOBIG:
			return true
		}
	}
	return false
}
