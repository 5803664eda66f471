package room_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
	"hearth/store/storetest"
)

// The environment that makes this test binary a server under load: where its
// database is, and the room it writes to.
const (
	crashDir  = "HEARTH_CRASH_DIR"
	crashRoom = "HEARTH_CRASH_ROOM"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		underLoad(dir, id.Room(os.Getenv(crashRoom)))
		return
	}
	os.Exit(m.Run())
}

// underLoad sends without end from several clients at once, and says which
// events were acknowledged, until it is killed.
func underLoad(dir string, name id.Room) {
	s, err := store.Open(context.Background(), store.Options{Server: storetest.Server, SQLite: filepath.Join(dir, "homeserver.db")})
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	e := plainEngine(s)
	fmt.Println("ready")
	var out sync.Mutex
	var wg sync.WaitGroup
	for client := range 8 {
		wg.Go(func() {
			for n := 0; ; n++ {
				p := message(alice, fmt.Sprintf("%d-%d-%d", os.Getpid(), client, n))
				if n%10 == 3 {
					key := fmt.Sprint(client)
					p.StateKey, p.Txn = &key, nil
					p.Content = fmt.Appendf(nil, `{"n":%d,"pid":%d}`, n, os.Getpid())
				}
				ev, err := e.Send(context.Background(), name, p)
				out.Lock()
				if err != nil {
					fmt.Println("error", err)
				} else {
					fmt.Println("sent", ev)
				}
				out.Unlock()
			}
		})
	}
	wg.Wait()
}

// A server that is killed at any moment has every event that it acknowledged,
// once, and its database is sound.
func TestKilledServerLosesNothing(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	dir := t.TempDir()
	name := func() id.Room {
		s := openAt(t, dir)
		defer s.Close()
		name, err := plainEngine(s).Create(t.Context(), room.Creation{Creator: alice})
		if err != nil {
			t.Fatal(err)
		}
		return name
	}()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	var sent []id.Event
	for range rounds {
		sent = append(sent, runAndKill(t, dir, name, time.Duration(5+random.IntN(150))*time.Millisecond)...)
		checkAfterCrash(t, dir, name, sent)
		if t.Failed() {
			return
		}
	}
	t.Logf("%d events were acknowledged in %d lives", len(sent), rounds)
	if len(sent) == 0 {
		t.Error("nothing was ever acknowledged: the test tests nothing")
	}
}

// runAndKill lets a server live for a while after it is ready and returns what it acknowledged.
func runAndKill(t *testing.T, dir string, name id.Room, life time.Duration) (sent []id.Event) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashDir+"="+dir, crashRoom+"="+string(name))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var kill *time.Timer
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "ready":
			kill = time.AfterFunc(life, func() { _ = cmd.Process.Signal(syscall.SIGKILL) })
		case "sent":
			sent = append(sent, id.Event(rest))
		default:
			t.Errorf("the server says: %s", lines.Text())
		}
	}
	if kill == nil {
		t.Fatal("the server never was ready")
	}
	kill.Stop()
	_ = cmd.Wait() // it was killed
	return sent
}

func checkAfterCrash(t *testing.T, dir string, name id.Room, sent []id.Event) {
	t.Helper()
	s := openAt(t, dir)
	defer s.Close()
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

func openAt(t *testing.T, dir string) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), store.Options{Server: storetest.Server, SQLite: filepath.Join(dir, "homeserver.db")})
	if err != nil {
		t.Fatal(err)
	}
	return s
}
