package directory

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// PublicQuery says which public rooms are wanted.
type PublicQuery struct {
	Server  id.Server // whose list; empty: this server's
	Term    string    // in name, topic or alias
	Types   []*string // nil: all; a nil element stands for rooms without a type
	Network string    // instance_id of a third party's; empty: rooms of Matrix
	// AllNetworks asks for rooms of Matrix and of third parties alike.
	AllNetworks bool
	Since       string
	Limit       int
}

// PublicRooms is a page of the list of public rooms.
type PublicRooms struct {
	Chunk []PublicRoom `json:"chunk"`
	Next  string       `json:"next_batch,omitzero"`
	Prev  string       `json:"prev_batch,omitzero"`
	Total int64        `json:"total_room_count_estimate"`
}

// MaxPublicRooms bounds a page of public rooms, maxPublicScan what is looked at for one.
const (
	MaxPublicRooms = 500
	maxPublicScan  = 20_000
)

// PublicRooms lists the published rooms, those with most members first.
// spec: client-server-api#get_matrixclientv3publicrooms
func (d *Directory) PublicRooms(ctx context.Context, q PublicQuery) (page PublicRooms, err error) {
	if q.Server != "" && q.Server != d.rooms.Server() {
		return d.askPublicRooms(ctx, q)
	}
	page.Chunk = []PublicRoom{}
	lists, known := d.lists(q)
	if !known {
		return page, nil
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		from, err := parsePublicToken(tx, q.Since)
		if err != nil {
			return err
		}
		if page.Total, err = tx.Rooms.CountListed(lists); err != nil {
			return err
		}
		found, more, err := d.publicPage(tx, q, lists, from)
		if err != nil {
			return err
		}
		if from.up {
			slices.Reverse(found)
		}
		page.Chunk = append(page.Chunk, found...)
		page.setTokens(from, more)
		return nil
	})
	return page, err
}

// lists are those in which a query looks; false: there is no such network.
// spec: client-server-api#post_matrixclientv3publicrooms
func (d *Directory) lists(q PublicQuery) (store.RoomLists, bool) {
	switch {
	case q.AllNetworks:
		return store.RoomLists{Public: true, Services: d.options.Services}, true
	case q.Network == "":
		return store.RoomLists{Public: true}, true
	}
	for _, service := range d.options.Services {
		if network, ok := strings.CutPrefix(q.Network, service+"|"); ok && network != "" {
			return store.RoomLists{Services: []string{service}, Network: network}, true
		}
	}
	return store.RoomLists{}, false
}

// publicPlace is a place in the list, which is in order of members, then of numbers.
type publicPlace struct {
	joined int64
	room   store.RoomNID
	up     bool // towards the rooms with more members
	first  bool // the beginning of the list
}

// publicPage reads as many rooms as fit; more: there are others beyond.
func (d *Directory) publicPage(tx *store.Tx, q PublicQuery, lists store.RoomLists, at publicPlace) (found []PublicRoom, more bool, err error) {
	wanted := matcher(q)
	for scanned := 0; scanned < maxPublicScan; {
		rows, err := tx.Rooms.Listed(lists, at.joined, at.room, at.up, q.Limit+1)
		if err != nil {
			return nil, false, err
		}
		for _, row := range rows {
			scanned++
			s, err := d.summary(tx, row)
			if err != nil {
				return nil, false, err
			}
			if !wanted(s) {
				continue
			}
			if len(found) == q.Limit {
				return found, true, nil
			}
			found = append(found, s.PublicRoom)
		}
		if len(rows) <= q.Limit {
			return found, false, nil
		}
		last := rows[len(rows)-1]
		at.joined, at.room = last.Joined, last.NID
	}
	return found, false, nil
}

// matcher says which rooms a query wants.
func matcher(q PublicQuery) func(Summary) bool {
	term := strings.ToLower(q.Term)
	return func(s Summary) bool {
		if q.Types != nil && !slices.ContainsFunc(q.Types, func(t *string) bool {
			return t == nil && s.RoomType == "" || t != nil && *t == s.RoomType
		}) {
			return false
		}
		for _, text := range []string{s.Name, s.Topic, s.CanonicalAlias} {
			if strings.Contains(strings.ToLower(text), term) {
				return true
			}
		}
		return term == ""
	}
}

// setTokens names the places before and after the page. A token is a letter for
// the direction, the members and the id of the room beside the place.
func (p *PublicRooms) setTokens(from publicPlace, more bool) {
	if len(p.Chunk) == 0 {
		return
	}
	if first := p.Chunk[0]; !from.first && (!from.up || more) {
		p.Prev = publicToken('p', first)
	}
	if last := p.Chunk[len(p.Chunk)-1]; from.up || more {
		p.Next = publicToken('n', last)
	}
}

func publicToken(direction byte, r PublicRoom) string {
	return string(direction) + strconv.FormatInt(r.Joined, 10) + "~" + string(r.Room)
}

func parsePublicToken(tx *store.Tx, token string) (p publicPlace, err error) {
	if token == "" {
		return publicPlace{joined: 1<<62 - 1, first: true}, nil
	}
	bad := errcode.InvalidParam("since is not a token of this list")
	joined, room, ok := strings.Cut(token[1:], "~")
	if !ok || token[0] != 'n' && token[0] != 'p' {
		return p, bad
	}
	p.up = token[0] == 'p'
	if p.joined, err = strconv.ParseInt(joined, 10, 64); err != nil {
		return p, bad
	}
	if p.room, ok, err = tx.Rooms.Find(id.Room(room)); err == nil && !ok {
		err = bad
	}
	return p, err
}
