package directory

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sync/errgroup"

	"hearth/matrix/event"
	"hearth/matrix/id"
	"hearth/remote"
	"hearth/store"
)

// toldSpace is a room with what it names, if it is a space.
type toldSpace struct {
	room     Summary
	children []child
	// rooms and inaccessible are what another server said of the children: of the
	// rooms that are no spaces all there is to know, and which of them this server's
	// users cannot get into.
	rooms        map[id.Room]*Summary
	inaccessible map[id.Room]bool
	weight       uint32
}

type toldKey struct {
	room      id.Room
	suggested bool
}

const (
	// cachedTold bounds what is kept of other servers' answers, in bytes.
	cachedTold = 8 << 20
	// toldTime is how long an answer is believed: long enough to page through a space.
	toldTime = time.Minute
	// maxAsked bounds the rooms that other servers are asked for in one request,
	// maxAskedVia the servers that are asked for one, askTime one answer, and askAllTime all
	// of them: who asks waits, and rather sees some rooms than none.
	maxAsked    = 100
	maxAskedVia = 3
	askTime     = 10 * time.Second
	askAllTime  = 15 * time.Second
	// askedAtOnce is how many rooms are asked for at the same time.
	askedAtOnce = 8
)

// askAhead asks for the rooms of a space at once that the page has yet room for.
func (w *walk) askAhead(ctx context.Context, steps []step) error {
	if w.directory.options.Remote == nil {
		return nil
	}
	var wanted []child
	err := w.directory.store.View(ctx, func(tx *store.Tx) error {
		for _, s := range steps {
			if len(wanted) > w.query.Limit-len(w.page) {
				return nil
			}
			nid, known, err := tx.Rooms.Find(s.room)
			if err != nil {
				return err
			}
			if known {
				if here, err := w.directory.resident(tx, nid); err != nil {
					return err
				} else if here {
					continue
				}
			}
			if s.told == nil {
				wanted = append(wanted, s.child)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	answers := make([]*toldSpace, len(wanted))
	var group errgroup.Group
	group.SetLimit(askedAtOnce)
	for i, c := range wanted {
		if !w.mayAsk() {
			break
		}
		group.Go(func() (err error) {
			answers[i], err = w.directory.askSpace(ctx, w.until, c, w.user, w.query.SuggestedOnly)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, c := range wanted {
		w.answers[c.room] = answers[i]
	}
	return nil
}

func (w *walk) mayAsk() bool {
	if w.asked++; w.asked == 1 {
		w.until = time.Now().Add(askAllTime)
	}
	return w.directory.options.Remote != nil && w.asked <= maxAsked
}

// ask asks other servers for a room, unless they were asked already; nil: they do not say.
func (w *walk) ask(ctx context.Context, c child) (*toldSpace, error) {
	if _, done := w.answers[c.room]; done || !w.mayAsk() {
		return nil, nil
	}
	return w.directory.askSpace(ctx, w.until, c, w.user, w.query.SuggestedOnly)
}

// askSpace asks servers one after the other for a room and what it names, until a time;
// nil: none of them says.
func (d *Directory) askSpace(ctx context.Context, until time.Time, c child, user id.User, suggestedOnly bool) (*toldSpace, error) {
	key := toldKey{c.room, suggestedOnly}
	if s, ok := d.told.GetIfPresent(key); ok {
		return s, nil
	}
	servers, err := d.serversFor(ctx, c.room, user, c.via)
	if err != nil {
		return nil, err
	}
	for _, server := range servers {
		if !time.Now().Before(until) {
			break
		}
		answer, err := d.askHierarchy(ctx, until, server, c.room, suggestedOnly)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil {
			slog.DebugContext(ctx, "a server did not tell of a room", "room", c.room, "server", server, "error", err)
			continue
		}
		s, ok := parseHierarchy(key, answer)
		if !ok {
			slog.DebugContext(ctx, "a server told of a room what makes no sense", "room", c.room, "server", server)
			continue
		}
		d.told.Set(key, s)
		return s, nil
	}
	return nil, nil
}

func (d *Directory) askHierarchy(ctx context.Context, until time.Time, server id.Server, room id.Room, suggestedOnly bool) (remote.Hierarchy, error) {
	ctx, cancel := context.WithTimeout(ctx, min(askTime, time.Until(until)))
	defer cancel()
	return d.options.Remote.GetHierarchy(ctx, server, room, suggestedOnly)
}

// serversFor are the servers that may know a room: those that told the user of it when they were
// invited or knocked, those that were named, those known to be in it, and the one that made it.
func (d *Directory) serversFor(ctx context.Context, room id.Room, user id.User, via []id.Server) (servers []id.Server, err error) {
	told, err := d.rooms.ToldBy(ctx, room, user)
	if err != nil {
		return nil, err
	}
	err = d.store.View(ctx, func(tx *store.Tx) error {
		known, _, err := d.residents(tx, room)
		servers = slices.Concat(told[:min(len(told), 1)], via, told, known)
		return err
	})
	servers = append(servers, room.Server()) // none in room version 12
	servers = slices.DeleteFunc(servers, func(s id.Server) bool { return s == "" || s == d.rooms.Server() })
	servers = bounded(servers)
	return servers[:min(len(servers), maxAskedVia)], err
}

// parseHierarchy reads what another server tells of a space.
// spec: server-server-api#get_matrixfederationv1hierarchyroomid
func parseHierarchy(key toldKey, answer remote.Hierarchy) (*toldSpace, bool) {
	s := &toldSpace{rooms: map[id.Room]*Summary{}, inaccessible: map[id.Room]bool{}}
	var ok bool
	if s.room, ok = parseSummary(answer.Room); !ok || s.room.Room != key.room {
		return nil, false
	}
	var links struct {
		Children []jsontext.Value `json:"children_state"`
	}
	if json.Unmarshal(answer.Room, &links) != nil {
		return nil, false
	}
	size := len(answer.Room)
	for _, raw := range links.Children {
		c, suggested, ok := parseStrippedChild(raw)
		if ok && s.room.RoomType == "m.space" && (suggested || !key.suggested) {
			s.children = append(s.children, c)
		}
	}
	slices.SortFunc(s.children, byOrder)
	for _, raw := range answer.Children {
		// What a space names is for servers in that space to say.
		if r, ok := parseSummary(raw); ok && r.RoomType != "m.space" {
			s.rooms[r.Room] = &r
			size += len(raw)
		}
	}
	for _, name := range answer.Inaccessible {
		s.inaccessible[id.Room(name)] = true
		size += len(name)
	}
	s.weight = uint32(2*size + 1000)
	return s, true
}

// parseSummary reads a room as another server summarizes it.
func parseSummary(raw jsontext.Value) (s Summary, ok bool) {
	if json.Unmarshal(raw, &s) != nil {
		return s, false
	}
	if s.PublicRoom, ok = parsePublicRoom(raw); !ok {
		return s, false
	}
	return s, true
}

// parseStrippedChild reads a link of a space and builds it anew.
func parseStrippedChild(raw jsontext.Value) (c child, suggested, ok bool) {
	var e struct {
		Type     string         `json:"type"`
		StateKey string         `json:"state_key"`
		Sender   string         `json:"sender"`
		TS       int64          `json:"origin_server_ts"`
		Content  jsontext.Value `json:"content"`
	}
	if json.Unmarshal(raw, &e) != nil || e.Type != event.TypeSpaceChild || e.Content.Kind() != '{' {
		return c, false, false
	}
	if _, err := id.ParseUser(e.Sender); err != nil {
		return c, false, false
	}
	if c, suggested, ok = parseChild(e.StateKey, e.Content); !ok {
		return c, false, false
	}
	b := event.AppendStringMember(nil, "type", e.Type)
	b = event.AppendStringMember(b, "state_key", e.StateKey)
	b = event.AppendStringMember(b, "sender", e.Sender)
	b = event.AppendMember(b, "content", e.Content)
	b = event.AppendMember(b, "origin_server_ts", strconv.AppendInt(nil, e.TS, 10))
	c.ts, c.stripped = e.TS, append(append([]byte{'{'}, b...), '}')
	return c, suggested, true
}
