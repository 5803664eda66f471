package directory

import (
	"context"

	"hearth/matrix/errcode"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// maxServers bounds the servers that an alias is answered with.
const maxServers = 50

// ResolveOwn finds the room of an alias of this server, and servers that are in it. A bridge
// may make the room when it is asked for.
// spec: server-server-api#get_matrixfederationv1querydirectory
func (d *Directory) ResolveOwn(ctx context.Context, alias id.Alias) (room id.Room, servers []id.Server, err error) {
	if alias.Server() != d.rooms.Server() {
		return "", nil, errcode.NotFound("%s is not an alias of this server", alias)
	}
	room, servers, err = d.findOwn(ctx, alias)
	if room != "" || err != nil || d.options.QueryAlias == nil {
		return room, servers, orNoRoom(alias, room, err)
	}
	made, err := d.options.QueryAlias(ctx, alias)
	if made && err == nil {
		room, servers, err = d.findOwn(ctx, alias)
	}
	return room, servers, orNoRoom(alias, room, err)
}

func orNoRoom(alias id.Alias, room id.Room, err error) error {
	if err == nil && room == "" {
		return errcode.NotFound("no room has the alias %s", alias)
	}
	return err
}

// findOwn finds the room of an alias that is known here; empty: there is none.
func (d *Directory) findOwn(ctx context.Context, alias id.Alias) (room id.Room, servers []id.Server, err error) {
	err = d.store.View(ctx, func(tx *store.Tx) error {
		a, ok, err := tx.Aliases.Get(alias)
		if err != nil || !ok {
			return err
		}
		room = a.Room
		servers, _, err = d.residents(tx, room)
		return err
	})
	return room, servers, err
}

// residents lists some servers in a room that is known here, this one first if it is
// one of them. A room that nobody is in is this server's to tell of, too.
func (d *Directory) residents(tx *store.Tx, room id.Room) (servers []id.Server, here bool, err error) {
	nid, ok, err := tx.Rooms.Find(room)
	if err != nil || !ok {
		return nil, false, err
	}
	nids, err := tx.RoomServers.OfRoom(nid)
	if err != nil {
		return nil, false, err
	}
	if here, err = d.resident(tx, nid); err != nil {
		return nil, false, err
	}
	if here || len(nids) == 0 {
		servers = append(servers, d.rooms.Server())
	}
	for _, s := range nids[:min(len(nids), maxServers)] {
		name, err := tx.IDs.ServerName(s)
		if err != nil {
			return nil, false, err
		}
		if name != d.rooms.Server() {
			servers = append(servers, name)
		}
	}
	return servers, here, nil
}

// resident says whether a user of this server is joined to a room, so that its state
// is known here.
func (d *Directory) resident(tx *store.Tx, room store.RoomNID) (bool, error) {
	locals, err := tx.Members.LocalJoined(room)
	return len(locals) > 0, err
}

// Space is a room with the rooms that it names, if it is a space, as far as another
// server may know of them.
// spec: server-server-api#get_matrixfederationv1hierarchyroomid
type Space struct {
	Room         HierarchyRoom   `json:"room"`
	Children     []HierarchyRoom `json:"children"`
	Inaccessible []id.Room       `json:"inaccessible_children"`
}

// Space answers another server that walks a space.
func (d *Directory) Space(ctx context.Context, server id.Server, root id.Room, suggestedOnly bool) (s Space, err error) {
	s.Children, s.Inaccessible = []HierarchyRoom{}, []id.Room{}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		row, top, err := d.shownTo(tx, server, root)
		if err != nil {
			return err
		}
		children, err := d.children(tx, row, top, suggestedOnly)
		if err != nil {
			return err
		}
		if len(children) > maxSpaceChildren {
			children = children[:maxSpaceChildren]
		}
		s.Room = HierarchyRoom{top, strippedChildren(children)}
		seen := map[id.Room]bool{root: true}
		for _, c := range children {
			if seen[c.room] {
				continue
			}
			seen[c.room] = true
			if err := d.addChild(tx, &s, server, c.room, suggestedOnly); err != nil {
				return err
			}
		}
		return nil
	})
	return s, err
}

// maxSpaceChildren bounds the rooms of a space that are told of.
const maxSpaceChildren = 500

// addChild adds a room of a space to what is told of it. Of rooms that are not known
// here nothing is said.
func (d *Directory) addChild(tx *store.Tx, s *Space, server id.Server, name id.Room, suggestedOnly bool) error {
	row, ok, err := tx.Rooms.Get(name)
	if err != nil || !ok {
		return err
	}
	summary, err := d.summary(tx, row)
	if err != nil {
		return err
	}
	resident, may, err := d.accessibleTo(tx, row, summary, server)
	if err != nil {
		return err
	}
	switch {
	case may:
		links, err := d.children(tx, row, summary, suggestedOnly)
		if err != nil {
			return err
		}
		s.Children = append(s.Children, HierarchyRoom{summary, strippedChildren(links)})
	case resident:
		s.Inaccessible = append(s.Inaccessible, name)
	}
	return nil
}

// shownTo reads a room that another server may know of.
func (d *Directory) shownTo(tx *store.Tx, server id.Server, name id.Room) (row store.Room, s Summary, err error) {
	unknown := errcode.NotFound("room %s is not known here, or not for your server to see", name)
	row, ok, err := tx.Rooms.Get(name)
	if err != nil || !ok {
		if err == nil {
			err = unknown
		}
		return row, s, err
	}
	if s, err = d.summary(tx, row); err != nil {
		return row, s, err
	}
	if _, may, err := d.accessibleTo(tx, row, s, server); err != nil || !may {
		if err == nil {
			err = unknown
		}
		return row, s, err
	}
	return row, s, nil
}

// accessibleTo says whether this server is in a room, so that it can tell, and
// whether another server may know of it: if any of its users may.
func (d *Directory) accessibleTo(tx *store.Tx, row store.Room, s Summary, server id.Server) (resident, may bool, err error) {
	locals, err := tx.Members.LocalJoined(row.NID)
	if err != nil || len(locals) == 0 {
		return false, false, err
	}
	v, ok := roomversion.Get(row.Version)
	switch {
	case !ok:
		return true, false, nil
	case s.WorldReadable, s.JoinRule == "public", s.JoinRule == "knock" && v.Knock, s.JoinRule == "knock_restricted" && v.KnockRestricted:
		return true, true, nil
	}
	nid, known, err := tx.IDs.FindServer(server)
	if err != nil || !known {
		return true, false, err
	}
	if in, err := tx.RoomServers.In(row.NID, nid); err != nil || in {
		return true, in, err
	}
	if invited, err := tx.Members.ServerInvited(row.NID, nid); err != nil || invited {
		return true, invited, err
	}
	for _, name := range s.AllowedRooms {
		allowed, ok, err := tx.Rooms.Find(name)
		if err != nil {
			return true, false, err
		}
		if !ok {
			continue
		}
		if in, err := tx.RoomServers.In(allowed, nid); err != nil || in {
			return true, in, err
		}
	}
	return true, false, nil
}
