package visibility

import (
	"fmt"
	"testing"
)

// The five rules, for every history visibility, membership and later join.
func TestMay(t *testing.T) {
	all := []string{"world_readable", "shared", "invited", "joined", "", "org.example.unknown"}
	memberships := []string{"join", "invite", "knock", "leave", "ban", ""}
	for _, history := range all {
		for _, membership := range memberships {
			for _, later := range []bool{false, true} {
				want := false
				switch {
				case history == "world_readable", membership == "join":
					want = true
				case history == "invited":
					want = membership == "invite"
				case history != "joined":
					want = later // shared, unset and not understood
				}
				s := State{ParseHistory(history), ParseMembership(membership)}
				if got := May(s, s, later); got != want {
					t.Errorf("history %q, membership %q, joins later %v: %v", history, membership, later, got)
				}
			}
		}
	}
}

func TestMaySeeChangesOfVisibilityFromEitherSide(t *testing.T) {
	for _, test := range []struct {
		before, after History
		want          bool
	}{
		{WorldReadable, Joined, true},
		{Joined, WorldReadable, true},
		{Joined, Invited, false},
		{Shared, Joined, false},
	} {
		if got := May(State{test.before, Outside}, State{test.after, Outside}, false); got != test.want {
			t.Errorf("%s to %s for a stranger: %v", test.before, test.after, got)
		}
	}
	if !May(State{Shared, Outside}, State{Joined, Outside}, true) {
		t.Error("a later member may not see shared history become joined")
	}
}

func TestMaySeeOwnMemberEventsFromEitherSide(t *testing.T) {
	for _, test := range []struct {
		history       History
		before, after Membership
		want          bool
	}{
		{Joined, Outside, Join, true},    // joins
		{Joined, Join, Outside, true},    // leaves, is kicked or banned
		{Joined, Outside, Invite, false}, // is invited: the invite comes with stripped state
		{Invited, Outside, Invite, true},
		{Invited, Invite, Outside, true}, // refuses
		{Joined, Invite, Outside, false},
		{Joined, Outside, Outside, false}, // banned from outside
	} {
		if got := May(State{test.history, test.before}, State{test.history, test.after}, false); got != test.want {
			t.Errorf("%s, membership %d to %d: %v", test.history, test.before, test.after, got)
		}
	}
}

func TestServerSeesWhatAnyOfItsUsersMay(t *testing.T) {
	if m := Greatest(Outside, Invite, Join); m != Join {
		t.Errorf("greatest is %d", m)
	}
	if m := Greatest(Outside, Invite); m != Invite {
		t.Errorf("greatest is %d", m)
	}
	if m := Greatest(); m != Outside {
		t.Errorf("greatest of none is %d", m)
	}
}

// A room as its state log has it: bob is invited at 20, joins at 30, leaves at 40,
// joins again at 60 and is banned at 70; history visibility changes at 5 and 50.
func TestViewer(t *testing.T) {
	membership := func() []Change[Membership] {
		return []Change[Membership]{{20, Invite}, {30, Join}, {40, Outside}, {60, Join}, {70, Outside}}
	}
	span := func(versions ...int64) map[int64]bool {
		seen := map[int64]bool{}
		for _, v := range versions {
			seen[v] = true
		}
		return seen
	}
	tests := []struct {
		name    string
		history []Change[History]
		seen    map[int64]bool // of messages sent at these versions
	}{
		{"shared", nil, span(1, 10, 25, 35, 45, 55, 65)},
		{"invited", []Change[History]{{5, Invited}}, span(1, 25, 35, 65)},
		{"joined", []Change[History]{{5, Joined}}, span(1, 35, 65)},
		{"world_readable", []Change[History]{{5, WorldReadable}}, span(1, 10, 25, 35, 45, 55, 65, 75)},
		{"joined, then world_readable", []Change[History]{{5, Joined}, {50, WorldReadable}}, span(1, 35, 55, 65, 75)},
		{"world_readable, then joined, out of order", []Change[History]{{50, Joined}, {5, WorldReadable}}, span(1, 10, 25, 35, 45, 65)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			v := NewViewer(test.history, membership())
			for _, at := range []int64{1, 10, 25, 35, 45, 55, 65, 75} {
				if got := v.May(at, at); got != test.seen[at] {
					t.Errorf("message at version %d: %v", at, got)
				}
			}
		})
	}

	v := NewViewer([]Change[History]{{5, Joined}}, membership())
	for version, want := range map[int64]bool{5: true, 20: false, 30: true, 40: true, 60: true, 70: true} {
		// The setting itself may be seen since history was shared before it.
		if got := v.May(version-1, version); got != want {
			t.Errorf("state event that makes version %d: %v", version, got)
		}
	}
	if v.MayAll(30) || v.MayAll(1) || NewViewer(nil, nil).MayAll(0) {
		t.Error("all may be seen although bob left")
	}
	if !NewViewer(nil, membership()[:2]).MayAll(30) {
		t.Error("not all may be seen by one who stays")
	}
}

func TestMayAllAgreesWithMay(t *testing.T) {
	histories := [][]Change[History]{
		nil, {{5, Joined}}, {{5, WorldReadable}}, {{5, Invited}, {30, Shared}}, {{5, Joined}, {50, WorldReadable}}, {{20, WorldReadable}, {50, Shared}},
	}
	memberships := [][]Change[Membership]{
		nil, {{20, Join}}, {{20, Invite}, {30, Join}}, {{20, Join}, {40, Outside}}, {{20, Join}, {40, Outside}, {60, Join}},
	}
	found := 0
	for _, history := range histories {
		for _, membership := range memberships {
			v := NewViewer(history, membership)
			for from := int64(0); from < 80; from += 5 {
				if !v.MayAll(from) {
					continue
				}
				found++
				for at := from; at < 80; at++ {
					if !v.May(at, at) {
						t.Fatalf("%v, %v: all from %d may be seen, but not %d", history, membership, from, at)
					}
				}
			}
		}
	}
	if found == 0 {
		t.Error("nobody may ever see all")
	}
	if !NewViewer(nil, []Change[Membership]{{20, Join}}).MayAll(0) {
		t.Error("who joins a room with shared history does not see all of it")
	}
}

func TestStrangerNeverSeesSharedHistory(t *testing.T) {
	if NewViewer(nil, nil).May(3, 3) {
		t.Error("a stranger sees shared history")
	}
	if fmt.Sprint(Shared, WorldReadable, Invited, Joined) != "shared world_readable invited joined" {
		t.Error("names of history visibilities are wrong")
	}
}

func BenchmarkViewer(b *testing.B) {
	v := NewViewer([]Change[History]{{5, Joined}, {50, WorldReadable}}, []Change[Membership]{{20, Invite}, {30, Join}, {40, Outside}})
	for b.Loop() {
		v.May(35, 35)
	}
}
