package remote_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"hearth/matrix/errcode"
)

// CVE-2023-32323: one event blocked all that was to be sent to a server.
func TestAnEventThatIsTooLargeIsLeftOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.say("a", "one", strings.Repeat("x", 70_000), "two")
		f.expect(hs1, "one", "two")
		f.say("a", strings.Repeat("x", 70_000))
		f.expect(hs1)
		f.say("a", "three")
		f.expect(hs1, "three")
	})
}

func TestAnItemThatIsRefusedBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errcode.New(413, "M_TOO_LARGE", "too large"))
		f.say("a", "one", "two", "three", "poison", "four", "five")
		f.expect(hs1, "one", "two", "three", "four", "five")
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it counts as failing: %+v", rows)
		}
	})
}

var errChokes = errcode.New(500, "M_CHOKES", "internal error") // on what has poison in it

// A server that answers 500 to one item gets all others, but that one only given up after a while.
func TestAnItemThatAServerChokesOnBlocksNothingForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errChokes)
		f.say("a", numbered("before ", 40)...)
		f.say("a", "poison")
		f.say("a", numbered("after ", 40)...)
		time.Sleep(30 * time.Minute)
		f.expect(hs1, numbered("before ", 40)...)
		time.Sleep(2 * time.Hour)
		f.expect(hs1, numbered("after ", 40)...)
		f.say("a", numbered("then ", 60)...)
		time.Sleep(time.Second)
		if got := f.attempts(hs1); len(got) != 2 || len(got[0].content) != 50 {
			t.Errorf("it still gets little at a time: %d transactions", len(got))
		}
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it counts as failing: %+v", rows)
		}
	})
}

// The same where the item is among the newest of many rooms.
func TestAHeadThatAServerChokesOnBlocksNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.setDown(hs1, errDown)
		want := []string{}
		for i := range 9 {
			name := fmt.Sprint("room", i)
			f.join(name, hs1)
			f.say(name, numbered("missed ", 70)...)
			if i == 5 {
				f.say(name, "poison")
				continue
			}
			f.say(name, name)
			want = append(want, name)
		}
		time.Sleep(time.Minute)
		f.attempts(hs1)
		f.setDown(hs1, errChokes)
		time.Sleep(4 * time.Hour)
		heads := slices.DeleteFunc(f.received(hs1), func(body string) bool { return strings.HasPrefix(body, "missed") }) // of the first attempt
		if diff := cmp.Diff(want, heads); diff != "" {
			t.Error(diff)
		}
		if rows := f.rows(); len(rows) != 0 {
			t.Errorf("it counts as failing: %+v", rows)
		}
	})
}

// A server that answers 500 to everything is in trouble, and loses nothing.
func TestAServerInTroubleLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFederation(t)
		defer f.close()
		f.join("a", hs1)
		f.setDown(hs1, errcode.New(500, "M_UNKNOWN", "Internal server error"))
		all := numbered("n", 60)
		f.say("a", all...)
		time.Sleep(36 * time.Hour)
		if n := len(f.attempts(hs1)); n > 40 {
			t.Errorf("%d attempts in a day and a half", n)
		}
		f.setDown(hs1, nil)
		time.Sleep(10 * time.Hour)
		f.expect(hs1, all...)
	})
}

// So is one before which a proxy loses the bodies of requests, or lets none through.
func TestAServerThatGetsNoBodiesLosesNothing(t *testing.T) {
	for _, refusal := range []*errcode.Error{
		errcode.New(400, "M_NOT_JSON", "Content not JSON."), errcode.New(400, "M_BAD_JSON", "no pdus"), errcode.New(413, "M_UNKNOWN", "too large"),
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newFederation(t)
			defer f.close()
			f.join("a", hs1)
			f.setDown(hs1, refusal)
			want := numbered("n", 120)
			f.say("a", want...)
			for i := range 150 {
				f.tell("m.direct_to_device", fmt.Sprint(i), hs1)
				want = append(want, fmt.Sprint("direct_to_device", i))
			}
			time.Sleep(time.Minute)
			if n := len(f.attempts(hs1)); n > 25 {
				t.Errorf("%d attempts in a minute", n)
			}
			time.Sleep(time.Hour)
			f.attempts(hs1)
			f.setDown(hs1, nil)
			time.Sleep(2 * time.Hour)
			got := f.received(hs1)
			slices.Sort(got)
			slices.Sort(want)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%v (-want +got):\n%s", refusal, diff)
			}
		})
	}
}
