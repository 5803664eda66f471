package directory

import (
	"context"
	"net/http"
	"slices"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/room"
	"hearth/store"
)

// Resolve finds the room that an alias names, and servers that are in it: this one
// first, if it is. Aliases of other servers are theirs to resolve.
// spec: client-server-api#get_matrixclientv3directoryroomroomalias
func (d *Directory) Resolve(ctx context.Context, alias id.Alias) (room id.Room, servers []id.Server, err error) {
	if alias.Server() == d.rooms.Server() {
		return d.ResolveOwn(ctx, alias)
	}
	room, servers, err = d.askAlias(ctx, alias)
	if err != nil {
		return "", nil, err
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		own, resident, err := d.residents(tx, room)
		if err == nil && resident {
			servers = append(own, servers...)
		}
		return err
	})
	return room, bounded(servers), err
}

// bounded are some of the servers, each once.
func bounded(servers []id.Server) []id.Server {
	unique := make([]id.Server, 0, min(len(servers), maxServers))
	for _, s := range servers {
		if len(unique) < maxServers && !slices.Contains(unique, s) {
			unique = append(unique, s)
		}
	}
	return unique
}

// SetAlias makes an alias for a room.
// spec: client-server-api#put_matrixclientv3directoryroomroomalias
func (d *Directory) SetAlias(ctx context.Context, alias id.Alias, room id.Room, user id.User) error {
	if alias.Server() != d.rooms.Server() {
		return errcode.InvalidParam("%s is of another server: aliases made here end in :%s", alias, d.rooms.Server())
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		if _, ok, err := tx.Rooms.Find(room); err != nil {
			return err
		} else if !ok {
			return errcode.NotFound("room %s is not known here", room)
		}
		ok, err := tx.Aliases.Insert(store.Alias{Alias: alias, Room: room, Creator: user})
		if err == nil && !ok {
			err = errcode.New(http.StatusConflict, "M_UNKNOWN", "alias %s is taken", alias)
		}
		return err
	})
}

// DeleteAlias takes an alias away. Its maker may do that, who may set the
// room's canonical alias, and administrators.
// spec: client-server-api#delete_matrixclientv3directoryroomroomalias
func (d *Directory) DeleteAlias(ctx context.Context, alias id.Alias, user id.User, admin bool) error {
	var a store.Alias
	err := d.store.View(ctx, func(tx *store.Tx) (err error) {
		var ok bool
		if a, ok, err = tx.Aliases.Get(alias); err == nil && !ok {
			err = errcode.NotFound("no room has the alias %s", alias)
		}
		return err
	})
	if err != nil {
		return err
	}
	if !admin && a.Creator != user {
		may, err := d.mayRename(ctx, a.Room, user)
		if err != nil {
			return err
		}
		if !may {
			return errcode.Forbidden("you did not make this alias, and your power level in its room does not let you delete it")
		}
	}
	if err := d.store.Update(ctx, func(tx *store.Tx) error { return tx.Aliases.Delete(alias) }); err != nil {
		return err
	}
	return d.rooms.DropCanonicalAlias(ctx, a.Room, alias, user)
}

func (d *Directory) mayRename(ctx context.Context, name id.Room, user id.User) (bool, error) {
	h, ok, err := d.rooms.Head(ctx, name)
	if err != nil || !ok {
		return false, err
	}
	return d.rooms.MaySetState(ctx, h, user, event.TypeCanonicalAlias)
}

// Aliases lists a room's aliases for somebody who may see it.
// spec: client-server-api#get_matrixclientv3roomsroomidaliases
func (d *Directory) Aliases(ctx context.Context, name id.Room, user id.User) (aliases []id.Alias, err error) {
	err = d.rooms.Look(ctx, name, user, "", func(tx *store.Tx, v *room.View) error {
		if !v.Joined() && !v.MaySeeNow() {
			return errcode.Forbidden("you are not in this room")
		}
		aliases, err = tx.Aliases.OfRoom(name)
		return err
	})
	return aliases, err
}

// Listed says whether a room is in the list of public rooms.
func (d *Directory) Listed(ctx context.Context, name id.Room) (listed bool, err error) {
	err = d.store.View(ctx, func(tx *store.Tx) error {
		row, ok, err := tx.Rooms.Get(name)
		if err == nil && !ok {
			err = errcode.NotFound("room %s is not known here", name)
		}
		listed = row.Public
		return err
	})
	return listed, err
}

// SetListed puts a room in the list of public rooms or takes it off. Who may
// set the room's canonical alias may do that.
// spec: client-server-api#put_matrixclientv3directorylistroomroomid
func (d *Directory) SetListed(ctx context.Context, name id.Room, user id.User, admin, listed bool) error {
	h, ok, err := d.rooms.Head(ctx, name)
	if err != nil {
		return err
	}
	if !ok {
		return errcode.NotFound("room %s is not known here", name)
	}
	may, err := d.rooms.MaySetState(ctx, h, user, event.TypeCanonicalAlias)
	if err != nil {
		return err
	}
	if !may && !admin {
		return errcode.Forbidden("your power level does not let you list this room")
	}
	return d.store.Update(ctx, func(tx *store.Tx) error { return tx.Rooms.SetPublic(h.NID, listed) })
}

// SetListedIn puts a room in the list of a network that an application service bridges
// to, or takes it off.
// spec: client-server-api#put_matrixclientv3directorylistappservicenetworkidroomid
func (d *Directory) SetListedIn(ctx context.Context, service, network string, name id.Room, listed bool) error {
	if len(network) > id.MaxLength {
		return errcode.InvalidParam("the id of the network is longer than %d bytes", id.MaxLength)
	}
	return d.store.Update(ctx, func(tx *store.Tx) error {
		nid, ok, err := tx.Rooms.Find(name)
		if err != nil {
			return err
		}
		if !ok {
			return errcode.NotFound("room %s is not known here", name)
		}
		return tx.Appservices.SetListed(service, network, nid, listed)
	})
}

// CheckCanonicalAlias refuses a canonical alias event that names aliases which
// are not this room's. Aliases of the present event may stay, gone or not.
// spec: client-server-api#put_matrixclientv3roomsroomidstateeventtypestatekey
func (d *Directory) CheckCanonicalAlias(ctx context.Context, name id.Room, content jsontext.Value) error {
	fresh, err := aliasesIn(content)
	if err != nil {
		return err
	}
	h, ok, err := d.rooms.Head(ctx, name)
	if err != nil || !ok {
		return err
	}
	return d.store.View(ctx, func(tx *store.Tx) error {
		var before []id.Alias
		old, ok, err := d.rooms.StateEvent(tx, h, event.StateTuple{Type: event.TypeCanonicalAlias})
		if err != nil {
			return err
		}
		if ok {
			before, _ = aliasesIn(old.PDU.Content) // what is there may be malformed; then it names none
		}
		for _, alias := range fresh {
			if slices.Contains(before, alias) {
				continue
			}
			a, ok, err := tx.Aliases.Get(alias)
			if err != nil {
				return err
			}
			if !ok || a.Room != name {
				return errcode.New(http.StatusBadRequest, "M_BAD_ALIAS", "alias %s does not name this room", alias)
			}
		}
		return nil
	})
}

// aliasesIn are the aliases that a canonical alias event names.
func aliasesIn(content jsontext.Value) ([]id.Alias, error) {
	var c struct {
		Alias *string  `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, errcode.BadJSON("%v", err)
	}
	if c.Alias != nil && *c.Alias != "" {
		c.Alt = append(c.Alt, *c.Alias)
	}
	aliases := make([]id.Alias, 0, len(c.Alt))
	for _, s := range c.Alt {
		a, err := id.ParseAlias(s)
		if err != nil {
			return nil, errcode.InvalidParam("%v", err)
		}
		aliases = append(aliases, a)
	}
	return aliases, nil
}
