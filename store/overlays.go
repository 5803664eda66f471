package store

import (
	"encoding/binary"
	"errors"
	"slices"
)

// Overlays is the table of states that events of branches met: a version of the
// room's mainline with some entries changed. An event names one by its negated nid.
type Overlays struct{ tx *Tx }

// Overlay is a state beside the mainline.
type Overlay struct {
	NID     int64 // from the same numbers as those of events
	Room    RoomNID
	Version int64        // of the mainline
	Changes []StateEntry // in order of keys; event 0: the state has no such entry
}

const (
	insertOverlay = `INSERT INTO state_overlays (overlay_nid, room_nid, version, changes) VALUES ($1, $2, $3, $4)`
	getOverlay    = `SELECT overlay_nid, room_nid, version, changes FROM state_overlays WHERE overlay_nid = $1`
)

// Insert stores an overlay.
func (t Overlays) Insert(o Overlay) error {
	_, err := t.tx.exec(insertOverlay, o.NID, o.Room, o.Version, packEntries(o.Changes))
	return err
}

// Get reads an overlay.
func (t Overlays) Get(nid int64) (Overlay, bool, error) {
	return one(t.tx, func(r scanner) (o Overlay, err error) {
		var packed []byte
		if err = r.Scan(&o.NID, &o.Room, &o.Version, &packed); err == nil {
			o.Changes, err = unpackEntries(packed)
		}
		return o, err
	}, getOverlay, nid)
}

// packEntries writes entries as differences of keys, and events, in variable length.
func packEntries(entries []StateEntry) []byte {
	b := []byte{} // not NULL
	last := StateKey(0)
	for _, e := range entries {
		b = binary.AppendVarint(b, e.Key-last)
		b = binary.AppendVarint(b, e.Event)
		last = e.Key
	}
	return b
}

var errPacked = errors.New("packed numbers in the database are damaged")

func unpackEntries(b []byte) ([]StateEntry, error) {
	numbers, err := unpackNumbers(b)
	if err != nil || len(numbers)%2 != 0 {
		return nil, errPacked
	}
	entries := make([]StateEntry, 0, len(numbers)/2)
	last := StateKey(0)
	for pair := range slices.Chunk(numbers, 2) {
		last += pair[0]
		entries = append(entries, StateEntry{Key: last, Event: pair[1]})
	}
	return entries, nil
}

// packNumbers writes numbers in variable length.
func packNumbers(numbers []int64) []byte {
	b := []byte{} // not NULL
	for _, n := range numbers {
		b = binary.AppendVarint(b, n)
	}
	return b
}

func unpackNumbers(b []byte) ([]int64, error) {
	var numbers []int64
	for len(b) > 0 {
		n, used := binary.Varint(b)
		if used <= 0 {
			return nil, errPacked
		}
		numbers, b = append(numbers, n), b[used:]
	}
	return numbers, nil
}
