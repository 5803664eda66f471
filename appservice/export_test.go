package appservice

import (
	"time"

	"hearth/outgoing"
)

// shortClient has little patience.
func shortClient() *outgoing.Client {
	return outgoing.New(outgoing.Options{Timeout: 50 * time.Millisecond})
}
