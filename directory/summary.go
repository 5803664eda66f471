package directory

import (
	"context"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"hearth/matrix/errcode"
	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/matrix/roomversion"
	"hearth/store"
)

// PublicRoom is a room as the list of public rooms shows it.
// spec: client-server-api#get_matrixclientv3publicrooms
type PublicRoom struct {
	Room           id.Room `json:"room_id"`
	Name           string  `json:"name,omitzero"`
	Topic          string  `json:"topic,omitzero"`
	CanonicalAlias string  `json:"canonical_alias,omitzero"`
	AvatarURL      string  `json:"avatar_url,omitzero"`
	Joined         int64   `json:"num_joined_members"`
	WorldReadable  bool    `json:"world_readable"`
	GuestCanJoin   bool    `json:"guest_can_join"`
	JoinRule       string  `json:"join_rule"`
	RoomType       string  `json:"room_type,omitzero"`
}

// Summary is what somebody may know of a room before they join it.
// spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
type Summary struct {
	PublicRoom
	Encryption   string    `json:"encryption,omitzero"`
	Version      string    `json:"room_version,omitzero"`
	AllowedRooms []id.Room `json:"allowed_room_ids,omitempty"`
}

// summarized is a summary in memory, good for one version of the room's state.
type summarized struct {
	version int64
	summary Summary
}

// cachedSummaries bounds the summaries in memory, of some 500 bytes each.
const cachedSummaries = 10_000

// summary reads what a room says of itself.
func (d *Directory) summary(tx *store.Tx, row store.Room) (Summary, error) {
	cached, ok := d.summaries.GetIfPresent(row.NID)
	if !ok || cached.version != row.StateVersion {
		s, err := d.summarize(tx, row)
		if err != nil {
			return s, err
		}
		cached = summarized{row.StateVersion, s}
		d.summaries.Set(row.NID, cached)
	}
	cached.summary.Joined = row.Joined
	return cached.summary, nil
}

func (d *Directory) summarize(tx *store.Tx, row store.Room) (Summary, error) {
	s := Summary{PublicRoom: PublicRoom{Room: row.ID, JoinRule: "invite"}, Version: row.Version}
	for typ, fill := range map[string]func(*event.PDU){
		event.TypeCreate:         func(p *event.PDU) { s.RoomType = p.ContentString("type") },
		event.TypeName:           func(p *event.PDU) { s.Name = p.ContentString("name") },
		event.TypeTopic:          func(p *event.PDU) { s.Topic = plainTopic(p.Content) },
		event.TypeAvatar:         func(p *event.PDU) { s.AvatarURL = p.ContentString("url") },
		event.TypeEncryption:     func(p *event.PDU) { s.Encryption = p.ContentString("algorithm") },
		event.TypeCanonicalAlias: func(p *event.PDU) { s.CanonicalAlias = canonicalAlias(p) },
		event.TypeGuestAccess:    func(p *event.PDU) { s.GuestCanJoin = p.ContentString("guest_access") == "can_join" },
		event.TypeHistoryVisibility: func(p *event.PDU) {
			s.WorldReadable = p.ContentString("history_visibility") == "world_readable"
		},
		event.TypeJoinRules: func(p *event.PDU) { s.JoinRule, s.AllowedRooms = joinRule(p, row.Version) },
	} {
		ev, err := d.rooms.StateNow(tx, row, event.StateTuple{Type: typ})
		if err != nil {
			return s, err
		}
		if ev != nil {
			fill(ev.PDU)
		}
	}
	return s, nil
}

// canonicalAlias is the alias of an m.room.canonical_alias, if it is one.
func canonicalAlias(p *event.PDU) string {
	alias := p.ContentString("alias")
	if _, err := id.ParseAlias(alias); err != nil {
		return ""
	}
	return alias
}

// plainTopic is the topic without markup.
// spec: client-server-api#mroomtopic
func plainTopic(content jsontext.Value) string {
	var c struct {
		Topic    jsontext.Value `json:"topic"`
		Extended jsontext.Value `json:"m.topic"`
	}
	var block struct {
		Text []struct {
			Body string `json:"body"`
			Type string `json:"mimetype"`
		} `json:"m.text"`
	}
	var topic string
	if json.Unmarshal(content, &c) != nil {
		return ""
	}
	if c.Extended != nil && json.Unmarshal(c.Extended, &block) == nil {
		for _, t := range block.Text {
			if t.Type == "" || t.Type == "text/plain" {
				return t.Body
			}
		}
	}
	if c.Topic != nil && json.Unmarshal(c.Topic, &topic) != nil {
		return ""
	}
	return topic
}

// joinRule is who may join, and the rooms whose members may.
func joinRule(p *event.PDU, version string) (rule string, allowed []id.Room) {
	var c struct {
		Rule  string `json:"join_rule"`
		Allow []struct {
			Type string `json:"type"`
			Room string `json:"room_id"`
		} `json:"allow"`
	}
	if json.Unmarshal(p.Content, &c) != nil || c.Rule == "" {
		return "invite", nil
	}
	v, ok := roomversion.Get(version)
	if !ok || c.Rule != "restricted" && c.Rule != "knock_restricted" {
		return c.Rule, nil
	}
	if !v.RestrictedJoins || c.Rule == "knock_restricted" && !v.KnockRestricted {
		return c.Rule, nil // means nothing in this version
	}
	for _, a := range c.Allow {
		if room, err := id.ParseRoom(a.Room); err == nil && a.Type == "m.room_membership" {
			allowed = append(allowed, room)
		}
	}
	return c.Rule, allowed
}

// accessible says whether a user (0: somebody unknown) may know of a room: who is
// in it, may join or ask to, or may read it anyway. room is 0 if it is not known here.
// spec: client-server-api#get_matrixclientv1roomsroomidhierarchy
func (d *Directory) accessible(tx *store.Tx, room store.RoomNID, s Summary, user store.UserNID) (bool, error) {
	if s.WorldReadable {
		return true, nil
	}
	m, _, err := tx.Members.Get(room, user)
	if err != nil {
		return false, err
	}
	switch m.Membership {
	case store.Join, store.Invite:
		return true, nil
	case store.Ban:
		return false, nil
	}
	// Not all servers tell the version of a room; then its rule means what it says.
	v, ok := roomversion.Get(s.Version)
	switch s.JoinRule {
	case "public":
		return true, nil
	case "knock":
		if !ok || v.Knock {
			return true, nil
		}
	case "knock_restricted":
		if !ok || v.KnockRestricted {
			return true, nil
		}
	}
	for _, allowed := range s.AllowedRooms {
		nid, ok, err := tx.Rooms.Find(allowed)
		if err != nil {
			return false, err
		}
		if !ok {
			continue
		}
		if joined, err := tx.Members.Joined(nid, user); err != nil || joined {
			return joined, err
		}
	}
	return false, nil
}

// mayKnow says whether a user may know of a room of which another server told.
func (d *Directory) mayKnow(ctx context.Context, s Summary, user id.User) (ok bool, err error) {
	err = d.store.View(ctx, func(tx *store.Tx) error {
		room, _, err := tx.Rooms.Find(s.Room)
		if err != nil {
			return err
		}
		nid, err := reader(tx, user)
		if err != nil {
			return err
		}
		ok, err = d.accessible(tx, room, s, nid)
		return err
	})
	return ok, err
}

// RoomSummary is a room's summary with the reader's membership.
type RoomSummary struct {
	Summary
	Membership string `json:"membership,omitzero"`
}

// Summary summarizes a room for somebody who may know of it; user may be empty. If
// this server is not in the room, those of via are asked, but only for its users.
// spec: client-server-api#get_matrixclientv1room_summaryroomidoralias
func (d *Directory) Summary(ctx context.Context, name id.Room, user id.User, via []id.Server) (s RoomSummary, err error) {
	w := &walk{directory: d, user: user}
	if user == "" {
		w.asked = maxAsked
	}
	found, ok, err := w.visit(ctx, step{child: child{room: name, via: via}})
	if err != nil {
		return s, err
	}
	if !ok {
		return s, errcode.NotFound("room %s is not known here, or not for you to see", name)
	}
	s.Summary = found.room
	err = d.store.View(ctx, func(tx *store.Tx) error {
		room, _, err := tx.Rooms.Find(name)
		if err != nil {
			return err
		}
		nid, err := reader(tx, user)
		if err != nil {
			return err
		}
		m, _, err := tx.Members.Get(room, nid)
		s.Membership = m.Membership.String()
		return err
	})
	return s, err
}

// reader is the number of who reads; 0: somebody who was never in any room.
func reader(tx *store.Tx, user id.User) (store.UserNID, error) {
	if user == "" {
		return 0, nil
	}
	nid, _, err := tx.IDs.FindUser(user)
	return nid, err
}
