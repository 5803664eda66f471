// Package directory finds rooms and people: aliases, the list of public rooms,
// spaces and their hierarchy, room summaries, the search for users.
//
// It owns the tables of aliases and which rooms are listed; it must not write
// room history. Start at Directory.
package directory

import (
	"hearth/room"
	"hearth/store"
)

// Directory answers from the store and the room engine.
type Directory struct {
	store *store.Store
	rooms *room.Engine
}

// New makes a directory.
func New(s *store.Store, rooms *room.Engine) *Directory { return &Directory{s, rooms} }
