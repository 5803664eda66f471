package room_test

import (
	"fmt"
	"os"
	"syscall"
	"testing"

	"hearth/matrix/id"
	"hearth/room"
	"hearth/store/storetest"
)

// When the disk is full, senders get an error, nothing is lost or half there,
// and once there is space the same server goes on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		if os.Getenv("HEARTH_CI") != "" {
			t.Fatalf("mount a small disk: %v", err)
		}
		t.Skipf("skipped: mounting a small disk takes root (%v)", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	s := openAt(t, dir)
	defer s.Close()
	e := plainEngine(s)
	name, err := e.Create(t.Context(), room.Creation{Creator: alice})
	if err != nil {
		t.Fatal(err)
	}
	var sent []id.Event
	refused := 0
	for n := 0; refused < 5 && n < 5000; n++ {
		ev, err := e.Send(t.Context(), name, message(alice, fmt.Sprint(n)))
		if err != nil {
			refused++
			continue
		}
		sent = append(sent, ev)
	}
	if refused == 0 {
		t.Fatal("the disk never was full")
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	ev, err := e.Send(t.Context(), name, message(alice, "again"))
	if err != nil {
		t.Fatalf("there is space again: %v", err)
	}
	sent = append(sent, ev)
	storetest.Check(t, s)
	found := map[id.Event]int{}
	for _, ev := range timeline(t, s, plainEngine(s), name) {
		found[ev.ID]++
	}
	for _, ev := range sent {
		if found[ev] != 1 {
			t.Errorf("acknowledged event %s is there %d times", ev, found[ev])
		}
	}
}
