package directory

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/store"
)

// Person is somebody whom a search found.
type Person struct {
	User        id.User `json:"user_id"`
	DisplayName string  `json:"display_name,omitzero"`
	AvatarURL   string  `json:"avatar_url,omitzero"`

	rank int
	met  bool // shares a room with the searcher
}

// People is what a search for people found.
type People struct {
	Results []Person `json:"results"`
	Limited bool     `json:"limited"`
}

// MaxPeople bounds the people that one search returns, maxMatches those that it compares.
const (
	MaxPeople  = 50
	maxMatches = 2000
)

// SearchPeople finds users whose id or display name has all words of the term, among
// those whom the searcher could meet in rooms: those who share one, and of the local
// ones those in rooms that are open to everybody. The searcher is found where nobody else
// is. Names that local users bear only in
// some room are not looked at: they may be private. Those of other servers go by the
// names that the searcher sees in the rooms they share.
// spec: client-server-api#post_matrixclientv3user_directorysearch
func (d *Directory) SearchPeople(ctx context.Context, searcher id.User, term string, limit int) (found People, err error) {
	found.Results = []Person{}
	words := strings.Fields(strings.ToLower(term))
	if d.options.HideUsers || len(words) == 0 {
		return found, nil
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		self, err := reader(tx, searcher)
		if err != nil {
			return err
		}
		matches, err := matchPeople(tx, words)
		if err != nil {
			return err
		}
		strangers, err := d.matchStrangers(tx, self, words)
		if err != nil {
			return err
		}
		matches = append(matches, strangers...)
		slices.SortFunc(matches, func(a, b Person) int {
			return cmp.Or(cmp.Compare(b.rank, a.rank), cmp.Compare(a.User, b.User))
		})
		own := Person{}
		for _, p := range matches {
			if p.User == searcher {
				own = p
				continue
			}
			if !p.met {
				if ok, err := d.mayMeet(tx, self, p.User); err != nil {
					return err
				} else if !ok {
					continue
				}
			}
			if len(found.Results) == limit {
				found.Limited = true
				return nil
			}
			found.Results = append(found.Results, p)
		}
		if own.User == "" || len(found.Results) > 0 {
			return nil
		}
		ok, err := d.mayMeet(tx, self, own.User)
		if ok {
			found.Results = append(found.Results, own)
		}
		return err
	})
	return found, err
}

// matchPeople finds the accounts that have all words.
func matchPeople(tx *store.Tx, words []string) (matches []Person, err error) {
	err = tx.Users.EachProfile(func(u id.User, p store.Profile) error {
		if len(matches) == maxMatches {
			return nil
		}
		if rank := rankOf(u, p.DisplayName, words); rank > 0 {
			matches = append(matches, Person{User: u, DisplayName: p.DisplayName, AvatarURL: p.AvatarURL, rank: rank})
		}
		return nil
	})
	return matches, err
}

// maxStrangers bounds the memberships of users of other servers that a search looks at.
const maxStrangers = 5000

// matchStrangers finds the users of other servers that have all words, in the rooms of
// the searcher; in the smaller ones first, where people know each other.
func (d *Directory) matchStrangers(tx *store.Tx, self store.UserNID, words []string) (matches []Person, err error) {
	rooms, err := roomsBySize(tx, self)
	if err != nil {
		return nil, err
	}
	seen := map[store.UserNID]bool{}
	for left := int64(maxStrangers); len(rooms) > 0 && rooms[0].Joined <= left; rooms = rooms[1:] {
		left -= rooms[0].Joined
		members, err := tx.Members.OfRoom(rooms[0].NID)
		if err != nil {
			return nil, err
		}
		var nids []store.EventNID
		for _, m := range members {
			if m.Membership == store.Join && !m.Local && !seen[m.User] {
				seen[m.User] = true
				nids = append(nids, m.Event)
			}
		}
		events, err := d.rooms.Events(tx, nids)
		if err != nil {
			return nil, err
		}
		for _, ev := range events {
			p := Person{User: id.User(*ev.PDU.StateKey), DisplayName: ev.PDU.ContentString("displayname"), AvatarURL: ev.PDU.ContentString("avatar_url"), met: true}
			if p.rank = rankOf(p.User, p.DisplayName, words); p.rank > 0 {
				matches = append(matches, p)
			}
		}
	}
	return matches, nil
}

// roomsBySize are the rooms that a user is in, the smallest first.
func roomsBySize(tx *store.Tx, user store.UserNID) (rooms []store.Room, err error) {
	nids, err := tx.Members.RoomsOf(user, store.Join)
	if err != nil {
		return nil, err
	}
	for _, nid := range nids {
		row, ok, err := tx.Rooms.GetNID(nid)
		if err != nil {
			return nil, err
		}
		if ok {
			rooms = append(rooms, row)
		}
	}
	slices.SortFunc(rooms, func(a, b store.Room) int { return cmp.Or(cmp.Compare(a.Joined, b.Joined), cmp.Compare(a.NID, b.NID)) })
	return rooms, nil
}

// rankOf says how well a user fits: 0 not at all, more where a word begins a
// name, and a little for those who have a profile.
func rankOf(u id.User, name string, words []string) int {
	user, name := strings.ToLower(string(u)), strings.ToLower(name)
	rank := 1
	for _, w := range words {
		switch {
		case w == user, w == name, w == id.User(user).Localpart():
			rank += 8
		case strings.HasPrefix(name, w), strings.HasPrefix(strings.TrimPrefix(user, "@"), strings.TrimPrefix(w, "@")):
			rank += 4
		case strings.Contains(name, w), strings.Contains(user, w):
			rank += 2
		default:
			return 0
		}
	}
	if name != "" {
		rank++
	}
	return rank
}

// mayMeet says whether a user shares a room with another or could find them in one open to everybody.
func (d *Directory) mayMeet(tx *store.Tx, self store.UserNID, other id.User) (bool, error) {
	if d.options.AllUsers {
		return true, nil
	}
	nid, ok, err := tx.IDs.FindUser(other)
	if err != nil || !ok {
		return false, err
	}
	if share, err := tx.Members.ShareRoom(self, nid); err != nil || share {
		return share, err
	}
	rooms, err := tx.Members.RoomsOf(nid, store.Join)
	if err != nil {
		return false, err
	}
	for _, r := range rooms {
		row, ok, err := tx.Rooms.GetNID(r)
		if err != nil || !ok {
			return false, err
		}
		s, err := d.summary(tx, row)
		if err != nil {
			return false, err
		}
		if s.JoinRule == "public" || s.WorldReadable {
			return true, nil
		}
	}
	return false, nil
}

// MutualRooms is a page of the rooms that two users share.
type MutualRooms struct {
	Joined []id.Room `json:"joined"`
	Count  int       `json:"count"`
	Next   string    `json:"next_batch,omitzero"`
}

// maxMutual bounds a page of mutual rooms.
const maxMutual = 100

// MutualRooms lists the rooms to which a local user and another are joined. A
// token is the last room before the page.
// spec: client-server-api#get_matrixclientv1mutual_rooms
func (d *Directory) MutualRooms(ctx context.Context, user, other id.User, from string) (page MutualRooms, err error) {
	page.Joined = []id.Room{}
	if user == other {
		return page, errcode.InvalidParam("user_id is your own")
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		after, err := mutualPlace(tx, from)
		if err != nil {
			return err
		}
		a, err := reader(tx, user)
		if err != nil {
			return err
		}
		b, err := reader(tx, other)
		if err != nil || a == 0 || b == 0 {
			return err
		}
		shared, err := tx.Members.SharedRooms(a, b)
		if err != nil {
			return err
		}
		page.Count = len(shared)
		for _, nid := range shared {
			if nid <= after {
				continue
			}
			if len(page.Joined) == maxMutual {
				page.Next = string(page.Joined[maxMutual-1])
				return nil
			}
			name, err := tx.Rooms.ID(nid)
			if err != nil {
				return err
			}
			page.Joined = append(page.Joined, name)
		}
		return nil
	})
	return page, err
}

func mutualPlace(tx *store.Tx, from string) (store.RoomNID, error) {
	if from == "" {
		return 0, nil
	}
	nid, ok, err := tx.Rooms.Find(id.Room(from))
	if err == nil && !ok {
		err = errcode.InvalidParam("from is not a token of this list")
	}
	return nid, err
}
