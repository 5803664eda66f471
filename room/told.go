package room

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// told is a state with its auth chain as another server tells it, on its way into the
// store. The events lie in a file and only what orders them in memory, since a room
// may have very many members. Nothing of it is checked before store.
type told struct {
	engine *Engine
	from   id.Server
	v      *roomversion.Version
	room   id.Room

	file *os.File
	out  *bufio.Writer
	size int64

	names  []id.Event // of the events, and of those that they refer to
	at     map[id.Event]int32
	places []toldPlace // by the same numbers; length 0: only referred to
	state  []int32     // what of them is part of the state
	create *event.PDU
}

// toldPlace is where in the file an event lies, and what it refers to.
type toldPlace struct {
	offset int64
	length int32
	auth   []int32
}

// receiveTold makes a told to be filled by add. It must be closed.
func (e *Engine) receiveTold(from id.Server, v *roomversion.Version, room id.Room) (*told, error) {
	f, err := os.CreateTemp(e.options.TempDir, "state-")
	if err != nil {
		return nil, fmt.Errorf("keep a state that another server tells: %w", err)
	}
	return &told{engine: e, from: from, v: v, room: room, file: f, out: bufio.NewWriterSize(f, 1<<16), at: map[id.Event]int32{}}, nil
}

const (
	// manyTold is from how many events on a state leaves so much garbage that it is worth
	// giving back at once; by itself the runtime would take minutes on an idle machine.
	manyTold = 5000
	// sweepAfter leaves time for what follows a join: first syncs, lists of members.
	sweepAfter = 10 * time.Second
)

func (t *told) close() error {
	if len(t.names) >= manyTold {
		time.AfterFunc(sweepAfter, debug.FreeOSMemory)
	}
	return errors.Join(t.file.Close(), os.Remove(t.file.Name()))
}

// maxTold bounds how many events a told state may name.
const maxTold = 2_000_000

func (t *told) number(name id.Event) int32 {
	if i, ok := t.at[name]; ok {
		return i
	}
	i := int32(len(t.names))
	t.names, t.places = append(t.names, name), append(t.places, toldPlace{})
	t.at[name] = i
	return i
}

// add takes one event of the answer. What is malformed is no part of the state.
func (t *told) add(part StatePart, raw jsontext.Value) error {
	p, err := event.Parse(t.v, raw)
	if err != nil || p.Room != t.room || !p.IsState() {
		return nil
	}
	if len(t.names) > maxTold {
		return errors.New("the other server tells a state of too many events")
	}
	i := t.number(p.ID)
	if part == InState {
		t.state = append(t.state, i)
		if p.Is(event.TypeCreate, "") {
			t.create = p
		}
	}
	if t.places[i].length > 0 {
		return nil
	}
	place := toldPlace{offset: t.size, length: int32(len(raw))}
	for _, name := range authNames(p) {
		place.auth = append(place.auth, t.number(name))
	}
	t.places[i] = place // number may have moved the places
	t.size += int64(len(raw))
	_, err = t.out.Write(raw)
	return err
}

// stateNames lists the events that make the state.
func (t *told) stateNames() []id.Event {
	names := make([]id.Event, len(t.state))
	for i, n := range t.state {
		names[i] = t.names[n]
	}
	return names
}

// order lists the events behind their auth events. Those that refer to themselves by
// way of others are left out.
func (t *told) order() []int32 {
	waits := make([]int32, len(t.places))
	after := make([][]int32, len(t.places))
	sorted := make([]int32, 0, len(t.places))
	for i, p := range t.places {
		if p.length == 0 {
			continue
		}
		for _, j := range p.auth {
			if t.places[j].length > 0 {
				waits[i]++
				after[j] = append(after[j], int32(i))
			}
		}
		if waits[i] == 0 {
			sorted = append(sorted, int32(i))
		}
	}
	for n := 0; n < len(sorted); n++ {
		for _, j := range after[sorted[n]] {
			if waits[j]--; waits[j] == 0 {
				sorted = append(sorted, j)
			}
		}
	}
	return sorted
}

// store checks the events and keeps them as outliers.
func (t *told) store(ctx context.Context) error {
	if err := t.out.Flush(); err != nil {
		return fmt.Errorf("keep a state that another server tells: %w", err)
	}
	for batch := range slices.Chunk(t.order(), outlierBatch) {
		list := make([]*event.PDU, 0, len(batch))
		for _, i := range batch {
			p, err := t.read(i)
			if err != nil {
				return err
			}
			list = append(list, p)
		}
		list, err := t.engine.notKept(ctx, list)
		if err != nil {
			return err
		}
		if err := t.engine.storeOutliers(ctx, true, t.v, t.room, t.engine.verify(ctx, t.from, list, nil)); err != nil {
			return err
		}
	}
	return nil
}

func (t *told) read(i int32) (*event.PDU, error) {
	raw := make([]byte, t.places[i].length)
	if _, err := t.file.ReadAt(raw, t.places[i].offset); err != nil {
		return nil, fmt.Errorf("read what another server told: %w", err)
	}
	return event.Parse(t.v, raw)
}

// notKept leaves out events that are here already with their auth events, so that their
// signatures need not be checked again.
func (e *Engine) notKept(ctx context.Context, list []*event.PDU) ([]*event.PDU, error) {
	kept := list[:0:0]
	err := e.store.View(ctx, func(tx *store.Tx) error {
		for _, p := range list {
			known, ok, err := tx.Events.Know(p.ID)
			if err != nil {
				return err
			}
			if !ok || known.Flags&store.Outside != 0 {
				kept = append(kept, p)
			}
		}
		return nil
	})
	return kept, err
}
