// Package directory finds rooms and people: aliases, the list of public rooms,
// spaces and their hierarchy, room summaries, the search for users.
//
// It owns the tables of aliases and which rooms are listed; it must not write
// room history. What other servers know of rooms is theirs to say: remote.go asks
// them, serve.go answers them. Start at Directory.
package directory

import (
	"context"
	"github.com/maypok86/otter/v2"

	"hearth/matrix/id"
	"hearth/remote"
	"hearth/room"
	"hearth/store"
)

// Directory answers from the store and the room engine.
type Directory struct {
	store     *store.Store
	rooms     *room.Engine
	options   Options
	summaries *otter.Cache[store.RoomNID, summarized]
	told      *otter.Cache[toldKey, *toldSpace]
}

// Options is what the configuration says of the directory.
type Options struct {
	// Remote asks other servers; nil: this server talks to none.
	Remote *remote.Client
	// Services are the ids of application services. A network that one of them bridges to
	// is called by its id, |, and the network's own.
	Services []string
	// QueryAlias asks application services to make the room of an alias of this server, if one
	// of them may have it; true: it is there now.
	QueryAlias func(ctx context.Context, alias id.Alias) (made bool, err error)
	// HideUsers switches the search for people off: it finds nobody.
	HideUsers bool
	// AllUsers makes every local user be found, also by those who share no room with them.
	AllUsers bool
}

// New makes a directory.
func New(s *store.Store, rooms *room.Engine, o Options) *Directory {
	return &Directory{
		store: s, rooms: rooms, options: o,
		summaries: otter.Must(&otter.Options[store.RoomNID, summarized]{MaximumSize: cachedSummaries}),
		told: otter.Must(&otter.Options[toldKey, *toldSpace]{
			MaximumWeight: cachedTold, Weigher: func(_ toldKey, s *toldSpace) uint32 { return s.weight },
			ExpiryCalculator: otter.ExpiryWriting[toldKey, *toldSpace](toldTime),
		}),
	}
}
