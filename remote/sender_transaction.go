package remote

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"log/slog"
	"strconv"
	"time"

	"hearth/matrix/canonical"
	"hearth/matrix/id"
)

// The bounds of a transaction: the specification's, and of its size, lest it is
// refused by what stands before the other server.
// spec: server-server-api#transactions
const (
	maxPDUs             = 50
	maxEDUs             = 100
	maxTransactionBytes = 1 << 20
	maxPDUBytes         = 65536
)

// transaction is what is sent in one request.
type transaction struct {
	id       string
	body     []byte
	last     int64  // position of its last item; 0: it has none with a position
	items    int    // without what is volatile
	volatile bool   // has volatile EDUs
	accepted func() // called under the sender's lock

	limit      int
	pdus, edus [][]byte
	size       int
	numbers    []int64 // of volatile EDUs
}

// add takes an item in; false: it is full.
func (t *transaction) add(it *item) bool {
	full := t.limit > 0 && t.items >= t.limit || t.size > 0 && t.size+len(it.body) > maxTransactionBytes ||
		it.edu && len(t.edus) == maxEDUs || !it.edu && len(t.pdus) == maxPDUs
	if full {
		return false
	}
	if it.position != 0 {
		t.last = it.position
	}
	if !it.edu && len(it.body) > maxPDUBytes {
		// No server would take it, and the others of the transaction with it.
		slog.Error("an event is too large to be sent", "position", it.position, "bytes", len(it.body))
		return true
	}
	t.items++
	t.size += len(it.body) + 1
	if it.edu {
		t.edus = append(t.edus, it.body)
	} else {
		t.pdus = append(t.pdus, it.body)
	}
	return true
}

// addVolatile fills it up with volatile EDUs.
func (t *transaction) addVolatile(q *volatileQueue) {
	bodies, numbers := q.take(maxEDUs - len(t.edus))
	t.edus, t.numbers, t.volatile = append(t.edus, bodies...), numbers, len(numbers) > 0
}

// finish writes the body. The id is made from what is not volatile, so that the
// same items, sent again after a failure or a crash, make the same transaction.
func (t *transaction) finish(origin id.Server) {
	h := sha256.New()
	length := func(n int) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	for _, list := range [][][]byte{t.pdus, t.edus[:t.items-len(t.pdus)]} { // volatile ones come last
		length(len(list))
		for _, b := range list {
			length(len(b))
			h.Write(b)
		}
	}
	if t.items == 0 {
		for _, n := range t.numbers {
			length(int(n))
		}
	}
	t.id = base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:18])

	b := append(make([]byte, 0, t.size+256), `{"edus":`...)
	b = appendArray(b, t.edus)
	b = canonical.AppendString(append(b, `,"origin":`...), origin)
	b = strconv.AppendInt(append(b, `,"origin_server_ts":`...), time.Now().UnixMilli(), 10)
	b = appendArray(append(b, `,"pdus":`...), t.pdus)
	t.body = append(b, '}')
}

func appendArray(b []byte, values [][]byte) []byte {
	b = append(b, '[')
	for i, v := range values {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, v...)
	}
	return append(b, ']')
}
