package push

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"hearth/matrix/id"
)

func TestTallyIsStoredWhole(t *testing.T) {
	want := &tally{joined: 5, upTo: 1 << 40, ignored: 1<<63 + 1, threads: map[id.Event][]mark{
		"":      {markOf(6, false), markOf(7, true), markOf(1<<40, false)},
		"$root": {markOf(9, true)},
	}}
	got, ok, err := parseTally(want.append(nil))
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tally{})); diff != "" || !ok || err != nil {
		t.Errorf("%v %v %s", ok, err, diff)
	}
	if _, ok, err := parseTally([]byte{tallyFormat + 1, 2}); ok || err != nil {
		t.Errorf("a tally of another format was read: %v", err)
	}
	if _, _, err := parseTally(want.append(nil)[:20]); err == nil {
		t.Error("half a tally was read")
	}
}

func FuzzParseTally(f *testing.F) {
	f.Add((&tally{joined: 1, upTo: 2, threads: map[id.Event][]mark{"$a": {5}}}).append(nil))
	f.Add([]byte{tallyFormat, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		tally, ok, err := parseTally(b)
		if ok && err == nil {
			if _, ok, err := parseTally(tally.append(nil)); !ok || err != nil {
				t.Errorf("%v cannot be read back: %v", tally, err)
			}
		}
	})
}
