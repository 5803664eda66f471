package remote_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/id"
	"hearth/remote"
	"hearth/store/storetest"
)

func TestVolatileEDUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1, hs2)
		everyone := f.nids(hs1, hs2, "blocked.example")
		queue := func(typ, key, content string, patience time.Duration) {
			t.Helper()
			f.must(f.sender.Queue(context.Background(), remote.EDU{Type: typ, Key: key, Content: jsontext.Value(content), Patience: patience}, everyone))
		}
		queue("m.typing", "alice", `{"typing":true}`, 0)
		f.expect(hs1, `typing{"typing":true}`)
		queue("m.typing", "alice", `{"typing":false}`, 0)
		queue("m.typing", "alice", `{"typing":false}`, 0)
		if got := f.attempts(hs1); len(got) == 2 && got[0].id == got[1].id {
			t.Error("the same news twice are two transactions")
		}

		// The newest of a key wins; receipts go together.
		queue("m.presence", "alice", `{"n":1}`, time.Minute)
		queue("m.presence", "alice", `{"n":2}`, time.Minute)
		queue("m.receipt", "1", `{"!a":{"m.read":{"@alice:localhost":1}}}`, time.Minute)
		queue("m.receipt", "2", `{"!a":{"m.read":{"@bob:localhost":1}},"!b":{"m.read":{"@alice:localhost":1}}}`, time.Minute)
		queue("m.receipt", "3", `{"!a":{"m.read":{"@bob:localhost":"thread"}}}`, time.Minute)
		f.expect(hs1)
		time.Sleep(time.Minute)
		f.expect(hs1, `presence{"n":2}`, `receipt{"!a":{"m.read":{"@alice:localhost":1,"@bob:localhost":1}},"!b":{"m.read":{"@alice:localhost":1}}}`,
			`receipt{"!a":{"m.read":{"@bob:localhost":"thread"}}}`)

		// So does who is online.
		queue("m.presence", "alice", `{"push":[{"user_id":"@alice:localhost"}]}`, time.Minute)
		queue("m.presence", "bob", `{"push":[{"user_id":"@bob:localhost"}]}`, time.Minute)
		time.Sleep(time.Minute)
		f.expect(hs1, `presence{"push":[{"user_id":"@alice:localhost"},{"user_id":"@bob:localhost"}]}`)

		// Company ends patience.
		queue("m.presence", "alice", `{"n":3}`, time.Minute)
		f.say("a", "one")
		f.expect(hs1, "one", `presence{"n":3}`)

		// Who does not answer misses it.
		f.setDown(hs1, errDown)
		f.say("a", "two")
		f.attempts(hs1)
		queue("m.typing", "alice", `{"typing":true}`, 0)
		f.setDown(hs1, nil)
		time.Sleep(time.Hour)
		f.expect(hs1, "two")
		f.expect("blocked.example")
		f.expect(storetest.Server)
	})
}

// TestVolatileEDUsComeAfterTheEvents: they may be about a member whose join is among those.
func TestVolatileEDUsComeAfterTheEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		to := f.nids(hs1)
		typing := func(n int) {
			t.Helper()
			f.must(f.sender.Queue(context.Background(), remote.EDU{Type: "m.typing", Key: "alice", Content: jsontext.Value(fmt.Sprint(n))}, to))
		}
		f.setSlow(true)
		f.say("a", "one")
		typing(1)
		f.expect(hs1)
		f.setSlow(false)
		f.expect(hs1, "one", "typing1")

		// More than go into one transaction.
		begun, goOn := make(chan struct{}), make(chan struct{})
		var once sync.Once
		f.setDuring(func(context.Context, id.Server) { once.Do(func() { close(begun); <-goOn }) })
		f.say("a", "two")
		<-begun
		many := numbered("a", 120)
		f.say("a", many...)
		typing(2)
		close(goOn)
		f.expect(hs1, append(append([]string{"two"}, many...), "typing2")...)
	})
}

func TestVolatileEDUsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		to := f.nids(hs1)
		for i := range 2000 {
			key := fmt.Sprint(i % 700)
			f.must(f.sender.Queue(context.Background(), remote.EDU{Type: "m.x", Key: key, Content: jsontext.Value(fmt.Sprint(i)), Patience: time.Minute}, to))
		}
		time.Sleep(2 * time.Minute)
		got := f.received(hs1)
		if len(got) != 500 || got[499] != "x1999" || got[0] != "x1500" {
			t.Errorf("%d arrived, the first %s, the last %s", len(got), got[0], got[len(got)-1])
		}
	})
}
