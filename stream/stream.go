// Package stream is the change counter and those who follow it. The store's
// committer publishes each commit here; waiting clients and followers wake.
//
// It handles numbers and wake-ups only: no SQL, no events. Losing everything in
// it costs latency, never data: whoever asks for changes older than what is
// remembered is told to read the store. Start at Hub.
package stream

// Kind says what sort of thing changed, so that a reader touches only that.
type Kind uint8

const (
	Room        Kind = iota // a room's timeline or state
	Receipt                 // a read receipt in a room
	RoomAccount             // account data of a room, tags among it
	Account                 // global account data, push rules among it
	ToDevice                // a to-device message waits
	DeviceList              // the device list of somebody whom the user sees changed
	Keys                    // the user's own one-time or fallback keys were used
	Typing                  // volatile: who is typing in a room
	Presence                // volatile: presence of somebody whom the user sees
	kinds
)

// Change tells that something became different for some local users.
type Change struct {
	Kind     Kind
	Position int64   // of the counter; volatile kinds: of the volatile counter
	Room     int64   // room nid, 0 where no room is concerned
	Users    []int64 // nids of the local users concerned; shared, not to be changed
}

// Commit is what one database transaction made visible.
type Commit struct {
	Position int64 // all changes up to this one are complete
	Changes  []Change
}
