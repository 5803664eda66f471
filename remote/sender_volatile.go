package remote

import (
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/canonical"
)

// maxVolatile bounds the volatile EDUs that wait for one destination.
const maxVolatile = 500

const (
	typeReceipt  = "m.receipt"
	typePresence = "m.presence"
)

// volatileEDU is an EDU that several queues share.
type volatileEDU struct {
	EDU
	number int64
	due    time.Time
}

type volatileKey struct{ typ, key string }

// volatileQueue holds, in order, the newest EDU of each key.
type volatileQueue struct {
	order  []*volatileEDU // older ones of a key stay until they are passed over
	newest map[volatileKey]*volatileEDU
}

func (e *volatileEDU) key() volatileKey { return volatileKey{e.Type, e.Key} }

// add puts an EDU in place of the former one of its key. What is too much drops the oldest.
func (q *volatileQueue) add(e *volatileEDU) {
	if q.newest == nil {
		q.newest = map[volatileKey]*volatileEDU{}
	}
	q.newest[e.key()] = e
	q.order = append(q.order, e)
	for len(q.newest) > maxVolatile {
		q.pop()
	}
	if len(q.order) > 2*maxVolatile {
		kept := make([]*volatileEDU, 0, len(q.newest))
		for _, e := range q.order {
			if q.newest[e.key()] == e {
				kept = append(kept, e)
			}
		}
		q.order = kept
	}
}

// pop takes the first one out; nil: a newer one of its key follows.
func (q *volatileQueue) pop() *volatileEDU {
	e := q.order[0]
	q.order = q.order[1:]
	if q.newest[e.key()] != e {
		return nil
	}
	delete(q.newest, e.key())
	return e
}

// due is when the most urgent one wants to be sent; false: there is none.
func (q *volatileQueue) due() (due time.Time, any bool) {
	for _, e := range q.newest {
		if !any || e.due.Before(due) {
			due, any = e.due, true
		}
	}
	return due, any
}

// take takes out what makes at most n EDUs, with the numbers of what they are made of.
func (q *volatileQueue) take(n int) (bodies [][]byte, numbers []int64) {
	var receipts, pushes []jsontext.Value
	for len(q.order) > 0 && len(bodies)+len(receipts)+min(len(pushes), 1) < n {
		e := q.pop()
		if e == nil {
			continue
		}
		numbers = append(numbers, e.number)
		push := pushesOf(e)
		switch {
		case e.Type == typeReceipt:
			receipts = append(receipts, e.Content)
		case push != nil:
			pushes = append(pushes, push...)
		default:
			bodies = append(bodies, AppendEDU(nil, e.Type, e.Content))
		}
	}
	if len(pushes) > 0 {
		if content, err := json.Marshal(presence{pushes}); err == nil {
			bodies = append(bodies, AppendEDU(nil, typePresence, content))
		}
	}
	for _, content := range mergeReceipts(receipts) {
		bodies = append(bodies, AppendEDU(nil, typeReceipt, content))
	}
	if len(q.order) == 0 {
		*q = volatileQueue{}
	}
	return bodies, numbers
}

// presence is the content of an m.presence EDU, which has room for any number of users.
// spec: server-server-api#presence
type presence struct {
	Push []jsontext.Value `json:"push"`
}

// pushesOf is what an EDU says of who is online; nil: it is about something else.
func pushesOf(e *volatileEDU) []jsontext.Value {
	var p presence
	if e.Type != typePresence || json.Unmarshal(e.Content, &p) != nil {
		return nil // as it came then
	}
	return p.Push
}

// AppendEDU writes an EDU as transactions carry it.
// spec: server-server-api#edus
func AppendEDU(dst []byte, typ string, content jsontext.Value) []byte {
	dst = append(append(dst, `{"content":`...), content...)
	return append(canonical.AppendString(append(dst, `,"edu_type":`...), typ), '}')
}

// receipts is the content of an m.receipt EDU: by room, type and user.
type receipts map[string]map[string]map[string]jsontext.Value

// mergeReceipts puts contents of m.receipt EDUs together. One EDU has room for one
// receipt of each type and user in a room, so further ones, of other threads, make
// further EDUs.
// spec: server-server-api#receipts
func mergeReceipts(contents []jsontext.Value) (merged []jsontext.Value) {
	if len(contents) < 2 {
		return contents
	}
	var all []receipts
	for _, raw := range contents {
		var one receipts
		if err := json.Unmarshal(raw, &one); err != nil {
			merged = append(merged, raw) // not ours to judge
			continue
		}
		placed := false
		for _, into := range all {
			if placed = into.merge(one); placed {
				break
			}
		}
		if !placed {
			all = append(all, one)
		}
	}
	for _, r := range all {
		raw, err := json.Marshal(r, json.Deterministic(true))
		if err == nil {
			merged = append(merged, raw)
		}
	}
	return merged
}

// merge takes in other receipts, unless one of the same room, type and user is there.
func (r receipts) merge(o receipts) bool {
	for room, types := range o {
		for typ, users := range types {
			for user := range users {
				if _, there := r[room][typ][user]; there {
					return false
				}
			}
		}
	}
	for room, types := range o {
		if r[room] == nil {
			r[room] = map[string]map[string]jsontext.Value{}
		}
		for typ, users := range types {
			if r[room][typ] == nil {
				r[room][typ] = map[string]jsontext.Value{}
			}
			for user, receipt := range users {
				r[room][typ][user] = receipt
			}
		}
	}
	return true
}
